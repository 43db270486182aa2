"""A forward, step or command that never ends is noticed, and keeps nobody from stopping the server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.tta_server.runtime.engines import PATIENCE_S, SlowStep, until
from tests.tta_server.runtime.fakes import Gated, rows, submit, tiny, wired
from tta_server.errors import NotReady
from tta_server.pulse import beat
from tta_server.runtime.queue.engine import Engine
from tta_server.runtime.queue.room import Room
from tta_server.settings import EngineSettings

SOON_S = 0.05


def forward(engine: Engine, adapter: Gated) -> None:
    submit(engine, "busy", rows(1))


def step(engine: Engine, adapter: Gated) -> None:
    submit(engine, "busy", rows(4))


def command(engine: Engine, adapter: Gated) -> None:
    def wait(_commands: object) -> None:
        adapter.entered.set()
        assert adapter.gate.wait(PATIENCE_S)

    engine.command(wait)


WORK = {"forward": (Gated, forward), "step": (SlowStep, step), "command": (Gated, command)}


@contextmanager
def stuck(work: str, stuck_after_s: float = SOON_S) -> Iterator[tuple[Engine, Gated]]:
    """Yield an engine that is at one piece of work until the gate is opened."""
    kind, begin = WORK[work]
    adapter = kind()
    adapter.gate.set()
    settings = EngineSettings(max_rows=8, window_rows=4, stuck_after_s=stuck_after_s)
    parts = wired(adapter, 4, tiny())
    engine = Engine(parts.worker, parts.commands, Room(1024, 2**30), settings, parts.metrics)
    engine.start()
    adapter.gate.clear()
    adapter.entered.clear()
    begin(engine, adapter)
    assert adapter.entered.wait(PATIENCE_S)
    try:
        yield engine, adapter
    finally:
        adapter.gate.set()
        engine.stop()


@pytest.mark.parametrize("work", WORK)
def test_a_server_that_gets_nowhere_is_neither_ready_nor_live_until_it_goes_on(work):
    with stuck(work) as (engine, adapter):
        until(lambda: engine.trouble())

        assert "has been at one piece of work for" in engine.trouble()
        assert engine.broken
        with pytest.raises(NotReady, match="one piece of work"):
            submit(engine, "door", rows(1))

        adapter.gate.set()
        until(lambda: answers(engine))
        until(lambda: not engine.broken)


def answers(engine: Engine) -> bool:
    """Return whether a request is answered; on a busy machine the answer itself may take long enough to be trouble."""
    try:
        return submit(engine, "door", rows(1)).result(PATIENCE_S).version == 0
    except NotReady:
        return False


def test_long_work_that_gets_on_is_not_stuck():
    with stuck("command", stuck_after_s=3) as (engine, adapter):
        adapter.gate.set()

        def long(_commands: object) -> float:
            while engine._pulse.busy_s() < 4:
                beat()
                time.sleep(0.01)
            return engine._pulse.busy_s()

        took = engine.command(long)
        troubles = {engine.trouble() for _ in iter(lambda: took.done(), True)}

        assert took.result() > 3
        assert troubles == {""}


def test_a_server_is_trusted_for_ever_if_nobody_says_how_long():
    with stuck("forward", stuck_after_s=0) as (engine, _adapter):
        assert engine._pulse.busy_s() > 0
        assert not engine.trouble()
        assert not engine.broken


def test_a_warm_up_may_take_its_time():
    adapter = SlowStep()
    parts = wired(adapter)
    engine = Engine(parts.worker, parts.commands, Room(1024, 2**30), EngineSettings(stuck_after_s=1e-9), parts.metrics)
    starter = threading.Thread(target=engine.start)
    starter.start()
    assert adapter.entered.wait(PATIENCE_S)

    assert (engine.trouble(), engine.broken) == ("the server is starting", False)

    adapter.gate.set()
    starter.join(PATIENCE_S)
    engine.stop()


@pytest.mark.parametrize("work", WORK)
def test_stopping_does_not_wait_for_what_never_ends_and_tells_those_who_wait(work):
    with stuck(work, stuck_after_s=0) as (engine, _adapter):
        asked, ordered = submit(engine, "door", rows(1)), engine.command(lambda commands: commands.list().streams)

        if work == "step":  # nobody waits for one, and the streams can be written as they are
            assert engine.stop(within_s=SOON_S)
            assert asked.result(0).version == 0
            assert {stream["name"] for stream in ordered.result(0)} == {"busy", "door"}
        else:
            assert not engine.stop(within_s=SOON_S)
            for future in (asked, ordered):
                with pytest.raises(NotReady, match="stopping"):
                    future.result(0)


def test_stopping_does_not_wait_for_one_piece_of_work_after_another_without_end(monkeypatch):
    monkeypatch.setattr("tta_server.runtime.queue.engine._STOP_MOST_S", SOON_S)
    with stuck("forward", stuck_after_s=0) as (engine, _adapter):
        asked = submit(engine, "door", rows(1))
        monkeypatch.setattr(engine._pulse, "busy_s", lambda _since_s: 0.0)  # as if each piece had just begun

        assert not engine.stop(within_s=SOON_S)
        with pytest.raises(NotReady, match="stopping"):
            asked.result(0)


def test_stopping_waits_as_long_as_something_moves_on():
    with stuck("forward", stuck_after_s=0) as (engine, adapter):
        waiting = [submit(engine, "door", rows(1, seed)) for seed in range(5)]
        opener = threading.Timer(SOON_S, adapter.gate.set)
        opener.start()

        assert engine.stop(within_s=PATIENCE_S)

        opener.join()
        assert all(future.result(0).version == 0 for future in waiting)
