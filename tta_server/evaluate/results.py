"""What an adapter did under a protocol, and the folder that keeps it."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from tta_server.evaluate.datasets import digest

SOURCE = "source"


@dataclass(frozen=True)
class Result:
    """One row of a table.

    Attributes:
        protocol: Name of the protocol, with "-clean" behind it if no image was corrupted.
        adapter: Name of the adapter, with the settings that were given.
        status: "ok", "refused" or "failed"; in the two latter cases the numbers are missing.
        reason: Why it is not "ok".
        errors: Share of misread images of each column, in the order of the table.
        clean: The same of clean images, before everything else; None if the data have none.
        clean_again: The same of the same images at the end.
        steps: Column, condition, severity, images and error of each domain, in the order of the plan.
        images: How many were answered.
        selected: Share of images that were learnt from, of those that could have been; None if unknown.
        accepted: Share of learning steps that changed the state; None if there were none.
        answer_ms: Median time of a request.
        learn_ms: Median time of a learning step; None if answering and learning are one.
        state_bytes: Size of the stream's state at the end.
        peak_bytes: See `peak_memory.PeakMemory`.
        elapsed_s: Time that all took, reading images included.
    """

    protocol: str
    adapter: str
    status: str = "ok"
    reason: str = ""
    errors: Mapping[str, float] = field(default_factory=dict)
    clean: float | None = None
    clean_again: float | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    selected: float | None = None
    accepted: float | None = None
    answer_ms: float | None = None
    learn_ms: float | None = None
    state_bytes: int | None = None
    peak_bytes: int | None = None
    elapsed_s: float | None = None

    @property
    def mean(self) -> float | None:
        """Mean over the columns; None without any."""
        return fmean(self.errors.values()) if self.errors else None


class ResultFolder:
    """Finished results on disk, so that an interrupted evaluation goes on where it stopped."""

    def __init__(self, root: Path, arguments: Mapping[str, Any], resume: bool | None) -> None:
        """Open or create a folder.

        Args:
            root: Where.
            arguments: Whatever else than adapter and protocol decides about the numbers.
            resume: True demands that the folder's results be of these arguments, False drops them and the images that
                are kept there, None takes them if they are and refuses if they are not.

        Raises:
            ValueError: If it holds results of other arguments.
        """
        self.root = root
        self.arguments = dict(arguments)
        path = root / "arguments.json"
        found = json.loads(path.read_text()) if path.is_file() else None
        if found is not None and found != self.arguments and resume is not False:
            raise ValueError(
                f"'{root}' holds results of other arguments ({_difference(found, self.arguments)}); give another "
                "--out, or --no-resume to overwrite them"
            )
        if resume is False:
            for old in (*root.glob("results/*/*.json"), *root.glob("images/*.npy")):
                old.unlink()
        root.mkdir(parents=True, exist_ok=True)
        _write(path, self.arguments)

    def load(self, protocol: str, adapter: str, key: str) -> Result | None:
        """Return a finished result, or None if there is none with this key."""
        path = self._path(protocol, adapter)
        if not path.is_file():
            return None
        content = json.loads(path.read_text())
        return Result(**content["result"]) if content["key"] == key else None

    def save(self, result: Result, key: str) -> None:
        """Keep a result; the key says of which code and settings it is."""
        path = self._path(result.protocol, result.adapter)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, {"key": key, "result": dataclasses.asdict(result)})

    def _path(self, protocol: str, adapter: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9.=]+", "-", adapter).strip("-")[:60]
        return self.root / "results" / protocol / f"{name}-{digest(adapter)[:8]}.json"


def _write(path: Path, content: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    name = next(name for name in {**one, **other} if one.get(name) != other.get(name))
    return f"{name} was {one.get(name)}, now is {other.get(name)}"
