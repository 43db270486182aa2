"""mosec, as its guide says: an image comes as the body."""

import os
import sys

import mosec
import numpy as np
import numpy.typing as npt

from load_tests.peers.classifier import GATHER_S, ROWS, Classifier

_NETWORK = "PEER_NETWORK"  # for the process that mosec starts


class Worker(mosec.Worker):  # type: ignore[misc]
    """What mosec runs in a process of its own."""

    def __init__(self) -> None:
        """Load the network."""
        super().__init__()
        self._classifier = Classifier(os.environ[_NETWORK])

    def deserialize(self, data: bytes) -> npt.NDArray[np.uint8]:
        """Return the image of a request."""
        return self._classifier.decode(data)

    def serialize(self, data: bytes) -> bytes:
        """Return an answer as it is sent."""
        return data

    def forward(self, data: list[npt.NDArray[np.uint8]]) -> list[bytes]:
        """Answer a batch."""
        return self._classifier.answer(data)


if __name__ == "__main__":
    _, os.environ[_NETWORK], port = sys.argv
    sys.argv = [sys.argv[0], "--port", port, "--log-level", "error"]
    app = mosec.Server()
    app.append_worker(Worker, num=1, max_batch_size=ROWS, max_wait_time=int(1000 * GATHER_S))
    app.run()
