"""What a real tritonclient may send wrongly, over HTTP and gRPC alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.tta_server.calls import noise


@dataclass(frozen=True)
class Wrong:
    """A request that is refused.

    Attributes:
        status: Over HTTP.
        code: Over gRPC.
        said: Stands in the message.
        tensor: Changes the good input of one image, or takes another's place.
        model: Which is asked, and in which version.
        output: Name of the output that is asked for.
        asked: Of the call.
    """

    status: int
    code: str
    said: str
    tensor: Callable[[ModuleType], list] = lambda triton: [good(triton)]
    model: tuple[str, str] = ("glyphs", "1")
    output: Mapping[str, object] = field(default_factory=lambda: {"name": "label"})
    asked: Mapping[str, object] = field(default_factory=dict)


def good(triton: ModuleType, rows: int = 1, name: str = "input", datatype: str = "UINT8") -> object:
    """Return an input with data."""
    images = noise(rows).astype({"UINT8": np.uint8, "INT32": np.int32}[datatype])
    tensor = triton.InferInput(name, list(images.shape), datatype)
    tensor.set_data_from_numpy(images)
    return tensor


def shaped(*shape: int) -> Callable[[ModuleType], list]:
    """Return what says another shape than that of its data."""
    return lambda triton: [good(triton).set_shape(shape)]


def file_of(content: bytes) -> Callable[[ModuleType], list]:
    """Return what sends a file."""

    def made(triton: ModuleType) -> list:
        tensor = triton.InferInput("image", [1], "BYTES")
        return [tensor.set_data_from_numpy(np.array([content], dtype=np.object_))]

    return made


def refusals(most_rows: int) -> dict[str, Wrong]:
    """Return them by name; a forward takes `most_rows` images."""
    bad, none = "INVALID_ARGUMENT", "NOT_FOUND"
    return {
        "unknown model": Wrong(404, none, "unknown model 'nobody'", model=("nobody", "1")),
        "unknown version": Wrong(404, none, "unknown version '9'", model=("glyphs", "9")),
        "wrong shape": Wrong(400, bad, "shape [1, 3, 31, 32], expected [N, 3, 32, 32]", shaped(1, 3, 31, 32)),
        "too few bytes": Wrong(400, bad, "3072 bytes", shaped(2, 3, 32, 32)),
        "too many bytes": Wrong(400, bad, "6144 bytes", lambda triton: [good(triton, 2).set_shape([1, 3, 32, 32])]),
        "too many images": Wrong(400, bad, f"{most_rows}", lambda triton: [good(triton, most_rows + 1)]),
        "datatype": Wrong(400, bad, "INT32", lambda triton: [good(triton, datatype="INT32")]),
        "unknown input": Wrong(400, bad, "'zz'", lambda triton: [good(triton, name="zz")]),
        "two inputs": Wrong(400, bad, "", lambda triton: [good(triton), *file_of(b"x")(triton)]),
        "no input": Wrong(400, bad, "input", lambda _: []),
        "no data": Wrong(400, bad, "data", lambda triton: [triton.InferInput("input", [1, 3, 32, 32], "UINT8")]),
        "no image": Wrong(415, bad, "image", file_of(b"nonsense")),
        "unknown output": Wrong(400, bad, "'nope'", output={"name": "nope"}),
        "too many classes": Wrong(400, bad, "37", output={"name": "probabilities", "class_count": 37}),
        "stream": Wrong(400, bad, "stream", asked={"parameters": {"stream_id": "no name"}}),
    }


def refused(triton: ModuleType, client: object, wrong: Wrong, **asked: object) -> InferenceServerException:
    """Return what the client makes of a refusal."""
    model, version = wrong.model
    outputs = [triton.InferRequestedOutput(**wrong.output)]
    with pytest.raises(InferenceServerException) as raised:
        client.infer(model, wrong.tensor(triton), version, outputs, **(wrong.asked | asked))
    return raised.value
