"""A stream's state as bytes that hold nothing but tensors, and that fit only the model and adapter they came from."""

import dataclasses
import json

from safetensors import SafetensorError
from safetensors.torch import load, save

from adapters.base import Adapter, State
from models import Backbone

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
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return save(tensors, {_KEY: json.dumps(about, sort_keys=True)})


def load_state(adapter: Adapter, backbone: Backbone, data: bytes) -> State:
    """Read what `dump_state` wrote.

    Args:
        adapter: The adapter that will use the state; its settings may differ as long as the layout does not.
        backbone: The backbone it will use it with.
        data: The bytes.

    Raises:
        ValueError: If the bytes are no such file, or belong to another model, adapter or layout.
    """
    try:
        tensors = load(data)
        about = json.loads(_metadata(data)[_KEY])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError("not a state file of this server, or a damaged one; export the state again") from error
    if about.get("schema") != _SCHEMA:
        raise ValueError(f"state file has schema {about.get('schema')}, expected {_SCHEMA}")
    if about["adapter"] != adapter.name:
        raise ValueError(f"state belongs to adapter '{about['adapter']}', expected '{adapter.name}'")
    if about["digest"] != backbone.spec.digest:
        raise ValueError(
            f"state belongs to model '{about['model']}' with weights {about['digest'][:12]}, "
            f"expected '{backbone.spec.name}' with weights {backbone.spec.digest[:12]}"
        )
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in adapter.init(backbone).items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != expected:
        raise ValueError(f"state does not have the tensors that adapter '{adapter.name}' with these settings keeps")
    return {name: tensors[name].to(backbone.device) for name in expected}


def _metadata(data: bytes) -> dict[str, str]:
    # safetensors reads metadata from files only; in memory the header is 8 bytes of length, then JSON.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata
