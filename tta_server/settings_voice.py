"""The part of the configuration that is about what the server says of itself, and to whom."""

import base64
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from tta_server.settings_door import Section


class LoggingSettings(Section):
    """What the server's log says, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages that are written."
    )
    format: Literal["human", "json"] = Field(
        "human", description="Lines for people, or one JSON object a line, for what collects logs."
    )
    access: bool = Field(False, description="Write a line for each request: who, what, its name, status and duration.")


class TracingSettings(Section):
    """Traces of requests by OpenTelemetry, which the extra `otel` installs."""

    endpoint: str = Field(
        "",
        pattern=r"^(https?://[^\s/@]+(/\S*)?)?$",
        description="Collector that spans are sent to by OTLP over HTTP, as http://127.0.0.1:4318/v1/traces; empty "
        "traces nothing.",
    )
    share: float = Field(
        1.0, ge=0, le=1, description="Of the requests that are traced where `traceparent` does not say."
    )


class WebhooksSettings(Section):
    """Whom the server tells by itself that a stream drifts, is frozen or is taken back."""

    url: str = Field(
        "",
        pattern=r"^(https?://[^\s/@]+(/\S*)?)?$",
        description="Address that each such event is sent to (POST, JSON); empty tells nobody.",
    )
    secret: SecretStr = Field(
        SecretStr(""), description="What messages are signed with: text, or `whsec_` and base64; empty signs nothing."
    )
    timeout_s: float = Field(5.0, gt=0, le=60, description="How long one try may take.")

    @field_validator("secret")
    @classmethod
    def _is_one(cls, secret: SecretStr) -> SecretStr:
        value = secret.get_secret_value()
        if value and not value.strip("*"):
            raise ValueError("is what 'tta-server config' prints in place of a secret; give the secret itself")
        if value.startswith("whsec_"):
            try:
                base64.b64decode(value.removeprefix("whsec_"), validate=True)
            except ValueError as error:
                raise ValueError("must be base64 after 'whsec_'") from error
        return secret
