"""CoTTA: a student follows the augmentation-averaged answers of its own slow teacher, and is partly restored.

Source: Wang et al., CVPR 2022, arXiv:2203.13591, equations 1 to 8. Reference: cotta/cifar/cotta.py, imagenet/cotta.py.
Differs: the 32 views share a few forwards, and are made only when they are used; the network stays in evaluation mode;
only norm scales and shifts move unless `scope="all"`; the anchor is the frozen backbone itself; `stats="ema"` answers
from moving statistics (see `adapters.moments`), each row for itself, so without the average over views, which the
student still learns from; a step with a non-finite result is dropped whole.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tta_server.adapters.affine import Descent, descend
from tta_server.adapters.augment import Augment, augment, forward_views, spawn
from tta_server.adapters.base import Adapter, State, Step, accept, group, register, ungroup
from tta_server.adapters.bounds import LearningRate, Seed, Share, Views
from tta_server.adapters.declared import Region
from tta_server.adapters.losses import cross_entropy, symmetric_cross_entropy
from tta_server.adapters.moments import init_stats, track_stats
from tta_server.adapters.optim import Name
from tta_server.adapters.teacher import RestoreMask, follow, restore, seeded, uniform
from tta_server.models import Backbone, Output, Reference, Tensors


@register
@dataclass(frozen=True)
class Cotta(Descent):
    """Continual test-time adaptation with a mean teacher.

    Attributes:
        scope: "norm" moves the normalisation layers' scales and shifts, "all" every `weight` and `bias` (the paper).
        mt: How much of itself the teacher keeps at each step, in [0, 1].
        rst: Share of the student that each step puts back to the source, in [0, 1].
        ap: The teacher averages its views if the source's mean confidence is below this, in [0, 1].
        average: "auto" decides by `ap`, which waits for the device once; "always" and "never" do not.
        views: Augmented views to average, in [1, 64].
        symmetric: Whether the loss is the mean of both cross entropies (the paper's ImageNet experiments).
        augment: Makes a view from (images, index, CPU generator); replaced in tests.
        restore_mask: Draws in [0, 1) from (parameter name, its value, generator), compared with `rst`; likewise.
        seed: Of a fresh state.
    """

    lr: LearningRate = 1e-3
    optimizer: Name = "adam"
    scope: Literal["norm", "all"] = "norm"
    mt: Share = 0.999
    rst: Share = 0.01
    ap: Share = 0.92
    average: Literal["auto", "always", "never"] = "auto"
    views: Views = 32
    symmetric: bool = False
    augment: Augment = augment
    restore_mask: RestoreMask = uniform
    seed: Seed = 0

    name: ClassVar[str] = "cotta"

    @property
    def requires(self) -> frozenset[str]:
        """What the backbone must have."""
        return frozenset({"grad"} | ({"norm_affine"} if self.scope == "norm" else set()))

    @property
    def synchronises(self) -> bool:
        """Whether the host waits for the device, once a step, to learn whether the views are needed."""
        return self.average == "auto"

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return two copies of the source, student and teacher, empty slots, a seed and, for "ema", statistics."""
        theta, teacher = ({n: tensor.clone() for n, tensor in self._source(backbone).items()} for _ in range(2))
        state = ungroup("theta", theta) | ungroup("teacher", teacher) | self._optimizer().init(theta)
        stats = init_stats(backbone) if self.stats == "ema" else {}
        return state | stats | {"seed": torch.tensor(self.seed, dtype=torch.int64)}

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W) with the teacher."""
        if self.stats == "ema":
            return super().predict(backbone, state, x)
        return self._answer(backbone, state, x, seeded(state))

    def regions(self, backbone: Backbone, initial: State) -> tuple[Region, ...]:
        """Return student and teacher."""
        copies = ([name for name in initial if name.startswith(f"{copy}/")] for copy in ("theta", "teacher"))
        return tuple(map(Region.of, copies))

    def alone(self) -> Adapter:
        """Return the adapter that answers each batch from its own statistics, without views of it."""
        return replace(self, stats="batch", average="never")

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Take one step of the student on `x` (N, C, H, W) and let the teacher follow."""
        generator = seeded(state)
        target = self._answer(backbone, state, x, generator)
        compare = symmetric_cross_entropy if self.symmetric else cross_entropy

        def loss(theta: Tensors) -> tuple[Tensor, Tensor]:
            logits = backbone.forward(x, theta, "batch").logits
            return compare(target.logits, logits).mean(), logits

        new, value, _ = descend(state, loss, self._optimizer())
        student, draws = group(new, "theta"), spawn(generator, x.device)
        new |= ungroup("teacher", follow(group(state, "teacher"), student, self.mt))
        # After the teacher has followed: what is restored reaches it one step later.
        new |= ungroup("theta", restore(student, self._source(backbone), self.rst, self.restore_mask, draws))
        new |= track_stats(state, target, self.stats_momentum)
        new |= {"seed": state["seed"] + 1}
        kept, accepted = accept(state, new, torch.ones((), dtype=torch.bool, device=x.device))
        return Step(kept, target, {"accepted": accepted, "loss": value})

    def _learnt(self, backbone: Backbone, state: State) -> Tensors:
        return group(state, "teacher")

    def _answer(self, backbone: Backbone, state: State, x: Tensor, generator: torch.Generator) -> Output:
        """Return what the teacher says of `x`, normalised by its own statistics; equation 2."""
        self._check_rows(backbone, x)
        teacher = group(state, "teacher")
        output = backbone.forward(x, teacher, "batch")
        if not self._averages(backbone, x):
            return output
        views = forward_views(backbone, x, self.views, self.augment, generator, teacher, "batch")
        return Output(views.logits.mean(0), views.features.mean(0), output.moments)

    def _averages(self, backbone: Backbone, x: Tensor) -> bool:
        if self.average != "auto":
            return self.average == "always"
        confidence = backbone.forward(x, statistics="batch").logits.softmax(1).max(1).values.mean()
        return float(confidence.detach()) < self.ap

    def _source(self, backbone: Backbone) -> Tensors:
        if self.scope == "norm":
            return backbone.norm_affine()
        return {n: tensor for n, tensor in backbone.weights().items() if n.rpartition(".")[2] in ("weight", "bias")}
