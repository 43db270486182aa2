"""Where each stream is, and each domain of one: in memory, on disk or set aside. A data structure."""

from collections import Counter, OrderedDict
from collections.abc import Container, Iterator
from itertools import chain
from typing import NamedTuple

from tta_server.domains.place import Place
from tta_server.errors import NotFound
from tta_server.names import DOMAIN_SIGN, is_domain, stream_of_domain
from tta_server.settings import Mode
from tta_server.streams.families import Families
from tta_server.streams.files.parked import Parked
from tta_server.streams.present import Present
from tta_server.streams.stream import Stream
from tta_server.streams.summary import Summary


class Apart(NamedTuple):
    """Whether streams tell domains apart.

    Attributes:
        dimensions: Of a style; 0 if they do not.
        blind: Whether they were to, and cannot.
    """

    dimensions: int = 0
    blind: bool = False


class Directory:
    """Find streams and domains by name; who changes what is where is the registry.

    Attributes:
        learning: Names of those that a lesson is worked out for: nobody spares or merges one meanwhile.
    """

    def __init__(self) -> None:
        """Start without a stream."""
        self.learning: frozenset[str] = frozenset()
        self._streams: OrderedDict[str, Stream] = OrderedDict()  # the one that is idle longest first
        self._parked: dict[str, Parked] = {}
        self._aside: dict[str, Summary] = {}
        self._families = Families()

    def __len__(self) -> int:
        """Return how many streams there are; domains do not count."""
        return len(self._streams) + len(self._parked) + len(self._aside) - len(self._families)

    def __contains__(self, name: object) -> bool:
        return name in self._streams or name in self._parked or name in self._aside

    def in_memory(self, name: str) -> Stream | None:
        """Return a stream if it is in memory."""
        return self._streams.get(name)

    def every_stream_in_memory(self) -> list[Stream]:
        """Return the streams and domains that are in memory, the one that is idle longest first."""
        return list(self._streams.values())

    def present(self, name: str) -> Present | None:
        """Return who answers a stream's requests now, wherever it and its domain are; None if it cannot go on."""
        if (known := self.known(name)) is None:
            return None
        domain = self.known(known.domain) if known.domain else None
        return domain.present._replace(domain=known.domain) if domain else known.present

    def summary(self, name: str) -> Summary:
        """Return the summary of a stream, wherever it is, with who answers now.

        Raises:
            NotFound: If there is none.
        """
        if now := self.present(name):
            stream = self._streams.get(name)
            return (stream.summary() if stream else self._parked[name].summary).now(now)
        if aside := self._aside.get(name):
            return aside
        raise NotFound(f"unknown stream '{name}'; a stream exists from its first answered request")

    def domains(self, name: str) -> dict[str, Place]:
        """Return the domains of a stream that can answer, the oldest first, and where each lies."""
        found = {}
        for domain in self._families.of(name):
            known = self.known(domain)
            if known and known.place:
                found[domain] = known.place
        return found

    def known(self, name: str) -> Stream | Parked | None:
        """Return what is known of a stream that can go on, wherever it is."""
        return self._streams.get(name) or self._parked.get(name)

    def domain_names(self, name: str) -> list[str]:
        """Return the names of a stream's domains, the oldest first, those that cannot answer included."""
        return self._families.of(name)

    def count_domains(self, name: str) -> int:
        """Return how many domains a stream has, those that cannot answer included."""
        return len(self._families.of(name))

    def idlest(self) -> str:
        """Return who in memory is idle longest, but for who was asked last and its stream; empty if nobody is left."""
        last = next(reversed(self._streams), "")
        stay = (last, stream_of_domain(last))
        return next((name for name in self._streams if name not in stay), "")

    def idlest_domain(self, name: str, busy: Container[str] = ()) -> str:
        """Return the domain of a stream that can be spared, or an empty string.

        Of those that never learnt if there are any, of all otherwise, it is the one that was asked longest ago.

        Args:
            name: The stream.
            busy: Domains that cannot.
        """
        domains = [one for one in self._families.of(name) if one not in busy and one not in self.learning]
        order = [one for one in self._aside if one in domains]
        order += [one for one in self._parked if one in domains]
        order += [one for one in self._streams if one in domains]
        return min(order, key=lambda one: self.summary(one).steps > 0, default="")

    def count_modes(self) -> Counter[Mode]:
        """Return how many streams are in which mode; those that were not read yet and domains do not count."""
        modes = {name: parked.summary.mode for name, parked in self._parked.items()}
        modes |= {name: known.mode for known_ones in (self._streams, self._aside) for name, known in known_ones.items()}
        return Counter(mode for name, mode in modes.items() if not is_domain(name))

    def names(self, after: str = "") -> Iterator[str]:
        """Yield the names of streams that come after `after`, sorted; domains are not listed."""
        known = (name for name in self._everywhere() if DOMAIN_SIGN not in name and name > after)
        yield from sorted(dict.fromkeys(known))  # in order, mostly, as on disk: a set's take three times as long

    def _everywhere(self) -> Iterator[str]:
        """Yield the names of streams and domains, some perhaps twice."""
        return chain(self._streams, self._parked, self._aside)
