"""Streams that were not read yet: who lists or switches them holds nobody up, and reads nobody else's."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from tests.tta_server.calls import PATIENCE_S, UNGUARDED, glyph_images
from tests.tta_server.runtime.fakes import WHO, Wired, ask, close, learn_all, rows, submit, wired
from tta_server.api import streams as routes
from tta_server.app import build
from tta_server.settings_file import load_settings
from tta_server.streams.files.shelf import Shelf
from tta_server.streams.stock import Stock

NAMES = [f"camera-{number}" for number in range(6)]


@pytest.fixture
def subject(tmp_path) -> Iterator[Wired]:
    """What has six streams on disk, and has read none of them but the one that it looked at to start."""
    before = wired(storage=str(tmp_path))
    for name in NAMES:
        ask(before, name, rows(4))
        learn_all(before)
    before.commands.save()
    close()
    yield wired(storage=str(tmp_path))
    close()


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """Count which names are read."""
    counted, find = Counter[str](), Shelf.find
    monkeypatch.setattr(Shelf, "find", lambda shelf, name, *how: counted.update([name]) or find(shelf, name, *how))
    return counted


def test_a_list_whose_time_is_over_goes_on_where_it_was(subject, reads):
    found, parts, left = [], 0, ""
    while left is not None:
        part = subject.commands.list(after=left, within_s=0)
        found, left, parts = [*found, *part.streams], part.left, parts + 1
        assert reads.total() <= parts

    assert [each["name"] for each in found] == NAMES
    assert all(each["steps"] for each in found)
    assert subject.commands.list().streams == found


def test_a_list_ends_with_its_page_and_not_with_its_time(subject, reads):
    listed = subject.commands.list(limit=2)

    assert [each["name"] for each in listed.streams] == NAMES[:2]
    assert listed.left is None
    assert set(reads) == set(NAMES[:2])


def test_who_may_see_one_stream_has_no_other_read(subject, reads):
    listed = subject.commands.list(named=lambda name: name == "camera-3")

    assert [each["name"] for each in listed.streams] == ["camera-3"]
    assert set(reads) == {"camera-3"}


def test_a_switch_of_all_streams_reads_none_and_holds_for_all(subject, reads):
    subject.commands.read("camera-1")
    reads.clear()

    told = subject.commands.change_all("shadow", WHO)

    assert told == {"mode": "shadow", "streams": {"shadow": 1}, "unread": 5}
    assert not reads
    assert {each["mode"] for each in subject.commands.list().streams} == {"shadow"}
    assert subject.commands.change_all(None, WHO) == {"mode": "configured", "streams": {"after": 6}, "unread": 0}


@pytest.mark.parametrize(("asked", "next_s"), [(True, 15.0), (False, 10.5)])
def test_while_requests_come_a_tenth_of_the_time_goes_into_streams_that_nobody_asks_for(
    subject, reads, monkeypatch, asked, next_s
):
    times = iter((10.0, 10.5))  # a read begins and ends
    monkeypatch.setattr("tta_server.streams.stock.time", SimpleNamespace(monotonic=lambda: next(times)))

    subject.worker.read_on(asked)

    assert len(reads) == 1
    assert subject.worker.unread_s == pytest.approx(next_s)


def test_what_is_not_due_is_not_read(subject, reads):
    subject.worker.parts.registry._read_on_s = math.inf

    subject.worker.read_on(asked=False)

    assert not reads


def test_all_are_read_after_the_last_request_though_nobody_asks_for_them(tmp_path, monkeypatch):
    config = {"model": {"device": "cpu"}, "guard": UNGUARDED, "storage": {"url": str(tmp_path)}}
    with TestClient(build(load_settings(None, config)).app) as client:
        for name in NAMES:
            client.post("/v1/streams", json={"name": name}).raise_for_status()
    service = build(load_settings(None, config))
    registry = service.served.engine._worker.parts.registry

    with TestClient(service.app):
        submit(service.served.engine, "other", glyph_images(0, 1)).result(PATIENCE_S)
        end_s = time.monotonic() + PATIENCE_S
        while registry.count_unread() and time.monotonic() < end_s:
            time.sleep(0.01)

        assert not registry.count_unread()


def test_requests_are_answered_while_streams_are_read_for_a_list(tmp_path, monkeypatch):
    config = {"model": {"device": "cpu"}, "guard": UNGUARDED, "storage": {"url": str(tmp_path)}, "domains": {"max": 1}}
    happened, answers, find = [], [], Shelf.find
    monkeypatch.setattr(routes, "_PART_S", 0.0)
    monkeypatch.setattr(Stock, "unread_s", math.inf)  # nothing is read that nobody asks for

    with TestClient(build(load_settings(None, config)).app) as client:
        for name in NAMES:
            client.post("/v1/streams", json={"name": name}).raise_for_status()
    service = build(load_settings(None, config))

    def found(shelf: Shelf, name: str, *how: object) -> object:
        if not happened:
            answers.append(submit(service.served.engine, "other", glyph_images(0, 1)))
            answers[0].add_done_callback(lambda _: happened.append("answer"))
        happened.append("read")
        return find(shelf, name, *how)

    with TestClient(service.app) as client:
        monkeypatch.setattr(Shelf, "find", found)
        page = client.get("/v1/streams?in_memory=false").json()
        answers[0].result(PATIENCE_S)

    assert ([each["name"] for each in page["streams"]], page["next"]) == (NAMES, None)
    assert happened.index("answer") < len(happened) - 1
