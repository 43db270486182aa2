"""Everything about the source data that serving needs, computed once from labelled images."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tta_server.adapters.vida import Vida
from tta_server.calibrate import shrinkage
from tta_server.calibrate.fisher import BATCH as FISHER_BATCH
from tta_server.calibrate.fisher import IMAGES as FISHER_IMAGES
from tta_server.calibrate.fisher import fisher
from tta_server.calibrate.labelled import Labelled, Progress
from tta_server.calibrate.null import Windows, null, quantiles
from tta_server.calibrate.pretrain import BATCH as VIDA_BATCH
from tta_server.calibrate.pretrain import STEPS as VIDA_STEPS
from tta_server.calibrate.pretrain import pretrain
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
    """

    memory_rows: int = 1000
    canary_rows: int = 100
    windows: Windows = field(default_factory=Windows)


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
    batch: int = 64,
    progress: Progress = lambda _what, _done, _total: None,
    sizes: Sizes = Sizes(),
    vida: Vida | None = None,
) -> Reference:
    """Compute the reference bundle of a model.

    The images should be ones that the network was not trained on, or everything looks better than it is. Equal
    arguments give equal bundles on the same device; on a GPU that is so as far as its kernels are deterministic.

    Args:
        backbone: The network.
        images: Levels (N, C, H, W) of labelled images without drift.
        labels: Their classes (N,).
        seed: Of everything that is drawn.
        batch: Images in one forward; the Fisher weights always use 64.
        progress: Told about each part.
        sizes: How much is kept.
        vida: Whose adapters are trained; None trains none.

    Returns:
        The bundle. Parts: `fisher` (only if there are scales and shifts to weigh), `memory`, `canary`, `histogram`,
        `features`, `confidence`, `energy`, `atc`, `null`, `null_moments` and, with `vida`, `vida`.

    Raises:
        ValueError: If shapes or labels do not fit the model, or there are too few images for a part.
    """
    _check(backbone, Labelled(images, labels), sizes)
    children = np.random.SeedSequence(seed).spawn(4)
    order_rng, kept_rng, null_rng, vida_rng = (np.random.default_rng(child) for child in children)
    order = order_rng.permutation(len(labels))  # a folder is read class by class
    data = Labelled(images[order], labels[order])
    answers = _answers(backbone, data, batch, progress)
    distances = shrinkage.held_out_distances(answers.features)
    kept, canary = _kept(backbone, data, answers, sizes, kept_rng)
    tensors = _fisher(backbone, data, progress) | kept | _source(answers, distances)
    if vida is not None:
        tensors |= _vida(backbone, data, canary, vida, vida_rng, progress)
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
    return Reference(backbone.spec.digest, tensors, about)


def _check(backbone: Backbone, data: Labelled, sizes: Sizes) -> None:
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
    if "norm_affine" in backbone.spec.capabilities:
        needed["fisher"] = FISHER_BATCH
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


def _fisher(backbone: Backbone, data: Labelled, progress: Progress) -> dict[str, Tensor]:
    if "norm_affine" not in backbone.spec.capabilities:
        return {}
    # An incomplete batch is left out: the weights depend on the size.
    total = min(len(data.labels), FISHER_IMAGES) // FISHER_BATCH
    chosen = np.arange(total * FISHER_BATCH).reshape(total, FISHER_BATCH)

    def batches() -> Iterator[Tensor]:
        for done, some in enumerate(chosen):
            yield data.pixels(some, backbone.device)
            progress("Fisher weights", done + 1, total)

    return {f"fisher/{name}": tensor.float().cpu() for name, tensor in fisher(backbone, batches()).items()}


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


def _vida(
    backbone: Backbone,
    data: Labelled,
    canary: NDArray[np.int64],
    adapter: Vida,
    rng: np.random.Generator,
    progress: Progress,
) -> dict[str, Tensor]:
    free = np.setdiff1d(np.arange(len(data.labels)), canary)
    # As many shuffled passes as the steps need.
    passes = -(-VIDA_STEPS * VIDA_BATCH // len(free))
    chosen = np.concatenate([rng.permutation(free) for _ in range(passes)])[: VIDA_STEPS * VIDA_BATCH]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for done, some in enumerate(chosen.reshape(VIDA_STEPS, VIDA_BATCH)):
            yield data.pixels(some, backbone.device), torch.from_numpy(data.labels[some]).to(backbone.device)
            progress("ViDA's adapters", done + 1, VIDA_STEPS)

    return {f"vida/{name}": tensor.cpu() for name, tensor in pretrain(backbone, adapter, batches()).items()}


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
