"""At the end each model is stopped once, whatever the system has left."""

import threading
from collections import Counter

import pytest

from tta_server.runtime.roster import Roster


class Model:
    """One that counts how often it is stopped, and stops only once all of its kind are at it."""

    def __init__(self, name: str, stops: Counter, together: threading.Barrier | None = None) -> None:
        self.name, self._stops, self._together = name, stops, together

    def stop(self) -> None:
        if self._together:
            self._together.wait(30)
        self._stops[self.name] += 1


def roster(stops: Counter, together: threading.Barrier | None = None) -> Roster:
    return Roster({name: Model(name, stops, together) for name in "abc"})


def test_models_are_stopped_side_by_side_and_once_each():
    stops = Counter()

    roster(stops, threading.Barrier(3)).stop()

    assert stops == {"a": 1, "b": 1, "c": 1}


def test_where_the_system_has_no_thread_models_are_stopped_all_the_same(monkeypatch: pytest.MonkeyPatch):
    def none(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    stops = Counter()
    monkeypatch.setattr(threading.Thread, "start", none)

    roster(stops).stop()

    assert stops == {"a": 1, "b": 1, "c": 1}
