"""Several servers on one place: one has a stream at a time, and nothing that is confirmed is lost."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from itertools import count

import boto3
import fsspec
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from tests.tta_server.storage.shared import MUTANTS, STREAM, opened, torture
from tta_server.storage.manifest import manifest_name
from tta_server.storage.owners import PER_GENERATION, LostError, Owners
from tta_server.storage.removal import domains_of
from tta_server.storage.store import Store

PLACES = ["disk", "s3"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An imitation of S3 that answers HTTP."""
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer(port=0, verbose=False)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs each request
        server.start()
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="states")
        yield "s3://states"
        fsspec.filesystem("s3").clear_instance_cache()
        server.stop()


@pytest.fixture
def url(request, tmp_path, monkeypatch) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cuts here, and hundreds of writes
    return str(tmp_path / "store")


on_each = pytest.mark.parametrize("url", PLACES, indirect=True)
on_disk = pytest.mark.parametrize("url", ["disk"], indirect=True)


def at(moment: str, store: Store, then: Callable[[], object]) -> None:
    """Have `then` happen once, ahead of one operation of a store, such as its first "create 1"."""
    name, _, number = moment.partition(" ")
    seen = count(1)

    def before(operation: str) -> None:
        if operation == name and next(seen) == int(number):
            then()

    store.files.before = before


def two_at_once(url: str, mutant: str) -> None:
    """A has looked who is newest; B takes the stream; A goes on."""
    first, second = opened(url, "a", mutant=mutant), opened(url, "b", mutant=mutant)
    taken = []
    moment = "write 1" if mutant else "create 1"  # what stands for an exclusive create there
    at(moment, first, lambda: taken.append(second.owners.acquire(STREAM)))

    mine = first.owners.acquire(STREAM)

    assert first.owners.owns(STREAM, mine.generation)
    assert not second.owners.owns(STREAM, taken[0].generation)


def a_record_that_comes_late(url: str, mutant: str) -> None:
    """A is about to make its record; B makes the same, C the next and clears B's away; A goes on."""
    first, second, third = (opened(url, name, mutant=mutant) for name in "abc")

    def meanwhile() -> None:
        second.owners.acquire(STREAM)
        third.owners.acquire(STREAM)

    at("create 1", first, meanwhile)

    mine = first.owners.acquire(STREAM)

    assert first.owners.owns(STREAM, mine.generation)


