"""Send image files to a server at given times, and see what comes back."""

import asyncio
import io
import itertools
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
import orjson
from PIL import Image

from load_tests.connections import Connections
from tta_server.models import glyphs

_TIMEOUT_S = 30.0
_DIFFERENT_BODIES = 64


@dataclass(frozen=True)
class Body:
    """An encoded request body.

    Attributes:
        content: Its bytes.
        content_type: Their type.
        images: How many images are in it.
    """

    content: bytes
    content_type: str
    images: int


@dataclass
class Sent:
    """One request.

    Attributes:
        stream: Whom it was for.
        images: How many images it held.
        due_s: When it should be sent, on the clock of `time.perf_counter`.
        sent_s: When it was.
        done_s: When its answer was complete.
        status: HTTP status; 0 if no answer came.
        lost: Why none came.
        answer: Body of the answer.
        retry_after: Its header of that name.
        id: What the request is called.
    """

    stream: str
    images: int
    due_s: float
    sent_s: float = 0.0
    done_s: float = 0.0
    status: int = 0
    lost: str = ""
    answer: bytes = field(default=b"", repr=False)
    retry_after: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def is_wrong(self) -> bool:
        """Whether the answer is another request's."""
        if self.status != 200:
            return False
        answer = orjson.loads(self.answer)
        about = answer["stream"], answer["request_id"], len(answer["predictions"])
        return about != (self.stream, self.id, self.images)


def bodies(images_per_request: int) -> list[Body]:
    """Return different request bodies with images of the embedded test set as PNG files; encoded beforehand."""
    pictures, _ = glyphs.images("test")
    files = itertools.cycle([_png(Image.fromarray(picture.transpose(1, 2, 0))) for picture in pictures[:512]])
    return [_body([next(files) for _ in range(images_per_request)]) for _ in range(_DIFFERENT_BODIES)]


def open_loop(url: str, times: Sequence[float], streams: Sequence[str], payloads: Sequence[Body]) -> list[Sent]:
    """Send a request at each of `times`, whether or not earlier ones were answered; the streams take turns."""
    return asyncio.run(_open_loop(url, times, streams, payloads))


def closed_loop(url: str, seconds: float, clients: int, streams: Sequence[str], payloads: Sequence[Body]) -> list[Sent]:
    """Keep `clients` requests under way for a while: each is followed by the next as soon as it is answered."""
    return asyncio.run(_closed_loop(url, seconds, clients, streams, payloads))


async def _open_loop(url: str, times: Sequence[float], streams: Sequence[str], payloads: Sequence[Body]) -> list[Sent]:
    connections = Connections(url)
    start_s = time.perf_counter() + 0.1
    requests, tasks = [], []
    turns = zip(times, itertools.cycle(streams), itertools.cycle(payloads))
    for due_s, stream, body in turns:
        request = Sent(stream, body.images, start_s + due_s)
        await asyncio.sleep(max(0.0, request.due_s - time.perf_counter()))
        requests.append(request)
        tasks.append(asyncio.create_task(_send(connections, request, body)))
    await asyncio.gather(*tasks)
    await connections.close()
    return requests


async def _closed_loop(
    url: str, seconds: float, clients: int, streams: Sequence[str], payloads: Sequence[Body]
) -> list[Sent]:
    connections = Connections(url)
    requests: list[Sent] = []
    turns = zip(itertools.cycle(streams), itertools.cycle(payloads))
    stop_s = time.perf_counter() + seconds

    async def client() -> None:
        while (now_s := time.perf_counter()) < stop_s:
            stream, body = next(turns)
            request = Sent(stream, body.images, now_s)
            requests.append(request)
            await _send(connections, request, body)

    await asyncio.gather(*(client() for _ in range(clients)))
    await connections.close()
    return requests


async def _send(connections: Connections, request: Sent, body: Body) -> None:
    request.sent_s = time.perf_counter()
    headers = {"Content-Type": body.content_type, "X-Stream-Id": request.stream, "X-Request-Id": request.id}
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reply = await connections.post("/predict?top_k=1", headers, body.content)
        request.status, request.answer, request.retry_after = reply
    except (OSError, EOFError, TimeoutError) as error:
        request.lost = type(error).__name__
    request.done_s = time.perf_counter()


def _body(files: Sequence[bytes]) -> Body:
    if len(files) == 1:
        return Body(files[0], "image/png", 1)
    parts = [("image", (f"{count}.png", file, "image/png")) for count, file in enumerate(files)]
    request = httpx.Request("POST", "http://localhost", files=parts)
    return Body(request.read(), request.headers["Content-Type"], len(files))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
