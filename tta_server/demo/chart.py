"""The demo's picture: error over time, frozen and adapting."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_RECENT = 100
_COLOURS = ("#9a9a9a", "#1f6feb")


def draw(path: Path, phases: Sequence[str], wrong: Mapping[str, Sequence[npt.NDArray[np.bool_]]], title: str) -> None:
    """Write a PNG.

    Args:
        path: Where to.
        phases: Name of each phase.
        wrong: For each of two streams, the frozen one first, which images of each phase were misread.
        title: Above the picture.
    """
    figure, axes = plt.subplots(figsize=(13, 5), dpi=110, layout="constrained")
    for (stream, parts), colour in zip(wrong.items(), _COLOURS, strict=True):
        axes.plot(_recent(np.concatenate(parts)), color=colour, linewidth=1.6, label=stream)
    edges = np.cumsum([0, *(len(part) for part in next(iter(wrong.values())))])
    _mark(axes, phases, edges)
    axes.set(
        xlim=(0, edges[-1]), ylim=(0, 102), xlabel="images seen", ylabel=f"error over the last {_RECENT} images, %"
    )
    axes.set_title(title, loc="left", fontsize=12, pad=62)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    plt.close(figure)


def _mark(axes: Axes, phases: Sequence[str], edges: npt.NDArray[np.int64]) -> None:
    for i, (name, start, end) in enumerate(zip(phases, edges, edges[1:], strict=False)):
        if i % 2:
            axes.axvspan(start, end, color="#f3f3f3", zorder=0)
        axes.text((start + end) / 2, 103, name.replace("_", " "), rotation=38, ha="left", va="bottom", fontsize=8)


def _recent(wrong: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the mean error in percent of each image and up to 99 before it."""
    total = np.concatenate([[0], np.cumsum(wrong)])
    end = np.arange(1, len(wrong) + 1)
    start = np.maximum(end - _RECENT, 0)
    share: npt.NDArray[np.float64] = (total[end] - total[start]) / (end - start)
    return 100 * share
