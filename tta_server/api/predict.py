"""`POST /predict`: image files in, labels out."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request, Response

from tta_server.api.answers import Predictions, returns
from tta_server.api.caller import Callers, hung_up
from tta_server.api.front.permission import key_of, take
from tta_server.api.front.request_id import REQUEST_HEADER, request_id_of
from tta_server.api.reading import base64_files
from tta_server.api.reading.encoding import body_of, compressed
from tta_server.api.reading.multipart import boundary_of, files
from tta_server.api.stream_id import STREAM_HEADER, stream_of
from tta_server.errors import BadRequest
from tta_server.runtime.answer import Question, answer
from tta_server.runtime.images.codec import FORMATS, Upload
from tta_server.runtime.images.decoding import TINY_BYTES
from tta_server.runtime.job import Answer
from tta_server.runtime.result import result_of
from tta_server.runtime.served import Served, find

T = TypeVar("T")

_NOTHING = (
    "no image in the request; send one or several files as multipart/form-data or as base64 in JSON, or one as the body"
)

_FILE: dict[str, Any] = {"type": "string", "format": "binary"}
IMAGES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "title": "ImageFiles",
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": _FILE}},
                }
            },
            "application/json": {"schema": base64_files.SCHEMA},
            **{f"image/{name.lower()}": {"schema": _FILE} for name in FORMATS},
        },
    }
}
"""What the OpenAPI document says of a body of image files."""


async def uploads(request: Request, max_images: int, quick: Executor) -> tuple[Upload, ...]:
    """Return the image files of a request.

    Args:
        request: Its body is read.
        max_images: Most files that it may have.
        quick: Where more than a little is read of base64 or a form, so that others are served meanwhile.

    Raises:
        BadRequest: If there is none, or there are too many.
    """
    body = await body_of(request)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        sent = await _read(quick, base64_files.files, body, max_images)
        return tuple(Upload(f"image {place} of {len(sent)}", data) for place, data in enumerate(sent, 1))
    if kind != "multipart/form-data":
        if not body:
            raise BadRequest(_NOTHING)
        return (Upload("the body", body),)
    parts = await _read(quick, files, body, boundary_of(content_type), max_images)
    if not parts:
        raise BadRequest(_NOTHING)
    names = [f"image {place} of {len(parts)} ('{part.file_name[:80]}')" for place, part in enumerate(parts, 1)]
    return tuple(Upload(name, part.data) for name, part in zip(names, parts, strict=True))


async def _read(quick: Executor, read: Callable[..., list[T]], body: bytes, *more: object) -> list[T]:
    """Read a body where that takes little time, else on another thread."""
    if len(body) <= TINY_BYTES:
        return read(body, *more)
    return await result_of(quick.submit(read, body, *more))


def router(models: Mapping[str, Served], callers: Callers) -> APIRouter:
    """Return the route.

    Args:
        models: What is served; the first answers here.
        callers: Knows who sent a request.
    """
    routes = APIRouter(tags=["predict"])
    served = find(models)
    labels = served.model.labels
    declared = returns(Predictions, 400, 413, 415, 429, 503)

    extra = IMAGES | {"parameters": [STREAM_HEADER, REQUEST_HEADER]}

    @routes.post("/predict", openapi_extra=extra, **declared, summary="Classify one or several images")
    async def predict(request: Request, top_k: int = min(5, len(labels))) -> Response:
        """Classify image files (JPEG, PNG, WebP, TIFF, BMP, AVIF).

        Several come as multipart/form-data, or as base64 in JSON; one may be the body.
        The header `X-Stream-Id` names the stream; without it the stream is `default`. The header `X-Request-Id` names
        the request for labels that come later; without it the server makes one up. `top_k` limits the classes that are
        listed for each image.
        """
        request_id = request_id_of(request)
        if not 1 <= top_k <= len(labels):
            raise BadRequest(f"top_k is {top_k}, expected 1 to {len(labels)}")
        stream = stream_of(request.headers.get("x-stream-id"))
        key_of(request).expect_streams(stream)
        served.engine.refuse_if_full()
        sent = await uploads(request, served.engine.max_rows, served.decoding.quick)
        take(request, len(sent))
        asked = Question(stream, sent, callers.client(request), request_id)
        body = _encode(served, asked, await answer(served, asked, hung_up(request)), top_k)
        return await compressed(request, Response(body, media_type="application/json"))

    return routes


def _encode(served: Served, asked: Question, found: Answer, top_k: int) -> bytes:
    labels = served.model.labels
    domains = found.domains or [None] * len(found.probabilities)
    order = (-found.probabilities).argsort(1, kind="stable")[:, :top_k]
    body = {
        "model": served.name,
        "request_id": asked.request_id,
        "stream": found.stream,
        "state_version": found.version,
        "adapted": found.adapted,
        "predictions": [
            {
                "label": labels[best[0]],
                "domain": domain,
                "entropy_nats": entropy,
                "top": [{"label": labels[i], "index": i, "probability": row[i]} for i in best],
            }
            for row, best, entropy, domain in zip(found.probabilities, order, found.entropy_nats, domains, strict=True)
        ],
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
