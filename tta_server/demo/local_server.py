"""A server in a process of its own."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

_START_WITHIN_S = 120.0


@contextmanager
def serving(folder: Path, config: Mapping[str, Any], port: int) -> Iterator[str]:
    """Run `tta-server serve` until the block ends.

    Args:
        folder: Where its configuration and its log go.
        config: Its configuration.
        port: Where it listens; 0 picks a free one.

    Yields:
        Its address, once it is ready.

    Raises:
        OSError: If it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / "config.yaml", folder / "server.log"
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tta_server", "serve", "--config", str(path), "--host", "127.0.0.1"]
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=file, stderr=file)  # noqa: S603
    try:
        _wait(url, process, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + _START_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise OSError(f"the server did not start; the end of {log}:\n{log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
