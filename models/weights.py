"""Read weights from files that cannot run code."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "model.")


def read_weights(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a torch file with `weights_only=True`.

    Args:
        path: The file. A torch file may hold the state dict in a dict, as "state_dict", "model_state_dict" or "model".
        sha256: Expected digest of the file in hex, of any case; empty is not checked.

    Returns:
        The tensors on the CPU.

    Raises:
        ValueError: If the file is missing, differs from `sha256`, or holds anything but tensors.
    """
    if not path.is_file():
        raise ValueError(f"weights file '{path}' does not exist; this server never downloads weights")
    if sha256:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise ValueError(f"weights file '{path}' has sha256 {found}, expected {sha256.lower()}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever the damage leads to
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"weights file '{path}' cannot be read as plain tensors ({reason}); save the network's state_dict()"
        ) from error
    return _tensors(path, loaded)


def load_weights(module: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Copy `weights` into `module`; every name and shape must match.

    Args:
        module: The network.
        weights: Its state dict; "module." or "model." in front of every name is taken off.
        origin: What to call the weights in an error.

    Raises:
        ValueError: If names or shapes differ; the message gives the first of them.
    """
    own = module.state_dict()
    for prefix in _PREFIXES:
        # A network may itself keep everything under such a name.
        if all(name.startswith(prefix) for name in weights) and not all(name.startswith(prefix) for name in own):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    # Counters of training steps: some exporters drop them, and nothing here reads them.
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in weights if name not in own]
    shapes = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or unexpected:
        raise ValueError(
            f"weights '{origin}' do not fit the network: {len(missing)} tensors are missing{_first(missing)} "
            f"and {len(unexpected)} are unknown{_first(unexpected)}"
        )
    if shapes:
        name = shapes[0]
        raise ValueError(
            f"weights '{origin}' do not fit the network: '{name}' has shape {tuple(weights[name].shape)}, "
            f"expected {tuple(own[name].shape)}; check the number of classes"
        )
    module.load_state_dict(weights, strict=False)


def _tensors(path: Path, loaded: object) -> dict[str, Tensor]:
    for _ in _WRAPPERS:  # wrapped at most that deep: a hostile file may hold itself
        if isinstance(loaded, dict):
            loaded = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"weights file '{path}' holds no state dict; save the network's state_dict()")
    return {str(name): tensor for name, tensor in loaded.items()}


def _first(names: list[str]) -> str:
    return f" ('{names[0]}' first)" if names else ""
