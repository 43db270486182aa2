"""What happens to streams, written down: the audit log, the windows that were learnt from, the states."""

from collections.abc import Sequence

import torch
from safetensors.torch import save

from tta_server.adapters.checkpoint import state_digest
from tta_server.storage.audit import Entry
from tta_server.storage.keeper import Keeper
from tta_server.streams.event import StreamEvent
from tta_server.streams.shelf import Shelf
from tta_server.streams.window import Images


class Journal:
    """Write down every event that the audit log has a name for."""

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

    def hear(self, event: StreamEvent) -> None:
        """Write down one event: the window, then the line, then the state."""
        if not (self._durable and event.logged):
            return
        if self._keep_inputs and event.kind == "commit" and event.lesson:
            images = [row.image for row in event.lesson.rows]
            self._keeper.keep_input(event.stream, event.lesson.digest, lambda: _window(images))
        self._keeper.record(
            Entry(
                event.stream,
                event.logged,
                event.before.version,
                event.after.version,
                event.cause,
                event.reason,
                event.lesson.digest if event.lesson else None,
                event.rows,
                _digest(event),
                event.who,
                event.time,
                event.extra,
            )
        )
        if event.subject and event.saves:
            self._shelf.save(event.subject)
            if event.subject.parent:
                self._shelf.save(event.subject.parent)


def _digest(event: StreamEvent) -> str | None:
    changed = event.subject and event.before.version != event.after.version and event.kind != "begin"
    return state_digest(event.subject.state) if event.subject and changed else None


def _window(images: Sequence[Images]) -> bytes:
    return save({f"{i:06d}": torch.from_numpy(image) for i, image in enumerate(images)})
