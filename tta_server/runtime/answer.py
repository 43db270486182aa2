"""The one way from a request to its answer, whatever brought the request here."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from tta_server.errors import ClientGone
from tta_server.runtime.codec import Upload, decode_all
from tta_server.runtime.constant import refuse_constant
from tta_server.runtime.job import Answer, Job
from tta_server.runtime.served import Served
from tta_server.streams.window import Images, Offered, prepared

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Question:
    """A request for predictions.

    Attributes:
        stream: A valid name.
        content: Files, or images (n, C, H, W) of the model's shape, uint8 or finite float32 in [0, 1], not written
            to later.
        client: Who asks.
        request_id: What labels that come later call it; empty if none will.
    """

    stream: str
    content: tuple[Upload, ...] | Images
    client: str = ""
    request_id: str = ""


async def answer(served: Served, asked: Question, gone: Callable[[], Coroutine[Any, Any, object]]) -> Answer:
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
    with served.engine.reserve(len(asked.content), _decoded_bytes(served, asked)) as room:
        hung_up = asyncio.ensure_future(gone())
        try:
            with served.metrics.timed("decode"):
                offered = await _unless(hung_up, served.pool.submit(_offered, served, asked))
            _expect_caller(hung_up)
            job = Job(asked.stream, offered, time.monotonic(), asked.client, asked.request_id)
            return await _unless(hung_up, served.engine.submit(job, room))
        finally:
            hung_up.cancel()


async def _unless(hung_up: "asyncio.Future[object]", work: "Future[T]") -> T:
    """Return what `work` gives; if the caller hangs up before it has begun, drop it."""
    result = asyncio.wrap_future(work)
    try:
        await asyncio.wait((result, hung_up), return_when=asyncio.FIRST_COMPLETED)
        if not result.done() and work.cancel():
            _expect_caller(hung_up)
        return await result
    finally:
        result.cancel()


def _expect_caller(hung_up: "asyncio.Future[object]") -> None:
    if hung_up.done():
        raise ClientGone("the connection was closed before the device had begun with the request; it was dropped")


def _offered(served: Served, asked: Question) -> Offered:
    """Make of a request what a window takes; runs in the pool."""
    if isinstance(asked.content, tuple):
        names = [upload.name for upload in asked.content]
        images: Images = decode_all(asked.content, served.model.preprocess, served.limits.max_pixels)
    else:
        names = [f"image {place} of {len(asked.content)}" for place in range(1, len(asked.content) + 1)]
        images = asked.content
    offered = prepared(images)
    if served.limits.refuse_constant:
        refuse_constant(offered.constant, names)
    return offered


def _decoded_bytes(served: Served, asked: Question) -> int:
    if isinstance(asked.content, tuple):
        return len(asked.content) * math.prod(served.model.preprocess.input_shape)
    return asked.content.nbytes
