"""What happens to streams, told to everyone who keeps it: the audit log, the disk, the stream's last verdicts."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save

from tta_server.adapters import Step
from tta_server.adapters.checkpoint import state_digest
from tta_server.guard.verdict import Admission, Verdict
from tta_server.settings import Mode
from tta_server.storage.audit import Entry, Event
from tta_server.storage.keeper import Keeper
from tta_server.streams.lesson import Lesson
from tta_server.streams.shelf import Shelf
from tta_server.streams.stream import Stream

EVERY = "*"  # no stream can have this name


class Journal:
    """Write down every change; the device thread alone may call it."""

    def __init__(self, keeper: Keeper, shelf: Shelf, durable: bool, keep_inputs: bool) -> None:
        """Take where things are kept.

        Args:
            keeper: The audit log.
            shelf: Streams on disk.
            durable: Whether anything outlives the process.
            keep_inputs: Whether the windows that are learnt from are kept, so that states can be rebuilt.
        """
        self._keeper = keeper
        self._shelf = shelf
        self._durable = durable
        self._keep_inputs = keep_inputs

    def loaded(self, name: str, version: int) -> None:
        """Write down from which version a stream goes on; lines beyond it are of states that are lost."""
        if self._durable:
            extra = {"to": version}
            self._keeper.record(Entry(name, "load", version, version, reason="the server started", extra=extra))

    def judged(self, lesson: Lesson, step: Step, verdict: Verdict, before: int, stack: tuple[int, int] | None) -> None:
        """Write down a verdict that was carried out; see `Chronicle`."""
        stream, projected = lesson.stream, verdict.state is not step.state
        extra: dict[str, Any] = {"stack": list(stack)} if stack else {}
        extra |= {"projected": True} if projected and verdict.action == "commit" else {}
        if verdict.action == "rollback":
            extra["to_steps"] = stream.steps
        if self._durable and self._keep_inputs and verdict.action == "commit":
            rows = [row.image for row in lesson.rows]
            self._keeper.keep_input(stream.name, lesson.digest, lambda: _window(rows))
        self._write(
            stream, verdict.action, before, verdict.cause, verdict.reason, lesson.digest, len(lesson.rows), extra=extra
        )
        if stream.version != before:
            self._save(stream)

    def skipped(self, lesson: Lesson, admission: Admission) -> None:
        """Write down that a window was not learnt from."""
        stream = lesson.stream
        self._write(stream, "skip", stream.version, admission.cause, admission.reason, lesson.digest, len(lesson.rows))

    def failed(self, stream: Stream, error: Exception) -> None:
        """Write down that a step raised an error."""
        self._write(stream, "failed", stream.version, "", f"{type(error).__name__}: {error}")

    def handed_over(self, stream: Stream) -> None:
        """Keep that another model answers from now on; the line of the window says why."""
        self._save(stream)

    def changed(
        self,
        stream: Stream,
        event: Event,
        before: int,
        cause: str,
        reason: str,
        who: str = "engine",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write down a change that no window caused."""
        self._write(stream, event, before, cause, reason, who=who, extra=extra or {})
        if event not in ("create", "snapshot", "delete"):
            self._save(stream)

    def switched(self, mode: Mode | None, reason: str, who: str) -> None:
        """Write down that all streams were switched, those on disk and to come too."""
        if self._durable:
            entry = Entry(EVERY, "mode", 0, 0, "operator", reason, who=who, extra={"mode": mode or "configured"})
            self._keeper.record(entry)

    def _save(self, stream: Stream) -> None:
        if self._durable:
            self._shelf.save(stream)

    def _write(
        self,
        stream: Stream,
        event: Event,
        before: int,
        cause: str,
        reason: str,
        batch: str | None = None,
        rows: int = 0,
        who: str = "engine",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        entry = Entry(
            stream.name,
            event,
            before,
            stream.version,
            cause,
            reason,
            batch,
            rows,
            state_digest(stream.state) if self._durable and stream.version != before else None,
            who,
            extra=extra or {},
        )
        said = {"time": entry.time, "verdict": event, "cause": cause, "reason": reason, "who": who}
        stream.verdicts.append(said | {"version_before": before, "version_after": stream.version})
        if self._durable:
            self._keeper.record(entry)


def _window(rows: list[Any]) -> bytes:
    return save({f"{i:06d}": torch.from_numpy(row) for i, row in enumerate(rows)})
