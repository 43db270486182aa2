"""The streams that domains are measured on: what comes after what, and how much of it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tta_server.evaluate.corruptions import CORRUPTIONS, corrupt
from tta_server.evaluate.protocols import STEPS

CLEAN, CLEAN_AFTER = "clean", "clean again"
ROUNDS = 20
PERIODS = 16, 24, 64, 80
SCENE = 32  # images of it, one after the other
FEW = 48  # images that are shown again and again
TURNS = (
    (CLEAN, "frost"),
    (CLEAN, "gaussian_noise"),
    (CLEAN, "jpeg_compression"),
    ("motion_blur", "frost"),
    (CLEAN, "fog", "shot_noise"),
    ("defocus_blur", "frost", CLEAN),
)
SORTED = CLEAN, "contrast", "gaussian_noise", "defocus_blur", "fog", "jpeg_compression"


class Stretch(NamedTuple):
    """A part of a stream of one kind.

    Attributes:
        name: What it shows: a corruption, `CLEAN` or `CLEAN_AFTER`.
        severity: Of the corruption.
        rows: Which images (N,).
    """

    name: str
    severity: int
    rows: np.ndarray


Draw = Callable[[int], np.ndarray]


class Pool:
    """The images that streams are made of, spoilt once for each way."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
        """Take uint8 images (N, C, H, W) and their labels (N,)."""
        self.labels = labels
        self._images = images
        self._seed = seed
        self._spoilt: dict[tuple[str, int], np.ndarray] = {}

    def images(self, stretch: Stretch) -> np.ndarray:
        """Return what a stretch shows."""
        if stretch.name not in CORRUPTIONS:
            return np.asarray(self._images[stretch.rows])
        key = stretch.name, stretch.severity
        if key not in self._spoilt:
            self._spoilt[key] = corrupt(self._images, *key, self._seed)
        return np.asarray(self._spoilt[key][stretch.rows])


def streams(kind: str, labels: np.ndarray, count: int, seed: int) -> dict[str, list[Stretch]]:
    """Return the streams of a kind, by name.

    Args:
        kind: One of `KINDS`.
        labels: Of the images that there are (N,).
        count: Images of each domain, at most N.
        seed: Of what is drawn.
    """
    rng = np.random.default_rng(seed)

    def draw(images: int) -> np.ndarray:
        return rng.permutation(len(labels))[:images]

    return KINDS[kind](labels, count, draw)


def _continual(_labels: np.ndarray, count: int, draw: Draw) -> dict[str, list[Stretch]]:
    return {"continual": [Stretch(name, 5, draw(count)) for name in (CLEAN, *CORRUPTIONS, CLEAN_AFTER)]}


def _recurring(_labels: np.ndarray, count: int, draw: Draw) -> dict[str, list[Stretch]]:
    return {"recurring": [Stretch(name, 5, draw(count)) for _ in range(ROUNDS) for name in CORRUPTIONS]}


def _gradual(_labels: np.ndarray, count: int, draw: Draw) -> dict[str, list[Stretch]]:
    size = max(1, count // len(STEPS))
    return {"gradual": [Stretch(name, step, draw(size)) for name in CORRUPTIONS for step in STEPS]}


def _sorted(labels: np.ndarray, count: int, draw: Draw) -> dict[str, list[Stretch]]:
    found = {}
    for name in SORTED:
        rows = draw(count)
        found[name] = [Stretch(name, 5, rows[labels[rows].argsort(kind="stable")])]
    return found


def _still(_labels: np.ndarray, count: int, draw: Draw) -> dict[str, list[Stretch]]:
    scenes = max(1, count // SCENE)
    return {name: [Stretch(name, 5, draw(scenes).repeat(SCENE))] for name in SORTED}


def _repeated(labels: np.ndarray, count: int, draw: Draw) -> dict[str, list[Stretch]]:
    """Images of all classes, and then a few of one class again and again."""
    found = {}
    for name in SORTED:
        rows = draw(len(labels))
        few = rows[labels[rows] == labels[rows[0]]][:FEW]
        again = np.split(np.resize(few, 2 * count), 2)
        found[name] = [Stretch(name, 5, each) for each in (rows[:count], *again)]
    return found


def _turns(_labels: np.ndarray, count: int, draw: Draw) -> dict[str, list[Stretch]]:
    return {
        f"{', '.join(names)}: {period} each": [Stretch(names[turn % len(names)], 5, draw(period))
                                               for turn in range(count * len(names) // period)]
        for names in TURNS for period in PERIODS
    }  # fmt: skip


def _clean(labels: np.ndarray, count: int, draw: Draw) -> dict[str, list[Stretch]]:
    shuffled = [Stretch(CLEAN, 5, draw(count)) for _ in range(40)]
    by_class = [Stretch(CLEAN, 5, part.rows[labels[part.rows].argsort(kind="stable")]) for part in shuffled[:10]]
    return {"shuffled": shuffled, "sorted by class": by_class}


KINDS: dict[str, Callable[[np.ndarray, int, Draw], dict[str, list[Stretch]]]] = {
    "continual": _continual,
    "recurring": _recurring,
    "gradual": _gradual,
    "sorted": _sorted,
    "still": _still,
    "repeated": _repeated,
    "turns": _turns,
    "clean": _clean,
}


def by_name(stretches: Sequence[Stretch], wrong: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the error in % of each thing that a stream shows, from which answers were wrong, by stretch."""
    found: dict[str, list[np.ndarray]] = {}
    for stretch, answers in zip(stretches, wrong, strict=True):
        found.setdefault(stretch.name, []).append(answers)
    return {name: 100 * float(np.concatenate(parts).mean()) for name, parts in found.items()}
