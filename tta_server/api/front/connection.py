"""One connection: how many there may be, and how long and how large the head of a request may be.

uvicorn has no limit on either, and a middleware is asked only once the head is complete; so this is its protocol, with
these limits around the parser.
"""

import asyncio
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import httptools
import orjson
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tta_server.addresses import host_of
from tta_server.api.front.ending import ALWAYS, Ending
from tta_server.api.front.head import trouble_with
from tta_server.api.front.onward import parser_behind
from tta_server.api.front.places import Places
from tta_server.api.front.receiving import WHOLE
from tta_server.settings_door import LimitsSettings
from tta_server.telemetry.closed_sets import TurnedAway

_LINGER_S = 5.0  # how long what a client still sends is thrown away, so that it hears why
_MOST_THROWN_BYTES = 16 * 2**20  # and how much: whoever sends more does not listen
_MOST_WAITING = 64  # requests behind the one that is answered; the connection ends after them, as RFC 9112 lets it
_APART_S = 0.001  # how soon after another of all these one is begun, so that they leave the event loop to others
_MOST_SMALL_PARTS = 2**10  # of a body: each costs more than the bytes in it, while others wait
_SMALL_PART_BYTES = 64  # so few on average
_CRUMBS = f"the body comes in more than {_MOST_SMALL_PARTS} parts of less than {_SMALL_PART_BYTES} bytes; join them"


class _Crumbs(Exception):
    pass


