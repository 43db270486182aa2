"""Which mode a stream has that nobody gave one of its own."""

import time

from tta_server.names import stream_of_domain
from tta_server.settings import Mode, StreamsSettings


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

    def of(self, name: str, own: Mode | None = None, own_s: float = 0.0) -> tuple[Mode, float]:
        """Return the mode of a stream, or a domain of one, and when it was given it; 0 leaves it to the configuration.

        Args:
            name: Its name.
            own: The mode that it had; None if it had none.
            own_s: When it was given that, in seconds of the epoch; 0 if nobody has, and it was the usual one.
        """
        if own and own_s and own_s >= self.switched_s:
            return own, own_s
        return self.usual(name), self.switched_s if self._switched else 0.0

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
