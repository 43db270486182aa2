"""Replicas on one folder behind a real HAProxy, asked all the time while one is stopped and one is killed."""

import signal
import time

import numpy as np

from tests.replicas.checker import read, stray_files, violations
from tests.replicas.fleet import CLIENT
from tests.replicas.load import Callers, note_moved, note_steps, png


def test_stopped_and_killed_replicas_answer_and_write_nothing_that_is_no_longer_theirs(fleet, size, tmp_path):
    replicas, many, threads = size
    streams = [f"gate-{i}" for i in range(many)]
    callers = Callers(fleet.url, streams, threads, tmp_path / "history.jsonl", fleet.grpc)
    fleet.start(replicas)
    fleet.wait_until_balanced(replicas)

    with callers.asking():
        time.sleep(1)
        callers.note(kind="trouble", what="stop")
        fleet.replicas[0].send(signal.SIGSTOP)
        fleet.wait_until_balanced(replicas - 1)
        callers.note(kind="calm")
        time.sleep(1)
        callers.note(kind="trouble", what="go on")
        fleet.replicas[0].send(signal.SIGCONT)
        fleet.wait_until_balanced(replicas)
        callers.note(kind="calm")
        before = note_steps(callers, fleet.url, streams)
        callers.note(kind="trouble", what="kill")
        fleet.replicas[1].end(signal.SIGKILL)
        fleet.wait_until_balanced(replicas - 1)
        callers.note(kind="calm")
        note_moved(callers, before, note_steps(callers, fleet.url, streams), fleet.replicas[1].name)
        time.sleep(1)

    history = read(tmp_path / "history.jsonl")
    assert not violations(history)
    assert len([line for line in history if line.get("status") == 200]) > 3 * many
    fleet.end()
    assert not stray_files(tmp_path / "store")


def test_a_replica_whose_storage_fails_is_asked_for_nothing_until_it_is_mended(fleet, size, tmp_path):
    replicas, _, _ = size
    large = png(np.random.default_rng(0).integers(0, 256, (3, 400, 400), dtype=np.uint8))
    assert len(large) > 262144  # what does not fit into the balancer's memory is not asked again elsewhere
    fleet.start(replicas)
    fleet.wait_until_balanced(replicas)
    failing, streams = fleet.replicas[0], [f"gate-{i}" for i in range(24)]
    its = [stream for stream in streams if fleet.server_of(stream) == failing.name]

    def answered(stream: str) -> int:
        return CLIENT.post(f"{fleet.url}/predict", content=large, headers={"X-Stream-Id": stream}).status_code

    assert [answered(stream) for stream in its] == [200] * len(its)
    failing.reaches("haproxy.cfg")  # no folder: whatever it asks fails
    fleet.wait_until_balanced(replicas - 1)

    assert [answered(stream) for stream in its] == [200] * len(its)

    failing.reaches("store")
    fleet.wait_until_balanced(replicas)
    assert [answered(stream) for stream in its] == [200] * len(its)
