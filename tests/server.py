"""A real server in a process of its own, on a free loopback port."""

import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from tests.processes import Forked

START_WITHIN_S = 90.0
Process = Forked | subprocess.Popen[str]


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        url: Its address.
        process: Its process.
        client: A client with that address.
    """

    url: str
    process: Process
    client: httpx.Client


@contextmanager
def running(
    folder: Path,
    config: Mapping | None = None,
    environment: Mapping[str, str] | None = None,
    verify: ssl.SSLContext | bool = True,
    forked: bool = True,
) -> Iterator[Running]:
    """Start a server with `config`, wait until it is ready, and stop it at the end.

    Args:
        folder: Where the configuration and the log go.
        config: Content of the YAML file; one state learns from everything unless it says otherwise.
        environment: Added to this process's environment.
        verify: What the client shows and asks for, where the server speaks TLS.
        forked: Whether its process is a fork of one that has imported everything, or begins from nothing, as a user's.
    """
    path, log = folder / "config.yaml", folder / "server.log"
    path.write_text(yaml.safe_dump({"domains": {"max": 1}} | dict(config or {})))
    arguments = ["serve", "--config", str(path), "--port", "0"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")} | {"COLUMNS": "200"}
    process = (Forked if forked else _begun)(arguments, log, env | dict(environment or {}))
    try:
        url = _address(process, log)
        with httpx.Client(base_url=url, timeout=60, verify=verify) as client:
            _wait_until_ready(client, process, log)
            yield Running(url, process, client)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _begun(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    with log.open("w") as out:
        command = [sys.executable, "-m", "tta_server", *arguments]
        return subprocess.Popen(command, stdout=out, stderr=out, text=True, env=environment)


def _address(process: Process, log: Path) -> str:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        # What is being written may end within a character.
        found = re.search(r"https?://([\d.]+|\[::\]):\d+", log.read_text(errors="replace"))
        if found:
            return found.group()
        time.sleep(0.05)
    raise AssertionError(f"the server did not say where it listens:\n{log.read_text()}")


def _wait_until_ready(client: httpx.Client, process: Process, log: Path) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass  # bound, but not yet accepting
        time.sleep(0.05)
    raise AssertionError(f"the server did not become ready:\n{log.read_text()}")
