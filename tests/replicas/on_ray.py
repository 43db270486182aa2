"""What `make test-ray` runs: three replicas on Ray Serve, asked all the time while one is killed and replaced."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.replicas.checker import read, stray_files, told, violations
from tests.replicas.load import Callers, note_moved
from tests.replicas.ray_cluster import on_ray, process_of, wait_until
from tta_server.settings_file import load_settings
from tta_server.storage.disk import Disk
from tta_server.storage.owners import Owners

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
STREAMS = [f"gate-{i}" for i in range(60)]
SETTINGS = {
    "engine": {"window_rows": 8, "max_rows": 8, "threads": 1},
    "guard": {"enabled": False},
    "domains": {"max": 1},
    "storage": {"save_every_s": 0.2},
}


def owners(store: Path) -> dict[str, str]:
    """Return which replica has each stream."""
    records = Owners(Disk(store))
    return {name: found.replica for name in STREAMS if (found := records.newest(name))}


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"server": {"admin_port": 8001}}, "do not go with Ray Serve"),
        ({"storage": {"url": "states", "shared": True, "peers": "pods"}}, "do not go with Ray Serve"),
        ({}, "set auth.keys_file"),
    ],
)
def test_a_configuration_that_is_not_for_ray_is_refused(given, wrong):
    from tta_server.ray_serve import _expect_fit

    with pytest.raises(ValueError, match=wrong):
        _expect_fit(load_settings(None, given))


def test_a_killed_replica_is_replaced_and_no_version_goes_back(tmp_path):
    store, history = tmp_path / "store", tmp_path / "history.jsonl"
    with on_ray(tmp_path, 3, SETTINGS) as url:
        callers = Callers(url, STREAMS, 6, history)
        with callers.asking():
            wait_until(lambda: len(owners(store)) == len(STREAMS) and len(set(owners(store).values())) == 3)
            time.sleep(2)
            before = owners(store)
            killed = before[STREAMS[0]]
            callers.note(kind="trouble", what="kill")
            os.kill(process_of(killed), signal.SIGKILL)
            wait_until(lambda: killed not in owners(store).values())
            callers.note(kind="calm")
            without = owners(store)
            note_moved(callers, before, without, killed)
            wait_until(lambda: len(set(owners(store).values())) == 3)
            time.sleep(5)  # each stream was asked again since
            after = owners(store)
            (new,) = set(after.values()) - set(before.values())
            note_moved(callers, without, after, new)

    print(told(read(history)))  # noqa: T201 (figures for a page)
    assert not violations(read(history))
    assert not stray_files(store)
