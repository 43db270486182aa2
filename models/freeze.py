"""A copy of a network that nobody else has, in evaluation mode."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from tta_server.models.affine_norm import has_statistics, own_parameters
from tta_server.models.reason import reason


def freeze(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of `module` in evaluation mode, without gradients, whose norms share no tensor with each other.

    Norms that are tied in training are equal when they are frozen; apart, each can follow its own statistics.

    Raises:
        ValueError: If the network cannot be copied, or a parameter is not finite.
    """
    module = bare(module)
    try:
        frozen = copy.deepcopy(module, dict(_computed(module))).to(device).eval().requires_grad_(False)
    except Exception as error:  # a network may hold anything
        raise ValueError(
            f"network {type(module).__name__} cannot be copied ({reason(error)}); keep what is not a tensor out of it"
        ) from error
    for path, layer in list(frozen.named_modules(remove_duplicate=False)):
        if isinstance(layer, _SPREAD):
            parent, _, attribute = path.rpartition(".")
            setattr(frozen.get_submodule(parent), attribute, _unwrapped(layer))
    _untie(frozen)
    if wrong := _not_finite(dict(frozen.named_parameters())):
        raise ValueError(f"network {type(module).__name__} cannot be served: {wrong}")
    return frozen


def bare(module: nn.Module) -> nn.Module:
    """Return the network within what spreads it over devices.

    Raises:
        ValueError: If it is a script, or was not initialised yet.
    """
    module = _unwrapped(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            "the network is a ScriptModule, of which nothing can be changed: save it with torch.jit.save and name the "
            ".pt file, or give the nn.Module that it was made of"
        )
    for path, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise ValueError(
                f"layer '{path}' is a ScriptModule, of which nothing can be changed: give the nn.Module it was made of"
            )
        if any(is_lazy(tensor) for tensor in (*layer._parameters.values(), *layer._buffers.values())):
            raise ValueError(
                f"layer '{path}' is lazy and was not initialised: run one image through the network in its factory"
            )
    return module


@contextmanager
def left_alone(module: nn.Module, frozen: nn.Module) -> Iterator[None]:
    """Refuse a copy that runs the network that it was made of while the block runs.

    `deepcopy` copies no function: one that holds a network, such as a `forward` defined within a factory, goes on
    running that network, in training mode and whatever the copy is told.

    Raises:
        ValueError: If a layer of `module` runs, or the block fails where a function of the copy holds such a layer.
    """
    own = set(frozen.modules())  # a layer may give itself for its copy
    paths = {layer: path for path, layer in bare(module).named_modules() if layer not in own}
    ran: list[str] = []
    here = threading.get_ident()

    def hear(layer: nn.Module, _: object) -> None:
        if threading.get_ident() == here:  # its owner may use it meanwhile
            ran.append(paths[layer])

    listeners = [layer.register_forward_pre_hook(hear) for layer in paths]
    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever follows from running half of each
        failure = error
    finally:
        for listener in listeners:
            listener.remove()
    if ran:
        raise ValueError(
            f"network {type(frozen).__name__} cannot be served: its forward runs layers ('{ran[0]}' first) of the "
            f"network that it is a copy of; {_METHOD}"
        ) from failure
    if failure and (holder := next(_holders(frozen, paths), "")):
        raise ValueError(f"{failure}; {holder} belongs to the network that this is a copy of: {_METHOD}") from failure
    if failure:
        raise failure


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that layers keep, by their paths, as `nn.Module.state_dict` does; quantised weights, too.

    Not by `state_dict`, which a network may replace by one with other names.
    """
    kept: dict[str, Any] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        layer._save_to_state_dict(kept, f"{path}." if path else "", keep_vars=False)
    found: dict[str, Tensor] = {}
    for name, value in kept.items():
        parts = {f"{name}.{i}": part for i, part in enumerate(value)} if isinstance(value, tuple) else {name: value}
        found |= {path: part for path, part in parts.items() if isinstance(part, Tensor)}
    return found


def damaged(module: nn.Module) -> str:
    """Say which tensor of a network cannot be what was trained; empty if none is seen to be so."""
    named = tensors(module)
    below = (name for name, one in named.items() if name.endswith("running_var") and (one < 0).any())
    negative = next(below, "")
    return _not_finite(named) or (f"'{negative}' is negative in places, as no variance is" if negative else "")


_SPREAD = nn.DataParallel, DistributedDataParallel
_METHOD = "have no function hold a network or a layer, but make it a method, which finds them by self"


def _not_finite(named: dict[str, Tensor]) -> str:
    """Say which tensor has what is no finite number, nor minus infinity as in a mask; empty if none has."""
    for name, one in named.items():
        wide = one if one.itemsize > 1 else one.float()
        if one.is_floating_point() and not (wide < torch.inf).all():
            return f"tensor '{name}' holds what is no finite number; take weights from before training diverged"
    return ""


def _unwrapped(module: nn.Module) -> nn.Module:
    while isinstance(module, _SPREAD):
        module = module.module
    return module


def _holders(frozen: nn.Module, layers: dict[nn.Module, str]) -> Iterator[str]:
    """Name the functions of a network that hold one of `layers`."""
    for path, layer in frozen.named_modules():
        place = f"of layer '{path}'" if path else "of the network"
        hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
        said = [(f"a hook {place}", hook) for hook in hooks]
        said += [(f"'{name}' {place}", value) for name, value in vars(layer).items() if callable(value)]
        for what, function in said:
            held = [*(getattr(function, "__closure__", None) or ()), *(getattr(function, "__defaults__", None) or ())]
            if any(isinstance(one, nn.Module) and one in layers for one in map(_content, held)):
                yield what


def _content(held: Any) -> Any:  # noqa: ANN401
    try:
        return getattr(held, "cell_contents", held)
    except ValueError:  # a name that was given nothing yet
        return None


def _computed(module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Give what `deepcopy` refuses, copied: tensors that were computed from parameters, as weight norm keeps them."""
    for layer in module.modules():
        for value in vars(layer).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                yield id(value), value.detach().clone()


def _untie(module: nn.Module) -> None:
    seen: set[int] = set()
    for layer in module.modules():
        for name, parameter in own_parameters(layer).items():
            if id(parameter) in seen:
                setattr(layer, name, nn.Parameter(parameter.clone(), requires_grad=False))
            seen.add(id(parameter))
        if has_statistics(layer):
            for name, buffer in layer.named_buffers(recurse=False):
                if id(buffer) in seen:
                    setattr(layer, name, buffer.clone())
                seen.add(id(buffer))
