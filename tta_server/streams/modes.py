"""Which mode a stream has that nobody gave one of its own."""

import time

from tta_server.settings import Mode, StreamsSettings
from tta_server.streams.names import stream_of_domain


class Modes:
    """The configuration's modes, unless all streams were switched.

    Attributes:
        switched_s: When they were, in seconds of the epoch; what a stream was given before holds no more. 0 if never.
    """

    def __init__(self, settings: StreamsSettings, blind: bool = False) -> None:
        """Take what is configured.

        Args:
            settings: Modes, of all streams and of named ones.
            blind: Whether domains are to be told apart and cannot: what would answer from what it learns learns in
                the shadow.
        """
        self._settings = settings
        self._blind = blind
        self._switched: Mode | None = None
        self.switched_s = 0.0

    def usual(self, name: str) -> Mode:
        """Return the mode of a stream, or a domain of one, without one of its own."""
        if self._switched:
            return self._switched
        named = self._settings.named.get(stream_of_domain(name))
        mode = named.mode if named else self._settings.mode
        return "shadow" if self._blind and mode == "after" else mode

    def switch(self, mode: Mode | None) -> None:
        """Give all of them this mode; None is as configured."""
        self._switched, self.switched_s = mode, time.time()
