"""Operators' calls that wait for the storage: not for ever, for one that is gone may say nothing at all."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from tta_server.errors import TTAError

T = TypeVar("T")

_WITHIN_S = 20.0


async def within(asked: Awaitable[T], otherwise: str) -> T:
    """Return what the storage says.

    Args:
        asked: Waits for it; goes on when this gives up.
        otherwise: What becomes of what was asked for then, for the caller.

    Raises:
        TTAError: If it does not say anything in time. No 503, which balancers and clients repeat: it may still be done.
    """
    task = asyncio.ensure_future(asked)
    done, _ = await asyncio.wait({task}, timeout=_WITHIN_S)
    if not done:
        task.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody hears it any more
        raise TTAError(f"the storage has not answered for {_WITHIN_S:.0f} s; {otherwise}")
    return task.result()
