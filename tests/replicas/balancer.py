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


def started(log: Path, *arguments: str, pod_ip: str = "127.0.0.1") -> subprocess.Popen[bytes]:
    """Start HAProxy with these arguments; what it says goes to a file."""
    libraries = str(next(TOOLS.glob("usr/lib/*-linux-gnu")))
    environment = os.environ | {"LD_LIBRARY_PATH": libraries, "NAMESPACE": "tta", "POD_IP": pod_ip}
    command = [str(TOOLS / "usr/sbin/haproxy"), *arguments]
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


@contextmanager
def balancing(
    port: int,
    servers: Mapping[str, str],
    folder: Path,
    grpc_port: int = 0,
    grpc: Mapping[str, str] | None = None,
    pod_ip: str = "127.0.0.1",
    metrics_port: int = 0,
) -> Iterator[None]:
    """Have HAProxy listen on a port of the loopback.

    Args:
        port: Where.
        servers: Address of each by its name, instead of those of a cluster.
        grpc_port: Where for gRPC; 0 is nowhere.
        grpc: Address of each for gRPC, by the same name.
        pod_ip: Address of the loopback that it listens on besides, as a pod does on its own.
        metrics_port: Where Prometheus asks; 0 is nowhere.
        folder: Where the configuration and the log go, `haproxy.cfg` and `haproxy.log`.
    """
    text = CONFIG.replace("timeout server 30s", "timeout server 3s")
    text = re.sub(r"    server .*\n", "", text)
    http, by_grpc = text.split("# The same for gRPC")
    text = _bound(http, 8000, port).rstrip() + "\n"
    text = _bound(text, 8404, metrics_port) if metrics_port else re.sub(r"frontend metrics\n( .*\n)+", "", text)
    text += "".join(f"    server {name} {address}\n" for name, address in servers.items())
    if grpc_port:
        text += "#" + _bound(by_grpc, 8001, grpc_port)
        text += "".join(f"    server {name} {address} track tta/{name}\n" for name, address in (grpc or {}).items())
    path = folder / "haproxy.cfg"
    path.write_text(text)
    process = started(folder / "haproxy.log", "-db", "-f", str(path), pod_ip=pod_ip)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _bound(text: str, port: int, instead: int) -> str:
    """Return a configuration that listens on the loopback's port where it has every address's, and the pod's."""
    return text.replace(f"bind :{port}", f"bind 127.0.0.1:{instead}").replace(f"}}:{port}", f"}}:{instead}")
