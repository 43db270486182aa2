"""Far more than the server can answer, for some seconds: what it keeps and what it gives up."""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import pytest

from load_tests.arrivals import steady
from load_tests.client import Sent, bodies, closed_loop, open_loop
from load_tests.overload import Watched, watching
from tests.server import Running, running
from tests.tta_server.calls import UNGUARDED, balance, metric, of_stream, until

IMAGES, QUEUE = 16, 128
SECONDS = {"torch": 5.0, "onnx": 2.5}
STREAMS = ("frozen", "learning")
FLAT_BYTES = 16 * 2**20  # allocators' noise; what is sent in a quarter of the time is more
CONFIG = {
    "engine": {"max_rows": IMAGES, "max_queue_rows": QUEUE, "window_rows": 64, "threads": 1},
    "streams": {"named": {"frozen": {"mode": "off"}}, "duplicate_memory": 0, "recent_bytes": 2**20},
    "guard": UNGUARDED,
}


@dataclass
class Overload:
    """What was sent, what was seen meanwhile, and what each payload must be answered by a frozen stream."""

    server: Running
    sent: list[Sent]
    watched: Watched
    expected: list[list[str]]


def labels(request: Sent) -> list[str]:
    return [prediction["label"] for prediction in orjson.loads(request.answer)["predictions"]]


@pytest.fixture(scope="module", params=SECONDS)
def overload(request, tmp_path_factory) -> Iterator[Overload]:
    payloads = bodies(IMAGES)
    config = CONFIG | {"model": {"device": "cpu", "runtime": request.param}}
    with running(tmp_path_factory.mktemp("overload"), config) as server:
        calm = closed_loop(server.url, 1.5, 4, ("frozen",), payloads)
        rate = sum(each.status == 200 for each in calm) / 1.5
        quiet = [open_loop(server.url, [0.0], ("frozen",), [payload])[0] for payload in payloads[::2]]
        # An odd number of payloads, so that both streams get all of them.
        with watching(server.url, server.process.pid) as watched:
            sent = open_loop(server.url, steady(10 * rate, SECONDS[request.param]), STREAMS, payloads[::2][:31])
        yield Overload(server, sent, watched, [labels(each) for each in quiet][:31])


def test_under_overload_every_request_gets_exactly_one_answer_of_its_own_or_is_told_when_to_come_again(overload):
    statuses = {each.status for each in overload.sent}
    refused = [each for each in overload.sent if each.status == 429]

    assert statuses == {200, 429}
    assert not any(each.is_wrong for each in overload.sent)
    assert all(1 <= int(each.retry_after) <= 60 for each in refused)
    assert len(refused) > len(overload.sent) / 2  # it was an overload


def test_under_overload_the_answers_are_right(overload):
    frozen = [
        (place, each) for place, each in enumerate(overload.sent) if each.stream == "frozen" and each.status == 200
    ]

    assert frozen
    for place, each in frozen:
        assert labels(each) == overload.expected[place % len(overload.expected)]


def test_under_overload_the_queue_is_bounded_and_the_server_stays_ready(overload):
    assert max(overload.watched.queued) <= QUEUE
    assert max(overload.watched.queued) > QUEUE / 2
    assert set(overload.watched.ready) == {200}


@pytest.mark.parametrize("overload", ["torch"], indirect=True)  # it takes the longer of the two to show
def test_under_overload_memory_stays_flat(overload):
    sizes = overload.watched.rss_bytes
    quarter = len(sizes) // 4
    assert quarter > 1

    # Bodies on their way come and go, and what was freed is handed back: what is held for good shows in the lowest of
    # the last readings, above the highest of those when all was warm.
    assert min(sizes[-quarter:]) - max(sizes[quarter : 2 * quarter]) < FLAT_BYTES


def test_under_overload_learning_is_dropped_before_answers_and_every_image_is_accounted_for(overload):
    client = overload.server.client
    until(lambda: metric(client, "tta_queue_depth_images{") == 0)
    answered = sum(each.status == 200 and each.stream == "learning" for each in overload.sent)

    dropped = of_stream(client, "tta_samples_dropped_total", "learning")
    until(lambda: client.get("/v1/streams/learning").json()["images_in_window"] < 64)
    offered, accounted = balance(client, "learning")

    assert dropped > 0
    assert offered == accounted >= answered * IMAGES
    assert client.get("/v1/streams/learning").json()["dropped"]["overload"] > 0
