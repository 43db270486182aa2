"""Gather images that a running server receives, and make the reference bundle of them: what looks so is at home.

The bundle is made by `tta-server calibrate --unlabelled`, in a process of its own, so that neither the device thread
nor the shared network hears of it. The images never have a name on the disk: a server that is killed leaves none.
"""

import asyncio
import contextlib
import logging
import math
import os
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from tta_server.errors import Conflict, NotReady, TooLarge
from tta_server.models import Model
from tta_server.models.reference import beside
from tta_server.models.sources import own_file
from tta_server.runtime.commands.desk import Who
from tta_server.settings_models import ModelSettings
from tta_server.streams.window import Images, Offered

log = logging.getLogger(__name__)

MOST_BYTES: Final = 256 * 2**20
"""What gathered images may take."""

STREAM_SHARE: Final = 0.25
"""Largest share of them that one stream may have where those of every stream count."""

_Levels = npt.NDArray[np.uint8]

GatheringState = Literal["idle", "gathering", "making", "made", "failed", "cancelled"]

_RESTART = "restart the server to use it; until then nothing changes"
_MOST_SAID = 500


class _Course(NamedTuple):
    """How far it is: what is done, whose images count (empty: every stream's), how many, what came of it, who asked."""

    state: GatheringState = "idle"
    stream: str = ""
    wanted: int = 0
    said: str = ""
    who: Who = Who("engine")


