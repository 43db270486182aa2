"""What answers for a network: torch, ONNX Runtime, or the faster of the two on this machine."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from tta_server.models.backbone import EMPTY, Backbone, Tensors
from tta_server.models.onnx_apart import graphs_apart
from tta_server.models.onnx_backbone import OnnxBackbone
from tta_server.models.onnx_export import replaceable
from tta_server.models.torch_backbone import TorchBackbone

Runtime = Literal["torch", "onnx", "auto"]

_ROWS = 1, 8
_TRIALS, _LONGEST_S = range(5, 16), 1.0  # of each way, and of one number of rows; more than the fewest if that is short

SEVERAL: Final = 4
"""From so many images on, `auto` has answer what is faster for 8; before, what is for 1."""


class Chosen(NamedTuple):
    """What answers for a network.

    Attributes:
        backbone: The network, as it answers.
        remark: What runs it, and why.
    """

    backbone: Backbone
    remark: str


def answering(backbone: TorchBackbone, runtime: Runtime, layers: Sequence[str] = ()) -> Chosen:
    """Return what answers for `backbone`; what learns is torch's in any case.

    Args:
        backbone: The network.
        runtime: What is asked for; "auto" takes ONNX Runtime if it is there, says the same, and for as many images as
            it is faster.
        layers: Normalisation layers whose style will be asked for.

    Raises:
        ValueError: If "onnx" is asked for and not possible; the message says why.
    """
    if runtime == "torch":
        return Chosen(backbone, "torch")
    try:
        other = OnnxBackbone(backbone, layers, graphs_apart)
    except ValueError as error:
        if runtime == "onnx":
            raise
        return Chosen(backbone, f"torch: {error}")
    if runtime == "onnx":
        return Chosen(other, f"onnx: {other.about}")
    few, several = (compare(other, backbone, [rows]) for rows in _ROWS)
    taken = f"ONNX Runtime takes {few:.2f} of torch's time of {_ROWS[0]} image and {several:.2f} of {_ROWS[1]} here"
    if min(few, several) >= 1:
        return Chosen(backbone, f"torch: {taken}")
    if max(few, several) < 1:
        return Chosen(other, f"onnx: {other.about}; {taken}")
    other.rows = range(SEVERAL) if few < 1 else range(SEVERAL, sys.maxsize)
    which = "fewer than" if few < 1 else "at least"
    return Chosen(other, f"onnx for {which} {SEVERAL} images, else torch: {other.about}; {taken}")


def compare(other: Backbone, backbone: TorchBackbone, numbers: Sequence[int] = _ROWS) -> float:
    """Return how long `other` takes of `backbone`'s time, for the source and a stream, and each number of images."""
    shares = []
    for rows in numbers:
        x = torch.rand(rows, *backbone.spec.input_shape).to(backbone.device)
        for overrides in (EMPTY, replaceable(backbone)):
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
