"""What tests ask a running server, and how they wait for it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx
import numpy as np
import orjson
from safetensors.torch import load

from tta_server.adapters.checkpoint import state_digest
from tta_server.models import glyphs

PATIENCE_S = 60
FRESH = {"Cache-Control": "no-cache"}  # metrics as they are now, not as they were up to a second ago
INFER = "/v2/models/glyphs/infer"
UNGUARDED = {"enabled": False}  # every window changes the state: the hardest case for what must not change


def until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@cache
def _glyphs() -> np.ndarray:
    """Return the images, read once: numpy parses a file's header, and Python 3.11 cannot parse in many threads."""
    return glyphs.images("test")[0]


def glyph_images(start: int, count: int) -> np.ndarray:
    """Return test images of the embedded model (count, 3, 32, 32), bytes."""
    return _glyphs()[start : start + count].copy()


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Return images that no model expects (count, 3, 32, 32), bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), np.uint8)


def body(images: np.ndarray, **changes: object) -> bytes:
    """Return an infer request."""
    tensor = {"name": "input", "datatype": "UINT8", "shape": list(images.shape), "data": images.reshape(-1)} | changes
    return orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)


def infer(client: httpx.Client, stream: str, images: np.ndarray, headers: Mapping[str, str] | None = None) -> dict:
    """Return one answer, as it was sent."""
    response = client.post(INFER, content=body(images), headers={"X-Stream-Id": stream, **(headers or {})})
    assert response.status_code == 200, response.text
    return response.json()


def said(answer: dict) -> tuple[list, dict]:
    """Return what must be equal bit for bit: probabilities and the state that gave them."""
    about = {name: value for name, value in answer["parameters"].items() if name != "request_id"}
    return answer["outputs"][0]["data"], about


def stream(client: httpx.Client, name: str) -> dict:
    """Return everything that the server says of a stream."""
    return client.get(f"/v1/streams/{name}").json()


def settled(client: httpx.Client, name: str, window_rows: int) -> dict:
    """Wait until a stream has learnt from every full window, and return what the server says of it."""
    until(lambda: stream(client, name)["images_in_window"] < window_rows)
    return stream(client, name)


def metric(client: httpx.Client, series: str) -> float:
    """Return the sum of all series whose names and labels start so."""
    found = [line for line in client.get("/metrics", headers=FRESH).text.splitlines() if line.startswith(series)]
    return sum(float(line.split()[-1]) for line in found)


def of_stream(client: httpx.Client, series: str, name: str) -> float:
    """Return the sum of a stream's series of one family."""
    found = [line for line in client.get("/metrics", headers=FRESH).text.splitlines() if line.startswith(f"{series}{{")]
    return sum(float(line.split()[-1]) for line in found if f'stream="{name}"' in line)


def balance(client: httpx.Client, name: str) -> tuple[float, float]:
    """Return how many images a stream was offered for learning, and of how many it is known what became of them.

    What the stream says of itself and what the metrics say must be the same.
    """
    about = stream(client, name)
    learnt, dropped = (of_stream(client, f"tta_samples_{what}_total", name) for what in ("learnt", "dropped"))
    assert (about["images_learnt"], about["images_dropped"]) == (learnt, dropped)
    assert sum(about["dropped"].values()) == dropped
    return of_stream(client, "tta_samples_offered_total", name), learnt + dropped + about["images_in_window"]


def digest(client: httpx.Client, name: str) -> str:
    """Return what differs if a stream's exported state differs in a bit."""
    response = client.get(f"/v1/streams/{name}/state")
    assert response.status_code == 200, response.text
    return state_digest({key: tensor for key, tensor in load(response.content).items() if not key.startswith("beside")})


def names(client: httpx.Client) -> list[str]:
    """Return the names of all streams, page by page."""
    return [each["name"] for each in pages(client)]


def pages(client: httpx.Client, **asked: Any) -> Iterator[dict]:
    """Yield the summaries of streams, page by page."""
    after: str | None = ""
    while after is not None:
        page = client.get("/v1/streams", params={"after": after, **asked}).json()
        yield from page["streams"]
        after = page["next"]


@contextmanager
def calling(url: str) -> Iterator[httpx.Client]:
    """Return a client of one's own, for a thread."""
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client
