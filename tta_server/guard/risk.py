"""Risk: is the adapted model more often lost than the frozen one, under continuous monitoring?

A model is lost on an image if its features lie farther from the source's than almost all source images do. Both models
see the same window, so that hard images count against both; the excess is the adapted share minus the frozen one.

Source: Schirmer et al., "Monitoring Risks in Test-Time Adaptation", arXiv:2507.08721, for monitoring the risk of an
adapted model by a proxy with anytime-valid tests; Shin, Ramdas & Rinaldo, "E-detectors", arXiv:2203.03532, section 3.
Differs: the adapted model is compared with the frozen one on the same images, not with the source data, because a hard
domain is no reason to stop adapting. The proxy is a distance of features and not an uncertainty, because a collapsing
model is sure. And a confidence sequence for the running mean is replaced by the Shiryaev-Roberts sum of such tests
started at every window: a long good past does not hide harm that begins now.
"""

import math
from typing import Final

import torch
from torch import Tensor

BETS: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the largest stake that is safe: small ones find small excesses, large ones find large ones soon."""

OFFSETS: Final = tuple(step / 20 for step in range(-10, 11))
"""Excesses over the tolerated one that are tested side by side; the largest that is established is the lower bound."""

_ZERO = OFFSETS.index(0.0)
_CAP = 3.0  # what is established is not remembered longer than it takes to lose this much


def fresh() -> Tensor:
    """Return the evidence of a stream that has seen nothing: log of the detector (bets, offsets), float64."""
    return torch.full((len(BETS), len(OFFSETS)), -torch.inf, dtype=torch.float64)


def weigh(evidence: Tensor, excess: float, tolerance: float, windows: int) -> Tensor:
    """Add one window to the evidence that the mean excess is above the tolerance plus each offset.

    With M the detector, L a bet and m the mean that is tested, M' = (M + 1) * (1 + L * (excess - m)). If the mean
    excess of every window, given the past, is at most m, the factor's mean is at most 1, so that M minus the number of
    windows is a supermartingale: the mean number of windows until M first reaches c is at least c. No independence is
    assumed.

    Args:
        evidence: log M.
        excess: In [-1, 1].
        tolerance: In [0, 0.5).
        windows: c; a detector that has reached it is not let grow much further, so that it also falls again.
    """
    tested = tolerance + torch.tensor(OFFSETS, dtype=torch.float64)
    stakes = torch.tensor(BETS, dtype=torch.float64)[:, None] / (1 + tested)
    grown = torch.logaddexp(evidence, torch.zeros_like(evidence)) + torch.log1p(stakes * (excess - tested))
    return grown.clamp(max=math.log(windows * len(BETS)) + _CAP)


def lower_bound(evidence: Tensor, windows: int) -> float:
    """Return the largest offset that is established; one step below the least if none is.

    Args:
        evidence: log M.
        windows: By chance, an offset is established at most once in so many windows, in the mean.
    """
    established = (torch.logsumexp(evidence, 0) - math.log(len(BETS)) >= math.log(windows)).tolist()
    return max((offset for offset, holds in zip(OFFSETS, established, strict=True) if holds), default=-0.55)


def alarmed(evidence: Tensor, windows: int) -> bool:
    """Say whether it is established that the excess is above the tolerated one."""
    return bool(torch.logsumexp(evidence[:, _ZERO], 0) - math.log(len(BETS)) >= math.log(windows))
