"""What is remembered of a stream whose state is on disk only: a value."""

from dataclasses import replace
from typing import NamedTuple

from tta_server.domains.place import Place
from tta_server.guard.verdict import Serve
from tta_server.names import domain_name, number_of
from tta_server.settings import Mode
from tta_server.streams.lately import Lately
from tta_server.streams.present import Present, as_source, present
from tta_server.streams.stream import Answering, Method
from tta_server.streams.summary import Summary
from tta_server.streams.whereabouts import Whereabouts


class Parked(NamedTuple):
    """What is known of a stream that is on disk only.

    Attributes:
        summary: What lists say of it.
        serve: Whether its own state or the source answers, as the guard wants it once it has weighed it.
        unweighed: Whether it is a domain of which the guard has weighed nothing yet.
        method: How it learns; kept, so that nobody has to make it anew when the stream comes back.
        place: Where it lies, if it is a domain: to be found by what comes.
        tells_apart: Whether it tells domains apart.
        title: What an operator calls it, if it is a domain.
        since: When it was opened, if it is one.
        lately: How much of what the stream sees is of this domain.
        domains: Names of its domains.
        opened: How many it ever opened, and so the highest number that one of its domains can have had; 0 if it does
            not say.
        current: The one that its last image belonged to; empty if it was at home.
        gain: What the guard estimates that it gains; None if it does not know.
        file_version: Of the state in the file, where it came from one that an earlier process, or another, wrote.
        digest: Of that state, if steps made it; else None.
    """

    summary: Summary
    serve: Serve
    unweighed: bool
    method: Method
    place: Place | None = None
    tells_apart: bool = False
    title: str = ""
    since: str = ""
    lately: Lately = Lately()
    domains: tuple[str, ...] = ()
    opened: int = 0
    current: str = ""
    gain: float | None = None
    file_version: int = 0
    digest: str | None = None

    def disowns(self, domain: str) -> bool:
        """Say whether a domain was its and is no more; one opened after its file was written it does not know."""
        return number_of(domain) <= self.opened and domain not in self.domains

    @property
    def origin(self) -> dict[str, int]:
        """Which version it has, which one its file has, and how many steps made that; for the audit log."""
        return {"to": self.summary.state_version, "from": self.file_version, "to_steps": self.summary.steps}

    @property
    def answering(self) -> Answering:
        """Who answers its requests."""
        mode = self.summary.mode
        frozen_model = as_source(mode, self.present.source_because)
        return Answering(mode, frozen_model, self.method, self.tells_apart and mode != "off")

    def in_mode(self, mode: Mode) -> "Parked":
        """Return the same in another mode; its file is as it was until the stream has come back."""
        was = self.summary
        now = present(mode, self.serve, self.unweighed, self.tells_apart, was.frozen, was.restores_in_a_row)
        return self._replace(summary=replace(was, mode=mode).now(now))

    @property
    def present(self) -> Present:
        """Who answers its requests where it is in no domain; see `Directory.present`."""
        return self.summary.present

    @property
    def domain(self) -> str:
        """The domain that it is in; empty at home, and if it tells none apart now."""
        return self.current if self.tells_apart and self.summary.mode != "off" else ""


def remembered(name: str, where: Whereabouts | None) -> tuple[tuple[str, ...], int, str]:
    """Return the names of a stream's domains, how many it ever opened, and the one that it is in."""
    if where is None:
        return (), 0, ""
    return tuple(domain_name(name, number) for number in where.domains), where.next - 1, where.current
