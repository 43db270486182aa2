"""Who may ask for what, and by which port: judged from the head of a request, before anything of its body is read."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tta_server.api.front.path import path_of
from tta_server.api.front.responses import error_response_of
from tta_server.errors import NotFound, TTAError, Unauthorized
from tta_server.keys.key import ANYBODY, Key, Permission
from tta_server.keys.keyring import Keyring
from tta_server.runtime.tenure import HAND_OVER, Tenure
from tta_server.telemetry.closed_sets import TurnedAway

OPEN: Final = frozenset(("/v2/health/live", "/v2/health/ready", "/livez", "/readyz", "/healthz", "/health"))
"""Paths that need no key: what probes ask."""


class Rule(NamedTuple):
    """What a request needs.

    Attributes:
        methods: Of the request.
        path: Of the request, with the groups `stream` and `model` where it names them.
        scope: That a key must hold.
        every_stream: Whether it is about all streams.
        one_model: Whether it is about one model.
        of_clients: Whether it brings what clients send, images and labels: no work for a port of operations.
    """

    methods: str
    path: re.Pattern[str]
    scope: Permission
    every_stream: bool = False
    one_model: bool = True
    of_clients: bool = False


def _rule(methods: str, path: str, scope: Permission, **more: bool) -> Rule:
    return Rule(methods, re.compile(path), scope, **more)


_STREAM = "/v1/streams/(?P<stream>[^/]+)"
_MODEL = "/v2/models/(?P<model>[^/]+)"
RULES: Final = (
    _rule("POST", "/predict|/v1/labels", "infer", of_clients=True),
    _rule("POST", f"{_STREAM}/compare", "infer"),
    _rule("POST", rf"{_MODEL}(/versions/[^/]+)?/infer", "infer", of_clients=True),
    _rule("GET", "/v2/models/stats", "read", every_stream=True, one_model=False),
    _rule("GET", f"{_MODEL}(/versions/[^/]+)?/stats", "read", every_stream=True),
    _rule("POST", "/v2/repository(/[^/]+)?/index", "infer", one_model=False),
    _rule("POST", "/v2/repository/models/(?P<model>[^/]+)/(load|unload)", "admin", every_stream=True),
    _rule("GET", f"{_MODEL}(/.*)?", "infer"),
    _rule("GET", "/|/v2|/v2/models|/openapi.json", "infer", one_model=False),
    _rule("GET", f"/v1/streams|{_STREAM}(/domains|/drift|/snapshots|/audit)?", "read"),
    _rule("POST", "/v1/calibrate", "admin", every_stream=True),
    _rule("DELETE", "/v1/calibrate", "admin", every_stream=True),
    _rule("GET", "/metrics|/v1/audit|/v1/calibrate", "read", every_stream=True),
    _rule("GET", f"{_STREAM}/(state|strange)", "operate"),
    _rule("POST", f"/v1/streams|{_STREAM}/(reset|rollback|snapshots|restore|evict|domains/[^/]+/offer)", "operate"),
    _rule("PATCH", f"{_STREAM}(/domains/[^/]+)?", "operate"),
    _rule("PUT", f"{_STREAM}/state", "admin"),
    _rule("DELETE", f"{_STREAM}(/domains/[^/]+)?", "admin"),
)
"""What each request needs; the first that fits counts. What none fits needs everything."""


class Gatekeeper:
    """Let a request pass if its key may do what its method and path say; handlers ask the key about the rest."""

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring | None,
        admin_port: int | None,
        model: str,
        tenure: Tenure | None,
        refused: Callable[[TurnedAway], None],
        is_page: Callable[[Scope], bool],
    ) -> None:
        """Wrap `app`.

        Args:
            app: What answers.
            keyring: The keys; without them everybody passes.
            admin_port: The port that alone answers operations, if there is one.
            model: The model that paths mean which name none.
            tenure: Knows the servers that share the storage, if any do: they hand streams over, by a secret of theirs.
            refused: Hears what is refused.
            is_page: Says whether a request is for a page or a part of one, which need no key.
        """
        self._refused = refused
        self._app = app
        self._keyring = keyring
        self._admin_port = admin_port
        self._model = model
        self._tenure = tenure
        self._is_page = is_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state["key"], state["keyring"] = ANYBODY, self._keyring
        path = path_of(scope)
        if path not in OPEN:
            try:
                if self._tenure is not None and path == HAND_OVER:
                    self._tenure.expect_peer(dict(scope["headers"]).get(b"authorization", b""))
                else:
                    self._judge(scope)
            except TTAError as error:
                self._refused("unauthorized" if isinstance(error, Unauthorized) else "forbidden")
                await error_response_of(error, {"Connection": "close"})(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _judge(self, scope: Scope) -> None:
        """Note the key of a request that may be answered.

        Raises:
            NotFound: If it came in by a port that does not answer it.
            Unauthorized: If it has no key of this server.
            Forbidden: If its key may not do that.
        """
        if self._admin_port is not None:
            self._expect_port(scope, self._admin_port)
        if self._keyring is not None and not self._is_page(scope):
            scope["state"]["key"] = self._admitted(self._keyring, scope)

    def _expect_port(self, scope: Scope, admin_port: int) -> None:
        """Do nothing if a request came in by a port that answers it; what models say of themselves is answered by both.

        Raises:
            NotFound: If it did not.
        """
        path = path_of(scope)
        needed, _ = needs(scope["method"], path)
        _, port = scope.get("server") or ("", None)  # a call of gRPC has none, and is no operator's
        if port == admin_port and needed.of_clients:
            raise NotFound(f"'{path}' is not answered on this port, which is for operations (server.admin_port)")
        if port != admin_port and (needed.scope != "infer" or self._is_page(scope)):
            raise NotFound(f"'{path}' is not answered on this port; operations have their own (server.admin_port)")

    def _admitted(self, keyring: Keyring, scope: Scope) -> Key:
        """Return the key of a request.

        Raises:
            Unauthorized: If it has none, or none of this server.
            Forbidden: If the key may not do that.
        """
        key = keyring.find(_sent(dict(scope["headers"])))
        needed, named = needs(scope["method"], path_of(scope))
        key.expect_scope(needed.scope)
        if needed.every_stream:
            key.expect_streams()
        if stream := named.get("stream"):
            key.expect_streams(stream)
        if needed.one_model:
            model = named.get("model")
            key.expect_model(model or self._model, "" if model else "the one that answers what names none")
        return key


def needs(method: str, path: str) -> tuple[Rule, Mapping[str, str | None]]:
    """Return what a request needs, and the stream and the model that its path names."""
    method = "GET" if method == "HEAD" else method
    for rule in RULES:
        if rule.methods == method and (found := rule.path.fullmatch(path)):
            return rule, found.groupdict()
    return Rule(method, re.compile(""), "admin", every_stream=True), {}


def name_of_key(keyring: Keyring | None, headers: Mapping[bytes, bytes]) -> str:
    """Return the name of the key of whoever sends these headers; what it is for is asked later.

    Without keys it is empty.

    Raises:
        Unauthorized: If he has none of them.
    """
    return keyring.find(_sent(headers)).name if keyring is not None else ""


def key_of(request: Request) -> Key:
    """Return the key that a request was let in by; `ANYBODY` if the server has none."""
    key: Key = request.scope["state"]["key"]
    return key


def take(request: Request, images: int) -> None:
    """Count images against the rate of a request's key.

    Raises:
        RateLimited: If that is used up.
    """
    keyring: Keyring | None = request.scope["state"]["keyring"]
    if keyring is not None:
        keyring.take(key_of(request), images, time.monotonic())


def _sent(headers: Mapping[bytes, bytes]) -> str:
    """Return the key that a request carries.

    Raises:
        Unauthorized: If it carries none.
    """
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized("this server takes requests with a key only: send the header 'Authorization: Bearer KEY'")
    return secret.strip()
