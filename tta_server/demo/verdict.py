"""What came of the demo: numbers for each scene, and a verdict in words."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tta_server.demo.camera import CLEAN, SHOWINGS, Replayed, Scene

FROZEN, ONE_STATE, ADAPTING = "frozen", "one state", "adapting"

_MOST_RATIO, _MOST_COST = 0.8, 0.02
_TIMES = {1: "first", 2: "second"}


class Shown(NamedTuple):
    """A scene, and what was answered.

    Attributes:
        scene: What was shown.
        answers: Of each stream.
        elapsed_s: How long it took.
    """

    scene: Scene
    answers: dict[str, Replayed]
    elapsed_s: float

    @property
    def excess(self) -> float:
        """By how much adapting was worse than frozen, as a share of images; negative if it was better."""
        return self.answers[ADAPTING].error - self.answers[FROZEN].error

    def numbers(self) -> dict[str, Any]:
        """Return a line of the table."""
        latencies_ms = 1000 * np.concatenate([answer.latencies_s for answer in self.answers.values()])
        return {
            "scene": self.scene.name,
            "showing": self.scene.showing,
            **{f"{name.replace(' ', '_')}_error": answer.error for name, answer in self.answers.items()},
            "images_per_second": len(self.answers) * len(self.scene.files) / self.elapsed_s,
            "p50_ms": float(np.percentile(latencies_ms, 50)),
            "p99_ms": float(np.percentile(latencies_ms, 99)),
            "domain": self.answers[ADAPTING].domain,
        }


def judge(rows: Sequence[Shown], severity: int) -> tuple[str, bool]:
    """Say what adapting gained, first and second time, and where it was worse than frozen.

    Args:
        rows: Every scene, in order.
        severity: Of the corruptions.

    Returns:
        The verdict, and whether it is good: adapting had at most 0.8 times the frozen error and cost at most 2 points
        on the clean images at the end.
    """
    last = rows[-1]
    ratio = _mean(rows, ADAPTING, SHOWINGS) / _mean(rows, FROZEN, SHOWINGS)
    good = ratio <= _MOST_RATIO and last.excess <= _MOST_COST
    errors = "; ".join(
        f"{name} {' and '.join(f'{_mean(rows, name, [showing]):.1%}' for showing in SHOWINGS)}" for name in last.answers
    )
    words = (
        f"{'Adapting helped' if good else 'Adapting did NOT help'} ({ratio:.2f} x the frozen error). Mean error over "
        f"the corruptions at severity {severity}, first and second time: {errors}. Clean at the end: "
        f"{'; '.join(f'{name} {answer.error:.1%}' for name, answer in last.answers.items())}. {_worse(rows)}"
    )
    return words, good


def _mean(rows: Iterable[Shown], stream: str, showings: Sequence[int]) -> float:
    shown = [row for row in rows if row.scene.name != CLEAN and row.scene.showing in showings]
    return float(np.mean([row.answers[stream].error for row in shown]))


def _worse(rows: Iterable[Shown]) -> str:
    worse = sorted((row for row in rows if row.excess > 0), key=lambda row: -row.excess)
    if not worse:
        return "Adapting was nowhere worse than frozen."
    where = ", ".join(
        f"{row.scene.name.replace('_', ' ')} ({_TIMES[row.scene.showing]} time, {100 * row.excess:.1f} points)"
        for row in worse
    )
    return f"Adapting was worse than frozen in {where}."
