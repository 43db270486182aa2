"""The gRPC port: calls in, answers out."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

import grpc
import orjson
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from tta_server.api.front.head import repeated
from tta_server.errors import BadRequest, Forbidden, Overloaded, TooLarge, TooSlow, TTAError, Unauthorized
from tta_server.grpc_door.asking import App, Asked, ask, headers_of
from tta_server.grpc_door.fields import expect_few_fields, values_apart
from tta_server.grpc_door.messages import HEALTH, INFERENCE, message, methods
from tta_server.grpc_door.tensors import infer_body, infer_response
from tta_server.grpc_door.turns import Party, Shares, Turns
from tta_server.settings_door import LimitsSettings, ServerSettings
from tta_server.telemetry.closed_sets import TurnedAway

DRAIN_S: Final = 5.0
"""How long calls that have begun may take once the server stops."""

_MOST_AGE_S = 300.0  # of a connection: one whose client reads no answer is never idle
_OPEN_AT_ONCE = 4  # messages of open calls that are read at a time: each may turn out to be as large as any
_OPEN_S, _OPEN_LEAST_S = 0.2, 0.02  # what such a message may take while others wait: it is some bytes
_TURN_S = 1.0  # what any other may take then
_MOST_BESIDE_BYTES = 64 * 2**10  # what a message may have beside the values of its input
_MOST_NAME = 256
_MOST_MS = 2**31 - 1  # what gRPC takes
_RAW: Final = message("inference.ModelInferRequest").DESCRIPTOR.fields_by_name["raw_input_contents"].number
_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_TOLD = ("x-request-id", "retry-after")
_SERVER = ("", INFERENCE)


def _of_model(request: Any, what: str = "") -> str:
    """Return the path of a model.

    Raises:
        BadRequest: If the request names none.
    """
    name, version = (
        getattr(request, f"model_{part}", "") or getattr(request, part, "") for part in ("name", "version")
    )
    if not name or max(len(name), len(version)) > _MOST_NAME:
        raise BadRequest(f"the request names no model; a name has 1 to {_MOST_NAME} characters")
    of_version = f"/versions/{quote(version, safe='')}" if version else ""
    return f"/v2/models/{quote(name, safe=':@')}{of_version}{what}"


def _change(request: Any, verb: str) -> Asked:
    body = orjson.dumps({"parameters": dict.fromkeys(request.parameters)})  # their names decide
    return Asked("POST", f"/v2/repository{_of_model(request).removeprefix('/v2')}/{verb}", (body,))


def _checked(request: Any) -> str:
    if request.service in _SERVER:
        return "/v2/health/ready"
    return f"/v2/models/{quote(request.service[:_MOST_NAME], safe=':@')}/ready"


def _statistics(request: Any) -> str:
    return _of_model(request, "/stats") if request.name else "/v2/models/stats"


_PATHS: Final[dict[str, Callable[[Any], str | Asked]]] = {
    "ServerLive": lambda _: "/v2/health/live",
    "ServerReady": lambda _: "/v2/health/ready",
    "ModelReady": lambda request: _of_model(request, "/ready"),
    "ServerMetadata": lambda _: "/v2",
    "ModelMetadata": _of_model,
    "ModelConfig": lambda request: _of_model(request, "/config"),
    "ModelStatistics": _statistics,
    "RepositoryIndex": lambda request: Asked(
        "POST",
        "/v2/repository/index",
        (orjson.dumps({"ready": request.ready}),),
        ((b"content-type", b"application/json"),),
    ),
    "RepositoryModelLoad": lambda request: _change(request, "load"),
    "RepositoryModelUnload": lambda request: _change(request, "unload"),
    "Check": _checked,
}
"""What each call asks; ModelInfer has a body of its own."""
_OPEN: Final = frozenset(("ServerLive", "ServerReady", "Check"))
"""Calls that need no key, or say by their message whether they do."""
_TURNED_AWAY: Final[dict[str, TurnedAway]] = {
    TooSlow.code: "slow_body",
    Overloaded.code: "connections",
    Unauthorized.code: "unauthorized",
    Forbidden.code: "forbidden",
}
"""As what a refusal of the door is counted, by its code; any other is of the body."""
_FORMS: Final[dict[str, Callable[[Any], Mapping[str, Any]]]] = {
    "ModelConfig": lambda found: {"config": found},
    "RepositoryIndex": lambda found: {"models": found},
    "Check": lambda found: {"status": "SERVING" if found["ready"] else "NOT_SERVING"},
}
"""How an answer is written, where gRPC has it in another form."""


class Door:
    """A server of gRPC calls, on the event loop of the application that answers them."""

    def __init__(
        self,
        app: App,
        server: ServerSettings,
        limits: LimitsSettings,
        admit: Callable[[Mapping[bytes, bytes]], str],
        refused: Callable[[TurnedAway], None],
    ) -> None:
        """Prepare.

        Args:
            app: What answers.
            server: Where it listens, by TLS if HTTP has it.
            limits: What a request may be.
            admit: Returns the name of the key of one who sends such headers, empty where there are no keys; raises what
                he hears if he has none.
            refused: Hears what is refused.
        """
        logging.getLogger("grpc._cython.cygrpc").addFilter(_quotes_nobody)
        self._app = app
        self._settings = server
        self._client_header = limits.client_header
        self._admit = admit
        self._refused = refused
        at_once, most_s = limits.receiving_bytes // limits.max_body_bytes, limits.body_timeout_s
        self._turns = Turns(at_once, most_s, _TURN_S, _TURN_S)
        self._turns_of_open = Turns(min(at_once, _OPEN_AT_ONCE), most_s, _OPEN_S, _OPEN_LEAST_S)
        self._shares, self._shares_of_open = (Shares(2 * limits.max_connections) for _ in range(2))
        self._most_bytes = limits.max_body_bytes + _MOST_BESIDE_BYTES
        options = [
            ("grpc.max_receive_message_length", self._most_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.max_header_bytes),
            ("grpc.http2.bdp_probe", 0),  # it would keep up to megabytes of each call that is not read yet
            ("grpc.so_reuseport", 0),  # a taken port is refused
            ("grpc.max_allowed_incoming_connections", limits.max_connections),
            ("grpc.server_handshake_timeout_ms", _milliseconds(limits.header_timeout_s)),
            # An idle one cannot be told to give way: it has no longer than one that says nothing.
            ("grpc.max_connection_idle_ms", _milliseconds(min(server.keep_alive_s, limits.header_timeout_s))),
            ("grpc.max_connection_age_ms", _milliseconds(_MOST_AGE_S)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(limits.answer_timeout_s)),
            # Beyond these it would cancel calls at random, whoever's they are; the shares see to it, with words.
            ("grpc.server.max_pending_requests", 4 * limits.max_connections),
            ("grpc.server.max_pending_requests_hard_limit", 4 * limits.max_connections),
        ]
        self._server = grpc.aio.server(options=options)
        for service in (INFERENCE, HEALTH):
            handlers = {
                name: grpc.stream_unary_rpc_method_handler(
                    self._handler(name, *kinds), response_serializer=kinds[1].SerializeToString
                )
                for name, kinds in methods(service).items()
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    async def open(self) -> int:
        """Begin to take calls; returns the port, which is any free one for 0.

        Raises:
            ValueError: If the address cannot be had.
        """
        host, port = self._settings.host, self._settings.grpc_port or 0
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        credentials = _credentials(self._settings)
        try:
            if credentials is None:
                bound: int = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ValueError(f"cannot listen on {host}:{port} for gRPC; choose another server.grpc_port") from error
        await self._server.start()
        return bound

    async def close(self) -> None:
        """Take no more calls, and give those that have begun `DRAIN_S`."""
        await self._server.stop(DRAIN_S)

    def _handler(self, name: str, request_kind: Any, answer_kind: Any) -> Callable[..., Any]:
        async def handle(_messages: object, context: Any) -> Any:
            metadata = context.invocation_metadata() or ()
            try:
                headers = headers_of(metadata)
                party = self._let_in(context.peer(), name, headers)
                if twice := repeated(headers, self._client_header):
                    raise twice
                if not request_kind.DESCRIPTOR.fields:  # nothing is read
                    asked, raw = await self._asked(b"", name, request_kind)
                else:
                    async with (self._turns_of_open if name in _OPEN else self._turns).turn(party):
                        asked, raw = await self._asked(await context.read(), name, request_kind)
            except TTAError as error:
                self._refused(_TURNED_AWAY.get(error.code, "body"))
                wait = (("retry-after", str(error.retry_after_s)),) if isinstance(error, Overloaded) else ()
                return _refuse(context, error.status, str(error), (*wait, ("x-error-code", error.code)))
            reply = await ask(self._app, asked, metadata, context.peer())
            more = tuple((header, reply.headers[header]) for header in _TOLD if header in reply.headers)
            if name == "ModelReady" and reply.status == 404:  # as Triton says it of a model that it does not have
                reply = reply._replace(status=200, body=b'{"ready": false}')
            if problem := reply.problem:
                return _refuse(context, reply.status, problem["error"], (*more, ("x-error-code", problem["code"])))
            context.set_trailing_metadata(more)
            if name == "ModelInfer":
                return infer_response(reply, raw)
            found = orjson.loads(reply.body)
            return ParseDict(_FORMS.get(name, dict)(found), answer_kind(), ignore_unknown_fields=True)

        return handle

    def _let_in(self, connection: str, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Party:
        """Return who calls. Whoever shows no key takes nothing of the room of those who do, not by refusals either.

        Raises:
            Unauthorized: If he shows no key where one is needed.
            Overloaded: If he has as many calls open as he may.
        """
        key = ""
        if name in _OPEN:
            _hold(self._shares_of_open, connection)
        else:
            try:
                key = self._admit(dict(headers))
            except Unauthorized:
                _hold(self._shares_of_open, connection)
                raise
            _hold(self._shares, key or connection)
        return Party(key or connection.rpartition(":")[0], connection)

    async def _asked(self, data: Any, name: str, kind: Any) -> tuple[Asked, bool]:
        """Return what the message of a call asks of the application, and whether values are raw bytes.

        It comes from the context: gRPC's iterator of messages refers to itself, and would keep the last one of each
        call until Python's collector comes by.

        Raises:
            TooLarge: If the message is larger than one of its kind may be.
            BadRequest: If it is none.
        """
        data = b"" if data is grpc.aio.EOF else data
        most = self._most_bytes if name == "ModelInfer" else _MOST_BESIDE_BYTES
        if len(data) > most:
            raise TooLarge(f"the message may have at most {most} bytes here, got {len(data)}")
        expect_few_fields(data, kind.DESCRIPTOR)
        if name == "ModelInfer":
            rest, raw = values_apart(data, _RAW)
            request = _read(rest, kind)
            return (await infer_body(request, raw))._replace(path=_of_model(request, "/infer")), bool(raw)
        request = _read(data, kind)
        asked = _PATHS[name](request)
        return (asked if isinstance(asked, Asked) else Asked("GET", asked)), False


def _hold(shares: Shares, party: str) -> None:
    """Count a call until the last of its answer is sent, when its task ends; a callback of its context would keep it.

    Raises:
        Overloaded: If its party has as many as it may.
    """
    if not shares.take(party):
        raise Overloaded("too many calls are open (limits.max_connections); end some, or ask again later")
    task: Any = asyncio.current_task()
    task.add_done_callback(lambda _: shares.give_back(party))


def _read(data: bytes, kind: Any) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadRequest(f"the message is no {kind.DESCRIPTOR.full_name}") from error


def _milliseconds(seconds: float) -> int:
    return max(1, round(min(1000 * seconds, _MOST_MS)))


def _quotes_nobody(record: logging.LogRecord) -> bool:
    """Keep out of the log what gRPC writes there of metadata that is no UTF-8: it may be a key."""
    return not record.getMessage().startswith("Invalid encoding on")


def _credentials(server: ServerSettings) -> Any:
    if server.tls_certificate is None or server.tls_key is None:
        return None
    pairs = [(server.tls_key.read_bytes(), server.tls_certificate.read_bytes())]
    if server.tls_client_ca is None:
        return grpc.ssl_server_credentials(pairs)
    return grpc.ssl_server_credentials(pairs, server.tls_client_ca.read_bytes(), require_client_auth=True)


def _refuse(context: Any, status: int, message: str, more: tuple[tuple[str, str], ...]) -> None:
    """Have a call end with an error. `abort` would raise one, whose traceback keeps all that was read."""
    context.set_code(_CODES.get(status, grpc.StatusCode.INTERNAL))
    context.set_details(message)
    context.set_trailing_metadata(more)