@dataclass(eq=False)
class Gathering:
    """The images that are to become the home of a model; the event loop alone may touch it.

    Attributes:
        model: What is served.
        settings: Where it comes from.
        client_share: Largest share of the images that one client may have where those of every stream count.
        tell: Hears what an operator asked for and what became of it.
    """

    model: Model
    settings: ModelSettings
    client_share: float
    tell: Callable[[dict[str, Any], Who], object]
    _course: _Course = field(default_factory=_Course)
    _images: dict[bytes, _Levels] = field(default_factory=dict)
    _senders: Counter[tuple[str, str]] = field(default_factory=Counter)
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
            NotReady: If the server is stopping or damaged.
        """
        if (state := self._course.state) in ("gathering", "making"):
            raise Conflict(f"images are being taken as home already ({state}); DELETE /v1/calibrate ends that")
        path = self._path()
        if (self.model.reference or path.exists()) and not replace:
            raise Conflict("the model has a reference bundle; send 'replace': true to have another take its place")
        most = MOST_BYTES // math.prod(self.model.preprocess.input_shape)
        if images > most:
            raise TooLarge(f"{images} images would take more than {MOST_BYTES} bytes; ask for at most {most}")
        most_of = [f"{most} of one {whose}" for whose, most in self._most_of_one(images).items() if most < images]
        limit = "" if stream else f"at most {' and '.join(most_of)} count"
        self._go_on(_Course("gathering", stream, images, limit, who))
        return self.told()

    async def cancel(self, who: Who) -> dict[str, Any]:
        """End it, and forget the images; once this returns, nothing of a bundle is written any more.

        Raises:
            Conflict: If nothing is being done.
            NotReady: If the server is stopping or damaged.
        """
        if self._course.state not in ("gathering", "making"):
            raise Conflict(f"no images are being taken as home ({self._course.state})")
        if self._making:
            self._making.cancel()
            await asyncio.wait([self._making])
        self._go_on(self._course._replace(state="cancelled", said="", who=who))
        return self.told()

    def offer(self, stream: str, client: str, offered: Offered) -> None:
        """Take in images that were answered, unless the same is there already or nobody asked for them.

        Where those of every stream count, neither a stream nor a client gets beyond its share.
        """
        if self._course.state != "gathering" or self._course.stream not in ("", stream):
            return
        wanted = self._course.wanted
        for image, digest, constant in zip(offered.images, offered.digests, offered.constant, strict=True):
            if constant or digest in self._images or len(self._images) == wanted or self._has_its_share(stream, client):
                continue
            self._images[digest] = _levels(image)
            self._senders.update((("stream", stream), ("client", client)))
        if len(self._images) == wanted:
            self._course, images = self._course._replace(state="making"), [*self._images.values()]
            self._images = {}
            self._making = asyncio.get_running_loop().create_task(self._make(images))

    def told(self) -> dict[str, Any]:
        """Return how far it is, ready for JSON."""
        return self._about(self._course)

    def _about(self, course: _Course) -> dict[str, Any]:
        count = {"idle": 0, "gathering": len(self._images), "cancelled": 0}.get(course.state, course.wanted)
        return {
            "state": course.state,
            "stream": course.stream or None,
            "images": count,
            "wanted": course.wanted,
            "said": course.said,
        }

    def _go_on(self, course: _Course) -> None:
        """Begin or end as an operator asked, without images; what cannot be told does not happen."""
        self.tell(self._about(course), course.who)
        self._course, self._images, self._making = course, {}, None
        self._senders.clear()

    def _has_its_share(self, stream: str, client: str) -> bool:
        """Return whether a stream or a client may add nothing where the images of every stream count."""
        if self._course.stream:
            return False
        sender = {"stream": stream, "client": client}
        most_of = self._most_of_one(self._course.wanted)
        return any(self._senders[whose, sender[whose]] >= most for whose, most in most_of.items())

    def _most_of_one(self, wanted: int) -> dict[str, int]:
        """Return how many of so many images one stream, and one client, may give."""
        shares = {"stream": STREAM_SHARE, "client": self.client_share}
        return {whose: math.ceil(wanted * share) for whose, share in shares.items()}

    def _path(self) -> Path:
        """Return where the bundle goes: where the next start looks for it."""
        path, weights = self.settings.reference, self.settings.weights or own_file(self.settings.architecture)
        if path is None and weights is None:
            raise Conflict("the model has no weights file to put the bundle next to; set model.weights")
        path = path or beside(weights)  # type: ignore[arg-type]
        if not os.access(path.parent, os.W_OK):
            raise Conflict(f"folder '{path.parent}', where the bundle belongs, cannot be written; mount it writable")
        return path

    async def _make(self, images: list[_Levels]) -> None:
        try:
            path = self._path()
            with _put_aside(path) as made:
                failed = await _calibrate(self.settings, images, made)
                if not failed:
                    made.replace(path)  # here, where nobody cancels meanwhile
        except Exception as error:  # whatever it is, a person is told, and may ask again
            failed = str(error) or type(error).__name__
        said = failed or f"wrote '{path}'; {_RESTART}"
        self._course = self._course._replace(state="failed" if failed else "made", said=said)
        try:
            self.tell(self.told(), self._course.who)
        except NotReady as error:
            log.warning("the audit log will not say what became of the images taken as home (%s): %s", error, said)


def _levels(image: Images) -> _Levels:
    return (image if image.dtype == np.uint8 else np.rint(image * 255)).astype(np.uint8)


@contextlib.contextmanager
def _put_aside(path: Path) -> Iterator[Path]:
    """Yield where a bundle may be made, in the folder of `path`; what is there afterwards goes."""
    made = path.with_name(f"{path.name}.{secrets.token_hex(4)}.gathered")  # others may make one for the same model
    try:
        yield made
    finally:
        for left in (made, made.with_name(f"{made.name}.unfinished")):
            left.unlink(missing_ok=True)


def _write(config: IO[bytes], packed: IO[bytes], settings: ModelSettings, images: list[_Levels]) -> None:
    section = settings.model_dump(mode="json", exclude_none=True, exclude={"reference"})
    config.write(yaml.safe_dump({"model": section}).encode())
    np.savez(packed, images=np.stack(images))
    for file in (config, packed):
        file.seek(0)  # also writes what is not written


async def _calibrate(settings: ModelSettings, images: list[_Levels], made: Path) -> str:
    """Have a process of its own make the bundle, on one thread of the CPU; returns why it failed, or nothing."""
    with tempfile.TemporaryFile() as config, tempfile.TemporaryFile() as packed:
        await asyncio.to_thread(_write, config, packed, settings, images)
        files = config.fileno(), packed.fileno()
        read = "--config", f"/dev/fd/{files[0]}", "--unlabelled", f"/dev/fd/{files[1]}"
        # What it is to serve stands in the file; settings of the environment would win over it.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tta_server", "calibrate", *read, "--device", "cpu", "--out", str(made)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=inherited | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            pass_fds=files,
        )
    try:
        _, wrong = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()  # it writes no more
    if process.returncode == 0:
        return ""
    said = wrong.decode("utf-8", "replace").strip() or f"it ended with status {process.returncode}"
    return f"the bundle could not be made: {said[-_MOST_SAID:]}"
