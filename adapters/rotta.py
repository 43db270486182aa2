"""RoTTA: a mean teacher that learns from a small, balanced memory of recent images.

Source: Yuan et al., CVPR 2023, arXiv:2303.13899, sections 3.2 to 3.4. Reference: RoTTA/core/adapter/rotta.py.
Differs: the update comes after the batch in which the memory's worth of images is complete, not in the middle of it;
images are kept as bytes; free places lend the statistics the current images, with weight 0 in the loss; `init` resets
everything.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from tta_server.adapters.affine import descend, init_affine
from tta_server.adapters.augment import Augment, augment
from tta_server.adapters.base import Adapter, State, Step, accept, group, register, ungroup
from tta_server.adapters.bounds import Betas, LearningRate, PositiveShare, Weight, Within, check_bytes
from tta_server.adapters.declared import Region
from tta_server.adapters.losses import cross_entropy, entropy, one_hot
from tta_server.adapters.moments import source_stats, track
from tta_server.adapters.optim import Optimizer
from tta_server.models import Backbone, Output, Reference, Tensors


@register
@dataclass(frozen=True)
class Rotta(Adapter):
    """Robust test-time adaptation for correlated streams.

    Attributes:
        lr: Learning rate of Adam, in (0, 10].
        betas: Adam's decay rates.
        stats_momentum: Share of the memory's statistics in the moving ones at each update, in (0, 1].
        teacher_share: How far each update moves the teacher to the student, in (0, 1].
        capacity: Images in the memory; an update comes every so many images; in [2, 1024],
            and no more than 256 MiB of them.
        timeliness: Weight of a remembered image's age in its eviction score, in [0, 1e6].
        uncertainty: Weight of its entropy in that score, likewise.
        augment: Makes the student's view from (images, index, generator); replaced in tests.
    """

    lr: LearningRate = 1e-3
    betas: Betas = (0.9, 0.999)
    stats_momentum: PositiveShare = 0.05
    teacher_share: PositiveShare = 0.001
    capacity: Annotated[int, Within(2, 1024, why="every stream keeps so many images")] = 64
    timeliness: Weight = 1.0
    uncertainty: Weight = 1.0
    augment: Augment = augment

    name: ClassVar[str] = "rotta"
    requires: ClassVar[frozenset[str]] = frozenset({"grad", "norm_affine"})

    def init(self, backbone: Backbone, reference: Reference | None = None) -> State:
        """Return two copies of the source, student and teacher, an empty memory, and a seed.

        Raises:
            ValueError: If the memory would be too large.
        """
        device, places = backbone.device, self.capacity
        images = (places, *backbone.spec.input_shape)
        check_bytes(f"a capacity of {places}", torch.empty(images, dtype=torch.uint8, device="meta"))
        stats = source_stats(backbone)
        state = init_affine(backbone, self._optimizer(), "batch") | stats
        memory = {
            "images": torch.zeros(images, dtype=torch.uint8, device=device),
            "labels": torch.zeros(places, dtype=torch.int64, device=device),
            "entropy": torch.zeros(places, device=device),
            "age": torch.zeros(places, device=device),
            "used": torch.zeros(places, dtype=torch.bool, device=device),
        }
        teacher = group(state, "theta") | group(stats, "stats")
        counters = {"seed": torch.zeros((), dtype=torch.int64), "seen": torch.zeros((), dtype=torch.int64)}
        return state | ungroup("teacher", teacher) | ungroup("memory", memory) | counters

    def predict(self, backbone: Backbone, state: State, x: Tensor) -> Output:
        """Answer `x` (N, C, H, W) with the teacher and its moving statistics."""
        return backbone.forward(x, group(state, "teacher"))

    def regions(self, backbone: Backbone, initial: State) -> tuple[Region, ...]:
        """Return student and teacher, without their statistics."""
        copies = (ungroup(copy, backbone.norm_affine()) for copy in ("theta", "teacher"))
        return tuple(Region.of(list(copy)) for copy in copies)

    def alone(self) -> Adapter:
        """Refuse: the answers are the teacher's, with its statistics.

        Raises:
            ValueError: Always.
        """
        raise ValueError("adapter 'rotta' answers from statistics of its stream only")

    def adapt(self, backbone: Backbone, state: State, x: Tensor) -> Step:
        """Remember some of `x` (N, C, H, W); once enough were seen, take a step on the memory."""
        output = self.predict(backbone, state, x)
        memory = self._remember(group(state, "memory"), x, output.logits)
        seen = int(state["seen"].numpy()) + len(x)  # on the CPU by design
        new: dict[str, Tensor] = ungroup("memory", memory) | {"seen": state["seen"] + len(x)}
        scalars: dict[str, Tensor] = {"remembered": memory["used"].sum()}
        if seen >= self.capacity:
            learnt, scalars["loss"] = self._learn(backbone, state, memory, x)
            new |= learnt | {"seen": torch.zeros_like(state["seen"]), "seed": state["seed"] + 1}
        finite = x.isfinite().all() & output.logits.isfinite().all()
        kept, accepted = accept(state, new, finite)
        return Step(kept, output, {"accepted": accepted, **scalars})

    def _remember(self, memory: dict[str, Tensor], x: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Offer the rows one after another, without asking the host what happened to any of them."""
        places, classes = self.capacity, logits.shape[1]
        uncertainty = entropy(logits) / math.log(classes)
        predicted = logits.argmax(1)
        labels, entropies, age, used = (memory[name] for name in ("labels", "entropy", "age", "used"))
        origin = torch.arange(places, device=x.device)  # row of [memory, x] that each place ends up with
        for row in range(len(x)):
            counts = (one_hot(labels, classes) * used[:, None]).sum(0)
            crowded = counts.gather(0, predicted[row : row + 1])[0] >= places / classes
            among = torch.where(crowded, labels == predicted[row], counts[labels] == counts.max()) & used
            score = self._score(age, entropies, used, among)
            worst = score.argmax()
            evict = crowded | used.all()
            fresh = self.timeliness * 0.5 + self.uncertainty * uncertainty[row]
            write = ~evict | (score.max() > fresh)
            place = torch.where(evict, worst, used.int().argmin())
            here = write & (torch.arange(places, device=x.device) == place)
            labels = torch.where(here, predicted[row], labels)
            entropies = torch.where(here, uncertainty[row], entropies)
            age = torch.where(here, 0.0, age) + 1
            used = used | here
            origin = torch.where(here, places + row, origin)
        images = torch.cat([memory["images"], (x.clamp(0, 1) * 255).round().to(torch.uint8)])[origin]
        return {"images": images, "labels": labels, "entropy": entropies, "age": age, "used": used}

    def _score(self, age: Tensor, uncertainty: Tensor, used: Tensor, among: Tensor) -> Tensor:
        """Return how ready each place is to be given up: old and uncertain first, others never."""
        score = self.timeliness * torch.sigmoid(age / self.capacity) + self.uncertainty * uncertainty
        return torch.where(among & used, score, -torch.inf)

    def _learn(
        self, backbone: Backbone, state: State, memory: dict[str, Tensor], x: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        seed = int(state["seed"].numpy())
        current = x.repeat(-(-self.capacity // len(x)), 1, 1, 1)[: self.capacity]
        images = torch.where(memory["used"].view(-1, 1, 1, 1), memory["images"].to(x.dtype) / 255, current)
        weights = torch.where(memory["used"], torch.sigmoid(-memory["age"] / self.capacity), 0.0)
        view = self.augment(images, 0, torch.Generator().manual_seed(seed))
        teacher = group(state, "teacher")
        target = backbone.forward(images, teacher, self.stats_momentum)
        stats = group(state, "stats")

        def loss(theta: Tensors) -> tuple[Tensor, Output]:
            output = backbone.forward(view, {**theta, **stats}, self.stats_momentum)
            losses = cross_entropy(target.logits, output.logits)
            return (losses * weights).sum() / memory["used"].sum().clamp(min=1), output

        new, value, output = descend(state, loss, self._optimizer())
        theta = group(new, "theta")
        pulled = {name: torch.lerp(teacher[name], tensor, self.teacher_share) for name, tensor in theta.items()}
        moved = {name: teacher[name] for name in stats}
        pulled |= track(moved, target.moments, self.stats_momentum)
        new |= ungroup("stats", track(stats, output.moments, self.stats_momentum))
        return new | ungroup("teacher", pulled), value

    def _optimizer(self) -> Optimizer:
        return Optimizer("adam", self.lr, betas=self.betas)
