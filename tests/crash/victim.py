"""The real server in a process that others kill, forked from one that has imported everything."""

import os
import re
import time
from pathlib import Path

import httpx
import yaml

from tests.processes import PROCESSES, say_into
from tta_server.serve import serve
from tta_server.settings_file import load_settings
from tta_server.storage import failpoints

START_WITHIN_S = 90.0


def run(config: str, log: str, points: str) -> None:
    """Serve until killed, with failpoints armed."""
    say_into(log)
    os.environ["COLUMNS"] = "200"
    failpoints.arm(points)
    serve(load_settings(Path(config)))


class Victim:
    """A server on a free port; `client` reaches it once it is `ready`."""

    def __init__(self, folder: Path, config: dict, points: str = "") -> None:
        path, self._log = folder / "config.yaml", folder / "server.log"
        path.write_text(yaml.safe_dump(config | {"server": {"port": 0}}))
        self._log.write_text("")
        self.process = PROCESSES.Process(target=run, args=(str(path), str(self._log), points), daemon=True)
        self.process.start()
        self.client = httpx.Client(timeout=60)

    def __enter__(self) -> "Victim":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ready(self) -> bool:
        """Wait until it answers; return whether it lives to do so."""
        deadline_s = time.monotonic() + START_WITHIN_S
        while time.monotonic() < deadline_s and self.process.is_alive():
            # What is being written may end within a character.
            if found := re.search(r"http://[\d.]+:\d+", self._log.read_text(errors="replace")):
                self.client.base_url = found.group()
                if self._answers():
                    return True
            time.sleep(0.01)
        assert not self.process.is_alive(), f"the server did not become ready:\n{self.said()}"
        return False

    def said(self) -> str:
        """Return its log."""
        return self._log.read_text()

    def kill(self) -> int | None:
        """Kill it if it still lives; return its exit status."""
        self.process.kill()
        self.process.join()
        self.client.close()
        return self.process.exitcode

    def _answers(self) -> bool:
        try:
            return self.client.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False  # bound, but not yet accepting, or dead
