"""Methods of streams' own: made once, by any thread, and gone with the last stream that uses them."""

import gc
import threading

import pytest

from tests.tta_server.runtime.fakes import WHO, ask, rows, tiny, wired
from tta_server import adapters
from tta_server.guard.judge import Unguarded
from tta_server.settings import AdapterSettings
from tta_server.streams.methods import Methods

PATIENCE_S = 30


def rate(lr: float) -> AdapterSettings:
    return AdapterSettings(name="tent", settings={"lr": lr})


def test_settings_that_no_stream_has_any_more_are_gone():
    subject = wired()
    methods = subject.worker.parts.methods
    ask(subject, "door", rows(1))

    for step in range(1, 16):
        subject.commands.change("door", None, subject.method("tent", lr=step / 1000), WHO)
    gc.collect()

    assert len(methods) == 1
    subject.commands.delete("door", WHO)
    gc.collect()
    assert len(methods) == 0


def test_settings_of_a_stream_on_disk_are_kept():
    subject = wired()
    subject.commands.create("door", None, subject.method("tent", lr=0.01), WHO)
    method = subject.stream("door").method
    subject.commands.evict("door")

    assert subject.worker.parts.methods.prepare(rate(0.01)) is method
    assert subject.stream("door").method is method


def test_many_threads_make_a_method_once():
    made: list[object] = []
    backbone = tiny()
    methods = Methods(backbone, None, adapters.create("tent"), lambda adapter: made.append(adapter) or Unguarded())
    begin, found = threading.Barrier(8), []

    def prepare() -> None:
        begin.wait(PATIENCE_S)
        found.append(methods.prepare(rate(0.01)))

    threads = [threading.Thread(target=prepare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    assert len({id(method) for method in found}) == 1
    assert len(made) == 2  # the server's own, and this one


def test_a_method_that_cannot_be_made_leaves_nothing():
    methods = wired().worker.parts.methods

    with pytest.raises(ValueError, match="adapter 'adanpc' needs"):
        methods.prepare(AdapterSettings(name="adanpc"))

    assert len(methods) == 0
