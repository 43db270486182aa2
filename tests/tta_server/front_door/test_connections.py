"""Whoever holds a connection open is cut off in time, and keeps nobody else out."""

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server import Running, running
from tests.tta_server.calls import metric
from tests.tta_server.front_door.hostile import PATIENCE_S, answers, connected, head, heard

MOST, MOST_BYTES = 40, 2**20
CONFIG = {
    "model": {"device": "cpu"},
    "limits": {
        "max_connections": MOST,
        "header_timeout_s": 1.0,
        "body_timeout_s": 2.0,
        "max_body_bytes": MOST_BYTES,
        "max_receiving_bytes": 4 * MOST_BYTES,
    },
}
START = b"GET /v2 HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("connections"), CONFIG) as started:
        yield started
        started.process.terminate()
        assert started.process.wait(PATIENCE_S) == 0  # with connections that hang


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (START + b"A: " + b"a" * 2_000_000, 431, "at most 32768 bytes (limits.max_header_bytes)"),
        (START + b"A: b\r\n" * 200 + b"\r\n", 431, "at most 100 headers (limits.max_headers)"),
        (START + b"A: b\r\n" * 100_000, 431, "(limits.max_header"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 431, "(limits.max_header_bytes)"),
        (START + b"A:", 408, "took longer than 1 s (limits.header_timeout_s)"),
        (b"", 408, "took longer than 1 s (limits.header_timeout_s)"),
        (b"\x00\x01nonsense\r\n\r\n", 400, "invalid http request"),
        (head("/predict", 1000) + b"x" * 999, 408, "took longer than 2 s (limits.body_timeout_s)"),
        (head("/predict", MOST_BYTES + 1), 413, "at most 1048576 bytes"),
        (head("/v1/labels", 2**20 - 1), 408, "(limits.body_timeout_s)"),
        (head("/v1/streams", 2**17), 413, "at most 65536 bytes"),
        (head("/v2/models", 2**30, "GET"), 413, "at most"),
    ],
    ids=["endless header", "many headers", "endless headers", "endless path", "slow head", "silence", "no http",
         "slow body", "large body", "slow labels", "large command", "large body of a read"],
)  # fmt: skip
def test_a_connection_that_does_not_become_a_request_is_told_why_and_ended(server, sent, status, said):
    with connected(server.url) as connection:
        connection.sendall(sent)
        found = heard(connection)

    assert found[0] == status, found
    assert said in found[1]["error"]
    assert answers(server.client)


def test_a_chunked_body_without_end_is_cut_off(server):
    start = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(server.url, start) as connection:
        for _ in range(40):
            connection.sendall(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
        assert heard(connection)[0] == 413


def test_connections_that_wait_make_room_for_others(server):
    with ExitStack() as waiting:
        held = [waiting.enter_context(connected(server.url, START)) for _ in range(3 * MOST)]

        assert answers(server.client)
        assert all(server.client.get(f"/v2/health/{what}").status_code == 200 for what in ("live", "ready"))
        for connection in held:
            connection.settimeout(PATIENCE_S)
            assert heard(connection)[0] in (0, 408)  # each of them is over


def test_bodies_that_are_held_back_make_room_for_others(server):
    before = resident(server)
    sent = head("/predict", MOST_BYTES) + b"x" * (MOST_BYTES - 1)
    with ExitStack() as waiting:
        held = [waiting.enter_context(connected(server.url, sent)) for _ in range(16)]

        assert answers(server.client)
        statuses = [heard(connection)[0] for connection in held]

    assert set(statuses) <= {408, 429}
    assert statuses.count(429) >= 12  # four have room; the rest is given up for the newer ones
    assert resident(server) - before < 24 * MOST_BYTES


def test_requests_that_come_together_on_one_connection_are_all_answered(server):
    ask = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
    with connected(server.url, (ask + b"\r\n") * 50 + ask + b"Connection: close\r\n\r\n") as connection:
        received = b""
        while part := connection.recv(65536):
            received += part

    assert received.count(b"HTTP/1.1 200 OK") == 51


def test_an_idle_connection_lives_on_between_requests(server):
    assert answers(server.client)
    time.sleep(1.5)  # longer than a head may take: what is measured is that nothing happens

    with connected(server.url, START + b"\r\n") as connection:
        assert one_answer(connection).startswith(b"HTTP/1.1 200")
        time.sleep(1.5)
        connection.sendall(START + b"\r\n")
        assert one_answer(connection).startswith(b"HTTP/1.1 200")


def test_what_was_turned_away_is_counted(server):
    before = metric(server.client, 'tta_refusals_total{model="glyphs",reason="no_http"}')
    with connected(server.url, b"nonsense\r\n\r\n") as connection:
        heard(connection)

    assert metric(server.client, 'tta_refusals_total{model="glyphs",reason="no_http"}') == before + 1


def one_answer(connection: socket.socket) -> bytes:
    """Return an answer after which the connection goes on."""
    received = b""
    while not received.endswith(b"}") and (part := connection.recv(65536)):
        received += part
    return received


def resident(server: Running) -> int:
    """Return the memory that a server's process has, in bytes."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096
