"""What sections of the configuration ask for: made only by who needs it, because networks and adapters import torch."""

from typing import TYPE_CHECKING, Any

from tta_server.settings import AdapterSettings
from tta_server.validation import fill

if TYPE_CHECKING:  # they import torch, which takes seconds: only who makes an adapter waits for it
    from tta_server.adapters import Adapter
    from tta_server.models import Preprocess


def adopt_adapter(section: AdapterSettings) -> "Adapter":
    """Return the adapter that a configuration or a command line asks for; a user's own is imported first.

    Never for a section of a request: importing runs code.

    Raises:
        ValueError: If a user's own cannot be imported or is no adapter, or what `make_adapter` refuses.
    """
    from tta_server import adapters

    if ":" in section.name:
        adapters.enlist(section.name)
    return make_adapter(section)


def make_adapter(section: AdapterSettings) -> "Adapter":
    """Return the adapter that the configuration asks for, its settings converted to their declared types.

    Nothing is imported here: a section may come from a request.

    Raises:
        ValueError: If the name, a setting or a value is wrong.
    """
    from tta_server import adapters

    plain = adapters.create(section.name)
    return fill(type(plain), section.settings, f"adapter '{section.name}'")


def make_preprocess(fields: dict[str, Any]) -> "Preprocess":
    """Return the preprocessing that the configuration asks for.

    Raises:
        ValueError: If a field or value is wrong.
    """
    from tta_server.models import Preprocess

    return fill(Preprocess, fields, "model.preprocess")
