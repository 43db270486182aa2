"""What a stream's domains have learnt outlives the process, the memory that it is in, and what is written of it."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load

from tests.states import bits
from tests.tta_server.runtime.fakes import (
    WHO,
    Scripted,
    Wired,
    ask,
    bright,
    dark,
    learn_all,
    rows,
    tiny,
    wired,
)
from tests.tta_server.runtime.told_apart import SCRIPT, domains, show, telling
from tta_server.names import is_domain
from tta_server.runtime.job import HOME
from tta_server.settings import Mode
from tta_server.storage.replay import Recipe, replay


def who_answers(subject: Wired) -> tuple[object, ...]:
    """Return who would answer the domain's requests, and what is said of it."""
    registry = subject.worker.parts.registry
    registry.arrive("door")
    return registry.peek("door@1").as_source, registry.summary("door@1").present


@pytest.mark.parametrize("cut", range(1, len(SCRIPT)))
def test_after_a_restart_everything_goes_on_bit_for_bit(tmp_path: Path, cut: int):
    expected = show(telling(), SCRIPT)
    first = telling(storage=str(tmp_path))
    show(first, SCRIPT[:cut])
    first.commands.save()
    first.kept.keeper.close()

    second = telling(storage=str(tmp_path))
    found = show(second, SCRIPT[cut:], cut)

    for answer, other in zip(found, expected[cut:], strict=True):
        assert answer.domains == other.domains
        assert answer.probabilities.tobytes() == other.probabilities.tobytes()
        assert answer.version == other.version


@pytest.mark.parametrize("name", ["door", "door@1"])
def test_after_it_was_on_disk_everything_goes_on_bit_for_bit(tmp_path: Path, name: str):
    expected = show(telling(), SCRIPT)
    subject = telling(storage=str(tmp_path))
    found = []
    for seed, step in enumerate(SCRIPT):
        found += show(subject, [step], seed)
        if subject.worker.parts.registry.in_memory(name):
            subject.commands.evict(name)

    assert [answer.probabilities.tobytes() for answer in found] == [one.probabilities.tobytes() for one in expected]
    assert [answer.domains for answer in found] == [one.domains for one in expected]


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("seen", [0, 6, 16], ids=["not begun", "begun", "learnt"])
def test_on_disk_and_after_a_restart_it_is_said_who_answers_as_it_was_in_memory(tmp_path: Path, mode: Mode, seen: int):
    judge = Scripted(("commit",))
    first = telling(storage=str(tmp_path), judge=judge)
    ask(first, "door", dark(seen or 6))
    if seen:
        learn_all(first)
    first.commands.change("door", mode, None, WHO)
    expected = who_answers(first)

    first.commands.evict("door")
    on_disk = who_answers(first)
    first.commands.save()
    first.kept.keeper.close()
    second = telling(storage=str(tmp_path), judge=judge)
    restarted = who_answers(second)
    second.commands.read("door@1")

    assert on_disk == restarted == who_answers(second) == expected


def test_a_stream_that_learnt_before_domains_were_told_apart_goes_on_as_it_was(tmp_path: Path):
    first = wired(window=4, storage=str(tmp_path))
    ask(first, "door", dark(4))
    learn_all(first)
    expected = ask(first, "door", dark(4, 1))
    first.commands.save()
    first.kept.keeper.close()

    second = telling(storage=str(tmp_path), window=4, adapter=None)

    assert ask(second, "door", dark(4, 1)).probabilities.tobytes() == expected.probabilities.tobytes()
    assert domains(second) == []


