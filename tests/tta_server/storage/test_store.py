"""What a store keeps, and what it refuses."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.tta_server.storage.crashes import Crash, armed
from tests.tta_server.storage.stores import reopened
from tta_server.storage.failpoints import POINTS
from tta_server.storage.store import Store

FUZZ = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
STORE_POINTS = [point for point in POINTS if point.startswith("store.")]
names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True).filter(lambda name: name.strip("."))


def test_a_state_comes_back_as_it_was(store, url):
    store.save("camera", 7, b"seven")

    assert Store(url).load("camera") == b"seven"
    assert store.names() == ["camera"]


def test_a_stream_may_be_called_like_a_folder_of_the_store(store):
    for name in ("streams", "inputs", "audit", "erased", "manifest.json", "lock"):
        store.save(name, 1, name.encode())
        store.keep_input(name, "0" * 16, b"window")

    assert {name: store.load(name) for name in store.names()} == {
        name: name.encode() for name in ("streams", "inputs", "audit", "erased", "manifest.json", "lock")
    }


def test_an_unknown_stream_has_nothing(store):
    assert store.load("nobody") is None
    assert store.snapshots("nobody") == []
    assert store.read("nobody", "state-00000001-v1-0123456789abcdef") is None
    assert store.names() == []
    assert store.inputs_bytes("nobody") == 0


def test_an_open_store_that_is_not_claimed_writes_nothing(tmp_path):
    store = Store(str(tmp_path / "store"))

    assert store.names() == []
    assert list(tmp_path.iterdir()) == []


@FUZZ
@given(kept=st.dictionaries(names, st.binary(max_size=50), max_size=5))
def test_streams_do_not_disturb_one_another(kept):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)

        for name, data in kept.items():
            store.save(name, 1, data)

        assert {name: store.load(name) for name in store.names()} == kept


def test_the_newest_states_and_snapshots_are_kept(url):
    store = Store(url, keep=2, keep_snapshots=1)

    for version in range(5):
        store.save("camera", version, b"%d" % version)
        store.snapshot("camera", version, b"snapshot %d" % version, note=f"before {version}")

    assert [saved.version for saved in store.states("camera")] == [3, 4]
    assert [(saved.version, saved.note) for saved in store.snapshots("camera")] == [(4, "before 4")]
    assert store.load("camera") == b"4"
    assert len(store.files.listing("streams/camera")) == 4  # the manifest of the snapshot too


def test_a_snapshot_is_read_by_its_id_and_is_no_state(store):
    id = store.snapshot("camera", 3, b"three")

    assert store.read("camera", id) == b"three"
    assert store.load("camera") is None


@pytest.mark.parametrize(
    "id", ["", "../camera/manifest", "state-1", "manifest.json", "snapshot-00000001-v3-" + "0" * 16]
)
def test_an_id_that_is_none_reads_nothing(store, id):
    store.snapshot("camera", 3, b"three")

    assert store.read("camera", id) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\0", "a" * 65, "café", "a\n"])
def test_a_name_that_is_no_stream_never_becomes_a_path(store, name):
    for call in (
        lambda: store.save(name, 1, b""),
        lambda: store.snapshot(name, 1, b""),
        lambda: store.load(name),
        lambda: store.delete(name),
        lambda: store.read(name, ""),
        lambda: store.keep_input(name, "0" * 16, b""),
        lambda: store.read_input(name, "0" * 16),
    ):
        with pytest.raises(ValueError, match="stream name"):
            call()


@pytest.mark.parametrize("digest", ["", "../x", "0" * 15, "0" * 65, "G" * 16])
def test_a_digest_that_is_none_never_becomes_a_path(store, digest):
    with pytest.raises(ValueError, match="must be 16 to 64 hexadecimal digits"):
        store.keep_input("camera", digest, b"")


def test_a_state_is_one_file_and_the_manifest_says_when_and_why_each_snapshot_was_taken(local, tmp_path):
    folder = tmp_path / "store/streams/camera"
    state = local.save("camera", 7, b"seven")
    assert [path.name for path in folder.iterdir()] == [f"{state}.safetensors"]

    id = local.snapshot("camera", 7, b"seven", note="before the storm")
    written = (folder / "manifest.json").stat().st_mtime_ns
    local.save("camera", 8, b"eight")

    (entry,) = json.loads((folder / "manifest.json").read_text())["entries"]
    assert (folder / "manifest.json").stat().st_mtime_ns == written
    assert (entry["id"], entry["version"], entry["size_bytes"]) == (id, 7, 5)
    assert (entry["note"], entry["sha256"]) == ("before the storm", hashlib.sha256(b"seven").hexdigest())


def test_a_manifest_of_every_file_is_read_as_older_servers_wrote_it(local, tmp_path):
    id = local.snapshot("camera", 7, b"seven", note="before the storm")
    state = local.save("camera", 8, b"eight")
    path = tmp_path / "store/streams/camera/manifest.json"
    content = json.loads(path.read_text())
    of_state = content["entries"][0] | {"id": state, "kind": "state", "version": 8, "note": ""}
    path.write_text(json.dumps(content | {"current": state, "entries": [*content["entries"], of_state]}))

    local.save("camera", 9, b"nine")

    assert [(saved.id, saved.note) for saved in local.snapshots("camera")] == [(id, "before the storm")]
    assert [saved.version for saved in local.states("camera")] == [8, 9]
    assert local.load("camera") == b"nine"


def test_deleting_a_stream_erases_its_folder(store):
    store.save("camera", 1, b"one")
    store.snapshot("camera", 1, b"one")
    store.keep_input("camera", "0" * 16, b"window")
    store.save("door", 1, b"door")

    store.delete("camera")
    store.delete("camera")

    assert store.names() == ["door"]
    assert store.load("camera") is None
    assert store.read_input("camera", "0" * 16) is None
    assert [found.name for found in store.files.listing("streams")] == ["door"]


def test_windows_are_kept_up_to_the_limit_and_the_oldest_go_first(tmp_path):
    store = Store(str(tmp_path), inputs_max_bytes=30)

    for number in range(5):
        store.keep_input("camera", f"{number:016x}", b"x" * 10)

    assert [store.read_input("camera", f"{number:016x}") is not None for number in range(5)] == [False] * 2 + [True] * 3


def test_the_size_of_windows_is_told_of_one_stream_and_of_windows_alone(store):
    store.save("door", 1, b"12345")
    for number in range(2):
        store.keep_input("door", f"{number:016x}", b"window")
    store.keep_input("camera", "0" * 16, b"window")

    assert store.inputs_bytes("door") == 12


def test_two_servers_cannot_have_one_folder(local, tmp_path):
    with pytest.raises(ValueError, match="is in use by another server; give each its own"):
        Store(str(tmp_path / "store")).claim()


def test_files_are_for_the_server_alone(local, tmp_path):
    local.save("camera", 1, b"one")

    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "store").rglob("*") if path.is_file()} == {0}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/x", "'s3://bucket/x' needs s3fs; install tta-server\\[s3\\]"),
        ("gs://bucket/x", "'gs://bucket/x' needs gcsfs; install tta-server\\[gs\\]"),
        ("nowhere://x", "'nowhere://x' cannot be used: Protocol not known: nowhere"),
    ],
)
def test_a_place_that_cannot_be_reached_is_refused_in_one_line(url, message, monkeypatch):
    monkeypatch.delitem(_registry, url.partition(":")[0], raising=False)  # as if nobody had used it before
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)

    with pytest.raises(ValueError, match=f"^storage.url {message}$"):
        Store(url)


def test_an_object_store_that_cannot_be_written_is_refused_at_the_start(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError("Access Denied")

    store = Store("memory://bucket/tta")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refuse)

    with pytest.raises(ValueError, match="storage 'memory://bucket/tta' cannot be written: Access Denied"):
        store.claim()


@pytest.mark.parametrize(("keep", "snapshots"), [(1, 1), (2, 0)])
def test_a_store_that_keeps_too_little_is_refused(tmp_path, keep, snapshots):
    with pytest.raises(ValueError, match="expected at least 2 and 1"):
        Store(str(tmp_path), keep=keep, keep_snapshots=snapshots)


class Life(RuleBasedStateMachine):
    """Whatever is done in whatever order, with crashes anywhere in it, the store holds what was acknowledged."""

    @initialize()
    def start(self):
        self.folder = tempfile.mkdtemp()
        self.store = Store(self.folder, keep=2)
        self.store.claim()
        self.version = 0
        self.allowed: dict[str, set[bytes | None]] = {}

    @rule(
        name=st.sampled_from(["a", "b"]), crash=st.none() | st.tuples(st.sampled_from(STORE_POINTS), st.integers(1, 6))
    )
    def save(self, name, crash):
        self.version += 1
        data = b"%d" % self.version
        if self._survives(lambda: self.store.save(name, self.version, data), crash):
            self.allowed[name] = {data}
        else:
            self.allowed[name] = self.allowed.get(name, {None}) | {data}
            self._settle(name)

    @rule(
        name=st.sampled_from(["a", "b"]), crash=st.none() | st.tuples(st.sampled_from(STORE_POINTS), st.integers(1, 6))
    )
    def delete(self, name, crash):
        if self._survives(lambda: self.store.delete(name), crash):
            self.allowed[name] = {None}
        else:
            self.allowed[name] = self.allowed.get(name, {None}) | {None}
            self._settle(name)

    @precondition(lambda self: self.version)
    @rule()
    def restart(self):
        self.store = reopened(self.store, Path(self.folder))

    @invariant()
    def holds_what_was_acknowledged(self):
        for name, allowed in getattr(self, "allowed", {}).items():
            assert self.store.load(name) in allowed

    def teardown(self):
        self.store.release()
        shutil.rmtree(self.folder)

    def _survives(self, act, crash) -> bool:
        with armed(f"{crash[0]}={crash[1]}" if crash else ""):
            try:
                act()
            except Crash:
                self.store = reopened(self.store, Path(self.folder))
                return False
        return True

    def _settle(self, name):
        """After a restart it is one or the other for good."""
        found = self.store.load(name)
        assert found in self.allowed[name]
        self.allowed[name] = {found}


TestLife = Life.TestCase
TestLife.settings = settings(deadline=None, max_examples=60, stateful_step_count=15)
