"""The one way from a request to its answer, whatever brought the request here."""

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from tta_server.errors import ClientGone
from tta_server.runtime.commands.compare_commands import Beside
from tta_server.runtime.hung_up import Gone, Watched
from tta_server.runtime.images.codec import Opened, Upload, open_image
from tta_server.runtime.images.constant import refuse_constant
from tta_server.runtime.images.decoding import SMALL_PIXELS, TINY_BYTES, TINY_PIXELS, Patience, decode_all
from tta_server.runtime.job import Answer, Job
from tta_server.runtime.result import result_of
from tta_server.runtime.served import Served
from tta_server.streams.window import Images, Offered, prepared
from tta_server.telemetry.tracing import note, traced

T = TypeVar("T")


class Unread(Protocol):
    """Images that came in another form than files, and are yet to be read."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    @property
    def decoded_bytes(self) -> int:
        """How much they take once they are read."""
        ...

    @property
    def names(self) -> list[str]:
        """What an error calls each."""
        ...

    def read(self) -> Images:
        """Return them (n, C, H, W), of the model's shape, uint8 or finite float32 in [0, 1], not written to later."""
        ...


@dataclass(frozen=True, eq=False)
class Question:
    """A request for predictions.

    Attributes:
        stream: A valid name.
        content: Files, or images in another form.
        client: Who asks.
        request_id: What labels that come later call it; empty if none will.
    """

    stream: str
    content: "tuple[Upload, ...] | Unread"
    client: str = ""
    request_id: str = ""


async def answer(served: Served, asked: Question, gone: Gone) -> Answer:
    """Answer a request; if its caller hangs up before the device has begun with it, drop it.

    A request that the device has begun is answered, and learnt from, whether or not anybody still listens.

    Args:
        served: Who answers.
        asked: The request.
        gone: Returns when the caller has hung up.

    Raises:
        ClientGone: If the request was dropped.
        Overloaded: If there is no room for it; nothing was decoded.
        NotReady: If the server is starting, stopping or damaged.
        TTAError: If an image is no good, or the request cannot be answered.
    """
    images, decoded_bytes = _size(served, asked)
    with served.engine.reserve(images, decoded_bytes) as room, Watched(gone) as hung_up:
        with served.metrics.timed("decode"):
            offered = await _images(served, asked.content, decoded_bytes, hung_up)
        _expect_caller(hung_up)
        soon = asyncio.get_running_loop().call_soon

        def ask() -> Coroutine[Any, Any, Answer]:
            job = Job(asked.stream, offered, time.monotonic(), asked.client, asked.request_id)
            return _unless(hung_up, served.engine.submit(job, room, soon))

        found = await served.answer(asked.stream, ask)
        served.gathering.offer(asked.stream, asked.client, offered)
        _trace(found)
        return found


def _trace(found: Answer) -> None:
    """Write down who answered and how long it took, if the request is traced."""
    if not traced():
        return
    note(
        stream=found.stream,
        version=found.version,
        adapted=found.adapted,
        domains=list(dict.fromkeys(found.domains)),
        images=len(found.entropy_nats),
        queue_s=found.queue_s,
        device_s=found.device_s,
    )


async def compare(served: Served, asked: Question, gone: Gone) -> tuple[int, list[Beside]]:
    """Have a stream and the frozen model say what they see, one beside the other; nothing is learnt or counted.

    Args, returns and errors are those of `answer` and of `CompareCommands.compare`.
    """
    images, decoded_bytes = _size(served, asked)
    with served.engine.reserve(images, decoded_bytes), Watched(gone) as hung_up:
        offered = await _images(served, asked.content, decoded_bytes, hung_up)

        def ask() -> Coroutine[Any, Any, tuple[int, list[Beside]]]:
            return _unless(hung_up, served.engine.command(lambda c: c.beside.compare(asked.stream, offered)))

        return await served.answer(asked.stream, ask, opening=False)


async def _unless(hung_up: "asyncio.Future[object]", work: "Future[T]") -> T:
    """Return what `work` gives; if the caller hangs up before it has begun, drop it."""
    drop = partial(_drop, work)
    hung_up.add_done_callback(drop)
    try:
        return await result_of(work)
    except asyncio.CancelledError:
        if work.cancelled():
            _expect_caller(hung_up)
        raise
    finally:
        hung_up.remove_done_callback(drop)
        del drop, work  # as `result_of` does


def _drop(work: "Future[Any]", _hung_up: "asyncio.Future[object]") -> None:
    work.cancel()


def _expect_caller(hung_up: "asyncio.Future[object]") -> None:
    if hung_up.done():
        raise ClientGone("the connection was closed before the device had begun with the request; it was dropped")


async def _images(
    served: Served, content: "tuple[Upload, ...] | Unread", decoded_bytes: int, hung_up: "asyncio.Future[object]"
) -> Offered:
    """Return the images of a request as a window takes them.

    A few tiny ones are read at once, which takes less than to hand them over; large files wait in a line of their own.
    """
    decoding, tiny = served.decoding, decoded_bytes <= TINY_BYTES
    if not isinstance(content, tuple):
        return _read(served, content) if tiny else await _unless(hung_up, decoding.quick.submit(_read, served, content))
    patience = decoding.patience()
    if tiny and sum(len(upload.data) for upload in content) <= TINY_BYTES:
        found = _open(served, content, patience, TINY_PIXELS)
    else:
        found = await _unless(hung_up, decoding.quick.submit(_open, served, content, patience, SMALL_PIXELS))
    if isinstance(found, Offered):
        return found
    with decoding.room(sum(each.pixels for each in found)):
        hung_up.add_done_callback(lambda _: patience.end())
        return await _unless(hung_up, decoding.large.submit(_decode, served, found, patience))


def _open(served: Served, uploads: tuple[Upload, ...], patience: Patience, most_pixels: int) -> Offered | list[Opened]:
    """Read the headers of files, and decode them too if they have no more than so many pixels together."""
    opened = [open_image(upload, served.limits.max_pixels) for upload in uploads]
    if sum(each.pixels for each in opened) > most_pixels:
        return opened
    return _decode(served, opened, patience)


def _decode(served: Served, opened: list[Opened], patience: Patience) -> Offered:
    names = [each.name for each in opened]
    return _prepared(served, decode_all(opened, served.model.preprocess, patience), names)


def _read(served: Served, content: Unread) -> Offered:
    return _prepared(served, content.read(), content.names)


def _prepared(served: Served, images: Images, names: Sequence[str]) -> Offered:
    offered = prepared(images)
    if served.limits.refuse_constant:
        refuse_constant(offered.constant, names)
    return offered


def _size(served: Served, asked: Question) -> tuple[int, int]:
    """Return how many images a request has, and how many bytes they take once they are decoded."""
    if isinstance(asked.content, tuple):
        count = len(asked.content)
        return count, count * math.prod(served.model.preprocess.input_shape)
    return asked.content.rows, asked.content.decoded_bytes
