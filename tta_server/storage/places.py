"""The place that a URL names: a folder, or what fsspec reaches."""

from pathlib import Path

from tta_server.storage.disk import Disk
from tta_server.storage.files import Files


def open_files(url: str) -> Files:
    """Return the place that `url` names; nothing is written yet.

    Raises:
        ValueError: If the protocol is unknown, what it needs is not installed, or it is set up wrongly.
    """
    if "://" not in url and "::" not in url:
        return Disk(Path(url).expanduser().absolute())
    from tta_server.storage.objects import reached  # a server with a folder need not import fsspec

    return reached(url)
