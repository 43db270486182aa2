"""The demo's picture: error over time, first and second showing, with the domains that the server told apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tta_server.runtime.job import HOME

_RECENT = 64
_BLOCK = 64  # images among which a domain must have most to count as met again
_LINES = ("#8a8a8a", "#d9480f", "#1238a8")
_PAIRS = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
_DOMAINS = [*_PAIRS[::2], *_PAIRS[1::2]]  # those that are alike lie far from one another
_TINT = 0.4
_TOP = 104
_HEAD_INCHES, _PANEL_INCHES = 1.2, 2.8


class Stretch(NamedTuple):
    """One scene of the picture.

    Attributes:
        name: What is written above.
        showing: In which panel it is, from 1 on.
        wrong: Of each line, which images (N,) were misread.
        domains: Domain of each image (N,), or "source".
    """

    name: str
    showing: int
    wrong: Mapping[str, npt.NDArray[np.bool_]]
    domains: Sequence[str]


class Mark(NamedTuple):
    """A moment at which a stream met a domain.

    Attributes:
        image: How many images came before.
        domain: Its name.
        opened: Whether it was new, else it was recalled.
    """

    image: int
    domain: str
    opened: bool


def draw(path: Path, stretches: Sequence[Stretch], title: str) -> None:
    """Write a PNG with a panel for each showing.

    Args:
        path: Where to.
        stretches: The scenes in order; every one has the same lines, at most three.
        title: Above the picture.
    """
    showings = sorted({stretch.showing for stretch in stretches})
    height = _PANEL_INCHES * len(showings) + _HEAD_INCHES
    figure, panels = plt.subplots(len(showings), figsize=(13, height), dpi=110, sharex=True, squeeze=False)
    figure.subplots_adjust(left=0.05, right=0.87, bottom=0.5 / height, top=1 - _HEAD_INCHES / height, hspace=0.08)
    domains = [domain for stretch in stretches for domain in stretch.domains]
    tints = {HOME: (1.0, 1.0, 1.0)} | {
        name: tuple(1 - _TINT * (1 - value) for value in _DOMAINS[index % len(_DOMAINS)])
        for index, name in enumerate(one for one in dict.fromkeys(domains) if one != HOME)
    }
    lines = {name: _recent(np.concatenate([one.wrong[name] for one in stretches])) for name in stretches[0].wrong}
    met, start = marks(domains), 0
    for axes, showing in zip(panels[:, 0], showings, strict=True):
        shown = [stretch for stretch in stretches if stretch.showing == showing]
        end = start + sum(len(stretch.domains) for stretch in shown)
        _tint(axes, [tints[domain] for domain in domains[start:end]])
        for (name, line), colour in zip(lines.items(), _LINES, strict=False):
            axes.plot(line[start:end], color=colour, linewidth=1.6, label=name)
        _put(axes, [mark._replace(image=mark.image - start) for mark in met if start <= mark.image < end])
        _name(axes, shown, first=showing == showings[0])
        axes.set(ylim=(0, _TOP), ylabel=f"{'first' if showing == 1 else 'second'} time: error, %")
        axes.spines[["top", "right"]].set_visible(False)
        start = end
    panels[0, 0].set_xlim(0, max(_length(stretches, showing) for showing in showings))
    panels[-1, 0].set_xlabel(f"images seen in this showing; error over the last {_RECENT}; each colour is one domain")
    panels[0, 0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.suptitle(title, x=0.05, y=1 - 0.08 / height, ha="left", va="top", fontsize=12)
    figure.savefig(path)
    plt.close(figure)


def marks(domains: Sequence[str]) -> list[Mark]:
    """Return when each domain was opened, and when a known one was recalled.

    Args:
        domains: Domain of each image in order, or "source".

    Returns:
        Each first image of a domain; and each block of 64 images most of which are of another domain than before,
        unless that was first met in it or it is the source.
    """
    first = {domain: image for image, domain in reversed(list(enumerate(domains))) if domain != HOME}
    found = [Mark(image, domain, opened=True) for domain, image in first.items()]
    current = HOME
    for start in range(0, len(domains), _BLOCK):
        block = domains[start : start + _BLOCK]
        most = Counter(block).most_common(1)[0][0]
        if most not in (current, HOME) and first[most] < start:
            found.append(Mark(start + list(block).index(most), most, opened=False))
        current = most
    return sorted(found)


def _tint(axes: Axes, tints: Sequence[tuple[float, ...]]) -> None:
    axes.imshow(np.array([tints]), extent=(0, len(tints), 0, _TOP), aspect="auto", interpolation="nearest", zorder=0)


def _put(axes: Axes, met: Sequence[Mark]) -> None:
    for opened, sign, label in ((True, "v", "domain opened"), (False, "o", "domain recalled")):
        images = [mark.image for mark in met if mark.opened == opened]
        face = "black" if opened else "white"
        height = [_TOP - 4] * len(images)
        axes.plot(images, height, sign, color="black", markerfacecolor=face, markersize=6, label=label, clip_on=False)


def _name(axes: Axes, shown: Sequence[Stretch], first: bool) -> None:
    edges = np.cumsum([0, *(len(stretch.domains) for stretch in shown)])
    for stretch, start, end in zip(shown, edges, edges[1:], strict=False):
        axes.axvline(end, color="#b0b0b0", linewidth=0.6, zorder=1)
        if first:
            place, name = start + 0.3 * (end - start), stretch.name.replace("_", " ")
            axes.text(place, _TOP + 1, name, rotation=30, ha="left", va="bottom", fontsize=8)


def _length(stretches: Sequence[Stretch], showing: int) -> int:
    return sum(len(stretch.domains) for stretch in stretches if stretch.showing == showing)


def _recent(wrong: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the mean error in percent of each image and up to 63 before it."""
    total = np.concatenate([[0], np.cumsum(wrong)])
    end = np.arange(1, len(wrong) + 1)
    start = np.maximum(end - _RECENT, 0)
    share: npt.NDArray[np.float64] = (total[end] - total[start]) / (end - start)
    return 100 * share
