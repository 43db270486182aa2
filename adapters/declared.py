"""What an adapter says of itself, so that nobody guesses it from the names of its fields and tensors."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from tta_server.models import Tensors


class Region(NamedTuple):
    """Parameters within a state that the trust region holds near where they began.

    Attributes:
        names: The tensors of the state that are drawn back.
        copies: From a state to what is measured, for each copy of the parameters that `names` make: usually these
            tensors themselves, else the weights that they result in. Where they began must not be zero.
    """

    names: tuple[str, ...]
    copies: Callable[[Tensors], Sequence[Tensors]]

    @classmethod
    def of(cls, names: Sequence[str]) -> "Region":
        """Return the region in which these tensors are measured themselves, as one copy."""
        return cls(tuple(names), lambda state: [{name: state[name] for name in names}])


class Part(NamedTuple):
    """The part of the reference bundle that an adapter makes offline, with its `prepare`.

    Attributes:
        name: Of the part; `Reference.part` finds it under that.
        label: What a person who waits for it reads.
        images: Fewest source images that it needs.
        requires: What the backbone must have; without it there is no such part.
        labels: Whether it needs the images' classes; without them there is no such part.
    """

    name: str
    label: str
    images: int = 1
    requires: frozenset[str] = frozenset()
    labels: bool = True


class SourceImages(Protocol):
    """Images without drift, on the device of the network, in [0, 1], and their classes; -1 where none are known.

    Attributes:
        seed: Of what is drawn beside them.
    """

    seed: int

    def in_order(self, size: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give at most `most` images (size, C, H, W) and their classes (size,); classes are mixed, none comes twice.

        A last batch that is not complete is left out.
        """
        ...

    def shuffled(self, size: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give so many batches, in as many shuffled passes as they need, without the images of the canary."""
        ...
