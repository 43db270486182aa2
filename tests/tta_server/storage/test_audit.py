import contextlib
import json
import tempfile
from datetime import datetime
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tta_server.storage.crashes import Crash, armed
from tta_server.storage.audit import EVENTS, Audit, Entry
from tta_server.storage.failpoints import POINTS
from tta_server.storage.places import open_files

FUZZ = settings(deadline=None, max_examples=100)
entries = st.builds(
    Entry,
    stream=st.sampled_from(["camera", "door"]),
    event=st.sampled_from(EVENTS),
    version_before=st.integers(0, 2**40),
    version_after=st.integers(0, 2**40),
    cause=st.text(max_size=5),
    reason=st.text(max_size=20),
    batch=st.none() | st.text("0123456789abcdef", max_size=8),
    rows=st.integers(0, 64),
    who=st.text(max_size=5),
    extra=st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2),
)


@pytest.fixture(params=["disk", "memory"])
def audit(request, tmp_path) -> Audit:
    """A log in a folder, and in what stands for an object store."""
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        fsspec.filesystem("memory").pseudo_dirs[:] = [""]
        return Audit(open_files("memory://bucket/tta"))
    return Audit(open_files(str(tmp_path)))


def commit(version: int, stream: str = "camera") -> Entry:
    return Entry(stream, "commit", version - 1, version)


def test_an_empty_log_has_no_entries(audit):
    audit.append([])

    assert list(audit.entries()) == []
    assert audit.newest() == []


def test_a_line_is_json_with_every_field(tmp_path):
    Audit(open_files(str(tmp_path))).append([Entry("camera", "reset", 3, 4, who="operator", extra={"a": 1})])

    (line,) = (tmp_path / "audit/00000001.jsonl").read_text().splitlines()
    content = json.loads(line)

    assert (content["stream"], content["event"], content["who"]) == ("camera", "reset", "operator")
    assert (content["version_before"], content["version_after"], content["extra"]) == (3, 4, {"a": 1})
    assert datetime.fromisoformat(content["time"]).utcoffset().total_seconds() == 0
    assert {"cause", "reason", "batch", "rows", "state"} <= content.keys()


@FUZZ
@given(written=st.lists(st.lists(entries, max_size=4), max_size=5), segment_bytes=st.sampled_from([1, 300, 10**6]))
def test_what_is_appended_is_read_in_order(written, segment_bytes):
    with tempfile.TemporaryDirectory() as folder:
        for part in written:
            Audit(open_files(folder), segment_bytes).append(part)  # each as after a restart
        audit = Audit(open_files(folder), segment_bytes)
        everything = [entry for part in written for entry in part]

        assert list(audit.entries()) == everything
        assert list(audit.entries("door")) == [entry for entry in everything if entry.stream == "door"]
        assert audit.newest("camera", 3) == [entry for entry in reversed(everything) if entry.stream == "camera"][:3]


def test_lines_of_a_streams_domains_come_with_its_own_if_asked_for(audit):
    names = ["gate", "gate@1", "gate2", "gate2@1", "gate@10", "gate"]
    audit.append([Entry(name, "mode", i, i) for i, name in enumerate(names)])

    assert [entry.stream for entry in audit.entries("gate")] == ["gate", "gate"]
    assert [entry.stream for entry in audit.entries("gate", domains=True)] == ["gate", "gate@1", "gate@10", "gate"]
    assert [entry.stream for entry in audit.entries("gate@1", domains=True)] == ["gate@1"]


def test_a_reason_with_a_line_break_stays_one_line(audit):
    entry = Entry("camera", "failed", 1, 1, reason="a\nb\r\u2028{}\0")

    audit.append([entry])

    assert list(audit.entries()) == [entry]


def test_old_segments_go(tmp_path):
    audit = Audit(open_files(str(tmp_path)), segment_bytes=1, keep=3)

    for version in range(1, 8):
        audit.append([commit(version)])

    assert [entry.version_after for entry in audit.entries()] == [5, 6, 7]
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == [f"0000000{n}.jsonl" for n in (5, 6, 7)]


