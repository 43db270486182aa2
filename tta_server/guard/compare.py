"""What a stream answers beside what the frozen model does, on the same windows."""

import math

import torch

from tta_server.guard import risk
from tta_server.guard.estimate import Estimator
from tta_server.guard.record import Record, gather, smooth
from tta_server.guard.variety import diversity
from tta_server.guard.verdict import Cause
from tta_server.models import Output
from tta_server.settings import GuardSettings

_STEADY_IMAGES = 32  # images over which shares of smaller windows are smoothed
_RECENT_IMAGES = 256  # over which answers are gathered for their diversity
_GATHERED = 0.5  # of them, before their diversity is judged


class Compare:
    """Keep account of where the adapted model stands beside the frozen one."""

    def __init__(self, settings: GuardSettings, estimator: Estimator | None) -> None:
        """Compare the classes that are answered only, if there is no estimator.

        Args:
            settings: What is let pass.
            estimator: Tells on how many images a model is lost.
        """
        self._settings = settings
        self._estimator = estimator

    def look(self, record: Record, answered: Output, frozen: Output) -> Record:
        """Take one window into account: what the stream answers to it, and what the frozen model does."""
        images = len(frozen.logits)
        share = 1 - math.exp(-images / _RECENT_IMAGES)
        weight = gather(record.answered, share)
        both = torch.stack([answered.logits.softmax(1).mean(0), frozen.logits.softmax(1).mean(0)]).double().cpu()
        kept = torch.stack([record.adapted_shares, record.frozen_shares])
        both = kept + (both - kept) * (share / weight)
        record = record.but(adapted_shares=both[0], frozen_shares=both[1], answered=weight)
        return self._weigh(record, self._estimator, answered, frozen) if self._estimator else record

    def uniform(self, record: Record) -> tuple[Cause, str]:
        """Return why the recent answers are too much alike; an empty reason if they are not."""
        if record.answered < _GATHERED:
            return "healthy", ""
        own, frozen = diversity(record.adapted_shares), diversity(record.frozen_shares)
        if own < self._settings.min_diversity * frozen:
            return "diversity", f"the diversity of recent answers is {own:.2f}, and the frozen model's is {frozen:.2f}"
        top, usual = float(record.adapted_shares.max()), float(record.frozen_shares.max())
        if top > usual + self._settings.max_class_share:
            return "class_share", f"one class has {top:.0%} of recent answers, and {usual:.0%} with the frozen model"
        return "healthy", ""

    def alarmed(self, record: Record) -> bool:
        """Say whether it is established that the adapted model is lost more often than is tolerated."""
        return risk.alarmed(record.evidence, self._settings.risk_windows)

    def measures(self, record: Record) -> dict[str, float]:
        """Return the numbers that a verdict reports."""
        found = {"diversity": diversity(record.adapted_shares)}
        if self._estimator:
            found["risk_lower_bound"] = risk.lower_bound(record.evidence, self._settings.risk_windows)
            found["lost_excess"], found["estimated_gain"] = record.excess, record.gain
        return found

    def _weigh(self, record: Record, estimator: Estimator, answered: Output, frozen: Output) -> Record:
        images = len(frozen.logits)
        steady, recent = min(1.0, images / _STEADY_IMAGES), 1 - math.exp(-images / _RECENT_IMAGES)
        own, usual = estimator.of(answered), estimator.of(frozen)
        excess, gain = own.lost - usual.lost, own.accuracy - usual.accuracy
        tolerance, windows = self._settings.risk_tolerance, self._settings.risk_windows
        run = 0.0 if record.source else excess  # a risk is run only where the adapted model answers
        record = record.but(
            evidence=risk.weigh(record.evidence, run, tolerance, windows),
            excess=smooth(record.excess, excess, record.compared, steady),
            gain=smooth(record.gain, gain, record.compared, steady),
            compared=gather(record.compared, steady),
            trend=smooth(record.trend, excess, record.trended, recent),
            trended=gather(record.trended, recent),
        )
        error = math.sqrt(steady / (2 - steady) / images / 2)  # of a difference of shares, at most
        return record.but(source=self._prefers_source(record, error))

    def _prefers_source(self, record: Record, error: float) -> bool:
        """Say whether the frozen model should answer; with hysteresis."""
        tolerance, gain = self._settings.risk_tolerance, self._settings.min_gain
        if record.source:
            return record.excess > tolerance / 2 or record.trend > tolerance / 4 or record.gain < gain / 2
        lasting = record.trend > tolerance / 2 and record.trended > _GATHERED
        return record.excess > tolerance + error or lasting or record.gain < gain