def stopped_in_a_save(url: str, mutant: str) -> None:
    """A has found that the stream is its own; B takes it, loads and saves; A goes on with its save, and dies or not."""
    first, second = opened(url, "a", mutant=mutant), opened(url, "b", mutant=mutant)
    mine = first.owners.acquire(STREAM).generation
    first.save(STREAM, 1, b"one", mine)
    theirs = []

    def meanwhile() -> None:
        theirs.append(second.owners.acquire(STREAM).generation)
        assert second.load(STREAM) == b"one"
        second.save(STREAM, 2, b"two of b", theirs[0])

    at("write_all 1", first, meanwhile)

    with pytest.raises(LostError):
        first.save(STREAM, 2, b"two of a", mine)
    assert second.load(STREAM) == b"two of b"
    assert [saved.sequence // PER_GENERATION for saved in second.states(STREAM)] == [mine, theirs[0]]


def dead_in_a_save(url: str, mutant: str) -> None:
    """As before, but A dies between its write and its second look: what it wrote stays, and does not count."""
    first, second = opened(url, "a", mutant=mutant), opened(url, "b", mutant=mutant)
    mine = first.owners.acquire(STREAM).generation

    class Died(BaseException):
        pass

    def meanwhile() -> None:
        theirs = second.owners.acquire(STREAM).generation
        second.save(STREAM, 2, b"two of b", theirs)
        second.save(STREAM, 3, b"three of b", theirs)

    def die(_: str, generation: int) -> None:
        if looked:
            raise Died
        looked.append(generation)

    looked, first.owners.expect = [], die
    at("listing 1", first, meanwhile)
    with pytest.raises(Died):
        first.save(STREAM, 9, b"nine of a", mine)

    third = opened(url, "c", mutant=mutant)
    third.owners.acquire(STREAM)
    assert third.load(STREAM) == b"three of b"


@on_each
def test_in_a_copy_without_the_owners_record_what_is_saved_later_counts_more(url):
    first, second = opened(url, "a"), opened(url, "b")
    for _ in range(3):
        mine = first.owners.acquire(STREAM).generation
    for version in range(3):
        first.save(STREAM, version, b"copied", mine)
    first.files.remove(f"streams/{STREAM}/owner-{mine:08d}")  # the stream moved while it was copied

    theirs = second.owners.acquire(STREAM).generation
    second.save(STREAM, 9, b"learnt since", theirs)

    assert theirs > mine
    assert opened(url, "c").load(STREAM) == b"learnt since"


INTERLEAVINGS = {
    two_at_once: "without exclusive create",
    a_record_that_comes_late: "",
    stopped_in_a_save: "without the second check of a save",
    dead_in_a_save: "without a generation in the sequence",
}


@on_each
@pytest.mark.parametrize("interleaving", INTERLEAVINGS, ids=lambda one: one.__name__)
def test_whatever_comes_between_one_server_has_the_stream(url, interleaving):
    interleaving(url, "")


@on_each
@pytest.mark.parametrize(
    "interleaving", [one for one in INTERLEAVINGS if INTERLEAVINGS[one]], ids=lambda one: one.__name__
)
def test_a_protocol_that_lacks_something_fails_there(url, interleaving):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        interleaving(url, INTERLEAVINGS[interleaving])


@on_disk
def test_a_record_made_late_would_deceive_its_server_without_a_second_look(url, monkeypatch):
    newest, looks = Owners._newest, count(1)

    def once(self, stream: str) -> int:
        found = newest(self, stream)
        return 1 if self._replica == "a" and next(looks) == 1 else found

    monkeypatch.setattr(Owners, "_newest", once)

    with pytest.raises(AssertionError):
        a_record_that_comes_late(url, "")


@pytest.mark.parametrize(("url", "steps"), [("disk", 4000), ("s3", 250)], indirect=["url"])
def test_random_stops_kills_and_deletions_lose_nothing_that_was_confirmed(url, steps):
    history = torture(url, 1, steps)

    assert not history.wrong
    assert history.acquired > steps / 100
    assert history.lost
    assert len(history.versions) > steps / 100


@on_disk
@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_same_stops_and_kills_show_what_a_protocol_lacks(url, mutant):
    assert any(torture(f"{url}/{seed}", seed, 2000, mutant).wrong for seed in range(1, 9))


@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_an_object_store_shows_it_too(url):
    assert torture(url, 6, 60, "without exclusive create").wrong  # the seed with the fewest steps: each takes its time


@on_each
def test_an_erased_stream_stays_erased_whatever_an_earlier_owner_still_writes(url):
    zombie, store = opened(url, "a"), opened(url, "b")
    old = zombie.owners.acquire(STREAM).generation
    zombie.save(STREAM, 1, b"one", old)
    zombie.save(f"{STREAM}@1", 1, b"one", old)

    store.delete(STREAM, store.owners.acquire(STREAM).generation)
    zombie.owners.expect = lambda *_: None  # it has looked, and is stopped just before it writes
    zombie.save(STREAM, 2, b"two", old)
    zombie.save(f"{STREAM}@1", 2, b"two", old)

    again = opened(url, "c")
    again.owners.acquire(STREAM)
    assert again.load(STREAM) is None
    assert again.load(f"{STREAM}@1") is None
    assert not again.snapshots(STREAM)


@on_each
def test_notes_of_snapshots_go_with_the_stream_to_its_next_owner(url):
    first, second = opened(url, "a"), opened(url, "b")
    first.snapshot(STREAM, 1, b"one", "before the storm", first.owners.acquire(STREAM).generation)

    new = second.owners.acquire(STREAM).generation
    second.save(STREAM, 2, b"two", new)
    second.save(STREAM, 3, b"three", new)

    again = opened(url, "c")
    assert [(saved.version, saved.note) for saved in again.snapshots(STREAM)] == [(1, "before the storm")]
    manifests = [found.name for found in again.files.listing(f"streams/{STREAM}") if found.name.startswith("manifest")]
    assert manifests == [manifest_name(new)]


@on_each
def test_who_has_lost_a_stream_keeps_no_window_of_it(url):
    loser, owner = opened(url, "a"), opened(url, "b")
    old = loser.owners.acquire(STREAM).generation
    loser.keep_input(f"{STREAM}@1", "0" * 16, b"learnt from", old)
    owner.owners.acquire(STREAM)

    with pytest.raises(LostError):
        loser.keep_input(f"{STREAM}@1", "1" * 16, b"learnt from in vain", old)

    assert owner.read_input(f"{STREAM}@1", "0" * 16) == b"learnt from"
    assert owner.read_input(f"{STREAM}@1", "1" * 16) is None


@on_each
def test_who_has_lost_a_stream_without_knowing_erases_nothing_of_its_new_owner(url):
    loser, owner = opened(url, "a"), opened(url, "b")
    old = loser.owners.acquire(STREAM).generation
    mine = owner.owners.acquire(STREAM).generation
    owner.save(STREAM, 1, b"learnt", mine)

    with pytest.raises(LostError):
        loser.delete(STREAM, old)

    assert owner.load(STREAM) == b"learnt"
    assert owner.owners.owns(STREAM, mine)


@on_disk
def test_two_threads_of_one_server_may_make_the_same_record(url):
    store, failed = opened(url, "a"), []

    def take(start: threading.Barrier) -> None:
        start.wait()
        try:
            store.owners.acquire(STREAM)
        except OSError as error:
            failed.append(error)

    for _ in range(50):
        start = threading.Barrier(2)
        threads = [threading.Thread(target=take, args=(start,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert not failed


def test_what_is_read_of_a_record_is_checked(tmp_path):
    store = opened(str(tmp_path), "a")
    store.owners.acquire(STREAM)
    (tmp_path / "streams" / STREAM / "owner-00000001").write_bytes(b"torn")

    with pytest.raises(OSError, match="record of generation 1 is damaged"):
        store.owners.newest(STREAM)


@pytest.mark.parametrize("url", ["s3"], indirect=True)
@pytest.mark.parametrize("replica", ["", "a"])
def test_a_start_asks_an_object_store_as_often_for_many_streams_as_for_one(url, replica, monkeypatch):
    asked, call = list[str](), s3fs.S3FileSystem._call_s3

    def counted(self, method, *args, **kwargs):
        asked.append(method)
        return call(self, method, *args, **kwargs)

    def start(path: str, names: list[str]) -> int:
        earlier = Store(path)
        for name in names:
            earlier.save(name, 1, b"state")
            earlier.save(f"{name}@2", 1, b"state")
        with monkeypatch.context() as patch:
            patch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
            asked.clear()
            store = Store(path, replica=replica)
            store.claim()
            assert store.names() == sorted([*names, *(f"{name}@2" for name in names)])
            assert domains_of(store.files, names[0]) == [f"{names[0]}@2"]
            return len(asked)

    many = [f"camera-{number:02d}" for number in range(30)]

    assert start(f"{url}/many", many) == start(f"{url}/one", many[:1]) > 0
