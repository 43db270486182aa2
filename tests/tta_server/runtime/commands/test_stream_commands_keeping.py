"""What operators may do to what is kept of streams: snapshots, files, labels, lists."""

from pathlib import Path

import numpy as np
import pytest

from tests.states import bits
from tests.tta_server.runtime.fakes import WHO, ask, is_due, learn_all, rows, value, wired
from tests.tta_server.runtime.taught import frozen, images_of, taught
from tta_server.errors import BadRequest, NotFound
from tta_server.streams.ledger import Label
from tta_server.telemetry.metrics import render

PATIENCE_S = 30


# Snapshots
def test_a_snapshot_can_be_restored_after_a_reset(tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    before = bits(subject.stream("door").state)
    snapshot = subject.commands.states.snapshot("door", "before the storm").result(PATIENCE_S)
    subject.commands.reset("door", WHO)

    told = subject.commands.states.restore("door", snapshot, WHO)

    assert bits(subject.stream("door").state) == before
    assert (told["state_version"], told["steps"]) == (5, 3)
    assert subject.kept.store.snapshots("door")[0].note == "before the storm"


def test_an_unknown_snapshot_is_not_found():
    with pytest.raises(NotFound, match="has no snapshot 'x'"):
        taught().commands.states.restore("door", "x", WHO)


# Eviction
def test_a_stream_that_is_read_from_disk_goes_on_with_its_window():
    subject = wired()
    ask(subject, "door", rows(4))
    subject.commands.evict("door")
    assert not is_due(subject)

    subject.commands.read("door")

    learn_all(subject)
    assert subject.steps() == {"door": 1}


def test_only_what_is_in_memory_can_be_evicted():
    subject = taught()
    subject.commands.evict("door")

    with pytest.raises(NotFound, match="is not in memory"):
        subject.commands.evict("door")
    with pytest.raises(NotFound, match="unknown stream 'nobody'"):
        subject.commands.evict("nobody")


# Delete
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_deleted_stream_leaves_nothing(on_disk, tmp_path: Path):
    subject = taught(storage=str(tmp_path), keep_inputs=True)
    subject.commands.states.snapshot("door", "").result(PATIENCE_S)
    ask(subject, "door", rows(4), request_id="r1")
    if on_disk:
        subject.commands.evict("door")

    subject.commands.delete("door", WHO)

    assert subject.kept.keeper.flush(PATIENCE_S)
    assert subject.commands.list().streams == []
    assert not list((tmp_path / "streams").glob("door*"))
    assert 'stream="door"' not in render([subject.metrics]).decode()
    assert subject.commands.whose([Label("r1", 0, 0)], bool) == []
    assert not is_due(subject)
    assert value(subject.metrics, "tta_state_bytes") == 0


def test_a_stream_of_a_deleted_ones_name_starts_from_the_source():
    subject = taught()
    subject.commands.delete("door", WHO)

    answer = ask(subject, "door", rows(4, 99))

    assert np.array_equal(answer.probabilities, frozen(rows(4, 99)))
    assert (answer.version, answer.adapted) == (0, False)


def test_a_stream_whose_file_is_gone_can_be_deleted():
    subject = taught()
    subject.commands.evict("door")
    assert subject.kept.keeper.flush(PATIENCE_S)
    subject.kept.store.delete("door")

    subject.commands.delete("door", WHO)

    assert subject.commands.list().streams == []


# Labels
def test_labels_give_the_exact_accuracy_of_both_models():
    subject = taught()
    answer = ask(subject, "door", rows(4, 99), request_id="r1")
    right = answer.probabilities.argmax(1)

    told = subject.commands.label([Label("r1", place, int(right[place]), "door") for place in range(4)])

    source = float((frozen(rows(4, 99)).argmax(1) == right).mean())
    assert (told["counted"], told["unknown"]) == (4, 0)
    assert told["streams"]["door"]["adapted"]["accuracy"] == 1
    assert told["streams"]["door"]["source"]["accuracy"] == source
    assert value(subject.metrics, "tta_labelled_accuracy_ratio", stream="door", variant="adapted") == 1
    assert subject.commands.read("door")["labelled"] == told["streams"]["door"]


def test_what_labels_said_is_shown_no_more_once_the_stream_goes_on_from_elsewhere():
    subject = taught()
    right = ask(subject, "door", rows(4, 99), request_id="r1").probabilities.argmax(1)
    subject.commands.label([Label("r1", place, int(right[place]), "door") for place in range(4)])
    shown = render([subject.metrics]).decode()

    subject.commands.rollback("door", 1, WHO)

    assert 'tta_labelled_gain_sigmas{model="tiny",stream="door"}' in shown
    assert 'tta_labelled_accuracy_ratio{model="tiny",stream="door",variant="adapted"}' in shown
    assert "tta_labelled_accuracy_ratio{" not in render([subject.metrics]).decode()
    assert "tta_labelled_gain_sigmas{" not in render([subject.metrics]).decode()
    assert subject.commands.read("door")["labelled"]["answered"] == {"labels": 0}


@pytest.mark.parametrize("recent_bytes", [0, 10**6])
def test_both_models_are_compared_on_the_same_images_also_when_some_are_gone(recent_bytes):
    """The source answered the first request, whose image need not be kept."""
    subject = wired(recent_bytes=recent_bytes, mode="off")
    ask(subject, "door", rows(4, 1), request_id="r1")
    subject.commands.change("door", "after", None, WHO)
    ask(subject, "door", rows(4, 2))
    learn_all(subject)
    ask(subject, "door", rows(4, 3), request_id="r2")

    labels = [Label(name, place, 1, "door") for name in ("r1", "r2") for place in range(4)]
    told = subject.commands.label(labels)["streams"]

    both = 8 if recent_bytes else 4
    assert [told["door"][of]["labels"] for of in ("answered", "adapted", "source")] == [8, both, both]
    seen = np.concatenate([frozen(rows(4, seed)) for seed in (1, 3)])[:both]
    assert told["door"]["source"]["accuracy"] == float((seen.argmax(1) == 1).mean())


def test_labels_are_of_the_answered_requests_that_the_caller_may_speak_of():
    subject = wired()
    for name, stream in (("r1", "door"), ("r2", "yard")):
        ask(subject, stream, rows(1), request_id=name)
    labels = [Label(name, 0, 1) for name in ("r1", "r2", "nobody")]

    assert [each.stream for each in subject.commands.whose(labels, bool)] == ["door", "yard"]
    assert [each.stream for each in subject.commands.whose(labels, "door".__eq__)] == ["door"]


def test_labels_of_what_was_forgotten_since_it_was_found_are_unknown():
    subject = taught()
    for name in ("door", "yard"):
        ask(subject, name, rows(1), request_id=name)
    known = subject.commands.whose([Label("door", 0, 1), Label("yard", 0, 1)], bool)
    subject.commands.delete("door", WHO)

    told = subject.commands.label(known)

    assert (told["counted"], told["unknown"], list(told["streams"])) == (1, 1, ["yard"])


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_must_be_a_class(label):
    subject = taught()
    ask(subject, "door", rows(1), request_id="r1")

    with pytest.raises(BadRequest, match="the model has 4, counted from 0"):
        subject.commands.whose([Label("r1", 0, 1), Label("r1", 0, label)], bool)


# All at once
def test_all_streams_are_switched_also_those_on_disk_and_to_come():
    subject = taught(named={"lab": {"mode": "inline"}})
    ask(subject, "lab", rows(2))
    ask(subject, "yard", rows(1))
    subject.commands.evict("yard")

    subject.commands.change_all("off", WHO)
    ask(subject, "new", rows(1))

    assert {stream["name"]: stream["mode"] for stream in subject.commands.list().streams} == dict.fromkeys(
        ("door", "lab", "new", "yard"), "off"
    )
    assert np.array_equal(images_of(subject), frozen(rows(4, 99)))

    subject.commands.change_all(None, WHO)
    modes = {name: subject.commands.read(name)["mode"] for name in ("door", "lab", "new", "yard")}
    assert modes == {"door": "after", "lab": "inline", "new": "after", "yard": "after"}


def test_streams_are_listed_in_pages():
    subject = wired()
    for name in "dbca":
        ask(subject, name, rows(1))
    subject.commands.evict("b")

    def page(**keys: object) -> list[str]:
        return [summary["name"] for summary in subject.commands.list(**keys).streams]

    assert page() == ["a", "b", "c", "d"]
    assert page(limit=2) == ["a", "b"]
    assert page(limit=2, after="b") == ["c", "d"]
    assert page(wanted=lambda summary: not summary.in_memory) == ["b"]
