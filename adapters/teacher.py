"""What the methods with a mean teacher and stochastic restoration have in common.

Source: Tarvainen & Valpola, NeurIPS 2017, arXiv:1703.01780, equation 1, for the teacher; Wang et al., CVPR 2022,
arXiv:2203.13591, equations 7 and 8, for the restoration. Reference: cotta/cifar/cotta.py.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tta_server.adapters.base import State
from tta_server.models import Tensors

RestoreMask = Callable[[str, Tensor, torch.Generator], Tensor]
"""From a parameter's name, its value and a generator on its device to draws in [0, 1) of its shape."""


def seeded(state: State) -> torch.Generator:
    """Return a CPU generator for one step, from the state's `seed`; that is on the CPU, so nothing waits."""
    return torch.Generator().manual_seed(int(state["seed"].numpy()))


def follow(teacher: Tensors, student: Tensors, keep: float) -> dict[str, Tensor]:
    """Return the teacher moved to the student, but for the share `keep` of itself."""
    return {name: torch.lerp(tensor, student[name], 1 - keep) for name, tensor in teacher.items()}


def uniform(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Return uniform draws in [0, 1) of the shape, type and device of `like`; a `RestoreMask`."""
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def restore(
    tensors: Tensors, source: Tensors, share: float, mask: RestoreMask, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return `tensors` with those elements taken from `source` for which the mask is below `share`."""
    return {
        name: torch.where(mask(name, tensor, generator) < share, source[name], tensor)
        for name, tensor in tensors.items()
    }
