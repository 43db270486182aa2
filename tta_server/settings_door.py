"""The part of the configuration that is about the front door: where the server listens, and what it takes from whom."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from tta_server.addresses import network_of
from tta_server.validation import is_number


class Section(BaseModel):
    """Part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:  # noqa: ANN401
        if isinstance(value, bool) and is_number(cls.model_fields[field.field_name or ""].annotation):
            raise ValueError(f"expected a number, got {value}: yes, on and true are none")
        return value


class ServerSettings(Section):
    """Where the server listens."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on; :: for every interface, 0.0.0.0 for every one of IPv4 alone."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 picks a free one.")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="Port for gRPC, beside HTTP; 0 picks a free one, empty is none."
    )
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port that alone answers operations: /metrics, pages, and what takes more than the scope infer; "
        "0 picks a free one, empty answers them on the main port.",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the server's certificate, and those between it and its CA; empty is no TLS."
    )
    tls_key: Path | None = Field(None, description="PEM file of that certificate's key, without a passphrase.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the CAs of which a client must show a certificate; empty asks for none."
    )
    root_path: str = Field(
        "", pattern="^(/[^/?#]+)*$", description="Path under which a proxy serves this server, such as /tta."
    )
    keep_alive_s: float = Field(
        75.0, gt=0, allow_inf_nan=False, description="How long a connection may be idle between two requests."
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="How long a server that is told to stop answers while it says that it is not ready: longer than a "
        "balancer takes to notice.",
    )
    trusted_proxies: list[str] = Field(
        [],
        description="Addresses or networks whose X-Forwarded-For, X-Actor and limits.client_header are believed; "
        "nobody else's are.",
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> "ServerSettings":
        ports = [port for port in (self.port, self.grpc_port, self.admin_port) if port]
        if len(set(ports)) < len(ports):
            raise ValueError("port, grpc_port and admin_port are different ports")
        return self

    @model_validator(mode="after")
    def _has_both_or_none(self) -> "ServerSettings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are set together or not at all")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError(
                "tls_client_ca asks clients for certificates, which takes TLS: set tls_certificate, tls_key"
            )
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, proxies: list[str]) -> list[str]:
        return [str(network_of(each)) for each in proxies]


class LimitsSettings(Section):
    """What requests may be, one by one and all together."""

    max_connections: int = Field(
        1000,
        ge=1,
        description="Most connections, and as many again of gRPC; beyond, the one that is idle, or else waited for, "
        "longest is closed, of gRPC the new one refused.",
    )
    max_header_bytes: int = Field(32 * 2**10, ge=1024, description="Most bytes in the head of a request.")
    max_headers: int = Field(100, ge=8, description="Most headers of a request.")
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a connection may take to send the head of a request; its handshake of TLS has as long, "
        "and an idle one of gRPC.",
    )
    body_timeout_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="How long a request may take to send its body."
    )
    answer_timeout_s: float = Field(
        60.0, gt=0, allow_inf_nan=False, description="How long a client may leave an answer unread."
    )
    max_body_bytes: int = Field(
        32 * 2**20, ge=1024, description="Most bytes in a body of images or of a state; of other bodies less."
    )
    max_receiving_bytes: int | None = Field(
        None,
        ge=1024,
        description="Most bytes in the bodies of all requests together; beyond, the one that takes longest is given "
        "up. Empty is 8 bodies.",
    )
    max_pixels: int = Field(16_000_000, ge=1, description="Most pixels in one image, read from its header.")
    max_decoding_pixels: int | None = Field(
        None,
        ge=1,
        description="Most pixels of large images, of all requests together, that wait to be decoded; more get 429. "
        "Empty is 4 images.",
    )
    max_decoded_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes of decoded images on their way; more get 429. Empty is what a full queue and one "
        "forward of float32 images take.",
    )
    decode_threads: int = Field(
        2, ge=1, description="Threads that decode images up to a megapixel; half as many more decode larger ones."
    )
    decode_timeout_s: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="How long the images of one request may take to be decoded."
    )
    refuse_constant: bool = Field(True, description="Refuse images of one colour: a covered lens, an empty frame.")
    client_header: str = Field(
        "", description="Header that names the client, from trusted proxies; empty takes X-Forwarded-For."
    )

    @property
    def receiving_bytes(self) -> int:
        """Most bytes in the bodies of all requests together."""
        return self.max_receiving_bytes or 8 * self.max_body_bytes

    @property
    def decoding_pixels(self) -> int:
        """Most pixels of large images that wait to be decoded."""
        return self.max_decoding_pixels or 4 * self.max_pixels

    @model_validator(mode="after")
    def _fits(self) -> "LimitsSettings":
        if self.receiving_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_receiving_bytes is {self.max_receiving_bytes}, expected at least max_body_bytes, "
                f"{self.max_body_bytes}: one body would never find room"
            )
        if self.decoding_pixels < self.max_pixels:
            raise ValueError(
                f"max_decoding_pixels is {self.max_decoding_pixels}, expected at least max_pixels, {self.max_pixels}: "
                "one image would never find room"
            )
        return self


class AuthSettings(Section):
    """Who may ask."""

    keys_file: Path | None = Field(
        None,
        description="File of API keys that 'tta-server keys new' writes; without it and jwt_keys_file everybody may do "
        "everything.",
    )
    jwt_keys_file: Path | None = Field(
        None,
        description="File of the public keys, a JWKS or one as PEM, of whoever makes tokens (JWT) for this server; "
        "empty takes none. It needs the extra 'jwt'.",
    )
    jwt_audience: str = Field("", description="What the claim 'aud' of a token must hold: this server.")
    jwt_issuer: str = Field("", description="What the claim 'iss' of a token must be: whoever makes them.")
    insecure_public: bool = Field(
        False,
        description="Listen on a public address without keys: everybody who reaches the server may do everything.",
    )

    @property
    def asks_for_keys(self) -> bool:
        """Whether a request needs a key or a token."""
        return self.keys_file is not None or self.jwt_keys_file is not None

    @model_validator(mode="after")
    def _takes_tokens_made_for_it(self) -> "AuthSettings":
        given = [self.jwt_keys_file is not None, self.jwt_audience != "", self.jwt_issuer != ""]
        if any(given) and not all(given):
            raise ValueError(
                "jwt_keys_file, jwt_audience and jwt_issuer are set together or not at all: without the last two, a "
                "token that was made for another service would be good here"
            )
        return self