def test_the_files_of_a_domain_that_made_room_are_erased(tmp_path: Path):
    subject = telling(domains=2, storage=str(tmp_path))
    lamps = [lambda n, s, c=c: np.clip(rows(n, s) // 8 + 60 * c, 0, 255).astype(np.uint8) for c in range(4)]
    for seed, lamp in enumerate(lamps):
        ask(subject, "door", lamp(16, seed))
        learn_all(subject)

    assert subject.kept.keeper.flush(30)
    subject.commands.save()
    assert subject.kept.keeper.flush(30)
    assert {name for name in subject.kept.store.names() if is_domain(name)} == set(domains(subject))


def test_a_deleted_stream_leaves_no_domain(tmp_path: Path):
    subject = telling(storage=str(tmp_path))
    show(subject, SCRIPT)

    subject.worker.parts.registry.delete("door").result(30)

    assert subject.kept.store.names() == []
    assert subject.worker.parts.registry.every_stream_in_memory() == []
    assert ask(subject, "door", dark(16)).domains[0] == "door@1"


def test_whoever_deletes_a_stream_hears_of_a_domain_s_file_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    subject = telling(storage=str(tmp_path))
    ask(subject, "door", dark(16))
    assert subject.kept.keeper.flush(30)
    delete = subject.kept.store.delete

    def failing(name: str, generation: int = 0) -> None:
        if is_domain(name):
            raise OSError("the disk has failed")
        delete(name, generation)

    monkeypatch.setattr(subject.kept.store, "delete", failing)

    with pytest.raises(OSError, match="the disk has failed"):
        subject.worker.parts.registry.delete("door").result(30)


def test_a_stream_that_is_idle_goes_to_disk_with_its_domains(tmp_path: Path):
    subject = telling(storage=str(tmp_path))
    show(subject, [(rows, 16), (dark, 16), (bright, 16)])

    subject.worker.park_idle(time.monotonic() + 100, 10)

    assert subject.worker.parts.registry.every_stream_in_memory() == []
    assert ask(subject, "door", dark(16)).domains[0] == "door@1"


def test_the_only_stream_stays_in_memory_however_little_there_is(tmp_path: Path):
    subject = telling(storage=str(tmp_path), max_bytes=2000)

    for look in (dark, bright, bright):
        ask(subject, "door", look(16))

    assert [each.name for each in subject.worker.parts.registry.every_stream_in_memory()] == ["door", "door@2"]


def test_a_domain_whose_file_cannot_be_read_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    subject = telling(storage=str(tmp_path))
    show(subject, [(dark, 16), (bright, 16)])
    subject.commands.evict("door@1")
    shelf = subject.worker.parts.registry._shelf

    def damaged(name: str, method: object) -> None:
        raise ValueError(f"the file of '{name}' is damaged")

    monkeypatch.setattr(shelf, "read", damaged)
    answers = [ask(subject, "door", kind(16, 50)) for kind in (rows, bright, dark, dark)]

    assert [set(answer.domains) for answer in answers] == [{HOME}, {"door@2"}, {"door@3"}, {"door@3"}]
    assert "damaged" in subject.worker.parts.registry.summary("door@1").trouble


def test_a_domain_that_cannot_go_on_stops_no_other(tmp_path: Path):
    subject = telling(storage=str(tmp_path))
    show(subject, [(dark, 16), (bright, 16)])
    subject.worker.parts.registry.set_aside("door@1", RuntimeError("broken on purpose"))

    answers = [ask(subject, "door", kind(16, 50)) for kind in (rows, bright, dark)]

    assert [set(answer.domains) for answer in answers] == [{HOME}, {"door@2"}, {"door@3"}]


def test_what_happens_to_domains_is_told_of_the_stream(tmp_path: Path):
    subject = telling(storage=str(tmp_path))
    show(subject, [(dark, 8), *SCRIPT])

    told = Counter((entry.stream, entry.event) for entry in subject.audited())
    assert told["door", "open"] == len(domains(subject))
    assert told["door@1", "begin"] >= 1
    assert told["door@1", "commit"] == subject.stream("door@1").steps


def test_the_log_of_a_domain_replays_to_its_state(tmp_path: Path):
    subject = telling(storage=str(tmp_path), keep_inputs=True)
    show(subject, [(dark, 8), *SCRIPT * 2])
    told = [entry for entry in subject.audited() if entry.stream == "door@1"]
    stream = subject.stream("door@1")

    def window(digest: str) -> torch.Tensor:
        images = load(subject.kept.store.read_input("door@1", digest) or b"")
        return torch.cat([images[name] for name in sorted(images)]).float() / 255

    lesson = Recipe(stream.method.adapter, tiny(), None, window)
    state = replay(told, replace(lesson, remake=lambda _: lesson)).state

    assert {entry.event for entry in told} >= {"begin", "commit"}
    assert bits(state) == bits(stream.state)
