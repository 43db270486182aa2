"""Real processes for the tests of what is deployed: the server, and Prometheus reading it."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.k8s.manifests import Rendered, ways
from tests.server import running as serving
from tta_server.telemetry.metrics import Metrics, render
from tta_server.telemetry.stream_series import _MEASURES as MEASURES

ROOT = Path(__file__).parents[2]
CONFIG = {
    "model": {"device": "cpu"},
    "streams": {"named": {"frozen": {"mode": "off"}}},
    "engine": {"window_rows": 16},
    "guard": {"canary_every": 1, "max_update": 100.0, "max_distance": 100.0},  # a reckless stream is taken back
    "domains": {"max": 16},
    "repository": {"models": {"second": {"architecture": "glyphs", "device": "cpu"}}},
}
PROMETHEUS = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: ['%s']
scrape_configs:
  - job_name: tta
    static_configs: [{targets: ['%s']}]
"""


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Rendered]:
    """Return every way to deploy, and what is deployed beside a server."""
    return list(ways(tmp_path_factory.mktemp("overlay")))


@pytest.fixture(scope="session")
def deployed(everything: list[Rendered]) -> list[Rendered]:
    """Return those that have a server in them."""
    return [each for each in everything if each.workloads()]


@pytest.fixture(scope="session")
def dashboard() -> dict[str, Any]:
    """Return the committed dashboard."""
    return json.loads((ROOT / "k8s/dashboards/tta-server.json").read_text())


@pytest.fixture(scope="session")
def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="session")
def families() -> dict[str, set[str]]:
    """Return the names of the series of each metric family."""
    metrics = Metrics("model", "tent")
    metrics.stream.open("stream", "tent")
    metrics.stream.answered("stream", 1, 0.5, 0.5)
    metrics.stream.measures("stream", dict.fromkeys(MEASURES, 0.5))
    metrics.stream.accuracy("stream", dict.fromkeys(("answered", "adapted", "source"), 0.5), 1.5)
    metrics.stream.place("stream", False, 1.0, 2.0)
    metrics.stream.domains("stream", 1)
    metrics.stream.drift.since("stream", "2026-01-02T03:04:05.678+00:00")
    metrics.stream.drift.scores("stream", {"entropy_ratio": 4.5}, 3.0)
    metrics.stream.drift.beside("stream", 0.9, 0.8, 0.85)
    return {
        family.name: {sample.name for sample in family.samples}
        for family in text_string_to_metric_families(render([metrics]).decode())
    }


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server of two models, with the stream 'frozen' in mode 'off', and give its address."""
    with serving(tmp_path_factory.mktemp("server"), CONFIG) as server:
        yield server.url


@pytest.fixture(scope="session")
def prometheus(live_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Prometheus that reads the server every second, and give its address."""
    folder = tmp_path_factory.mktemp("prometheus")
    config, log, address = folder / "prometheus.yml", folder / "log", f"127.0.0.1:{free_port()}"
    config.write_text(PROMETHEUS % (ROOT / "k8s/alerts/rules.yaml", live_server.removeprefix("http://")))
    command = [tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with running([*command, f"--web.listen-address={address}"], log) as process:
        until(lambda: alive(process, log) and answers(f"http://{address}/-/ready"), 20)
        yield f"http://{address}"


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return the path of Prometheus' own checker."""
    return tool("promtool")


@pytest.fixture(scope="session")
def closed_port() -> int:
    """Return a loopback port on which nothing listens."""
    return free_port()


@pytest.fixture(scope="session")
def poll() -> Callable[..., Any]:
    """Return `until`."""
    return until


def until(check: Callable[[], Any], deadline_s: float, missing: Callable[[], object] = str) -> Any:
    """Return the first true value of `check`; fail, and say what is `missing`, when there is none in time."""
    end_s = time.monotonic() + deadline_s
    while not (value := check()):
        if time.monotonic() > end_s:
            pytest.fail(f"waited {deadline_s} s in vain; missing: {missing()}")
        time.sleep(0.1)
    return value


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process, its output in `log`, and end it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")}
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, cwd=ROOT, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def alive(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return what a process printed so far, and at least a space; fail if it has ended."""
    text = log.read_text(errors="replace")
    if process.poll() is not None:
        pytest.fail(f"'{process.args}' ended with status {process.returncode}:\n{text[-3000:]}")
    return text or " "


def answers(url: str) -> bool:
    """Tell whether a GET of `url` gives 200."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def tool(name: str) -> str:
    """Return the path of one of Prometheus' programs; fail if it is nowhere."""
    unpacked = ROOT / ".tools/usr/bin" / name
    path = str(unpacked) if unpacked.is_file() else shutil.which(name)
    if path is None:
        pytest.fail(f"'{name}' is neither in .tools/usr/bin nor on PATH; 'make test' puts it there")
    return path
