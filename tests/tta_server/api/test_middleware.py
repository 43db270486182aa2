"""What happens around a request: the limit on its body, and the count of how it ended."""

import asyncio
import json
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tta_server.api.middleware import Accounting, BodyLimit
from tta_server.api.responses import error_response
from tta_server.errors import TooLarge, TTAError
from tta_server.telemetry.closed_sets import REQUEST_OUTCOMES
from tta_server.telemetry.metrics import Metrics

LIMIT = 100


class Exchange:
    """One request, part by part, and what came back."""

    def __init__(self, parts: Iterable[bytes], headers: dict[str, str] | None = None, path: str = "/echo") -> None:
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()],
        }
        self._parts = list(parts)
        self.read = 0
        self.sent: list[dict] = []

    async def receive(self) -> dict:
        if not self._parts:
            return {"type": "http.disconnect"}
        part = self._parts.pop(0)
        self.read += len(part)
        return {"type": "http.request", "body": part, "more_body": bool(self._parts)}

    async def send(self, message: dict) -> None:
        self.sent.append(message)

    def through(self, app) -> "Exchange":
        asyncio.run(app(self.scope, self.receive, self.send))
        return self

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


async def echo(request: Request) -> Response:
    return Response(await request.body())


async def too_large(_request: Request, error: TTAError) -> Response:
    return error_response(error.status, str(error), error.code)


def limited() -> BodyLimit:
    routes = [Route("/echo", echo, methods=["POST"])]
    return BodyLimit(Starlette(routes=routes, exception_handlers={TooLarge: too_large}), LIMIT)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6))
def test_a_body_passes_whole_or_is_cut_off_at_the_limit(parts):
    size = sum(map(len, parts))

    exchange = Exchange(parts, {"transfer-encoding": "chunked"}).through(limited())

    if size <= LIMIT:
        assert (exchange.status, exchange.body) == (200, b"".join(parts))
    else:
        assert exchange.status == 413
        # One part past the limit had to be seen to know; nothing after it is asked for.
        assert exchange.read <= LIMIT + 60


def test_a_chunked_body_without_end_is_read_no_further_than_the_limit():
    exchange = Exchange([b"x" * 10] * 1000).through(limited())

    assert (exchange.status, exchange.read) == (413, LIMIT + 10)
    assert exchange.headers[b"connection"] == b"close"
    assert json.loads(exchange.body)["error"] == "the body may have at most 100 bytes; send fewer or smaller images"


def test_a_body_of_just_the_limit_passes_and_keeps_the_connection():
    exchange = Exchange([b"x" * LIMIT], {"content-length": str(LIMIT)}).through(limited())

    assert exchange.status == 200
    assert b"connection" not in exchange.headers


@pytest.mark.parametrize("declared", [str(LIMIT + 1), "10000000000", "9" * 5000, "-1", "abc", ""])
def test_a_declared_length_that_cannot_be_is_refused_and_nothing_is_read(declared):
    exchange = Exchange([b"x" * 10] * 1000, {"content-length": declared}).through(limited())

    assert (exchange.status, exchange.read) == (413, 0)
    assert exchange.headers[b"connection"] == b"close"
    assert "at most 100 bytes" in json.loads(exchange.body)["error"]


def test_a_length_that_was_declared_too_small_does_not_help():
    exchange = Exchange([b"x" * 10] * 1000, {"content-length": "5"}).through(limited())

    assert (exchange.status, exchange.read) == (413, LIMIT + 10)


def test_what_is_no_http_passes():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(BodyLimit(app, 1)({"type": "lifespan"}, None, None))

    assert seen == ["lifespan"]


# Accounting
def counts(path: str, status: int | None, method: str = "POST") -> dict[str, float]:
    """Return the outcomes counted for one request; status None means that the application raised."""
    metrics = Metrics("m", "tent")

    async def app(scope, receive, send):
        if status is None:
            raise RuntimeError("bug")
        await Response(status_code=status)(scope, receive, send)

    exchange = Exchange([b""], path=path)
    exchange.scope["method"] = method
    try:
        exchange.through(Accounting(app, {"m": metrics}))
    except RuntimeError:
        assert status is None
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("tta_requests_total{")]
    return {line.split('outcome="')[1].split('"')[0]: float(line.split()[-1]) for line in lines}


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "ok"),
        (400, "rejected"),
        (413, "rejected"),
        (429, "overloaded"),
        (499, "cancelled"),
        (500, "error"),
        (503, "error"),
        (None, "error"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/v2/models/m/infer", "/v2/models/m/versions/1/infer"])
def test_a_request_for_predictions_is_counted_once_by_how_it_ended(path, status, outcome):
    assert counts(path, status) == dict.fromkeys(REQUEST_OUTCOMES, 0.0) | {outcome: 1.0}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/predict"),
        ("GET", "/metrics"),
        ("GET", "/v2/health/ready"),
        ("POST", "/v1/streams/a/reset"),
        ("GET", "/v2"),
    ],
)
def test_nothing_else_is_counted(method, path):
    assert not any(counts(path, 200, method).values())


# Request ids
NAME = re.compile(r"[0-9a-f]{32}")


def named(headers: dict[str, str], status: int = 200) -> str:
    """Return what the answer to a request for predictions says the request is called."""
    answer = Response(status_code=status)
    exchange = Exchange([b""], headers, "/predict").through(Accounting(answer, {"m": Metrics("m", "tent")}))
    return exchange.headers[b"x-request-id"].decode()


@pytest.mark.parametrize("status", [200, 400, 429, 503])
def test_every_answer_says_what_its_request_is_called(status):
    assert named({"x-request-id": "camera-7:42"}, status) == "camera-7:42"
    assert NAME.fullmatch(named({}, status))


def test_no_two_made_up_names_are_equal():
    assert len({named({}) for _ in range(100)}) == 100


@pytest.mark.parametrize("name", ["", " ", "a b", "a\tb", "\x7f", "a" * 129, "é"])
def test_a_name_that_cannot_be_one_is_not_sent_back(name):
    assert NAME.fullmatch(named({"x-request-id": name}))
