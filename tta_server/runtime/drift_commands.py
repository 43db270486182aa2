"""What operators may ask of the drift of streams."""

from typing import Any

from tta_server.drift.told import told
from tta_server.errors import BadRequest, Unsupported
from tta_server.runtime.desk import Desk
from tta_server.runtime.domain_commands import DomainCommands
from tta_server.runtime.router import Router
from tta_server.runtime.watcher import Watcher
from tta_server.streams.stream import Stream

_OF_A_DOMAIN = ("id", "title", "current", "share", "distance", "spread")


class DriftCommands:
    """Say what is known of drift; the device thread alone may call it."""

    def __init__(self, desk: Desk, domains: DomainCommands, watcher: Watcher, router: Router | None) -> None:
        """Take the streams, what is known of their domains, who watches them, and who tells domains apart, if any."""
        self._desk = desk
        self._domains = domains
        self._watcher = watcher
        self._router = router

    def read(self, name: str) -> dict[str, Any]:
        """Return what is known of the drift of a stream.

        Raises:
            NotFound: If there is no such stream.
            BadRequest: If it is a domain.
            Unsupported: If nobody watches drift.
        """
        stream, monitor = self._desk.streams.existing(name), self._watcher.monitor
        if stream.parent:
            raise BadRequest(f"'{name}' is a domain itself; name its stream, '{stream.parent.name}'")
        if monitor is None:
            raise Unsupported("nobody watches drift: drift.enabled is false in the configuration")
        domains = self._domains.describe(name) if stream.whereabouts is not None else []
        return {
            "stream": name,
            **told(stream.drift, monitor),
            "missing": _missing(bool(monitor.size), stream.tells_apart),
            "style": self._style(stream),
            "domains": [{key: domain[key] for key in _OF_A_DOMAIN} for domain in domains],
        }

    def _style(self, stream: Stream) -> dict[str, Any] | None:
        if self._router is None or stream.whereabouts is None:
            return None
        watch = stream.drift
        return {
            "away": watch.away,
            "images_in_a_row": watch.astray or watch.settled,
            "distance": stream.whereabouts.from_source,
            "limit": self._router.limit,
        }


def _missing(scored: bool, apart: bool) -> str:
    """Return what is not watched, and why; empty if all is."""
    if not scored:
        return (
            "no window is scored: the model has no reference bundle that knows scores without drift; "
            "make it with 'tta-server calibrate'"
        )
    return "" if apart else "the look of images is not judged: the stream is off, or tells no domains apart"
