"""LitServe, as its guide says: an image comes as base64 in JSON."""

import base64
import sys
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt
import orjson

from load_tests.peers.classifier import GATHER_S, ROWS, Classifier


class Api(litserve.LitAPI):  # type: ignore[misc]
    """What LitServe runs in a process of its own."""

    def setup(self, device: str) -> None:
        """Load the network."""
        self._classifier = Classifier(sys.argv[1])

    def decode_request(self, request: dict[str, str]) -> npt.NDArray[np.uint8]:
        """Return the image of a request."""
        return self._classifier.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
        """Leave images one by one; they are stacked with the forward."""
        return list(inputs)

    def predict(self, x: list[npt.NDArray[np.uint8]]) -> list[bytes]:
        """Answer a batch."""
        return self._classifier.answer(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Return the answers one by one."""
        return output

    def encode_response(self, output: bytes) -> dict[str, Any]:
        """Return an answer as LitServe takes it."""
        return dict(orjson.loads(output))


if __name__ == "__main__":
    api = Api(max_batch_size=ROWS, batch_timeout=GATHER_S)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
