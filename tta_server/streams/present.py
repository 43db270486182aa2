"""Who answers a stream's requests now, and why: a value, and the one rule that says it."""

from typing import Literal, NamedTuple

from tta_server.guard.verdict import Serve
from tta_server.settings import Mode

Because = Literal["", "home", "off", "shadow", "new", "guard", "frozen"]
"""Why the frozen model answers: the input looks like the source's; the mode says so; the guard has weighed nothing of
the domain yet; it has not found what was learnt more credible, or took it back; it has switched learning off. Empty if
the frozen model does not answer."""


class Present(NamedTuple):
    """Who answers a stream's requests now: the stream itself, or the domain that it is in.

    Attributes:
        answers: What was learnt, or the frozen model.
        source_because: Why the frozen model does.
        frozen: Why the guard switched that off; empty if it did not.
        restores_in_a_row: Times in a row that the guard took it back, with no complete check passed in between.
        domain: The domain; empty if the stream is at home, or tells none apart.
    """

    answers: Serve
    source_because: Because
    frozen: str = ""
    restores_in_a_row: int = 0
    domain: str = ""

    def learner(self, stream: str) -> str:
        """Return the name of what learns now, and may answer: the stream, or a domain of it; empty if nothing does."""
        return "" if self.source_because in ("home", "off", "frozen") else self.domain or stream


def source_because(
    mode: Mode, serve: Serve, unweighed: bool, apart: bool, frozen: str = "", restores: int = 0
) -> Because:
    """Return why the frozen model answers for one state.

    Args:
        mode: Whether and when it learns.
        serve: Whom the guard wants to answer, once it has weighed it.
        unweighed: Whether it is a domain of which the guard has weighed nothing yet.
        apart: Whether it tells domains apart, and is itself what answers at home.
        frozen: Why the guard switched it off; empty if it did not.
        restores: Times in a row that the guard took it back.
    """
    if frozen:
        return "frozen"
    if mode in ("off", "shadow"):
        return mode
    if apart:
        return "home"
    if unweighed and mode == "after":
        return "guard" if restores else "new"
    return "guard" if serve == "source" else ""


def present(mode: Mode, serve: Serve, unweighed: bool, apart: bool, frozen: str, restores: int) -> Present:
    """Return who answers for one state; see `source_because`."""
    because = source_because(mode, serve, unweighed, apart, frozen, restores)
    return Present("source" if because else "adapted", because, frozen, restores)


def as_source(mode: Mode, because: Because) -> bool:
    """Return whether the frozen model is to answer the next request, given why it answers now; see `source_because`.

    In mode `inline` that is no longer so if the guard said it: it says it anew of each request that is learnt from.
    """
    return because != "" and (because != "guard" or mode != "inline")
