"""Attack a server while a good client asks it, and see what becomes of both."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

from load_tests.attacks import Attack, Door, Heard
from load_tests.payloads import small_png

_PROBED_EVERY_S = 0.5
_PROBES = ("/v2/health/live", "/v2/health/ready")


class Good(NamedTuple):
    """A good client's request.

    Attributes:
        sent_s: When it was sent, on the clock of `time.perf_counter`.
        took_s: Until its answer was there, or was given up.
        status: Of the answer; 0 if there is none.
    """

    sent_s: float
    took_s: float
    status: int


@dataclass
class Stood:
    """What was seen during an attack.

    Attributes:
        took_s: How long it went on.
        peak_bytes: Most memory that the server had.
        heard: What the attackers got.
        good: What the good client got, of what it sent meanwhile.
        probes: Statuses of liveness and readiness.
    """

    took_s: float = 0.0
    peak_bytes: int = 0
    heard: list[Heard] = field(default_factory=list)
    good: list[Good] = field(default_factory=list)
    probes: list[int] = field(default_factory=list)


class Siege:
    """A server, and a good client that asks it until the siege is over."""

    def __init__(self, doors: Mapping[Door, str], pid: int, answers: Path) -> None:
        """Besiege the server at its addresses; the good client writes its answers to a file."""
        self._doors = doors
        self._pid = pid
        self._answers = answers

    def stand(self, attack: Attack) -> Stood:
        """Attack the server; returns once the good client has heard of all that it sent meanwhile."""
        return self._watched(lambda: attack.run(self._doors[attack.door]))

    def quiet(self, seconds: float) -> Stood:
        """Watch the same without an attack."""

        def nothing() -> list[Heard]:
            time.sleep(seconds)
            return []

        return self._watched(nothing)

    def _watched(self, run: Callable[[], list[Heard]]) -> Stood:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # the peak counts from here
        stood, over = Stood(), threading.Event()
        prober = threading.Thread(target=self._probe, args=(stood.probes, over))
        started_s = time.perf_counter()
        prober.start()
        try:
            stood.heard = run()
        finally:
            over.set()
            prober.join()
        ended_s = time.perf_counter()
        stood.took_s = ended_s - started_s
        stood.peak_bytes = memory(self._pid, "VmHWM")
        stood.good = [each for each in self._good_until(ended_s) if started_s <= each.sent_s <= ended_s]
        return stood

    def _probe(self, statuses: list[int], over: threading.Event) -> None:
        while True:
            for path in _PROBES:
                try:
                    statuses.append(httpx.get(self._doors["http"] + path, timeout=30, trust_env=False).status_code)
                except httpx.TransportError:
                    statuses.append(0)
            if over.wait(_PROBED_EVERY_S):
                return

    def _good_until(self, moment_s: float) -> list[Good]:
        while True:
            lines = self._answers.read_text().rpartition("\n")[0].splitlines()
            found = [Good(float(sent), float(took), int(status)) for sent, took, status in map(str.split, lines)]
            if found and found[-1].sent_s > moment_s:
                return found
            time.sleep(0.05)


@contextmanager
def siege(url: str, pid: int, folder: Path) -> Iterator[Siege]:
    """Have a good client ask a server until the block ends.

    Args:
        url: Where the server listens.
        pid: Of its process.
        folder: Where the good client's answers go; the server's log there says on which port it speaks gRPC.
    """
    answers = folder / "good.txt"
    with answers.open("wb") as out:
        client = subprocess.Popen([sys.executable, "-m", "load_tests.good_client", url], stdin=-1, stdout=out)
    try:
        assert client.stdin
        with client.stdin as body:
            body.write(small_png())
        port = re.search(r"grpc +. port (\d+)", (folder / "server.log").read_text(errors="replace"))
        assert port
        yield Siege({"http": url, "grpc": f"http://127.0.0.1:{port[1]}"}, pid, answers)
    finally:
        client.kill()
        client.wait()


def memory(pid: int, what: str) -> int:
    """Return a line of a process's memory in bytes: `VmRSS` is now, `VmHWM` the most."""
    found = re.search(rf"^{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024
