"""Read the images of a plan; those that are costly to make are made once and kept on disk."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from tta_server.evaluate.datasets import Condition, Dataset, Indices, digest
from tta_server.evaluate.protocols import Phase
from tta_server.models.preprocess import Pixels

_BLOCK = 16


class Reader:
    """The images and labels of phases."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        """Take a data set and the folder where its corrupted images are kept; the folder may be deleted any time."""
        self._dataset = dataset
        self._folder = folder
        self._kept: dict[Condition, tuple[Indices, Pixels]] = {}

    def prepare(self, phases: Iterable[Phase], advance: Callable[[int], None]) -> None:
        """Make the images of `phases` that are not there yet.

        Args:
            phases: Everything that will be read until the next call.
            advance: Called with the number of images that became ready.

        Raises:
            ValueError: If some of them cannot be read; all are named.
        """
        self._kept = {}
        needed = _needed(phases)
        made = {condition for condition, rows in needed.items() if self._path(condition, rows).is_file()}
        self._dataset.check({condition: rows for condition, rows in needed.items() if condition not in made})
        if not self._dataset.computed:
            return
        for condition, rows in needed.items():
            path = self._path(condition, rows)
            if condition not in made:
                self._make(path, condition, rows, advance)
            self._kept[condition] = rows, np.load(path, mmap_mode="r", allow_pickle=False)

    def images(self, phase: Phase, part: slice) -> Pixels:
        """Return the images of a part of a phase, uint8 (n, C, H, W), owned by the caller."""
        which, rows = phase.which[part], phase.rows[part]
        found: dict[int, Pixels] = {}
        for index in np.unique(which):
            places = np.flatnonzero(which == index)
            images = self._read(phase.domains[index].condition, rows[places])
            found |= dict(zip(places.tolist(), images, strict=True))
        return np.stack([found[place] for place in range(len(rows))])

    def labels(self, phase: Phase) -> Indices:
        """Return the classes (N,) of a phase."""
        labels = np.zeros(len(phase), np.int64)
        for index, domain in enumerate(phase.domains):
            here = phase.which == index
            labels[here] = self._dataset.labels(domain.condition)[phase.rows[here]]
        return labels

    def _read(self, condition: Condition, rows: Indices) -> Pixels:
        if condition not in self._kept:
            return self._dataset.images(condition, rows)
        kept, images = self._kept[condition]
        return images[np.searchsorted(kept, rows)]

    def _path(self, condition: Condition, rows: Indices) -> Path:
        key = digest(self._dataset.fingerprint, condition, rows.tobytes())[:16]
        return self._folder / f"{condition.name}-{condition.severity}-{key}.npy"

    def _make(self, path: Path, condition: Condition, rows: Indices, advance: Callable[[int], None]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        shape = self._dataset.images(condition, rows[:1]).shape[1:]
        images = open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(rows), *shape))
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            images[start : start + len(block)] = self._dataset.images(condition, block)
            advance(len(block))
        images.flush()
        part.replace(path)  # what is there under its name is complete


def _needed(phases: Iterable[Phase]) -> dict[Condition, Indices]:
    """Return the rows of each condition that some phase shows, sorted."""
    rows: dict[Condition, list[Indices]] = {}
    for phase in phases:
        for index, domain in enumerate(phase.domains):
            rows.setdefault(domain.condition, []).append(phase.rows[phase.which == index])
    return {condition: np.unique(np.concatenate(parts)) for condition, parts in rows.items()}
