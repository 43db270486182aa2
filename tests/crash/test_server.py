"""Kill the real server, at random and at every failpoint; the next one answers as one that was never killed.

The reference server learns one lesson after the other and is never killed. The other gets the same lessons; when it is
killed, the next one goes on from the version that it finds on disk. Whatever it answers there, and whatever it learns
from there on, must equal the reference bit for bit.
"""

import contextlib
import random
import signal
import threading
import time
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from safetensors.torch import load

from tests.crash.victim import Victim
from tests.tta_server.test_server import infer, stream
from tta_server.adapters.checkpoint import read_about, state_digest
from tta_server.storage.audit import Audit
from tta_server.storage.store import Store

STREAMS = ("camera", "door", "roof")
LESSONS = 8
ROWS = 8
LONGEST_S = 1.5
MOST_LIVES = 20


def config(folder) -> dict:
    return {
        "model": {"device": "cpu"},
        "adapter": {"name": "tent", "settings": {"lr": 0.02}},
        # A request is a window, and streams take turns: all forwards and steps have one shape.
        "engine": {"max_rows": ROWS, "window_rows": ROWS, "stack_rows": 0, "threads": 1},
        "domains": {"max": 1},
        "guard": {"enabled": False},  # it may refuse a lesson, and then versions would not count lessons
        "storage": {"url": str(folder), "save_every_s": 0.0, "keep_states": 2},
    }


def images(name: str, lesson: int) -> np.ndarray:
    seed = [STREAMS.index(name), lesson]
    return np.random.default_rng(seed).integers(0, 256, (ROWS, 3, 32, 32), dtype=np.uint8)


class Course(NamedTuple):
    """What the server that was never killed said: answers by version and digests of states by version."""

    answers: dict[str, list]
    digests: dict[str, dict[int, str]]


def teach(client: httpx.Client, name: str, version: int) -> tuple[list, tuple]:
    """Give the lesson that follows `version`, wait until it is learnt, and return the answer."""
    answer = infer(client, name, images(name, version))
    deadline_s = time.monotonic() + 60
    while stream(client, name)["state_version"] == version:
        assert time.monotonic() < deadline_s, "the lesson was not learnt"
    by = answer["parameters"]
    return answer["outputs"][0]["data"], (by["stream"], by["state_version"], by["adapted"])


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Course:
    folder = tmp_path_factory.mktemp("reference")
    with Victim(folder, config(folder / "kept")) as victim:
        assert victim.ready(), victim.said()
        answers = {name: [teach(victim.client, name, lesson) for lesson in range(LESSONS)] for name in STREAMS}
        victim.process.terminate()
        victim.process.join(60)
    entries = list(Audit(Store(str(folder / "kept")).files).entries())
    digests = {name: {each.version_after: each.state for each in entries if each.stream == name} for name in STREAMS}
    return Course(answers, digests)


def on_disk(folder, course: Course) -> dict[str, int]:
    """Return the version of each stream that the next server will find, after a look at each state."""
    store, found = Store(str(folder)), {}
    for name in store.names():
        data = store.load(name)
        found[name] = read_about(data)["about"]["version"]
        state = {key: tensor for key, tensor in load(data).items() if not key.startswith("beside/")}
        if found[name]:
            assert state_digest(state) == course.digests[name][found[name]]
    return found


def versions(victim: Victim) -> dict[str, int]:
    """Return the version of each stream, as the server says."""
    return {each["name"]: each["state_version"] for each in victim.client.get("/v1/streams").json()["streams"]}


def live(victim: Victim, course: Course, reached: dict[str, int]) -> None:
    """Go on with the lessons, and begin again when they are through, until the server dies."""
    while True:
        for name in STREAMS:
            version = reached.get(name, 0)
            if version == LESSONS:
                assert victim.client.delete(f"/v1/streams/{name}").status_code == 204
                version = 0
            assert teach(victim.client, name, version) == course.answers[name][version]
            reached[name] = version + 1


