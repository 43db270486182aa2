"""Everything about the source data that serving needs, computed once from labelled images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_server.adapters import Adapter, registered
from tta_server.calibrate import shrinkage
from tta_server.calibrate.labelled import Labelled, Progress
from tta_server.calibrate.null import Windows, null, quantiles
from tta_server.calibrate.style import style
from tta_server.guard.drift import LEVELS, SourceStatistics, atc_threshold, class_shares, image_scores
from tta_server.models import Backbone, Reference

_LEAST_OF_A_CLASS = 2  # one for the canary, one for the memory


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


@dataclass(frozen=True)
class _Answers:
    """What the source model says of every image, on the CPU: logits (N, K), features (N, D), right or not (N,)."""

    logits: Tensor
    features: Tensor
    correct: Tensor


def calibrate(
    backbone: Backbone,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    seed: int = 0,
    progress: Progress = lambda _what, _done, _total: None,
    sizes: Sizes = Sizes(),
    methods: Sequence[Adapter] | None = None,
) -> Reference:
    """Compute the reference bundle of a model.

    The images should be ones that the network was not trained on, or everything looks better than it is. Equal
    arguments give equal bundles on the same device; on a GPU that is so as far as its kernels are deterministic.

    Args:
        backbone: The network.
        images: Levels (N, C, H, W) of labelled images without drift.
        labels: Their classes (N,).
        seed: Of everything that is drawn.
        progress: Told about each part.
        sizes: How much is kept, and how much is done at once.
        methods: The adapters whose parts are made; None are all registered ones, with their defaults.

    Returns:
        The bundle. Parts: `memory`, `canary`, `histogram`, `features`, `confidence`, `energy`, `atc`, `null`,
        `null_moments`, `style` if there are normalisation layers that see each image once, and what the methods make:
        `fisher` if there are scales and shifts to weigh, `vida` if there are layers for adapters.

    Raises:
        ValueError: If shapes or labels do not fit the model, or there are too few images for a part.
    """
    makers = [method for method in registered() if method.part] if methods is None else methods
    makers = [m for m in makers if m.part and m.part.requires <= backbone.spec.capabilities]
    _check(backbone, Labelled(images, labels), sizes, makers)
    seeds = np.random.SeedSequence(seed)
    children = seeds.spawn(3)
    order_rng, kept_rng, null_rng = (np.random.default_rng(child) for child in children)
    style_rng = np.random.default_rng(*children[0].spawn(1))  # whoever asks `seeds` next still draws the same
    order = order_rng.permutation(len(labels))  # a folder is read class by class
    data = Labelled(images[order], labels[order])
    answers = _answers(backbone, data, sizes.forward, progress)
    distances = shrinkage.held_out_distances(answers.features)
    kept, canary = _kept(backbone, data, answers, sizes, kept_rng)
    tensors = kept | _source(answers, distances)
    free = np.setdiff1d(np.arange(len(labels)), canary)
    for maker in makers:
        tensors |= _made(maker, backbone, _Images(data, free, seeds, seed, backbone.device), progress)
    about = {
        "accuracy": float(answers.correct.double().mean()),
        "images": len(labels),
        "levels": list(LEVELS),
        "seed": seed,
        "forwards": {str(size): sizes.windows.forwards(size) for size in sizes.windows.sizes},
    }
    source = SourceStatistics.of(Reference(backbone.spec.digest, tensors, about))
    held_out = image_scores(answers.logits, answers.features, source)._replace(distance=distances.float())
    tensors |= null(backbone, data, held_out, source, sizes.windows, null_rng, progress)
    space, about_space = style(backbone, images, style_rng, sizes.forward, progress)
    return Reference(backbone.spec.digest, tensors | space, about | about_space)


def _check(backbone: Backbone, data: Labelled, sizes: Sizes, makers: Sequence[Adapter]) -> None:
    shape, classes = data.images.shape, backbone.spec.classes
    if data.images.dtype != np.uint8 or shape[1:] != backbone.spec.input_shape:
        raise ValueError(f"images are {data.images.dtype} {shape}, expected uint8 (N, *{backbone.spec.input_shape})")
    if data.labels.shape != shape[:1]:
        raise ValueError(f"labels have shape {data.labels.shape}, expected {shape[:1]}: one for each image")
    if len(data.labels) and not 0 <= data.labels.min() <= data.labels.max() < classes:
        raise ValueError(
            f"labels go from {data.labels.min()} to {data.labels.max()}, expected indices of {classes} classes"
        )
    needed = {"null": max(sizes.windows.sizes), "features": 2 * shrinkage.FOLDS}
    needed |= {maker.part.name: maker.part.images for maker in makers if maker.part}
    part = max(needed, key=lambda name: needed[name])
    if len(data.labels) < needed[part]:
        raise ValueError(f"part '{part}' needs at least {needed[part]} labelled images, got {len(data.labels)}")
    counts = np.bincount(data.labels, minlength=classes)
    if counts.min() < _LEAST_OF_A_CLASS:
        raise ValueError(
            f"parts 'canary' and 'memory' need at least {_LEAST_OF_A_CLASS} images of each class, but class "
            f"{counts.argmin()} has {counts.min()}; {(counts < _LEAST_OF_A_CLASS).sum()} of {classes} classes have "
            "too few"
        )


def _answers(backbone: Backbone, data: Labelled, batch: int, progress: Progress) -> _Answers:
    logits, features = [], []
    for start in range(0, len(data.labels), batch):
        chosen = np.arange(start, min(start + batch, len(data.labels)))
        with torch.no_grad():
            output = backbone.forward(data.pixels(chosen, backbone.device))
        logits.append(output.logits.float().cpu())
        features.append(output.features.float().cpu())
        progress("source answers", int(chosen[-1]) + 1, len(data.labels))
    every = torch.cat(logits)
    if not every.isfinite().all():
        raise ValueError("the model's answers to some of these images are not finite")
    return _Answers(every, torch.cat(features), every.argmax(1) == torch.from_numpy(data.labels))


def _kept(
    backbone: Backbone, data: Labelled, answers: _Answers, sizes: Sizes, rng: np.random.Generator
) -> tuple[dict[str, Tensor], NDArray[np.int64]]:
    """Return canary and memory, and the rows of the canary; none is in both, or the one would recognise the other."""
    classes, labels = backbone.spec.classes, data.labels
    drawn = np.sort(rng.permutation(classes)[: sizes.canary_rows])
    # At most half of any class, so that the memory has some too.
    share = max(1, min(sizes.canary_rows // classes, int(np.bincount(labels).min()) // 2))
    canary = _balanced(np.arange(len(labels)), labels, drawn, share, rng)
    free = np.setdiff1d(np.arange(len(labels)), canary)
    memory = _balanced(free, labels, np.arange(classes), max(1, sizes.memory_rows // classes), rng)
    tensors = {
        "canary/images": torch.from_numpy(data.images[canary]),
        "canary/labels": torch.from_numpy(labels[canary]),
        "memory/features": answers.features[memory],
        "memory/labels": torch.from_numpy(labels[memory]),
    }
    return tensors, canary


def _balanced(
    free: NDArray[np.int64], labels: NDArray[np.int64], classes: NDArray[np.int64], share: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return at most `share` of the rows `free` for each of `classes`."""
    return np.concatenate([rng.permutation(free[labels[free] == label])[:share] for label in classes])


