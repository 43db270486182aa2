"""Gather images that a running server receives, and make the reference bundle of them: what looks so is at home.

The bundle is made by `tta-server calibrate --unlabelled`, in a process of its own, so that neither the device thread
nor the shared network hears of it.
"""

import asyncio
import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import yaml

from tta_server.errors import Conflict, TooLarge
from tta_server.models import Model
from tta_server.models.reference import beside
from tta_server.models.sources import own_file
from tta_server.runtime.desk import Who
from tta_server.settings_models import ModelSettings
from tta_server.streams.window import Images, Offered

MOST_BYTES: Final = 256 * 2**20
"""What gathered images may take."""

GatheringState = Literal["idle", "gathering", "making", "made", "failed", "cancelled"]

_RESTART = "restart the server to use it; until then nothing changes"
_MOST_SAID = 500


@dataclass(eq=False)
class Gathering:
    """The images that are to become the home of a model; the event loop alone may touch it.

    Attributes:
        model: What is served.
        settings: Where it comes from.
        tell: Hears what an operator asked for and what became of it.
        state: What is being done.
        stream: Whose images count; empty for those of every stream.
        wanted: How many.
        said: What came of it, in words.
    """

    model: Model
    settings: ModelSettings
    tell: Callable[[dict[str, Any], Who], object]
    state: GatheringState = "idle"
    stream: str = ""
    wanted: int = 0
    said: str = ""
    _who: Who | None = None
    _images: dict[bytes, npt.NDArray[np.uint8]] = field(default_factory=dict)
    _making: "asyncio.Task[None] | None" = None

    def begin(self, images: int, stream: str, replace: bool, who: Who) -> dict[str, Any]:
        """Gather from now on.

        Args:
            images: How many different ones.
            stream: Whose; empty for those of every stream.
            replace: Whether a bundle that is there may go.
            who: Who asks.

        Returns:
            What `told` does.

        Raises:
            Conflict: If that is being done, there is a bundle, or no place for one.
            TooLarge: If they would take too much memory.
        """
        if self.state in ("gathering", "making"):
            raise Conflict(f"images are being taken as home already ({self.state}); DELETE /v1/calibrate ends that")
        path = self._path()
        if (self.model.reference or path.exists()) and not replace:
            raise Conflict("the model has a reference bundle; send 'replace': true to have another take its place")
        most = MOST_BYTES // math.prod(self.model.preprocess.input_shape)
        if images > most:
            raise TooLarge(f"{images} images would take more than {MOST_BYTES} bytes; ask for at most {most}")
        before = self.state, self.stream, self.wanted, self.said, self._who
        self.state, self.stream, self.wanted, self.said, self._who = "gathering", stream, images, "", who
        self._images = {}
        try:
            return self._tell()
        except Exception:  # nobody was told, so nothing is gathered
            self.state, self.stream, self.wanted, self.said, self._who = before
            raise

    def cancel(self, who: Who) -> dict[str, Any]:
        """End it, and forget the images; nothing of a bundle is written.

        Raises:
            Conflict: If nothing is being done.
        """
        if self.state not in ("gathering", "making"):
            raise Conflict(f"no images are being taken as home ({self.state})")
        if self._making:
            self._making.cancel()
        self.state, self._who = "cancelled", who
        self._images = {}
        return self._tell()

    def offer(self, stream: str, offered: Offered) -> None:
        """Take in images that were answered, unless the same is there already or nobody asked for them."""
        if self.state != "gathering" or self.stream not in ("", stream):
            return
        for image, digest, constant in zip(offered.images, offered.digests, offered.constant, strict=True):
            if not constant and len(self._images) < self.wanted:
                self._images.setdefault(digest, _levels(image))
        if len(self._images) == self.wanted:
            self.state, images, self._images = "making", [*self._images.values()], {}
            self._making = asyncio.get_running_loop().create_task(self._make(images))

    def told(self) -> dict[str, Any]:
        """Return how far it is, ready for JSON."""
        gathered = len(self._images) if self.state in ("gathering", "idle", "cancelled") else self.wanted
        return {
            "state": self.state,
            "stream": self.stream or None,
            "images": gathered,
            "wanted": self.wanted,
            "said": self.said,
        }

    def _path(self) -> Path:
        """Return where the bundle goes: where the next start looks for it."""
        path, weights = self.settings.reference, self.settings.weights or own_file(self.settings.architecture)
        if path is None and weights is None:
            raise Conflict("the model has no weights file to put the bundle next to; set model.weights")
        path = path or beside(weights)  # type: ignore[arg-type]
        if not os.access(path.parent, os.W_OK):
            raise Conflict(f"folder '{path.parent}', where the bundle belongs, cannot be written; mount it writable")
        return path

    async def _make(self, images: Iterable[npt.NDArray[np.uint8]]) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="tta-home-") as folder:
                await asyncio.to_thread(_write, Path(folder), self.settings, images)
                failed = await _calibrate(Path(folder), self._path())
        except Exception as error:  # whatever it is, a person is told, and may ask again
            failed = str(error) or type(error).__name__
        self.state = "failed" if failed else "made"
        self.said = failed or f"wrote '{self._path()}'; {_RESTART}"
        self._tell()

    def _tell(self) -> dict[str, Any]:
        about = self.told()
        self.tell(about, self._who or Who("engine"))
        return about


def _levels(image: Images) -> npt.NDArray[np.uint8]:
    return (image if image.dtype == np.uint8 else np.rint(image * 255)).astype(np.uint8)


def _write(folder: Path, settings: ModelSettings, images: Iterable[npt.NDArray[np.uint8]]) -> None:
    np.savez(folder / "images.npz", images=np.stack([*images]))
    section = settings.model_dump(mode="json", exclude_none=True, exclude={"reference"})
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": section}), encoding="utf-8")


async def _calibrate(folder: Path, path: Path) -> str:
    """Have a process of its own make the bundle, on one thread of the CPU; returns why it failed, or nothing."""
    options = ("--config", "model.yaml", "--unlabelled", "images.npz", "--device", "cpu", "--out")
    # What it is to serve stands in the file; settings of the environment would win over it.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")}
    files = [str(folder / each) if "." in each else each for each in options]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tta_server", "calibrate", *files, str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=inherited | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    try:
        _, wrong = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None:
                process.kill()
    if process.returncode == 0:
        return ""
    said = wrong.decode("utf-8", "replace").strip() or f"it ended with status {process.returncode}"
    return f"the bundle could not be made: {said[-_MOST_SAID:]}"
