"""`/v1/streams/{name}/strange`: the last images that raised the drift score, with both answers to each."""

import asyncio
import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter
from PIL import Image

from tta_server.api.answers import returns
from tta_server.api.bodies import StreamPath
from tta_server.api.compare import two_answers
from tta_server.api.drift_answers import StrangeImages
from tta_server.runtime.commands.compare_commands import Beside
from tta_server.runtime.served import Served, find
from tta_server.streams.strange import StrangeImage
from tta_server.streams.window import Images


def router(models: Mapping[str, Served]) -> APIRouter:
    """Return the route.

    Args:
        models: What is served; the first is meant here.
    """
    routes = APIRouter(prefix="/v1/streams/{name}/strange", tags=["drift"])
    served = find(models)

    @routes.get("", **returns(StrangeImages, 400, 404, 501))
    async def read_strange_images(name: StreamPath) -> dict[str, Any]:
        """Read the images that raised the score last, newest first, and what both models say of each now.

        They are kept only where `drift.keep_images` says so, in memory, until the stream is reset, erased or moved to
        disk. Nothing is learnt from asking, and nothing is counted.
        """
        found = await served.command(name, lambda c: c.drift.strange(name))
        return {"stream": name, "images": await asyncio.to_thread(_described, found, served.model.labels)}

    return routes


def _described(found: Sequence[tuple[StrangeImage, Beside]], labels: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "time": kept.time,
            "distance": kept.distance,
            "png": base64.b64encode(_png(kept.image)).decode(),
            **two_answers(beside, labels),
        }
        for kept, beside in reversed(found)
    ]


def _png(image: Images) -> bytes:
    """Return an image (1, C, H, W) as a PNG file; of two channels or more than three the first one or three."""
    levels = image[0] if image.dtype == np.uint8 else (image[0].clip(0, 1) * 255).round().astype(np.uint8)
    shown = levels[:3].transpose(1, 2, 0) if len(levels) >= 3 else levels[0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shown)).save(file, "PNG")
    return file.getvalue()
