"""A stream that fails on every touch disturbs no other."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tta_server.runtime.engines import PATIENCE_S
from tests.tta_server.runtime.fakes import WHO, Fails, Wired, ask, learn_all, queued, rows, submit, tiny, value, wired
from tta_server.errors import BadRequest, SetAside, TTAError
from tta_server.guard.judge import Unguarded
from tta_server.runtime.queue.engine import Engine
from tta_server.runtime.queue.room import Room
from tta_server.settings import EngineSettings
from tta_server.streams.stream import Method
from tta_server.telemetry.metrics import render

GOOD = [f"good-{number:02d}" for number in range(20)]


class Broken:
    """Fails, however it is touched."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name} today")

    def __len__(self) -> int:
        raise RuntimeError("no length today")

    def __iter__(self) -> object:
        raise RuntimeError("no items today")


def no_file(subject: Wired) -> None:
    subject.commands.evict("bad")
    assert subject.kept.keeper.flush(PATIENCE_S)
    for path in Path(subject.kept.store.files._root).glob("streams/bad/state-*"):
        path.write_bytes(b"")


def no_state(subject: Wired) -> None:
    subject.stream("bad").state = {"theta/bn.weight": torch.zeros(3)}


def nan_state(subject: Wired) -> None:
    stream = subject.stream("bad")
    stream.state = {name: torch.full_like(tensor, torch.nan) for name, tensor in stream.state.items()}


def no_step(subject: Wired) -> None:
    adapter = Fails()
    subject.commands.change("bad", None, Method(adapter, adapter.init(tiny()), Unguarded()), WHO)


def no_method(subject: Wired) -> None:
    subject.stream("bad").method = Method(Broken(), {}, Broken())


def nothing_of(name: str) -> Callable[[Wired], None]:
    def spoil(subject: Wired) -> None:
        setattr(subject.stream("bad"), name, Broken())

    return spoil


TOUCHES = {
    "file": no_file,
    "state": no_state,
    "step": no_step,
    "state that is not a number": nan_state,
    "method": no_method,
} | {name: nothing_of(name) for name in ("window", "history", "verdicts", "dropped", "memory", "version", "images")}


