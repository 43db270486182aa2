"""Wait for an answer only as long as somebody waits for it."""

import asyncio
from concurrent.futures import Future

from fastapi import Request

from tta_server.errors import ClientGone
from tta_server.runtime.answerer import Answer


async def answered(request: Request, future: "Future[Answer]") -> Answer:
    """Return the answer to come; if the caller hangs up while the request is queued, drop it.

    A request that the device has begun is answered, and learnt from, whether or not anybody still listens.

    Args:
        request: Whose body has been read.
        future: What the engine gave for it.

    Raises:
        ClientGone: If the request was dropped.
    """
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and future.cancel():
            raise ClientGone("the connection was closed while the request was queued; it was dropped")
        return await answer
    finally:
        gone.cancel()
        answer.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass  # what is left of a form's body