def test_a_segment_grows_until_it_is_full(tmp_path):
    audit = Audit(open_files(str(tmp_path)), segment_bytes=1000)

    for version in range(1, 30):
        audit.append([commit(version)])
    sizes = [path.stat().st_size for path in sorted((tmp_path / "audit").iterdir())]

    assert len(sizes) > 3
    assert all(1000 <= size < 1400 for size in sizes[:-1])


@FUZZ
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_torn_last_line_costs_that_line_and_not_the_next(share):
    with tempfile.TemporaryDirectory() as folder:
        audit = Audit(open_files(folder))
        audit.append([commit(1), commit(2)])
        path = Path(folder) / "audit/00000001.jsonl"
        first, second = path.read_bytes().splitlines(keepends=True)

        path.write_bytes(first + second[: int(len(second) * share)])

        left = [entry.version_after for entry in audit.entries()]
        assert left in ([1], [1, 2])  # 2 if but its newline is gone
        audit.append([commit(3)])
        assert [entry.version_after for entry in audit.entries()] == [*left, 3]


def test_a_line_that_lacks_its_newline_only_is_there_before_and_after_the_next(tmp_path):
    audit = Audit(open_files(str(tmp_path)))
    audit.append([commit(1)])
    path = tmp_path / "audit/00000001.jsonl"
    path.write_bytes(path.read_bytes()[:-1])

    assert [entry.version_after for entry in audit.entries()] == [1]
    audit.append([commit(2)])
    assert [entry.version_after for entry in audit.entries()] == [1, 2]


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("audit.")])
@pytest.mark.parametrize("hit", [1, 2, 3])
def test_a_crash_in_an_append_costs_no_earlier_line(tmp_path, point, hit):
    audit, done = Audit(open_files(str(tmp_path))), 0
    with armed(f"{point}={hit}"), contextlib.suppress(Crash):
        for version in range(1, 9):
            audit.append([commit(version)])
            done = version

    again = Audit(open_files(str(tmp_path)))
    again.append([commit(9)])

    found = [entry.version_after for entry in again.entries()]
    assert done == hit - 1
    assert found in ([*range(1, done + 1), 9], [*range(1, done + 2), 9])


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("audit.")])
@pytest.mark.parametrize("hit", [1, 2])
def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, point, hit):
    audit = Audit(open_files(str(tmp_path)))
    with armed(f"{point}={hit}:enospc"), contextlib.suppress(OSError):
        for version in (1, 2):
            audit.append([commit(version), commit(version)])
    before = [entry.version_after for entry in audit.entries()]

    audit.append([commit(3)])

    assert before == [1, 1] * (hit - 1)
    assert [entry.version_after for entry in audit.entries()] == [*before, 3]


@FUZZ
@given(junk=st.lists(st.binary(max_size=30) | st.just(b"[" * 100_000) | st.just(b"{}") | st.just(b"null"), max_size=5))
def test_damaged_lines_are_left_out(junk):
    with tempfile.TemporaryDirectory() as folder:
        audit = Audit(open_files(folder))
        path = Path(folder) / "audit/00000001.jsonl"
        path.parent.mkdir()
        path.write_bytes(b"".join(line.replace(b"\n", b"") + b"\n" for line in junk))

        audit.append([commit(1)])

        assert list(audit.entries()) == [next(iter(audit.newest()))]


def test_a_line_with_fields_of_a_later_version_is_still_read(tmp_path):
    (tmp_path / "audit").mkdir()
    line = json.dumps(json.loads(commit(3).as_line()) | {"colour": "red"}) + "\n"
    (tmp_path / "audit/00000001.jsonl").write_text(line)

    assert [entry.version_after for entry in Audit(open_files(str(tmp_path))).entries()] == [3]


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/notes.jsonl").write_text("{}\n")
    audit = Audit(open_files(str(tmp_path)), segment_bytes=1, keep=1)

    audit.append([commit(1)])
    audit.append([commit(2)])

    assert [entry.version_after for entry in audit.entries()] == [2]
    assert (tmp_path / "audit/notes.jsonl").exists()
