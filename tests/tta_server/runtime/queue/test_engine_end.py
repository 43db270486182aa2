"""How an engine ends: stopped, damaged, dead."""

import gc
import threading
import weakref
from concurrent.futures import Future, wait

import pytest
import torch

import tta_server.runtime.queue.engine as module
from tests.tta_server.runtime.engines import PATIENCE_S, answer, gated, listed, make, running, until
from tests.tta_server.runtime.fakes import rows, submit, tiny
from tta_server.errors import NotReady
from tta_server.runtime.job import Command


# Stopping
def test_stop_answers_what_waits_and_refuses_what_comes():
    with gated() as (engine, adapter, busy):
        waiting = [submit(engine, name, rows(8)) for name in ("a", "b", "a", "c")]
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        until(lambda: engine.trouble() == "the server is stopping")

        with pytest.raises(NotReady, match="stopping"):
            submit(engine, "door", rows(1))
        with pytest.raises(NotReady, match="stopping"):
            engine.command(lambda commands: commands.list().streams)
        adapter.gate.set()
        stopper.join(PATIENCE_S)

        assert not stopper.is_alive()
        assert all(future.result(0).probabilities.size for future in [busy, *waiting])


def test_an_engine_that_has_learnt_and_is_stopped_is_gone():
    def worked() -> weakref.ref:
        engine = make()
        engine.start()
        answer(engine, images=rows(8))
        until(lambda: listed(engine)[0]["steps"] == 2)
        engine.stop()
        return weakref.ref(engine._worker)

    gone = worked()

    until(lambda: (gc.collect(), gone())[1] is None)


def test_stop_does_not_wait_for_the_delay():
    engine = make(max_delay_ms=600_000)
    engine.start()
    lonely = submit(engine, "door", rows(1))

    engine.stop()

    assert lonely.result(0).probabilities.shape == (1, 4)


def test_a_request_that_comes_while_a_command_runs_is_answered_by_stop():
    engine, entered, leave = make(), threading.Event(), threading.Event()
    engine.start()

    def slow() -> None:
        entered.set()
        leave.wait(PATIENCE_S)

    engine._call(slow)
    assert entered.wait(PATIENCE_S)
    late = submit(engine, "door", rows(1))
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    until(lambda: engine.trouble() == "the server is stopping")
    leave.set()
    stopper.join(PATIENCE_S)

    assert late.result(0).probabilities.shape == (1, 4)


def test_stop_may_be_called_twice_and_before_the_start():
    engine = make()
    engine.stop()
    engine.stop()

    with running() as other:
        other.stop()


# Damage and death
def test_damaged_weights_make_the_server_not_ready(monkeypatch):
    monkeypatch.setattr(module, "_INSPECT_EVERY_S", 0.01)
    backbone = tiny()
    with running(backbone=backbone) as engine:
        answer(engine)
        assert engine.trouble() == ""

        with torch.no_grad():
            backbone.weights()["fc.bias"][0] += 1
        until(engine.trouble)

        assert "damaged" in engine.trouble()
        with pytest.raises(NotReady, match="damaged"):
            submit(engine, "door", rows(1))


def test_weights_that_cannot_be_read_make_the_server_not_ready(monkeypatch):
    monkeypatch.setattr(module, "_INSPECT_EVERY_S", 0.01)
    backbone = tiny()
    with running(backbone=backbone) as engine:

        def lost() -> str:
            raise RuntimeError("the device was lost")

        monkeypatch.setattr(backbone, "digest", lost)
        until(engine.trouble)

        assert "the device was lost" in engine.trouble()


def test_an_idle_engine_inspects_its_weights_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(module, "_INSPECT_EVERY_S", 0.01)
    backbone, looks = tiny(), []
    digest = backbone.digest
    monkeypatch.setattr(backbone, "digest", lambda: looks.append(1) or digest())

    with running(backbone=backbone) as engine:
        until(lambda: len(looks) > 3)

        assert engine.trouble() == ""
        assert listed(engine) == []


@pytest.mark.parametrize("end", [RuntimeError("the end"), SystemExit("an adapter's")])
def test_when_the_device_thread_dies_nobody_waits_for_ever(monkeypatch, end):
    with gated() as (engine, adapter, busy):

        def die(*_args: object) -> None:
            raise end

        waiting = submit(engine, "door", rows(1))
        command = engine.command(lambda commands: commands.list().streams)
        monkeypatch.setattr(engine._worker, "answer", die)
        adapter.gate.set()
        busy.result(PATIENCE_S)

        with pytest.raises(NotReady, match="has died"):
            waiting.result(PATIENCE_S)
        wait([command], PATIENCE_S)
        assert command.done()
        until(lambda: "has died" in engine.trouble())
        assert engine.broken
        with pytest.raises(NotReady, match="has died"):
            submit(engine, "door", rows(1))
        with pytest.raises(NotReady, match="has died"):
            engine.command(lambda commands: commands.list().streams)


def test_commands_that_wait_when_the_device_thread_dies_fail(monkeypatch):
    with running() as engine:
        entered, leave = threading.Event(), threading.Event()

        def die(*_args: object) -> None:
            entered.set()
            leave.wait(PATIENCE_S)
            raise RuntimeError("the end")

        monkeypatch.setattr(engine._worker, "answer", die)
        doomed = submit(engine, "door", rows(1))
        assert entered.wait(PATIENCE_S)
        command = engine.command(lambda commands: commands.list().streams)
        leave.set()

        for future in (doomed, command):
            with pytest.raises(NotReady, match="has died"):
                future.result(PATIENCE_S)


def test_who_gives_up_just_when_the_device_thread_dies_leaves_nobody_else_waiting():
    class GivenUp(Future):
        def set_exception(self, exception: BaseException | None) -> None:
            self.cancel()
            super().set_exception(exception)

    engine, command = make(), Future()
    engine._commands = [Command(list, GivenUp()), Command(list, command)]

    engine._abandon()

    with pytest.raises(NotReady):
        command.result(0)
