"""What the log writes: one line for each message, whatever is in it."""

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.plain import is_plain
from tta_server.telemetry.bursts import Bursts
from tta_server.telemetry.log_format import HumanFormat, JsonFormat, fields

texts = st.text(max_size=20)


def record(message: str, about: dict, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    made = logging.LogRecord("there", logging.INFO, "", 0, "%s", (message,), info)
    vars(made).update(fields(**about))
    return made


@settings(max_examples=50)
@given(message=texts, value=texts)
def test_nobody_can_begin_a_line_of_his_own(message, value):
    line = HumanFormat().format(record(message, {"stream": value}))

    assert len(line.splitlines()) == 1
    assert is_plain(line)


def test_nobody_turns_a_line_around():
    line = HumanFormat().format(record("\u202eREDRO", {"reason": "\u2066x\x9b2J"}))

    assert line.endswith(r"\u202eREDRO reason=\u2066x\x9b2J")


@settings(max_examples=50)
@given(said=texts)
def test_nobody_begins_a_line_with_what_went_wrong_either(said):
    first, *below = HumanFormat().format(record("it failed", {}, ValueError(f"x\n{said}"))).split("\n")

    assert first.endswith("it failed")
    assert below
    assert all(line.startswith("  ") and len(line.splitlines()) == 1 for line in below)


@settings(max_examples=50)
@given(message=texts, about=st.dictionaries(st.sampled_from(["stream", "message", "time"]), texts))
def test_a_json_line_holds_the_message_and_the_fields_and_no_field_hides_the_message(message, about):
    line = JsonFormat().format(record(message, about))

    found = json.loads(line)
    assert len(line.splitlines()) == 1
    assert (found["message"], found["level"], found["logger"]) == (message, "info", "there")
    assert found.get("stream", "") == about.get("stream", "")


def test_how_an_error_came_about_is_part_of_its_line():
    found = json.loads(JsonFormat().format(record("it failed", {}, ValueError("why\nso"))))

    assert found["exception"].endswith("ValueError: why\nso")


@pytest.mark.parametrize(("refused", "told"), [(1, 1), (9, 1), (10, 2), (250, 3)])
def test_a_burst_is_told_ever_more_rarely(refused, told, caplog):
    bursts = Bursts(clock=lambda: 5.0)

    with caplog.at_level(logging.INFO):
        for _ in range(refused):
            bursts.refused("queue_full (429)", stream="door")

    assert len(caplog.records) == told
    assert caplog.records[-1].fields == {"stream": "door"}


def test_after_a_minute_a_burst_is_told_anew(caplog):
    now_s = iter([0.0, 1.0, 61.0])
    bursts = Bursts(clock=lambda: next(now_s))

    with caplog.at_level(logging.INFO):
        for _ in range(3):
            bursts.refused("queue_full (429)")

    assert [record.message for record in caplog.records] == 2 * ["refused: queue_full (429), number 1 within a minute"]
