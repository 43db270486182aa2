"""The laws of an adapter. `check` holds one against all of them, as a user's own adapter should be before it serves.

Each law is a function of a `Subject` that raises `BrokenLawError`. The project's tests hold every registered adapter
against the same functions.
"""

from tta_server.adapters import base
from tta_server.adapters.base import Adapter
from tta_server.adapters.laws import behaviour, declarations
from tta_server.adapters.laws.law import LAWS, BrokenLawError
from tta_server.adapters.laws.subject import Subject
from tta_server.models import Backbone, Reference

__all__ = ["LAWS", "BrokenLawError", "Subject", "behaviour", "check", "declarations"]


def check(adapter: Adapter, backbone: Backbone | None = None, reference: Reference | None = None) -> None:
    """Hold an adapter against every law, on a small network that is built in or on one's own.

    Takes seconds on the network that is built in, and changes nothing.

    Args:
        adapter: With the settings that it is checked with.
        backbone: The network; None is a small one with BatchNorm layers.
        reference: Its bundle; what the adapter makes of it itself is made here.

    Raises:
        BrokenLawError: If a law is broken.
        ValueError: If the adapter does not fit the network or the bundle.
    """
    subject = Subject.of(adapter, backbone, reference)
    base.check(adapter, subject.backbone, subject.reference)
    for one in LAWS:
        one(subject)
