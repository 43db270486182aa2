"""Everything about the source data that serving needs, computed once from images, with labels or without."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_server.adapters import Adapter, registered
from tta_server.calibrate import kept
from tta_server.calibrate.answers import Answers
from tta_server.calibrate.by_class import by_class
from tta_server.calibrate.mixed import Batches, Mixed
from tta_server.calibrate.null import Windows, null
from tta_server.calibrate.progress import Progress
from tta_server.calibrate.statistics import statistics
from tta_server.calibrate.style import style
from tta_server.domains.space import PART
from tta_server.drift.scores import CLASSES, LEVELS, ImageScores, SourceStatistics, explainable, image_scores
from tta_server.models import Backbone, Reference, robust
from tta_server.models.reason import reason


@dataclass(frozen=True)
class Sizes:
    """How much of each part is kept.

    Attributes:
        memory_rows: Most remembered features, spread evenly over the classes; each has at least one.
        canary_rows: Most canary images, spread evenly over the classes; of more classes than that, so many are drawn.
        windows: Windows without drift.
        forward: Images in one forward; what an adapter makes has a size of its own.
    """

    memory_rows: int = 1000
    canary_rows: int = 100
    windows: Windows = field(default_factory=Windows)
    forward: int = 64


def calibrate(
    backbone: Backbone,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    *,
    seed: int = 0,
    progress: Progress = lambda _what, _done, _total: None,
    sizes: Sizes = Sizes(),
    methods: Sequence[Adapter] | None = None,
) -> Reference:
    """Compute the reference bundle of a model.

    The images should be ones that the network was not trained on, or everything looks better than it is. Equal
    arguments give equal bundles on the same device; on a GPU that is so as far as its kernels are deterministic. Of
    images that are copies of one another the first alone counts: the others say nothing of how images vary.

    Args:
        backbone: The network.
        images: Levels (N, C, H, W) of images without drift.
        labels: Their classes (N,), or None.
        seed: Of everything that is drawn.
        progress: Told about each part.
        sizes: How much is kept, and how much is done at once.
        methods: The adapters whose parts are made; None are all registered ones, with their defaults.

    Returns:
        The bundle. Parts: `style`, `statistics`, `histogram`, `features`, `confidence`, `energy`, `classes`, `null`,
        `null_moments`; with labels `memory`, `canary`, `atc`; and what the methods make, if the network has a use for
        it: `fisher`, and with labels `vida`. A part that cannot be made of these images is left out, and
        `about["left_out"]` says why; `about["copies"]` how many images were copies, if any.

    Raises:
        ValueError: If shapes or labels do not fit the model, an answer of it is not finite, or nothing can be made.
    """
    _check(backbone, images, labels)
    about: dict[str, object] = {"seed": seed}
    first = _distinct(images)
    if copies := len(images) - len(first):
        about["copies"] = copies
        images, labels = images[first], None if labels is None else labels[first]
    seeds = np.random.SeedSequence(seed)
    children = seeds.spawn(3)
    order_rng, kept_rng, null_rng = (np.random.default_rng(child) for child in children)
    # Of children: whoever asks `seeds` next still draws the same.
    style_rng, share_rng = (np.random.default_rng(child) for child in children[0].spawn(2))
    data = Mixed.of(images, labels, order_rng)
    answers = Answers.of(backbone, data, sizes.forward, progress)
    making = _Making(backbone, data, answers, sizes, progress, about)
    free = making.keep(kept_rng)
    making.take(("histogram", "confidence", "energy"), answers.outputs)
    making.take(("features",), answers.gaussian)
    making.take(("atc",), answers.threshold)
    for maker in registered() if methods is None else methods:
        making.prepare(maker, Batches(data, free, seeds, seed, backbone.device))
    making.take((CLASSES,), making.classes)
    making.take(("null", "null_moments"), partial(making.drift, null_rng))
    making.take((PART,), partial(making.say, partial(style, backbone, images, style_rng, sizes.forward, progress)))
    if "batchnorm" in backbone.spec.capabilities:
        making.take((robust.PART,), partial(making.say, partial(statistics, backbone, images, share_rng, progress)))
    return making.bundle()


def _check(backbone: Backbone, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != backbone.spec.input_shape:
        raise ValueError(f"images are {images.dtype} {images.shape}, expected uint8 (N, *{backbone.spec.input_shape})")
    if not len(images):
        raise ValueError("a bundle cannot be made of no images")
    if labels is None:
        return
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels have shape {labels.shape}, expected {images.shape[:1]}: one for each image")
    if not 0 <= labels.min() <= labels.max() < backbone.spec.classes:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}, expected indices of {backbone.spec.classes} classes"
        )


def _distinct(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the rows of images (N, C, H, W) that are no copy of one before."""
    first: dict[bytes, int] = {}
    for row, image in enumerate(images):
        first.setdefault(hashlib.sha256(image.tobytes()).digest(), row)
    return np.fromiter(first.values(), np.int64)


