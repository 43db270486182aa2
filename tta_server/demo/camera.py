"""A drifting camera: phases of images, posted to streams of a server as PNG files."""

import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from tta_server.evaluate.corruptions import CORRUPTIONS, corrupt
from tta_server.models import glyphs

CLEAN_BEFORE = "clean"
CLEAN_AFTER = "clean again"

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Scene:
    """A stretch of one condition.

    Attributes:
        name: The corruption, or one of the two clean ones.
        files: PNG files in the order they are sent.
        labels: (N,) true classes, unknown to the server.
    """

    name: str
    files: list[bytes]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Replayed:
    """What one stream's answers to one phase were.

    Attributes:
        wrong: (N,) whether each image was misread.
        latencies_s: Seconds of each request.
        version: State version that gave the last answer.
    """

    wrong: npt.NDArray[np.bool_]
    latencies_s: npt.NDArray[np.float64]
    version: int

    @property
    def error(self) -> float:
        """Share of misread images."""
        return float(self.wrong.mean())


def camera(images: int, severity: int, seed: int, progress: Announce) -> list[Scene]:
    """Return clean images, the 15 corruptions one after another, and clean images again.

    Args:
        images: Images a phase; each phase draws its own from the embedded test set, without repeats.
        severity: Of the corruptions, 1 to 5.
        seed: Of the choice of images and of the corruptions.
        progress: Called with the name of each finished phase.

    Raises:
        ValueError: If there are not that many test images.
    """
    pixels, labels = glyphs.images("test")
    if not 1 <= images <= len(pixels):
        raise ValueError(f"images must be 1 to {len(pixels)}, got {images}")
    phases: list[Scene] = []
    for name in (CLEAN_BEFORE, *CORRUPTIONS, CLEAN_AFTER):
        rng = np.random.default_rng([seed, len(phases)])
        chosen = rng.permutation(len(pixels))[:images]
        shown = pixels[chosen]
        if name in CORRUPTIONS:
            shown = corrupt(shown, name, severity, seed + len(phases))
        phases.append(Scene(name, [_png(image) for image in shown], labels[chosen]))
        progress(name)
    return phases


def replay(url: str, phase: Scene, streams: Sequence[str], per_request: int) -> dict[str, Replayed]:
    """Post a phase to every stream at once, each as one camera that waits for its answers.

    Args:
        url: Address of the server.
        phase: What is sent.
        streams: Names of the streams.
        per_request: Images in a request.

    Raises:
        httpx.HTTPError: If a request is not answered with 200.
    """
    with ThreadPoolExecutor(len(streams)) as pool:
        runs = {stream: pool.submit(_send, url, phase, stream, per_request) for stream in streams}
        return {stream: run.result() for stream, run in runs.items()}


def _send(url: str, phase: Scene, stream: str, per_request: int) -> Replayed:
    wrong: list[bool] = []
    latencies_s: list[float] = []
    version = 0
    with httpx.Client(base_url=url, headers={"X-Stream-Id": stream}, timeout=60) as client:
        for start in range(0, len(phase.files), per_request):
            files = phase.files[start : start + per_request]
            begun_s = time.perf_counter()
            response = client.post("/predict?top_k=1", files=[("image", ("frame.png", file)) for file in files])
            latencies_s.append(time.perf_counter() - begun_s)
            answer = response.raise_for_status().json()
            version = answer["state_version"]
            expected = phase.labels[start : start + per_request]
            wrong += [
                prediction["top"][0]["index"] != label
                for prediction, label in zip(answer["predictions"], expected, strict=True)
            ]
    return Replayed(np.array(wrong), np.array(latencies_s), version)


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG", compress_level=1)
    return file.getvalue()
