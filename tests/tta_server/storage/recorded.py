"""A stream that writes down what happens to it, as the server does."""

import torch

from tta_server.adapters.checkpoint import state_digest
from tta_server.adapters.stack import adapt_stacked
from tta_server.storage.audit import Entry
from tta_server.storage.replay import Recipe


class Recorded:
    """A stream that writes down what happens to it, as the server does."""

    def __init__(self, adapter, backbone, batches):
        self.adapter, self.backbone, self.batches = adapter, backbone, batches
        self.initial = adapter.init(backbone)
        self.state, self.version = self.initial, 0
        self.entries: list[Entry] = []
        self.states = {0: self.initial}
        self.lesson = Recipe(adapter, backbone, None, lambda digest: batches[int(digest)])

    def commit(self, batch: int, size: int = 0, slot: int = 0) -> None:
        x = self.batches[batch]
        if size:  # the neighbours have other states and images
            states = [self.initial] * size
            states[slot] = self.state
            xs = torch.stack([x if i == slot else self.batches[i % len(self.batches)] for i in range(size)])
            step = adapt_stacked(self.adapter, self.backbone, states, xs)[slot]
        else:
            step = self.adapter.adapt(self.backbone, self.state, x)
        self._move("commit", step.state, batch=str(batch), extra={"stack": [slot, size]} if size else {})

    def go_to(self, verdict: str, version: int) -> None:
        self._move(verdict, self.states[version])

    def reset(self) -> None:
        self._move("reset", self.initial)

    def load(self, version: int, generation: int = 0) -> None:
        """Have a server go on from a version that is on disk, one that shares the place if it has a generation."""
        before, steps = max(version, generation * 10**6), 0 if self.states[version] is self.initial else 1
        digest, extra = state_digest(self.states[version]), {"from": version, "to_steps": steps}
        self.entries.append(Entry("camera", "load", before, before, state=digest if steps else None, extra=extra))
        self.state, self.version = self.states[version], before
        self.states[before] = self.state

    def take(self, generation: int) -> None:
        """Have a server that shares the place begin with a stream of which nothing is there."""
        self.state, self.version = self.initial, generation * 10**6

    def delete(self) -> None:
        """Erase it; the name may be used again."""
        self.entries.append(Entry("camera", "delete", self.version, self.version))
        self.state, self.version = self.initial, 0

    def skip(self) -> None:
        self.entries.append(Entry("camera", "skip", self.version, self.version, batch="0", rows=16))

    def crash(self, version: int) -> None:
        """Go on from what was on disk, without a word in the log."""
        self.state, self.version = self.states[version], version

    def _move(self, verdict, state, **told) -> None:
        entry = Entry("camera", verdict, self.version, self.version + 1, state=state_digest(state), **told)
        self.entries.append(entry)
        self.state, self.version = state, self.version + 1
        self.states[self.version] = state
