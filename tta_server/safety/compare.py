"""The adapted model beside the frozen one, on the same windows."""

import math

import torch

from models import Output
from tta_server.safety import risk
from tta_server.safety.home import Home
from tta_server.safety.record import Record, gather, smooth
from tta_server.safety.variety import diversity
from tta_server.safety.verdict import Cause
from tta_server.settings import Guard as Settings

_STEADY_IMAGES = 32  # what is said of windows of fewer is smoothed over about that many
_RECENT_IMAGES = 256  # over which answers are gathered for their diversity
_GATHERED = 0.5  # of them, before their diversity is judged


class Compare:
    """Keep account of where the adapted model stands beside the frozen one."""

    def __init__(self, settings: Settings, home: Home | None, output_kind: str) -> None:
        """Compare answers only, if the bundle does not say where home is.

        Args:
            settings: What is let pass.
            home: The source data as the frozen model sees them.
            output_kind: What the adapter's "logits" are.
        """
        self._settings = settings
        self._home = home
        self._logits = output_kind == "logits"

    def look(self, record: Record, adapted: Output, frozen: Output) -> Record:
        """Take one window into account."""
        images = len(frozen.logits)
        share = 1 - math.exp(-images / _RECENT_IMAGES)
        weight = gather(record.answered, share)
        scores = adapted.logits.softmax(1) if self._logits else adapted.logits
        both = torch.stack([scores.mean(0), frozen.logits.softmax(1).mean(0)]).double().cpu()
        kept = torch.stack([record.adapted_shares, record.frozen_shares])
        both = kept + (both - kept) * (share / weight)
        record = record.but(adapted_shares=both[0], frozen_shares=both[1], answered=weight)
        return self._weigh(record, adapted, frozen, images) if self._home and self._logits else record

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
        if self._home and self._logits:
            found["risk_lower_bound"] = risk.lower_bound(record.evidence, self._settings.risk_windows)
            found["lost_excess"], found["estimated_gain"] = record.excess, record.gain
        return found

    def _weigh(self, record: Record, adapted: Output, frozen: Output, images: int) -> Record:
        assert self._home  # noqa: S101
        settings, share = self._settings, min(1.0, images / _STEADY_IMAGES)
        excess = self._home.lost(adapted) - self._home.lost(frozen)
        gain = self._home.estimated_accuracy(adapted) - self._home.estimated_accuracy(frozen)
        evidence = risk.weigh(record.evidence, excess, settings.risk_tolerance, settings.risk_windows)
        excess = smooth(record.excess, excess, record.compared, share)
        gain = smooth(record.gain, gain, record.compared, share)
        error = math.sqrt(share / (2 - share) / images / 2)
        if record.source:
            source = excess > settings.risk_tolerance / 2 or gain < settings.min_gain / 2
        else:
            source = excess > settings.risk_tolerance + error or gain < settings.min_gain
        compared = gather(record.compared, share)
        return record.but(excess=excess, gain=gain, compared=compared, evidence=evidence, source=source)
