"""Try a network before it is served: whether rows keep apart, and streams in one forward.

What others send must not show in an answer. Both trials therefore run the same shapes twice with other neighbours:
then the same kernels run, and whatever differs is not rounding.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from tta_server.models.backbone import Backbone, Findings, Output, Statistics, Tensors, random_images
from tta_server.models.gradient import differentiate
from tta_server.models.own_state import OwnStateError
from tta_server.models.reason import reason
from tta_server.models.stacked import stacked

log = logging.getLogger(__name__)

_ROWS = 4
_MANY, _LARGE = 64, 5_000_000  # images of one forward, but of large ones fewer: so many numbers, if that is more than 8
_TIGHT = 1e-6  # of the scale: equal shapes, other neighbours
_LOOSE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of the scale: other shapes, whose kernels round differently
_HALF = 0.1


def probe(backbone: Backbone, trial: Callable[[], AbstractContextManager[None]]) -> Findings:
    """Return what a few forwards of random images show of a network; the same each time.

    Args:
        backbone: The network.
        trial: Around forwards, after which the network is as it was.
    """
    generator = torch.Generator().manual_seed(0)
    shape = backbone.spec.input_shape
    # Images that differ in brightness and contrast too: what is mixed must show.
    levels = torch.linspace(0.15, 1, 3 * _ROWS).view(-1, 1, 1, 1)
    x = (torch.rand(3 * _ROWS, *shape, generator=generator) * levels).to(backbone.device)
    kept: Sequence[Any] = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(kept), torch.no_grad():
        with trial():
            many = _among_many(backbone, x[:_ROWS])
        with trial():
            return _findings(backbone, x, many, generator)


def reached(run: Callable[[Tensors], Output], parameters: Tensors, wanted: Sequence[str]) -> tuple[bool, bool]:
    """Return whether what a network says has a gradient, and whether that reaches one of the wanted parameters.

    Args:
        run: Returns what the network says if it has these parameters.
        parameters: All that it has.
        wanted: Names of some; no others have their gradients computed, which are as large as they are.
    """
    grad, some = _reached(run, parameters, wanted)
    if not grad:  # it may take none of all that it has, as one that writes parameters in its forward
        grad = some = _reached(run, {name: parameters[name] for name in wanted}, wanted)[1]
    return grad, some


def _reached(run: Callable[[Tensors], Output], given: Tensors, wanted: Sequence[str]) -> tuple[bool, bool]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.items() if tensor.is_floating_point()}
    inputs = [leaves[name] for name in wanted if name in leaves]
    try:
        with torch.enable_grad():
            said = run(leaves).logits.sum()
            slopes = torch.autograd.grad(said, inputs, allow_unused=True) if inputs and said.requires_grad else ()
    except Exception as error:  # a network may have no gradient at all, and say so as it likes
        log.debug("no gradient: %s", error)
        return False, False
    return said.requires_grad, any(slope is not None for slope in slopes)


def is_normalised(run: Callable[[], Output]) -> bool:
    """Return whether a BatchNorm layer is run for an answer; what a network only keeps moves nothing.

    Args:
        run: Answers by the statistics of a batch.
    """
    try:
        return bool(run().moments)
    except Exception as error:  # a network raises whatever it likes
        log.debug("not normalised by a batch: %s", error)
        return True


def equal(one: Backbone, other: Backbone) -> bool:
    """Say whether two backbones answer a few random images alike, bit for bit."""
    x = random_images(one, _ROWS)
    with torch.no_grad():
        return all(map(torch.equal, _parts(one.forward(x)), _parts(other.forward(x))))


def _findings(backbone: Backbone, x: Tensor, many: Sequence[Tensor], generator: torch.Generator) -> Findings:
    remarks: dict[str, str] = {}
    base, again = (_parts(backbone.forward(x[:_ROWS])) for _ in range(2))
    if _differ(base, again, _TIGHT):
        remarks["repeats"] = "no: it answers the same images differently each time, so that no replay can be exact"
        remarks["rows"] = remarks["stacking"] = "cannot be compared: every request has a forward of its own"
        return Findings(apart=False, stacks=False, repeats=False, remarks=remarks)
    wrong = _mixed_rows(backbone, x, base, many)
    if wrong:
        remarks["rows"] = f"{wrong}: every request has a forward of its own"
        remarks["stacking"] = "off: rows are not apart"
        return Findings(apart=False, stacks=False, remarks=remarks)
    remarks["rows"] = "apart: requests share a forward"
    wrong = _mixed_streams(backbone, x, generator)
    remarks["stacking"] = f"off: {wrong}; streams take turns" if wrong else "on: streams share a forward and a step"
    return Findings(stacks=not wrong, remarks=remarks)


def _among_many(backbone: Backbone, x: Tensor) -> tuple[Tensor, ...]:
    """Return what a network says of images among as many as a forward may have; nothing if that is too many here."""
    rows = min(_MANY, max(2 * _ROWS, _LARGE // x[0].numel()))
    try:
        output = backbone.forward(torch.cat([x, random_images(backbone, rows)[len(x) :]]))
    except OwnStateError:
        raise
    except Exception as error:  # the server will say so of the number that it is set to
        log.debug("%s images were too many: %s", rows, error)
        return ()
    return tuple(part[: len(x)] for part in _parts(output))


def _mixed_rows(backbone: Backbone, x: Tensor, base: Sequence[Tensor], many: Sequence[Tensor]) -> str:
    """Say how rows of a forward depend on others; empty if they do not."""
    half = _ROWS // 2
    for own in (slice(half), slice(half, _ROWS)):
        mixed = x[_ROWS : 2 * _ROWS].clone()
        mixed[own] = x[own]
        found = _parts(backbone.forward(mixed))
        if _differ([part[own] for part in base], [part[own] for part in found], _TIGHT):
            return "a row's answer depends on the other rows of its forward"
    order = torch.arange(_ROWS - 1, -1, -1, device=x.device)
    if _differ([part[order] for part in base], _parts(backbone.forward(x[order])), _loose(base)):
        return "a row's answer depends on its place among the rows"
    alone = _parts(backbone.forward(x[:1]))
    if _differ([part[:1] for part in base], alone, _loose(base)) or (many and _differ(base, many, _loose(base))):
        return "a row's answer depends on the number of rows"
    return ""


def _mixed_streams(backbone: Backbone, x: Tensor, generator: torch.Generator) -> str:
    """Say how streams that share a forward differ from each alone; empty if they do not."""
    affine = backbone.norm_affine()
    states = [_moved(affine, generator) | _moved(backbone.norm_stats(), generator) for _ in range(3)]
    windows = list(x[: 3 * (_ROWS // 2)].chunk(3))
    try:
        for statistics in ("stored", "batch"):
            base = _together(backbone, states[:2], windows[:2], statistics)
            for slot in (0, 1):
                others = [states[2], states[2]], [windows[2], windows[2]]
                others[0][slot], others[1][slot] = states[slot], windows[slot]
                found = _together(backbone, *others, statistics)
                if _differ([part[slot] for part in base], [part[slot] for part in found], _TIGHT):
                    return "a stream's answer depends on the streams beside it"
                alone = _parts(backbone.forward(windows[slot], states[slot], statistics))
                if _differ([part[slot] for part in base], alone, _loose(base)):
                    return "a stream does not answer beside others as it does alone"
        slopes = _slopes(backbone, states[:2], windows[:2], list(affine))
        for slot in (0, 1):
            alone = _slopes(backbone, [states[slot]] * 2, [windows[slot]] * 2, list(affine))
            if _differ([part[slot] for part in slopes], [part[slot] for part in alone], 10 * _TIGHT):
                return "what a stream learns depends on the streams beside it"
    except UserWarning as error:
        unknown = re.search("rule for ([a-z0-9_:]+)", str(error))
        return f"torch cannot stack {unknown[1] if unknown else 'an operator'}"
    except Exception as error:  # a network may do what cannot be stacked
        return reason(error).partition(". ")[0][:160]
    return ""


def _together(
    backbone: Backbone, states: Sequence[Tensors], windows: Sequence[Tensor], statistics: Statistics
) -> tuple[Tensor, ...]:
    network = stacked(backbone)

    def run(state: Tensors, window: Tensor) -> tuple[Tensor, ...]:
        return _parts(network.forward(window, state, statistics))

    with _stacking(windows[0]):
        found: tuple[Tensor, ...] = vmap(run)(_stack(states), torch.stack(list(windows)))
        return found


def _slopes(
    backbone: Backbone, states: Sequence[Tensors], windows: Sequence[Tensor], learnt: Sequence[str]
) -> tuple[Tensor, ...]:
    network = stacked(backbone)

    def run(state: Tensors, window: Tensor) -> Tensors:
        def loss(theta: Tensors) -> tuple[Tensor, tuple[()]]:
            logits = network.forward(window, {**state, **theta}, "batch").logits.float()
            return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean(), ()

        return differentiate(loss, {name: state[name] for name in learnt})[0]

    if not learnt:
        return ()
    with _stacking(windows[0]):
        found: Tensors = vmap(run)(_stack(states), torch.stack(list(windows)))
    flat = torch.cat([found[name].flatten(1).float() for name in learnt], 1)
    return (flat.detach(),)


@contextmanager
def _stacking(x: Tensor) -> Iterator[None]:
    """Let nothing be stacked on a CPU that `vmap` takes stream by stream: there it is faster to take turns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if x.is_cuda else "error")
        yield


