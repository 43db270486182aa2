"""Bodies within their limits: each alone, and all together."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.tta_server.api.exchange import Exchange
from tta_server.api.front.receiving import WHOLE, Incoming, Intake, Receiving, most_bytes
from tta_server.errors import Overloaded
from tta_server.settings_door import LimitsSettings

LIMIT = 1024
PART = 600


async def echo(request: Request) -> Response:
    return Response(await request.body())


def limited(**limits: float) -> Receiving:
    app = Starlette(routes=[Route("/predict", echo, methods=["POST"])])
    return Receiving(app, LimitsSettings(max_body_bytes=LIMIT, **limits), [].append)


@given(st.lists(st.binary(min_size=PART, max_size=PART) | st.binary(max_size=9), min_size=1, max_size=4))
def test_a_body_passes_whole_or_is_cut_off_at_the_limit(parts):
    size = sum(map(len, parts))

    exchange = Exchange(parts, {"transfer-encoding": "chunked"}, "/predict").through(limited())

    if size <= LIMIT:
        assert (exchange.status, exchange.body) == (200, b"".join(parts))
    else:
        assert exchange.status == 413
        # One part past the limit had to be seen to know; nothing after it is asked for.
        assert exchange.read <= LIMIT + PART


def test_a_chunked_body_without_end_is_read_no_further_than_the_limit():
    exchange = Exchange([b"x" * 100] * 1000, path="/predict").through(limited())

    assert (exchange.status, exchange.read) == (413, 1100)
    assert exchange.headers[b"connection"] == b"close"
    assert (
        json.loads(exchange.body)["error"] == "the body may have at most 1024 bytes here; send fewer or smaller images"
    )


def test_a_body_of_just_the_limit_passes_and_keeps_the_connection():
    exchange = Exchange([b"x" * LIMIT], {"content-length": str(LIMIT)}, "/predict").through(limited())

    assert exchange.status == 200
    assert b"connection" not in exchange.headers


@pytest.mark.parametrize("declared", [str(LIMIT + 1), "10000000000", "9" * 5000, "-1", "abc", ""])
def test_a_declared_length_that_cannot_be_is_refused_and_nothing_is_read(declared):
    exchange = Exchange([b"x" * 10] * 1000, {"content-length": declared}, "/predict").through(limited())

    assert (exchange.status, exchange.read) == (413, 0)
    assert exchange.headers[b"connection"] == b"close"
    assert "at most 1024 bytes" in json.loads(exchange.body)["error"]


def test_a_length_that_was_declared_too_small_does_not_help():
    exchange = Exchange([b"x" * 100] * 1000, {"content-length": "5"}, "/predict").through(limited())

    assert (exchange.status, exchange.read) == (413, 1100)


def test_what_is_no_http_passes():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(Receiving(app, LimitsSettings(), [].append)({"type": "lifespan"}, None, None))

    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/predict", 2**25),
        ("/v2/models/m/versions/1/infer", 2**25),
        ("/v1/streams/gate-7@2/state", 2**25),
        ("/v1/streams/gate-7/compare", 2**25),
        ("/v1/labels", 2**21),
        ("/v1/streams/gate-7/reset", 2**16),
        ("/predict/x", 2**16),
        ("/", 2**16),
    ],
)
def test_only_images_and_states_may_be_large(path, most):
    assert most_bytes(path, 2**25) == most


def test_a_body_that_does_not_come_is_given_up_in_time():
    async def ask() -> list[dict]:
        sent: list[dict] = []

        async def never() -> dict:
            return await asyncio.Event().wait()

        async def send(message: dict) -> None:
            sent.append(message)

        await limited(body_timeout_s=0.01)(Exchange([], path="/predict").scope, never, send)
        return sent

    start, body = asyncio.run(ask())

    assert (start["status"], dict(start["headers"])[b"connection"]) == (408, b"close")
    assert "limits.body_timeout_s" in json.loads(body["body"])["error"]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_body_that_came_with_its_head_is_taken_without_a_wait_that_must_be_timed(is_whole, monkeypatch):
    timed, timeout_at = [], asyncio.timeout_at
    monkeypatch.setattr(asyncio, "timeout_at", lambda when: (timed.append(when), timeout_at(when))[1])
    exchange = Exchange([b"x" * LIMIT], path="/predict")
    exchange.scope["state"] = {WHOLE: lambda: is_whole}

    exchange.through(limited())

    assert (exchange.status, exchange.body) == (200, b"x" * LIMIT)
    assert len(timed) == (not is_whole)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.booleans()), max_size=40))
def test_bodies_together_never_take_more_than_their_room(steps):
    intake = Intake(100)
    bodies = [Incoming(90, 0.0) for _ in range(6)]
    for body in bodies:
        intake.begin(body)

    for place, size, complete in steps:
        body = bodies[place]
        if body not in intake._bodies:
            bodies[place] = body = Incoming(90, 0.0)
            intake.begin(body)
        try:
            body.complete = complete
            intake.add(body, size)
        except Exception:
            intake.end(body)
        assert intake.bytes == sum(each.bytes for each in intake._bodies) <= 100

    for body in bodies:
        intake.end(body)
    assert intake.bytes == 0


def test_the_body_that_takes_longest_makes_room_and_complete_ones_stay():
    intake = Intake(100)
    done, slow, new = Incoming(100, 0.0), Incoming(100, 0.0), Incoming(100, 0.0)
    for body, size in ((done, 40), (slow, 40)):
        intake.begin(body)
        intake.add(body, size)
    done.complete = True
    intake.begin(new)

    intake.add(new, 60)
    assert (done.given_up, slow.given_up, new.given_up) == (False, True, False)

    with pytest.raises(Overloaded, match=r"limits\.max_receiving_bytes"):
        intake.add(new, 1)


def test_large_parts_of_many_bodies_take_turns_and_whoever_is_given_up_hears_it_at_once():
    part, room = b"x" * 2**16, 3
    limits = LimitsSettings(max_body_bytes=2 * len(part), max_receiving_bytes=room * len(part), body_timeout_s=60)
    app = Receiving(Starlette(routes=[Route("/predict", echo, methods=["POST"])]), limits, [].append)
    exchanges = [Exchange([part] * 2, path="/predict") for _ in range(6)]
    small = Exchange([b"a", b"b"], path="/predict")

    async def together() -> None:
        calls = [app(each.scope, each.receive, each.send) for each in (*exchanges, small)]
        await asyncio.wait_for(asyncio.gather(*calls), 10)

    asyncio.run(together())

    assert (small.status, small.body) == (200, b"ab")
    assert {each.status for each in exchanges} == {200, 429}
    assert all(each.body == part * 2 for each in exchanges if each.status == 200)


@pytest.mark.parametrize("is_small_under_way", [True, False])
def test_a_large_body_gives_way_to_small_requests_from_its_second_megabyte_on(is_small_under_way, monkeypatch):
    waits, sleep, begun, over = [], asyncio.sleep, asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: waits.append(seconds) or sleep(0))
    part = b"x" * 2**19
    large = Exchange([part] * 4, {"content-length": str(4 * len(part))}, path="/predict")
    small = Exchange([b"a"], {"content-length": "1"}, path="/predict")

    async def answered_late(request: Request) -> Response:
        if len(await request.body()) == 1:
            begun.set()
            await over.wait()
        return Response()

    async def together() -> None:
        app = Receiving(Starlette(routes=[Route("/predict", answered_late, methods=["POST"])]), LimitsSettings(), print)
        waiting = asyncio.create_task(app(small.scope, small.receive, small.send))
        await begun.wait()
        if not is_small_under_way:
            over.set()
            await waiting
        await app(large.scope, large.receive, large.send)
        over.set()
        await waiting

    asyncio.run(together())

    assert {small.status, large.status} == {200}
    assert [wait > 0 for wait in waits] == [False, False, is_small_under_way, is_small_under_way]
