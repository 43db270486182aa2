"""Tell an address of what happens, from a thread of its own: nobody waits for it, and it forgets nothing lightly.

A message is signed as Standard Webhooks has it (https://www.standardwebhooks.com), so that receivers need no code of
their own to check it: `webhook-id`, the same each time that a message is sent; `webhook-timestamp`, in seconds; and
`webhook-signature`, the HMAC-SHA256 of `id.timestamp.body`.
"""

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request

from tta_server.telemetry.closed_sets import WebhookOutcome
from tta_server.telemetry.opener import straight_opener

log = logging.getLogger(__name__)

_WAITS_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
_MOST_WAITING: Final = 256
_TRY_AGAIN: Final = (408, 425, 429)
_ENCODED: Final = "whsec_"


class Message(NamedTuple):
    """What is to be told.

    Attributes:
        id: Its own; a receiver that has seen it already can drop it.
        kind: What it is about.
        body: JSON.
    """

    id: str
    kind: str
    body: bytes


class Webhook:
    """POST messages to one address, in order, each until it arrives or too many tries have failed."""

    def __init__(
        self,
        url: str,
        secret: str,
        timeout_s: float,
        told: Callable[[WebhookOutcome], None],
        waits_s: Sequence[float] = _WAITS_S,
        most_waiting: int = _MOST_WAITING,
    ) -> None:
        """Prepare; nothing is sent before `start`.

        Args:
            url: Where messages go: http or https.
            secret: What they are signed with; empty signs nothing.
            timeout_s: How long one try may take.
            told: Hears what became of each message.
            waits_s: Times between tries; after the last the message is given up.
            most_waiting: Messages that wait; beyond, the oldest is dropped.
        """
        self._url, self._timeout_s, self._told, self._waits_s = url, timeout_s, told, waits_s
        self._key = _key(secret)
        self._most_waiting = most_waiting
        self._opener = straight_opener()
        self._changed = threading.Condition()
        self._waiting: deque[Message] = deque()
        self._end_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def post(self, kind: str, content: Mapping[str, Any]) -> None:
        """Have a message sent; returns at once. May be called from any thread."""
        message = Message(f"msg_{uuid.uuid4().hex}", kind, json.dumps(dict(content), default=str).encode())
        with self._changed:
            dropped = len(self._waiting) >= self._most_waiting and self._waiting.popleft()
            self._waiting.append(message)
            self._changed.notify_all()
        if dropped:
            self._told("dropped")
            log.warning("webhook '%s' is dropped: %d others wait behind it", dropped.kind, self._most_waiting)

    def close(self, timeout_s: float = 3.0) -> None:
        """Try once more to send what waits, and end, both within the time."""
        with self._changed:
            self._end_s = time.monotonic() + timeout_s
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        with self._changed:
            lost = len(self._waiting)
            self._waiting.clear()
        for _ in range(lost):
            self._told("dropped")
        if lost or self._thread.is_alive():
            log.error("%d webhooks are not sent: the server has stopped", lost + self._thread.is_alive())

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting or time.monotonic() >= self._end_s:
                    return
                message = self._waiting.popleft()
            self._deliver(message)

    @property
    def _is_closed(self) -> bool:
        return self._end_s != float("inf")

    def _deliver(self, message: Message) -> None:
        for wait_s in (*self._waits_s, None):
            trouble, again = self._send(message)
            if not trouble:
                self._told("sent")
                return
            if not again or wait_s is None or self._is_closed:
                break
            self._told("retried")
            log.warning("webhook '%s' did not arrive (%s); tried again in %g s", message.kind, trouble, wait_s)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed, wait_s)
        self._told("failed")
        log.error("webhook '%s' is given up: %s", message.kind, trouble)

    def _send(self, message: Message) -> tuple[str, bool]:
        """Try once; returns what went wrong, or nothing, and whether another try makes sense."""
        headers = {"Content-Type": "application/json", "User-Agent": "tta-server"} | self._signed(message)
        request = Request(self._url, message.body, headers, method="POST")  # noqa: S310 (the settings allow http only)
        try:
            with self._opener.open(request, timeout=self._timeout_s):
                return "", False
        except HTTPError as error:
            error.close()
            return f"HTTP {error.code}", error.code >= 500 or error.code in _TRY_AGAIN
        except (OSError, HTTPException, ValueError) as error:
            return str(getattr(error, "reason", error)) or type(error).__name__, True

    def _signed(self, message: Message) -> dict[str, str]:
        now = str(int(time.time()))
        headers = {"webhook-id": message.id, "webhook-timestamp": now}
        return headers | ({"webhook-signature": sign(self._key, message.id, now, message.body)} if self._key else {})


def sign(key: bytes, message: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a message, by its id, the time in seconds and its body."""
    content = b".".join((message.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


def place_of(url: str) -> str:
    """Return the part of an address that is no secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _key(secret: str) -> bytes:
    """Return the key that a secret stands for: base64 after `whsec_`, else its own bytes."""
    return base64.b64decode(secret.removeprefix(_ENCODED)) if secret.startswith(_ENCODED) else secret.encode()
