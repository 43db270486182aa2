"""Processes that are forked from one that has imported everything, which takes longer than the rest of a start."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tta_server.cli import main

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "tta_server.serve",
        "tta_server.models.glyphs",
        "tests.crash.saver",
        "tests.crash.victim",
        "tests.replicas.replica",
    ]
)


class Forked:
    """A command of `tta-server` in a process of its own, as `subprocess.Popen` has it.

    Its end is not an interpreter's: nothing is taken down, and what is registered to run at exit does not.

    Attributes:
        pid: Of the process.
    """

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        log.write_text("")
        self._process = PROCESSES.Process(target=_run, args=(list(arguments), str(log), dict(environment)))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its status; None as long as it runs, negative if a signal ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return its status, if it has ended."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its status once it has ended.

        Raises:
            subprocess.TimeoutExpired: If that takes longer than `timeout` seconds.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("tta-server", timeout or 0.0)
        return self.returncode

    def terminate(self) -> None:
        """Tell it to stop."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def say_into(log: str) -> None:
    """Have what this process prints go to the end of a file."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)


def _run(arguments: list[str], log: str, environment: dict[str, str]) -> None:
    say_into(log)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    sys.exit(main(arguments))
