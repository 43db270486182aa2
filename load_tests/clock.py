"""Time two ways of doing a thing side by side, and compare them pair by pair.

Absolute times on a shared machine say more about its neighbours than about the code. Two calls made right after one
another suffer the same neighbours, so the ratio of a pair is what is reported, and the order changes every round.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Run = Callable[[], object]
Clock = Callable[[Run], float]
"""Runs something and returns how long it took, in seconds."""

_USUAL_ROUNDS = 3
_PATIENCE = 10


@dataclass(frozen=True)
class Pairs:
    """Times of two ways of doing a thing, one pair a round.

    Attributes:
        plain_s: Times of the yardstick.
        other_s: Times of what is compared with it; same length.
    """

    plain_s: tuple[float, ...]
    other_s: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Times of the other over those of the yardstick, pair by pair."""
        return [other / plain for plain, other in zip(self.plain_s, self.other_s, strict=True)]


def clock_for(device: torch.device) -> Clock:
    """Return the clock that sees all the work that a call starts on `device`."""
    return _cuda_clock if device.type == "cuda" else _wall_clock


def alternate(plain: Run, other: Run, clock: Clock, rounds: int, budget_s: float, warm_up: int = 1) -> Pairs:
    """Time `plain` and `other` in turn, the order reversed every round.

    Args:
        plain: The yardstick.
        other: What is compared with it.
        clock: How to time a call.
        rounds: Most pairs, >= 1.
        budget_s: No pair is started after this long once there are three, or after ten times this long.
        warm_up: Calls of each that are not counted.
    """
    for _ in range(warm_up):
        clock(plain)
        clock(other)
    times: dict[Run, list[float]] = {plain: [], other: []}
    started_s = time.monotonic()
    for count in range(rounds):
        patience = 1 if count >= _USUAL_ROUNDS else _PATIENCE
        if count and time.monotonic() - started_s > patience * budget_s:
            break
        for run in (plain, other) if count % 2 == 0 else (other, plain):
            times[run].append(clock(run))
    return Pairs(tuple(times[plain]), tuple(times[other]))


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the non-empty `values` do not exceed: the nearest of them."""
    return sorted(values)[min(len(values) - 1, round(share * (len(values) - 1)))]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median with the 10th and 90th percentile, as `1.50 (1.40-1.60)`."""
    low, middle, high = quantile(values, 0.1), statistics.median(values), quantile(values, 0.9)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _wall_clock(run: Run) -> float:
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


def _cuda_clock(run: Run) -> float:
    # The device is idle when the first event is recorded, so the time spent launching kernels counts as well.
    torch.cuda.synchronize()
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
