"""The picture of an evaluation: adapters by corruptions."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from tta_server.evaluate.report import Line
from tta_server.evaluate.results import SOURCE

_MOST = 0.4  # differences beyond this share of the images look alike


def draw(path: Path, lines: Sequence[Line], title: str) -> None:
    """Write a PNG: each cell gives the error in percent, its colour how that differs from the frozen model's.

    Args:
        path: Where to.
        lines: One protocol, the frozen model among them; those without numbers are left out.
        title: Above the picture.
    """
    shown = [line for line in lines if line.result.errors]
    frozen = next(line for line in shown if line.result.adapter == SOURCE)
    columns = [*frozen.result.errors, "mean"]
    errors = np.array([[*line.result.errors.values(), line.result.mean] for line in shown], dtype=np.float64)
    difference = errors - errors[shown.index(frozen)]
    size = 3 + 0.62 * len(columns), 2.2 + 0.42 * len(shown)
    figure, axes = plt.subplots(figsize=size, dpi=110, layout="constrained")
    image = axes.imshow(difference * 100, cmap="RdBu_r", vmin=-100 * _MOST, vmax=100 * _MOST, aspect="auto")
    for (row, column), error in np.ndenumerate(errors):
        light = abs(difference[row, column]) > 0.6 * _MOST
        axes.text(
            column, row, f"{100 * error:.0f}", ha="center", va="center", fontsize=8, color="white" if light else "black"
        )
    axes.set_xticks(range(len(columns)), [name.replace("_", " ") for name in columns], rotation=38, ha="right")
    axes.set_yticks(range(len(shown)), [line.result.adapter for line in shown])
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.axvline(len(columns) - 1.5, color="white", linewidth=4)
    axes.set_title(title, loc="left", fontsize=11)
    figure.colorbar(image, label="points against frozen; blue is better", extend="both")
    figure.savefig(path)
    plt.close(figure)
