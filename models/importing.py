"""Import what a configuration names: a user's own model factory or adapter."""

import importlib
import sys
from pathlib import Path
from typing import Any


def import_object(reference: str, what: str) -> Any:  # noqa: ANN401
    """Return what `reference` names, searching the folder in which the process was started too.

    Importing runs the module, so a reference may come from a configuration or a command line, never from a request.

    Args:
        reference: `package.module:name`.
        what: What a message calls it, such as "model factory".

    Raises:
        ValueError: If it is no such reference, there is no such module or name, or the module fails as it is imported.
    """
    module, _, name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # at the end: nothing that is installed is replaced by a file that happens to lie here
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a user's module may fail in any way
        raise ValueError(f"{what} '{reference}' cannot be imported: {type(error).__name__}: {error}") from error
