"""Which domains each stream has: a data structure."""

from tta_server.names import is_domain, number_of, stream_of_domain


class Families:
    """Remember the domains of each stream."""

    def __init__(self) -> None:
        """Start with none."""
        self._domains: dict[str, list[str]] = {}  # each the oldest first
        self._count = 0

    def __len__(self) -> int:
        """Return how many domains there are, of all streams."""
        return self._count

    def add(self, name: str) -> None:
        """Remember a name, if it is a domain's."""
        if is_domain(name) and name not in (known := self._domains.setdefault(stream_of_domain(name), [])):
            known.append(name)
            known.sort(key=number_of)
            self._count += 1

    def forget(self, name: str) -> None:
        """Remember a name no more."""
        known = self._domains.get(stream_of_domain(name), [])
        if name in known:
            known.remove(name)
            self._count -= 1
        if not known:
            self._domains.pop(stream_of_domain(name), None)

    def of(self, stream: str) -> list[str]:
        """Return the domains of a stream, the oldest first."""
        return self._domains.get(stream, []).copy()
