"""`POST /predict`: image files in, labels out."""

from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from starlette.datastructures import UploadFile

from tta_server.api.caller import Callers
from tta_server.api.codec import Upload
from tta_server.api.decoding import Decoding
from tta_server.api.request_id import request_id_of
from tta_server.api.responses import refusals
from tta_server.api.stream_id import stream_of
from tta_server.api.waiting import answered
from tta_server.errors import BadRequest
from tta_server.runtime.answerer import Answer
from tta_server.runtime.engine import Engine

_NOTHING = "no image in the request; send one or several files as multipart/form-data, or one image as the body"

_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def router(
    engine: Engine, model: str, labels: tuple[str, ...], decoding: Decoding, max_images: int, callers: Callers
) -> APIRouter:
    """Return the route.

    Args:
        engine: Who answers.
        model: Name of the model, echoed in the answer.
        labels: Name of each class.
        decoding: From files to images.
        max_images: Most images in a request.
        callers: Knows who sent a request.
    """
    routes = APIRouter(tags=["predict"])

    refused = refusals(400, 413, 415, 429, 503)

    @routes.post("/predict", openapi_extra=_OPENAPI, responses=refused, summary="Classify one or several images")
    async def predict(request: Request, top_k: int = min(5, len(labels))) -> Response:
        """Classify JPEG or PNG files: several as multipart/form-data, or one as the body.

        The header `X-Stream-Id` names the stream; without it the stream is `default`. The header `X-Request-Id` names
        the request for labels that come later; without it the server makes one up. `top_k` limits the classes that are
        listed for each image.
        """
        request_id = request_id_of(request)
        if not 1 <= top_k <= len(labels):
            raise BadRequest(f"top_k is {top_k}, expected 1 to {len(labels)}")
        stream = stream_of(request.headers.get("x-stream-id"))
        engine.expect_room(1)  # a body that will be refused need not be read
        uploads = await _uploads(request, max_images)
        images = await decoding.decode(uploads)
        answer = await answered(request, engine.submit(stream, images, callers.client(request), request_id))
        about = {"model": model, "request_id": request_id, **_about(answer)}
        body = about | {"predictions": _predictions(answer, labels, top_k)}
        return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    return routes


async def _uploads(request: Request, max_images: int) -> list[Upload]:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        body = await request.body()
        if not body:
            raise BadRequest(_NOTHING)
        return [Upload("the body", body)]
    async with request.form(max_files=max_images, max_fields=100) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise BadRequest(_NOTHING)
        count = len(files)
        names = [f"image {i} of {count} ('{(file.filename or '')[:80]}')" for i, file in enumerate(files, 1)]
        return [Upload(name, await file.read()) for name, file in zip(names, files, strict=True)]


def _about(answer: Answer) -> dict[str, Any]:
    return {"stream": answer.stream, "state_version": answer.version, "adapted": answer.adapted}


def _predictions(answer: Answer, labels: tuple[str, ...], top_k: int) -> list[dict[str, Any]]:
    order = np.argsort(-answer.probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        {
            "label": labels[best[0]],
            "entropy_nats": entropy,
            "top": [{"label": labels[i], "index": i, "probability": row[i]} for i in best],
        }
        for row, best, entropy in zip(answer.probabilities, order, answer.entropy_nats, strict=True)
    ]
