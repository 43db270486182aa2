"""Who is on duty is told of drift, freezes and restores, and of nothing else."""

import pytest

from tta_server.streams.event import WORDS, StreamEvent
from tta_server.streams.listeners.waking import Waking
from tta_server.streams.stream import Standing

ALARMS = {"freeze": "freeze", "rollback": "restore", "reset": "restore", "restore": "restore", "import": "restore"}


def posted(kind: str, **more) -> list[tuple[str, dict]]:
    found: list[tuple[str, dict]] = []
    event = StreamEvent("door", kind, Standing(3), Standing(4), **more)
    Waking("glyphs", lambda kind, content: found.append((kind, content))).hear(event)
    return found


@pytest.mark.parametrize("kind", sorted(WORDS))
def test_each_kind_of_event_is_the_alarm_that_it_should_be(kind):
    assert [alarm for alarm, _ in posted(kind)] == ([ALARMS[kind]] if kind in ALARMS else [])


@pytest.mark.parametrize(
    ("before", "state", "told"), [("stable", "drift", 1), ("drift", "stable", 1), ("stable", "warning", 0)]
)
def test_drift_is_told_when_it_begins_and_when_it_ends(before, state, told):
    assert len(posted("drift", extra={"state": state, "before": before})) == told


def test_a_planned_reset_wakes_nobody():
    assert posted("reset", cause="periodic") == []


def test_a_message_says_what_happened_to_which_stream():
    ((_, content),) = posted("rollback", cause="canary", reason="it reads less", request_id="r-1")

    assert content["text"] == "glyphs, stream 'door', rollback: it reads less"
    assert (
        content["data"].items() >= {"model": "glyphs", "stream": "door", "version_after": 4, "cause": "canary"}.items()
    )
