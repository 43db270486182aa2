"""A real server with the default sizes, whatever is done to it: it refuses in time, and good clients are answered."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from load_tests.attacks import ATTACKS, prepare
from load_tests.good_client import TIMEOUT_S
from load_tests.grpc_attacks import GRPC_ATTACKS
from load_tests.payloads import grey_png, small_png
from load_tests.siege import memory, siege
from load_tests.wire import connected, head, heard, pour
from tests.server import running
from tests.tta_server.calls import INFER, PATIENCE_S, body, glyph_images, metric, until

MOST_BYTES = 768 * 2**20  # beyond what it has at rest, as docs/security.md says
CONFIG = {  # times are short and names few, so that the test is
    "model": {"device": "cpu"},
    "server": {"grpc_port": 0},
    "limits": {"header_timeout_s": 1.0, "body_timeout_s": 3.0},
    "streams": {"max_streams": 50},
}
START = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def server(folder):
    prepare(folder / "kept")
    with running(folder, CONFIG | {"storage": {"url": str(folder / "kept")}}, forked=False) as started:
        asked = started.client.post(INFER, content=body(glyph_images(0, 1)))
        assert asked.status_code == 200, asked.text  # so this stream is there before all places are taken
        yield started


@pytest.fixture(scope="module")
def besieged(server, folder):
    with siege(server.url, server.process.pid, folder) as begun:
        begun.quiet(1.0)
        yield begun, memory(server.process.pid, "VmRSS")


@pytest.mark.parametrize("attack", [*GRPC_ATTACKS, *ATTACKS], ids=lambda attack: attack.name)
def test_an_attack_is_refused_and_nobody_else_is_kept_waiting(besieged, attack):
    begun, at_rest = besieged

    stood = begun.stand(attack)

    assert attack.wrong(stood.heard) == []
    if "streams.max_streams" in attack.said:
        assert any(each.status == 429 for each in stood.heard)  # none of so few names rests long enough to give way
    assert set(stood.probes) == {200}
    assert stood.peak_bytes - at_rest < MOST_BYTES
    assert {each.status for each in stood.good} == {200}
    assert max(each.took_s for each in stood.good) < TIMEOUT_S


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (START + b"A: b\r\n" * 200 + b"\r\n", 431, "at most 100 headers (limits.max_headers)"),
        (START + b"A: b\r\n" * 100_000, 431, "(limits.max_header"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431, "(limits.max_header_bytes)"),
        (b"", 408, "took longer than 1 s (limits.header_timeout_s)"),
        (b"\x00\x01nonsense\r\n\r\n", 400, "invalid http request"),
        (head("/predict", 2**25 + 1), 413, "at most 33554432 bytes"),
        (head("/v1/streams", 2**17), 413, "at most 65536 bytes"),
        (head("/v2/models", 2**30, "GET"), 413, "at most"),
    ],
    ids=["many headers", "endless headers", "endless path", "silence", "no http", "large body", "large command",
         "large body of a read"],
)  # fmt: skip
def test_a_connection_that_does_not_become_a_request_is_told_why_and_ended(server, sent, status, said):
    with connected(server.url, sent) as connection:
        found = heard(connection)

    assert found[0] == status, found
    assert said in found[1]["error"]


def test_names_without_end_keep_no_other_client_out(server):
    def ask(client: httpx.Client, name: str) -> httpx.Response:
        return client.post(INFER, content=body(glyph_images(0, 1)), headers={"X-Stream-Id": name})

    refused = next(answer for number in range(100) if (answer := ask(server.client, f"{number}")).status_code != 200)
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=server.url, transport=transport, timeout=PATIENCE_S) as other:
        answered = ask(other, "a-new-camera")

    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, "streams_full", "10")
    assert answered.status_code == 200, answered.text
    assert metric(server.client, 'tta_requests_total{model="glyphs",outcome="streams_full"}') > 0


def test_an_idle_connection_lives_on_between_requests(server):
    with connected(server.url, START + b"\r\n") as connection:
        assert one_answer(connection).startswith(b"HTTP/1.1 200")
        time.sleep(1.5)  # longer than a head may take: what is measured is that nothing happens
        connection.sendall(START + b"\r\n")
        assert one_answer(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("begun", [START, b"\r\n"], ids=["part of a head", "nothing yet"])
def test_each_head_of_a_connection_has_a_deadline_not_only_the_first(server, begun):
    with connected(server.url, START + b"\r\n") as connection:
        one_answer(connection)
        connection.sendall(begun)
        status, said = heard(connection)

    assert (status, said["code"]) == (408, "too_slow")


def answers(connection, count: int) -> list[tuple[int, bytes]]:
    """Return status and body of so many answers of one connection, each with its length said, in their order."""
    received, found = b"", []
    while len(found) < count:
        first, end, rest = received.partition(b"\r\n\r\n")
        length = int(first.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) if end else 0
        if end and len(rest) >= length:
            found.append((int(first.split()[1]), rest[:length]))
            received = rest[length:]
            continue
        part = connection.recv(65536)
        assert part, (len(found), received)
        received += part
    return found


def chunked(sent: bytes) -> bytes:
    """Return a request for a prediction in chunks of a few bytes and of many."""
    lines = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = sent[:3], sent[3:]
    return lines + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("piece", [2**20, 8192, 1000, 7])
def test_requests_that_come_at_once_are_all_answered_in_their_order(server, piece):
    image = small_png()
    whole = head("/predict", len(image)).replace(b"Connection: close\r\n", b"") + image
    one = START + b"\r\n" + whole + chunked(image) + b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
    times = 2 if piece < 1000 else 15  # as many as may wait
    sent = one * times
    with connected(server.url) as connection, ThreadPoolExecutor(1) as reader:
        heard_of = reader.submit(answers, connection, 4 * times)
        for start in range(0, len(sent), piece):
            connection.sendall(sent[start : start + piece])
        found = heard_of.result(PATIENCE_S)
        connection.sendall(START + b"\r\n")
        again = answers(connection, 1)

    assert [status for status, _ in found] == [200, 200, 200, 404] * times
    assert again == found[:1]


def test_a_head_without_a_body_leaves_before_the_answer_behind_it(server):
    last = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connected(server.url, START.replace(b"GET", b"HEAD") + b"\r\n" + last) as connection:
        first, second, text = b"".join(iter(lambda: connection.recv(65536), b"")).split(b"\r\n\r\n")

    assert (first[9:12], second[9:12]) == (b"200", b"404")
    assert b"no such path" in text


def test_whoever_asks_whether_to_go_on_is_told_so_and_then_answered(server):
    sent = small_png()
    with connected(server.url, head("/predict", len(sent), headers={"Expect": "100-continue"})) as connection:
        said_first = connection.recv(65536)
        connection.sendall(sent)

        assert heard(connection)[0] == 200
    assert said_first == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_of_more_requests_than_may_wait_on_a_connection_those_are_answered_and_it_ends(server):
    whole = head("/predict", len(small_png())).replace(b"Connection: close\r\n", b"") + small_png()
    for more in ((START + b"\r\n") * 500, whole * 40, b"nonsense" * 1000):
        with connected(server.url, (START + b"\r\n") * 70 + more) as connection:
            found = answers(connection, 65)
            rest = connection.recv(65536)

        assert ({status for status, _ in found}, rest) == ({200}, b"")
    assert server.client.get("/v2/health/ready").status_code == 200


def test_whoever_sends_on_without_end_behind_too_many_requests_has_the_answers_that_wait(server):
    with connected(server.url, (START + b"\r\n") * 70) as connection, ThreadPoolExecutor(1) as reader:
        heard_of = reader.submit(answers, connection, 65)
        pour(connection, [bytes(2**20)] * 64, deaf=True)

        assert {status for status, _ in heard_of.result(PATIENCE_S)} == {200}


def test_what_was_turned_away_is_counted(server):
    before = metric(server.client, 'tta_refusals_total{model="glyphs",reason="no_http"}')
    with connected(server.url, b"nonsense\r\n\r\n") as connection:
        heard(connection)

    assert metric(server.client, 'tta_refusals_total{model="glyphs",reason="no_http"}') == before + 1


def test_a_server_that_is_told_to_stop_stops_whatever_is_under_way(server):
    assert server.client.post(INFER, content=body(glyph_images(0, 1))).status_code == 200
    heard_of = [200]  # by two who have large images decoded, one after another without a pause

    def decodes() -> None:
        sent = grey_png(4000)
        request = head("/predict", len(sent)) + sent
        with suppress(ConnectionRefusedError):
            while heard_of[-1]:
                with connected(server.url, request) as connection:
                    heard_of.append(heard(connection)[0])

    def pipelines() -> int:
        sent, received = 0, b""
        with connected(server.url) as connection, suppress(ConnectionError):
            while True:
                connection.sendall((START + b"\r\n") * 50)
                sent += 50
                while received.count(b"HTTP/1.1 200") < sent:
                    if not (part := connection.recv(65536)):
                        return received.count(b"HTTP/1.1 200")
                    received += part
        return received.count(b"HTTP/1.1 200")

    with (
        ThreadPoolExecutor(3) as clients,
        connected(server.url, START),
        connected(server.url, head("/predict", 2**20) + b"x"),
    ):
        decoding, pipelining = [clients.submit(decodes) for _ in range(2)], clients.submit(pipelines)
        until(lambda: len(heard_of) > 2)
        server.process.terminate()

        assert server.process.wait(PATIENCE_S) == 0

        assert [each.result(PATIENCE_S) for each in decoding] == [None, None]
        assert pipelining.result(PATIENCE_S) > 50
    assert set(heard_of) <= {200, 429, 503, 0}


def one_answer(connection) -> bytes:
    """Return an answer after which the connection goes on."""
    received = b""
    while not received.endswith(b"}") and (part := connection.recv(65536)):
        received += part
    return received
