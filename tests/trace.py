"""Trace one request and one step through a server: which of the project's files are entered, and how many calls.

    python -m tests.trace            # the totals
    python -m tests.trace --files    # and each file with its calls

The embedded model answers one PNG over ASGI, in this process; then one full window is learnt from, with the guard on,
the canary read and the state written to disk.
Calls are those of Python functions in the project's own files, generated ones such as dataclasses' left out.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from PIL import Image

from tta_server.app import build
from tta_server.evaluate.corruptions import corrupt
from tta_server.models import glyphs
from tta_server.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("tta_server", "adapters", "models")
WINDOW = 16
_SETTLED_S = 3.0  # by then a step has been taken and its state written


class Trace:
    """Count calls of functions in the project's files, on every thread, while it is on."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.on = False

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if not self.on or event != "call" or frame.f_code.co_name.startswith("<"):
            return
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in ROOMS:
            self.calls[str(file.relative_to(ROOT))] += 1

    def take(self) -> Counter[str]:
        taken, self.calls = self.calls, Counter()
        return taken


async def trace(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Return the calls of one request that is answered alone, and of one step on a window; states go to `folder`."""
    tracer = Trace()
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    settings = Settings(
        engine={"window_rows": WINDOW},
        guard={"canary_every": 1},
        storage={"url": str(folder), "save_every_s": 0.1},
    )
    service = build(settings)
    images = corrupt(glyphs.images("test")[0][: 3 * WINDOW], "gaussian_noise", 5)
    async with service.app.router.lifespan_context(service.app):
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            await _ask(client, images[:WINDOW])  # a domain that has learnt
            await asyncio.sleep(_SETTLED_S)
            for image in images[WINDOW:-2]:
                await _ask(client, [image])
            await asyncio.sleep(_SETTLED_S)
            tracer.on = True
            await _ask(client, images[-2:-1])
            await asyncio.sleep(0.2)  # what the device thread does once the answer is out
            tracer.on = False
            request = tracer.take()
            tracer.on = True
            await _ask(client, images[-1:])
            await asyncio.sleep(_SETTLED_S)
            tracer.on = False
            both = tracer.take()
    sys.setprofile(None)
    threading.setprofile(None)  # type: ignore[arg-type]
    both.subtract(request)
    return request, +both


async def _ask(client: httpx.AsyncClient, images: Sequence[Any]) -> None:
    files = [("image", (f"{place}.png", _png(image))) for place, image in enumerate(images)]
    answer = await client.post("/predict", files=files, headers={"X-Stream-Id": "gate-7"})
    answer.raise_for_status()


def _png(image: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def main() -> None:
    """Print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list each file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counted = asyncio.run(trace(Path(folder)))
    for what, calls in zip(("request", "step"), counted, strict=True):
        print(f"{what}: {len(calls)} files entered, {sum(calls.values())} calls")
        if options.files:
            for file, count in sorted(calls.items()):
                print(f"  {count:4} {file}")


if __name__ == "__main__":
    main()
