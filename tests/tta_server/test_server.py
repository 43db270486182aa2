"""The server as its callers meet it: a real process, real sockets, real clients."""

import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server import Running, running
from tests.tta_server import calls
from tests.tta_server.calls import INFER, PATIENCE_S, UNGUARDED, body, infer, metric, said, stream, until
from tests.tta_server.pictures import encoded, good_files, png, scene
from tta_server.models import glyphs

ROWS = 4
CONFIG = {
    "model": {"device": "cpu"},
    "adapter": {"name": "tent", "settings": {"lr": 0.02}},
    # Every request fills a forward, so that all forwards have one shape and answers can be compared bit for bit.
    "engine": {"max_rows": ROWS, "max_queue_rows": 4096, "window_rows": 2 * ROWS, "stack_rows": 0, "learn_share": 1},
    "guard": UNGUARDED,
    "streams": {"named": {"frozen": {"mode": "off"}}},
}


def glyph_images(start: int, count: int = ROWS) -> np.ndarray:
    return calls.glyph_images(start, count)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    """A server whose queue holds one full request."""
    config = CONFIG | {"engine": CONFIG["engine"] | {"max_queue_rows": ROWS}}
    with running(tmp_path_factory.mktemp("server"), config) as started:
        yield started


@pytest.fixture
def client(server: Running) -> httpx.Client:
    return server.client


