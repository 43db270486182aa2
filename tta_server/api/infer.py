"""The Open Inference Protocol v2 over JSON: inference.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md.
Differs: an output's data is flat, and health answers carry KServe's bodies.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request, Response

from tta_server.api.answers import Inferred, told
from tta_server.api.caller import Callers, hung_up
from tta_server.api.metadata import VERSION, known
from tta_server.api.permission import key_of, take
from tta_server.api.request_id import request_id_of
from tta_server.api.stream_id import stream_of
from tta_server.api.tensors import OPENAPI, InferRequest, parse
from tta_server.errors import BadRequest
from tta_server.runtime.answer import Question, answer
from tta_server.runtime.job import Answer
from tta_server.runtime.served import Served

_OUTPUTS = ("probabilities", "label")


def router(models: Mapping[str, Served], callers: Callers) -> APIRouter:
    """Return the routes.

    Args:
        models: What is served.
        callers: Knows who sent a request.
    """
    routes = APIRouter(tags=["open inference protocol"])
    declared = told(Inferred, 400, 404, 408, 413, 429, 501, 503)

    @routes.post("/v2/models/{name}/infer", openapi_extra=OPENAPI, **declared)
    @routes.post("/v2/models/{name}/versions/{version}/infer", openapi_extra=OPENAPI, **declared)
    async def infer(request: Request, name: str, version: str = VERSION) -> Response:
        """Classify a tensor called `input`: FP32 in [0, 1] or UINT8, shape [N, C, H, W].

        The stream is named by the header `X-Stream-Id`, or by the parameter `stream_id` or `sequence_id`; the request,
        for labels that come later, by the header `X-Request-Id` or by `id`.
        """
        served = known(models, name, version)
        if "inference-header-content-length" in request.headers:
            raise BadRequest("binary tensor data is not supported; send JSON (tritonclient: binary_data=False)")
        served.engine.refuse_if_full()
        shape = served.model.preprocess.input_shape
        sent = parse(await request.body(), shape, served.engine.max_rows, _OUTPUTS)
        request_id = request_id_of(request, sent.request_id)
        stream = stream_of(
            request.headers.get("x-stream-id"), sent.parameters.get("stream_id"), sent.parameters.get("sequence_id")
        )
        key_of(request).expect_streams(stream)
        take(request, sent.images.rows)
        asked = Question(stream, sent.images, callers.client(request), request_id)
        found = await answer(served, asked, hung_up(request))
        return Response(_encode(served, sent, asked, found), media_type="application/json")

    return routes


def _encode(served: Served, sent: InferRequest, asked: Question, found: Answer) -> bytes:
    rows, classes = found.probabilities.shape
    labels = served.model.labels
    data: dict[str, tuple[str, list[int], npt.NDArray[Any] | list[str]]] = {
        "probabilities": ("FP32", [rows, classes], np.ascontiguousarray(found.probabilities).reshape(-1)),
        "label": ("BYTES", [rows], [labels[i] for i in found.probabilities.argmax(1)]),
    }
    about: dict[str, Any] = {"stream": found.stream, "state_version": found.version, "adapted": found.adapted}
    if found.domains:
        about["domains"] = found.domains
    body: dict[str, Any] = {
        "model_name": served.name,
        "model_version": VERSION,
        "parameters": about | {"request_id": asked.request_id},
        "outputs": [
            {"name": name, "datatype": data[name][0], "shape": data[name][1], "data": data[name][2]}
            for name in sent.outputs or _OUTPUTS
        ],
    }
    if sent.request_id is not None:
        body["id"] = sent.request_id
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
