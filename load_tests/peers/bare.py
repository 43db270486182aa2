"""A bare ASGI application on uvicorn, with one thread for the network, which takes all that waits at once."""

import asyncio
import sys
import threading
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import uvicorn
from starlette.types import Receive, Scope, Send

from load_tests.peers.classifier import ROWS, Classifier


class _Waiting(NamedTuple):
    image: npt.NDArray[np.uint8]
    answer: "asyncio.Future[bytes]"


class Bare:
    """The application."""

    def __init__(self, classifier: Classifier) -> None:
        """Start the thread."""
        self._classifier = classifier
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one image file."""
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        one = _Waiting(self._classifier.decode(b"".join(parts)), asyncio.get_running_loop().create_future())
        with self._changed:
            self._waiting.append(one)
            self._changed.notify()
        body = await one.answer
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                batch = [self._waiting.popleft() for _ in range(min(ROWS, len(self._waiting)))]
            bodies = self._classifier.answer([one.image for one in batch])
            batch[0].answer.get_loop().call_soon_threadsafe(_settle, batch, bodies)


def _settle(batch: list[_Waiting], bodies: list[bytes]) -> None:
    for one, body in zip(batch, bodies, strict=True):
        if not one.answer.done():
            one.answer.set_result(body)


if __name__ == "__main__":
    app = Bare(Classifier(sys.argv[1]))
    uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning", lifespan="off")
