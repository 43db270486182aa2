"""What happens to streams is said in the log: each in one line, and only as loud as it matters."""

import logging

import pytest

from tta_server.streams.event import WORDS, StreamEvent
from tta_server.streams.listeners.spoken import speak
from tta_server.streams.stream import Standing

LOUD = {"open", "merge", "rollback", "reset", "restore", "import", "freeze", "drift", "delete", "mode"}


def heard(caplog: pytest.LogCaptureFixture, kind: str, **more) -> list[logging.LogRecord]:
    with caplog.at_level(logging.INFO):
        speak(StreamEvent("door", kind, Standing(3), Standing(4), **more))
    return caplog.records


@pytest.mark.parametrize("kind", sorted(WORDS))
def test_what_an_operator_must_know_is_one_line_and_what_happens_all_the_time_is_none(kind, caplog):
    lines = heard(caplog, kind)

    assert len(lines) <= 1
    assert lines or kind not in LOUD
    assert not lines or kind not in {"commit", "answered", "offered", "scored", "skip", "recall", "create"}


def test_a_line_names_stream_version_request_and_caller(caplog):
    (line,) = heard(caplog, "reset", reason="the lens was changed", who="anna", request_id="r-1", cause="operator")

    assert line.message == "stream 'door', reset: the lens was changed"
    assert line.fields == {
        "stream": "door",
        "event": "reset",
        "version": 4,
        "version_before": 3,
        "cause": "operator",
        "who": "anna",
        "request_id": "r-1",
    }


@pytest.mark.parametrize(
    ("kind", "more", "level"),
    [
        ("drift", {"extra": {"state": "drift", "before": "stable"}}, logging.WARNING),
        ("drift", {"extra": {"state": "stable", "before": "drift"}}, logging.INFO),
        ("rollback", {"cause": "canary"}, logging.WARNING),
        ("rollback", {"cause": "operator", "who": "anna"}, logging.INFO),
        ("reset", {"cause": "periodic"}, logging.INFO),
        ("freeze", {"cause": "canary"}, logging.ERROR),
    ],
)
def test_what_the_server_itself_found_wrong_is_louder(kind, more, level, caplog):
    assert [line.levelno for line in heard(caplog, kind, **more)] == [level]