@dataclass
class _Making:
    """Parts that are made, and why others are not."""

    backbone: Backbone
    data: Mixed
    answers: Answers
    sizes: Sizes
    progress: Progress
    about: dict[str, object]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.about |= {"images": len(self.data), "levels": list(LEVELS)}
        self.about["forwards"] = self.sizes.windows.planned(len(self.data), self.backbone)
        if self.answers.accuracy is not None:
            self.about["accuracy"] = self.answers.accuracy

    def take(self, parts: Iterable[str], make: Callable[[], dict[str, Tensor]]) -> None:
        """Take over what `make` returns; a `ValueError` says why these parts cannot be made of these images."""
        try:
            self.tensors |= make()
        except ValueError as error:
            self.left_out |= dict.fromkeys(parts, str(error))

    def bundle(self) -> Reference:
        """Return what was made, or refuse if it is nothing."""
        if not self.tensors:
            reasons = "; ".join(f"part '{part}' {reason}" for part, reason in self.left_out.items())
            copies = f" ({self.about['copies']} more are copies)" if "copies" in self.about else ""
            raise ValueError(f"nothing can be made of {len(self.data)} images{copies}: {reasons}")
        left_out = {"left_out": self.left_out} if self.left_out else {}
        return Reference(self.backbone.spec.digest, self.tensors, self.about | left_out)

    def keep(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Take canary and memory over, and return the rows that are no canary."""
        classes, rows = self.backbone.spec.classes, np.empty(0, np.int64)

        def canary() -> dict[str, Tensor]:
            nonlocal rows
            rows = kept.canary(self.data, classes, self.sizes.canary_rows, rng)
            return {"canary/images": self.data.levels(rows), "canary/labels": self.data.classes(rows)}

        def memory() -> dict[str, Tensor]:
            chosen = kept.memory(self.data, classes, free, self.sizes.memory_rows, rng)
            return {"memory/features": self.answers.features[chosen], "memory/labels": self.data.classes(chosen)}

        self.take(("canary",), canary)
        free = np.setdiff1d(np.arange(len(self.data)), rows)
        self.take(("memory",), memory)
        return free

    def prepare(self, maker: Adapter, offered: Batches) -> None:
        """Take over what an adapter makes of the images, if it makes anything that the network has a use for."""
        part = maker.part
        if part is None or not part.requires <= self.backbone.spec.capabilities:
            return
        offered.told = partial(self.progress, part.label)

        def make() -> dict[str, Tensor]:
            offered.check(part)
            try:
                made = maker.prepare(self.backbone, offered)
            except Exception as error:  # whatever a network and a method make of each other
                raise ValueError(f"cannot be made: {reason(error)}") from error
            return {f"{part.name}/{name}": tensor.float().cpu() for name, tensor in made.items()}

        self.take((part.name,), make)

    def drift(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the parts `null` and `null_moments`."""
        source, scores = self._scored()
        return null(self.backbone, self.data, scores, source, self.sizes.windows, rng, self.progress)

    def classes(self) -> dict[str, Tensor]:
        """Return the part `classes`."""
        source, scores = self._scored()
        each = torch.stack(list(explainable(scores, source).values()), 1)
        offsets, doubts = by_class(each, scores.predicted, self.backbone.spec.classes)
        return {f"{CLASSES}/offsets": offsets.float(), f"{CLASSES}/doubts": doubts.float()}

    def _scored(self) -> tuple[SourceStatistics, ImageScores]:
        """Return what the images are compared with, and what each of them is as one that was held out."""
        if "features" in self.left_out:
            raise ValueError("needs part 'features'")
        source = SourceStatistics.of(Reference(self.backbone.spec.digest, self.tensors, self.about))
        scores = image_scores(self.answers.logits, self.answers.features, source)
        return source, scores._replace(distance=self.answers.distances.float())

    def say(self, make: Callable[[], tuple[dict[str, Tensor], dict[str, object]]]) -> dict[str, Tensor]:
        """Return the tensors that `make` makes, and take over what it says about them."""
        tensors, about = make()
        self.about |= about
        return tensors
