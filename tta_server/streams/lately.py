"""How much of what a stream sees of late is of one domain: a value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

_RECENT_IMAGES = 256  # an image counts for 1 / e once so many came after it


@dataclass(frozen=True)
class Lately:
    """What is counted of the images of one domain, or of those that were at home.

    Attributes:
        images: How many there were.
        weight: The same, but an image counts for less with each that the stream has seen after it.
        seen: Images that the stream had answered when the last of them came.
        time: When that was: ISO 8601 in UTC; empty before the first.
    """

    images: Annotated[int, Field(ge=0)] = 0
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seen: Annotated[int, Field(ge=0)] = 0
    time: str = ""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True)

    def after(self, rows: int, seen: int, time: str) -> "Lately":
        """Return it after `rows` more images, the stream having answered `seen` in all, these included."""
        return Lately(self.images + rows, self.weighs(seen) + rows, seen, time)

    def weighs(self, seen: int) -> float:
        """Return its weight once the stream has answered `seen` images."""
        return self.weight * math.exp(-max(seen - self.seen, 0) / _RECENT_IMAGES)


def shares(each: Sequence[Lately], seen: int) -> list[float]:
    """Return the share of each in the images that a stream has seen of late; all are 0 before the first.

    Args:
        each: Of the domains of one stream, and of home.
        seen: Images that the stream has answered.
    """
    weights = [one.weighs(seen) for one in each]
    whole = sum(weights)
    return [weight / whole if whole else 0.0 for weight in weights]
