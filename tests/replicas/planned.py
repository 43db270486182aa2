"""What `make test-replicas` runs beside: replicas that are added and rolled, and two that fight over a stream."""

import itertools
import logging
import time

import httpx

from tests.replicas.checker import read, violations
from tests.replicas.load import Callers, note_moved, note_steps

log = logging.getLogger(__name__)


def test_planned_moves_lose_nothing(fleet, size, requests, tmp_path):
    replicas, many, threads = size
    streams = [f"gate-{i}" for i in range(many)]
    callers = Callers(fleet.url, streams, threads, tmp_path / "history.jsonl", fleet.grpc)
    fleet.start(replicas - 1)
    fleet.wait_until_balanced(replicas - 1)

    with callers.asking():
        time.sleep(2)
        before = note_steps(callers, fleet.url, streams)
        fleet.replicas[-1].start()
        fleet.replicas[-1].wait_until_ready()
        fleet.wait_until_balanced(replicas)
        note_moved(callers, before, note_steps(callers, fleet.url, streams), fleet.replicas[-1].name)
        for rolled, replica in enumerate(itertools.cycle(fleet.replicas)):
            if rolled >= replicas and callers.answers >= requests:
                break
            replica.end()
            note_steps(callers, fleet.url, streams)
            replica.start()
            replica.wait_until_ready()
            fleet.wait_until_balanced(replicas)
        note_steps(callers, fleet.url, streams)

    log.info("%d requests over %d restarts", callers.answers, rolled)
    assert not violations(read(tmp_path / "history.jsonl"), planned=True)


def test_two_replicas_that_fight_over_a_stream_never_give_a_version_twice(fleet, tmp_path):
    callers = Callers(fleet.url, ["gate"], 1, tmp_path / "history.jsonl")
    fleet.start(2)
    fleet.wait_until_balanced(2)

    with callers.asking():
        clients = [httpx.Client(base_url=f"http://{replica.address}", timeout=30) for replica in fleet.replicas[:2]]
        for number in range(30):
            callers.ask_once(clients[number % 2], "gate", callers._others[number])
        for client in clients:
            client.close()

    assert not violations(read(tmp_path / "history.jsonl"))
