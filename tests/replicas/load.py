"""Callers that ask for streams all the time, and write down what they hear."""

import io
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from tta_server.models import glyphs

T = TypeVar("T")


def png(pixels: np.ndarray) -> bytes:
    """Return an image (3, H, W), bytes, as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


class Callers:
    """Threads, each with streams of its own that it asks one after another: first a picture that is always the same,
    by whose answer the state is known, then one to learn from. Where there is gRPC, the first of them asks by that.

    Attributes:
        answers: Requests that were answered so far, one way or another.
    """

    def __init__(self, url: str, streams: Sequence[str], threads: int, history: Path, grpc: str = "") -> None:
        self._url, self._streams, self._threads, self._grpc = url, streams, threads, grpc
        self._lock, self._file = threading.Lock(), history.open("a")
        self._over = threading.Event()
        self.answers = 0
        images = glyphs.images("test")[0]
        chance = np.random.default_rng(0)
        self._pixels = [
            images[0],
            *(np.clip(image + chance.normal(0, 40, image.shape), 0, 255).astype(np.uint8) for image in images[1:200]),
        ]
        self._probe, *self._others = map(png, self._pixels)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask during the block."""
        threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(self._threads)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
            self._file.close()

    def note(self, **line: object) -> None:
        """Write a line of history."""
        with self._lock:
            self.answers += line["kind"] == "answer"
            self._file.write(json.dumps({"at": time.monotonic()} | line) + "\n")

    def ask_once(self, client: httpx.Client, stream: str, other: bytes) -> None:
        """Ask a stream and write down what came."""
        files = [("image", ("probe.png", self._probe)), ("image", ("other.png", other))]
        begun_s = time.monotonic()
        try:
            asked = client.post("/predict", files=files, headers={"X-Stream-Id": stream}, params={"top_k": 3})
        except httpx.TransportError as error:
            self.note(kind="answer", begun=begun_s, stream=stream, status=0, error=type(error).__name__)
            return
        line: dict[str, object] = {"status": asked.status_code, "server": asked.headers.get("x-served-by", "")}
        if asked.status_code == 200:
            answer = asked.json()
            top = answer["predictions"][0]["top"]
            line |= {"version": answer["state_version"], "probe": [each["probability"] for each in top]}
        else:
            line |= {"error": asked.text[:200]}
        self.note(kind="answer", begun=begun_s, stream=stream, **line)

    def call_once(self, client: triton.InferenceServerClient, stream: str, other: np.ndarray) -> None:
        """Do the same by gRPC."""
        tensor = triton.InferInput("input", [2, *other.shape], "UINT8")
        tensor.set_data_from_numpy(np.stack([self._pixels[0], other]))
        begun_s = time.monotonic()
        try:
            called = client.infer("glyphs", [tensor], headers={"x-stream-id": stream})
        except InferenceServerException as error:
            line: dict[str, object] = {"status": 0, "error": f"{error.status()}: {error.message()[:200]}"}
        else:
            version = called.get_response().parameters["state_version"].int64_param
            probe = sorted(called.as_numpy("probabilities")[0].tolist(), reverse=True)[:3]
            line = {"status": 200, "version": version, "probe": probe}
        self.note(kind="answer", begun=begun_s, stream=stream, **line)

    def _ask(self, number: int) -> None:
        mine, step = itertools.cycle(self._streams[number :: self._threads]), slice(number, None, 2)
        if self._grpc and not number:
            with triton.InferenceServerClient(self._grpc) as caller:
                self._go_on(mine, self._pixels[1:][step], lambda *asked: self.call_once(caller, *asked))
        else:
            with httpx.Client(base_url=self._url, timeout=30) as client:
                self._go_on(mine, self._others[step], lambda *asked: self.ask_once(client, *asked))

    def _go_on(self, streams: Iterator[str], images: Sequence[T], ask: Callable[[str, T], None]) -> None:
        for stream, image in zip(streams, itertools.cycle(images), strict=False):
            if self._over.is_set():
                return
            ask(stream, image)


def note_steps(callers: Callers, url: str, streams: Sequence[str]) -> dict[str, str]:
    """Write down what each stream has learnt; return which replica has it."""
    servers = {}
    with httpx.Client(base_url=url, timeout=30) as client:
        for stream in streams:
            begun_s = time.monotonic()
            told = client.get(f"/v1/streams/{stream}")
            if told.status_code == 200:
                callers.note(kind="steps", begun=begun_s, stream=stream, steps=told.json()["steps"])
            servers[stream] = told.headers["x-served-by"]
    return servers


def note_moved(callers: Callers, before: dict[str, str], after: dict[str, str], server: str) -> None:
    """Write down how many streams another replica has, and how many of them one that came or went has or had."""
    moved = sum(before[name] != after[name] for name in before)
    callers.note(kind="moved", moved=moved, least=sum(server in (before[name], after[name]) for name in before))
