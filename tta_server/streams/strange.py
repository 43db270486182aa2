"""An image that looked strange to the frozen model, kept for people to look at; in memory alone."""

from typing import NamedTuple

from tta_server.streams.window import Images


class StrangeImage(NamedTuple):
    """An image whose features lie farther from the source's than 99 % of source images do.

    Attributes:
        image: As the network takes it (1, C, H, W).
        time: When it was scored: ISO 8601 in UTC.
        distance: Of its features from the source's, over the mean distance of source images.
    """

    image: Images
    time: str
    distance: float
