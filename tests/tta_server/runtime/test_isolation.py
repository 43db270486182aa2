"""Streams under arbitrary interleavings: each behaves as if it had a server of its own, and its books are right.

Every stream has a twin, a worker that only ever saw the requests and commands of that stream and never moves it to
disk. After each operation the two must be equal bit for bit. States are not stacked here, because a stack of two
rounds differently than one alone.
"""

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.tta_server.runtime.fakes import SHAPE, WHO, BlindToWhite, Scripted, Wired, ask, queued, rows, tiny, wired
from tta_server.adapters.checkpoint import state_digest
from tta_server.errors import TTAError
from tta_server.models import Backbone
from tta_server.runtime.job import Piece
from tta_server.streams.stream import Stream

NAMES = "abc"
WORDS = ("pass", "commit", "skip", "reject", "commit/source", "fail", "commit", "rollback", "skip/source", "reset")
CHANGES = {"pass", "commit", "rollback", "reset"}
MEANS = ("entropy_ratio", "confidence_ratio")
PROBE = rows(2, 4242)
WHITE = np.ones((2, *SHAPE), np.float32)  # the network's answer to it is not a number
BLACK = np.zeros((2, *SHAPE), np.uint8)  # of one colour

modes = st.sampled_from(["after", "inline", "shadow", "off"])
streams = st.sampled_from(NAMES)


def worker(words: tuple[str, ...], answers: Backbone) -> Wired:
    limits = {"duplicate_memory": 8, "max_client_share": 0.75, "history_bytes": 2_000}
    network, limits = tiny(BlindToWhite), limits | {"answers": answers}
    return wired(window=4, backbone=network, judge=Scripted(words), engine={"stack_rows": 0}, **limits)


def frozen(answers: Backbone) -> np.ndarray:
    return answers.forward(torch.from_numpy(PROBE).float() / 255).logits.softmax(1).numpy()


@dataclass
class Life:
    """What is known of one stream.

    Attributes:
        twin: The worker that it has for itself.
        version: Its version, by counting.
        offered: Images offered for learning.
        digests: Its states by version.
        said: What its states say of the probe, by version.
        snapshots: Snapshots here and in the twin, and the version they are of.
    """

    twin: Wired
    version: int = 0
    offered: int = 0
    digests: dict[int, str] = field(default_factory=dict)
    said: dict[int, bytes] = field(default_factory=dict)
    snapshots: list[tuple[str, str, int]] = field(default_factory=list)


