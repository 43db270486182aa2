"""What happens around a request for predictions: its name, and the count of how it ended."""

import re

import pytest
from starlette.responses import JSONResponse, Response

from tests.tta_server.api.exchange import Exchange
from tta_server.api.front.middleware import Accounting
from tta_server.telemetry.bursts import Bursts
from tta_server.telemetry.closed_sets import REQUEST_OUTCOMES
from tta_server.telemetry.metrics import Metrics, render


# Accounting
def counts(path: str, status: int | None, method: str = "POST", code: str = "") -> dict[str, float]:
    """Return the outcomes counted for one request; status None means that the application raised."""
    metrics = Metrics("m", "tent")

    async def app(scope, receive, send):
        if status is None:
            raise RuntimeError("bug")
        await JSONResponse({"code": code}, status)(scope, receive, send)

    exchange = Exchange([b""], path=path)
    exchange.scope["method"] = method
    try:
        exchange.through(Accounting(app, {"": metrics, "m": metrics}.get, Bursts()))
    except RuntimeError:
        assert status is None
    lines = [line for line in render([metrics]).decode().splitlines() if line.startswith("tta_requests_total{")]
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
        (501, "rejected"),
        (503, "error"),
        (None, "error"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/v2/models/m/infer", "/v2/models/m/versions/1/infer"])
def test_a_request_for_predictions_is_counted_once_by_how_it_ended(path, status, outcome):
    assert counts(path, status) == dict.fromkeys(REQUEST_OUTCOMES, 0.0) | {outcome: 1.0}


@pytest.mark.parametrize(
    ("code", "outcome"), [("queue_full", "overloaded"), ("streams_full", "streams_full"), ("rate_limited", "rejected")]
)
def test_only_what_waits_counts_as_overload(code, outcome):
    assert counts("/predict", 429, code=code) == dict.fromkeys(REQUEST_OUTCOMES, 0.0) | {outcome: 1.0}


@pytest.mark.parametrize(("status", "level"), [(400, "INFO"), (501, "INFO"), (500, "WARNING"), (503, "WARNING")])
def test_only_what_is_the_servers_fault_is_a_warning(status, level, caplog):
    caplog.set_level("INFO")

    counts("/predict", status)

    assert [record.levelname for record in caplog.records if "refused" in record.message] == [level]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/predict"),
        ("GET", "/metrics"),
        ("GET", "/v2/health/ready"),
        ("POST", "/v1/streams/a/reset"),
        ("GET", "/v2"),
        ("POST", "/v2/models/gone/infer"),
        ("POST", "/v2/models//infer"),
        ("POST", "/v2/nothing/infer"),
    ],
)
def test_nothing_else_is_counted(method, path):
    assert not any(counts(path, 200, method).values())


# Request ids
NAME = re.compile(r"[0-9a-f]{32}")


def named(headers: dict[str, str], status: int = 200) -> str:
    """Return what the answer to a request for predictions says the request is called."""
    answer = Response(status_code=status)
    exchange = Exchange([b""], headers, "/predict").through(
        Accounting(answer, lambda _: Metrics("m", "tent"), Bursts())
    )
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
