"""A stream goes on from a file that a newer server wrote: only what this one does not understand is left out."""

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.runtime.fakes import close, hard_tent, tiny, wired
from tests.tta_server.streams.files.test_stored import damaged, is_served, started
from tta_server.adapters.checkpoint import dump_state, load_beside, load_state, read_about, state_digest
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.disk import Disk
from tta_server.storage.manifest import Saved, dump_manifest, load_manifest
from tta_server.storage.store import Store
from tta_server.streams.files.stored import Stored
from tta_server.streams.files.watched import watch_of
from tta_server.telemetry.closed_sets import DRIFT_SCORES

FILE = Path(__file__).with_name("state_schema_1.safetensors")
"""A stream's file as a server wrote it, with something of everything. A test that fails with it would set streams aside
of whoever upgrades: mend the reader. It was made by `python -m tests.tta_server.streams.write_state`."""
AUXILIARY = (
    *("mode", "images", "learnt", "dropped", "serve", "restores", "entropy_ratio", "confidence", "verdicts"),
    *("window", "recent", "title", "since", "lately", "drift"),
)
NEW = st.sampled_from(["of_a_newer_server", -1, 1.5, True, None, [], ["x"], {}, {"x": "y"}, [{}], float("nan")])


def about() -> dict:
    return read_about(FILE.read_bytes())["about"]


def places(at: object, path: tuple = ()) -> list[tuple]:
    """Return where something stands in a record, lists as wholes."""
    if not isinstance(at, dict):
        return [path]
    return [path, *(place for key, value in at.items() for place in places(value, (*path, key)))]


def put(record: dict, place: tuple, value: object) -> dict:
    changed = copy.deepcopy(record)
    at = changed
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return changed


@pytest.fixture
def root(tmp_path):
    """Return a place in which the file is the only stream's."""
    store = Store(str(tmp_path / "kept"))
    store.claim()
    store.save("kept", 3, FILE.read_bytes())
    store.release()
    yield tmp_path / "kept"
    close()


def test_a_file_as_it_was_written_is_read_whole(root, caplog):
    with caplog.at_level(logging.WARNING):
        subject = wired(storage=str(root))
        found = subject.commands.read("kept")

    assert not caplog.records
    assert Stored.read(about()).written() == about()
    assert (found["trouble"], found["steps"], found["state_version"]) == ("", 3, 3)
    stream = subject.stream("kept")
    assert state_digest(stream.state) == state_digest(load_state(hard_tent(), tiny(), FILE.read_bytes()))
    assert (stream.drift.state, stream.drift.because, len(stream.drift.windows)) == ("drift", "entropy_ratio", 2)
    assert len(stream.window) == 2
    assert is_served(subject, "kept")


@settings(max_examples=300, deadline=None)
@given(data=st.data(), value=NEW)
def test_whatever_is_new_in_what_is_not_the_state_is_left_out_alone(data, value):
    record = about()
    part = data.draw(st.sampled_from(AUXILIARY))
    place = data.draw(st.sampled_from(places(record[part], (part,))))

    found = Stored.read(put(record, place, value)).written()

    assert {name: found[name] for name in record if name != part} == {
        name: record[name] for name in record if name != part
    }


@settings(max_examples=100, deadline=None)
@given(data=st.data(), value=NEW)
def test_fields_that_are_new_cost_nothing_wherever_they_are(data, value):
    record = about()
    holders = [place for place in places(record) if isinstance(_at(record, place), dict)]
    place = data.draw(st.sampled_from([each for each in holders if each != ("adapter", "settings")]))

    found = Stored.read(put(record, (*place, "of_a_newer_server"), value)).written()

    assert {name: found[name] for name in record if name not in place} == {
        name: record[name] for name in record if name not in place
    }


