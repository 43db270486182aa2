"""What the audit log says of a stream's state can be shown to be so, in a process of its own."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.torch import load

from tests.server import running
from tests.tta_server.test_server import infer, stream, until
from tta_server.adapters.checkpoint import state_digest
from tta_server.cli import main
from tta_server.models import glyphs
from tta_server.storage.audit import Audit
from tta_server.storage.store import Store

ROWS = 8
STREAMS = ("gate-1", "gate-2", "gate-3")


def noisy(seed: int) -> np.ndarray:
    """Return images that drifted, so that the guard lets streams learn."""
    images = glyphs.images("test")[0][seed * ROWS : (seed + 1) * ROWS]
    noise = np.random.default_rng(seed).normal(0, 60, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def digest(data: bytes) -> str:
    """Return the digest of the state in an exported file, without what lies beside it."""
    return state_digest({name: tensor for name, tensor in load(data).items() if not name.startswith("beside/")})


@pytest.fixture(scope="module", params=[("torch", "channels_last"), ("onnx", "contiguous")], ids="-".join)
def kept(request, tmp_path_factory):
    """Return the configuration of a server that learnt and stopped, and the digest of each stream's last state."""
    folder = tmp_path_factory.mktemp("replay")
    runtime, memory_format = request.param
    config = {
        "model": {"device": "cpu", "runtime": runtime, "memory_format": memory_format},
        "adapter": {"settings": {"lr": 0.01}},
        "engine": {"max_rows": 16, "window_rows": ROWS, "stack_rows": 4 * ROWS, "threads": 1},
        "guard": {"max_distance": 0.001},
        "storage": {"url": str(folder / "kept"), "keep_inputs": True},
    }
    with running(folder, config) as server:
        with ThreadPoolExecutor(len(STREAMS)) as pool:
            for i in range(6):
                list(pool.map(lambda j, i=i: infer(server.client, STREAMS[j], noisy(3 * i + j)), range(len(STREAMS))))
        until(lambda: all(stream(server.client, name)["images_in_window"] == 0 for name in STREAMS))
        server.client.patch("/v1/streams/gate-1", json={"adapter": {"name": "tent", "settings": {"lr": 0.003}}})
        infer(server.client, "gate-1", noisy(30))
        until(lambda: stream(server.client, "gate-1")["images_in_window"] == 0)
        server.client.post("/v1/streams/gate-2/reset")
        infer(server.client, "gate-2", noisy(31))
        until(lambda: stream(server.client, "gate-2")["images_in_window"] == 0)
        versions = {name: stream(server.client, name)["state_version"] for name in STREAMS}
        digests = {name: digest(server.client.get(f"/v1/streams/{name}/state").content) for name in STREAMS}
    entries = list(Audit(Store(config["storage"]["url"]).files).entries())
    assert min(versions.values()) > 3
    assert any("stack" in entry.extra for entry in entries)
    assert any("projected" in entry.extra for entry in entries)
    return folder / "config.yaml", digests


@pytest.mark.parametrize("name", STREAMS)
def test_replaying_the_log_gives_the_state_that_the_server_had(kept, name, capsys):
    config, digests = kept

    status = main(["replay", "--config", str(config), "--stream", name])

    assert status == 0
    assert re.search(r"sha256 (\w+)", capsys.readouterr().out)[1] == digests[name]


@pytest.mark.parametrize("asked", ["contiguous", "channels_last"])
def test_steps_are_taken_again_in_the_memory_format_in_which_they_were_taken(kept, asked, capsys, monkeypatch):
    config, digests = kept
    monkeypatch.setenv("TTA_MODEL__MEMORY_FORMAT", asked)

    assert main(["replay", "--config", str(config), "--stream", "gate-1"]) == 0

    assert digests["gate-1"] in capsys.readouterr().out


def test_a_stream_that_the_log_does_not_know_is_refused(kept, capsys):
    status = main(["replay", "--config", str(kept[0]), "--stream", "nobody"])

    assert status == 2
    assert "no line of stream 'nobody'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory):
    """Return the configuration of a server that told domains apart, and the digest of its domain's state."""
    folder = tmp_path_factory.mktemp("domains")
    config = {
        "engine": {"window_rows": 32},
        "domains": {},
        "storage": {"url": str(folder / "kept"), "keep_inputs": True},
    }
    for _ in range(2):  # the second is a restart, which the log tells of
        with running(folder, config) as server:
            for seed in range(16):
                infer(server.client, "gate-7", noisy(seed))
            until(lambda: stream(server.client, "gate-7@1")["images_in_window"] == 0)
            learnt = digest(server.client.get("/v1/streams/gate-7@1/state").content)
    return folder / "config.yaml", learnt


def test_a_stream_that_tells_domains_apart_is_replayed_and_names_its_domains(told_apart, capsys):
    config, learnt = told_apart
    lines = list(Audit(Store(str(config.parent / "kept")).files).entries("gate-7"))
    assert {"open", "drift", "load"} <= {entry.event for entry in lines}
    assert lines[-1].version_after > 1

    assert main(["replay", "--config", str(config), "--stream", "gate-7"]) == 0
    said = capsys.readouterr().out
    assert main(["replay", "--config", str(config), "--stream", "gate-7@1"]) == 0

    assert learnt not in said
    assert said.endswith("; what it learns is in its domains, replay those: gate-7@1\n")
    of_domain = capsys.readouterr().out
    assert learnt in of_domain
    assert "its domains" not in of_domain


def test_a_version_that_a_domain_made_is_looked_for_there(told_apart, capsys):
    assert main(["replay", "--config", str(told_apart[0]), "--stream", "gate-7", "--version", "2"]) == 2

    assert "no version 2 of the stream; what it learns is in its domains, replay those: gate-7@1" in (
        capsys.readouterr().err
    )
