"""Which streams this server has, where several servers share one place: taken when asked for, given up when lost.

Whoever is asked for a stream takes it over: it asks who has it to write what is not written, makes itself the owner,
and only then reads. An owner who was stopped for a while does not know that he has lost a stream; so before an answer
leaves, ownership is looked at again, in a folder each time and in an object store if that was not done lately.
"""

import asyncio
import hmac
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any, Final, Protocol, TypeVar
from urllib.error import HTTPError
from urllib.request import Request

from tta_server.errors import Moved, NotFound, NotReady, Unauthorized
from tta_server.names import stream_of_domain
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.runtime.result import result_of
from tta_server.storage.keeper import Keeper
from tta_server.storage.owners import Ownership
from tta_server.storage.silence import Silence
from tta_server.storage.store import Store
from tta_server.telemetry.opener import straight_opener

log = logging.getLogger(__name__)

HAND_OVER: Final = "/v1/hand-over"
_TRIES = 5
_ASK_WITHIN_S = 2.0
_SILENT_S = 5.0
_FLUSH_WITHIN_S = 1.0
_TAKERS = 16
_ANSWER_FIRST_S = 0.2  # where two are asked for one stream, so long each has it in turn

T = TypeVar("T")


class Device(Protocol):
    """Who owns the streams in memory."""

    def command(self, run: Callable[[Commands], T]) -> "Future[T]":
        """Run a command between two groups of answers."""
        ...

    def refuse_if_full(self) -> None:
        """Raise if nothing more is taken on."""
        ...


@dataclass(eq=False)
class Hold:
    """One stream that this server has; taken again it is another.

    Attributes:
        stream: Its name.
        generation: With which it was taken.
        looked_s: When it was still this server's, on the monotonic clock.
    """

    stream: str
    generation: int
    looked_s: float = float("-inf")


