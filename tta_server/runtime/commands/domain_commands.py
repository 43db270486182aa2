"""What operators may do to the domains of streams."""

from collections.abc import Sequence
from typing import Any

from tta_server.adapters import State
from tta_server.domains.place import Place
from tta_server.errors import BadRequest, Conflict, NotFound
from tta_server.names import domain_name
from tta_server.runtime.commands.desk import Desk, Who
from tta_server.runtime.job import HOME
from tta_server.streams.lately import shares
from tta_server.streams.opening import open_domain
from tta_server.streams.stream import Stream

_Domain = dict[str, Any]


class DomainCommands:
    """Run operators' commands about domains; the device thread alone may call it."""

    def __init__(self, desk: Desk, most: int) -> None:
        """Take the streams, and how many domains each may have; 1 if none are told apart."""
        self._desk = desk
        self._most = most

    @property
    def told_apart(self) -> bool:
        """Whether new streams have a state for each domain."""
        return self._most > 1

    def describe(self, name: str) -> list[_Domain]:
        """Return what is known of home and of each domain of a stream, the oldest first.

        Raises:
            NotFound: If there is no such stream.
            BadRequest: If it tells no domains apart.
        """
        stream = self._apart(name)
        names = self._desk.streams.domain_names(name)
        known = [self._desk.streams.known(each) for each in names]
        counted = shares([stream.lately, *(each.lately for each in known if each)], stream.images)
        home, *rest = counted
        found = iter(rest)
        return [self._home(stream, home)] + [
            self._about(stream, each, next(found) if there else 0.0) for each, there in zip(names, known, strict=True)
        ]

    def rename(self, name: str, number: int, title: str, who: Who) -> _Domain:
        """Have a domain called something.

        Args:
            name: The stream.
            number: The domain.
            title: What; empty for nothing.
            who: Who asks.

        Raises:
            NotFound: If there is no such stream or domain.
            BadRequest: If the stream tells no domains apart.
        """
        domain = self._desk.streams.existing(self.named(name, number))
        before, domain.title = domain.title, title
        self._desk.changed(domain, "rename", domain.standing, who, {"title": title, "before": before})
        return next(each for each in self.describe(name) if each["id"] == domain.name)

    def offer(self, name: str, number: int, to: Sequence[str], who: Who) -> list[str]:
        """Give other streams a domain to start from, each a copy; all of them or none.

        Args:
            name: The stream.
            number: The domain.
            to: The other streams.
            who: Who asks.

        Returns:
            The new domains, in the order of `to`.

        Raises:
            NotFound: If there is no such stream or domain.
            Conflict: If the domain has learnt nothing yet, or one of the streams has as many as it may have.
            BadRequest: If one of the streams tells no domains apart, learns in another way, or its guard would not let
                the state pass.
        """
        with self._desk.streams.at_work():
            domain = self._desk.streams.existing(self.named(name, number))
            if not domain.steps or domain.place is None:
                raise Conflict(f"domain '{domain.name}' has learnt nothing yet")
            others = [self._apart(other) for other in to]
            for other in others:
                self._fits(domain, other)
            placed, adopted, origin = (domain.place, domain.title), (domain.state, domain.steps), {"from": domain.name}
            opened = [self.open(other, placed, adopted, who, origin).name for other in others]
            self._desk.changed(domain, "offer", domain.standing, who, {"to": [*to]})
            return opened

    def open(
        self, stream: Stream, placed: tuple[Place, str], adopted: tuple[State, int], who: Who, extra: dict[str, Any]
    ) -> Stream:
        """Open a domain that somebody has learnt already, in a stream that `check_room` found room in.

        Args:
            stream: Whose it is to be.
            placed: Where it lies, and what it is called.
            adopted: Its state, and how many steps made it.
            who: Who asks.
            extra: What the audit log is to say beside.
        """
        domain = open_domain(self._desk.streams, stream, *placed)
        self._desk.changed(stream, "open", stream.standing, who, {"domain": domain.name} | extra)
        self._desk.go_on(domain, adopted, "import", who, extra)
        return domain

    def named(self, name: str, number: int) -> str:
        """Return the name of a stream's domain.

        Raises:
            NotFound: If there is no such stream or domain.
            BadRequest: If the stream tells no domains apart.
        """
        self._apart(name)
        wanted, names = domain_name(name, number), self._desk.streams.domain_names(name)
        if wanted not in names:
            raise NotFound(f"stream '{name}' has no domain {number}; it has {', '.join(names) or 'none'}")
        return wanted

    def check_room(self, stream: Stream) -> None:
        """Do nothing if another domain can be opened in a stream.

        Raises:
            Conflict: If it has as many as it may have.
        """
        if self._desk.streams.count_domains(stream.name) >= self._most:
            raise Conflict(f"stream '{stream.name}' has {self._most} domains already; delete one first")

    def _apart(self, name: str) -> Stream:
        stream = self._desk.streams.existing(name)
        if stream.parent:
            raise BadRequest(f"'{name}' is a domain itself; name its stream, '{stream.parent.name}'")
        if stream.whereabouts is None:
            raise BadRequest(f"stream '{name}' tells no domains apart: it has one state for everything")
        return stream

    def _fits(self, domain: Stream, other: Stream) -> None:
        if other is domain.parent:
            raise BadRequest(f"stream '{other.name}' has the domain '{domain.name}' already")
        if other.method.adapter != domain.method.adapter:
            raise BadRequest(
                f"stream '{other.name}' learns by {other.method.adapter!r}, domain '{domain.name}' by "
                f"{domain.method.adapter!r}: they must be the same"
            )
        self.check_room(other)
        if wrong := other.method.guard.vet(domain.state, other.method.initial):
            raise BadRequest(f"stream '{other.name}' does not take the state over: {wrong.reason}")

    def _home(self, stream: Stream, share: float) -> _Domain:
        current, now = stream.whereabouts is not None and not stream.whereabouts.current, stream.present
        return {
            "id": HOME,
            "title": "",
            "since": "",
            "current": current,
            "last_asked": stream.lately.time,
            "images": stream.lately.images,
            "share": share,
            "steps": 0,
            "state_version": 0,
            "answers": now.answers,
            "source_because": now.source_because,
            "frozen": "",
            "estimated_gain": None,
            "distance": 0.0,
            "spread": 1.0,
            "bytes": 0,
            "in_memory": True,
            "trouble": "",
        }

    def _about(self, stream: Stream, name: str, share: float) -> _Domain:
        summary, known = self._desk.streams.summary(name), self._desk.streams.known(name)
        there = self._desk.streams.in_memory(name)
        place = known.place if known else None
        return {
            "id": name,
            "title": known.title if known else "",
            "since": known.since if known else "",
            "current": stream.whereabouts is not None and stream.whereabouts.current == name,
            "last_asked": known.lately.time if known else "",
            "images": summary.images,
            "share": share,
            "steps": summary.steps,
            "state_version": summary.state_version,
            "answers": summary.answers,
            "source_because": summary.source_because,
            "frozen": summary.frozen,
            "estimated_gain": known.gain if known else None,
            "distance": place.apart(Place.source(len(place.centre), 1)) if place else None,
            "spread": place.spread if place else None,
            "bytes": sum(there.bytes.values()) if there else 0,
            "in_memory": summary.in_memory,
            "trouble": summary.trouble,
        }
