"""ViDA: low- and high-rank adapters in a student and its mean teacher, weighted by how unsure the teacher is.

Source: Liu et al., ICLR 2024, arXiv:2306.04344, section 3. Reference: vida/cifar/vida.py.
Differs: adapters are folded into weights, those of convolutions too (see `adapters.low_rank`); only adapters move
unless `scope="all"`; both scales follow the paper, and the uncertainty is that of the teacher with scales of 1, unless
`reference_compat`; without adapters from a reference bundle U = 0, so that a fresh state answers as the source; the
network stays in evaluation mode; `stats="ema"` answers from moving statistics (see `adapters.moments`) and with the
scales of the last step, each row for itself; a step with a non-finite result is dropped whole.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from tta_server.adapters.affine import Descent
from tta_server.adapters.augment import Augment, augment, forward_views, spawn
from tta_server.adapters.base import Adapter, State, Step, accept, group, register, ungroup
from tta_server.adapters.bounds import LearningRate, Rank, Seed, Share, Weight, Within
from tta_server.adapters.declared import Part, Region, SourceImages
from tta_server.adapters.losses import cross_entropy, symmetric_cross_entropy
from tta_server.adapters.low_rank import draw, fold, layers
from tta_server.adapters.moments import init_stats, track_stats
from tta_server.adapters.optim import Name
from tta_server.adapters.teacher import RestoreMask, follow, restore, seeded, uniform
from tta_server.adapters.vida_pretrain import BATCH, STEPS, pretrain
from tta_server.models import Backbone, Output, Reference, Tensors
from tta_server.models.gradient import differentiate

_UNCERTAINTY = 0.1


@register
@dataclass(frozen=True)
class Vida(Descent):
    """Visual domain adapters with homeostatic knowledge allotment.

    Attributes:
        lr: Learning rate of the network's own parameters with `scope="all"`; the paper: 1e-4 (CIFAR).
        lr_adapters: Learning rate of the adapters, in (0, 10]; the paper: 1e-5 (CIFAR).
        scope: "adapters" moves only them, "all" every parameter of the network too (the paper).
        targets: Patterns of the layers with adapters, such as "*.attn.*" (the paper); none are all that they fit.
        rank_low: Rank of the low-rank adapters, in [1, 256].
        rank_high: Rank of the high-rank ones, in [1, 256], cut to what a layer has; the paper: 128.
        mt: How much of its own parameters the teacher keeps at each step, in [0, 1].
        mt_adapters: How much of its adapters, likewise.
        threshold: Uncertainty from which the high rank counts more and the low rank less, in [0, 1e6].
        views: Augmented views that the uncertainty is the variance over, in [2, 64].
        rst: Share of the student that each step puts back to where it began, in [0, 1].
        symmetric: Whether the loss is the mean of both cross entropies (the paper's ImageNet experiments).
        reference_compat: Whether to do as the authors' code does: the high-rank scale stays 1, and the uncertainty is
            that of the teacher with the scales of the last step.
        augment: Makes a view from (images, index, CPU generator); replaced in tests.
        restore_mask: Draws in [0, 1) from (parameter name, its value, generator), compared with `rst`; likewise.
        seed: Of a fresh state, its adapters included.
    """

    lr: LearningRate = 1e-4
    lr_adapters: LearningRate = 1e-4
    optimizer: Name = "adam"
    scope: Literal["adapters", "all"] = "adapters"
    targets: tuple[str, ...] = ()
    rank_low: Rank = 1
    rank_high: Rank = 16
    mt: Share = 0.999
    mt_adapters: Share = 0.999
    threshold: Weight = 0.2
    views: Annotated[int, Within(2, 64, why="each is a forward of the whole window")] = 10
    rst: Share = 0.1
    symmetric: bool = False
    reference_compat: bool = False
    augment: Augment = augment
    restore_mask: RestoreMask = uniform
    seed: Seed = 0

    name: ClassVar[str] = "vida"
    part: ClassVar[Part] = Part("vida", "ViDA's adapters", images=32)

    @property
    def requires(self) -> frozenset[str]:
        """What the backbone must have."""
        return frozenset({"grad"})

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return student and teacher, the adapters they began with, empty slots, scales of 1, statistics and a seed.

        Raises:
            ValueError: If no layer can have adapters, or those of the bundle's part `vida` are for other layers.
        """
        fitting = layers(backbone, self.targets)
        source = self._draw(fitting, self.seed)
        if reference and "vida" in reference.parts:
            source = _given(source, reference.part("vida"))
        begun = {**(backbone.weights() if self.scope == "all" else {}), **source}
        theta, teacher = ({name: tensor.clone() for name, tensor in begun.items()} for _ in range(2))
        scales = {name: next(iter(source.values())).new_ones(()) for name in ("low", "high")}
        state = ungroup("theta", theta) | ungroup("teacher", teacher) | ungroup("source", source)
        state |= self._optimizer().init(theta) | ungroup("scale", scales)
        state |= init_stats(backbone) if self.stats == "ema" else {}
        return state | {"seed": torch.tensor(self.seed, dtype=torch.int64)}

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W) with the teacher."""
        if self.stats == "ema":
            return super().predict(backbone, state, x)
        return self._answer(backbone, state, x, seeded(state))[0]

    def regions(self, backbone: Backbone, initial: State) -> tuple[Region, ...]:
        """Return the adapters of student and teacher; measured are the weights that they make, since U begins at 0.

        Each step chooses the scales anew, so within [0, 2] they count as 1.
        """
        names = tuple(name for name in initial if name.startswith(("theta/", "teacher/", "scale/")))

        def copies(state: State) -> list[Tensors]:
            exact = {name: state[name].double() for name in names}
            scales = {kind: 1 + scale - scale.clamp(0, 2) for kind, scale in group(exact, "scale").items()}
            return [fold(backbone, group(exact, copy), scales) for copy in ("theta", "teacher")]

        return (Region(names, copies),)

    def alone(self) -> Adapter:
        """Return the adapter that answers each batch from its own statistics, with as few views as can be."""
        return replace(self, stats="batch", views=2)

    def prepare(self, backbone: Backbone, images: SourceImages) -> Tensors:
        """Return adapters trained on the source images; none if no layer can have them."""
        try:
            fitting = layers(backbone, self.targets)
        except ValueError:
            return {}
        return pretrain(backbone, self._draw(fitting, images.seed), images.shuffled(BATCH, STEPS))

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Take one step of the student on `x` (N, C, H, W) and let the teacher follow."""
        generator = seeded(state)
        target, scales, uncertainty = self._answer(backbone, state, x, generator)
        compare = symmetric_cross_entropy if self.symmetric else cross_entropy

        def loss(theta: Tensors) -> tuple[Tensor, tuple[()]]:
            logits = backbone.forward(x, fold(backbone, theta, scales), "batch").logits
            return compare(target.logits, logits).mean(), ()

        gradients, value, _ = differentiate(loss, group(state, "theta"))
        new = self._move(backbone, state, gradients, spawn(generator, x.device))
        new |= track_stats(state, target, self.stats_momentum)
        new |= ungroup("scale", scales) | {"seed": state["seed"] + 1}
        kept, accepted = accept(state, new, torch.ones((), dtype=torch.bool, device=x.device))
        return Step(kept, target, {"accepted": accepted, "loss": value, "uncertainty": uncertainty})

    def _draw(self, fitting: Tensors, seed: int) -> dict[str, Tensor]:
        return draw(fitting, (self.rank_low, self.rank_high), torch.Generator().manual_seed(seed))

    def _learnt(self, backbone: Backbone, state: State) -> Tensors:
        return fold(backbone, group(state, "teacher"), group(state, "scale"))

    def _answer(
        self, backbone: Backbone, state: State, x: Tensor, generator: torch.Generator
    ) -> tuple[Output, dict[str, Tensor], Tensor]:
        """Return the teacher's answer on the batch's statistics, the scales for it, and the uncertainty they follow."""
        self._check_rows(backbone, x)
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
            part, slots = replace(self._optimizer(), lr=lr).step(part, {name: gradients[name] for name in names}, state)
            moved |= part
            new |= slots | ungroup("teacher", follow({name: teacher[name] for name in names}, part, keep))
        begun = {**backbone.weights(), **source}
        return new | ungroup("theta", restore(moved, begun, self.rst, self.restore_mask, generator))


def _given(expected: Tensors, given: Tensors) -> dict[str, Tensor]:
    """Return the adapters that a bundle gives, in the order and on the device of those expected."""
    if {name: tensor.shape for name, tensor in given.items()} != {n: t.shape for n, t in expected.items()}:
        raise ValueError(
            "the adapters in the reference bundle are for other layers or ranks; set targets, rank_low and rank_high "
            "as when they were made"
        )
    return {name: given[name].to(tensor, copy=True) for name, tensor in expected.items()}
