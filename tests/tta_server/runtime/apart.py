"""A stream that keeps a state for each domain, and what is said of it."""

from tests.tta_server.runtime.fakes import Wired, ask, bright, dark, learn_all, rows, wired
from tta_server import adapters


def telling(**keys: object) -> Wired:
    """Return a worker whose streams tell domains apart; windows of 16."""
    return wired(**({"domains": 16, "window": 16, "adapter": adapters.create("tent", lr=0.01)} | keys))


def taught(**keys: object) -> Wired:
    """Return a worker whose stream 'door' was at home, in the dark and in glaring light, where it is now."""
    subject = telling(**keys)
    for seed, look in enumerate((rows, dark, bright)):
        ask(subject, "door", look(16, seed))
        learn_all(subject)
    return subject


def told(subject: Wired, name: str = "door") -> dict[str, dict]:
    """Return what is said of home and of each domain, by name."""
    return {each["id"]: each for each in subject.commands.domains.describe(name)}
