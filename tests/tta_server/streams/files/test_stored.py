"""Whatever the file of one stream holds, the server starts and serves the others."""

import dataclasses
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.states import bits
from tests.tta_server.runtime.fakes import WHO, Scripted, Wired, ask, close, learn_all, rows, value, wired
from tta_server.adapters.checkpoint import read_about
from tta_server.errors import SetAside
from tta_server.settings import AdapterSettings
from tta_server.storage.store import Store
from tta_server.streams.files.stored import MOST_STEPS, SCHEMA, Stored, StoredImage, StoredState

HEADER = ("schema", "adapter", "settings", "model", "digest", "about")
PLACES = [
    *((name,) for name in HEADER),
    *(("about", field.name) for field in dataclasses.fields(Stored)),
    *(("about", "history", 0, field.name) for field in dataclasses.fields(StoredState)),
    *(("about", "window", 0, field.name) for field in dataclasses.fields(StoredImage)),
    ("about", "adapter", "name"),
    ("about", "adapter", "settings"),
]
HUGE = "a number of more digits than Python reads"
WRONG = [
    None,
    "x",
    "",
    -1,
    0,
    1.5,
    True,
    [],
    ["x"],
    {},
    {"x": 1},
    [{}],
    HUGE,
    float("nan"),
    float("inf"),
    MOST_STEPS + 1,
]


@cache
def folder() -> Path:
    """Return a folder with three streams that have something of everything; one of them has an adapter of its own."""
    made = Path(tempfile.mkdtemp(prefix="tta-test-"))
    subject = wired(storage=str(made), duplicate_memory=10)
    subject.commands.create("own", None, subject.method("tent", lr=0.05), WHO)
    for name in ("bad", "own", "good"):
        for seed in range(3):
            ask(subject, name, rows(5, seed), client="x")
            learn_all(subject)
    subject.commands.save()
    close()
    return made


def damaged(data: bytes, place: tuple, wrong: object, delete: bool) -> bytes:
    """Return a file whose header is changed in one place."""
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["tta_state"])
    at = header
    for key in place[:-1]:
        at = at[key]
    if delete:
        del at[place[-1]]
    else:
        at[place[-1]] = wrong
    text = json.dumps(header).replace(json.dumps(HUGE), "1" * 5000)
    outer["__metadata__"]["tta_state"] = text
    head = json.dumps(outer).encode()
    return len(head).to_bytes(8, "little") + head + data[8 + length :]


def started(place: Path, name: str, data: bytes) -> Wired:
    """Return a server over a copy of the folder in which one stream's newest file is `data`."""
    store = Store(str(place))
    store.claim()
    version = store.states(name)[-1].version
    store.delete(name)
    store.save(name, version, data)
    store.release()
    return wired(storage=str(place), duplicate_memory=10)


def file_of(place: Path, name: str) -> bytes:
    data = Store(str(place)).load(name)
    assert data is not None
    return data


def is_served(subject: Wired, name: str) -> bool:
    """Say whether a stream goes on from what it had learnt, and learns."""
    before = subject.commands.read(name)
    answer = ask(subject, name, rows(4, 50))
    learn_all(subject)
    return answer.adapted and subject.commands.read(name)["steps"] > before["steps"]


def is_set_aside(subject: Wired, name: str) -> bool:
    """Ask a stream, and say whether it is set aside; it may fail in no other way."""
    try:
        ask(subject, name, rows(4))
    except SetAside:
        return True
    return False


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["bad", "own"]),
    place=st.sampled_from(PLACES),
    wrong=st.sampled_from(WRONG),
    delete=st.booleans(),
)
def test_whatever_field_is_missing_or_wrong_the_other_streams_are_served(name, place, wrong, delete):
    with tempfile.TemporaryDirectory() as copy:
        root = Path(copy) / "kept"
        shutil.copytree(folder(), root)
        whole = file_of(root, name)
        about = read_about(whole)["about"]
        if place[:2] == ("about", "adapter") and len(place) > 2 and about["adapter"] is None:
            return
        spoilt = damaged(whole, place, wrong, delete)
        subject = started(root, name, spoilt)
        try:
            listed = {summary["name"]: summary["trouble"] for summary in subject.commands.list().streams}
            assert set(listed) == {"bad", "own", "good"}
            for other in {"bad", "own", "good"} - {name}:
                assert not listed[other]
                assert is_served(subject, other)
            if is_set_aside(subject, name):
                assert subject.kept.keeper.flush(30)
                assert Store(str(root)).load(name) == spoilt
        finally:
            close()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Stored)])
