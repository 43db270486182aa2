"""What a stream is, in a few values: for lists and filters."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from tta_server.guard.verdict import Serve
from tta_server.settings import Mode
from tta_server.streams.present import Because, Present


@dataclass(frozen=True)
class Summary:
    """One stream in a list.

    Attributes:
        name: Its name.
        mode: Whether and when it learns.
        adapter: Name of its adapter.
        state_version: Version of its state.
        steps: Steps that made the state.
        answers, source_because, frozen, restores_in_a_row, domain: Who answers its requests; see `Present`.
        images: Images answered.
        images_learnt: Images that committed steps learnt from.
        images_dropped: Images that were offered for learning but not learnt from.
        images_in_window: Images that wait to be learnt from.
        entropy_ratio: Recent mean entropy of the answers over ln K; None before the first.
        confidence_ratio: Recent mean probability of the predicted class; None before the first.
        last_verdict: The newest of its verdicts.
        in_memory: Whether it is there; else it is on disk only.
        trouble: Why it is set aside; empty if it is not.
    """

    name: str
    mode: Mode
    adapter: str = ""
    state_version: int = 0
    steps: int = 0
    answers: Serve = "source"
    source_because: Because = "off"
    frozen: str = ""
    restores_in_a_row: int = 0
    domain: str = ""
    images: int = 0
    images_learnt: int = 0
    images_dropped: int = 0
    images_in_window: int = 0
    entropy_ratio: float | None = None
    confidence_ratio: float | None = None
    last_verdict: Mapping[str, Any] | None = None
    in_memory: bool = True
    trouble: str = ""

    @property
    def present(self) -> Present:
        """Who answers its requests."""
        return Present(self.answers, self.source_because, self.frozen, self.restores_in_a_row, self.domain)

    def now(self, present: Present) -> "Summary":
        """Return the same with who answers now."""
        return replace(self, **present._asdict())

    def told(self) -> dict[str, Any]:
        """Return what `GET /v1/streams` says of the stream."""
        return asdict(self)

    def aside(self, trouble: str) -> "Summary":
        """Return the same of a stream that is set aside, with the reason."""
        return replace(self, in_memory=False, trouble=trouble)


class Listed(NamedTuple):
    """Streams by name, or the first of them.

    Attributes:
        streams: What lists say of each.
        left: The name after which others were left for another time; None if none were.
    """

    streams: Sequence[dict[str, Any]]
    left: str | None = None


def tellable(summary: Callable[[], Summary], otherwise: Summary) -> Summary:
    """Return a summary if it can be made and told, else another: whoever lists streams must be able to."""
    try:
        found = summary()
        json.dumps(found.told())
    except Exception:
        return otherwise
    return found
