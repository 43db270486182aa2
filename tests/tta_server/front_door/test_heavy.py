"""Small requests that ask for much work are refused before the work, and others are answered meanwhile."""

import struct
import threading

import httpx
import pytest

from tests.server import running
from tests.tta_server.calls import INFER, body, glyph_images, until
from tests.tta_server.front_door.hostile import (
    PATIENCE_S,
    answers,
    grey_png,
    jpeg_of_scans,
    png_with,
    tensor_of,
)
from tta_server.storage.audit import Entry

CONFIG = {
    "model": {"device": "cpu"},
    "limits": {"max_pixels": 4_000_000, "max_decoding_pixels": 8_000_000},
    "streams": {"max_streams": 12, "max_new_per_client": 8},
}
MiB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heavy")
    audit = folder / "kept/audit"
    audit.mkdir(parents=True)
    line = Entry("long-gone", "commit", 1, 2, reason="x" * 80).as_line()
    for number in range(1, 17):
        (audit / f"{number:08d}.jsonl").write_bytes(line * 8000)
    with running(folder, CONFIG | {"storage": {"url": str(folder / "kept")}}) as started:
        yield started
        started.process.terminate()
        assert started.process.wait(PATIENCE_S) == 0


HEADER = b"{" + b" " * (20 * MiB) + b"}"
HEAVY = {
    "scans": ("/predict", jpeg_of_scans(60), 413, "more than 32 scans"),
    "outputs": (
        INFER,
        body(glyph_images(0, 8))[:-1] + b',"outputs":[' + b'{"name":"label"},' * 3000 + b'{"name":"label"}]}',
        400,
        "asked for more than once",
    ),
    "many outputs": (
        INFER,
        body(glyph_images(0, 8))[:-1] + b',"outputs":[' + b'{"name":"label"},' * 60_000 + b'{"name":"label"}]}',
        400,
        "more than 65536 bytes beside",
    ),
    "empty lists": (INFER, tensor_of(b"[]," * (10 * MiB) + b"[]"), 400, "does not fit shape"),
    "nested lists": (INFER, tensor_of(b"[[0]]," * (5 * MiB) + b"[[0]]"), 400, "does not fit shape"),
    "many values": (INFER, tensor_of(b"0," * (15 * MiB) + b"0"), 400, "does not fit shape"),
    "deep lists": (INFER, tensor_of(b"[" * (30 * MiB)), 400, "numbers only"),
    "no list": (INFER, b"[" * (30 * MiB), 400, "not JSON"),
    "texts": (INFER, tensor_of(b'"a",' * (7 * MiB) + b'"a"'), 400, "beside the 'data'"),
    "labels": ("/v1/labels", b'{"labels":[' + b"{}," * (9 * MiB) + b"{}]}", 413, "at most 2097152 bytes"),
    "many labels": ("/v1/labels", b'{"labels":[' + b"[]," * 600_000 + b"[]]}", 413, "more than the 10000 labels"),
    "pieces": ("/predict", png_with(b"tEXt", b"") + struct.pack(">I4sI", 0, b"aaAa", 0) * 60_000, 200, ""),
    "pieces first": (
        "/predict",
        png_with(b"tEXt", b"")[:33] + struct.pack(">I4sI", 0, b"aaAa", 0) * 60_000,
        400,
        "more than 50000 pieces",
    ),
}


@pytest.mark.parametrize("kind", HEAVY)
def test_a_heavy_request_is_refused_with_the_reason(server, kind):
    path, content, status, said = HEAVY[kind]
    headers = {"Content-Type": "application/json"} if path.startswith("/v") else {}

    response = server.client.post(path, content=content, headers=headers)

    assert response.status_code == status, response.text
    assert said in response.json().get("error", "")
    assert answers(server.client)


def test_a_state_with_a_large_header_is_refused_unread(server):
    response = server.client.put("/v1/streams/door/state", content=struct.pack("<Q", len(HEADER)) + HEADER)

    assert (response.status_code, "not a state file" in response.text) == (400, True)


def test_readers_of_a_large_log_hold_nobody_up(server):
    found: list[int] = []

    def read() -> None:
        found.append(httpx.get(f"{server.url}/v1/streams/nobody/audit", timeout=PATIENCE_S).status_code)

    threads = [threading.Thread(target=read) for _ in range(12)]
    for thread in threads:
        thread.start()
    assert answers(server.client)
    for thread in threads:
        thread.join()

    assert set(found) <= {404, 429}
    assert 404 in found
    told = server.client.get("/v1/streams/long-gone/audit?limit=3").json()["entries"]
    assert [each["stream"] for each in told] == ["long-gone"] * 3


def test_parts_without_number_are_refused(server):
    parts = b"".join(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(100_000))

    response = server.client.post(
        "/predict", content=parts + b"--x--\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )

    assert response.status_code == 400


def test_large_pictures_are_decoded_a_few_at_a_time_and_small_ones_go_past(server):
    large = grey_png(2000)

    def send(count: int) -> httpx.Response:
        files = [("image", ("a.png", large))] * count
        return httpx.post(f"{server.url}/predict", files=files, timeout=PATIENCE_S)

    too_many = send(3)
    found: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: found.append(send(2))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert answers(server.client)
    for thread in threads:
        thread.join()

    assert (too_many.status_code, "limits.max_decoding_pixels" in too_many.text) == (413, True)
    statuses = [response.status_code for response in found]
    assert set(statuses) <= {200, 429}
    assert 200 in statuses
    refused = [response for response in found if response.status_code == 429]
    assert all(int(response.headers["Retry-After"]) >= 1 for response in refused)
    until(lambda: send(1).status_code == 200)


def test_one_client_cannot_take_every_name(server):
    for number in range(12):
        headers = {"X-Stream-Id": f"flood-{number}"}
        last = server.client.post(INFER, content=body(glyph_images(0, 1)), headers=headers)

    assert last.status_code == 429
    assert "has opened 8 streams that have learnt nothing yet (streams.max_new_per_client)" in last.json()["error"]
    assert server.client.post("/v1/streams", json={"name": "mine"}).status_code == 201


def test_a_label_is_of_the_stream_that_answered(server):
    for name in ("flood-1", "flood-2"):
        headers = {"X-Stream-Id": name, "X-Request-Id": "frame-1"}
        server.client.post(INFER, content=body(glyph_images(0, 1)), headers=headers).raise_for_status()

    def label(**more: str) -> httpx.Response:
        return server.client.post("/v1/labels", json={"labels": [{"id": "frame-1", "label": 0, **more}]})

    assert (label().status_code, "say which is meant with 'stream'" in label().text) == (400, True)
    assert list(label(stream="flood-1").json()["streams"]) == ["flood-1"]
    assert label(stream="nobody").json()["unknown"] == 1


@pytest.mark.parametrize("path", ["/predict?topk=1", "/v2?x=1", "/v1/streams?lim=1", "/v1/audit?limits=2"])
def test_a_misspelt_parameter_is_refused(server, path):
    method = "POST" if path.startswith("/predict") else "GET"

    response = server.client.request(method, path)

    assert response.status_code == 400
    assert "unknown parameter" in response.json()["error"] or "unknown key" in response.json()["error"]
