"""What a history of answers must not show: `python -m tests.replicas.checker HISTORY`.

A line is an answer (`begun`, `at`, `stream`, `status`, `version`, `probe`), the steps that a stream says it has learnt
(`kind: steps`), how many streams had `moved` and how many had to at `least`, or a mark: `trouble` begins when something
is done to a replica, `calm` says that the balancer has noticed.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tta_server.storage.owners import VERSIONS_PER_GENERATION

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
        elif line["kind"] == "moved":
            if line["moved"] > 1.5 * line["least"]:
                found.append(f"{line['moved']} streams moved where {line['least']} had to")
        elif line["status"] == 200:
            streams[line["stream"]].append(line)
        elif calm and line["begun"] > since:
            found.append(f"stream '{line['stream']}' was answered {line['status']}: {line.get('error', '')}")
    for name, answers in streams.items():
        wrongs = [*_going_back(answers), *_given_twice(answers), *_risen_again(answers)]
        found += [f"stream '{name}': {wrong}" for wrong in wrongs]
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


def _risen_again(answers: list[dict[str, Any]]) -> list[str]:
    """Find owners who went on from what the last one had not: from what one before him wrote when it was no longer his.

    An owner's first version shows what he read. It is a state of the owner before, the one that he read among them.
    """
    owners: dict[int, dict[int, list[float]]] = defaultdict(dict)
    for answer in sorted(answers, key=lambda answer: answer["version"]):
        owners[answer["version"] // VERSIONS_PER_GENERATION].setdefault(answer["version"], answer["probe"])
    found, earlier = [], []
    for generation, (before, states) in zip([*owners][1:], owners.items(), strict=False):
        first = owners[generation].get(generation * VERSIONS_PER_GENERATION)
        known = states.get(before * VERSIONS_PER_GENERATION)
        if first and known and not _is_among(first, states.values()) and _is_among(first, earlier):
            found.append(f"owner {generation} went on from a state that owner {before} did not have")
        earlier += states.values()
    return found


def _is_among(probe: list[float], probes: Iterable[list[float]]) -> bool:
    return any(np.allclose(probe, other, atol=ROUNDING) for other in probes)


def told(lines: Iterable[dict[str, Any]]) -> str:
    """Return how much a history shows, in words."""
    history = list(lines)
    answers = [line for line in history if line["kind"] == "answer"]
    versions = {(line["stream"], line["version"]) for line in answers if line["status"] == 200}
    slowest_s = max(line["at"] - line["begun"] for line in answers)
    moved = [line for line in history if line["kind"] == "moved"]
    moves = [f"{line['moved']} streams moved where {line['least']} had to" for line in moved]
    counts = Counter("answers" if line["status"] == 200 else f"answers {line['status']}" for line in answers)
    counted = [f"{count} {what}" for what, count in counts.items()]
    return "; ".join([*counted, f"{len(versions)} versions", f"the slowest answer took {slowest_s:.1f} s", *moves])


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
    """Check one file, and say how much it shows."""
    history = read(Path(path))
    wrong = violations(history)
    print(told(history), *(wrong or ["nothing is wrong"]), sep="\n")  # noqa: T201
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
