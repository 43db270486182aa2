"""When requests are sent: decided beforehand, so that a slow server gets no mercy (an open loop)."""

import random
from collections.abc import Callable

Shape = Callable[[float, float], list[float]]
"""From a mean rate (1/s) and a duration (s) to the times (s) at which to send, sorted."""

BURST = 8


def steady(rate: float, seconds: float) -> list[float]:
    """Return times at equal distances."""
    return [count / rate for count in range(max(1, round(rate * seconds)))]


def bursty(rate: float, seconds: float) -> list[float]:
    """Return as many times, but in bursts of 8 requests at once; the bursts are a Poisson process of fixed count."""
    generator = random.Random(0)
    count = max(1, round(rate * seconds))
    bursts = sorted(generator.uniform(0, seconds) for _ in range(-(-count // BURST)))
    return [time for time in bursts for _ in range(BURST)][:count]


SHAPES: dict[str, Shape] = {"steady": steady, "bursty": bursty}
