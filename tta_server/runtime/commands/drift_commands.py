"""What operators may ask of the drift of streams."""

from typing import Any

import numpy as np

from tta_server.drift.told import told
from tta_server.errors import BadRequest, Unsupported
from tta_server.runtime.commands.compare_commands import Beside, CompareCommands
from tta_server.runtime.commands.desk import Desk
from tta_server.runtime.commands.domain_commands import DomainCommands
from tta_server.runtime.work.router import Router
from tta_server.runtime.work.watcher import Watcher
from tta_server.streams.strange import StrangeImage
from tta_server.streams.stream import Stream
from tta_server.streams.window import Images, prepared

_OF_A_DOMAIN = ("id", "title", "current", "share", "distance", "spread")


class DriftCommands:
    """Say what is known of drift; the device thread alone may call it."""

    def __init__(
        self, desk: Desk, domains: DomainCommands, beside: CompareCommands, watcher: Watcher, router: Router | None
    ) -> None:
        """Prepare.

        Args:
            desk: The streams.
            domains: What is known of their domains.
            beside: Says what both models say of images.
            watcher: Watches the streams.
            router: Tells domains apart; None if nobody does.
        """
        self._desk = desk
        self._domains = domains
        self._beside = beside
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

    def strange(self, name: str) -> list[tuple[StrangeImage, Beside]]:
        """Return the last images of a stream that raised the score, newest last, and what is said of each now.

        Raises:
            NotFound: If there is no such stream.
            Unsupported: If none are kept.
        """
        stream = self._desk.streams.existing(name)
        if not self._watcher.keep:
            raise Unsupported(
                "no images are kept: drift.keep_images is 0 in the configuration, or no window is scored for lack of "
                "drift.enabled or of a reference bundle"
            )
        if not stream.strange:
            return []
        images = np.concatenate([_floats(each.image) for each in stream.strange])
        return list(zip(stream.strange, self._beside.compare(name, prepared(images))[1], strict=True))

    def _style(self, stream: Stream) -> dict[str, Any] | None:
        if self._router is None or stream.whereabouts is None:
            return None
        watch = stream.drift
        return {
            "away": watch.away,
            "images_astray": watch.astray,
            "images_settled": watch.settled,
            "distance": stream.whereabouts.from_source,
            "limit": self._router.limit,
        }


def _floats(image: Images) -> Images:
    """Return an image as float32 in [0, 1], so that those of callers who send bytes and floats go together."""
    return image.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 1)


def _missing(scored: bool, apart: bool) -> str:
    """Return what is not watched, and why; empty if all is."""
    if not scored:
        return (
            "no window is scored: the model has no reference bundle that knows scores without drift; "
            "make it with 'tta-server calibrate'"
        )
    return "" if apart else "the look of images is not judged: the stream is off, or tells no domains apart"
