"""What a stream answers beside what the frozen model does, on the same images."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tta_server.guard.record import Record
from tta_server.guard.referee import Referee
from tta_server.guard.variety import diversity, varied
from tta_server.models import Output
from tta_server.settings import GuardSettings
from tta_server.telemetry.closed_sets import Cause

_RECENT_IMAGES = 256  # over which answers are gathered for their diversity
_GATHERED = 0.5  # of them, before their diversity is judged
_SCORED_IMAGES = 64  # over which the score is gathered: quick to fall back, quick to return
_DRAWN = 4  # images that count as a draw: very few decide nothing
_CREDIBLE = 0.02  # of the images on which both differ: a stream that is credible on fewer shows nothing by that
_KNOWN = 0.4  # of recent images gathered, 128 or so: before, a stream has to show a gain
_SURE = 0.85  # of the images on which the frozen model is credible: there is hardly anything left to gain
_LEAD_OF_SURE = 0.25  # of a balance, about two images: by so much a newcomer has to be ahead there
_LEAD_OF_FEW = 0.15  # and by so much where all images seem to be of few classes

Vouch = Callable[[Tensor, Tensor], bool]
"""Says of images (N, C, H, W) whether answers by their statistics are to be trusted, credible or not, beside the frozen
model's classes (N,)."""


class Compare:
    """Keep account of where a stream stands beside the frozen model."""

    def __init__(self, settings: GuardSettings, referee: Referee | None, vouch: Vouch) -> None:
        """Compare the classes that are answered only, if there is no referee.

        Args:
            settings: What is let pass.
            referee: Tells who is right where both differ.
            vouch: Is asked where hardly any answer of the stream is credible.
        """
        self._settings = settings
        self._referee = referee
        self._vouch = vouch

    def look(self, record: Record, x: Tensor, answered: Output, frozen: Output, fair: bool = True) -> Record:
        """Take one window `x` (N, C, H, W) into account: what the stream answers to it, and the frozen model.

        Where it is no `fair` sample, such as one picture many times, it says who should answer such images, and nothing
        of how much answers vary.
        """
        if not fair:
            return self._weigh(record, x, answered, frozen)
        share = 1 - math.exp(-len(frozen.logits) / _RECENT_IMAGES)
        weight = record.answered + (1 - record.answered) * share
        both = torch.stack([answered.logits.softmax(1).mean(0), frozen.logits.softmax(1).mean(0)]).double().cpu()
        kept = torch.stack([record.adapted_shares, record.frozen_shares])
        both = kept + (both - kept) * (share / weight)
        record = record.but(adapted_shares=both[0], frozen_shares=both[1], answered=weight)
        return self._weigh(record, x, answered, frozen)

    def begin(self, record: Record, x: Tensor, answered: Output, frozen: Output) -> Record:
        """Say anew who should answer before the first step, by all images `x` (N, C, H, W) so far."""
        record = record.but(stream_score=0.0, frozen_score=0.0, differed=0.0, scored=0.0)
        return self._weigh(record, x, answered, frozen)

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

    def measures(self, record: Record) -> dict[str, float]:
        """Return the numbers that a verdict reports."""
        found = {"diversity": diversity(record.adapted_shares)}
        if self._referee:
            found["balance"] = balance(record)
            found["estimated_gain"] = (record.stream_score - record.frozen_score) / record.scored
        return found

    def _weigh(self, record: Record, x: Tensor, answered: Output, frozen: Output) -> Record:
        if not self._referee:
            return record
        score, kept = self._referee.score(answered, frozen), math.exp(-len(frozen.logits) / _SCORED_IMAGES)
        record = record.but(
            stream_score=record.stream_score * kept + score.stream,
            frozen_score=record.frozen_score * kept + score.frozen,
            differed=record.differed * kept + score.differ,
            scored=record.scored * kept + len(frozen.logits),
        )
        return record.but(source=not self._stands(record, self._referee, x, frozen))

    def _stands(self, record: Record, referee: Referee, x: Tensor, frozen: Output) -> bool:
        """Say whether a stream may answer, by all that is known and its last images `x` (N, C, H, W)."""
        stands, doubt = balance(record), max(0.0, 1 - record.answered / _KNOWN)
        # Where both hardly differ there is little to lose: then little less than a draw is let pass in the end.
        least = self._settings.min_balance * record.answered * record.differed / record.scored
        if stands < (least / 2 if record.source else least) or record.differed < doubt:
            return False
        if record.stream_score < _CREDIBLE * record.differed:
            return self._vouch(x, frozen.logits.argmax(1))
        if stands >= _LEAD_OF_SURE * doubt:  # the most that is asked of any
            return True
        lead = _lead(referee, frozen)
        return lead is None or stands >= lead * doubt


def balance(record: Record) -> float:
    """Return who has been right lately where both differ: 1 the stream alone, -1 the frozen model alone."""
    won, lost = record.stream_score, record.frozen_score
    return (won - lost) / (won + lost + _DRAWN)


def _lead(referee: Referee, frozen: Output) -> float | None:
    """Return by how much a newcomer has to be ahead, and a stream that is known level; None if it may be behind.

    A frozen model that is credible on nearly all images is hardly ever wrong. Statistics of few classes say little of
    others; a model that is lost says one class of everything too, but is not credible.
    """
    said = frozen.logits.argmax(1)[referee.credible(frozen)]
    if len(said) >= _SURE * len(frozen.logits):
        return _LEAD_OF_SURE
    few = 2 * len(said) >= len(frozen.logits) and not varied(said, frozen.logits.shape[1])
    return _LEAD_OF_FEW if few else None
