"""How long one way of running a network takes of another's time."""

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tta_server.models.backbone import EMPTY, Backbone, Tensors, replaceable

_ROWS = 1, 8
_TRIALS, _LONGEST_S = range(5, 16), 1.0  # of each way, and of one number of rows; more than the fewest if that is short


def compare(other: Backbone, backbone: Backbone) -> float:
    """Return how long `other` takes of `backbone`'s time, for the source and a stream, with one image and eight."""
    shares, moved = [], replaceable(backbone)
    for rows in _ROWS:
        x = torch.rand(rows, *backbone.spec.input_shape).to(backbone.device)
        for overrides in (EMPTY, moved):
            first, second = _timed([_run(each, x, overrides) for each in (other, backbone)])
            shares.append(first / second)
    return math.exp(sum(map(math.log, shares)) / len(shares))


def _run(backbone: Backbone, x: Tensor, overrides: Tensors) -> Callable[[], Tensor]:
    return lambda: backbone.forward(x, overrides).logits.sum().cpu()  # of a GPU, the time until it is done


def _timed(ways: Sequence[Callable[[], Tensor]]) -> list[float]:
    """Return the least time of each way in seconds, one after the other again and again: neighbours only add to it."""
    times: list[list[float]] = [[] for _ in ways]
    end = math.inf
    for trial in range(_TRIALS.stop):
        for way, taken in zip(ways, times, strict=True):
            started = time.perf_counter()
            way()
            taken.append(time.perf_counter() - started)
        if trial == 0:  # the first is not like the others
            times, end = [[] for _ in ways], time.perf_counter() + _LONGEST_S
        elif trial >= _TRIALS.start and time.perf_counter() > end:
            break
    return [min(taken) for taken in times]
