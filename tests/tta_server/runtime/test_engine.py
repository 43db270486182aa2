"""Many threads ask, one answers: starting, stopping, overload, damage and death."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import tta_server.runtime.engine as module
from tests.tta_server.runtime.fakes import WHO, Fails, Gated, rows, submit, tiny, wired
from tta_server.adapters import Adapter
from tta_server.errors import BadRequest, NotFound, NotReady, Overloaded
from tta_server.runtime.engine import Engine
from tta_server.runtime.room import Room
from tta_server.runtime.worker import Answer
from tta_server.settings import EngineSettings

PATIENCE_S = 30


def make(adapter: Adapter | None = None, backbone=None, streams: dict | None = None, **keys: object) -> Engine:
    settings = EngineSettings(**({"max_rows": 8, "max_queue_rows": 32, "window_rows": 4} | keys))
    parts = wired(adapter, settings.window_rows, backbone, engine=settings.model_dump(), **(streams or {}))
    return Engine(parts.worker, parts.commands, Room(settings.max_queue_rows, 2**30), settings, parts.metrics)


@contextmanager
def running(*args: object, **keys: object) -> Iterator[Engine]:
    engine = make(*args, **keys)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@contextmanager
def gated(**keys: object) -> Iterator[tuple[Engine, Gated, "Future[Answer]"]]:
    """Yield an engine whose device thread is busy with a request until the gate is opened."""
    adapter = Gated()
    adapter.gate.set()
    with running(adapter, **keys) as engine:
        adapter.gate.clear()
        adapter.entered.clear()
        busy = submit(engine, "busy", rows(1))
        assert adapter.entered.wait(PATIENCE_S)
        try:
            yield engine, adapter, busy
        finally:
            adapter.gate.set()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def answer(engine: Engine, stream: str = "door", images: np.ndarray | None = None) -> Answer:
    return submit(engine, stream, rows(2) if images is None else images).result(PATIENCE_S)


def read(engine: Engine, stream: str = "door") -> dict:
    return engine.command(lambda commands: commands.read(stream)).result(PATIENCE_S)


def listed(engine: Engine) -> list[dict]:
    return engine.command(lambda commands: commands.list()).result(PATIENCE_S)


def test_nothing_is_taken_before_the_start():
    engine = make()

    with pytest.raises(NotReady, match="starting"):
        submit(engine, "door", rows(1))

    assert engine.trouble() == "the server is starting"


def test_a_started_engine_is_ready_and_answers():
    with running() as engine:
        assert engine.trouble() == ""
        assert answer(engine).probabilities.shape == (2, 4)


def test_a_warm_up_that_fails_is_raised_by_start():
    engine = make(Fails())

    with pytest.raises(RuntimeError, match="no step today"):
        engine.start()

    assert engine.trouble()
    engine.stop()


@pytest.mark.parametrize("count", [0, 9])
def test_a_request_must_fit_one_forward(count):
    with running() as engine, pytest.raises(BadRequest, match=f"request has {count} images, expected 1 to 8"):
        submit(engine, "door", rows(count))


def test_learning_follows_the_answers():
    with running() as engine:
        for _ in range(4):
            answer(engine, images=rows(4))
        until(lambda: read(engine)["steps"] == 4)

        assert answer(engine).version == 4


def test_versions_in_answers_follow_the_order_of_requests():
    with running(max_queue_rows=4000) as engine:
        futures = [submit(engine, "door", rows(2, seed)) for seed in range(200)]

        versions = [future.result(PATIENCE_S).version for future in futures]

        summary = read(engine)
    assert versions == sorted(versions)
    assert summary["images"] == 400
    assert versions[-1] <= summary["steps"] == summary["state_version"]


def test_many_threads_lose_and_mix_up_nothing():
    # An image decides its answer: every thread can tell its own.
    own = {seed: answer_of(rows(2, seed)) for seed in range(16)}
    wrong = []

    def client(engine: Engine, seed: int) -> None:
        for _ in range(20):
            found = answer(engine, f"stream{seed % 3}", rows(2, seed))
            if not np.array_equal(found.probabilities, own[seed]):
                wrong.append(seed)

    with running(max_rows=2, max_queue_rows=100, streams={"mode": "off"}) as engine:
        threads = [threading.Thread(target=client, args=(engine, seed)) for seed in own]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        images = sum(stream["images"] for stream in listed(engine))

    assert not wrong
    assert images == 16 * 20 * 2


def answer_of(images: np.ndarray) -> np.ndarray:
    return tiny().forward(torch.from_numpy(images).float() / 255).logits.softmax(1).numpy()


def test_a_delay_gathers_company():
    with running(max_delay_ms=60_000, max_rows=4) as engine:
        first = submit(engine, "door", rows(2))
        assert not first.done()

        second = submit(engine, "door", rows(2))  # now the group is full

        wait([first, second], PATIENCE_S)
        assert first.done()
        assert second.done()


def test_a_reset_goes_through_the_device_thread():
    with running() as engine:
        answer(engine, images=rows(8))
        until(lambda: read(engine)["steps"] == 2)

        summary = engine.command(lambda commands: commands.reset("door", WHO)).result(PATIENCE_S)

        assert summary["steps"] == 0
        assert np.array_equal(answer(engine).probabilities, answer_of(rows(2)))


def test_an_unknown_stream_is_not_found():
    with running() as engine:
        for run in (lambda commands: commands.read("door"), lambda commands: commands.reset("door", WHO)):
            with pytest.raises(NotFound):
                engine.command(run).result(PATIENCE_S)

        assert answer(engine).version == 0


# Overload
def test_a_full_queue_refuses_and_recovers():
    with gated() as (engine, adapter, _busy):
        waiting = [submit(engine, "door", rows(8)) for _ in range(4)]

        with pytest.raises(Overloaded, match="32 images are waiting"):
            submit(engine, "door", rows(1))

        adapter.gate.set()
        assert all(future.result(PATIENCE_S).probabilities.shape == (8, 4) for future in waiting)
        assert answer(engine).probabilities.shape == (2, 4)


def test_overload_drops_windows_and_not_answers():
    with gated() as (engine, adapter, busy):
        waiting = [submit(engine, "door", rows(8)) for _ in range(4)]
        adapter.gate.set()

        for future in [busy, *waiting]:
            future.result(PATIENCE_S)

        until(lambda: read(engine)["images_in_window"] < 4)
        summary = read(engine)
    # 24 and 16 images still waited after the first two groups; 16 is not more than half of 32.
    assert summary["images"] == 32
    assert summary["images_dropped"] == 4
    assert summary["images_learnt"] == 28


def test_a_request_that_is_cancelled_while_it_waits_costs_nothing():
    with gated() as (engine, adapter, _busy):
        gone, here = submit(engine, "gone", rows(4)), submit(engine, "here", rows(4))

        assert gone.cancel()
        adapter.gate.set()

        here.result(PATIENCE_S)
        assert {stream["name"] for stream in listed(engine)} == {"busy", "here"}


def test_a_stream_too_many_is_refused():
    with running(streams={"max_streams": 1}) as engine:
        answer(engine, "first")

        with pytest.raises(Overloaded, match="'second' is new"):
            answer(engine, "second")


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
            engine.command(lambda commands: commands.list())
        adapter.gate.set()
        stopper.join(PATIENCE_S)

        assert not stopper.is_alive()
        assert all(future.result(0).probabilities.size for future in [busy, *waiting])


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


def test_when_the_device_thread_dies_nobody_waits_for_ever(monkeypatch):
    with gated() as (engine, adapter, busy):

        def die(*_args: object) -> None:
            raise RuntimeError("the end")

        waiting = submit(engine, "door", rows(1))
        command = engine.command(lambda commands: commands.list())
        monkeypatch.setattr(engine._worker, "answer", die)
        adapter.gate.set()
        busy.result(PATIENCE_S)

        with pytest.raises(NotReady, match="has died"):
            waiting.result(PATIENCE_S)
        wait([command], PATIENCE_S)
        assert command.done()
        until(lambda: "has died" in engine.trouble())
        with pytest.raises(NotReady, match="has died"):
            submit(engine, "door", rows(1))
        with pytest.raises(NotReady, match="has died"):
            engine.command(lambda commands: commands.list())


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
        command = engine.command(lambda commands: commands.list())
        leave.set()

        for future in (doomed, command):
            with pytest.raises(NotReady, match="has died"):
                future.result(PATIENCE_S)
