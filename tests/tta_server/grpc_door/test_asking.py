"""A call is an HTTP request to the application, to its end."""

import asyncio

import pytest

from tta_server.grpc_door.asking import Asked, Reply, ask


def test_a_call_that_is_cancelled_is_a_caller_who_hung_up():
    heard: list[str] = []

    async def app(scope, receive, send):
        heard.append((await receive())["type"])
        heard.append((await receive())["type"])

    async def cancelled() -> None:
        call = asyncio.ensure_future(ask(app, Asked("POST", "/predict"), (), "ipv4:1.2.3.4:5"))
        while not heard:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        while len(heard) < 2:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(cancelled(), 60))

    assert heard == ["http.request", "http.disconnect"]


@pytest.mark.parametrize(
    ("peer", "client"),
    [("ipv4:1.2.3.4:5", ("1.2.3.4", 5)), ("ipv6:%5B::1%5D:50", ("::1", 50)), ("unix:", None)],
)
def test_the_application_sees_who_calls_and_what_the_call_says_but_not_of_its_body(peer, client):
    seen: dict = {}

    async def app(scope, receive, send):
        seen.update(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    given = [
        ("authorization", "Bearer x"),
        ("content-length", "99"),
        ("grpc-timeout", "1S"),
        ("x-bin", b"\x00"),
        ("x-foo", "\u20ac"),
    ]
    reply = asyncio.run(ask(app, Asked("POST", "/v2/x", (b"ab", b"c"), ((b"a", b"b"),)), given, peer))

    assert reply.status == 204
    assert seen["client"] == client
    assert seen["headers"] == [
        (b"authorization", b"Bearer x"),
        (b"x-foo", b"?"),
        (b"a", b"b"),
        (b"content-length", b"3"),
    ]


def test_what_went_wrong_is_told_whatever_the_application_did():
    async def app(scope, receive, send):
        raise RuntimeError("bug")

    broken = asyncio.run(ask(app, Asked("GET", "/v2"), (), "ipv4:1.2.3.4:5"))

    assert (broken.status, broken.problem["code"]) == (500, "internal")
    assert Reply(404, {}, b'{"error": "no", "code": "not_found"}').problem == {"error": "no", "code": "not_found"}
    assert not Reply(503, {}, b'{"ready": false, "error": "starting"}').problem
    assert not Reply(200, {}, b"{}").problem