def _stack(states: Sequence[Tensors]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _moved(tensors: Tensors, generator: torch.Generator) -> dict[str, Tensor]:
    """Return tensors that differ from these, in each stream otherwise; variances stay positive."""

    def factor(like: Tensor) -> Tensor:
        return (torch.rand(like.shape, generator=generator) + 0.5).to(like)

    return {name: tensor * factor(tensor) for name, tensor in tensors.items()}


def _parts(output: Output) -> tuple[Tensor, ...]:
    # As one: the mean of some channels is nothing but rounding.
    moments = [torch.cat([tensor.float() for tensor in output.moments.values()])] if output.moments else []
    return output.logits, output.features, *moments


def _differ(left: Sequence[Tensor], right: Sequence[Tensor], share: float) -> bool:
    """Return whether any pair differs by more than a share of its largest value; what is no number equals itself."""
    for one, other in zip(left, right, strict=True):
        a, b = one.double(), other.double()
        least = share * float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0
        if not torch.allclose(a, b, rtol=0.0, atol=least, equal_nan=True):
            return True
    return False


def _loose(parts: Sequence[Tensor]) -> float:
    kind = parts[0].dtype
    # On a GPU float32 may be computed with ten bits.
    return _HALF if kind not in _LOOSE else 3e-2 if parts[0].is_cuda and kind == torch.float32 else _LOOSE[kind]
