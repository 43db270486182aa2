"""Read weights from files that cannot run code."""

import copy
import hashlib
import logging
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tta_server.models.reason import reason
from tta_server.models.ties import Ties

log = logging.getLogger(__name__)

# What training scripts call the weights, the likeliest first, and those that were averaged over training.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
_AVERAGED = ("model_ema", "ema", "ema_state_dict", "state_dict_ema", "model_ema_state_dict", "ema_model", "params_ema")
_DEEPEST = 4  # a hostile file may hold itself
# What compilers and wrappers put into the names of layers.
_INSERTED = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_IGNORED = ("num_batches_tracked", "_extra_state")
# What torchvision.models.densenet makes of the names in its own files, which are older than its layers' names.
_DOTTED = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))")


class _Skipped:
    """What stands for a number of numpy's in a file, beside the weights: it is not read, so nothing of numpy's runs."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_NUMBERS: list[Any] = [
    (_Skipped, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
]


def read_weights(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Read a state dict from a safetensors file, or from a torch file with `weights_only=True`.

    Args:
        path: The file. A torch file may hold the state dict within dicts, as training scripts save it; averaged
            weights are preferred to those they were averaged from, and the log says so.
        sha256: Expected digest of the file in hex, of any case; empty is not checked.

    Returns:
        The tensors on the CPU, with the versions of its layers that a torch file has, where torch keeps them.

    Raises:
        ValueError: If the file is missing, differs from `sha256`, or holds anything but tensors.
    """
    check_file(path, sha256)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_NUMBERS):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever the damage leads to
        raise ValueError(f"weights file '{path}' {_unreadable(path, str(error))}") from error
    return _tensors(path, loaded)


