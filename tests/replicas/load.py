"""Callers that ask for streams all the time, and write down what they hear."""

import io
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from tta_server.models import glyphs


def png(pixels: np.ndarray) -> bytes:
    """Return an image (3, H, W), bytes, as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


class Callers:
    """Threads, each with streams of its own that it asks one after another: first a picture that is always the same,
    by whose answer the state is known, then one to learn from.

    Attributes:
        answers: Requests that were answered so far, one way or another.
    """

    def __init__(self, url: str, streams: Sequence[str], threads: int, history: Path) -> None:
        self._url, self._streams, self._threads = url, streams, threads
        self._lock, self._file = threading.Lock(), history.open("a")
        self._over = threading.Event()
        self.answers = 0
        images = glyphs.images("test")[0]
        chance = np.random.default_rng(0)
        self._probe = png(images[0])
        self._others = [
            png(np.clip(image + chance.normal(0, 40, image.shape), 0, 255).astype(np.uint8)) for image in images[1:200]
        ]

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

    def _ask(self, number: int) -> None:
        mine, others = self._streams[number :: self._threads], itertools.cycle(self._others[number::2])
        with httpx.Client(base_url=self._url, timeout=30) as client:
            for stream in itertools.cycle(mine):
                if self._over.is_set():
                    return
                self.ask_once(client, stream, next(others))


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
