"""Everything that happens to a stream is in the audit log."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from safetensors.torch import load

from tests.tta_server.runtime.fakes import WHO, Fails, Scripted, Wired, ask, learn_all, rows, wired
from tta_server import adapters
from tta_server.adapters.checkpoint import plain_settings, state_digest
from tta_server.storage.audit import Entry
from tta_server.streams.window import as_samples, digest, prepared


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "storage")


def windows(subject: Wired, count: int, first: int = 0) -> Wired:
    for seed in range(first, first + count):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)
    return subject


def brief(entry: Entry) -> tuple[str, int, int]:
    return entry.event, entry.version_before, entry.version_after


def test_every_verdict_is_a_line(folder):
    subject = windows(wired(judge=Scripted(("pass", "reject", "skip", "rollback", "fail")), storage=folder), 5)

    lines = subject.audited()

    assert [brief(line) for line in lines] == [
        ("commit", 0, 1),
        ("reject", 1, 1),
        ("skip", 1, 1),
        ("rollback", 1, 2),
        ("failed", 2, 2),
    ]
    assert {line.stream for line in lines} == {"door"}
    assert {line.who for line in lines} == {"engine"}
    assert [line.cause for line in lines] == ["healthy", "canary", "too_few_pictures", "canary", ""]
    assert lines[-1].reason == "RuntimeError: no verdict today"


def test_a_line_names_its_window_and_the_state_that_it_led_to(folder):
    subject = windows(wired(storage=folder), 1)

    (line,) = subject.audited()

    assert (line.batch, line.rows) == (digest(as_samples(prepared(rows(4)), "", 0.0)), 4)
    assert line.state == state_digest(subject.stream("door").state)


def test_a_line_names_no_state_where_none_was_made(folder):
    subject = windows(wired(judge=Scripted(("reject",)), storage=folder), 1)

    assert subject.audited()[0].state is None


def test_a_freeze_is_a_line_of_its_own(folder):
    subject = windows(wired(judge=Scripted(("rollback",)), storage=folder), 3)

    assert [line.event for line in subject.audited()] == ["rollback"] * 3 + ["freeze"]


def test_a_periodic_reset_is_a_line_of_its_own(folder):
    subject = windows(wired(storage=folder, reset_every=2), 2)

    lines = subject.audited()

    assert [brief(line) for line in lines] == [("commit", 0, 1), ("commit", 1, 2), ("reset", 2, 3)]
    assert (lines[-1].cause, lines[-1].reason) == ("periodic", "after 2 steps")


def test_a_step_that_broke_is_a_line(folder):
    subject = windows(wired(Fails(), storage=folder), 1)

    assert [brief(line) for line in subject.audited()] == [("failed", 0, 0)]


def test_a_stacked_step_names_its_slot_and_the_size_of_the_stack(folder):
    subject = wired(storage=folder)
    for name in ("a", "b"):
        ask(subject, name, rows(4))
    learn_all(subject)

    assert [(line.stream, line.extra["stack"]) for line in subject.audited()] == [("a", [0, 2]), ("b", [1, 2])]


def test_the_first_step_of_a_stream_in_memory_tells_how_it_learns(folder):
    subject = windows(wired(storage=folder), 2)
    subject.commands.evict("door")
    windows(subject, 1, 2)

    told = [line.extra for line in subject.audited()]
    assert told[0]["settings"]["lr"] == subject.stream("door").method.adapter.lr
    assert told[0].keys() == {"adapter", "settings", "statistics", "max_distance", "weights"}
    assert told[1:] == [{}, told[0]]


def test_settings_that_are_no_values_are_left_out():
    assert plain_settings(adapters.create("cotta")).keys() < {f.name for f in fields(adapters.create("cotta"))}
    assert json.dumps(plain_settings(Fails())) == "{}"


def test_an_operators_command_names_who_asked_and_why(folder):
    subject = windows(wired(storage=folder), 2)

    subject.commands.rollback("door", 1, WHO)
    subject.commands.reset("door", WHO)
    subject.commands.change("door", "off", None, WHO._replace(reason=""))
    subject.commands.delete("door", WHO)

    lines = subject.audited()[2:]
    assert [brief(line) for line in lines] == [
        ("rollback", 2, 3),
        ("reset", 3, 4),
        ("mode", 4, 4),
        ("delete", 4, 4),
    ]
    assert {(line.who, line.cause) for line in lines} == {("tester", "operator")}
    assert [line.reason for line in lines] == ["a test", "a test", "after -> off", "a test"]
    assert lines[0].extra == {"to": 1}


def test_the_newest_events_are_told_with_the_stream():
    subject = windows(wired(judge=Scripted(("pass", "reject"))), 2)

    told = subject.commands.read("door")

    assert [event["verdict"] for event in told["verdicts"]] == ["commit", "reject"]
    assert told["last_verdict"]["cause"] == "canary"


def test_kept_windows_can_be_read_by_the_name_in_the_log(folder):
    subject = windows(wired(storage=folder, keep_inputs=True), 2)

    for seed, line in enumerate(subject.audited()):
        data = subject.kept.store.read_input("door", line.batch)
        images = load(data)
        assert [images[name].numpy().tobytes() for name in sorted(images)] == [
            row.image.tobytes() for row in as_samples(prepared(rows(4, seed)), "", 0.0)
        ]


def test_windows_are_not_kept_unless_asked_for(folder):
    subject = windows(wired(storage=folder), 1)

    assert subject.kept.store.read_input("door", subject.audited()[0].batch) is None


def test_without_storage_nothing_is_written():
    subject = windows(wired(), 2)

    assert subject.audited() == []
    assert subject.kept.store.names() == []


def test_a_state_on_disk_is_never_newer_than_the_log(folder):
    subject = windows(wired(storage=folder), 3)

    assert subject.kept.keeper.flush(30)

    assert [saved.version for saved in subject.kept.store.states("door")][-1] == 3
    assert [line.version_after for line in subject.audited()] == [1, 2, 3]
