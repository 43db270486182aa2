"""One event, told once to everyone."""

from typing import get_args

import pytest
from prometheus_client import Gauge

from tests.tta_server.runtime.fakes import WHO, Scripted, Wired, ask, learn_all, rows, value, wired
from tta_server.storage.audit import EVENTS
from tta_server.streams.event import EVERY, WORDS, EventKind, News, StreamEvent, keep_books
from tta_server.streams.stream import Standing
from tta_server.telemetry.closed_sets import DROP_REASONS, WINDOW_OUTCOMES
from tta_server.telemetry.metrics import render

NOWHERE = Standing(0)


def told(kind: str, **more: object) -> StreamEvent:
    return StreamEvent("door", kind, NOWHERE, NOWHERE, **more)


def kinds() -> set[str]:
    """Return every kind of event, however deeply the types are nested."""
    found, left = set(), [EventKind]
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.add(one)
        left += get_args(one)
    return found


def heard(subject: Wired) -> list[StreamEvent]:
    events: list[StreamEvent] = []
    subject.worker.parts.news.listen(events.append)
    return events


def test_every_kind_of_event_has_its_words_and_they_are_of_the_closed_sets():
    assert WORDS.keys() == kinds()
    assert {words.window for words in WORDS.values()} - {None} == set(WINDOW_OUTCOMES)
    assert {words.dropped for words in WORDS.values()} - {None} <= set(DROP_REASONS)


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_what_the_audit_log_has_a_name_for_is_in_it(kind):
    assert told(kind).logged == (kind if kind in EVENTS else None)


@pytest.mark.parametrize("kind", [kind for kind, words in WORDS.items() if words.saved == "moved"])
def test_a_stream_that_moved_is_written_and_one_that_did_not_is_not(kind):
    assert not told(kind).saves
    assert StreamEvent("door", kind, NOWHERE, Standing(1)).saves
    assert StreamEvent("door", kind, NOWHERE, Standing(0, "source")).saves


def test_images_of_a_window_are_dropped_under_the_word_for_the_event_beside_those_that_waited():
    assert told("reject", rows=4).dropped == {"rejected": 4}
    assert told("reset", lost={"reset": 3}).dropped == {"reset": 3}
    assert told("reset", rows=4, lost={"reset": 3}).dropped == {"rejected": 4, "reset": 3}
    assert told("commit", rows=4).dropped == {}


def test_whoever_cannot_take_an_event_in_keeps_no_other_from_hearing_it():
    seen: list[object] = []

    def fail(event: StreamEvent) -> None:
        raise RuntimeError("not today")

    news = News(seen.append, fail)
    news.listen(seen.append)
    news.on_failure(lambda stream, error: seen.append((stream, str(error))))
    event = told("commit", subject=wired().worker.parts.registry.open("door", 0.0))

    news.tell(event)

    assert seen == [event, event, ("door", "not today")]


def test_everything_that_happens_to_a_stream_is_told_once_and_in_order():
    subject = wired(judge=Scripted(("pass", "reject", "skip", "rollback", "fail")))
    events = heard(subject)
    for seed in range(5):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)
    subject.commands.reset("door", WHO)
    subject.commands.change_all("off", WHO)
    subject.commands.delete("door", WHO)

    kinds = [event.kind for event in events]
    assert kinds[:4] == ["answered", "offered", "commit", "scored"]
    assert [kind for kind in kinds if kind not in ("answered", "offered", "scored")] == [
        "commit",
        "reject",
        "skip",
        "rollback",
        "failed",
        "reset",
        "mode",
        "mode",
        "delete",
    ]
    assert [event.stream for event in events if event.kind == "mode"] == ["door", EVERY]


def test_metrics_and_the_streams_own_books_say_the_same():
    subject = wired(judge=Scripted(("pass", "reject", "skip", "rollback", "fail", "reset")))
    for seed in range(11):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)
    ask(subject, "door", rows(3))
    subject.commands.reset("door", WHO)

    stream = subject.stream("door")
    for reason in DROP_REASONS:
        counted = value(subject.metrics, "tta_samples_dropped_total", stream="door", reason=reason)
        assert counted == stream.dropped[reason], reason
    assert value(subject.metrics, "tta_samples_learnt_total", stream="door") == stream.learnt
    assert value(subject.metrics, "tta_batches_total", stream="door") == 11


@pytest.mark.parametrize("cause", ["operator", "guard", "periodic"])
def test_after_a_reset_the_gauges_of_a_stream_say_nothing_of_what_was_before(cause):
    words = {"operator": ("pass",), "guard": ("pass", "reset"), "periodic": ("pass",)}[cause]
    subject = wired(judge=Scripted(words), **({"reset_every": 2} if cause == "periodic" else {}))
    for seed in range(2):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)
    if cause == "operator":
        subject.commands.reset("door", WHO)

    gauges = {each.family._name for each in subject.metrics.stream._families if isinstance(each.family, Gauge)}
    shown = {name for name in gauges if f'{name}{{model="tiny",stream="door"' in render([subject.metrics]).decode()}
    assert shown == {"tta_state_version", "tta_serving_source", "tta_stream_frozen"}
    assert value(subject.metrics, "tta_state_version", stream="door") == subject.stream("door").version


def test_an_event_of_no_stream_in_memory_changes_no_books():
    keep_books(told("aside", lost={"reset": 3}))
