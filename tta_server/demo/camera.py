"""A drifting camera: scenes of images, posted to streams of servers as PNG files."""

import io
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from tta_server.evaluate.corruptions import CORRUPTIONS, corrupt
from tta_server.models import glyphs

CLEAN = "clean"
SHOWINGS = (1, 2)

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Scene:
    """A stretch of one condition.

    Attributes:
        name: The corruption, or "clean".
        showing: Whether the camera meets it for the first or the second time.
        files: PNG files in the order they are sent.
        labels: (N,) true classes, unknown to the server.
    """

    name: str
    showing: int
    files: list[bytes]
    labels: npt.NDArray[np.int64]


class Feed(NamedTuple):
    """Where a camera posts to.

    Attributes:
        url: Address of the server.
        stream: Name of the stream.
    """

    url: str
    stream: str


@dataclass(frozen=True)
class Replayed:
    """What the answers of one stream to one scene were.

    Attributes:
        wrong: (N,) whether each image was misread.
        latencies_s: Seconds of each request.
        domains: What the server says each image looked like: "source" or the name of a domain; empty if the stream
            tells none apart.
    """

    wrong: npt.NDArray[np.bool_]
    latencies_s: npt.NDArray[np.float64]
    domains: list[str]

    @property
    def error(self) -> float:
        """Share of misread images."""
        return float(self.wrong.mean())

    @property
    def domain(self) -> str:
        """The domain that most images belonged to."""
        return Counter(self.domains).most_common(1)[0][0]


def camera(images: int, severity: int, seed: int, progress: Announce) -> list[Scene]:
    """Return clean images and the 15 corruptions one after another, the same again, and clean images at the end.

    Args:
        images: Images a scene; each scene draws its own from the embedded test set, without repeats.
        severity: Of the corruptions, 1 to 5.
        seed: Of the choice of images and of the corruptions.
        progress: Called with the name of each finished scene.

    Raises:
        ValueError: If there are not that many test images.
    """
    pixels, labels = glyphs.images("test")
    if not 1 <= images <= len(pixels):
        raise ValueError(f"images must be 1 to {len(pixels)}, got {images}")
    scenes: list[Scene] = []
    for name, showing in order():
        place = len(scenes)
        chosen = np.random.default_rng([seed, place]).permutation(len(pixels))[:images]
        shown = pixels[chosen]
        if name != CLEAN:
            shown = corrupt(shown, name, severity, seed + place)
        scenes.append(Scene(name, showing, [_png(image) for image in shown], labels[chosen]))
        progress(name)
    return scenes


def order() -> list[tuple[str, int]]:
    """Return name and showing of each scene; the clean images at the end belong to the second showing."""
    return [*((name, showing) for showing in SHOWINGS for name in (CLEAN, *CORRUPTIONS)), (CLEAN, SHOWINGS[-1])]


def replay(scene: Scene, feeds: Mapping[str, Feed], per_request: int) -> dict[str, Replayed]:
    """Post a scene to every feed at once, each as one camera that waits for answers and for what is learnt of them.

    Args:
        scene: What is sent.
        feeds: Where to, by what the results are called.
        per_request: Images in a request.

    Raises:
        httpx.HTTPError: If a request is not answered with 200.
    """
    with ThreadPoolExecutor(len(feeds)) as pool:
        runs = {name: pool.submit(_send, scene, feed, per_request) for name, feed in feeds.items()}
        return {name: run.result() for name, run in runs.items()}


def _send(scene: Scene, feed: Feed, per_request: int) -> Replayed:
    wrong: list[bool] = []
    latencies_s: list[float] = []
    domains: list[str] = []
    with httpx.Client(base_url=feed.url, headers={"X-Stream-Id": feed.stream}, timeout=60) as client:
        for start in range(0, len(scene.files), per_request):
            files = scene.files[start : start + per_request]
            begun_s = time.perf_counter()
            response = client.post("/predict?top_k=1", files=[("image", ("frame.png", file)) for file in files])
            latencies_s.append(time.perf_counter() - begun_s)
            client.get(f"/v1/streams/{feed.stream}").raise_for_status()  # says nothing while a step is under way
            expected = scene.labels[start : start + per_request]
            for prediction, label in zip(response.raise_for_status().json()["predictions"], expected, strict=True):
                wrong.append(prediction["top"][0]["index"] != label)
                domains += [prediction["domain"]] if prediction["domain"] else []
    return Replayed(np.array(wrong), np.array(latencies_s), domains)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG", compress_level=1)
    return file.getvalue()
