"""What happens to streams, written down: the audit log, the windows that were learnt from, the states."""

from collections.abc import Sequence

import torch
from safetensors.torch import save

from tta_server.adapters.checkpoint import state_digest
from tta_server.storage.audit import Entry, Event
from tta_server.storage.keeper import Keeper
from tta_server.storage.ring import Ring
from tta_server.streams.event import StreamEvent
from tta_server.streams.files.shelf import Shelf
from tta_server.streams.window import Images


class Journal:
    """Write down every event that the audit log has a name for."""

    def __init__(self, keeper: Keeper, shelf: Shelf, ring: Ring | None, keep_inputs: bool) -> None:
        """Take where things are kept.

        Args:
            keeper: The audit log.
            shelf: Streams on disk.
            ring: Where lines go if nothing is to outlive the process; None if something is.
            keep_inputs: Whether the windows that are learnt from are kept, so that states can be rebuilt.
        """
        self._keeper = keeper
        self._shelf = shelf
        self._ring = ring
        self._keep_inputs = keep_inputs

    def hear(self, event: StreamEvent) -> None:
        """Write down one event: the window, then the line, then the state."""
        if not event.logged:
            return
        if self._ring is not None:
            self._ring.append(_entry(event, event.logged, None))  # a digest would make the device wait
            return
        if self._keep_inputs and event.kind == "commit" and event.lesson:
            images = [row.image for row in event.lesson.rows]
            generation = event.subject.generation if event.subject else 0
            self._keeper.keep_input(event.stream, event.lesson.digest, lambda: _window(images), generation)
        self._keeper.record(_entry(event, event.logged, _digest(event)))
        if event.subject and event.saves:
            self._shelf.save(event.subject)
            if event.subject.parent:
                self._shelf.save(event.subject.parent)


def _entry(event: StreamEvent, name: Event, state: str | None) -> Entry:
    """Return the line of an event; `state` is the digest of the state after it."""
    return Entry(
        event.stream,
        name,
        event.before.version,
        event.after.version,
        event.cause,
        event.reason,
        event.lesson.digest if event.lesson else None,
        event.rows,
        state,
        event.who,
        event.time,
        event.extra,
    )


def _digest(event: StreamEvent) -> str | None:
    changed = event.subject and event.before.version != event.after.version and event.kind != "begin"
    return state_digest(event.subject.state) if event.subject and changed else event.digest


def _window(images: Sequence[Images]) -> bytes:
    return save({f"{i:06d}": torch.from_numpy(image) for i, image in enumerate(images)})