def one_life(folder, course: Course, chance: random.Random, points: str = "") -> None:
    """Start a server on what the last one left, and live until it is killed: by a failpoint, or at random."""
    expected = on_disk(folder / "kept", course)
    with Victim(folder, config(folder / "kept"), points) as victim:
        if chance.random() < 0.8:  # else it may be killed while it starts
            assert victim.ready() or points, victim.said()
        killer = threading.Timer(chance.uniform(0, LONGEST_S) if not points else 60, victim.process.kill)
        killer.start()
        if victim.ready():
            with contextlib.suppress(httpx.TransportError):  # dead
                assert versions(victim) == expected
                live(victim, course, expected)
        victim.process.join(10)
        killer.cancel()
        killer.join()
        assert victim.process.exitcode == -signal.SIGKILL, victim.said()


def test_after_a_kill_at_any_moment_the_server_goes_on_as_if_it_had_not_been(tmp_path, course, server_kills):
    chance, most, lives = random.Random(0), 0, 0

    while lives < server_kills or (not most and lives < MOST_LIVES):  # a busy machine learns nothing in the first ones
        one_life(tmp_path, course, chance)
        most = max([most, *on_disk(tmp_path / "kept", course).values()])
        lives += 1

    assert most > 0  # else nothing was tested


def test_after_a_kill_at_a_failpoint_the_server_goes_on_as_if_it_had_not_been(tmp_path, course, server_point):
    chance = random.Random(server_point)

    one_life(tmp_path, course, chance, f"{server_point}={chance.randint(1, 3 if 'erase' in server_point else 20)}")
    one_life(tmp_path, course, chance)


def test_a_truncated_newest_state_costs_one_version(tmp_path, course):
    chance = random.Random(0)
    one_life(tmp_path, course, chance, "store.before_rename=15")
    store = Store(str(tmp_path / "kept"))
    for name in store.names():
        newest = tmp_path / "kept/streams" / name / f"{store.states(name)[-1].id}.safetensors"
        newest.write_bytes(newest.read_bytes()[: chance.randrange(newest.stat().st_size)])

    one_life(tmp_path, course, chance)


def test_a_disk_that_is_full_costs_no_answer_and_no_lesson(tmp_path, course):
    with Victim(tmp_path, config(tmp_path / "kept"), "store.mid_write=8+:enospc") as victim:
        assert victim.ready(), victim.said()
        for version in range(LESSONS):
            for name in STREAMS:
                assert teach(victim.client, name, version) == course.answers[name][version]
        assert "No space left on device" in victim.said()

    assert on_disk(tmp_path / "kept", course)
    one_life(tmp_path, course, random.Random(0))


def test_a_server_that_is_asked_to_stop_loses_nothing(tmp_path, course):
    with Victim(tmp_path, config(tmp_path / "kept")) as victim:
        assert victim.ready(), victim.said()
        for name in STREAMS:
            teach(victim.client, name, 0)
        victim.process.terminate()
        victim.process.join(60)

    assert on_disk(tmp_path / "kept", course) == dict.fromkeys(STREAMS, 1)


def test_after_a_kill_a_stream_finds_its_domains(tmp_path):
    told_apart = config(tmp_path / "kept") | {"domains": {"max": 16}}
    with Victim(tmp_path, told_apart) as victim:
        assert victim.ready(), victim.said()
        for lesson in range(LESSONS):
            infer(victim.client, "camera", images("camera", lesson))
            before = settled(victim, lesson + 1)
        time.sleep(1)  # the writer is at most a round behind
        victim.kill()

    with Victim(tmp_path, told_apart) as victim:
        assert victim.ready(), victim.said()
        after = domains(victim)
        answer = infer(victim.client, "camera", images("camera", LESSONS))

    assert [name for name, steps in before.items() if steps] == ["camera@1"]  # noise, and nothing but noise
    assert after == before
    assert answer["parameters"]["domains"] == ",".join(["camera@1"] * ROWS)


def domains(victim: Victim) -> dict[str, int]:
    """Return the steps of each domain of the camera."""
    found = victim.client.get("/v1/streams/camera/domains").json()["domains"]
    return {each["id"]: each["steps"] for each in found}


def settled(victim: Victim, lessons: int) -> dict[str, int]:
    """Return the same, once so many lessons are learnt."""
    deadline_s = time.monotonic() + 60
    while (found := domains(victim)).get("camera@1") != lessons:
        assert time.monotonic() < deadline_s, found
    return found
