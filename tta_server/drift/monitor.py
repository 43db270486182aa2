"""What all streams are watched by: the source's numbers, what scores are without drift, and how much is kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tta_server.drift.different import different
from tta_server.drift.evidence import chances_of
from tta_server.drift.nulls import Null, nulls, window_size
from tta_server.drift.scores import (
    CLASSES,
    EXPLAINED,
    ImageScores,
    SourceStatistics,
    Yardstick,
    class_shares,
    image_scores,
    layer_shifts,
    norm_scores,
    window_scores,
)
from tta_server.drift.watch import Learnt, Limits, Rows, Watch
from tta_server.models import Output, Reference, Tensors
from tta_server.settings import DriftSettings
from tta_server.telemetry.closed_sets import DRIFT_SCORES, DriftScore

_RECENT_WINDOWS = 4  # over which the shares of classes are smoothed
_UNLIKE, _ENOUGH = 0.05, 16  # when answers are not alike, and how many different ones, or a quarter, are worth a bet
_CEILING_SIGMAS = 2.326  # where 1 % of a normal distribution lies above

PARTS = frozenset({"null", "null_moments", "features", "confidence", "energy", "histogram"})
"""What a reference bundle must have."""


class Sights(NamedTuple):
    """What is said of a window that is learnt from.

    Attributes:
        frozen: By the frozen model.
        answered: By the stream, as it answers requests.
        step: By the forward that was learnt from; its moments are compared with the source's.
    """

    frozen: Output
    answered: Output
    step: Output


@dataclass(frozen=True, eq=False)
class Monitor:
    """Scores windows of frozen answers; knows no stream, for what is known of one is a value.

    Attributes:
        limits: From which evidence on there is drift.
        history: Windows of a stream that are kept.
        size: Images in a window.
        source: The source's numbers, on the device; None if the bundle lacks them, and no window is scored.
        yardstick: What frozen answers are measured by as they are made; None likewise.
        host: The source's numbers on the CPU.
        known: What each score is without drift in windows of that size.
        stats: Source statistics of the normalisation layers.
        known_learnt: What each score is in windows as they are learnt from.
    """

    limits: Limits
    history: int
    size: int
    source: SourceStatistics | None
    yardstick: Yardstick | None
    host: SourceStatistics | None
    known: Mapping[DriftScore, Null]
    stats: Tensors
    known_learnt: Mapping[DriftScore, Null]

    @classmethod
    def of(cls, reference: Reference | None, stats: Tensors, settings: DriftSettings, window_rows: int) -> "Monitor":
        """Return the monitor of a model.

        Args:
            reference: Its bundle; without one, or with one that lacks a part, only looks are judged.
            stats: Source statistics of its normalisation layers.
            settings: How streams are watched.
            window_rows: Images of a window that is learnt from.
        """
        limits = Limits.once_in(settings.false_alarm_windows)
        if reference is None or not reference.parts >= PARTS:
            return cls(limits, settings.history_windows, 0, None, None, None, {}, stats, {})
        needed = {
            name: tensor.cpu() for name, tensor in reference.tensors.items() if _part(name) in {*PARTS, CLASSES, "atc"}
        }
        on_host = Reference(reference.digest, needed, reference.about)
        size = window_size(on_host, settings.window_rows)
        return cls(
            limits=limits,
            history=settings.history_windows,
            size=size,
            source=(source := SourceStatistics.of(reference)),
            yardstick=Yardstick.of(source),
            host=SourceStatistics.of(on_host),
            known=nulls(on_host, size),
            stats=stats,
            known_learnt=nulls(on_host, window_size(on_host, window_rows)),
        )

    def saw(self, watch: Watch, rows: Rows, time: str) -> Watch:
        """Return what is known of a stream once the frozen model has seen more of its images.

        Args:
            watch: What was known.
            rows: Of those images, in their order (n, 5); one with a number that is not finite does not count.
            time: ISO 8601 in UTC.
        """
        if self.host is None:
            return watch
        waiting = np.concatenate([watch.waiting, rows])
        if len(waiting) >= self.size:
            waiting = waiting[np.isfinite(waiting).all(1)]
        while len(waiting) >= self.size:
            watch, waiting = self._window(watch, waiting[: self.size], self.host, time), waiting[self.size :]
        return replace(watch, waiting=waiting)

    def learnt(self, watch: Watch, sights: Sights, measures: Mapping[str, float]) -> Watch:
        """Return what is known of a stream once a step was tried on a window of its images.

        Args:
            watch: What was known.
            sights: What was said of the window (N images).
            measures: What the guard measured.
        """
        frozen, answered, step = sights
        agree = frozen.logits.argmax(1) == answered.logits.argmax(1)
        found = {"agreement": agree.float().mean()}
        if self.source is not None and self.source.atc_threshold is not None:
            scores = window_scores(
                image_scores(answered.logits.float(), answered.features.float(), self.source), self.source
            )
            found["estimated_accuracy"] = scores["estimated_accuracy"]
        norms, shifts = norm_scores(step.moments, self.stats), layer_shifts(step.moments, self.stats)
        layers = [torch.stack(pair) for pair in shifts.values()]
        host = torch.cat([torch.stack([*found.values(), *norms.values()]), *layers]).tolist()
        told, start = dict(zip([*found, *norms], host, strict=False)), len(found) + len(norms)
        seen = Learnt(
            measures=dict(measures) | {name: told[name] for name in found},
            scores={name: told[name] for name in _named(norms)},
            rows=len(frozen.logits),
            layers={path: (host[start + 2 * i], host[start + 2 * i + 1]) for i, path in enumerate(shifts)},
        )
        return replace(watch, learnt=seen)

    def sigmas(self, scores: Mapping[DriftScore, float], learnt: Mapping[DriftScore, float]) -> dict[DriftScore, float]:
        """Return how many standard deviations the scores of a window, and of one that is learnt from, are off."""
        found = {name: self.known[name].z(value) for name, value in scores.items() if name in self.known}
        return found | {
            name: self.known_learnt[name].z(value) for name, value in learnt.items() if name in self.known_learnt
        }

    def far(self, rows: Rows) -> list[float | None]:
        """Return how far the features of strange images lie, over the mean of source images.

        Args:
            rows: Of the images (n, 5), as `saw` takes them.

        Returns:
            None where 1 % of source images lie farther.
        """
        if self.host is None:
            return [None] * len(rows)
        mean, most = float(self.host.distance_mean), float(self.host.distance_ceiling)
        return [distance / mean if most < distance < math.inf else None for distance in rows[:, 4].tolist()]

    def looked(self, watch: Watch, rows: int, away_rows: int, time: str) -> Watch:
        """Return what is known of a stream once it is told how many images of a request look unlike the source's."""
        return watch.looked(rows, away_rows, self.limits, time)

    def rows_of(self, frozen: Output) -> Rows:
        """Return what the frozen model says of a window, as `saw` takes it.

        Raises:
            ValueError: If the bundle lacks the source's numbers.
        """
        if self.source is None:
            raise ValueError("the reference bundle has no numbers of the source to score images by")
        scores = image_scores(frozen.logits.float(), frozen.features.float(), self.source)
        return torch.stack([values.double() for values in scores], 1).cpu().numpy()

    def _window(self, watch: Watch, rows: Rows, host: SourceStatistics, time: str) -> Watch:
        columns = torch.from_numpy(np.ascontiguousarray(rows.T, np.float32))
        predicted = torch.from_numpy(rows[:, 3].astype(np.int64))
        images = ImageScores(columns[0], columns[1], columns[2], predicted, columns[4])
        found = window_scores(images, host)
        values = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
        scores: dict[DriftScore, float] = {name: values[name] for name in _named(values)}
        evidence, seen = watch.evidence, class_shares(predicted, len(host.histogram))
        if _pictures(rows, host) >= min(_ENOUGH, len(rows) / 4):  # else it is one scene, which says nothing of others
            doubts = dict(zip(EXPLAINED, (seen.square() @ host.class_doubts).tolist(), strict=True))
            evidence = evidence.after(chances_of(scores, self.known, doubts), time)
        after = watch.after(evidence, self.limits, time)
        shares = _smoothed(watch.shares, seen.numpy())
        return replace(after.scored(scores, self.history, time), shares=shares)


