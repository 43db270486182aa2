"""Replicas on one folder behind a real HAProxy, to be stopped, killed, added and rolled."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.processes import PROCESSES
from tests.replicas.balancer import balancing

READY_S = 90.0
CLIENT = httpx.Client(verify=False, timeout=10)  # there is no TLS, and looking for certificates is slow


def free_ports(host: str) -> tuple[int, int]:
    """Return two ports of an address that nobody has."""
    with socket.socket() as one, socket.socket() as other:
        one.bind((host, 0))
        other.bind((host, 0))
        return one.getsockname()[1], other.getsockname()[1]


class Replica:
    """One server, a process of its own; its name and address stay when it comes back."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"127.0.{number}"  # with the domain "1" this is an address of the loopback: no DNS is needed
        self._host = f"{self.name}.1"
        self._port, self._grpc_port = free_ports(self._host)
        self.address, self.grpc = f"{self._host}:{self._port}", f"{self._host}:{self._grpc_port}"
        self._folder = folder
        self._place = folder / f"{self.name}.place"  # its own way to what all share
        self._process = None

    def reaches(self, target: str) -> None:
        """Have its way to the storage lead to a file or folder beside it, at one moment."""
        other = self._place.with_suffix(".other")
        other.symlink_to(self._folder / target)
        other.replace(self._place)

    def start(self) -> None:
        from tests.replicas.replica import run

        log = self._folder / f"{self.name}.log"
        (self._folder / "store").mkdir(exist_ok=True)
        self.reaches("store")
        settings = {
            "server": {"host": self._host, "port": self._port, "grpc_port": self._grpc_port, "drain_s": 2.0},
            "storage": {
                "url": str(self._place),
                "shared": True,
                "replica": self.name,
                "peers": "1",
                "save_every_s": 0.2,
            },
            "engine": {"window_rows": 8, "max_rows": 8, "threads": 1},
            "guard": {"enabled": False},
            "domains": {"max": 1},
        }
        self._process = PROCESSES.Process(target=run, args=(settings, str(log)))
        self._process.start()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            assert self._process.is_alive(), (self._folder / f"{self.name}.log").read_text()
            try:
                if CLIENT.get(f"http://{self.address}/v2/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not become ready")

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it is gone."""
        if self._process and self._process.is_alive():
            self.send(number)
            self._process.join(30)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()


class Fleet:
    """The replicas and the balancer.

    Attributes:
        url: Of the balancer.
        grpc: Its address for gRPC.
        replicas: All that it knows; those that were not started are down.
    """

    def __init__(self, folder: Path, replicas: int) -> None:
        self.replicas = [Replica(number, folder) for number in range(1, replicas + 1)]
        self._folder = folder
        self._port, self._grpc_port = free_ports("127.0.0.1")
        self.url, self.grpc = f"http://127.0.0.1:{self._port}", f"127.0.0.1:{self._grpc_port}"

    def start(self, replicas: int) -> None:
        for replica in self.replicas[:replicas]:
            replica.start()
        for replica in self.replicas[:replicas]:
            replica.wait_until_ready()

    @contextmanager
    def balanced(self) -> Iterator[None]:
        """Have the balancer before them."""
        http, grpc = ({each.name: getattr(each, kind) for each in self.replicas} for kind in ("address", "grpc"))
        with balancing(self._port, http, self._folder, self._grpc_port, grpc):
            yield

    def wait_until_balanced(self, expected: int) -> None:
        """Wait until the balancer sends requests to so many replicas."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if len({self.server_of(f"probe-{i}") for i in range(24)} - {""}) == expected:
                return
            time.sleep(0.2)
        raise AssertionError(f"the balancer does not know {expected} replicas:\n{self._log()}")

    def server_of(self, stream: str) -> str:
        """Return which replica the balancer asks for a stream; empty if none answers."""
        try:
            asked = CLIENT.get(f"{self.url}/v2/health/live", headers={"X-Stream-Id": stream})
        except httpx.TransportError:
            return ""
        return asked.headers.get("x-served-by", "")

    def end(self) -> None:
        for replica in self.replicas:
            if replica._process and replica._process.is_alive():
                replica.send(signal.SIGCONT)
            replica.end()

    def _log(self) -> str:
        return (self._folder / "haproxy.log").read_text()
