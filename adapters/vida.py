"""ViDA: low- and high-rank adapters in a student and its mean teacher, weighted by how unsure the teacher is.

Source: Liu et al., ICLR 2024, arXiv:2306.04344, section 3. Reference: vida/cifar/vida.py.
Differs: adapters are folded into weights, those of convolutions too (see `adapters.low_rank`); only adapters move
unless `scope="all"`; both scales follow the paper, and the uncertainty is that of the teacher with scales of 1, unless
`reference_compat`; without adapters from a reference bundle U = 0, so that a fresh state answers as the source; the
network stays in evaluation mode; `stats="ema"` answers from moving statistics (see `adapters.moments`) and with the
scales of the last step, each row for itself; a step with a non-finite result is dropped whole.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.func import grad_and_value

from tta_server.adapters.augment import Augment, augment, forward_views, spawn
from tta_server.adapters.base import State, Step, accept, group, register, ungroup
from tta_server.adapters.losses import cross_entropy, symmetric_cross_entropy
from tta_server.adapters.low_rank import draw, fold, layers
from tta_server.adapters.moments import Stats, check_rows, check_stats, init_stats, track_stats
from tta_server.adapters.optim import Name, Optimizer
from tta_server.adapters.teacher import RestoreMask, follow, restore, seeded, uniform
from tta_server.models import Backbone, Output, Reference, Tensors

_UNCERTAINTY = 0.1


@register
@dataclass(frozen=True)
class Vida:
    """Visual domain adapters with homeostatic knowledge allotment.

    Attributes:
        lr: Learning rate of the network's own parameters with `scope="all"`, > 0; the paper: 1e-4 (CIFAR).
        lr_adapters: Learning rate of the adapters, > 0; the paper: 1e-5 (CIFAR).
        optimizer: "adam" or "sgd", with its `momentum` or `betas`.
        scope: "adapters" moves only them, "all" every parameter of the network too (the paper).
        targets: Patterns of the layers with adapters, such as "*.attn.*" (the paper); none are all that they fit.
        rank_low: Rank of the low-rank adapters, >= 1.
        rank_high: Rank of the high-rank ones, >= 1, cut to what a layer has; the paper: 128.
        mt: How much of its own parameters the teacher keeps at each step, in [0, 1].
        mt_adapters: How much of its adapters, likewise.
        threshold: Uncertainty from which the high rank counts more and the low rank less, >= 0.
        views: Augmented views that the uncertainty is the variance over, >= 2.
        rst: Share of the student that each step puts back to where it began, in [0, 1].
        symmetric: Whether the loss is the mean of both cross entropies (the paper's ImageNet experiments).
        reference_compat: Whether to do as the authors' code does: the high-rank scale stays 1, and the uncertainty is
            that of the teacher with the scales of the last step.
        stats: "batch" answers each batch from its own statistics, "ema" from the stream's moving ones.
        stats_momentum: Share of a new batch in the moving statistics, in (0, 1]; None chooses it per layer.
        augment: Makes a view from (images, index, CPU generator); replaced in tests.
        restore_mask: Draws in [0, 1) from (parameter name, its value, generator), compared with `rst`; likewise.
        seed: Of a fresh state, its adapters included.
    """

    lr: float = 1e-4
    lr_adapters: float = 1e-4
    optimizer: Name = "adam"
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    scope: Literal["adapters", "all"] = "adapters"
    targets: tuple[str, ...] = ()
    rank_low: int = 1
    rank_high: int = 16
    mt: float = 0.999
    mt_adapters: float = 0.999
    threshold: float = 0.2
    views: int = 10
    rst: float = 0.1
    symmetric: bool = False
    reference_compat: bool = False
    stats: Stats = "ema"
    stats_momentum: float | None = None
    augment: Augment = augment
    restore_mask: RestoreMask = uniform
    seed: int = 0

    name: ClassVar[str] = "vida"
    requires: ClassVar[frozenset[str]] = frozenset({"grad"})
    output_kind: ClassVar[str] = "logits"
    stackable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_stats(self.stats, self.stats_momentum)
        for lr in (self.lr, self.lr_adapters):
            self._optimizer(lr)
        if self.scope not in ("adapters", "all"):
            raise ValueError(f"scope must be 'adapters' or 'all', got '{self.scope}'")
        if self.rank_low < 1 or self.rank_high < 1 or self.views < 2:
            got = f"{self.rank_low}, {self.rank_high} and {self.views}"
            raise ValueError(f"rank_low and rank_high must be >= 1 and views >= 2, got {got}")
        if not all(0 <= share <= 1 for share in (self.mt, self.mt_adapters, self.rst)):
            got = f"{self.mt}, {self.mt_adapters} and {self.rst}"
            raise ValueError(f"mt, mt_adapters and rst must be in [0, 1], got {got}")
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be >= 0, got {self.threshold}")

    @property
    def batch_coupled(self) -> bool:
        """Whether rows of one forward share their statistics and the scales."""
        return self.stats == "batch"

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return student and teacher, the adapters they began with, empty slots, scales of 1, statistics and a seed.

        Raises:
            ValueError: If no layer can have adapters, or those of the bundle's part `vida` are for other layers.
        """
        fitting = layers(backbone, self.targets)
        source = draw(fitting, (self.rank_low, self.rank_high), torch.Generator().manual_seed(self.seed))
        if reference and "vida" in reference.parts:
            source = _given(source, reference.part("vida"))
        begun = {**(backbone.weights() if self.scope == "all" else {}), **source}
        theta, teacher = ({name: tensor.clone() for name, tensor in begun.items()} for _ in range(2))
        scales = {name: next(iter(source.values())).new_ones(()) for name in ("low", "high")}
        state = ungroup("theta", theta) | ungroup("teacher", teacher) | ungroup("source", source)
        state |= self._optimizer(self.lr).init(theta) | ungroup("scale", scales)
        state |= init_stats(backbone) if self.stats == "ema" else {}
        return state | {"seed": torch.tensor(self.seed, dtype=torch.int64)}

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W) with the teacher."""
        if self.stats == "ema":
            overrides = fold(backbone, group(state, "teacher"), group(state, "scale"))
            return backbone.forward(x, overrides | group(state, "stats"))
        return self._answer(backbone, state, x, seeded(state))[0]

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Take one step of the student on `x` (N, C, H, W) and let the teacher follow."""
        generator = seeded(state)
        target, scales, uncertainty = self._answer(backbone, state, x, generator)
        compare = symmetric_cross_entropy if self.symmetric else cross_entropy

        def loss(theta: Tensors) -> Tensor:
            logits = backbone.forward(x, fold(backbone, theta, scales), "batch").logits
            return compare(target.logits, logits).mean()

        gradients, value = grad_and_value(loss)(group(state, "theta"))
        new = self._move(backbone, state, gradients, spawn(generator, x.device))
        new |= track_stats(state, target.moments, self.stats_momentum)
        new |= ungroup("scale", scales) | {"seed": state["seed"] + 1}
        kept, accepted = accept(state, new, torch.ones((), dtype=torch.bool, device=x.device))
        return Step(kept, target, {"accepted": accepted, "loss": value, "uncertainty": uncertainty})

    def _answer(
        self, backbone: Backbone, state: State, x: Tensor, generator: torch.Generator
    ) -> tuple[Output, dict[str, Tensor], Tensor]:
        """Return the teacher's answer on the batch's statistics, the scales for it, and the uncertainty they follow."""
        if self.stats == "batch":
            check_rows(backbone, x)
        teacher, last = group(state, "teacher"), group(state, "scale")
        asked = last if self.reference_compat else {kind: torch.ones_like(scale) for kind, scale in last.items()}
        overrides = fold(backbone, teacher, asked)
        views = forward_views(backbone, x, self.views, self.augment, generator, overrides, "batch")
        uncertainty = (_UNCERTAINTY * views.logits.var(0).mean()).to(last["low"])
        tilt = torch.where(uncertainty >= self.threshold, uncertainty, -uncertainty)
        scales = {"low": 1 - tilt, "high": torch.ones_like(tilt) if self.reference_compat else 1 + tilt}
        return backbone.forward(x, fold(backbone, teacher, scales), "batch"), scales, uncertainty

    def _move(
        self, backbone: Backbone, state: State, gradients: Tensors, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return student, teacher and slots after the step; the teacher follows before anything is restored."""
        theta, teacher, source = group(state, "theta"), group(state, "teacher"), group(state, "source")
        own = [name for name in theta if name not in source]
        moved: dict[str, Tensor] = {}
        new: dict[str, Tensor] = {}
        for names, lr, keep in ((own, self.lr, self.mt), (list(source), self.lr_adapters, self.mt_adapters)):
            part = {name: theta[name] for name in names}
            part, slots = self._optimizer(lr).step(part, {name: gradients[name] for name in names}, state)
            moved |= part
            new |= slots | ungroup("teacher", follow({name: teacher[name] for name in names}, part, keep))
        begun = {**backbone.weights(), **source}
        return new | ungroup("theta", restore(moved, begun, self.rst, self.restore_mask, generator))

    def _optimizer(self, lr: float) -> Optimizer:
        return Optimizer(self.optimizer, lr, self.momentum, self.betas)


def _given(expected: Tensors, given: Tensors) -> dict[str, Tensor]:
    """Return the adapters that a bundle gives, in the order and on the device of those expected."""
    if {name: tensor.shape for name, tensor in given.items()} != {n: t.shape for n, t in expected.items()}:
        raise ValueError(
            "the adapters in the reference bundle are for other layers or ranks; set targets, rank_low and rank_high "
            "as when they were made"
        )
    return {name: given[name].to(tensor, copy=True) for name, tensor in expected.items()}
