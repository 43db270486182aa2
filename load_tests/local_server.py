"""Start a server for the time of a measurement, and read its counters."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

_START_WITHIN_S = 120.0
_SETTLE_WITHIN_S = 20.0


class Local(NamedTuple):
    """A server on this machine.

    Attributes:
        url: Its address.
        pid: Of its process.
    """

    url: str
    pid: int


@contextmanager
def local_server(folder: Path, config: dict[str, Any], threads: int = 0) -> Iterator[Local]:
    """Start a server with `config` on a free port, yield it when it is ready, and stop it at the end.

    Args:
        folder: Where its configuration and its log go.
        config: What its YAML file says.
        threads: How many threads torch uses in it; 0 leaves that to torch.

    Raises:
        RuntimeError: If it does not become ready.
    """
    path, log = folder / "config.yaml", folder / "server.log"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "tta_server", "serve", "--config", str(path), "--port", "0"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")} | {"COLUMNS": "200"}
    if threads:
        clean["OMP_NUM_THREADS"] = str(threads)
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=clean)
    try:
        yield Local(_ready(process, log), process.pid)
    finally:
        process.terminate()
        process.wait(60)


def windows(url: str) -> Counter[str]:
    """Return how many windows the server has learnt from, dropped and so on, once it has stopped learning."""
    before, stop_s = _windows(url), time.monotonic() + _SETTLE_WITHIN_S
    while time.monotonic() < stop_s:
        time.sleep(0.5)
        now = _windows(url)
        if now == before:
            break
        before = now
    return before


def _windows(url: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    text = httpx.get(f"{url}/metrics", headers={"Cache-Control": "no-cache"}, timeout=30, trust_env=False).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "tta_batches_total":
                counts[sample.labels["action"]] += int(sample.value)
    return counts


def _ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    stop_s = time.monotonic() + _START_WITHIN_S
    while time.monotonic() < stop_s and process.poll() is None:
        time.sleep(0.1)
        found = re.search(r"http://[\d.]+:\d+", log.read_text(errors="replace"))
        try:
            if found and httpx.get(f"{found.group()}/readyz", trust_env=False).status_code == 200:
                return found.group()
        except httpx.TransportError:
            pass  # bound, but not yet accepting
    raise RuntimeError(f"the server did not become ready:\n{log.read_text()}")
