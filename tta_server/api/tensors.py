"""Tensors of the Open Inference Protocol's JSON form."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

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

_TYPES = {"FP32": np.float32, "UINT8": np.uint8}
_TOLERANCE = 1e-6  # images that went through a float round trip


class InferRequest(NamedTuple):
    """A request that is well formed.

    Attributes:
        images: (n, C, H, W), uint8 or float32 in [0, 1].
        request_id: The caller's id, None if there is none.
        parameters: The caller's parameters.
        outputs: Names of the outputs that are asked for; all when empty.
    """

    images: npt.NDArray[Any]
    request_id: str | None
    parameters: dict[str, Any]
    outputs: tuple[str, ...]


def parse(
    body: bytes, input_shape: tuple[int, int, int], max_rows: int, known_outputs: tuple[str, ...]
) -> InferRequest:
    """Read the JSON body of an infer request.

    Raises:
        BadRequest: If anything about it is wrong.
        Unsupported: If it needs the binary data extension.
    """
    request = _json(body)
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
    return InferRequest(_images(inputs[0], input_shape, max_rows), request_id, parameters, outputs)


def _json(body: bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error}); NaN and Infinity are no JSON numbers") from error
    if not isinstance(request, dict):
        raise BadRequest("the body must be a JSON object with 'inputs'")
    return request


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
    return names


def _images(tensor: dict[str, Any], input_shape: tuple[int, int, int], max_rows: int) -> npt.NDArray[Any]:
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if not isinstance(datatype, str) or datatype not in _TYPES:
        raise BadRequest(f"input has datatype '{_short(datatype)}', expected FP32 in [0, 1] or UINT8")
    if "binary_data_size" in _parameters(tensor):
        raise Unsupported("binary tensor data is not supported; send the tensor as JSON 'data'")
    expected = f"[N, {', '.join(map(str, input_shape))}]"
    if not isinstance(shape, list) or not _fits(shape, input_shape):
        raise BadRequest(f"input has shape {_short(shape)}, expected {expected}; send channels first")
    if not 1 <= shape[0] <= max_rows:
        raise BadRequest(f"input has {shape[0]} images, expected 1 to {max_rows}")
    if not isinstance(tensor.get("data"), list):
        raise BadRequest("input has no 'data'; send it as a list, nested or flat, in row-major order")
    values = _values(tensor["data"], shape)
    return _checked(values, datatype).astype(_TYPES[datatype]).reshape(shape)


def _fits(shape: list[Any], input_shape: tuple[int, int, int]) -> bool:
    whole = all(type(length) is int for length in shape)  # 3.0 and True are equal to integers, but none
    return whole and len(shape) == 4 and tuple(shape[1:]) == input_shape


def _values(data: list[Any], shape: list[int]) -> npt.NDArray[np.float64]:
    try:
        values = np.array(data)
    except ValueError as error:
        raise BadRequest("input 'data' must be nested evenly or flat") from error
    if values.dtype.kind not in "iuf":
        raise BadRequest("input 'data' must hold numbers only, nested evenly or flat; null, text and booleans are none")
    if values.size != np.prod(shape) or (values.ndim > 1 and list(values.shape) != shape):
        raise BadRequest(f"input 'data' has shape {list(values.shape)}, which does not fit shape {shape}")
    return values.astype(np.float64)


def _checked(values: npt.NDArray[np.float64], datatype: str) -> npt.NDArray[np.float64]:
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise BadRequest(f"input holds {bad} values that are not finite; every pixel must be a number")
    low, high = float(values.min()), float(values.max())
    if datatype == "UINT8" and (low < 0 or high > 255 or (values != np.floor(values)).any()):
        raise BadRequest(f"input has values in [{low:g}, {high:g}], expected whole numbers in [0, 255] for UINT8")
    if datatype == "FP32" and (low < -_TOLERANCE or high > 1 + _TOLERANCE):
        raise BadRequest(
            f"input has values in [{low:g}, {high:g}], expected [0, 1]; send pixels / 255, the server normalises them"
        )
    return values


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
