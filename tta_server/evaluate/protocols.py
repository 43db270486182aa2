"""In which order images come: the protocols that adapters are compared under.

Source: the settings of Marsden et al., WACV 2024, arXiv:2306.00650, section 4; the Dirichlet draw of labels is that of
Gong et al., NeurIPS 2022, arXiv:2208.05117.
Differs: every stream starts and ends with the same clean images, so that what adaptation costs shows. A request of
`gradual` may hold images of two severities: a camera does not wait for the next step either.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tta_server.evaluate.datasets import CLEAN, Condition, Dataset, Indices

PROTOCOLS = ("continual", "reset", "gradual", "mixed", "correlated", "single")
CLEAN_BEFORE, CLEAN_AFTER = "clean", "clean again"
STEPS = (1, 2, 3, 4, 5, 4, 3, 2, 1)
"""Severities of a corruption that comes and goes."""

_CLEAN_DRAW, _MIX_DRAW, _ORDER_DRAW = 100, 101, 102  # keys of generators, beside the places of the corruptions


@dataclass(frozen=True)
class Course:
    """What all protocols share.

    Attributes:
        severity: Of the corruptions, 1 to 5; `gradual` goes through all.
        images: Images of each domain; None takes all there are. `gradual` shares them among its nine steps, but with
            None takes all in every step.
        seed: Of the choice of images and of their order.
        delta: Concentration of the Dirichlet draw of `correlated`, > 0; the smaller, the longer a label stays.
        clean: Replay the same with images that are not corrupted.
        window: Images of one window; `correlated` is correlated within a window of this size.
    """

    severity: int = 5
    images: int | None = 256
    seed: int = 0
    delta: float = 0.1
    clean: bool = False
    window: int = 64

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 2:
            raise ValueError(f"images must be at least 2 of each domain, got {self.images}")
        if not 0 < self.delta < math.inf:
            raise ValueError(f"delta must be positive and finite, got {self.delta}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


class Domain(NamedTuple):
    """A column of the table.

    Attributes:
        column: Under which name its errors are counted.
        condition: How its images were taken.
    """

    column: str
    condition: Condition


@dataclass(frozen=True)
class Phase:
    """A stretch of a stream.

    Attributes:
        name: For people.
        domains: Where its images come from.
        which: Index into `domains` of each image (N,), in the order they are shown.
        rows: Index of each image (N,) in the data of its domain.
        reset: Whether the stream is reset before.
    """

    name: str
    domains: tuple[Domain, ...]
    which: Indices
    rows: Indices
    reset: bool = False

    def __len__(self) -> int:
        return len(self.rows)


def plan(protocol: str, dataset: Dataset, course: Course) -> list[Phase]:
    """Return the phases of a protocol; a function of its arguments alone.

    Args:
        protocol: One of `PROTOCOLS`. `single` shows what `continual` does; its requests differ.
        dataset: Where the images come from; those without clean ones get no clean phases.
        course: The rest.

    Raises:
        ValueError: If there is no such protocol, or not that many images.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol '{protocol}'; use one of {', '.join(PROTOCOLS)}")
    if course.clean and not dataset.has_clean:
        raise ValueError("the data have no clean images; add 'clean.npy' or a folder 'clean'")
    parts: list[Phase] = []
    for index, corruption in enumerate(dataset.corruptions):
        column = f"part {index + 1}" if course.clean else corruption
        parts.append(_domain(protocol, dataset, course, column, corruption, index))
    if protocol == "mixed":
        parts = [_mix(parts, course.seed)]
    if dataset.has_clean:
        rows = _choose(dataset, [CLEAN], course, _CLEAN_DRAW)
        before = _clean(CLEAN_BEFORE, rows)
        after = _clean(CLEAN_AFTER, np.random.default_rng([course.seed, _CLEAN_DRAW, 1]).permutation(rows))
        parts = [before, *parts, after]
    if protocol == "correlated":
        parts = [_correlate(part, dataset, course, index) for index, part in enumerate(parts)]
    return parts


def dirichlet_order(labels: Indices, delta: float, window: int, rng: np.random.Generator) -> Indices:
    """Return an order in which equal labels come together.

    Time has as many slots as there are classes, but none shorter than a window: with many classes and few images a
    window would otherwise span many slots and hold every class. Each class spreads its images over the slots by shares
    drawn from a Dirichlet distribution; within a slot, class comes after class.

    Args:
        labels: (N,).
        delta: Concentration, > 0; at 0.1 most of a class lies in a few slots, at 100 it is in all alike.
        window: Least length of a slot, in images.
        rng: Makes the draws.

    Returns:
        A permutation (N,) of the indices of `labels`.
    """
    classes = np.unique(labels)
    count = min(len(classes), max(2, len(labels) // window))
    slots: list[list[Indices]] = [[] for _ in range(count)]
    for label in rng.permutation(classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(rng.dirichlet([delta] * count)) * len(members)
        for slot, part in zip(slots, np.split(members, ends[:-1].round().astype(int)), strict=True):
            slot.append(part)
    return np.concatenate([slot[index] for slot in slots for index in rng.permutation(len(slot))])


def requests(rows: int, size: int) -> list[slice]:
    """Cut `rows` images into requests of `size`; a last one of one image joins the one before."""
    edges = [*range(0, rows, size), rows]
    if len(edges) > 2 and size > 1 and edges[-1] - edges[-2] == 1:
        del edges[-2]
    return [slice(start, end) for start, end in pairwise(edges)]


def _domain(protocol: str, dataset: Dataset, course: Course, column: str, corruption: str, index: int) -> Phase:
    severities = STEPS if protocol == "gradual" else (course.severity,)
    conditions = [CLEAN if course.clean else Condition(corruption, severity) for severity in severities]
    rows = _choose(dataset, conditions, course, index)
    steps = [rows] * len(severities) if course.images is None else np.array_split(rows, len(severities))
    domains = tuple(Domain(column, condition) for condition in conditions)
    which = np.repeat(np.arange(len(steps)), [len(step) for step in steps])
    return Phase(column, domains, which, np.concatenate(steps), protocol == "reset")


def _choose(dataset: Dataset, conditions: Sequence[Condition], course: Course, draw: int) -> Indices:
    size = min(len(dataset.labels(condition)) for condition in set(conditions))
    if course.images is not None and course.images > size:
        raise ValueError(f"images is {course.images}, and the data have {size} of '{conditions[0].name}'")
    return np.random.default_rng([course.seed, draw]).permutation(size)[: course.images]


def _clean(name: str, rows: Indices) -> Phase:
    return Phase(name, (Domain(name, CLEAN),), np.zeros(len(rows), np.int64), rows)


def _mix(parts: list[Phase], seed: int) -> Phase:
    which = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rows = np.concatenate([part.rows for part in parts])
    order = np.random.default_rng([seed, _MIX_DRAW]).permutation(len(rows))
    return Phase("mixed", tuple(part.domains[0] for part in parts), which[order], rows[order])


def _correlate(part: Phase, dataset: Dataset, course: Course, index: int) -> Phase:
    labels = dataset.labels(part.domains[0].condition)[part.rows]
    rng = np.random.default_rng([course.seed, _ORDER_DRAW, index])
    order = dirichlet_order(labels, course.delta, course.window, rng)
    return Phase(part.name, part.domains, part.which, part.rows[order], part.reset)