@dataclass
class _Images:
    """What an adapter is given of the source images; it says how far it has come.

    Attributes:
        data: All of them, in an order that mixes the classes.
        free: Rows of those that are no canary.
        seeds: Whoever shuffles draws the next.
        seed: Of what is drawn beside them.
        device: Where the network is.
        told: Called with how much is done and how much there is.
    """

    data: Labelled
    free: NDArray[np.int64]
    seeds: np.random.SeedSequence
    seed: int
    device: torch.device
    told: Callable[[int, int], None] = lambda _done, _total: None

    def in_order(self, size: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        total = min(len(self.data.labels), most) // size
        return self._batches(np.arange(total * size).reshape(total, size))

    def shuffled(self, size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        rng = np.random.default_rng(*self.seeds.spawn(1))
        passes = -(-batches * size // len(self.free))
        rows = np.concatenate([rng.permutation(self.free) for _ in range(passes)])[: batches * size]
        return self._batches(rows.reshape(batches, size))

    def _batches(self, rows: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
        for done, some in enumerate(rows):
            yield self.data.pixels(some, self.device), torch.from_numpy(self.data.labels[some]).to(self.device)
            self.told(done + 1, len(rows))


def _made(maker: Adapter, backbone: Backbone, images: _Images, progress: Progress) -> dict[str, Tensor]:
    part = maker.part
    if part is None:
        return {}
    images.told = partial(progress, part.label)
    return {f"{part.name}/{name}": t.float().cpu() for name, t in maker.prepare(backbone, images).items()}


def _source(answers: _Answers, distances: Tensor) -> dict[str, Tensor]:
    confidence, predicted = answers.logits.softmax(1).max(1)
    free = -answers.logits.double().logsumexp(1)
    mean, precision = shrinkage.gaussian(answers.features)
    tensors = {
        "histogram/classes": class_shares(predicted, answers.logits.shape[1]),
        "features/mean": mean,
        "features/precision": precision,
        "features/distance_mean": distances.mean(),
        "features/distance_quantiles": quantiles(distances),
        "confidence/mean": confidence.double().mean(),
        "confidence/quantiles": quantiles(confidence),
        "energy/mean": free.mean(),
        "energy/std": free.std(),
        "energy/quantiles": quantiles(free),
        "atc/threshold": atc_threshold(confidence, answers.correct),
    }
    return {name: tensor.float() for name, tensor in tensors.items()}
