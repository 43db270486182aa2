"""A stream's state as bytes that hold nothing but tensors, and that fit only the model and adapter they came from."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from tta_server.adapters.base import Adapter, State, group, ungroup
from tta_server.adapters.tensor_file import write_tensors
from tta_server.models import EMPTY, Backbone, Reference, Tensors

_KEY = "tta_state"
_SCHEMA = 1
_BESIDE = "beside"  # no adapter has a group of this name
_NOTHING: Mapping[str, Any] = {}
_DAMAGED = "not a state file of this server, or a damaged one; export the state again"


def dump_state(
    adapter: Adapter, backbone: Backbone, state: State, about: Mapping[str, Any] = _NOTHING, beside: Tensors = EMPTY
) -> bytes:
    """Return `state` as a safetensors file whose metadata says what it belongs to.

    Args:
        adapter: The adapter whose state it is.
        backbone: The backbone it was learnt with.
        state: The state.
        about: Facts to keep with it, such as the stream and the version; JSON values under text keys.
        beside: Tensors to keep with it that are no part of it, such as what a guard remembers.
    """
    header = {
        "schema": _SCHEMA,
        "adapter": adapter.name,
        "settings": dataclasses.asdict(adapter),  # type: ignore[call-overload]
        "model": backbone.spec.name,
        "digest": backbone.spec.digest,
        "about": dict(about),
    }
    metadata = {_KEY: json.dumps(header, sort_keys=True, default=_qualified_name)}
    return write_tensors({**state, **ungroup(_BESIDE, beside)}, metadata)


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
    header = read_about(data)
    written = {key: str(header[key]) for key in ("schema", "adapter", "model", "digest")}
    tensors = {name: tensor for name, tensor in _tensors(data).items() if not name.startswith(f"{_BESIDE}/")}
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
    # A count that the writer did not keep yet begins as in a fresh state; one that a newer writer keeps is left out.
    counts = {name: tensor for name, tensor in fresh.items() if name.startswith("count/")}
    known = {name: tensor for name, tensor in tensors.items() if name in fresh or not name.startswith("count/")}
    tensors = counts | known
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in fresh.items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != expected:
        raise ValueError(f"state does not have the tensors that adapter '{adapter.name}' with these settings keeps")
    return {name: tensors[name].to(tensor.device) for name, tensor in fresh.items()}  # a seed stays on the CPU


def read_about(data: bytes) -> dict[str, Any]:
    """Return what a state file says of itself, whatever adapter and model it is of.

    Returns:
        "adapter", its "settings", "model", "digest" of the weights, and "about": the facts that `dump_state` was given.

    Raises:
        ValueError: If the bytes are no such file.
    """
    # safetensors reads metadata from files only; in memory the header is 8 bytes of length, then JSON.
    try:
        outer = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        header: dict[str, Any] = {"about": {}} | json.loads(outer["__metadata__"][_KEY])  # older files have no facts
        if not isinstance(header["about"], dict) or not {"schema", "adapter", "model", "digest"} <= header.keys():
            raise ValueError(_DAMAGED)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(_DAMAGED) from error
    return header


def load_beside(data: bytes) -> dict[str, Tensor]:
    """Return the tensors that were put beside a state, on the CPU; empty if there are none.

    Raises:
        ValueError: If the bytes are no safetensors file.
    """
    return group(_tensors(data), _BESIDE)


def state_digest(state: State) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of a state; equal exactly if the states are, bitwise."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def plain_settings(adapter: Adapter) -> dict[str, Any]:
    """Return the settings of an adapter that are JSON values; others, such as functions, are left out."""
    given = {field.name: getattr(adapter, field.name) for field in dataclasses.fields(adapter)}  # type: ignore[arg-type]
    return {name: value for name, value in given.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _qualified_name(value: object) -> str:
    # A setting may be a function, such as an augmentation: named for the reader, never called from here.
    kind = value if isinstance(value, FunctionType) else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _tensors(data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(_DAMAGED) from error
