"""Requests of the Open Inference Protocol; values are read by `number_text.py` and `binary.py`."""

import re
from typing import Any, NamedTuple

import orjson

from tta_server.api.protocol.binary import HEADER, RawTensor, split, uploads
from tta_server.api.protocol.image_tensor import DATATYPES, size_bytes
from tta_server.api.protocol.number_text import ONLY_NUMBERS, NumberText
from tta_server.api.reading.search import Buffer, first_of
from tta_server.errors import BadRequest
from tta_server.runtime.images.codec import Upload

INPUT = "input"
"""The input that takes pixels."""
FILES = "image"
"""The input that takes image files, as elements of a BYTES tensor."""
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
                        "id": {
                            "type": "string",
                            "pattern": "^[!-~]{0,128}$",
                            "description": "Names the request, for labels that come later.",
                        },
                        "parameters": {
                            "type": "object",
                            "properties": {"binary_data_output": {"type": "boolean"}},
                            "description": "`stream_id` or `sequence_id` names the stream.",
                        },
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "title": "InputTensor",
                                "type": "object",
                                "required": ["name", "datatype", "shape"],
                                "properties": {
                                    "name": {"type": "string", "enum": [INPUT, FILES]},
                                    "datatype": {"type": "string", "enum": ["FP32", "UINT8", "BYTES"]},
                                    "parameters": {
                                        "type": "object",
                                        "description": "`binary_data_size`: bytes of the tensor behind the JSON.",
                                    },
                                    "shape": {
                                        "type": "array",
                                        "items": {"type": "integer", "minimum": 1},
                                        "minItems": 1,
                                        "maxItems": 4,
                                    },
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
                                "properties": {
                                    "name": {"type": "string", "enum": ["probabilities", "label"]},
                                    "parameters": {
                                        "type": "object",
                                        "properties": {
                                            "binary_data": {"type": "boolean"},
                                            "classification": {"type": "integer", "minimum": 1},
                                        },
                                        "description": "`binary_data`, and `classification`: how many of the best.",
                                    },
                                },
                            },
                        },
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""What the OpenAPI document says of the body that `parse` reads."""

MOST_BESIDE_BYTES = 64 * 2**10
"""Bytes that a request may have beside the values of its input."""

_DATA = re.compile(rb'(?<!\\)"data"\s*:\s*\[')
_TAKEN_OUT = "the values, which were taken out"


class Expected(NamedTuple):
    """What requests to a model may ask for.

    Attributes:
        input_shape: (C, H, W) of an image.
        max_rows: Most images of a request.
        outputs: Names of the outputs.
        scores: The output that has a score for each class.
        classes: How many classes there are.
    """

    input_shape: tuple[int, int, int]
    max_rows: int
    outputs: tuple[str, ...]
    scores: str
    classes: int


class WantedOutput(NamedTuple):
    """An output that is asked for.

    Attributes:
        name: Its name.
        binary: Whether it is sent as bytes, not as JSON.
        best: How many of the best classes are named in its place; 0 for the tensor itself.
    """

    name: str
    binary: bool
    best: int


class InferRequest(NamedTuple):
    """A request that is well formed, but for the values of its images, which are not read yet.

    Attributes:
        images: The images (n, C, H, W) as text or bytes, or image files.
        request_id: The caller's id, None if there is none.
        parameters: The caller's parameters.
        outputs: What is asked for, each output once.
    """

    images: NumberText | RawTensor | tuple[Upload, ...]
    request_id: str | None
    parameters: dict[str, Any]
    outputs: tuple[WantedOutput, ...]

    @property
    def rows(self) -> int:
        """How many images it has."""
        return len(self.images) if isinstance(self.images, tuple) else self.images.rows


def parse(body: Buffer, expected: Expected, json_bytes: str | None = None) -> InferRequest:
    """Read the body of an infer request; what is large in it is left as it is.

    Args:
        body: JSON, or JSON and the bytes of a tensor, or these bytes alone.
        expected: What it may ask for.
        json_bytes: How much of it is JSON, as the header `binary.HEADER` says; None without that header.

    Raises:
        BadRequest: If anything about it is wrong, but for the values.
    """
    text, binary = split(body, json_bytes)
    if binary is not None and not text:
        return _raw(binary, expected)
    request, data = _json(text)
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest(f"'inputs' must be a list of one tensor, called '{INPUT}' or '{FILES}'")
    if inputs[0].get("name") not in (INPUT, FILES):
        raise BadRequest(
            f"unexpected input '{_short(inputs[0].get('name'))}'; the model takes '{INPUT}' (pixels), '{FILES}' (files)"
        )
    request_id = request.get("id")
    if "id" in request and not isinstance(request_id, str):
        raise BadRequest("'id' must be a string")
    parameters = _parameters(request)
    outputs = _outputs(request.get("outputs", []), parameters, expected)
    images = _images(inputs[0], data, binary, expected)
    return InferRequest(images, request_id, parameters, outputs)


def _raw(data: memoryview, expected: Expected) -> InferRequest:
    """Return a request that is the bytes of one image alone."""
    shape = (1, *expected.input_shape)
    sizes = {size_bytes(datatype, shape): datatype for datatype in DATATYPES}
    if len(data) not in sizes:
        allowed = " or ".join(f"{size} ({datatype})" for size, datatype in sizes.items())
        raise BadRequest(
            f"a raw request is one image of shape {list(shape)} alone: expected {allowed} bytes, got {len(data)}; "
            "send image files to /predict"
        )
    outputs = tuple(WantedOutput(name, True, 0) for name in expected.outputs)
    return InferRequest(RawTensor(sizes[len(data)], shape, data), None, {}, outputs)


def _json(body: Buffer) -> tuple[dict[str, Any], memoryview]:
    """Return a body without the values of its tensor, and those; nothing is built of what is large."""
    start, end = _values(body)
    if len(body) - (end - start) > MOST_BESIDE_BYTES:
        if body[:1] != b"{":
            raise BadRequest("the body is not JSON, or no object with 'inputs'")
        raise BadRequest(
            f"the request has more than {MOST_BESIDE_BYTES} bytes beside the 'data' of its input, which must be a list "
            "of numbers, in row-major order"
        )
    beside = body[:] if start == end else body[:start] + orjson.dumps(_TAKEN_OUT) + body[end:]
    try:
        request = orjson.loads(beside)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error}); NaN and Infinity are no JSON numbers") from error
    if not isinstance(request, dict):
        raise BadRequest("the body must be a JSON object with 'inputs'")
    return request, memoryview(body)[start:end]


def _values(body: Buffer) -> tuple[int, int]:
    """Return where the first list called 'data' begins and ends; nowhere if it is none of numbers.

    No number holds a quote or a brace, so that the list has ended before the next of them.
    """
    found = _DATA.search(body, 0, MOST_BESIDE_BYTES)
    if not found:
        return 0, 0
    start = found.end() - 1
    found_stop = first_of(body, (b'"', b"}", b"{"), start)
    stop = len(body) if found_stop is None else found_stop
    end = body.rfind(b"]", start, stop) + 1
    # What follows the list may close it no further: then something is in it that is no number.
    return (start, end) if end and not body[end:stop].strip(b" \t\r\n,") else (0, 0)


def _parameters(request: dict[str, Any]) -> dict[str, Any]:
    parameters = request.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("'parameters' must be an object")
    for name, value in parameters.items():
        if value is None:
            raise BadRequest(f"parameter '{_short(name)}' is null; leave it out")
    return parameters


def _outputs(outputs: object, parameters: dict[str, Any], expected: Expected) -> tuple[WantedOutput, ...]:
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise BadRequest("'outputs' must be a list of objects with a 'name'")
    binary = _flag(parameters, "binary_data_output", False)
    names = [str(output.get("name")) for output in outputs]
    for name in names:
        if name not in expected.outputs:
            raise BadRequest(f"unexpected output '{_short(name)}'; the model gives {', '.join(expected.outputs)}")
        if names.count(name) > 1:
            raise BadRequest(f"output '{name}' is asked for more than once")
    return tuple(
        _output(output, binary, expected) for output in outputs or [{"name": name} for name in expected.outputs]
    )


def _output(output: dict[str, Any], binary: bool, expected: Expected) -> WantedOutput:
    parameters = _parameters(output)
    best = parameters.get("classification", 0)
    if "classification" in parameters and output["name"] != expected.scores:
        raise BadRequest(f"output '{output['name']}' has no 'classification'; ask for it with '{expected.scores}'")
    if type(best) is not int or not ("classification" not in parameters or 1 <= best <= expected.classes):
        raise BadRequest(f"'classification' is {_short(best)}, expected 1 to {expected.classes}")
    return WantedOutput(output["name"], _flag(parameters, "binary_data", binary), best)


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"'{name}' is {_short(value)}, expected true or false")
    return value


def _images(
    tensor: dict[str, Any], text: memoryview, binary: memoryview | None, expected: Expected
) -> NumberText | RawTensor | tuple[Upload, ...]:
    given = _binary(tensor, binary)
    if tensor["name"] == FILES:
        return _files(tensor, given, expected.max_rows)
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadRequest(f"input has datatype '{_short(datatype)}', expected FP32 in [0, 1] or UINT8")
    if not isinstance(shape, list) or not _fits(shape, expected.input_shape):
        wanted = f"[N, {', '.join(map(str, expected.input_shape))}]"
        raise BadRequest(f"input has shape {_short(shape)}, expected {wanted}; send channels first")
    _expect_rows(shape[0], expected.max_rows)
    whole = (shape[0], *expected.input_shape)
    if given is not None:
        if len(given) != (size := size_bytes(datatype, whole)):
            raise BadRequest(
                f"input has {len(given)} bytes of binary data, expected {size} for {datatype} {list(whole)}"
            )
        return RawTensor(datatype, whole, given)
    if isinstance(tensor.get("data"), list):
        raise BadRequest(ONLY_NUMBERS)
    if tensor.get("data") != _TAKEN_OUT:
        raise BadRequest("input has no 'data'; send it as a list, nested or flat, in row-major order")
    return NumberText(datatype, whole, text)


def _binary(tensor: dict[str, Any], binary: memoryview | None) -> memoryview | None:
    """Return the bytes that belong to a tensor; None if its values are JSON."""
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if binary:
            raise BadRequest(f"{len(binary)} bytes follow the JSON, but no input has 'binary_data_size'")
        return None
    if "data" in tensor:
        raise BadRequest("input has both 'data' and 'binary_data_size'; send one")
    if binary is None:
        raise BadRequest(
            f"input has 'binary_data_size', but the header {HEADER} is missing; it says where the bytes begin"
        )
    if type(size) is not int or size != len(binary):
        raise BadRequest(f"'binary_data_size' is {_short(size)}, but {len(binary)} bytes follow the JSON")
    return binary


def _files(tensor: dict[str, Any], given: memoryview | None, max_rows: int) -> tuple[Upload, ...]:
    if tensor.get("datatype") != "BYTES":
        raise BadRequest(f"'{FILES}' has datatype '{_short(tensor.get('datatype'))}', expected BYTES: image files")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or type(shape[0]) is not int or shape[1:] not in ([], [1]):
        raise BadRequest(f"'{FILES}' has shape {_short(shape)}, expected [N] or [N, 1]")
    _expect_rows(shape[0], max_rows)
    if given is None:
        raise BadRequest(f"'{FILES}' takes binary data only ('binary_data_size'); JSON cannot hold image files")
    return uploads(given, shape[0])


def _expect_rows(rows: int, max_rows: int) -> None:
    if not 1 <= rows <= max_rows:
        raise BadRequest(f"input has {rows} images, expected 1 to {max_rows}")


def _fits(shape: list[Any], input_shape: tuple[int, int, int]) -> bool:
    whole = all(type(length) is int for length in shape)  # 3.0 and True are equal to integers, but none
    return whole and len(shape) == 4 and tuple(shape[1:]) == input_shape


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
