"""The methods: pure functions from a frozen backbone, a stream's state and a batch to a new state."""

from tta_server.adapters import adanpc, bn, cotta, eata, lame, roid, rotta, sar, source, tent, vida  # noqa: F401  (importing registers them)
from tta_server.adapters.base import Adapter, State, Step, accept, create, enlist, names, register, registered
from tta_server.adapters.checkpoint import dump_state, load_state

__all__ = [
    "Adapter",
    "State",
    "Step",
    "accept",
    "create",
    "dump_state",
    "enlist",
    "load_state",
    "names",
    "register",
    "registered",
]
