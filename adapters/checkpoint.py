"""A stream's state as bytes that hold nothing but tensors, and that fit only the model and adapter they came from."""

import dataclasses
import json
from types import FunctionType

from safetensors import SafetensorError
from safetensors.torch import load, save

from adapters.base import Adapter, State
from models import Backbone, Reference

_KEY = "tta_state"
_SCHEMA = 1


def dump_state(adapter: Adapter, backbone: Backbone, state: State) -> bytes:
    """Return `state` as a safetensors file whose metadata says what it belongs to."""
    about = {
        "schema": _SCHEMA,
        "adapter": adapter.name,
        "settings": dataclasses.asdict(adapter),  # type: ignore[call-overload]
        "model": backbone.spec.name,
        "digest": backbone.spec.digest,
    }
    # Copied: a state may hold one tensor under two names, which a file cannot.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return save(tensors, {_KEY: json.dumps(about, sort_keys=True, default=_qualified_name)})


def load_state(adapter: Adapter, backbone: Backbone, data: bytes, reference: Reference | None = None) -> State:
    """Read what `dump_state` wrote.

    Args:
        adapter: The adapter that will use the state; its settings may differ as long as the layout does not.
        backbone: The backbone it will use it with.
        data: The bytes.
        reference: The bundle that the adapter's states start from, where it needs one.

    Raises:
        ValueError: If the bytes are no such file, or belong to another model, adapter or layout.
    """
    try:
        tensors = load(data)
        about = json.loads(_metadata(data)[_KEY])
        written = {key: str(about[key]) for key in ("schema", "adapter", "model", "digest")}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("not a state file of this server, or a damaged one; export the state again") from error
    if written["schema"] != str(_SCHEMA):
        raise ValueError(f"state file has schema {written['schema']}, expected {_SCHEMA}")
    if written["adapter"] != adapter.name:
        raise ValueError(f"state belongs to adapter '{written['adapter']}', expected '{adapter.name}'")
    if written["digest"] != backbone.spec.digest:
        raise ValueError(
            f"state belongs to model '{written['model']}' with weights {written['digest'][:12]}, "
            f"expected '{backbone.spec.name}' with weights {backbone.spec.digest[:12]}"
        )
    fresh = adapter.init(backbone, reference)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in fresh.items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != expected:
        raise ValueError(f"state does not have the tensors that adapter '{adapter.name}' with these settings keeps")
    return {name: tensors[name].to(tensor.device) for name, tensor in fresh.items()}  # a seed stays on the CPU


def _qualified_name(value: object) -> str:
    # A setting may be a function, such as an augmentation: named for the reader, never called from here.
    kind = value if isinstance(value, FunctionType) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _metadata(data: bytes) -> dict[str, str]:
    # safetensors reads metadata from files only; in memory the header is 8 bytes of length, then JSON.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata
