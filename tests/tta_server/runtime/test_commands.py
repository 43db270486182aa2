"""What operators may do to streams."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.states import bits
from tests.tta_server.runtime.fakes import WHO, Scripted, Wired, ask, is_due, learn_all, rows, tiny, value, wired
from tta_server.errors import BadRequest, Conflict, NotFound, Overloaded
from tta_server.runtime.commands import Label
from tta_server.settings import AdapterSettings

PATIENCE_S = 30


def frozen(images: np.ndarray) -> np.ndarray:
    return tiny().forward(torch.from_numpy(images).float() / 255).logits.softmax(1).numpy()


def taught(count: int = 3, **keys: object) -> Wired:
    """Return a worker whose stream 'door' has learnt from so many windows."""
    subject = wired(**keys)
    for seed in range(count):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)
    return subject


def images_of(subject: Wired, name: str = "door") -> np.ndarray:
    return ask(subject, name, rows(4, 99)).probabilities


# Create
def test_a_created_stream_is_there_before_its_first_request():
    subject = wired()

    told = subject.commands.create("door", "shadow", AdapterSettings(name="bn"), WHO)

    assert (told["mode"], told["adapter"], told["state_version"], told["images"]) == ("shadow", "bn", 0, 0)
    assert subject.commands.list()[0]["name"] == "door"


def test_a_created_stream_has_the_configured_mode_unless_told_otherwise():
    subject = wired(named={"door": {"mode": "inline"}})

    assert subject.commands.create("door", None, None, WHO)["mode"] == "inline"
    assert subject.commands.create("yard", None, None, WHO)["mode"] == "after"


def test_a_stream_is_created_once_also_if_it_is_on_disk():
    subject = taught()
    subject.commands.evict("door")

    with pytest.raises(Conflict, match="exists already"):
        subject.commands.create("door", None, None, WHO)


def test_no_stream_is_created_beyond_the_limit():
    subject = wired(max_streams=1)
    subject.commands.create("door", None, None, WHO)

    with pytest.raises(Overloaded):
        subject.commands.create("yard", None, None, WHO)


@pytest.mark.parametrize(
    "section",
    [
        AdapterSettings(name="nothing"),
        AdapterSettings(name="tent", settings={"lr": "fast"}),
        AdapterSettings(name="adanpc"),
    ],
)
def test_a_stream_is_not_created_with_an_adapter_that_does_not_fit(section):
    subject = wired()

    with pytest.raises(ValueError, match=section.name):
        subject.commands.create("door", None, section, WHO)

    assert subject.commands.list() == []


# Change
def test_a_mode_is_switched_and_what_was_learnt_stays():
    subject = taught()
    learnt, state = images_of_only(subject), bits(subject.stream("door").state)

    subject.commands.change("door", "off", None, WHO)
    assert np.array_equal(images_of_only(subject), frozen(rows(4, 99)))

    subject.commands.change("door", "after", None, WHO)
    assert bits(subject.stream("door").state) == state
    assert np.array_equal(images_of_only(subject), learnt)
    assert not np.array_equal(learnt, frozen(rows(4, 99)))


def test_a_window_that_waits_is_learnt_from_only_while_the_mode_says_so():
    subject = wired()
    ask(subject, "door", rows(4))

    subject.commands.change("door", "off", None, WHO)
    assert not is_due(subject)

    subject.commands.change("door", "after", None, WHO)
    learn_all(subject)
    assert subject.steps() == {"door": 1}


def test_other_settings_of_the_same_layout_keep_the_state_and_its_version():
    subject = taught()
    before = bits(subject.stream("door").state)

    told = subject.commands.change("door", None, AdapterSettings(name="tent", settings={"lr": 1e-4}), WHO)

    assert bits(subject.stream("door").state) == before
    assert (told["state_version"], told["steps"], told["versions_kept"]) == (3, 3, [1, 2, 3])
    assert subject.stream("door").method.adapter.lr == 1e-4


@pytest.mark.parametrize(
    "section", [AdapterSettings(name="bn"), AdapterSettings(name="tent", settings={"optimizer": "adam"})]
)
def test_another_layout_starts_from_the_source_under_a_new_version(section):
    subject = taught()
    ask(subject, "door", rows(2))

    told = subject.commands.change("door", None, section, WHO)

    assert (told["state_version"], told["steps"], told["versions_kept"]) == (4, 0, [])
    assert (told["images_in_window"], told["dropped"]) == (0, {"reset": 2})
    assert np.array_equal(images_of(subject), frozen(rows(4, 99)))
    learn_all(subject)
    assert subject.steps() == {"door": 1}


def test_settings_that_do_not_fit_change_nothing():
    subject = taught()
    before = subject.commands.read("door")

    with pytest.raises(ValueError, match="has no setting 'speed'"):
        subject.commands.change("door", "off", AdapterSettings(name="tent", settings={"speed": 1}), WHO)

    assert subject.commands.read("door") == before


def test_a_mode_that_is_set_lifts_a_freeze():
    subject = taught(judge=Scripted(("rollback",)))
    assert subject.commands.read("door")["frozen"]

    told = subject.commands.change("door", "after", None, WHO)

    assert (told["mode"], told["frozen"]) == ("after", "")
    assert value(subject.metrics, "tta_stream_frozen", stream="door") == 0


# Rollback
def test_a_rollback_gives_exactly_the_answers_of_its_version():
    subject = wired(window=4)
    said = {}
    for seed in range(4):
        said[subject.commands.read("door")["state_version"] if seed else 0] = images_of_only(subject)
        ask(subject, "door", rows(4, seed))
        learn_all(subject)

    for version in (2, 1, 3):
        told = subject.commands.rollback("door", version, WHO)
        assert told["steps"] == version
        assert np.array_equal(images_of_only(subject), said[version])
    assert told["state_version"] == 7


def images_of_only(subject: Wired) -> np.ndarray:
    """Answer without leaving anything to learn from."""
    answer = ask(subject, "door", rows(4, 99)).probabilities
    subject.worker.shed(time.monotonic())
    return answer


def test_a_rollback_without_a_version_goes_to_the_newest_other_one_that_passed():
    subject = taught(judge=Scripted(("pass", "pass", "pass")))

    assert subject.commands.rollback("door", None, WHO)["steps"] == 2


def test_a_rollback_to_what_is_not_kept_says_what_is():
    subject = taught()

    with pytest.raises(NotFound, match=r"keeps no version 9; it keeps 1, 2, 3"):
        subject.commands.rollback("door", 9, WHO)
    with pytest.raises(NotFound, match="that passed the guard's complete check"):
        subject.commands.rollback("door", None, WHO)

    assert subject.stream("door").version == 3


def test_a_rollback_works_on_a_stream_that_is_on_disk():
    subject = taught()
    expected = bits(subject.stream("door").history.find(1).state)
    subject.commands.evict("door")

    subject.commands.rollback("door", 1, WHO)

    assert bits(subject.stream("door").state) == expected


# Snapshots
def test_a_snapshot_can_be_restored_after_a_reset(tmp_path: Path):
    subject = taught(storage=str(tmp_path))
    before = bits(subject.stream("door").state)
    snapshot = subject.commands.snapshot("door", "before the storm").result(PATIENCE_S)
    subject.commands.reset("door", WHO)

    told = subject.commands.restore("door", snapshot, WHO)

    assert bits(subject.stream("door").state) == before
    assert (told["state_version"], told["steps"]) == (5, 3)
    assert subject.kept.store.snapshots("door")[0].note == "before the storm"


def test_an_unknown_snapshot_is_not_found():
    with pytest.raises(NotFound, match="has no snapshot 'x'"):
        taught().commands.restore("door", "x", WHO)


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
    subject.commands.snapshot("door", "").result(PATIENCE_S)
    ask(subject, "door", rows(4), request_id="r1")
    if on_disk:
        subject.commands.evict("door")

    subject.commands.delete("door", WHO)

    assert subject.kept.keeper.flush(PATIENCE_S)
    assert subject.commands.list() == []
    assert not list((tmp_path / "streams").glob("door*"))
    assert 'stream="door"' not in subject.metrics.render().decode()
    assert subject.commands.label([Label("r1", 0, 0)])["unknown"] == 1
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

    assert subject.commands.list() == []


# Labels
def test_labels_give_the_exact_accuracy_of_both_models():
    subject = taught()
    answer = ask(subject, "door", rows(4, 99), request_id="r1")
    right = answer.probabilities.argmax(1)

    told = subject.commands.label([Label("r1", place, int(right[place])) for place in range(4)])

    source = float((frozen(rows(4, 99)).argmax(1) == right).mean())
    assert (told["counted"], told["unknown"]) == (4, 0)
    assert told["streams"]["door"]["adapted"]["accuracy"] == 1
    assert told["streams"]["door"]["source"]["accuracy"] == source
    assert value(subject.metrics, "tta_labelled_accuracy_ratio", stream="door", variant="adapted") == 1
    assert subject.commands.read("door")["labelled"] == told["streams"]["door"]


def test_labels_of_unknown_requests_are_counted_as_such():
    told = taught().commands.label([Label("nobody", 0, 1)])

    assert told == {"counted": 0, "unknown": 1, "streams": {}}


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_must_be_a_class(label):
    subject = taught()
    ask(subject, "door", rows(1), request_id="r1")

    with pytest.raises(BadRequest, match="the model has 4, counted from 0"):
        subject.commands.label([Label("r1", 0, 1), Label("r1", 0, label)])

    assert subject.commands.read("door")["labelled"]["adapted"] == {"labels": 0}


# All at once
def test_all_streams_are_switched_also_those_on_disk_and_to_come():
    subject = taught(named={"lab": {"mode": "inline"}})
    ask(subject, "lab", rows(2))
    ask(subject, "yard", rows(1))
    subject.commands.evict("yard")

    subject.commands.change_all("off", WHO)
    ask(subject, "new", rows(1))

    assert {stream["name"]: stream["mode"] for stream in subject.commands.list()} == dict.fromkeys(
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
        return [summary["name"] for summary in subject.commands.list(**keys)]

    assert page() == ["a", "b", "c", "d"]
    assert page(limit=2) == ["a", "b"]
    assert page(limit=2, after="b") == ["c", "d"]
    assert page(wanted=lambda summary: not summary.in_memory) == ["b"]
