"""What a law is, and what laws measure with."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tta_server.adapters.base import State
from tta_server.adapters.laws.subject import Subject

Law = Callable[..., None]

LAWS: list[Law] = []
"""Every law: a function of a subject."""


class BrokenLawError(AssertionError):
    """An adapter breaks a law; the message says which, and how."""


def law(function: Law) -> Law:
    """Put a function among the laws; whatever goes wrong in it names the adapter and the law."""

    @wraps(function)
    def named(subject: Subject, *arguments: Any, **named_arguments: Any) -> None:  # noqa: ANN401
        try:
            function(subject, *arguments, **named_arguments)
        except Exception as error:
            how = str(error) if isinstance(error, BrokenLawError) else f"{type(error).__name__}: {error}"
            broken = f"adapter '{subject.adapter.name}' breaks the law '{function.__name__}': {how}"
            raise BrokenLawError(broken) from error

    LAWS.append(named)
    return named


def must(holds: bool, otherwise: str) -> None:
    """Break the law unless it `holds`."""
    if not holds:
        raise BrokenLawError(otherwise)


class Operators(TorchDispatchMode):
    """Remember the names of the operators that run."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Run one operator."""
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))

    def waits(self) -> list[str]:
        """Return those that make the host wait for the device."""
        return self._such("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def draws(self) -> list[str]:
        """Return those that draw random numbers."""
        return self._such("rand", "uniform", "normal", "bernoulli", "multinomial", "exponential")

    def _such(self, *beginnings: str) -> list[str]:
        return sorted(name for name in self.names if name.startswith(beginnings))


def bits(state: State) -> dict[str, bytes]:
    """Return the exact content of a state, for bitwise comparison."""
    flat = {name: tensor.detach().cpu().contiguous().reshape(-1) for name, tensor in state.items()}
    return {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in flat.items()}


def layout(state: State) -> list[tuple[str, torch.Size, torch.dtype, torch.device]]:
    """Return what never changes of a state."""
    return [(name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in state.items()]


def finite(state: State) -> bool:
    """Return whether every number in a state is."""
    return all(bool(tensor.isfinite().all()) for tensor in state.values())
