"""Images of one colour: a covered lens, an empty frame, a placeholder."""

from collections.abc import Sequence

from tta_server.errors import ConstantImage


def refuse_constant(constant: Sequence[bool], names: Sequence[str]) -> None:
    """Do nothing if every image has more than one colour.

    Args:
        constant: Which images are of one colour.
        names: What to call each in an error.

    Raises:
        ConstantImage: If one is.
    """
    if any(constant):
        raise ConstantImage(
            f"{names[list(constant).index(True)]} is of one colour; there is nothing to recognise in it, and nothing "
            "of this request was answered or learnt from"
        )
