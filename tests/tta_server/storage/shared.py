"""Several servers on one place, stopped and killed between any two of their file operations."""

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.tta_server.storage.crashes import Crash
from tta_server.storage.owners import LostError
from tta_server.storage.places import open_files
from tta_server.storage.store import Store

STREAM = "gate"
_OPERATIONS = ("read", "write", "write_all", "create", "remove", "listing")


class Paused:
    """Files that call `before` with the operation's name ahead of each; nothing at first."""

    def __init__(self, url: str) -> None:
        self._files, self.before = open_files(url), lambda _: None

    def __getattr__(self, name):
        found = getattr(self._files, name)
        if name not in _OPERATIONS:
            return found

        def paused(*args, **kwargs):
            self.before(name)
            return found(*args, **kwargs)

        return paused


def opened(url: str, replica: str, before: Callable[[str], None] = lambda _: None, mutant: str = "") -> Store:
    """Return the store of one server; with a mutant's name, one whose protocol lacks something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tta_server.storage.store.open_files", Paused)
        store = Store(url, replica=replica)
    store.claim()
    store.files.before = before
    if mutant:
        MUTANTS[mutant](store)
    return store


def _no_exclusive_create(store: Store) -> None:
    files = store.files

    def create(path: str, data: bytes) -> bool:
        files.write(path, data)
        return True

    files.create = create


def _no_generation(store: Store) -> None:
    store.owners.next = lambda sequences, _: max(sequences, default=0) + 1


def _no_second_check(store: Store) -> None:
    expect, calls = store.owners.expect, []

    def expect_at_first(name: str, generation: int) -> None:
        calls.append(name)
        if len(calls) % 2:
            try:
                expect(name, generation)
            except LostError:
                calls.clear()
                raise

    store.owners.expect = expect_at_first


MUTANTS = {
    "without exclusive create": _no_exclusive_create,
    "without a generation in the sequence": _no_generation,
    "without the second check of a save": _no_second_check,
}


@dataclass
class History:
    """What servers said and kept, in order; `wrong` is what must not have happened."""

    wrong: list[str] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)  # tokens of saves that were confirmed, since the last deletion
    erasing: int = 0  # deletions that are under way: whether what is saved meanwhile stays, is open
    erased: set[str] = field(default_factory=set)
    versions: list[int] = field(default_factory=list)
    acquired: int = 0
    lost: int = 0

    def loaded(self, tokens: list[str], must: list[str]) -> None:
        if missing := [token for token in must if token in self.saved and token not in tokens]:
            self.wrong.append(f"confirmed saves {missing} were lost")
        if back := self.erased.intersection(tokens):
            self.wrong.append(f"{back} came back after a deletion")

    def answered(self, version: int) -> None:
        if self.versions and version <= self.versions[-1]:
            self.wrong.append(f"version {version} came after {self.versions[-1]}")
        self.versions.append(version)


class Server(threading.Thread):
    """One server: takes the stream, answers, saves and now and then erases it, until it is killed."""

    def __init__(self, url: str, name: str, history: History, seed: int, mutant: str) -> None:
        super().__init__(daemon=True)
        self._chance, self._history, self._name = random.Random(seed), history, name
        self._go, self._came = threading.Semaphore(0), threading.Semaphore(0)
        self.killed = False
        self._store = opened(url, name, self._pause, mutant)
        self._made = 0

    def step(self) -> None:
        """Let it do one file operation, and what follows until the next."""
        self._go.release()
        self._came.acquire()

    def kill(self) -> None:
        self.killed = True
        self.step()
        self.join()

    def run(self) -> None:
        try:
            self._go.acquire()
            while True:
                self._serve()
        except Crash:
            self._came.release()

    def _pause(self, _: str) -> None:
        self._came.release()
        self._go.acquire()
        if self.killed:
            raise Crash

    def _serve(self) -> None:
        """Be the owner until that is lost."""
        store, history = self._store, self._history
        before = list(history.saved)
        generation = store.owners.acquire(STREAM).generation
        history.acquired += 1
        content = json.loads(store.load(STREAM) or b'{"version": 0, "tokens": []}')
        version, tokens = max(content["version"], generation * 10**6), content["tokens"]
        try:
            store.owners.expect(STREAM, generation)  # else what was read may have been cleared away meanwhile
            history.loaded(tokens, before)
            while self._chance.random() > 0.05:
                version += 1
                if self._chance.random() < 0.5:
                    store.owners.expect(STREAM, generation)
                    history.answered(version)
                else:
                    self._made += 1
                    tokens = [*tokens, f"{self._name}-{self._made}"]
                    store.save(STREAM, version, json.dumps({"version": version, "tokens": tokens}).encode(), generation)
                    history.saved += [] if history.erasing else tokens[-1:]
            if self._chance.random() < 0.1:
                self._erase(generation)
        except LostError:
            history.lost += 1

    def _erase(self, generation: int) -> None:
        history = self._history
        known, history.saved[:] = list(history.saved), []
        history.erasing += 1
        try:
            self._store.delete(STREAM, generation)
            history.erased.update(known)
        finally:
            history.erasing -= 1


def torture(url: str, seed: int, steps: int, mutant: str = "") -> History:
    """Let three servers go on in random order; some stop for long, some die and come back under another name."""
    chance, history = random.Random(seed), History()
    servers = [Server(url, f"{seed}-{i}", history, seed * 97 + i, mutant) for i in range(3)]
    stopped = [0, 0, 0]
    for server in servers:
        server.start()
    for step in range(steps):
        place = chance.choice([i for i in range(3) if stopped[i] <= step] or [0])
        if chance.random() < 0.02:
            servers[place].kill()
            servers[place] = Server(url, f"{seed}-{place}-{step}", history, seed * 97 + step, mutant)
            servers[place].start()
        elif chance.random() < 0.05:
            stopped[place] = step + chance.randrange(5, 80)
        servers[place].step()
        if history.wrong and mutant:
            break
    for server in servers:
        server.kill()
    return history
