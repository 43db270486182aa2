"""What is on disk when the server starts: which streams go on, and which cannot."""

from collections.abc import Callable, Sequence

from tta_server.settings import Mode
from tta_server.streams.methods import Methods
from tta_server.streams.parked import Parked
from tta_server.streams.shelf import MisfitError, Shelf


def take_stock(
    shelf: Shelf, names: Sequence[str], usual_mode: Callable[[str], Mode], methods: Methods
) -> tuple[dict[str, Parked], dict[str, Exception]]:
    """Read the file of every stream.

    Args:
        shelf: Reads them.
        names: The streams.
        usual_mode: Returns the mode of a stream whose file does not say.
        methods: How streams learn.

    Returns:
        The streams that go on, and why each of the others cannot.

    Raises:
        ValueError: If sound files belong elsewhere and none fits: then this is not the storage that is meant.
    """
    parked: dict[str, Parked] = {}
    wrong: dict[str, Exception] = {}
    for name in names:
        try:
            if found := shelf.find(name, usual_mode(name), methods):
                parked[name] = found
        except Exception as error:
            wrong[name] = error
    misfit = next((name for name, error in wrong.items() if isinstance(error, MisfitError)), None)
    if misfit and not parked:
        raise ValueError(
            f"storage holds stream '{misfit}', which does not fit: {wrong[misfit]}; serve what it was made with, or "
            "set storage.url to another folder"
        ) from wrong[misfit]
    return parked, wrong