def check_file(path: Path, sha256: str = "") -> None:
    """Refuse a file that is missing or has another digest.

    Raises:
        ValueError: If it does not exist, or differs from `sha256`, in hex of any case; empty is not checked.
    """
    if not path.is_file():
        raise ValueError(f"weights file '{path}' does not exist; this server never downloads weights")
    if sha256:
        found = digest(path)
        if found != sha256.lower():
            raise ValueError(f"weights file '{path}' has sha256 {found}, expected {sha256.lower()}")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(module: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Copy `weights` into `module`; every name and shape must match, once the network's own loading has renamed them.

    Args:
        module: The network.
        weights: Its state dict, as `read_weights` returns it. What wrappers put in front of names, such as "module." or
            "model.", is taken off; tensors that do not have it, such as those of a loss, are left out then. Averaged
            weights are preferred.
        origin: What to call the weights in an error.

    Raises:
        ValueError: If names, shapes or kinds of numbers differ; the message gives the first of them.
    """
    state = module.state_dict()  # a network may have one of its own, with names that its layers do not have
    own = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    alike = _alike(module, own)
    weights = _filled(alike, _renamed(module, own, _as_in(alike, weights, origin), weights))
    missing, unexpected = _misfits(own, weights)
    both = [name for name in own if name in weights]
    shapes = [name for name in both if own[name].shape != weights[name].shape]
    kinds = [name for name in both if _kind(own[name]) and _kind(own[name]) != _kind(weights[name])]
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
    if kinds:
        name = kinds[0]
        raise ValueError(
            f"weights '{origin}' do not fit the network: '{name}' is of {_type(weights[name])}, expected "
            f"{_type(own[name])}; save them as they were before they were quantised"
        )
    named = OrderedDict(weights)
    # Some networks ask which version of their layout a file has, which few files say; names and shapes are today's.
    named._metadata = getattr(state, "_metadata", {})  # type: ignore[attr-defined]
    try:
        found = module.load_state_dict(named, strict=False)
    except Exception as error:  # a network may have a way of its own
        raise ValueError(f"weights '{origin}' cannot be loaded by the network: {reason(error)}") from error
    left = [name for name in getattr(found, "missing_keys", ()) if not name.endswith(_IGNORED)]
    if left:
        raise ValueError(
            f"weights '{origin}' are named by the network's own state_dict, but its load_state_dict leaves "
            f"{len(left)} tensors as they were{_first(left)}; have both use the same names"
        )


def _alike(module: nn.Module, own: Mapping[str, Tensor]) -> list[list[str]]:
    """Return the names of a network's tensors, those of the same tensor together."""
    ties, alike = Ties(module), dict[str, list[str]]()
    for name in own:
        alike.setdefault(ties.first(name), []).append(name)
    return list(alike.values())


def _filled(alike: Sequence[Sequence[str]], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` with a tensor under each of its names.

    safetensors keeps one of them: its `save_file` refuses the others, and its `save_model` leaves them out.
    """
    given = [(names, next((weights[name] for name in names if name in weights), None)) for names in alike]
    return {name: tensor for names, tensor in given if tensor is not None for name in names} | weights


def _as_in(alike: Sequence[Sequence[str]], weights: dict[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Return the tensors of `weights` under the names that the network has for them, as far as that can be seen."""
    if not any(_INSERTED.search(name) for names in alike for name in names):
        weights = {_INSERTED.sub("", name): tensor for name, tensor in weights.items()}
    needed = [names for names in alike if not names[0].endswith(_IGNORED)]
    whole = [[name] for names in needed for name in names]  # of a file with every name, as most are
    if not needed or _fits(needed, weights, ""):
        return weights
    fitting = _fronts(whole, weights)
    if not fitting:  # a front and the path of a layer that the network has twice look like another front
        some = _fronts(needed, weights)
        fitting = [front for front in some if not any(front != other and front.startswith(other) for other in some)]
    if not fitting:  # the message that follows then counts what is missing under the names that are there
        common = [front for front in ("module.", "model.") if all(name.startswith(front) for name in weights)]
        return {name.removeprefix(common[0]): tensor for name, tensor in weights.items()} if common else weights
    averaged = [front for front in fitting if "ema" in re.split("[._]", front) or "averaged" in front]
    if len(fitting) > 1 and len(averaged) != 1:
        raise ValueError(
            f"weights '{origin}' hold several networks that fit, under {', '.join(map(repr, fitting))}; save the "
            "state_dict() of the one to serve"
        )
    front = (averaged or fitting)[0]
    if len(fitting) > 1:
        log.warning("weights '%s': those under '%s' are served, as averaged over training", origin, front)
    known = (*fitting, "n_averaged")  # a count that torch's AveragedModel keeps
    strange = [name for name in weights if not name.startswith(known)]
    if strange:
        log.warning("weights '%s': %d tensors beside the network are left out%s", origin, len(strange), _first(strange))
    return {name.removeprefix(front): tensor for name, tensor in weights.items() if name.startswith(front)}


def _fits(needed: Sequence[Sequence[str]], weights: Mapping[str, Tensor], front: str) -> bool:
    """Return whether there is a tensor for each of these, by one of its names behind `front`."""
    return all(any(f"{front}{name}" in weights for name in names) for names in needed)


def _fronts(needed: Sequence[Sequence[str]], weights: Mapping[str, Tensor]) -> list[str]:
    """Return what may stand in front of the names of a network in a file."""
    ends = {found.removesuffix(name) for name in needed[0] for found in weights if found.endswith(name)}
    return sorted(front for front in ends if front.endswith(".") and _fits(needed, weights, front))


def _renamed(
    module: nn.Module, own: Mapping[str, Tensor], weights: dict[str, Tensor], file: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return `weights` under the names that the network's own loading gives those of its older files.

    Args:
        module: The network, which stays as it is.
        own: Its tensors.
        weights: The file's, without what wrappers put in front of names.
        file: The file's, as it was read.
    """
    if not any(_misfits(own, weights)):
        return weights
    renamed = {_DOTTED.sub(r"\1\2", name): tensor for name, tensor in weights.items()}
    if any(_misfits(own, renamed)):
        first = next(iter(weights), "")
        front = next((name.removesuffix(first) for name in file if name.endswith(first)), "")
        versions = getattr(file, "_metadata", {})
        try:
            tried = copy.deepcopy(module)
            for path, layer in tried.named_modules(remove_duplicate=False):
                local = dict(versions.get(f"{front}{path}".rstrip("."), {}))
                layer._load_from_state_dict(renamed, f"{path}." if path else "", local, False, [], [], [])
        except Exception as error:  # layers refuse what they do not know as they like
            log.debug("weights are not renamed: %s", error)
    return min((weights, renamed), key=lambda each: sum(map(len, _misfits(own, each))))


def _misfits(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Return the names of tensors that are missing in `weights`, and of those that the network does not have."""
    # Counters of training steps: some exporters drop them, and nothing here reads them.
    missing = [name for name in own if name not in weights and not name.endswith(_IGNORED)]
    return missing, [name for name in weights if name not in own and not name.endswith(_IGNORED)]


def _kind(tensor: Tensor) -> str:
    """Return "real" or "complex" of what is cast within its kind only, empty of whole numbers."""
    return "complex" if tensor.is_complex() else "real" if tensor.is_floating_point() else ""


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensors(path: Path, loaded: object) -> dict[str, Tensor]:
    for _ in range(_DEEPEST):
        if not isinstance(loaded, dict) or _is_state(loaded):
            break
        inside = {str(key): value for key, value in loaded.items() if isinstance(value, dict) and value}
        averaged = [name for name in _AVERAGED if name in inside]
        usual = [name for name in _WRAPPERS if name in inside]
        others = [name for name, value in inside.items() if _is_state(value)]
        if averaged and (usual or others != averaged[:1]):
            log.warning("weights file '%s': '%s' is served, as averaged over training", path, averaged[0])
        if not averaged and not usual and len(others) > 1:
            raise ValueError(
                f"weights file '{path}' holds several state dicts, {', '.join(map(repr, others))}; save the "
                "state_dict() of the one to serve"
            )
        chosen = averaged or usual or others or list(inside)[:1]
        if not chosen:
            break
        loaded = inside[chosen[0]]
    if isinstance(loaded, dict) and any("_packed_params" in str(name) for name in loaded):
        raise ValueError(
            f"weights file '{path}' is of quantised layers, which do not keep plain tensors; have a factory build the "
            "network and load them into it, and name no weights"
        )
    if not _is_state(loaded):
        raise ValueError(f"weights file '{path}' holds no state dict; save the network's state_dict()")
    state = cast(dict[str, object], loaded)
    found = OrderedDict((name, tensor) for name, tensor in state.items() if isinstance(tensor, Tensor))
    versions = getattr(state, "_metadata", None)
    found._metadata = versions if isinstance(versions, dict) else {}  # type: ignore[attr-defined]
    return found


def _is_state(value: object) -> bool:
    """Return whether this is a state dict: names and tensors, and perhaps what layers keep beside them."""
    if not isinstance(value, dict) or not value:
        return False
    kept = {name: one for name, one in value.items() if not str(name).endswith("_extra_state")}
    return all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in kept.items()) and bool(kept)


def _unreadable(path: Path, reason: str) -> str:
    """Say what kind of file this is, if that can be seen, and what to do."""
    remedy = "save the network's state_dict()"
    needs = re.search(r"GLOBAL (\S+)", reason)
    if needs:
        return f"cannot be read as plain tensors: it holds '{needs[1]}', which could run code; {remedy} alone"
    if path.suffix == ".onnx":
        return f"is an ONNX file, which cannot be read as plain tensors; {remedy}"
    names = _archived(path)
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        return f"is a TorchScript archive, which cannot be read as plain tensors; {remedy}, or serve it by --model"
    if any(name.endswith("archive_format") for name in names):
        return f"is an exported program, which cannot be read as plain tensors; {remedy}, or serve it by --model"
    return f"cannot be read as plain tensors ({reason.splitlines()[0] if reason else 'damaged'}); {remedy}"


def _archived(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # it may be damaged in any way, or be no archive
        return []


def _first(names: list[str]) -> str:
    return f" ('{names[0]}' first)" if names else ""
