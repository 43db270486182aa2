"""Requests that two servers in a row could take for different ones, and bodies in crumbs: each is refused by name."""

import gzip
import re
from collections.abc import Iterator

import pytest

from load_tests.payloads import small_png
from load_tests.wire import connected, head, heard
from tests.server import Running, running

GET = b"GET /v2 HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
POST = b"POST /predict HTTP/1.1\r\n" + HOST
CLIENT = b"X-Real-Ip: 192.0.2.1\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    limits = {"client_header": "X-Real-Ip"}
    with running(tmp_path_factory.mktemp("heads"), {"model": {"device": "cpu"}, "limits": limits}) as started:
        yield started


def said_to(server: Running, sent: bytes) -> tuple[int, dict]:
    with connected(server.url, sent) as connection:
        return heard(connection)


@pytest.mark.parametrize("blank", [b" ", b"\t", b"  \t "])
def test_blanks_behind_a_value_are_no_part_of_it(server, blank):
    picture = small_png()
    named = {"X-Stream-Id": b"gate-7", "X-Request-Id": b"a", "Content-Length": b"%d" % len(picture)}
    named["Connection"] = b"close"
    lines = [b"%s:%s%s%s\r\n" % (name.encode(), blank, value, blank) for name, value in named.items()]

    found = said_to(server, POST.replace(b"localhost", b"localhost" + blank) + b"".join(lines) + b"\r\n" + picture)

    assert (found[0], found[1]["stream"], found[1]["request_id"]) == (200, "gate-7", "a")


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (GET, 400, "'host' is missing"),
        (GET + HOST * 2, 400, "'host' is there more than once"),
        (GET.replace(b"1.1", b"1.0") + HOST * 2, 400, "'host' is there more than once"),
        (GET + HOST + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n", 400, "'authorization'"),
        (POST + b"X-Stream-Id: a\r\nX-STREAM-ID: a\r\n", 400, "'x-stream-id'"),
        (POST + CLIENT * 2, 400, "'x-real-ip'"),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n", 501, "no Transfer-Encoding but 'chunked'"),
    ],
    ids=["no host", "two hosts", "two hosts, HTTP/1.0", "two keys", "two streams", "two clients", "gzip on the way"],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused_by_name(server, sent, status, said):
    found = said_to(server, sent + b"\r\n")

    assert found[0] == status, found
    assert said in found[1]["error"]


@pytest.mark.parametrize(
    "sent",
    [
        GET.replace(b"1.1", b"1.0"),
        GET + HOST + b"Accept: text/html\r\nAccept: */*\r\nX-Forwarded-For: a\r\nX-Forwarded-For: b\r\n",
        GET + HOST + CLIENT,
    ],
    ids=["HTTP/1.0", "lists", "one client"],
)
def test_a_head_that_is_no_puzzle_is_answered(server, sent):
    status, _ = said_to(server, sent + b"Connection: close\r\n\r\n")

    assert status == 200


def test_a_request_that_a_balancer_names_too_keeps_its_clients_name(server):
    answer = b""
    with connected(
        server.url, GET + HOST + b"X-Request-Id: mine\r\nX-Request-Id: its\r\nConnection: close\r\n\r\n"
    ) as one:
        while more := one.recv(2**16):
            answer += more

    assert b"x-request-id: mine\r\n" in answer
    assert b"its" not in answer.partition(b"\r\n\r\n")[0]


def test_a_body_in_crumbs_is_refused_and_one_in_small_chunks_is_not(server):
    image = small_png()
    small = POST + b"Connection: close\r\nTransfer-Encoding: Chunked\r\n\r\n"
    small += b"".join(b"1\r\n%c\r\n" % byte for byte in image) + b"0\r\n\r\n"
    crumbs = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 5000

    assert 100 < len(image) < 1024
    assert said_to(server, small)[0] == 200
    assert said_to(server, crumbs) == (
        400,
        {"error": "the body comes in more than 1024 parts of less than 64 bytes; join them", "code": "bad_request"},
    )


def test_where_nothing_is_shared_nobody_is_asked_to_hand_over(server):
    status, said = said_to(server, head("/v1/hand-over", 60_000) + b"{")

    assert (status, said["code"]) == (404, "not_found")


def test_a_path_that_ends_in_a_slash_is_no_other(server):
    answer = server.client.get("/v1/streams/", headers={"Host": "127.0.0.1"})

    assert (answer.status_code, answer.json()["error"]) == (404, "no such path '/v1/streams/'; see /docs")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/labels", b'{"labels": [{"id": "nobody-asked", "label": 0}]}'),
        ("POST", "/v1/streams", b'{"name": "door"}'),
        ("PATCH", "/v1/streams", b'{"mode": "configured"}'),
        ("POST", "/v2/repository/index", b'{"ready": true}'),
        ("PUT", "/v1/streams/door/state", b"no state"),
        ("POST", "/v1/streams/door/compare", small_png()),
    ],
)
def test_whatever_takes_a_body_takes_it_compressed(server, method, path, body):
    def answer(content: bytes, encoding: str) -> tuple[int, dict | None]:
        server.client.delete("/v1/streams/door")
        if path.startswith("/v1/streams/door"):
            server.client.post("/v1/streams", json={"name": "door"})
        kind = {"Content-Type": "application/json", "Content-Encoding": encoding}
        asked = server.client.request(method, path, content=content, headers=kind | {"X-Request-Id": "r"})
        return asked.status_code, asked.json() if asked.is_error else None

    plain = answer(body, "identity")

    assert plain[0] in (200, 201, 400)
    assert answer(gzip.compress(body), "gzip") == plain
    assert answer(body, "br")[0] == 501
    refused, said = answer(body, "gzip")
    assert refused == 400
    assert "as its Content-Encoding says" in said["error"]


GOOD = small_png()
EXPECTS = b"Content-Type: image/png\r\nExpect: 100-continue\r\nContent-Length: %d\r\n" % len(GOOD)


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (GET + HOST, 1),
        (GET.replace(b"GET", b"HEAD") + HOST, 1),
        (GET.replace(b"1.1", b"1.0"), 1),
        (GET.replace(b"/v2", b"/nowhere") + HOST, 1),
        (GET.replace(b"GET", b"PUT") + HOST, 1),
        (GET, 1),
        (b"what is this?\r\n", 1),
        ((GET + HOST + b"\r\n") * 2 + GET.replace(b"GET", b"HEAD") + HOST, 3),
        (GET.replace(b"/v2", b"/openapi.json") + HOST, 1),
    ],
    ids=["GET", "HEAD", "HTTP/1.0", "404", "405", "no host", "no HTTP", "three in a row", "a large one"],
)
def test_every_head_tells_a_browser_once_to_take_nothing_for_what_it_is_not(server, sent, answers):
    with connected(server.url, sent + b"Connection: close\r\n\r\n") as connection:
        found = b"".join(iter(lambda: connection.recv(65536), b""))

    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", found)) == answers
    assert found.count(b"\r\nx-content-type-options: nosniff\r\n") == answers


def test_an_answer_behind_a_wish_to_go_on_has_them_and_the_wish_has_not(server):
    with connected(server.url, POST + EXPECTS + b"Connection: close\r\n\r\n") as connection:
        first = connection.recv(65536)
        connection.sendall(GOOD)
        rest = b"".join(iter(lambda: connection.recv(65536), b""))

    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert rest.startswith(b"HTTP/1.1 200 OK\r\nx-content-type-options: nosniff\r\n")
    assert rest.count(b"nosniff") == 1
