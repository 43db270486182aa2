"""The Open Inference Protocol v2 over HTTP: inference, in JSON and in binary.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md.
Differs: an output's data is flat, and health answers carry KServe's bodies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request, Response

from tta_server.api.answers import Inferred, returns
from tta_server.api.caller import Callers, hung_up
from tta_server.api.front.permission import key_of, take
from tta_server.api.front.request_id import REQUEST_HEADER, request_id_of
from tta_server.api.protocol.binary import HEADER, written
from tta_server.api.protocol.metadata import OUTPUTS, SCORES, VERSION, expect_version
from tta_server.api.protocol.tensors import OPENAPI, Expected, InferRequest, WantedOutput, parse
from tta_server.api.reading.encoding import aside, buffer_of, compressed, let_go
from tta_server.api.reading.search import Buffer
from tta_server.api.stream_id import STREAM_HEADER, expect_header, stream_of
from tta_server.errors import BadRequest
from tta_server.runtime.answer import Question, answer
from tta_server.runtime.job import Answer
from tta_server.runtime.served import Served, find

_AT_ONCE_BYTES = 2**20  # which are looked through in less than a millisecond

_JSON_BYTES: dict[str, Any] = {
    "description": "How many bytes are JSON; the tensors follow it. Not there if all is JSON.",
    "schema": {"type": "integer", "minimum": 0},
}
_BEHIND = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_SAID: dict[str, Any] = OPENAPI | {
    "parameters": [STREAM_HEADER, REQUEST_HEADER, {"name": HEADER, "in": "header"} | _JSON_BYTES],
    "responses": {"200": {"headers": {HEADER: _JSON_BYTES}, "content": _BEHIND}},
}


def router(models: Mapping[str, Served], callers: Callers) -> APIRouter:
    """Return the routes.

    Args:
        models: What is served.
        callers: Knows who sent a request.
    """
    routes = APIRouter(tags=["open inference protocol"])
    declared = returns(Inferred, 400, 404, 413, 415, 429, 503)

    @routes.post("/v2/models/{name}/infer", openapi_extra=_SAID, **declared)
    async def infer(request: Request, name: str) -> Response:
        """Classify `input` (FP32 in [0, 1] or UINT8, [N, C, H, W]) or `image` (BYTES: image files, [N]).

        The stream is named by the header `X-Stream-Id`, or by the parameter `stream_id` or `sequence_id`; the request,
        for labels that come later, by the header `X-Request-Id` or by `id`. The header
        `Inference-Header-Content-Length` says how much of the body is JSON, where a tensor follows as bytes.
        """
        served = find(models, name)
        served.engine.refuse_if_full()
        asked = await buffer_of(request), _expected(served), request.headers.get(HEADER)
        sent = parse(*asked) if len(asked[0]) <= _AT_ONCE_BYTES else await aside(_parse_large, *asked)
        request_id = request_id_of(request, sent.request_id)
        header = request.headers.get("x-stream-id")
        stream = stream_of(header, sent.parameters.get("stream_id"), sent.parameters.get("sequence_id"))
        if served.tenure:
            expect_header(header, stream)
        key_of(request).expect_streams(stream)
        take(request, sent.rows)
        question = Question(stream, sent.images, callers.client(request), request_id)
        found = await answer(served, question, hung_up(request))
        return await compressed(request, _encode(served, sent, question, found))

    @routes.post("/v2/models/{name}/versions/{version}/infer", name=infer.__name__, openapi_extra=_SAID, **declared)
    async def infer_by_version(request: Request, name: str, version: str) -> Response:
        """Classify, where the version of the model is named too."""
        await expect_version(name, version)
        return await infer(request, name)

    return routes


def _parse_large(body: Buffer, expected: Expected, json_bytes: str | None) -> InferRequest:
    try:
        return parse(body, expected, json_bytes)
    except BadRequest:
        let_go(body)
        raise


def _expected(served: Served) -> Expected:
    model = served.model
    return Expected(model.preprocess.input_shape, served.engine.max_rows, OUTPUTS, SCORES, len(model.labels))


def _encode(served: Served, sent: InferRequest, asked: Question, found: Answer) -> Response:
    about: dict[str, Any] = {"stream": found.stream, "state_version": found.version, "adapted": found.adapted}
    if found.domains:
        about["domains"] = ",".join(found.domains)  # a parameter is a text, a number, true or false
    outputs, behind = [], []
    for wanted in sent.outputs:
        datatype, shape, values = _values(served.model.labels, found.probabilities, wanted)
        output: dict[str, Any] = {"name": wanted.name, "datatype": datatype, "shape": shape}
        if wanted.binary:
            behind.append(written(values))
            outputs.append(output | {"parameters": {"binary_data_size": len(behind[-1])}})
        else:
            outputs.append(output | {"data": values})
    body: dict[str, Any] = {
        "model_name": served.name,
        "model_version": VERSION,
        "parameters": about | {"request_id": asked.request_id},
        "outputs": outputs,
    }
    if sent.request_id is not None:
        body["id"] = sent.request_id
    text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    if not behind:
        return Response(text, media_type="application/json")
    headers = {HEADER: str(len(text))}
    return Response(b"".join((text, *behind)), media_type="application/octet-stream", headers=headers)


def _values(
    labels: Sequence[str], probabilities: npt.NDArray[np.float32], wanted: WantedOutput
) -> tuple[str, list[int], npt.NDArray[Any] | list[str]]:
    """Return datatype, shape and values, flat, of an output."""
    rows, classes = probabilities.shape
    if wanted.name != SCORES:
        return "BYTES", [rows], [labels[i] for i in probabilities.argmax(1)]
    if not wanted.best:
        return "FP32", [rows, classes], np.ascontiguousarray(probabilities).reshape(-1)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : wanted.best]
    best = [f"{row[i]:f}:{i}:{labels[i]}" for row, places in zip(probabilities, order, strict=True) for i in places]
    return "BYTES", [rows, wanted.best], best