class Server(RuleBasedStateMachine):
    """Requests, good and bad, and commands for three streams."""

    answers: Backbone = tiny(BlindToWhite)

    @initialize(turn=st.integers(0, len(WORDS) - 1))
    def start(self, turn: int) -> None:
        self.words = WORDS[turn:] + WORDS[:turn]
        self.subject = worker(self.words, self.answers)
        self.lives: dict[str, Life] = {}

    # Requests
    @rule(name=streams, count=st.integers(1, 6), seed=st.integers(0, 30), client=st.sampled_from("xy"))
    def a_request_comes(self, name: str, count: int, seed: int, client: str) -> None:
        self._ask(name, rows(count, seed), client)

    @rule(name=streams, images=st.sampled_from([WHITE, BLACK]))
    def a_bad_request_comes(self, name: str, images: np.ndarray) -> None:
        self._ask(name, images, "bad")

    @rule(wanted=st.lists(st.tuples(streams, st.integers(1, 3), st.integers(0, 30)), min_size=2, max_size=4))
    def requests_come_together(self, wanted: list[tuple[str, int, int]]) -> None:
        wanted = [one for one in wanted if self._mode(one[0]) != "inline"]  # they learn one by one, as above
        jobs = [queued(name, rows(count, seed), time.monotonic(), "x") for name, count, seed in wanted]
        for name, _, _ in wanted:
            self._live(name)
        self.subject.worker.answer(jobs)
        for job, (name, count, seed) in zip(jobs, wanted, strict=True):
            found, expected = job.future.result(0), ask(self.lives[name].twin, name, rows(count, seed), "x")
            assert np.allclose(found.probabilities, expected.probabilities, atol=1e-5)  # another batch shape
            assert (found.version, found.adapted) == (expected.version, expected.adapted)
            self._offer(name, count)

    # Learning
    @rule()
    def the_window_that_is_due_longest_is_learnt_from(self) -> None:
        due = self._due()
        if due:
            with self._step(due[1]):
                for each in (self.subject, self.lives[due[1]].twin):
                    each.worker.learn(time.monotonic())

    @rule()
    def the_window_that_is_due_longest_is_shed(self) -> None:
        due = self._due()
        if due:
            for each in (self.subject, self.lives[due[1]].twin):
                each.worker.shed(time.monotonic())

    # Commands
    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def a_stream_is_reset(self, data: st.DataObject) -> None:
        name = self._any(data)
        self._command(name, lambda commands: commands.reset(name, WHO))
        self.lives[name].version += 1
        assert self._stream(name).state is self._stream(name).method.initial
        assert self._probe(name) == frozen(self.answers).tobytes()

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def a_stream_is_rolled_back(self, data: st.DataObject) -> None:
        name = self._any(data)
        versions = self._stream(name).history.versions
        if versions:
            version, life = data.draw(st.sampled_from(versions)), self.lives[name]
            self._command(name, lambda commands: commands.rollback(name, version, WHO))
            life.version += 1
            assert state_digest(self._stream(name).state) == life.digests[version]
            assert self._say(name) == life.said[version]

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def a_snapshot_is_kept(self, data: st.DataObject) -> None:
        name = self._any(data)
        here, there = (
            each.commands.states.snapshot(name, "").result(30) for each in (self.subject, self.lives[name].twin)
        )
        self.lives[name].snapshots.append((here, there, self.lives[name].version))

    @precondition(lambda self: any(life.snapshots for life in self.lives.values()))
    @rule(data=st.data())
    def a_snapshot_is_restored(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, life in self.lives.items() if life.snapshots]))
        life = self.lives[name]
        here, there, version = data.draw(st.sampled_from(life.snapshots))
        for each, snapshot in ((self.subject, here), (life.twin, there)):
            each.commands.states.restore(name, snapshot, WHO)
        life.version += 1
        assert state_digest(self._stream(name).state) == life.digests[version]

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), mode=modes)
    def a_mode_is_set(self, data: st.DataObject, mode: str) -> None:
        name = self._any(data)
        self._command(name, lambda commands: commands.change(name, mode, None, WHO))

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def a_stream_goes_to_disk(self, data: st.DataObject) -> None:
        name = self._any(data)
        if self.subject.worker.parts.registry.in_memory(name):
            self.subject.commands.evict(name)
            assert not self.subject.worker.parts.registry.in_memory(name)

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def a_stream_comes_back(self, data: st.DataObject) -> None:
        name = self._any(data)
        self.subject.commands.read(name)

    @precondition(lambda self: self.lives)
    @rule(data=st.data())
    def a_stream_is_deleted(self, data: st.DataObject) -> None:
        name = self._any(data)
        self.subject.commands.delete(name, WHO)
        self._close(self.lives.pop(name).twin)

    # What must hold
    @invariant()
    def each_stream_is_as_its_twin_is(self) -> None:
        for name, life in getattr(self, "lives", {}).items():
            here, there = self._in_memory(self.subject, name), self._in_memory(life.twin, name)
            if here:
                assert self._seen(self.subject, here) == self._seen(life.twin, there)
            else:
                parked = self.subject.worker.parts.registry._parked[name].summary.told()
                assert {**parked, "last_verdict": None, "in_memory": True} == self._comparable(there.summary().told())

    @invariant()
    def versions_grow_by_one_with_each_change_and_are_never_used_again(self) -> None:
        for name, life in getattr(self, "lives", {}).items():
            stream = self._in_memory(self.subject, name)
            if stream:
                assert stream.version == life.version
                digest = state_digest(stream.state)
                assert life.digests.setdefault(stream.version, digest) == digest
                life.said.setdefault(stream.version, self._say(name))

    @invariant()
    def images_are_conserved(self) -> None:
        for summary in self.subject.commands.list().streams if hasattr(self, "subject") else ():
            settled = summary["images_learnt"] + summary["images_dropped"] + summary["images_in_window"]
            assert self.lives[summary["name"]].offered == settled

    @invariant()
    def the_network_is_as_it_was(self) -> None:
        if hasattr(self, "subject"):
            assert self.subject.worker.damage() == ""

    def teardown(self) -> None:
        for each in [getattr(self, "subject", None), *(life.twin for life in getattr(self, "lives", {}).values())]:
            if each:
                self._close(each)

    # How it is done
    def _due(self) -> tuple[float, str] | None:
        """Return whose window is due longest. What no window took is left out: a stream on disk has lost it."""
        registries = [each.worker.parts.registry for each in (self.subject, *(one.twin for one in self.lives.values()))]
        while any(each.take_beside() for each in registries):
            pass
        return registries[0]._agenda._windows.next()

    def _ask(self, name: str, images: np.ndarray, client: str) -> None:
        life, answers, mode = self._live(name), [], self._mode(name)
        with self._step(name, learns=mode == "inline" and len(images) > 1):
            for each in (self.subject, life.twin):
                try:
                    answer = ask(each, name, images, client)
                    answers.append((answer.probabilities.tobytes(), answer.version, answer.adapted))
                except TTAError as error:
                    answers.append(str(error))
        assert answers[0] == answers[1]
        if mode == "inline" and len(images) > 1:
            life.offered += len(images)
        elif not isinstance(answers[0], str):
            self._offer(name, len(images))

    def _offer(self, name: str, count: int) -> None:
        if self._mode(name) in ("after", "shadow"):
            self.lives[name].offered += count

    def _step(self, name: str, learns: bool = True) -> "Step":
        return Step(self, name, learns)

    def _live(self, name: str) -> Life:
        if name not in self.lives:
            self.lives[name] = Life(worker(self.words, self.answers))
        return self.lives[name]

    def _mode(self, name: str) -> str:
        return self.subject.worker.parts.registry.peek(name)[0]

    def _command(self, name: str, run) -> None:
        run(self.subject.commands)
        run(self.lives[name].twin.commands)

    def _any(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.lives)))

    def _stream(self, name: str) -> Stream:
        """Return a stream, from disk if need be, here and in the twin."""
        self.lives[name].twin.stream(name)
        return self.subject.stream(name)

    def _in_memory(self, server: Wired, name: str) -> Stream | None:
        return server.worker.parts.registry.in_memory(name)

    def _comparable(self, summary: dict) -> dict:
        # Rows that shared a forward with other rows have other last bits, and so do means over them.
        means = {key: summary[key] and pytest.approx(summary[key], abs=1e-5) for key in MEANS}
        return summary | {"last_verdict": None} | means

    def _seen(self, server: Wired, stream: Stream) -> object:
        memory = {key: tensor.tolist() for key, tensor in stream.memory.items()}
        window = [(row.digest, row.client) for row in stream.window]
        told = (stream.version, stream.steps, stream.mode, stream.serve, stream.frozen, stream.restores, stream.learnt)
        waits = stream.name in server.worker.parts.registry._agenda._windows._due_s
        return (
            told,
            +Counter(stream.dropped),
            memory,
            window,
            stream.history.versions,
            stream.window.recent,
            waits,
            state_digest(stream.state),
        )

    def _say(self, name: str) -> bytes:
        """Return what a stream's state says of the probe, whoever answers."""
        stream = self._stream(name)
        x = torch.from_numpy(PROBE).float() / 255
        return (
            stream.method.adapter.predict(self.subject.worker.parts.answers, stream.state, x).logits.numpy().tobytes()
        )

    def _probe(self, name: str) -> bytes:
        """Return what a stream answers to the probe; nothing is learnt from it."""
        job = queued(name, PROBE, 0.0)
        return self.subject.worker.parts.answerer.answer([Piece(job, self._stream(name))])[0].tobytes()

    def _close(self, server: Wired) -> None:
        server.kept.keeper.close()


class Step:
    """A step of a stream: checks what the guard's word for it may have changed."""

    def __init__(self, server: Server, name: str, learns: bool) -> None:
        self.server, self.name, self.learns = server, name, learns

    def __enter__(self) -> None:
        stream = self.server._in_memory(self.server.subject, self.name)
        if stream is None and self.name in self.server.subject.worker.parts.registry:
            stream = self.server._stream(self.name)
        self.before = (stream.version, state_digest(stream.state)) if stream else (0, None)
        turn = int(stream.memory["turn"]) if stream else 0
        self.word = self.server.words[turn % len(WORDS)].partition("/")[0]

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        stream = self.server.subject.stream(self.name)
        if self.learns and self.word in CHANGES:
            self.server.lives[self.name].version += 1
        elif self.before[1] is not None:
            assert (stream.version, state_digest(stream.state)) == self.before


TestServer = Server.TestCase
TestServer.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
