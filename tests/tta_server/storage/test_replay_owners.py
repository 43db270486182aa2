"""A stream that went from server to server, or whose lines tell of what came to nothing, is replayed all the same."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.states import bits
from tests.tta_server.storage.recorded import Recorded
from tta_server import adapters
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.files import Files
from tta_server.storage.places import open_files
from tta_server.storage.replay import replay


@pytest.fixture
def stream(backbone, batches) -> Recorded:
    return Recorded(adapters.create("tent", lr=1e-2), backbone, batches)


@pytest.fixture
def files(tmp_path) -> Files:
    return open_files(str(tmp_path))


def without(*lost: str):
    """Return what gives the windows of a stream but for those that are lost."""

    def window(digest: str):
        if digest in lost:
            raise ValueError(f"window {digest} is not kept")
        return batches[digest]

    batches: dict[str, object] = {}
    return window, batches


def lacking(stream: Recorded, *lost: str):
    """Return how the steps of a stream are taken again where some of its windows are lost."""
    window, batches = without(*lost)
    batches |= {str(index): batch for index, batch in enumerate(stream.batches)}
    return replace(stream.lesson, window=window)


def test_versions_of_a_shared_place_begin_with_the_owner(stream):
    stream.take(1)
    stream.commit(0)
    stream.commit(1)

    proof = replay(stream.entries, stream.lesson)

    assert bits(proof.state) == bits(stream.state)
    assert (proof.shown, proof.doubts) == (2, [])
    assert bits(replay(stream.entries, stream.lesson, until=1_000_001).state) == bits(stream.states[1_000_001])


def test_each_owner_goes_on_from_what_the_one_before_wrote(stream):
    stream.take(1)
    for generation, batch in ((2, 0), (3, 1), (4, 2)):
        stream.commit(batch)
        stream.load(stream.version, generation)
    stream.commit(3)

    assert bits(replay(stream.entries, stream.lesson).state) == bits(stream.state)


def test_lines_of_older_servers_do_not_say_what_an_owner_loaded(stream):
    stream.take(1)
    stream.commit(0)
    stream.load(stream.version, 2)
    stream.entries[-1] = replace(stream.entries[-1], state=None, extra={"to": 2_000_000})
    stream.commit(1)

    assert bits(replay(stream.entries, stream.lesson).state) == bits(stream.state)


def test_a_step_that_was_lost_with_its_window_is_passed_over_and_told(stream):
    stream.take(1)
    for batch in (0, 1, 2):
        stream.commit(batch)
    stream.load(1_000_002, 2)
    stream.commit(3)

    proof = replay(stream.entries, lacking(stream, "2"))

    assert bits(proof.state) == bits(stream.state)
    assert proof.shown == 4
    assert [doubt.wrong for doubt in proof.doubts] == [False]
    assert "its window 2 was lost as the step was" in proof.doubts[0].reason


def test_a_lost_step_that_nobody_says_is_lost_is_missed(stream):
    stream.take(1)
    stream.commit(0)
    stream.commit(1)

    with pytest.raises(ValueError, match="version 1000002 of stream 'camera': window 1 is not kept"):
        replay(stream.entries, lacking(stream, "1"))


def test_a_state_that_no_line_tells_of_is_no_ones(stream):
    stream.commit(0)
    stream.load(1)
    stream.entries[-1] = replace(stream.entries[-1], state="f" * 64)
    stream.commit(1)

    with pytest.raises(ValueError, match="the log does not tell how version 1 came about"):
        replay(stream.entries, stream.lesson)


@pytest.mark.parametrize("ahead_s", [-50, 0, 50])
def test_logs_of_servers_whose_clocks_differ_are_in_the_order_of_owners(stream, files, ahead_s):
    logs = {name: Audit(files, replica=name) for name in ("tta-0", "tta-1")}
    stream.take(1)
    for generation in (1, 2, 3, 4):
        stream.commit(generation)
        stream.commit(generation + 1)
        stream.load(stream.version, generation + 1)
    for index, entry in enumerate(stream.entries):
        second = index + (60 + ahead_s if entry.version_before // 10**6 % 2 else 60)
        entry = replace(entry, time=f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}.000+00:00")
        logs[f"tta-{entry.version_before // 10**6 % 2}"].append([entry])

    told = list(Audit(files).entries("camera"))

    assert [entry.version_after for entry in told] == [entry.version_after for entry in stream.entries]
    assert bits(replay(told, stream.lesson).state) == bits(stream.state)
    assert Audit(files).newest("camera") == told[::-1]
    assert Audit(files).newest("camera", 1) == told[-1:]


def test_a_log_says_whether_it_has_its_first_lines(files):
    audit = Audit(files, segment_bytes=1024, keep=2)
    for version in range(1, 20):
        audit.append([Entry("camera", "commit", version - 1, version)])
        assert audit.begins() == (next(audit.entries()).version_after == 1)
    assert not audit.begins()


@pytest.mark.parametrize("end", ["reset", "delete"])
def test_what_was_before_the_source_need_not_be_shown(stream, end):
    for batch in (0, 1, 2):
        stream.commit(batch)
    getattr(stream, end)()
    stream.commit(3)

    proof = replay(stream.entries, lacking(stream, "1"))

    assert bits(proof.state) == bits(stream.state)
    assert (proof.shown, len(proof.doubts)) == ((3 if end == "reset" else 2), 2)
    assert ("erased with the stream" in proof.doubts[0].reason) == (end == "delete")
    with pytest.raises(ValueError, match="window 1"):
        replay(stream.entries, lacking(stream, "1"), until=3)


def test_lines_before_a_reset_that_were_rotated_away_need_not_be_shown(stream):
    for batch in (0, 1, 2):
        stream.commit(batch)
    stream.reset()
    stream.commit(3)

    proof = replay(stream.entries[1:], stream.lesson)

    assert bits(proof.state) == bits(stream.state)
    assert [doubt.reason for doubt in proof.doubts] == ["the log does not tell how version 1 came about"] * 2


def test_a_line_before_a_reset_that_is_not_as_it_was_is_told(stream):
    stream.commit(0)
    stream.reset()
    stream.commit(3)
    stream.entries[0] = replace(stream.entries[0], state="f" * 64)

    proof = replay(stream.entries, stream.lesson)

    assert bits(proof.state) == bits(stream.state)
    assert [doubt.wrong for doubt in proof.doubts] == [True]


def test_a_reset_that_is_not_to_the_source_is_no_beginning(stream):
    stream.commit(0)
    stream.reset()
    stream.entries[-1] = replace(stream.entries[-1], state="f" * 64)
    stream.commit(3)

    with pytest.raises(ValueError, match="version 2 of stream 'camera' gives state"):
        replay(stream.entries, stream.lesson)


def test_a_rollback_behind_what_cannot_be_shown_starts_from_what_can(stream):
    for batch in (0, 1):
        stream.commit(batch)
    stream.go_to("rollback", 1)
    stream.commit(2)

    proof = replay(stream.entries, lacking(stream, "1"))

    assert bits(proof.state) == bits(stream.state)
    assert (proof.shown, len(proof.doubts)) == (3, 1)


moves = st.lists(
    st.tuples(st.just("commit"), st.integers(0, 7))
    | st.tuples(st.sampled_from(["rollback", "load", "move"]), st.integers(0, 6))
    | st.tuples(st.sampled_from(["reset", "delete", "skip"]), st.just(0)),
    max_size=9,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=moves, lost=st.sets(st.integers(0, 7), max_size=2))
def test_whatever_is_shown_is_so_and_what_is_not_is_told(backbone, batches, moves, lost):
    stream, generation = Recorded(adapters.create("tent", lr=1e-2), backbone, batches), 0
    for move, number in moves:
        known = list(stream.states) if stream.version else [0]
        version = known[number % len(known)]
        if move == "commit":
            stream.commit(number)
        elif move == "load":
            stream.load(stream.version)
        elif move == "move":
            generation += 1
            stream.load(version, generation)
        elif move == "rollback":
            stream.go_to(move, version)
        elif move == "delete":
            stream.delete()
            stream.states = {0: stream.initial}
        else:
            getattr(stream, move)()

    told = sum(entry.state is not None for entry in stream.entries)
    full = replay(stream.entries, stream.lesson)
    assert bits(full.state) == bits(stream.state)
    assert (full.shown, full.doubts) == (told, [])
    with contextlib.suppress(ValueError):
        proof = replay(stream.entries, lacking(stream, *map(str, lost)))
        assert bits(proof.state) == bits(stream.state)
        assert proof.shown + len(proof.doubts) == told
