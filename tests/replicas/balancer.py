"""The HAProxy that `make` unpacks, and the configuration that a cluster gives it."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.pages import ROOT

CONFIG = (ROOT / "k8s/components/replicas/haproxy.cfg").read_text()
TOOLS = ROOT / ".tools"


def started(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start HAProxy with these arguments; what it says goes to a file."""
    libraries = str(next(TOOLS.glob("usr/lib/*-linux-gnu")))
    environment = os.environ | {"LD_LIBRARY_PATH": libraries, "NAMESPACE": "tta"}
    command = [str(TOOLS / "usr/sbin/haproxy"), *arguments]
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


@contextmanager
def balancing(port: int, servers: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Have HAProxy listen on a port of the loopback.

    Args:
        port: Where.
        servers: Address of each by its name, instead of those of a cluster.
        folder: Where the configuration and the log go, `haproxy.cfg` and `haproxy.log`.
    """
    text = CONFIG.replace("bind :8000", f"bind 127.0.0.1:{port}").replace("timeout server 30s", "timeout server 3s")
    text = re.sub(r"    server .*\n", "", text)
    text += "".join(f"    server {name} {address}\n" for name, address in servers.items())
    path = folder / "haproxy.cfg"
    path.write_text(text)
    process = started(folder / "haproxy.log", "-db", "-f", str(path))
    try:
        yield
    finally:
        process.terminate()
        process.wait()
