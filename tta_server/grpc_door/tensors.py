"""`ModelInfer` as the HTTP request that means the same, in the binary extension, and its answer back."""

import asyncio
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from tta_server.api.protocol.binary import HEADER, written
from tta_server.errors import BadRequest
from tta_server.grpc_door.asking import Asked, Reply
from tta_server.grpc_door.messages import message

_CONTENTS: Final = {"FP32": "fp32_contents", "UINT8": "uint_contents", "BYTES": "bytes_contents"}
_PIECE = 2**14  # values that are read before others have their turn: less than a millisecond
_PART_BYTES = 256 * 2**10  # of a body that comes in parts, between which others have their turn
_LENGTH = struct.Struct("<I")
_RESPONSE = message("inference.ModelInferResponse")


async def infer_body(request: Any, raw: Sequence[memoryview]) -> Asked:
    """Return a `ModelInferRequest` as a body of JSON and bytes; the application judges what it says.

    Args:
        request: The message, but for its raw contents.
        raw: These, of which nothing is copied.

    Raises:
        BadRequest: If it gives values twice, or some that its datatype does not have.
    """
    if raw and (len(raw) != len(request.inputs) or any(each.HasField("contents") for each in request.inputs)):
        raise BadRequest(
            f"the request has {len(request.inputs)} inputs and {len(raw)} 'raw_input_contents'; send one for each, or "
            "'contents' in each input"
        )
    behind: Sequence[bytes | memoryview] = raw or [await _values(each) for each in request.inputs]
    head = {
        "parameters": _parameters(request.parameters) | {"binary_data_output": True},
        "inputs": [
            {
                "name": each.name,
                "datatype": each.datatype,
                "shape": list(each.shape),
                "parameters": _parameters(each.parameters) | {"binary_data_size": len(data)},
            }
            for each, data in zip(request.inputs, behind, strict=True)
        ],
        "outputs": [
            {"name": each.name, "parameters": _parameters(each.parameters) | {"binary_data": True}}
            for each in request.outputs
        ],
    }
    if request.id:
        head["id"] = request.id
    text = orjson.dumps(head)
    return Asked("POST", "", _cut(text, behind), ((HEADER.lower().encode(), str(len(text)).encode()),))


def infer_response(reply: Reply, raw: bool) -> Any:
    """Return the answer to `infer_body` as a `ModelInferResponse`, with raw contents or without."""
    size = int(reply.headers[HEADER.lower()])
    head, place = orjson.loads(reply.body[:size]), size
    found = _RESPONSE(model_name=head["model_name"], model_version=head["model_version"], id=head.get("id", ""))
    for name, value in head["parameters"].items():
        _set(found.parameters[name], value)
    for output in head["outputs"]:
        tensor = found.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        data = reply.body[place : place + output["parameters"]["binary_data_size"]]
        place += len(data)
        if raw:
            found.raw_output_contents.append(data)
        elif tensor.datatype == "FP32":
            tensor.contents.fp32_contents.extend(np.frombuffer(data, "<f4").tolist())
        else:
            tensor.contents.bytes_contents.extend(_elements(data))
    return found


def _cut(text: bytes, behind: Sequence[bytes | memoryview]) -> tuple[bytes | memoryview, ...]:
    """Return a body in one part, or of a large one nothing that is copied."""
    if len(text) + sum(map(len, behind)) <= _PART_BYTES:
        return (b"".join((text, *behind)),)
    cut = (each[start : start + _PART_BYTES] for each in behind for start in range(0, len(each), _PART_BYTES))
    return (text, *cut)


def _parameters(given: Any) -> dict[str, Any]:
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], kind) for name, kind in kinds.items() if kind}


def _set(parameter: Any, value: bool | int | str) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    else:
        parameter.string_param = value


async def _values(tensor: Any) -> bytes:
    """Return the contents of a tensor as the bytes that they would be if they were sent raw.

    Raises:
        BadRequest: If a UINT8 is none.
    """
    values = getattr(tensor.contents, _CONTENTS.get(tensor.datatype, "fp32_contents"))
    if tensor.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(each)) + each for each in values)
    parts: list[bytes] = []
    for start in range(0, len(values), _PIECE):
        found: npt.NDArray[Any] = np.array(values[start : start + _PIECE])
        if tensor.datatype == "UINT8" and found.max() > 255:
            raise BadRequest(f"input has the value {found.max()}, expected whole numbers in [0, 255] for UINT8")
        parts.append(written(found.astype(np.uint8 if tensor.datatype == "UINT8" else np.float32)))
        await asyncio.sleep(0)
    return b"".join(parts)


def _elements(data: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor."""
    found, place = [], 0
    while place < len(data):
        start = place + _LENGTH.size
        place = start + _LENGTH.unpack_from(data, place)[0]
        found.append(data[start:place])
    return found
