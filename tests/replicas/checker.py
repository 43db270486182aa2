"""What a history of answers must not show: `python -m tests.replicas.checker HISTORY`.

A line is an answer (`begun`, `at`, `stream`, `status`, `version`, `probe`), the steps that a stream says it has learnt
(`kind: steps`), or a mark: `trouble` begins when something is done to a replica, `calm` says that the balancer has
noticed.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDING = 1e-4  # of a probability: a row's last bits depend on how many share its forward


def violations(lines: Iterable[dict[str, Any]], planned: bool = False) -> list[str]:
    """Return what is wrong, in words.

    Args:
        lines: The history.
        planned: Whether nothing was killed or stopped in it, so that nothing that was learnt may be lost.
    """
    history = sorted(lines, key=lambda line: line["at"])
    found, calm = [], True
    streams: dict[str, list[dict[str, Any]]] = defaultdict(list)
    steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
    since = 0.0
    for line in history:
        if line["kind"] in ("trouble", "calm"):
            calm, since = line["kind"] == "calm", line["at"]
        elif line["kind"] == "steps":
            steps[line["stream"]].append(line)
        elif line["status"] == 200:
            streams[line["stream"]].append(line)
        elif calm and line["begun"] > since:
            found.append(f"stream '{line['stream']}' was answered {line['status']}: {line.get('error', '')}")
    for name, answers in streams.items():
        found += [f"stream '{name}': {wrong}" for wrong in [*_going_back(answers), *_given_twice(answers)]]
    for name, told in steps.items() if planned else ():
        counts = [line["steps"] for line in told]
        if counts != sorted(counts):
            found.append(f"stream '{name}' lost what it had learnt: steps {counts}")
    return found


def _going_back(answers: list[dict[str, Any]]) -> list[str]:
    """Find answers that were asked for after another with a higher version had come."""
    found = []
    for answer in answers:
        before = [other["version"] for other in answers if other["at"] < answer["begun"]]
        if before and answer["version"] < max(before):
            found.append(f"version {answer['version']} came after {max(before)}")
    return found


def _given_twice(answers: list[dict[str, Any]]) -> list[str]:
    """Find versions under which two states answered: the same picture, seen in two ways."""
    first: dict[int, list[float]] = {}
    found = []
    for answer in answers:
        known = first.setdefault(answer["version"], answer["probe"])
        if not np.allclose(known, answer["probe"], atol=ROUNDING):
            found.append(f"version {answer['version']} was given to two states")
    return found


def stray_files(store: Path) -> list[str]:
    """Return state files on a shared folder that no owner up to the newest can have written in its time."""
    found = []
    for folder in sorted((store / "streams").iterdir()):
        newest = max(int(path.name.removeprefix("owner-")) for path in folder.glob("owner-*"))
        states = sorted(
            (int(path.name.split("-")[1]), int(path.name.split("-")[2][1:])) for path in folder.glob("state-*")
        )
        versions = [version for _, version in states]
        if versions != sorted(versions) or any(sequence // 10**9 > newest for sequence, _ in states):
            found.append(f"{folder.name}: {states}, and the owner is {newest}")
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a history."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(path: str) -> int:
    """Check one file."""
    wrong = violations(read(Path(path)))
    print("\n".join(wrong) or "nothing is wrong")  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
