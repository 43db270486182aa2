"""A stream that was on disk is the stream that it was."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.states import bits
from tests.tta_server.runtime.fakes import (
    SHAPE,
    WHO,
    Scripted,
    Tiny,
    Wired,
    ask,
    close,
    hard_tent,
    learn_all,
    rows,
    tiny,
    wired,
)
from tta_server import adapters
from tta_server.adapters.checkpoint import dump_state, state_digest
from tta_server.errors import BadRequest
from tta_server.models import TorchBackbone
from tta_server.streams.stream import Stream


def lived(subject: Wired, name: str = "door") -> Stream:
    """Return a stream that has something of everything."""
    for seed in range(3):
        ask(subject, name, rows(5, seed), client=f"client {seed}")
        learn_all(subject)
    subject.commands.rollback(name, 2, WHO)
    return subject.stream(name)


def told(stream: Stream) -> dict:
    """Return everything about a stream, as values."""
    return {
        "details": stream.summary().told() | stream.details(),
        "state": bits(stream.state),
        "memory": bits(stream.memory),
        "window": [(row.image.tobytes(), str(row.image.dtype), *row[1:]) for row in stream.window],
        "recent": stream.window.recent,
        "history": [(kept.version, kept.steps, kept.passed, bits(kept.state)) for kept in stream.history],
        "serve": stream.serve,
    }


@pytest.mark.parametrize("words", [("pass",), ("pass", "commit", "commit/source"), ("commit", "pass", "reject")])
def test_a_stream_comes_back_bit_for_bit(words):
    subject = wired(judge=Scripted(words), duplicate_memory=10)
    before = told(lived(subject))

    subject.commands.evict("door")

    assert told(subject.stream("door")) == before


def test_a_stream_of_the_source_comes_back_as_one_and_takes_no_memory():
    subject = wired()
    ask(subject, "door", rows(3))
    subject.commands.evict("door")

    door = subject.stream("door")

    assert door.state is subject.worker.parts.methods.default.initial
    assert (door.bytes["state"], len(door.window)) == (0, 3)


def test_a_stream_that_was_switched_off_comes_back_switched_off():
    subject = wired(judge=Scripted(("rollback",)))
    for seed in range(3):
        ask(subject, "door", rows(4, seed))
        learn_all(subject)
    before = told(subject.stream("door"))
    assert before["details"]["frozen"]

    subject.commands.evict("door")

    assert subject.commands.list().streams[0]["frozen"] == before["details"]["frozen"]
    assert told(subject.stream("door")) == before


def test_an_image_that_was_seen_before_is_still_known():
    subject = wired(duplicate_memory=10)
    ask(subject, "door", rows(4))
    learn_all(subject)
    subject.commands.evict("door")

    ask(subject, "door", rows(4))

    assert subject.stream("door").dropped == {"duplicate": 4}


def test_windows_of_bytes_and_floats_come_back_as_they_were():
    subject = wired(window=8)
    ask(subject, "door", rows(2))
    ask(subject, "door", (rows(2, 1) / 255).astype(np.float32))
    before = told(subject.stream("door"))

    subject.commands.evict("door")

    assert told(subject.stream("door")) == before


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bn", {}),
        ("cotta", {"lr": 0.05}),
        ("eata", {"fisher_alpha": 0, "lr": "0.05"}),
        ("lame", {}),
        ("roid", {"lr": 0.05}),
        ("rotta", {}),
        ("sar", {}),
        ("source", {}),
        ("tent", {"betas": [0.5, 0.5]}),
    ],
)
def test_streams_with_an_adapter_of_their_own_come_back_with_it(name, settings):
    subject = wired()
    subject.commands.create("door", None, subject.method(name, **settings), WHO)
    ask(subject, "door", rows(4))
    learn_all(subject)
    before, adapter = told(subject.stream("door")), subject.stream("door").method.adapter

    subject.commands.evict("door")

    assert told(subject.stream("door")) == before
    assert subject.stream("door").method.adapter == adapter


def test_the_next_server_goes_on_where_the_last_one_stopped(tmp_path: Path):
    first = wired(storage=str(tmp_path))
    lived(first)
    expected = ask(first, "door", rows(4, 77))
    close()

    second = wired(storage=str(tmp_path))

    found = ask(second, "door", rows(4, 77))
    assert np.array_equal(found.probabilities, expected.probabilities)
    assert (found.version, found.adapted) == (expected.version, True)
    assert second.commands.read("door")["images_learnt"] == 12


def test_what_waits_is_not_part_of_an_ordinary_save(tmp_path: Path):
    first = wired(storage=str(tmp_path))
    ask(first, "door", rows(6))
    learn_all(first)
    close()

    assert len(wired(storage=str(tmp_path)).stream("door").window) == 0


def test_the_audit_log_says_from_which_version_a_server_goes_on(tmp_path: Path):
    lived(wired(storage=str(tmp_path)))
    close()

    again = wired(storage=str(tmp_path))
    again.stream("door")
    entry = again.audited()[-1]

    assert (entry.event, entry.stream, entry.version_after) == ("load", "door", 4)
    assert entry.state == state_digest(again.stream("door").state)
    assert entry.extra == {"to": 4, "from": 4, "to_steps": again.stream("door").steps}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"adapter": adapters.create("bn")}, "belongs to adapter 'tent'"),
        ({"backbone": TorchBackbone(Tiny(), SHAPE, name="other")}, "belongs to model 'tiny'"),
    ],
)
def test_a_server_that_does_not_fit_what_is_stored_does_not_start(tmp_path, keys, message):
    lived(wired(storage=str(tmp_path)))
    close()

    with pytest.raises(ValueError, match=f"storage holds stream 'door', which does not fit.*{message}"):
        wired(storage=str(tmp_path), **keys)


def test_a_guard_with_another_memory_begins_anew(tmp_path: Path):
    lived(wired(storage=str(tmp_path)))
    close()

    second = wired(storage=str(tmp_path), judge=Scripted(("pass",)))

    assert bits(second.stream("door").memory) == bits(Scripted(("pass",)).start())


def test_what_is_exported_can_be_adopted_here_and_elsewhere():
    here, there = wired(), wired()
    lived(here)
    data = here.commands.states.export("door")

    ask(there, "yard", rows(1))
    summary = there.commands.states.adopt("yard", data, WHO)

    assert bits(there.stream("yard").state) == bits(here.stream("door").state)
    assert (summary["state_version"], summary["steps"]) == (1, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a state file"),
        (b"\x00" * 100, "not a state file"),
        (b"\xff" * 8 + b"{}", "not a state file"),
        (dump_state(adapters.create("bn"), tiny(), adapters.create("bn").init(tiny())), "belongs to adapter 'bn'"),
    ],
)
def test_what_is_no_state_of_this_adapter_is_refused_and_changes_nothing(data, message):
    subject = wired()
    before = told(lived(subject))

    with pytest.raises(BadRequest, match=message):
        subject.commands.states.adopt("door", data, WHO)

    assert told(subject.stream("door")) == before


def test_a_state_that_is_not_finite_is_refused():
    subject, adapter = wired(), hard_tent()
    ask(subject, "door", rows(1))
    spoilt = {name: torch.full_like(tensor, torch.nan) for name, tensor in adapter.init(tiny()).items()}

    with pytest.raises(BadRequest, match="not finite"):
        subject.commands.states.adopt("door", dump_state(adapter, tiny(), spoilt), WHO)
