"""The Open Inference Protocol v2 over JSON: server, model and health metadata, and inference.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md.
Differs: an output's data is flat, and health answers carry KServe's bodies.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request, Response

from tta_server.api.caller import Callers
from tta_server.api.constant import refuse_constant
from tta_server.api.request_id import request_id_of
from tta_server.api.responses import refusals
from tta_server.api.stream_id import stream_of
from tta_server.api.tensors import INPUT, InferRequest, parse
from tta_server.api.waiting import answered
from tta_server.errors import BadRequest, NotFound
from tta_server.runtime.answerer import Answer
from tta_server.runtime.engine import Engine
from tta_server.settings import LimitsSettings

VERSION = "1"
_OUTPUTS = ("probabilities", "label")

_OPENAPI: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}


def router(
    engine: Engine,
    model: str,
    server_version: str,
    input_shape: tuple[int, int, int],
    labels: tuple[str, ...],
    max_rows: int,
    limits: LimitsSettings,
    callers: Callers,
) -> APIRouter:
    """Return the routes under /v2.

    Args:
        engine: Who answers.
        model: Name of the one model.
        server_version: Version of this server.
        input_shape: (C, H, W) of one image.
        labels: Name of each class.
        max_rows: Most images in a request.
        limits: What an image may be.
        callers: Knows who sent a request.
    """
    routes = APIRouter(tags=["open inference protocol"])

    def known(name: str, version: str = VERSION) -> None:
        if name != model:
            raise NotFound(f"unknown model '{name}'; this server has '{model}'")
        if version != VERSION:
            raise NotFound(f"unknown version '{version}' of model '{name}'; this server has version '{VERSION}'")

    @routes.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        """Name the server and its extensions of the protocol."""
        return {"name": "tta-server", "version": server_version, "extensions": []}

    @routes.get("/v2/models")
    async def models() -> dict[str, Any]:
        """List the one model."""
        return {"models": [model]}

    @routes.get("/v2/models/{name}", responses=refusals(404))
    @routes.get("/v2/models/{name}/versions/{version}", responses=refusals(404))
    async def model_metadata(name: str, version: str = VERSION) -> dict[str, Any]:
        """Describe the tensors that go in and come out."""
        known(name, version)
        return {
            "name": model,
            "versions": [VERSION],
            "platform": "pytorch",
            "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *input_shape]}],
            "outputs": [
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(labels)]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
            ],
        }

    @routes.get("/v2/models/{name}/ready", responses=refusals(404))
    @routes.get("/v2/models/{name}/versions/{version}/ready", responses=refusals(404))
    async def model_ready(name: str, version: str = VERSION) -> Response:
        """Tell whether a good request would be answered; 503 if not."""
        known(name, version)
        return Response(
            orjson.dumps({"name": model, "ready": not engine.trouble()}),
            status_code=503 if engine.trouble() else 200,
            media_type="application/json",
        )

    refused = refusals(400, 404, 413, 429, 501, 503)

    @routes.post("/v2/models/{name}/infer", openapi_extra=_OPENAPI, responses=refused)
    @routes.post("/v2/models/{name}/versions/{version}/infer", openapi_extra=_OPENAPI, responses=refused)
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """Classify a tensor called `input`: FP32 in [0, 1] or UINT8, shape [N, C, H, W].

        The stream is named by the header `X-Stream-Id`, or by the parameter `stream_id` or `sequence_id`; the request,
        for labels that come later, by the header `X-Request-Id` or by `id`.
        """
        known(name, version)
        if "inference-header-content-length" in request.headers:
            raise BadRequest("binary tensor data is not supported; send JSON (tritonclient: binary_data=False)")
        engine.expect_room(1)  # a request that will be refused need not be parsed
        asked = parse(await request.body(), input_shape, max_rows, _OUTPUTS)
        request_id = request_id_of(request, asked.request_id)
        stream = stream_of(
            request.headers.get("x-stream-id"), asked.parameters.get("stream_id"), asked.parameters.get("sequence_id")
        )
        if limits.refuse_constant:
            count = len(asked.images)
            refuse_constant(asked.images, [f"image {place} of {count}" for place in range(1, count + 1)])
        answer = await answered(request, engine.submit(stream, asked.images, callers.client(request), request_id))
        return Response(_encode(model, asked, answer, labels, request_id), media_type="application/json")

    return routes


def _encode(model: str, asked: InferRequest, answer: Answer, labels: tuple[str, ...], request_id: str) -> bytes:
    rows, classes = answer.probabilities.shape
    data: dict[str, tuple[str, list[int], npt.NDArray[Any] | list[str]]] = {
        "probabilities": ("FP32", [rows, classes], np.ascontiguousarray(answer.probabilities).reshape(-1)),
        "label": ("BYTES", [rows], [labels[i] for i in answer.probabilities.argmax(1)]),
    }
    about = {"stream": answer.stream, "state_version": answer.version, "adapted": answer.adapted}
    body: dict[str, Any] = {
        "model_name": model,
        "model_version": VERSION,
        "parameters": about | {"request_id": request_id},
        "outputs": [
            {"name": name, "datatype": data[name][0], "shape": data[name][1], "data": data[name][2]}
            for name in asked.outputs or _OUTPUTS
        ],
    }
    if asked.request_id is not None:
        body["id"] = asked.request_id
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