def rows_of(
    classes: int,
    entropies: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.int64],
    confidences: npt.NDArray[np.float32],
    measured: npt.NDArray[np.float32],
) -> Rows:
    """Return frozen answers that are on the host already, as `Monitor.saw` takes them.

    Args:
        classes: How many there are.
        entropies: In nats (n,).
        predicted: The likeliest classes (n,).
        confidences: How likely those are (n,).
        measured: What a `Yardstick` measures (n, 2).
    """
    rows = np.empty((len(entropies), 5))
    rows[:, 0] = entropies / math.log(classes)
    rows[:, 1], rows[:, 3] = confidences, predicted
    rows[:, 2], rows[:, 4] = np.log(rows[:, 1]) - measured[:, 0], measured[:, 1]
    return rows


def _pictures(rows: Rows, host: SourceStatistics) -> float:
    """Return how many different pictures a window shows, by what the frozen model says of them: copies look alike."""
    tiny = np.finfo(np.float64).tiny
    sigmas = [float(host.energy_std), float(host.distance_ceiling - host.distance_mean) / _CEILING_SIGMAS]
    values = rows[:, [2, 4]] / np.maximum(sigmas, tiny)
    return different(values @ values.T / len(sigmas), _UNLIKE, rows[:, 3])


def _part(name: str) -> str:
    return name.partition("/")[0]


def _named(scores: Mapping[str, object]) -> list[DriftScore]:
    return [name for name in DRIFT_SCORES if name in scores]


def _smoothed(old: npt.NDArray[np.float32], new: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return old + (new - old) / np.float32(_RECENT_WINDOWS) if len(old) == len(new) else new
