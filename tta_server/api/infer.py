"""The Open Inference Protocol v2 over JSON: server, model and health metadata, and inference.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md.
Differs: an output's data is flat, and health answers carry KServe's bodies.
"""

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request, Response

from tta_server.api.stream_id import stream_of
from tta_server.api.tensors import INPUT, InferRequest, parse
from tta_server.errors import BadRequest, NotFound
from tta_server.runtime.answerer import Answer
from tta_server.runtime.engine import Engine

VERSION = "1"
_OUTPUTS = ("probabilities", "label")


def router(
    engine: Engine,
    model: str,
    server_version: str,
    input_shape: tuple[int, int, int],
    labels: tuple[str, ...],
    max_rows: int,
) -> APIRouter:
    """Return the routes under /v2.

    Args:
        engine: Who answers.
        model: Name of the one model.
        server_version: Version of this server.
        input_shape: (C, H, W) of one image.
        labels: Name of each class.
        max_rows: Most images in a request.
    """
    routes = APIRouter(tags=["open inference protocol"])

    def known(name: str, version: str = VERSION) -> None:
        if name != model:
            raise NotFound(f"unknown model '{name}'; this server has '{model}'")
        if version != VERSION:
            raise NotFound(f"unknown version '{version}' of model '{name}'; this server has version '{VERSION}'")

    @routes.get("/v2")
    async def server_metadata() -> dict[str, Any]:
        return {"name": "tta-server", "version": server_version, "extensions": []}

    @routes.get("/v2/models")
    async def models() -> dict[str, Any]:
        return {"models": [model]}

    @routes.get("/v2/models/{name}")
    @routes.get("/v2/models/{name}/versions/{version}")
    async def model_metadata(name: str, version: str = VERSION) -> dict[str, Any]:
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

    @routes.get("/v2/models/{name}/ready")
    @routes.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str = VERSION) -> Response:
        known(name, version)
        return Response(
            orjson.dumps({"name": model, "ready": not engine.trouble()}),
            status_code=503 if engine.trouble() else 200,
            media_type="application/json",
        )

    @routes.post("/v2/models/{name}/infer")
    @routes.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """Classify a tensor called `input`: FP32 in [0, 1] or UINT8, shape [N, C, H, W].

        The stream is named by the header `X-Stream-Id`, or by the parameter `stream_id` or `sequence_id`.
        """
        known(name, version)
        if "inference-header-content-length" in request.headers:
            raise BadRequest("binary tensor data is not supported; send JSON (tritonclient: binary_data=False)")
        asked = parse(await request.body(), input_shape, max_rows, _OUTPUTS)
        stream = stream_of(
            request.headers.get("x-stream-id"), asked.parameters.get("stream_id"), asked.parameters.get("sequence_id")
        )
        answer = await asyncio.wrap_future(engine.submit(stream, asked.images))
        return Response(_encode(model, asked, answer, labels), media_type="application/json")

    return routes


def _encode(model: str, asked: InferRequest, answer: Answer, labels: tuple[str, ...]) -> bytes:
    rows, classes = answer.probabilities.shape
    data: dict[str, tuple[str, list[int], npt.NDArray[Any] | list[str]]] = {
        "probabilities": ("FP32", [rows, classes], np.ascontiguousarray(answer.probabilities).reshape(-1)),
        "label": ("BYTES", [rows], [labels[i] for i in answer.probabilities.argmax(1)]),
    }
    body: dict[str, Any] = {
        "model_name": model,
        "model_version": VERSION,
        "parameters": {"stream": answer.stream, "state_version": answer.version, "adapted": answer.adapted},
        "outputs": [
            {"name": name, "datatype": data[name][0], "shape": data[name][1], "data": data[name][2]}
            for name in asked.outputs or _OUTPUTS
        ],
    }
    if asked.request_id is not None:
        body["id"] = asked.request_id
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
