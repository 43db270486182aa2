"""What the source model says of its own images, and the parts of the bundle that only need that."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tta_server.calibrate import shrinkage
from tta_server.calibrate.mixed import Mixed
from tta_server.calibrate.null import quantiles
from tta_server.calibrate.progress import Progress
from tta_server.drift.scores import atc_threshold, class_shares
from tta_server.models import Backbone

_LEAST_IMAGES = 2 * shrinkage.FOLDS


@dataclass(frozen=True)
class Answers:
    """What is said of every image, on the CPU.

    Attributes:
        logits: (N, K).
        features: (N, D).
        correct: Right or not (N,); None without labels.
    """

    logits: Tensor
    features: Tensor
    correct: Tensor | None

    @classmethod
    def of(cls, backbone: Backbone, data: Mixed, batch: int, progress: Progress) -> "Answers":
        """Ask the network, `batch` images at a time.

        Raises:
            ValueError: If an answer is not finite.
        """
        logits, features = [], []
        for start in range(0, len(data), batch):
            chosen = np.arange(start, min(start + batch, len(data)))
            with torch.no_grad():
                output = backbone.forward(data.pixels(chosen, backbone.device))
            logits.append(output.logits.float().cpu())
            features.append(output.features.float().cpu())
            progress("source answers", int(chosen[-1]) + 1, len(data))
        every = torch.cat(logits)
        if not every.isfinite().all():
            raise ValueError("the model's answers to some of these images are not finite")
        correct = every.argmax(1) == torch.from_numpy(data.labels) if data.labelled else None
        return cls(every, torch.cat(features), correct)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None without labels."""
        return None if self.correct is None else float(self.correct.double().mean())

    @cached_property
    def distances(self) -> Tensor:
        """How far each image's features are from those of the others (N,), float64.

        Raises:
            ValueError: If there are too few images, or their features do not vary.
        """
        self._check()
        return shrinkage.held_out_distances(self.features)

    def outputs(self) -> dict[str, Tensor]:
        """Return the parts `histogram`, `confidence` and `energy`.

        Raises:
            ValueError: If there are too few images.
        """
        self._check()
        confidence, predicted = self.logits.softmax(1).max(1)
        free = -self.logits.double().logsumexp(1)
        return _floats(
            {
                "histogram/classes": class_shares(predicted, self.logits.shape[1]),
                "confidence/mean": confidence.double().mean(),
                "confidence/quantiles": quantiles(confidence),
                "energy/mean": free.mean(),
                "energy/std": free.std(),
                "energy/quantiles": quantiles(free),
            }
        )

    def gaussian(self) -> dict[str, Tensor]:
        """Return the part `features`.

        Raises:
            ValueError: If there are too few images, or their features do not vary.
        """
        distances = self.distances
        mean, precision = shrinkage.gaussian(self.features)
        return _floats(
            {
                "features/mean": mean,
                "features/precision": precision,
                "features/distance_mean": distances.mean(),
                "features/distance_quantiles": quantiles(distances),
            }
        )

    def threshold(self) -> dict[str, Tensor]:
        """Return the part `atc`.

        Raises:
            ValueError: If there are no labels.
        """
        if self.correct is None:
            raise ValueError("needs labels")
        return _floats({"atc/threshold": atc_threshold(self.logits.softmax(1).amax(1), self.correct)})

    def _check(self) -> None:
        if len(self.logits) < _LEAST_IMAGES:
            raise ValueError(f"needs at least {_LEAST_IMAGES} images, got {len(self.logits)}")


def _floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}
