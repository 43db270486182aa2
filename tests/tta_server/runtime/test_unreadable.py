"""A storage that cannot be read for a while: whoever asks hears so and is answered later; no stream is set aside."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tta_server.runtime.engines import PATIENCE_S
from tests.tta_server.runtime.fakes import WHO, Wired, ask, dark, rows, value, wired
from tests.tta_server.runtime.told_apart import SCRIPT, show, telling
from tta_server.errors import NotFound, NotReady
from tta_server.storage.store import Store

AGAIN = "cannot be read now: .*Permission denied.*; ask again"


@pytest.fixture
def unreadable(monkeypatch) -> Callable[[str], None]:
    """Have a stream's file be readable no more; an empty name has all be again."""
    load, which = Store.load, [""]

    def loaded(store: Store, name: str) -> bytes | None:
        if name == which[0]:
            raise PermissionError(13, "Permission denied")
        return load(store, name)

    monkeypatch.setattr(Store, "load", loaded)
    return lambda name: which.__setitem__(0, name)


def aside(subject: Wired) -> float:
    return value(subject.metrics, "tta_streams_set_aside")


def written(subject: Wired) -> None:
    subject.commands.save()
    assert subject.kept.keeper.flush(PATIENCE_S)


def unread(folder: Path, unreadable: Callable[[str], None]) -> Wired:
    """Return a server that finds a stream on disk, has not read it yet, and cannot."""
    first = wired(storage=str(folder))
    ask(first, "door", rows(3))
    written(first)
    first.kept.keeper.close()
    unreadable("door")
    subject = wired(storage=str(folder))
    with pytest.raises(NotReady, match=AGAIN):
        ask(subject, "door", rows(1))
    return subject


def test_a_stream_that_was_on_disk_is_answered_once_it_can_be_read(tmp_path, unreadable):
    subject = wired(storage=str(tmp_path))
    ask(subject, "door", rows(3))
    subject.commands.evict("door")
    assert subject.kept.keeper.flush(PATIENCE_S)
    unreadable("door")

    for _ in range(2):
        with pytest.raises(NotReady, match=AGAIN):
            ask(subject, "door", rows(1))
    with pytest.raises(NotReady, match=AGAIN):
        subject.commands.read("door")
    assert ask(subject, "roof", rows(1)).version == 0
    assert [(each["name"], each["trouble"]) for each in subject.commands.list().streams] == [("door", ""), ("roof", "")]
    unreadable("")

    ask(subject, "door", rows(1))
    assert aside(subject) == 0
    assert subject.commands.read("door")["images"] == 4


def test_a_stream_that_was_not_read_yet_is_listed_with_the_reason_and_read_later(tmp_path, unreadable):
    subject = unread(tmp_path, unreadable)
    (listed,) = subject.commands.list().streams
    assert (listed["name"], listed["images"]) == ("door", 0)
    assert "ask again" in listed["trouble"]
    unreadable("")

    ask(subject, "door", rows(1))
    assert aside(subject) == 0
    assert [(each["trouble"], each["images"]) for each in subject.commands.list().streams] == [("", 4)]


def test_what_cannot_be_read_while_there_is_nothing_to_do_is_not_tried_without_end(tmp_path, unreadable, caplog):
    first = wired(storage=str(tmp_path))
    for name in ("door", "roof"):
        ask(first, name, rows(3))
    written(first)
    first.kept.keeper.close()
    unreadable("door")

    subject = wired(storage=str(tmp_path))
    subject.worker.read_on(asked=False)

    assert subject.worker.unread_s > time.monotonic()
    assert caplog.text.count("cannot be read now") == 1
    subject.worker.parts.registry._read_on_s = 0.0
    assert subject.worker.unread_s == 0.0
    subject.worker.read_on(asked=False)  # the other one's turn
    assert list(subject.worker.parts.registry._unread) == ["door"]


def taught(folder: Path) -> list[str]:
    """Have a stream with domains on disk; return their names."""
    first = telling(storage=str(folder))
    show(first, SCRIPT)
    domains = first.worker.parts.registry.domain_names("door")
    assert "door@1" in domains
    written(first)
    first.kept.keeper.close()
    return domains


@pytest.mark.parametrize("cut", range(2, len(SCRIPT)))
def test_a_domain_that_cannot_be_read_costs_its_stream_one_request(tmp_path: Path, cut: int, unreadable):
    expected = show(telling(), SCRIPT)
    subject = telling(storage=str(tmp_path))
    show(subject, SCRIPT[:cut])
    subject.commands.evict("door")
    assert subject.kept.keeper.flush(PATIENCE_S)
    unreadable("door@1")

    for _ in range(2):
        try:
            ask(subject, "door", dark(1, 999))
        except NotReady:
            break
    else:
        pytest.fail("nothing of that domain was asked for")
    unreadable("")

    found = show(subject, SCRIPT[cut:], cut)
    assert aside(subject) == 0
    assert [answer.domains for answer in found] == [answer.domains for answer in expected[cut:]]


def test_a_stream_that_can_never_be_read_can_be_deleted(tmp_path, unreadable):
    subject = unread(tmp_path, unreadable)
    subject.commands.delete("door", WHO).result(PATIENCE_S)

    assert (aside(subject), subject.commands.list().streams) == (0, [])
    assert subject.kept.store.names() == []
    with pytest.raises(NotFound):
        subject.commands.read("door")
    assert ask(subject, "door", rows(1)).version == 0
    assert subject.commands.read("door")["images"] == 1


@pytest.mark.parametrize("lost", ["door", "door@1"])
def test_a_stream_with_a_file_that_can_never_be_read_is_deleted_with_its_domains(tmp_path, lost, unreadable):
    taught(tmp_path)
    unreadable(lost)

    subject = telling(storage=str(tmp_path))
    subject.commands.delete("door", WHO).result(PATIENCE_S)

    assert subject.kept.keeper.flush(PATIENCE_S)
    assert subject.kept.store.names() == []
    assert (aside(subject), value(subject.metrics, "tta_domains")) == (0, 0)


def test_of_a_stream_the_one_domain_that_can_never_be_read_can_be_deleted(tmp_path, unreadable):
    domains = taught(tmp_path)
    unreadable("door@1")

    subject = telling(storage=str(tmp_path))
    with pytest.raises(NotReady, match=AGAIN):
        subject.commands.read("door")
    subject.commands.delete("door@1", WHO).result(PATIENCE_S)

    assert aside(subject) == 0
    assert subject.worker.parts.registry.domain_names("door") == [name for name in domains if name != "door@1"]
    assert ask(subject, "door", dark(1, 999)).version >= 0


def test_of_a_stream_that_cannot_be_read_no_domain_is_deleted(tmp_path, unreadable):
    taught(tmp_path)
    unreadable("door")

    subject = telling(storage=str(tmp_path))
    with pytest.raises(NotReady, match=AGAIN):
        subject.commands.delete("door@1", WHO)

    unreadable("")
    assert subject.commands.read("door@1")["name"] == "door@1"
    assert aside(subject) == 0


def test_a_snapshot_that_cannot_be_read_can_be_gone_back_to_later(tmp_path, monkeypatch):
    subject = wired(storage=str(tmp_path))
    ask(subject, "door", rows(3))
    id = subject.commands.states.snapshot("door", "").result(PATIENCE_S)

    def fails(*_about: str) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(subject.kept.store, "read", fails)
        with pytest.raises(NotReady, match="cannot be read now"):
            subject.commands.states.restore("door", id, WHO)
    assert subject.commands.states.restore("door", id, WHO)["name"] == "door"
