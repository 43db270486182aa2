"""Requests of the Open Inference Protocol's JSON form; what they hold of values is read by `number_text.py`."""

import re
from typing import Any, NamedTuple

import orjson

from tta_server.api.number_text import DATATYPES, ONLY_NUMBERS, NumberText
from tta_server.errors import BadRequest, Unsupported

INPUT = "input"
OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "title": "InferBody",
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string", "description": "Names the request, for labels that come later."},
                        "parameters": {
                            "type": "object",
                            "description": "`stream_id` or `sequence_id` names the stream.",
                        },
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "title": "InputTensor",
                                "type": "object",
                                "required": ["name", "datatype", "shape", "data"],
                                "properties": {
                                    "name": {"type": "string", "enum": [INPUT]},
                                    "datatype": {"type": "string", "enum": ["FP32", "UINT8"]},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "data": {"type": "array", "items": {}, "description": "Nested or flat, row-major."},
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "title": "WantedOutput",
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"type": "string"}},
                            },
                        },
                    },
                }
            }
        },
    }
}
"""What the OpenAPI document says of the body that `parse` reads."""

MOST_BESIDE_BYTES = 64 * 2**10
"""Bytes that a request may have beside the values of its input."""

_DATA = re.compile(rb'(?<!\\)"data"\s*:\s*\[')
_TAKEN_OUT = "the values, which were taken out"


class InferRequest(NamedTuple):
    """A request that is well formed, but for the values of its images, which are not read yet.

    Attributes:
        images: The images (n, C, H, W), as text.
        request_id: The caller's id, None if there is none.
        parameters: The caller's parameters.
        outputs: Names of the outputs that are asked for, each once; all when empty.
    """

    images: NumberText
    request_id: str | None
    parameters: dict[str, Any]
    outputs: tuple[str, ...]


def parse(
    body: bytes, input_shape: tuple[int, int, int], max_rows: int, known_outputs: tuple[str, ...]
) -> InferRequest:
    """Read the JSON body of an infer request; what is large in it is left as it is.

    Raises:
        BadRequest: If anything about it is wrong, but for the values.
        Unsupported: If it needs the binary data extension.
    """
    request, data = _json(body)
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest(f"'inputs' must be a list of one tensor, called '{INPUT}'")
    if inputs[0].get("name") != INPUT:
        raise BadRequest(f"unexpected input '{_short(inputs[0].get('name'))}'; the model takes '{INPUT}'")
    request_id = request.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise BadRequest("'id' must be a string")
    outputs = _outputs(request.get("outputs", []), known_outputs)
    parameters = _parameters(request)
    return InferRequest(_images(inputs[0], data, input_shape, max_rows), request_id, parameters, outputs)


def _json(body: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return a body without the values of its tensor, and those; nothing is built of what is large."""
    start, end = _values(body)
    if len(body) - (end - start) > MOST_BESIDE_BYTES:
        if body[:1] != b"{":
            raise BadRequest("the body is not JSON, or no object with 'inputs'")
        raise BadRequest(
            f"the request has more than {MOST_BESIDE_BYTES} bytes beside the 'data' of its input, which must be a list "
            "of numbers, in row-major order"
        )
    beside = body if start == end else body[:start] + orjson.dumps(_TAKEN_OUT) + body[end:]
    try:
        request = orjson.loads(beside)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error}); NaN and Infinity are no JSON numbers") from error
    if not isinstance(request, dict):
        raise BadRequest("the body must be a JSON object with 'inputs'")
    return request, memoryview(body)[start:end]


def _values(body: bytes) -> tuple[int, int]:
    """Return where the first list called 'data' begins and ends; nowhere if it is none of numbers.

    No number holds a quote or a brace, so that the list has ended before the next of them.
    """
    found = _DATA.search(body, 0, MOST_BESIDE_BYTES)
    if not found:
        return 0, 0
    start = found.end() - 1
    stops = [place for mark in (b'"', b"}", b"{") if (place := body.find(mark, start)) >= 0]
    stop = min(stops, default=len(body))
    end = body.rfind(b"]", start, stop) + 1
    # What follows the list may close it no further: then something is in it that is no number.
    return (start, end) if end and not body[end:stop].strip(b" \t\r\n,") else (0, 0)


def _parameters(request: dict[str, Any]) -> dict[str, Any]:
    parameters = request.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("'parameters' must be an object")
    return parameters


def _outputs(outputs: object, known: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise BadRequest("'outputs' must be a list of objects with a 'name'")
    names = tuple(str(output.get("name")) for output in outputs)
    for name in names:
        if name not in known:
            raise BadRequest(f"unexpected output '{_short(name)}'; the model gives {', '.join(known)}")
        if names.count(name) > 1:
            raise BadRequest(f"output '{name}' is asked for more than once")
    return names


def _images(tensor: dict[str, Any], data: memoryview, input_shape: tuple[int, int, int], max_rows: int) -> NumberText:
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequest(f"input has datatype '{_short(datatype)}', expected FP32 in [0, 1] or UINT8")
    if "binary_data_size" in _parameters(tensor):
        raise Unsupported("binary tensor data is not supported; send the tensor as JSON 'data'")
    expected = f"[N, {', '.join(map(str, input_shape))}]"
    if not isinstance(shape, list) or not _fits(shape, input_shape):
        raise BadRequest(f"input has shape {_short(shape)}, expected {expected}; send channels first")
    if not 1 <= shape[0] <= max_rows:
        raise BadRequest(f"input has {shape[0]} images, expected 1 to {max_rows}")
    if isinstance(tensor.get("data"), list):
        raise BadRequest(ONLY_NUMBERS)
    if tensor.get("data") != _TAKEN_OUT:
        raise BadRequest("input has no 'data'; send it as a list, nested or flat, in row-major order")
    return NumberText(data, datatype, (shape[0], *input_shape))


def _fits(shape: list[Any], input_shape: tuple[int, int, int]) -> bool:
    whole = all(type(length) is int for length in shape)  # 3.0 and True are equal to integers, but none
    return whole and len(shape) == 4 and tuple(shape[1:]) == input_shape


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