def _at(record: dict, place: tuple) -> object:
    at: object = record
    for key in place:
        assert isinstance(at, dict)
        at = at[key]
    return at


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("drift", "because"), "of_a_newer_server"),
        (("drift", "state"), "of_a_newer_server"),
        (("drift", "evidence", "each", "of_a_newer_server"), 1.0),
        (("drift", "learnt", "scores", "of_a_newer_server"), 1.0),
        (("drift", "names"), [*about()["drift"]["names"][:-1], "of_a_newer_server"]),
        (("dropped", "of_a_newer_server"), 3),
        (("verdicts",), [{"verdict": "of_a_newer_server", "cause": "of_a_newer_server"}]),
        (("mode",), "of_a_newer_server"),
        (("serve",), "of_a_newer_server"),
        (("window",), [{"name": "of_a_newer_server"}]),
        (("recent",), ["not hex"]),
        (("drift", "since"), "not a time"),
        (("drift",), "of_a_newer_server"),
        (("lately",), 7),
    ],
)
def test_a_name_that_is_new_costs_no_stream(tmp_path, root, caplog, place, value):
    changed = damaged(FILE.read_bytes(), ("about",), put(about(), place, value), delete=False)

    subject = started(root, "kept", changed)
    found = subject.commands.read("kept")

    assert (found["trouble"], found["steps"]) == ("", 3)
    assert is_served(subject, "kept") or place in (("mode",), ("serve",))
    logged = [record for record in caplog.records if "left out" in record.message]
    assert len(logged) == (place[0] not in ("dropped", "verdicts") and place != ("drift", "names"))


def test_an_order_that_is_not_understood_has_the_frozen_model_answer(root):
    changed = put(put(about(), ("mode",), "of_a_newer_server"), ("mode_s",), 5.0)

    subject = started(root, "kept", damaged(FILE.read_bytes(), ("about",), changed, delete=False))

    assert subject.commands.read("kept")["mode"] == "off"
    assert Stored.read(put(about(), ("serve",), "of_a_newer_server")).serve == "source"


def test_a_score_that_is_new_loses_its_own_column_alone():
    stored, beside = Stored.read(about()).drift, load_beside(FILE.read_bytes())
    whole = watch_of(stored, beside)
    names = ("of_a_newer_server", *stored.names[1:])

    found = watch_of(replace(stored, names=names), beside)

    assert found.names == whole.names[1:] == stored.names[1:]
    assert np.array_equal(found.windows, np.delete(whole.windows, 3, axis=1))
    assert set(whole.names) == set(DRIFT_SCORES)


def test_windows_with_a_state_that_is_new_are_left_out():
    stored, beside = Stored.read(about()).drift, load_beside(FILE.read_bytes())
    beside["drift/windows"][0, 2] = 17

    assert len(watch_of(stored, beside).windows) == len(beside["drift/windows"]) - 1


def test_a_count_that_is_new_is_left_out():
    adapter, backbone = hard_tent(), tiny()
    state = adapter.init(backbone)
    data = dump_state(adapter, backbone, state | {"count/of_a_newer_server": next(iter(state.values()))})

    assert state_digest(load_state(adapter, backbone, data)) == state_digest(state)


def test_lines_of_the_audit_log_that_are_new_are_told(tmp_path, caplog):
    audit = Audit(Disk(tmp_path))
    audit.append([Entry("kept", "commit", 1, 2), Entry("kept", "of_a_newer_server", 2, 9)])  # type: ignore[arg-type]

    assert [entry.event for entry in audit.entries("kept")] == ["commit", "of_a_newer_server"]
    assert not caplog.records


def test_what_is_new_in_a_manifest_costs_no_note():
    saved = Saved("snapshot-00000001-v1-" + "0" * 16, "snapshot", 1, "0" * 64, 5, "2026-01-01", "before the fog")
    manifest = json.loads(dump_manifest("kept", [saved]))
    manifest["entries"][0]["of_a_newer_server"] = {}

    assert list(load_manifest(json.dumps(manifest).encode()).values()) == [saved]
