"""Bodies as they come in: each within its limit and its time, and all of them together within a budget."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tta_server.api.front.path import path_of
from tta_server.api.front.responses import error_response, error_response_of
from tta_server.errors import Overloaded, TooLarge, TooSlow, TTAError
from tta_server.settings_door import LimitsSettings
from tta_server.telemetry.closed_sets import TurnedAway

WHOLE: Final = "body_is_whole"
"""In the state of a request: says whether all of its body is there, if its server knows; then nothing is waited for."""

_SMALL_BYTES = 64 * 2**10
_LARGE_BYTES = 64 * 2**10  # from which on the server reads no more of a body until it is asked for
_LABELS_BYTES = 2 * 2**20
_AT_ONCE_BYTES = 2**20  # of a body; what is behind gives way to small requests
_GIVES_WAY_S = 0.001
_RETRY_AFTER_S = 1
_REASONS: Final[Mapping[type[TTAError], TurnedAway]] = {TooSlow: "slow_body", Overloaded: "bodies", TooLarge: "body"}
_WORTH_READING_BYTES = 256 * 2**10  # what a refused request still sends, rather than lose its connection
_WHOLE = re.compile(r"/predict|/v2/models/.*|/v1/streams/[^/]+/(state|compare)")


def most_bytes(path: str, max_body_bytes: int) -> int:
    """Return how many bytes a body may have: images and states all that the server takes, other bodies less."""
    if _WHOLE.fullmatch(path):
        return max_body_bytes
    return min(max_body_bytes, _LABELS_BYTES if path == "/v1/labels" else _SMALL_BYTES)


@dataclass(eq=False)
class Incoming:
    """A body on its way.

    Attributes:
        most_bytes: How many it may have.
        deadline_s: When it must be complete, on the event loop's clock.
        bytes: How many have come.
        complete: Whether all have come.
        given_up: Whether it was given up to make room for others.
        waiting: The wait for its next part.
        small: Whether it is complete and small, so that large ones give way to its request.
    """

    most_bytes: int
    deadline_s: float
    bytes: int = 0
    complete: bool = False
    given_up: bool = False
    waiting: asyncio.Timeout | None = None
    small: bool = False


class Intake:
    """Bodies of all requests together; the event loop alone may use it.

    A body counts from its first byte until its request is answered. When they are too many bytes, the body that has
    been on its way longest is given up, so that whoever holds bodies back keeps nobody else out.
    """

    def __init__(self, max_bytes: int) -> None:
        """Start empty; bodies may have `max_bytes` together."""
        self._max_bytes = max_bytes
        self._bodies: dict[Incoming, None] = {}
        self.bytes = 0

    def begin(self, body: Incoming) -> None:
        """Count a body from now on."""
        self._bodies[body] = None

    def end(self, body: Incoming) -> None:
        """Count it no more."""
        if body in self._bodies:
            del self._bodies[body]
            self.bytes -= body.bytes

    def add(self, body: Incoming, size: int) -> None:
        """Count a part of a body.

        Raises:
            Overloaded: If no other body can be given up to make room.
            TooLarge: If the body is larger than it may be.
        """
        body.bytes += size
        self.bytes += size
        if body.bytes > body.most_bytes:
            raise TooLarge(_too_large(body.most_bytes))
        while self.bytes > self._max_bytes:
            slowest = next((each for each in self._bodies if not each.complete), body)
            if slowest is body:
                raise self.full()
            slowest.given_up = True
            self.end(slowest)
            slowest.bytes = 0
            if slowest.waiting:
                slowest.waiting.reschedule(0)

    def full(self) -> Overloaded:
        """Return what a caller hears for whom there is no room."""
        return Overloaded(
            f"requests of {self._max_bytes} bytes are on their way, which is all that this server takes at once "
            "(limits.max_receiving_bytes); try again later",
            _RETRY_AFTER_S,
        )


class Receiving:
    """Take bodies within their limits; what is refused closes its connection, for the rest of its body is not read."""

    def __init__(self, app: ASGIApp, limits: LimitsSettings, refused: Callable[[TurnedAway], None]) -> None:
        """Wrap `app`; `refused` hears what is refused."""
        self._refused = refused
        self._app = app
        self._limits = limits
        self._intake = Intake(limits.receiving_bytes)
        self._small = 0  # requests under way whose body was small
        self._one = asyncio.Lock()  # of the large parts in each turn of the loop: small requests are answered between

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        is_whole: Callable[[], bool] = state.get(WHOLE, _unknown)
        most = most_bytes(path_of(scope), self._limits.max_body_bytes)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > 20 or int(declared) > most:
            self._refused("body")
            message = f"{_too_large(most)} (declared: {declared.decode('latin-1')[:40]})"
            response = error_response(413, message, "too_large", {"connection": "close"})
            await response(scope, receive, send)
            return
        body = Incoming(most, asyncio.get_running_loop().time() + self._limits.body_timeout_s)
        refused: TTAError | None = None

        async def counted() -> Message:
            nonlocal refused
            if body.complete:
                return await receive()
            try:
                return await self._part(body, receive, is_whole())
            except TTAError as error:
                refused = error
                raise

        async def unless_refused(message: Message) -> None:
            if refused:
                return  # whatever the routes make of it, the caller hears why his body was not read
            if message["type"] == "http.response.start" and int(declared) - body.bytes > _WORTH_READING_BYTES:
                MutableHeaders(scope=message)["connection"] = "close"  # else the rest is read to be thrown away
            await send(message)

        self._intake.begin(body)
        state["counted"] = lambda size: self._intake.add(body, size)
        try:
            await self._app(scope, counted, unless_refused)
        except TTAError as error:
            if error is not refused:
                raise
        finally:
            self._intake.end(body)
            self._small -= body.small
        if refused:
            self._refused(_REASONS.get(type(refused), "body"))
            response = error_response_of(refused, {"connection": "close"})
            refused = None  # through its traceback it holds what has come of the body, and itself
            await response(scope, receive, send)

    async def _part(self, body: Incoming, receive: Receive, is_whole: bool) -> Message:
        """Wait for the next part of a body, or take the whole of it.

        Raises:
            TooSlow: If the time of the body is over.
            TooLarge: If it is too large.
            Overloaded: If all bodies together are, and this one is given up.
        """
        try:
            if is_whole:
                part = await receive()
            else:
                async with asyncio.timeout_at(body.deadline_s) as body.waiting:
                    part = await receive()
        except TimeoutError as error:
            raise (self._intake.full() if body.given_up else self._late()) from error
        finally:
            body.waiting = None
        if body.given_up:
            raise self._intake.full()
        body.complete = part["type"] != "http.request" or not part.get("more_body")
        size = len(part.get("body", b""))
        self._intake.add(body, size)
        if body.complete and 0 < body.bytes < _LARGE_BYTES:
            body.small = True
            self._small += 1
        if size >= _LARGE_BYTES:
            async with self._one:
                await asyncio.sleep(_GIVES_WAY_S if self._small and body.bytes > _AT_ONCE_BYTES else 0)
            if body.given_up:
                raise self._intake.full()
        return part

    def _late(self) -> TooSlow:
        return TooSlow(f"the body took longer than {self._limits.body_timeout_s:g} s (limits.body_timeout_s)")


def _too_large(most: int) -> str:
    return f"the body may have at most {most} bytes here; send fewer or smaller images"


def _unknown() -> bool:
    return False
