"""Named places where a test makes the process die or the disk fail; off unless FAILPOINTS is set.

`FAILPOINTS="store.before_rename=3"` kills the process, as kill -9 does, when it gets there for the third time.
`store.mid_write=2:enospc` makes the second write fail as on a full disk, `=2+:enospc` every one from there on. Several
are separated by commas.
"""

import errno
import os
import re
import signal
from typing import Final, Literal, NamedTuple

POINTS: Final = (
    "store.before_write",
    "store.mid_write",
    "store.before_fsync",
    "store.before_rename",
    "store.after_rename",
    "store.before_remove",
    "store.mid_erase",
    "audit.before_append",
    "audit.mid_append",
    "audit.before_fsync",
)
_TRIGGER = re.compile(r"(?P<point>[a-z_.]+)=(?P<hit>[1-9]\d*)(?P<onward>\+?)(:(?P<action>kill|enospc|eio))?")


class _Trigger(NamedTuple):
    hit: int
    onward: bool
    action: Literal["kill", "enospc", "eio"]


def failpoint(point: str) -> None:
    """Die or fail here if a test asked for it.

    Args:
        point: One of `POINTS`.

    Raises:
        OSError: If the disk is to fail here.
    """
    if _armed:
        _reach(point)


def arm(text: str) -> None:
    """Set the triggers, and count from zero.

    Args:
        text: As in the environment variable; empty disarms all.

    Raises:
        ValueError: If a point does not exist or the text cannot be read: a test must not pass because of a typo.
    """
    _armed.clear()
    _reached.clear()
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _TRIGGER.fullmatch(part)
        if not found or found["point"] not in POINTS:
            raise ValueError(
                f"FAILPOINTS has '{part}', expected POINT=HIT or POINT=HIT:enospc with a point of {POINTS}"
            )
        action: Literal["kill", "enospc", "eio"] = found["action"] or "kill"  # type: ignore[assignment]
        _armed[found["point"]] = _Trigger(int(found["hit"]), bool(found["onward"]), action)


def _reach(point: str) -> None:
    _reached[point] = hit = _reached.get(point, 0) + 1
    trigger = _armed.get(point)
    if trigger is None or not (hit == trigger.hit or (trigger.onward and hit > trigger.hit)):
        return
    if trigger.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        code = getattr(errno, trigger.action.upper())
        raise OSError(code, os.strerror(code), point)


_armed: dict[str, _Trigger] = {}
_reached: dict[str, int] = {}
arm(os.environ.get("FAILPOINTS", ""))
