"""A process that saves streams without end, for others to kill.

The state of version v of a stream is a function of its name and v, so that whoever finds a state knows whether it is
what was saved. It tells ("camera", 7) when version 7 is safe on disk, ("camera", 0) before the stream is erased, and
("camera", -7) when it is gone, with version 7 as its newest.
"""

import contextlib
import hashlib
import json
import random
from functools import partial
from multiprocessing.connection import Connection

from tta_server.storage import failpoints
from tta_server.storage.audit import Audit, Entry
from tta_server.storage.keeper import Keeper
from tta_server.storage.store import Store

STREAMS = ("camera", "door", "roof", "yard")
_SEGMENT_BYTES = 20_000
_LARGEST_BYTES = 100_000


def open_store(folder: str) -> tuple[Store, Audit]:
    """Return the store and log that the process uses."""
    store = Store(folder, keep=2, keep_snapshots=2, inputs_max_bytes=50_000)
    return store, Audit(store.files, _SEGMENT_BYTES, keep=10_000)


def content(name: str, version: int) -> bytes:
    """Return the state of a version: its name and number, then up to 100 kB that follow from them."""
    filling = random.Random(f"{name} {version}")
    head = json.dumps({"stream": name, "version": version}).encode()
    return head + b"\n" + filling.randbytes(filling.randrange(_LARGEST_BYTES))


def version_of(data: bytes) -> int:
    """Return the version of a state."""
    return json.loads(data.partition(b"\n")[0])["version"]


def window(version: int) -> bytes:
    """Return the window that a version learnt from."""
    return b"%d " % version * 500


def entry(name: str, version: int) -> Entry:
    """Return the line of a version."""
    digest = hashlib.sha256(content(name, version)).hexdigest()
    return Entry(name, "commit", version - 1, version, state=digest)


class Saver:
    """Save, snapshot and erase at random."""

    def __init__(self, folder: str, seed: int, told: Connection) -> None:
        self._chance = random.Random(seed)
        self._told = told
        store, audit = open_store(folder)
        self._keeper = Keeper(store, audit, interval_s=0, retry_s=0.01)
        self._keeper.start()
        found = {name: store.load(name) for name in STREAMS}
        self._there = {name: version_of(data) for name, data in found.items() if data}
        logged = {name: [entry.version_after for entry in audit.entries(name)] for name in STREAMS}
        self._versions = {name: max(self._there.get(name, 0), *logged[name], 0) for name in STREAMS}

    def act(self) -> None:
        """Do one thing to one stream, and now and then say what is safe."""
        name, act = self._chance.choice(STREAMS), self._chance.random()
        if act < 0.02:
            self._erase(name)
        elif act < 0.05:
            with contextlib.suppress(OSError):  # a full disk; whoever asked is told
                self._keeper.snapshot(name, self._versions[name], partial(content, name, self._versions[name])).result()
        else:
            self._save(name)
        if self._chance.random() < 0.2 and self._keeper.flush(0.5):
            for each in self._there.items():
                self._told.send(each)

    def _save(self, name: str) -> None:
        self._versions[name] += 1
        version = self._versions[name]
        self._keeper.keep_input(name, f"{version:016x}", partial(window, version))
        self._keeper.record(entry(name, version))
        self._keeper.save(name, version, partial(content, name, version))
        self._there[name] = version

    def _erase(self, name: str) -> None:
        self._told.send((name, 0))
        self._there.pop(name, None)
        with contextlib.suppress(OSError):
            self._keeper.delete(name).result()
            self._told.send((name, -self._versions[name]))


def save(folder: str, seed: int, points: str, told: Connection) -> None:
    """Go on until killed, with failpoints armed."""
    failpoints.arm(points)
    saver = Saver(folder, seed, told)
    while True:
        saver.act()
