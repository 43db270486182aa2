"""How drift is seen in the demo's own order: its scenes one after another, on the server's own worker."""

import io
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from load_tests.routed import WINDOW, Routed, Scene
from tta_server.demo import camera
from tta_server.settings import Mode
from tta_server.streams.window import prepared

REQUEST: Final = 16
COSTS: Final = 0.03
"""A corruption that costs the frozen model more than this share of the images is to be seen."""
WITHIN: Final[dict[Mode, int]] = {"after": 4, "off": 5 * WINDOW // REQUEST}
"""Requests of it within which it is to be seen: by style, which mode `off` does not look at, and by scores."""

_DOMAINS = 16


class Sight(NamedTuple):
    """What became of a stream's state in a scene.

    Attributes:
        states: After each request.
        because: What said that it drifts, at the end; empty if nothing did.
    """

    states: tuple[str, ...]
    because: str

    @property
    def drift(self) -> int | None:
        """Requests until it was in drift; None if it never was."""
        return self.states.index("drift") + 1 if "drift" in self.states else None

    @property
    def stable(self) -> int | None:
        """Requests until it was stable for good; None if it was not at the end."""
        if self.states[-1] != "stable":
            return None
        left = [i for i, state in enumerate(self.states) if state != "stable"]
        return left[-1] + 2 if left else 1


def report(shown: Scene, scenes: Sequence[camera.Scene]) -> Iterator[str]:
    """Replay scenes to two streams, one that learns and one in mode `off`; yield a table and what was missed."""
    pictures = [_pixels(scene) for scene in scenes]
    errors = [error_of(shown, images, scene.labels) for scene, images in zip(scenes, pictures, strict=True)]
    clean = float(np.mean([error for scene, error in zip(scenes, errors, strict=True) if scene.name == camera.CLEAN]))
    sights = {mode: _replayed(shown, pictures, mode) for mode in WITHIN}
    yield f"In the demo's order, {len(pictures[0])} images a scene in requests of {REQUEST}: requests until"
    yield "the state is drift, of clean images until it is stable for good; in brackets, what says so at the end."
    yield ""
    yield f"| | frozen error | {' | '.join(f'`{mode}`' for mode in sights)} |"
    yield f"|---|---|{'---|' * len(sights)}"
    for place, (scene, error) in enumerate(zip(scenes, errors, strict=True)):
        cells = [_told(scene, found[place]) for found in sights.values()]
        yield f"| {scene.name} {scene.showing} | {error:.1%} | {' | '.join(cells)} |"
    yield ""
    costly = [scene.name != camera.CLEAN and error > clean + COSTS for scene, error in zip(scenes, errors, strict=True)]
    for mode, found in sights.items():
        missed = list(misses(scenes, costly, found, WITHIN[mode]))
        yield f"`{mode}`: {sum(costly)} scenes cost more than {COSTS:.0%}; missed: {', '.join(missed) or 'none'}."


def misses(
    scenes: Sequence[camera.Scene], costly: Sequence[bool], sights: Sequence[Sight], within: int
) -> Iterator[str]:
    """Name the scenes that were not seen as they are to be.

    Args:
        scenes: In their order.
        costly: Which of them are to be in drift within `within` requests, and at their end.
        sights: What became of the state in each; at the end of a clean one it is to be stable.
        within: Requests.
    """
    for scene, costs, sight in zip(scenes, costly, sights, strict=True):
        wanted = "stable" if scene.name == camera.CLEAN else "drift" if costs else sight.states[-1]
        if sight.states[-1] != wanted:
            yield f"{scene.name} {scene.showing} ({sight.states[-1]} at its end)"
        elif costs and (sight.drift or 0) > within:
            yield f"{scene.name} {scene.showing} (after {sight.drift} requests)"


def _replayed(shown: Scene, pictures: Sequence[npt.NDArray[np.uint8]], mode: Mode) -> list[Sight]:
    stream, sights = Routed(shown, WINDOW, _DOMAINS, mode), []
    for images in pictures:
        states = []
        for start in range(0, len(images), REQUEST):
            stream.answer(prepared(images[start : start + REQUEST]))
            stream.learn()
            states.append(stream.watch.state)
        sights.append(Sight(tuple(states), stream.watch.because or ""))
    return sights


def _told(scene: camera.Scene, sight: Sight) -> str:
    requests = sight.stable if scene.name == camera.CLEAN else sight.drift
    return f"{'never' if requests is None else requests}{f' ({sight.because})' if sight.because else ''}"


def _pixels(scene: camera.Scene) -> npt.NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(io.BytesIO(file))).transpose(2, 0, 1) for file in scene.files])


def error_of(shown: Scene, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    """Return the share of images, uint8 (n, 3, H, W), that the frozen model misreads."""
    found = [shown.backbone.forward(x.float() / 255).logits.argmax(1) for x in torch.from_numpy(images).split(128)]
    return float((torch.cat(found).numpy() != labels).mean())