@pytest.mark.parametrize(("touch", "requests"), [(touch, 1000 if i < 3 else 200) for i, touch in enumerate(TOUCHES)])
def test_a_stream_that_fails_on_every_touch_never_disturbs_twenty_others(touch, requests, tmp_path):
    subject = wired(window=4, storage=str(tmp_path), idle_s=1.0)
    for name in [*GOOD, "bad"]:
        ask(subject, name, rows(4))
    learn_all(subject)
    TOUCHES[touch](subject)
    settings = EngineSettings(max_rows=64, max_queue_rows=64, window_rows=4, learn_share=1)
    engine = Engine(subject.worker, subject.commands, Room(1024, 2**30), settings, subject.metrics)
    engine.start()
    try:
        for turn in range(requests // len(GOOD)):
            bad = submit(engine, "bad", rows(1, turn))
            answers = [submit(engine, name, rows(1, turn)) for name in GOOD]
            assert all(answer.result(PATIENCE_S).adapted for answer in answers)
            assert isinstance(bad.exception(PATIENCE_S), TTAError | None)
        for name in GOOD:
            engine.command(lambda commands, name=name: commands.evict(name)).result(PATIENCE_S)
        listed = engine.command(lambda commands: commands.list().streams).result(PATIENCE_S)
        assert engine.trouble() == ""
    finally:
        assert engine.stop()
    subject.commands.save()
    assert subject.kept.keeper.flush(PATIENCE_S)
    told = {summary["name"]: summary for summary in listed}
    assert told.keys() == {*GOOD, "bad"}
    for name in GOOD:
        assert not told[name]["trouble"]
        assert told[name]["images"] == 4 + requests // len(GOOD)
        offered = told[name]["images_learnt"] + told[name]["images_dropped"] + told[name]["images_in_window"]
        assert offered == told[name]["images"]
        assert told[name]["images_learnt"] > 4


def test_a_stream_whose_books_cannot_be_kept_is_set_aside_and_said_to_be(tmp_path):
    subject = wired(storage=str(tmp_path))
    ask(subject, "door", rows(1))
    subject.stream("door").dropped = Broken()

    ask(subject, "door", rows(1))

    with pytest.raises(SetAside, match="no update today"):
        ask(subject, "door", rows(1))
    assert value(subject.metrics, "tta_streams_set_aside") == 1
    assert subject.commands.list().streams[0]["trouble"] == "RuntimeError: no update today"
    assert [(line.event, line.stream) for line in subject.audited()] == [("aside", "door")]
    assert 'stream="door"' not in render([subject.metrics]).decode()


def test_a_state_that_breaks_a_stack_costs_its_own_requests_alone():
    subject = wired()
    for name in "abc":
        ask(subject, name, rows(4))
    learn_all(subject)
    subject.stream("b").state = {"theta/bn.weight": torch.zeros(3)}
    jobs = [queued(name, rows(2), 0.0) for name in "abcab"]

    subject.worker.answer(jobs)

    for job in jobs:
        if job.stream == "b":
            with pytest.raises(TTAError, match="the model failed"):
                job.future.result(0)
        else:
            assert job.future.result(0).adapted


class Refuses(Fails):
    """Says of every batch that it is wrong."""

    def predict(self, backbone, state, x):
        raise ValueError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.parametrize("mode", ["after", "inline"])
def test_an_error_of_the_model_is_not_the_callers_fault(mode):
    subject = wired(Refuses(), mode=mode)

    with pytest.raises(TTAError, match="the model failed; see the log") as caught:
        ask(subject, "door", rows(1))

    assert (caught.value.status, isinstance(caught.value, BadRequest)) == (500, False)


def test_a_command_that_fails_fails_alone():
    parts = wired()
    engine = Engine(parts.worker, parts.commands, Room(1024, 2**30), EngineSettings(), parts.metrics)
    engine.start()

    wrong = engine.command(lambda commands: 1 / 0)
    right = engine.command(lambda commands: commands.list().streams)

    assert isinstance(wrong.exception(PATIENCE_S), ZeroDivisionError)
    assert right.result(PATIENCE_S) == []
    engine.stop()


def test_a_stream_that_cannot_be_written_does_not_keep_others_from_being_saved(tmp_path):
    subject = wired(storage=str(tmp_path))
    for name in ("a", "b", "c"):
        ask(subject, name, rows(3))
    subject.stream("b").window = Broken()

    subject.commands.save()

    assert subject.kept.keeper.flush(PATIENCE_S)
    assert subject.kept.store.names() == ["a", "c"]


def test_an_idle_stream_that_cannot_be_moved_is_set_aside_and_the_others_go(tmp_path):
    subject = wired(storage=str(tmp_path), expire_s=0)
    for name in ("a", "b", "c"):
        ask(subject, name, rows(3))
    subject.stream("b").window = Broken()

    subject.worker.park_idle(subject.stream("a").touched_s + 1e9, 1.0)

    listed = {
        summary["name"]: (summary["in_memory"], bool(summary["trouble"])) for summary in subject.commands.list().streams
    }
    assert listed == {"a": (False, False), "b": (False, True), "c": (False, False)}


@pytest.mark.parametrize("verb", ["learn", "shed"])
def test_a_window_that_is_due_and_cannot_be_taken_keeps_no_other_from_being(verb):
    subject = wired(engine={"stack_rows": 0})
    for name in ("bad", "good"):
        ask(subject, name, rows(4))
    subject.stream("bad").window = Broken()

    while subject.worker.due_s() is not None:
        getattr(subject.worker, verb)(subject.worker.due_s())

    told = {summary["name"]: summary for summary in subject.commands.list().streams}
    assert told["bad"]["trouble"]
    assert (told["good"]["trouble"], told["good"]["images_in_window"]) == ("", 0)


def test_a_history_that_cannot_be_given_up_keeps_no_other_from_giving_up_its_own():
    subject = wired(max_bytes=1)
    ask(subject, "bad", rows(4))
    subject.stream("bad").history = Broken()

    assert ask(subject, "good", rows(4)).version == 0

    assert {summary["name"]: bool(summary["trouble"]) for summary in subject.commands.list().streams} == {
        "bad": True,
        "good": False,
    }
