"""What could not be erased is erased later, never comes back, and takes nothing with it that somebody wrote since."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tta_server.storage.crashes import Crash, armed
from tests.tta_server.storage.keepers import SOON_S, text
from tta_server.storage.audit import Audit
from tta_server.storage.keeper import Keeper
from tta_server.storage.owners import LostError
from tta_server.storage.store import Store

STREAM, DOMAIN = "gate", "gate@1"
REPLICAS = pytest.mark.parametrize("replica", ["", "a"])


@contextmanager
def opened(root: Path, replica: str = "") -> Iterator[Store]:
    store = Store(str(root), replica=replica)
    store.claim()
    yield store
    store.release()


@contextmanager
def stuck(monkeypatch: pytest.MonkeyPatch, store: Store, names: str = DOMAIN) -> Iterator[None]:
    """Have no file be removed in whose path the name is."""
    remove = store.files.remove

    def removed(path: str) -> None:
        if names in path:
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(store.files, "remove", removed)
        yield


def taught(store: Store) -> int:
    """Have files of a stream and of a domain of it; returns with which generation."""
    generation = store.take(STREAM)[0] if store.replica else 0
    for version in (1, 2):
        for name in (STREAM, DOMAIN):
            store.save(name, version, b"%d" % version, generation)
    store.keep_input(DOMAIN, "0" * 16, b"window", generation)
    return generation


def left(root: Path) -> list[str]:
    """Return the files that are left but for records of owners."""
    there = (file for _, _, files in os.walk(root / "streams") for file in files)
    return sorted(file for file in there if not file.startswith("owner-"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


# One server
def test_a_stream_whose_domain_cannot_be_erased_does_not_come_back(root, monkeypatch):
    with opened(root) as store, stuck(monkeypatch, store):
        taught(store)
        with pytest.raises(PermissionError):
            store.delete(STREAM)

    with opened(root) as again:
        assert again.names() == []
    assert left(root) == []


def test_a_domain_without_a_file_of_its_stream_goes_with_that(root, monkeypatch):
    with opened(root) as store, stuck(monkeypatch, store):
        store.save(DOMAIN, 1, b"1")
        with pytest.raises(PermissionError):
            store.delete(STREAM)

    with opened(root) as again:
        assert again.names() == []
    assert left(root) == []


def test_what_cannot_be_erased_at_the_start_does_not_prevent_it_and_is_tried_again(root, monkeypatch):
    with opened(root) as store, stuck(monkeypatch, store):
        taught(store)
        with pytest.raises(PermissionError):
            store.delete(STREAM)
    again = Store(str(root))
    keeper = Keeper(again, Audit(again.files), interval_s=0, retry_s=0.001)

    with stuck(monkeypatch, again):
        keeper.start()
        assert again.names() == []
        assert keeper.read(DOMAIN) is None
        keeper.save("gate@2", 1, text("of a new stream of that name"))

    assert keeper.flush(SOON_S)
    assert [name for name in left(root) if "state-" in name] == [again.states("gate@2")[0].id + ".safetensors"]
    keeper.close(SOON_S)


@REPLICAS
def test_one_failure_is_told_and_the_files_go_soon(root, replica):
    store = Store(str(root), replica=replica)
    keeper = Keeper(store, Audit(store.files), interval_s=0, retry_s=0.01)
    keeper.start()
    generation = taught(store)

    with armed("store.before_remove=3:eio"):
        with pytest.raises(OSError, match="Input/output error"):
            keeper.delete(STREAM, generation).result(SOON_S)
        while left(root):
            assert keeper._thread.is_alive()

    assert keeper.close(SOON_S)


# Several servers
def test_what_is_left_in_a_shared_place_holds_nothing_up(root, monkeypatch):
    store = Store(str(root), replica="a")
    keeper = Keeper(store, Audit(store.files), interval_s=0, retry_s=30)
    keeper.start()
    generation = taught(store)
    with stuck(monkeypatch, store):
        with pytest.raises(PermissionError):
            keeper.delete(STREAM, generation).result(SOON_S)

        new = store.take(STREAM)[0]
        keeper.save(STREAM, 9, text("new"), new)
        assert keeper.flush(SOON_S)

    assert store.load(STREAM) == b"new"
    assert keeper.failures == 0
    keeper.close(SOON_S)


def test_after_a_kill_whoever_takes_the_stream_clears_away_what_was_left(root):
    with opened(root, "a") as store:
        generation = taught(store)
        with armed("store.before_remove=4"), pytest.raises(Crash):
            store.delete(STREAM, generation)
        assert left(root)

    with opened(root, "b") as other:
        assert other.may_exist(STREAM)
        assert other.take(STREAM)[1:] == (True, [])
        assert left(root) == []
        other.delete(STREAM, 3)
        assert not other.may_exist(STREAM)


def test_files_of_a_domain_alone_are_known_to_be_left(root, monkeypatch):
    with opened(root, "a") as store:
        generation = taught(store)
        store.delete(STREAM, generation)
        store.files.write(f"streams/{DOMAIN}/state-1000000001-v1-0123456789abcdef.safetensors", b"written late")
        assert store.may_exist(STREAM)

        with stuck(monkeypatch, store):
            taken = store.take(STREAM)
        assert taken == (3, True, [DOMAIN])
        store.delete(STREAM, 3)

        assert left(root) == []
        assert not store.may_exist(STREAM)


def test_nothing_that_a_newer_owner_wrote_goes_when_an_erasure_is_tried_again(root, monkeypatch):
    with opened(root, "a") as store, opened(root, "b") as other:
        generation = taught(store)
        with stuck(monkeypatch, store), pytest.raises(PermissionError):
            store.delete(STREAM, generation)
        with stuck(monkeypatch, other):
            newer = other.take(STREAM)[0]
        for name in (STREAM, DOMAIN):
            other.save(name, 3, b"newer", newer)
            other.snapshot(name, 3, b"newer", "a note", newer)
            other.keep_input(name, "1" * 16, b"newer", newer)

        store.delete(STREAM, generation)
        store.delete(DOMAIN, generation)

        for name in (STREAM, DOMAIN):
            assert other.load(name) == b"newer"
            assert [saved.note for saved in other.snapshots(name)] == ["a note"]
            assert other.read_input(name, "1" * 16) == b"newer"
        assert not [name for name in left(root) if name.startswith("state-00000000010")]
        assert other.owners.owns(STREAM, newer)


def test_an_erasure_that_was_not_written_down_takes_nothing_that_the_same_server_wrote_since(root):
    with opened(root, "a") as store:
        generation = taught(store)
        newer = store.take(STREAM)[0]
        store.save(STREAM, 3, b"newer", newer)

        with pytest.raises(LostError):
            store.delete(STREAM, generation)

        assert store.load(STREAM) == b"newer"