# Images
@pytest.mark.parametrize("kind", [kind for kind in good_files() if kind != "one pixel"])
def test_a_usual_image_is_answered(client, kind):
    response = client.post("/predict", content=good_files()[kind], headers={"X-Stream-Id": "frozen"})

    answer = response.json()
    assert response.status_code == 200, answer
    assert answer["predictions"][0]["label"] in glyphs.LABELS
    probabilities = [top["probability"] for top in answer["predictions"][0]["top"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_several_files_are_answered_in_their_order(client):
    images, labels = (part[:ROWS] for part in glyphs.images("source"))
    files = [("image", (f"{i}.png", picture_of(image))) for i, image in enumerate(images)]

    answer = client.post("/predict", files=files, headers={"X-Stream-Id": "frozen"}).json()
    tensor = infer(client, "frozen", images)

    found = [prediction["label"] for prediction in answer["predictions"]]
    assert found == tensor["outputs"][1]["data"]
    assert sum(name == glyphs.LABELS[i] for name, i in zip(found, labels, strict=True)) >= ROWS - 1


def picture_of(image: np.ndarray) -> bytes:
    return encoded(Image.fromarray(image.transpose(1, 2, 0)))


def test_one_image_alone_answers_as_the_body_of_a_form_does(client):
    data = png(32, 32)

    headers = {"X-Stream-Id": "frozen", "X-Request-Id": "7"}

    bare = client.post("/predict", content=data, headers=headers).json()
    form = client.post("/predict", files={"image": data}, headers=headers).json()

    assert bare == form


GOOD = calls.noise(1)
GREY = np.full((1, 3, 32, 32), 128, np.uint8)
NAN = body(GREY, datatype="FP32").replace(b'"data":[128,', b'"data":[NaN,')
BAD = {
    "truncated jpeg": ("POST", "/predict", {"content": encoded(scene(), "JPEG")[:600]}, 400, "damaged image"),
    "text": ("POST", "/predict", {"content": b"hello"}, 415, "send JPEG, PNG, WEBP"),
    "gif": ("POST", "/predict", {"content": encoded(scene(), "GIF")}, 415, "send JPEG, PNG, WEBP"),
    "empty body": ("POST", "/predict", {}, 400, "no image in the request; send"),
    "empty file": ("POST", "/predict", {"files": {"image": b""}}, 400, "image 1 of 1 ('upload') is empty"),
    "form without files": ("POST", "/predict", {"data": {"image": "x"}, "files": {}}, 415, "send JPEG, PNG, WEBP"),
    "broken form": (
        "POST",
        "/predict",
        {"content": b"abc", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        400,
        "the form has no end",
    ),
    "form without boundary": (
        "POST",
        "/predict",
        {"content": b"abc", "headers": {"content-type": "multipart/form-data"}},
        400,
        "boundary",
    ),
    "one bad of two": (
        "POST",
        "/predict",
        {"files": [("image", ("a.png", png())), ("image", ("b.png", b"x"))]},
        415,
        "image 2 of 2 ('b.png')",
    ),
    "too many files": (
        "POST",
        "/predict",
        {"files": [("image", ("a.png", png()))] * 5},
        400,
        "5 parts, and a request may have 4",
    ),
    "far too many files": ("POST", "/predict", {"files": [("image", ("a.png", b"x"))] * 99}, 400, "more than 4 parts"),
    "part without a file name": (
        "POST",
        "/predict",
        {"files": [("image", ("a.png", png())), ("image", (None, png())), ("image", ("b.png", png()))]},
        400,
        "part 2 of 3 ('image') has no file name",
    ),
    "misspelt parameter": ("POST", "/predict?topk=3", {"content": png()}, 400, "unknown parameter 'topk'"),
    "sliver": ("POST", "/predict", {"content": png(1, 400)}, 400, "50 times"),
    "one pixel": ("POST", "/predict", {"content": png(1, 1)}, 400, "the body is of one colour"),
    "one grey of two": (
        "POST",
        INFER,
        {"content": body(np.concatenate([GOOD, GREY]))},
        400,
        "image 2 of 2 is of one colour",
    ),
    "request id": (
        "POST",
        "/predict",
        {"content": png(), "headers": {"X-Request-Id": "a b"}},
        400,
        "header X-Request-Id 'a b' must be 1 to 128 printable",
    ),
    "id": ("POST", INFER, {"content": body(GOOD)[:-1] + b',"id":"a b"}'}, 400, "'id' 'a b' must be 1 to 128"),
    "top_k": ("POST", "/predict?top_k=0", {"content": png()}, 400, "top_k is 0, expected 1 to 36"),
    "top_k text": ("POST", "/predict?top_k=all", {"content": png()}, 400, "top_k"),
    "too large": ("POST", "/predict", {"content": bytes(32 * 2**20 + 1)}, 413, "at most 33554432 bytes"),
    "too large and chunked": ("POST", "/predict", {"content": iter([bytes(2**20)] * 33)}, 413, "at most 33554432"),
    "stream name": ("POST", "/predict", {"content": png(), "headers": {"X-Stream-Id": "a b"}}, 400, "'a b' must be"),
    "stream name in the path": ("GET", "/v1/streams/a%20b", {}, 400, "'a b' must be 1 to 64 letters"),
    "unknown stream": ("POST", "/v1/streams/nobody/reset", {}, 404, "unknown stream 'nobody'"),
    "nan": ("POST", INFER, {"content": NAN}, 400, "NaN and Infinity are none"),
    "wrong shape": ("POST", INFER, {"content": body(GOOD, shape=[1, 32, 32, 3])}, 400, "expected [N, 3, 32, 32]"),
    "too many images": ("POST", INFER, {"content": body(np.zeros((5, 3, 32, 32), np.uint8))}, 400, "expected 1 to 4"),
    "no json": ("POST", INFER, {"content": b"\xff\xd8"}, 400, "not JSON"),
    "unknown model": ("POST", "/v2/models/x/infer", {"content": body(GOOD)}, 404, "unknown model 'x'"),
    "unknown version": ("POST", "/v2/models/glyphs/versions/9/infer", {"content": body(GOOD)}, 404, "has version '1'"),
    "binary data that is not there": (
        "POST",
        INFER,
        {"content": b"{}", "headers": {"Inference-Header-Content-Length": "3"}},
        400,
        "expected a number of bytes in [0, 2]",
    ),
    "sequence id": (
        "POST",
        INFER,
        {"content": body(GOOD)[:-1] + b',"parameters":{"sequence_id":true}}'},
        400,
        "stream name 'True'",
    ),
    "wrong method": ("GET", "/predict", {}, 405, "GET is not allowed here"),
    "wrong path": ("POST", "/predictions", {"content": png()}, 404, "no such path '/predictions'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_what_is_wrong_and_changes_nothing(client, case):
    method, path, content, status, reason = BAD[case]
    infer(client, "frozen", glyph_images(0))
    infer(client, "default", glyph_images(0))
    until(lambda: stream(client, "default")["images_in_window"] < 2 * ROWS)
    before = client.get("/v1/streams").json()

    response = client.request(method, path, **content)

    assert response.status_code == status, response.text
    assert reason in response.json()["error"]
    assert client.get("/v1/streams").json() == before
    assert infer(client, "frozen", glyph_images(0))["parameters"]["state_version"] == 0


def test_what_a_query_says_is_the_same_each_time_and_of_its_own_route(client):
    for _ in range(2):
        for top_k in (1, 3):
            answer = client.post(f"/predict?top_k={top_k}", content=png(), headers={"X-Stream-Id": "frozen"}).json()
            assert len(answer["predictions"][0]["top"]) == top_k
        assert client.post("/predict?top_k=many", content=png()).status_code == 400
        assert "unknown parameter 'top_k'" in client.post(f"{INFER}?top_k=1", content=body(glyph_images(0))).text


def address(server: Running) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def test_a_body_that_is_declared_to_be_huge_is_refused_before_it_is_sent(server):
    with socket.create_connection(address(server), PATIENCE_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n")

        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # to the end: the server hangs up

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"error":"the body may have at most 33554432 bytes' in answer


def test_a_body_without_an_end_is_not_read_for_ever(server):
    part = b"10000\r\n" + bytes(65536) + b"\r\n"
    sent = 0
    with socket.create_connection(address(server), PATIENCE_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")

        try:
            while sent < 2**30:
                connection.sendall(part)
                sent += 65536
        except ConnectionError:  # the server hung up
            pass

    # What the sockets' buffers hold comes on top of the limit.
    assert sent < 64 * 2**20


def test_a_caller_who_hangs_up_is_no_error_of_the_server(server, client):
    counted = metric(client, "tta_requests_total")
    errors = metric(client, 'tta_requests_total{model="glyphs",outcome="error"}')

    with socket.create_connection(address(server), PATIENCE_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    until(lambda: metric(client, "tta_requests_total") > counted)

    assert metric(client, 'tta_requests_total{model="glyphs",outcome="error"}') == errors


# Overload and the end
def test_a_full_queue_is_429_with_the_time_to_wait_and_no_answer_is_lost(server, client):
    enough = threading.Event()
    refused: list[httpx.Response] = []
    other: list[httpx.Response] = []
    content = body(glyph_images(0))

    def press() -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as own:
            while not enough.is_set():
                response = own.post(INFER, content=content, headers={"X-Stream-Id": "frozen"})
                if response.status_code == 429:
                    refused.append(response)
                    enough.set()
                elif response.status_code != 200:
                    other.append(response)

    threads = [threading.Thread(target=press) for _ in range(12)]
    for thread in threads:
        thread.start()
    enough.wait(PATIENCE_S)
    enough.set()
    for thread in threads:
        thread.join()

    assert not other
    assert refused
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert "images are waiting and this server queues at most 4" in refused[0].json()["error"]
    assert infer(client, "frozen", glyph_images(0))["parameters"]["state_version"] == 0


def test_sigterm_answers_what_was_accepted_and_ends_with_status_0(tmp_path):
    count, images = 6, 64
    config = CONFIG | {"engine": {"max_rows": images}}
    content = body(glyph_images(0, images))

    def ask(url: str) -> int:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as own:
            return own.post(INFER, content=content).status_code

    with running(tmp_path, config, forked=False) as server, ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(ask, server.url) for _ in range(count)]
        # Every request waits, is being answered, or was answered: then all of them were accepted.
        until(
            lambda: (
                metric(server.client, "tta_queue_depth_images{") + metric(server.client, "tta_images_total{")
                >= (count - 1) * images
            )
        )
        server.process.send_signal(signal.SIGTERM)

        assert [future.result(PATIENCE_S) for future in asked] == [200] * count
        assert server.process.wait(PATIENCE_S) == 0


# Streams
def test_a_stream_is_listed_read_and_reset_to_the_frozen_answers(client):
    images = glyph_images(80)
    for i in range(4):
        infer(client, "yard", glyph_images(100 + ROWS * i))
    until(lambda: stream(client, "yard")["steps"] >= 1 and stream(client, "yard")["images_in_window"] < 2 * ROWS)
    learnt, frozen = infer(client, "yard", images), infer(client, "frozen", images)
    assert learnt["parameters"]["adapted"]
    assert learnt["outputs"][0]["data"] != frozen["outputs"][0]["data"]

    version = stream(client, "yard")["state_version"]
    response = client.post("/v1/streams/yard/reset")

    assert response.status_code == 200
    assert response.json() == stream(client, "yard")
    assert (response.json()["state_version"], response.json()["steps"]) == (version + 1, 0)
    answer = infer(client, "yard", images)
    assert answer["outputs"] == frozen["outputs"]
    assert said(answer)[1] == {"stream": "yard", "state_version": version + 1, "adapted": False}
    assert calls.names(client).count("yard") == 1


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"])
def test_what_a_probe_or_a_reader_asks_is_there(client, path):
    assert client.get(path).status_code == 200