class Tenure:
    """Take streams over and give them up; the event loop alone may call it."""

    def __init__(self, store: Store, keeper: Keeper, device: Device, finished: threading.Event) -> None:
        """Take what is needed to take streams over.

        Args:
            store: Where owners are written down.
            keeper: Writes.
            device: Has what is in memory.
            finished: Set once everything was written for the last time.
        """
        self._store = store
        self._keeper = keeper
        self._device = device
        self._held: dict[str, Hold] = {}
        self._coming: dict[str, asyncio.Future[None]] = {}
        self._going: dict[str, asyncio.Future[None]] = {}  # streams that are being handed over
        self._promised: set[str] = set()  # streams that were just handed over
        self._seeing_off: set[asyncio.Future[None]] = set()
        self._asking: Counter[str] = Counter()  # how many wait for an answer of each stream
        self._silent_until_s: dict[str, float] = {}  # by address: so long it is not asked again
        self._silence: dict[str, asyncio.Future[None]] = {}  # done when somebody has waited there in vain
        self._silence_of_storage = Silence()
        self._secret = store.owners.secret()
        self._finished = finished
        # Apart from the threads that look who has a stream: who is asked may be dead, and is waited for.
        self._takers = ThreadPoolExecutor(_TAKERS, "take")

    def watch(self) -> None:
        """Begin to look whether the storage can be asked, until everything was written for the last time."""
        silence, files = self._silence_of_storage, self._store.files
        looks = silence.look, (self._finished, self._store.owners.look, files.look_every_s)
        says = silence.watch, (self._finished, "requests about streams are refused")
        for work, about in (looks, says):
            threading.Thread(target=work, args=about, name="tenure's watch", daemon=True).start()

    def trouble(self) -> str:
        """Return why nobody's request would be answered, or an empty string: while the storage cannot be asked."""
        return self._silence_of_storage.trouble

    async def answer(self, name: str, ask: Callable[[], Awaitable[T]], opening: bool, changing: bool) -> T:
        """Return what `ask` gives while this server has a stream; asked again if the stream was lost meanwhile.

        Args:
            name: The stream, or a domain of it.
            ask: Has the device answer for it.
            opening: Whether the stream may be new; else one that nobody has and nothing is kept of is not taken.
            changing: Whether it is a command that is run only if the stream is still here, and need not be repeated;
                one that erases the stream is what ends its being here.

        Raises:
            NotFound: If there is no such stream, and it may not be new.
            Moved: If another server takes it again and again.
            NotReady: If the server is stopping, or the storage does not say whose the stream is.
        """
        stream = stream_of_domain(name)
        self._asking[stream] += 1
        try:
            for _ in range(_TRIES):
                hold = await self._hold(stream, opening)
                if changing and not await self._is_ours(hold):
                    continue
                try:
                    found = await ask()
                except Moved as moved:
                    if moved.stream != stream:
                        raise
                    self._let_go(hold)
                    continue
                if changing or await self._is_ours(hold):
                    return found
        except OSError as error:
            raise NotReady(f"the storage does not say whose stream '{stream}' is: {error}") from error
        finally:
            self._asking[stream] -= 1
            if not self._asking[stream]:
                del self._asking[stream]
        raise Moved(stream)

    def expect_peer(self, authorization: bytes) -> None:
        """Do nothing if who sends this header shares the storage.

        Raises:
            Unauthorized: If he does not.
        """
        if not hmac.compare_digest(authorization, f"Bearer {self._secret}".encode()):
            raise Unauthorized("only a server that shares the storage may ask for a stream")

    async def hand_over(self, stream: str) -> None:
        """Write everything of a stream for another server, and know it no more.

        Raises:
            NotReady: If it could not be written in time; what was not is lost once the other has the stream.
        """
        deadline_s = time.monotonic() + _ANSWER_FIRST_S
        while self._asking[stream] and time.monotonic() < deadline_s:
            await asyncio.sleep(_ANSWER_FIRST_S / 20)
        if stream in self._held:
            self._going[stream] = asyncio.ensure_future(self._give_up(self._held.pop(stream)))
        if stream in self._going:
            await asyncio.shield(self._going[stream])  # written to its end, whoever gives up waiting
            self._promised.add(stream)
            asyncio.get_running_loop().call_later(_ANSWER_FIRST_S, self._promised.discard, stream)

    async def _give_up(self, hold: Hold) -> None:
        """Write everything of a stream and know it no more; what cannot be written stays, until another has it."""
        written = False
        try:
            await self._run(lambda commands: commands.park(hold.stream))
            written = await asyncio.to_thread(self._keeper.flush, _FLUSH_WITHIN_S)
            if written:
                await self._drop(hold)
        except NotReady:  # it stops, and writes everything at the end
            written = await asyncio.to_thread(self._finished.wait, _FLUSH_WITHIN_S)
        finally:
            del self._going[hold.stream]
            if not written:
                self._held[hold.stream], hold.looked_s = hold, float("-inf")
        if not written:
            log.warning("stream '%s' is asked for by another server, and could not be written in time", hold.stream)
            self._seeing_off.add(seeing_off := asyncio.ensure_future(self._see_off(hold)))
            seeing_off.add_done_callback(self._seeing_off.discard)
            raise NotReady(f"what stream '{hold.stream}' has learnt is not written yet")

    async def _see_off(self, hold: Hold) -> None:
        """Look whether who asked for a stream took it, written or not: else it is listed until somebody asks here."""
        await asyncio.sleep(_ASK_WITHIN_S)
        with suppress(OSError, NotReady):  # who asks here hears it
            await self._is_ours(hold)

    async def _hold(self, stream: str, opening: bool) -> Hold:
        if not opening and stream not in self._held and not await self._ask_storage(self._store.may_exist, stream):
            raise NotFound(f"unknown stream '{stream}'; a stream exists from its first answered request")
        while (hold := self._held.get(stream)) is None:
            if stream in self._going:
                await asyncio.wait([self._going[stream]])
                continue
            if stream not in self._coming:
                self._coming[stream] = coming = asyncio.ensure_future(self._acquire(stream))
                coming.add_done_callback(lambda _: self._coming.pop(stream))
            await asyncio.shield(self._coming[stream])
        return hold

    async def _acquire(self, stream: str) -> None:
        self._device.refuse_if_full()  # a server that stops takes no more streams
        before = await self._owner(stream)
        if before and before.address and before.replica != self._store.replica:
            await self._ask_for(stream, before.address)
        generation, there, domains = await self._ask_storage(self._store.take, stream)
        await self._run(lambda commands: commands.hold(stream, generation, there, domains))
        self._held[stream] = Hold(stream, generation)  # not looked at: its files may have been cleared away in between

    async def _owner(self, stream: str) -> Ownership | None:
        """Return whose a stream is; one that was just handed over is left, for a while, to whoever asked for it.

        Until that server has written itself down as the owner, this one would take it back without asking anybody.
        """
        ask = partial(self._ask_storage, self._store.owners.newest, stream)
        while (owner := await ask()) and owner.replica == self._store.replica and stream in self._promised:
            await asyncio.sleep(_ANSWER_FIRST_S / 20)
        return owner

    async def _ask_for(self, stream: str, address: str) -> None:
        """Have another server hand a stream over, unless it answers nobody: once one has waited in vain, none waits."""
        if time.monotonic() < self._silent_until_s.get(address, 0.0):
            return
        loop = asyncio.get_running_loop()
        silence = self._silence.setdefault(address, loop.create_future())
        answered = loop.run_in_executor(self._takers, self._ask, address, stream)
        await asyncio.wait((answered, silence), return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            answered.cancel()
        elif not answered.result() and not silence.done():
            self._silent_until_s[address] = time.monotonic() + _SILENT_S
            self._silence.pop(address).set_result(None)

    def _ask(self, address: str, stream: str) -> bool:
        """Ask a server to hand a stream over; return whether it answers. One that does not loses what it held."""
        body = json.dumps({"stream": stream}).encode()
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        try:
            request = Request(f"{address}{HAND_OVER}", body, headers, method="POST")  # noqa: S310 (made here)
            straight_opener().open(request, timeout=_ASK_WITHIN_S).close()
        except (OSError, HTTPException, ValueError) as error:  # ValueError: the address is none
            log.warning("%s does not hand over '%s'; what it has not written is lost: %s", address, stream, error)
            return isinstance(error, HTTPError)
        return True

    async def _is_ours(self, hold: Hold) -> bool:
        now_s = time.monotonic()
        if self._held.get(hold.stream) is hold and now_s - hold.looked_s <= self._store.files.look_every_s:
            return True
        if await self._ask_storage(self._store.owners.owns, hold.stream, hold.generation):
            hold.looked_s = now_s
            return True
        self._let_go(hold)
        await self._drop(hold)
        return False

    async def _ask_storage(self, question: Callable[..., T], *about: Any) -> T:  # noqa: ANN401 (whatever it takes)
        """Return what the storage says, and remember meanwhile that it was asked, even if nobody waits any more."""

        def ask() -> T:
            with self._silence_of_storage.waiting():
                return question(*about)

        return await asyncio.to_thread(ask)

    def _let_go(self, hold: Hold) -> None:
        if self._held.get(hold.stream) is hold:
            del self._held[hold.stream]

    async def _drop(self, hold: Hold) -> None:
        log.info("stream '%s' is another server's now", hold.stream)
        await self._run(partial(Commands.drop, stream=hold.stream, generation=hold.generation))

    async def _run(self, run: Callable[[Commands], Any]) -> None:
        await result_of(self._device.command(run))