def test_a_file_of_an_older_server_that_lacks_a_field_is_read(tmp_path, field):
    root = tmp_path / "kept"
    shutil.copytree(folder(), root)

    subject = started(root, "bad", damaged(file_of(root, "bad"), ("about", field), None, delete=True))

    assert not subject.commands.read("bad")["trouble"]
    assert is_served(subject, "bad")


def test_a_file_from_before_records_had_a_version_is_read(tmp_path):
    root = tmp_path / "kept"
    shutil.copytree(folder(), root)
    older = damaged(file_of(root, "bad"), ("about", "schema"), None, delete=True)
    older = damaged(older, ("about", "summary"), {"name": "bad", "steps": 3}, delete=False)

    subject = started(root, "bad", older)

    assert is_served(subject, "bad")
    assert subject.stream("bad").history.versions[:3] == [1, 2, 3]


def test_a_file_of_a_newer_server_is_set_aside_and_says_so(tmp_path):
    root = tmp_path / "kept"
    shutil.copytree(folder(), root)

    subject = started(root, "bad", damaged(file_of(root, "bad"), ("about", "schema"), SCHEMA + 1, delete=False))

    trouble = {summary["name"]: summary["trouble"] for summary in subject.commands.list().streams}
    assert "schema" in trouble["bad"]
    assert not trouble["good"]


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-5], lambda data: b"", lambda data: b"no state", lambda data: data[:8] + data]
)
def test_a_stream_whose_file_is_damaged_is_set_aside_and_reported(tmp_path, spoil):
    root = tmp_path / "kept"
    shutil.copytree(folder(), root)
    spoilt = spoil(file_of(root, "bad"))

    subject = started(root, "bad", spoilt)

    (summary,) = subject.commands.list(wanted=lambda each: bool(each.trouble)).streams
    assert (summary["name"], summary["in_memory"]) == ("bad", False)
    assert value(subject.metrics, "tta_streams_set_aside") == 1
    entry = [line for line in subject.audited() if line.event == "aside"][-1]
    assert (entry.stream, entry.reason) == ("bad", summary["trouble"])
    for call in (lambda: ask(subject, "bad", rows(1)), lambda: subject.commands.read("bad")):
        with pytest.raises(SetAside, match=r"stream 'bad' is set aside: .*restart the server to try again, or delete"):
            call()
    assert Store(str(root)).load("bad") == spoilt


def test_a_file_whose_bytes_are_damaged_is_not_taken_for_none(tmp_path):
    root = tmp_path / "kept"
    shutil.copytree(folder(), root)
    for path in (root / "streams/bad").glob("state-*"):
        path.write_bytes(path.read_bytes()[:-1])

    subject = wired(storage=str(root))

    trouble = {summary["name"]: summary["trouble"] for summary in subject.commands.list().streams}
    assert "none of its files can be read" in trouble["bad"]


def test_a_stream_that_is_set_aside_can_be_deleted_and_begins_anew(tmp_path):
    root = tmp_path / "kept"
    shutil.copytree(folder(), root)
    subject = started(root, "bad", b"no state")

    subject.commands.delete("bad", WHO).result(30)

    assert ask(subject, "bad", rows(1)).version == 0
    assert value(subject.metrics, "tta_streams_set_aside") == 0


def test_a_stream_of_other_weights_among_many_that_fit_is_set_aside(tmp_path):
    root = tmp_path / "kept"
    shutil.copytree(folder(), root)

    subject = started(root, "bad", damaged(file_of(root, "bad"), ("digest",), "0" * 64, delete=False))

    trouble = {summary["name"]: summary["trouble"] for summary in subject.commands.list().streams}
    assert "belongs to model 'tiny' with weights 000000000000" in trouble["bad"]
    assert not trouble["good"]


def test_a_record_comes_back_as_it_was_written():
    record = Stored(
        schema=SCHEMA,
        stream="door",
        mode="shadow",
        adapter=AdapterSettings(name="tent", settings={"lr": 0.1, "betas": [0.5, 0.5]}),
        version=7,
        dropped={"reset": 3},
        entropy_ratio=0.5,
        history=[StoredState(3, 2, True)],
        window=[StoredImage("00", "ann", 1.5)],
        verdicts=[{"verdict": "commit", "version_before": 1}],
    )

    assert Stored.read(json.loads(json.dumps(record.written()))) == record


def test_a_stream_with_a_guards_memory_is_written_with_the_version_of_its_record(tmp_path):
    subject = wired(storage=str(tmp_path), judge=Scripted(("pass",)))
    ask(subject, "door", rows(4))
    learn_all(subject)

    about = read_about(subject.commands.states.export("door"))["about"]

    assert about["schema"] == SCHEMA
    assert bits(subject.stream("door").memory)
