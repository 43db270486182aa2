"""A real server with few places for connections, and clients who keep it waiting: nobody else is kept out."""

import re
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trustme

from load_tests.wire import connected, head, heard
from tests.server import Running, running
from tests.tta_server.calls import metric, until

PLACES = 20
LIVE, HAND_OVER = "/livez", "/v1/hand-over"
HELD_BACK = head("/predict", 60_000) + b"x"
LIMITS = {"max_connections": PLACES, "header_timeout_s": 600, "body_timeout_s": 600, "answer_timeout_s": 600}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("places")
    shared = {"url": str(folder / "kept"), "shared": True, "replica": "a"}
    with running(folder, {"model": {"device": "cpu"}, "limits": LIMITS, "storage": shared}) as started:
        yield started


@contextmanager
def holding(url: str, sent: bytes, times: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connected(url, sent)) for _ in range(times)]


def turned_away(client: httpx.Client) -> float:
    return metric(client, 'tta_refusals_total{model="glyphs",reason="connections"}')


def test_bodies_that_are_held_back_give_way(server):
    before = turned_away(server.client)
    with holding(server.url, HELD_BACK, 3 * PLACES):
        assert httpx.get(server.url + LIVE).status_code == 200

    assert turned_away(server.client) > before


def test_of_bodies_the_one_that_is_silent_longest_gives_way(server):
    def is_over(connection: socket.socket) -> bool:
        return select.select([connection], [], [], 0)[0] != []

    def hear_all() -> None:
        for _ in range(2):
            server.client.get(LIVE)  # by the same connection: after the second the server has heard what came before

    server.client.get(LIVE)  # has one place from here on
    with holding(server.url, HELD_BACK, PLACES - 1) as held, ExitStack() as more:
        hear_all()
        held[0].sendall(b"x")
        hear_all()

        def gives_way() -> bool:
            more.enter_context(connected(server.url, HELD_BACK))
            httpx.get(server.url + LIVE)  # after which the server has heard that, too
            return is_over(held[1])

        until(gives_way)
        assert not is_over(held[0])


def test_answers_that_nobody_reads_give_way(server):
    asks = (
        b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    ) * 60  # which is more than the system keeps for them
    with ExitStack() as stack:
        for _ in range(PLACES):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((server.client.base_url.host, server.client.base_url.port))
            deaf.sendall(asks)

        def answered() -> bool:
            return httpx.get(server.url + LIVE).status_code == 200

        until(answered)


def test_who_has_not_the_servers_secret_is_told_so_before_its_body_is_read(server):
    with connected(server.url, head(HAND_OVER, 60_000) + b"{") as connection:
        status, said = heard(connection)

    assert (status, said["code"]) == (401, "unauthorized")


def test_handshakes_count_as_connections_and_the_oldest_gives_way(tmp_path):
    ca = trustme.CA()
    issued, pem = ca.issue_cert("127.0.0.1"), tmp_path / "server.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(pem)
    verify = ssl.create_default_context()
    ca.configure_trust(verify)
    tls = {"tls_certificate": str(pem), "tls_key": str(pem)}
    config = {"model": {"device": "cpu"}, "limits": LIMITS, "server": tls}
    with running(tmp_path, config, verify=verify) as started:
        at_rest = sockets(started)
        with holding(started.url, b"", 5 * PLACES) as half, holding(started.url, b"\x16\x03\x01\x40\x00", PLACES):
            # a connection of its own, which the server accepts after all of these
            assert httpx.get(started.url + LIVE, verify=verify).status_code == 200
            assert sockets(started) <= at_rest + PLACES
            assert half[0].recv(1) == b""
        assert turned_away(started.client) >= 5 * PLACES

        with pytest.raises(httpx.TransportError):
            httpx.get(started.url + LIVE)  # it does not know the CA, and says so
        with pytest.raises(httpx.TransportError):
            httpx.get(started.url.replace("https", "http") + LIVE)
        log: Callable[[], str] = (tmp_path / "server.log").read_text
        until(lambda: re.search(r"refused: handshake \(HTTP_REQUEST\)", log()) is not None)
        assert metric(started.client, 'tta_refusals_total{model="glyphs",reason="handshake"}') >= 1
    assert started.process.returncode == 0


def sockets(server: Running) -> int:
    found = 0
    for file in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += str(file.readlink()).startswith("socket:")
    return found