class Connection(HttpToolsProtocol):
    """A connection within limits; `connection_class` makes the class for a server's."""

    limits: ClassVar[LimitsSettings]
    refused: ClassVar[Callable[[TurnedAway], None]]
    places: ClassVar[Places]
    behind: ClassVar[deque[tuple["Connection", Callable[[], None]]]]  # begin requests that waited for others of theirs
    paced: ClassVar[bool] = False  # whether one of those has just begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the head of a request; if there are too many connections, close one that is idle."""
        super().connection_made(transport)
        if self.client:
            self.client = host_of(self.client[0]), self.client[1]
        self._ended, self._reading_head = False, True
        self._thrown_bytes = self._barren_bytes = 0  # after the last answer; since the parser last had something
        self._parts = self._body_bytes = 0  # of the body that comes
        self._overfull = False  # nothing more is read: too many requests wait, or the next head is too slow
        self._goes_on = False  # from one request to the next that waits
        self._running: RequestResponseCycle = None  # type: ignore[assignment]  # as `cycle` is
        self._timer: TimerHandle | None = None
        self._unread: TimerHandle | None = None
        if self.places.make_room(len(self.connections)):
            self._wait_for_a_head()
        else:
            self._refuse("connections", 503, "the server has too many connections; try again later", "queue_full")

    def give_way(self) -> None:
        """Close at once."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.places.leave(self)
        self._stop_timer()
        if self.scope:
            self.scope["state"].pop(WHOLE, None)  # which knows this connection
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; what never becomes a head or a body is cut off."""
        if self._ended:
            self._thrown_bytes += len(data)
            if self._thrown_bytes > _MOST_THROWN_BYTES:
                self.transport.abort()
        elif self._overfull:
            self.flow.pause_reading()  # until an answer resumes it: whoever sends on has those that wait all the same
        if self._is_deaf:
            return
        self._barren_bytes += len(data)
        self._unset_keepalive_if_required()
        if self in self.places.owing:
            self.places.owes(self)
        self._read(data)
        if self._is_deaf:
            return
        if self._barren_bytes > self.limits.max_header_bytes:
            self._refuse_head(f"may have at most {self.limits.max_header_bytes} bytes (limits.max_header_bytes)")
        elif not self._timer and (self._reading_head or not self._is_at_work):
            self._wait_for_a_head()

    def _read(self, data: bytes) -> None:
        """Parse on; a head that asks for another protocol is one like any other, and so is what follows it."""
        try:
            while data and not self._is_deaf:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as asked:
                    if self._is_deaf:  # its head was refused
                        return
                    data = data[asked.args[0] :]
                    self.parser, has_body = parser_behind(self, self.scope["headers"])
                    if not has_body:
                        self.on_message_complete()
                    if self.scope["method"] == "CONNECT":
                        self._end_after_those_that_wait()
        except httptools.HttpParserError as error:
            crumbs = isinstance(error.__context__, _Crumbs)
            self.send_400_response(_CRUMBS if crumbs else "Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._reading_head, self._barren_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; the parser leaves blanks behind its value, which are no part of that (RFC 9110, 5.5)."""
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Judge the head, and hand it on if it is good."""
        self._reading_head, self._barren_bytes = False, 0
        self._stop_timer()
        self.places.idle.pop(self, None)
        if self._is_over:
            return
        if len(self.pipeline) >= _MOST_WAITING:
            self._end_after_those_that_wait()
            return
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        if size > self.limits.max_header_bytes:
            self._refuse_head(f"may have at most {self.limits.max_header_bytes} bytes (limits.max_header_bytes)")
        elif len(self.headers) > self.limits.max_headers:
            self._refuse_head(f"may have at most {self.limits.max_headers} headers (limits.max_headers)")
        elif wrong := trouble_with(self.headers, self.parser.get_http_version, self.limits.client_header):
            self._refuse("no_http", wrong.status, str(wrong), wrong.code)
        else:
            self._parts = self._body_bytes = 0
            self.scope["state"][WHOLE] = self._is_whole
            super().on_headers_complete()
            if "\n" in self.scope["path"]:  # before which `$` matches, in some layers and not in others
                self.scope["path"] = self.scope["path"].replace("\n", "%0A")
            self.headers = []  # what comes behind the body is none of the request's
            has_body = self.scope["method"] != "HEAD"
            self.cycle.transport = Ending(self, has_body)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Take a part of a body: a chunk, or what was read at once."""
        self._barren_bytes = 0
        self._parts += 1
        self._body_bytes += len(body)
        if self._parts > _MOST_SMALL_PARTS and self._body_bytes < self._parts * _SMALL_PART_BYTES:
            raise _Crumbs
        if self.cycle is not None and not self._is_deaf:
            held = self.cycle.body
            if not held:  # bytes and a first part are that part; to a bytearray it is copied, and out of it again
                self.cycle.body = b""  # type: ignore[assignment]
            elif isinstance(held, bytes):  # to which each further part would copy all
                self.cycle.body = bytearray(held)
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self.parser.should_upgrade():
            return  # its head has ended: see `_read`
        self._barren_bytes = 0
        self._stop_timer()
        self.places.owing.pop(self, None)
        if self.cycle is not None and not self._is_deaf:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for it."""
        if not self._is_over:
            self._goes_on, unread = bool(self.pipeline), self.flow.read_paused
            super().on_response_complete()
            if unread and self._timer:  # it is read again: what is missing of a head may have come
                self._wait_for_a_head()
            if not self._goes_on:
                self.places.idle[self] = None
            self._goes_on = False

    def pause_writing(self) -> None:
        """Give a client that does not read its answer so much time."""
        super().pause_writing()
        self.places.owes(self)
        self._unread = self.loop.call_later(self.limits.answer_timeout_s, self._abort, "unread", self.transport)

    def resume_writing(self) -> None:
        """Go on with an answer."""
        if self._unread:
            self._unread.cancel()
            self._unread = None
            self.places.owing.pop(self, None)
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # What answers gives up first, with 408; this ends a body that trickles on after its request was answered.
        if cycle.more_body and cycle is self.cycle:
            self._stop_timer()
            self.places.owing[self] = None
            within_s = self.limits.body_timeout_s + _LINGER_S
            self._timer = self.loop.call_later(within_s, self._abort, "slow_body", self.transport)
        self._running = cycle
        begin = partial(super()._start_asgi_task, cycle, app)
        if not self._goes_on:
            begin()
            return
        self.behind.append((self, begin))
        if not self.paced:
            type(self).paced = True
            self.loop.call_soon(self._begin_next)

    def _begin_next(self) -> None:
        """Begin one request that waited for others of its connection, and soon the next one, whosever it is."""
        while self.behind:
            connection, begin = self.behind.popleft()
            if not connection.transport.is_closing():
                begin()
                self.loop.call_later(_APART_S, self._begin_next)
                return
        type(self).paced = False

    def _is_whole(self) -> bool:
        return not self.cycle.more_body

    @property
    def _is_over(self) -> bool:
        return self._ended or self.transport.is_closing()

    @property
    def _is_deaf(self) -> bool:
        return self._overfull or self._is_over

    def end(self) -> None:
        """Send nothing more, and throw away for a while what still comes.

        A connection that is closed while its client sends is reset, and the answer may be lost with it.
        """
        if self._is_over:
            return
        self._ended = True
        self.places.idle[self] = None  # it gives way to others
        self._stop_timer()
        self._unset_keepalive_if_required()
        unread = self._reading_head or (self.cycle is not None and self.cycle.more_body)
        if unread and self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
            self._timer = self.loop.call_later(_LINGER_S, self.transport.abort)
        else:
            self.transport.close()

    def _end_after_those_that_wait(self) -> None:
        """Read no more, and answer what has come."""
        self._overfull = True
        (self.pipeline[0][0] if self.pipeline else self._running).keep_alive = False  # of the last that is answered

    @property
    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_a_head(self) -> None:
        if not self._is_at_work:
            self.places.idle[self] = None
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.header_timeout_s, self._late)

    def _abort(self, reason: TurnedAway, transport: asyncio.Transport) -> None:
        type(self).refused(reason)
        transport.abort()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self._is_at_work:
            most = f"{self.limits.header_timeout_s:g} s (limits.header_timeout_s)"
            self._refuse("slow_head", 408, f"the head of a request took longer than {most}", "too_slow")
        elif self.flow.read_paused:  # by this server: what is missing may have come
            self._wait_for_a_head()
        else:
            type(self).refused("slow_head")
            self._end_after_those_that_wait()

    def _refuse_head(self, what: str) -> None:
        self._refuse("head", 431, f"the head of a request {what}", "too_large")

    def _refuse(self, reason: TurnedAway, status: int, message: str, code: str) -> None:
        """Answer outside of any request, and end the connection; what came before it is answered first."""
        if self._is_over:
            return
        type(self).refused(reason)
        if self._is_at_work and (self._reading_head or not self.cycle.more_body):
            self._end_after_those_that_wait()
            return
        if not self._is_at_work:
            body = orjson.dumps({"error": message, "code": code})
            head = [b"content-type: application/json\r\nconnection: close\r\n", b"retry-after: 1\r\n" * (status == 503)]
            head += [ALWAYS, *(name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers)]
            self.transport.write(
                STATUS_LINE[status] + b"".join(head) + b"content-length: %d\r\n\r\n" % len(body) + body
            )
        self.end()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; nothing is sent amid another answer."""
        if self._overfull:
            return  # it is not looked at any more
        cycle = self.cycle
        if cycle and cycle.more_body and not self._reading_head:  # a body that is none
            if self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()  # nobody answers it, but those before it
                self.cycle = self._running
            elif cycle.response_complete:
                self.end()  # it has its answer
                return
            elif not cycle.response_started:
                cycle.response_complete = cycle.disconnected = True  # by this
                cycle.message_event.set()
        self._refuse("no_http", 400, msg.lower().rstrip("."), "bad_request")


def connection_class(limits: LimitsSettings, refused: Callable[[TurnedAway], None]) -> type[Connection]:
    """Return the protocol of a server with these limits, which tells what it refuses."""
    return type(
        "LimitedConnection",
        (Connection,),
        {
            "limits": limits,
            "refused": staticmethod(refused),
            "places": Places(limits.max_connections, refused),
            "behind": deque(),
        },
    )
