"""What requests to change streams may say; unknown keys are refused."""

import json
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from tta_server.api.front.responses import MOST_SHOWN, NO_OBJECT
from tta_server.api.stream_id import stream_or_domain
from tta_server.names import MOST_OF_A_TITLE, STREAM_OR_DOMAIN_NAME, is_title
from tta_server.plain import UNSEEN, is_plain
from tta_server.settings import AdapterSettings, Mode, StreamName
from tta_server.streams.summary import Summary

MOST_LABELS = 10_000
MOST_OFFERED = 100


DomainPath = Annotated[int, Path(ge=1, le=10**9, description="Number of the domain.", examples=[2])]
StreamPath = Annotated[
    str,
    Path(
        description="Name of the stream.",
        examples=["gate-7"],
        json_schema_extra={"pattern": f"^{STREAM_OR_DOMAIN_NAME.pattern}$"},
    ),
    AfterValidator(stream_or_domain),
]


# What `str.strip` takes away and is plain; "a space" is another set in each language.
_SPACES = r"\x20\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"


def _one_line(reason: str) -> str:
    if not is_plain(reason):
        raise ValueError("must be one line, without control characters")
    return reason


def _said(reason: str) -> str:
    if not reason.strip():
        raise ValueError("say why; the audit log keeps it")
    return reason.strip()


Reason = Annotated[
    str,
    Field(
        max_length=500,
        description="Why, for the audit log.",
        examples=["a new lens"],
        json_schema_extra={"pattern": f"^[^{UNSEEN}]*$"},
    ),
    AfterValidator(_one_line),
]
NeededReason = Annotated[
    Reason,
    AfterValidator(_said),
    Field(min_length=1, json_schema_extra={"pattern": f"^[{_SPACES}]*[^{UNSEEN}{_SPACES}][^{UNSEEN}]*$"}),
]


def _printable(title: str) -> str:
    if not is_title(title):
        raise ValueError(f"must be at most {MOST_OF_A_TITLE} printable characters")
    return title


Title = Annotated[
    str,
    Field(
        description="What to call it; empty for nothing.",
        json_schema_extra={"maxLength": MOST_OF_A_TITLE, "pattern": r"^([^\p{C}\p{Z}]| )*$"},
    ),
    AfterValidator(_printable),
]


class Body(BaseModel):
    """A JSON object; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _is_object(cls, value: object) -> object:
        if isinstance(value, dict | Body):
            return value
        raise PydanticCustomError(NO_OBJECT, "expected an object such as {example}", {"example": _example(cls, value)})


def _example(body: type[Body], value: object) -> str:
    """Return a body of the right form; a text that was sent in its place stands where it may have been meant."""
    needed = [name for name, field in body.model_fields.items() if field.is_required()]
    shown = needed or [name for name, field in body.model_fields.items() if field.examples][:1]
    example = {name: (body.model_fields[name].examples or [None])[0] for name in shown}
    if isinstance(value, str) and needed:
        example[needed[0]] = value[:MOST_SHOWN]
    return json.dumps(example)


class AdapterBody(Body):
    """How one stream learns."""

    name: str = Field(description="Name of the adapter.", examples=["tent"])
    settings: dict[str, Any] = Field(default_factory=dict, description="Its fields; the rest keep their defaults.")

    def section(self) -> AdapterSettings:
        """Return the same as the configuration says it."""
        return AdapterSettings(name=self.name, settings=self.settings)


class Listing(Body):
    """Which streams to list."""

    limit: int = Field(100, ge=1, le=1000, description="Most streams in the answer.")
    after: str = Field("", description="`next` of the page before.")
    mode: Mode | None = Field(None, description="Only streams in this mode.")
    answers: Literal["source", "adapted"] | None = Field(None, description="Only streams that this answers.")
    frozen: bool | None = Field(None, description="Only streams that the guard switched off, or did not.")
    in_memory: bool | None = Field(None, description="Only streams in memory, or on disk only.")

    def wants(self, summary: Summary) -> bool:
        """Return whether a stream with this summary is asked for."""
        return (
            self.mode in (None, summary.mode)
            and self.answers in (None, summary.answers)
            and self.frozen in (None, bool(summary.frozen))
            and self.in_memory in (None, summary.in_memory)
        )


class Creation(Body):
    """A stream to open."""

    name: StreamName = Field(examples=["gate-7"])
    mode: Mode | None = Field(None, description="As configured if left out.")
    adapter: AdapterBody | None = Field(None, description="The server's if left out.")
    reason: Reason = ""


class HandOver(Body):
    """A stream that another server takes over."""

    stream: StreamName = Field(examples=["gate-7"])


class Change(Body):
    """What to change of a stream."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("mode", "adapter")
            ]
        }
    )

    mode: Mode | None = Field(None, description="A mode that is set lifts a freeze.", examples=["shadow"])
    adapter: AdapterBody | None = Field(None, description="What was learnt stays if the state's layout does.")
    reason: Reason = ""

    @model_validator(mode="after")
    def _says_something(self) -> "Change":
        if self.mode is None and self.adapter is None:
            raise ValueError("nothing to change; give 'mode', 'adapter' or both")
        return self


class ChangeOfAll(Body):
    """The mode of every stream."""

    mode: Mode | Literal["configured"] = Field(
        description="Of every stream, existing and to come; `configured` goes back to the configuration.",
        examples=["off"],
    )
    reason: NeededReason


class Why(Body):
    """Why something is done."""

    reason: Reason = ""


class Rollback(Body):
    """Where to go back to, and why."""

    version: int | None = Field(
        None, ge=0, description="A kept version; the newest that passed the guard's check if left out."
    )
    reason: NeededReason


class Rename(Body):
    """What to call a domain, and why."""

    title: Title = Field(examples=["fog"])
    reason: Reason = ""


class Offer(Body):
    """Which streams a domain is offered to, and why."""

    to: list[StreamName] = Field(
        min_length=1, max_length=MOST_OFFERED, description="Each is given a copy.", examples=[["gate-8"]]
    )
    reason: NeededReason


class Gather(Body):
    """Which images become the home, and why."""

    images: int = Field(256, ge=16, le=5000, description="How many different ones.")
    stream: StreamName | None = Field(
        None, description="Whose; those of every stream if none is named, at most a quarter from one."
    )
    replace: bool = Field(False, description="Have the bundle take the place of one that is there.")
    reason: NeededReason


class Note(Body):
    """What a snapshot is for."""

    note: Reason = ""


class Restore(Body):
    """Which snapshot to go back to, and why."""

    snapshot: str = Field(max_length=200, examples=["snapshot-00000009-v30-0123456789abcdef"])
    reason: NeededReason


class LabelBody(Body):
    """A true label of an image that was answered."""

    id: str = Field(min_length=1, max_length=128, description="`X-Request-Id` of the request.", examples=["frame-1"])
    label: StrictInt | StrictStr = Field(description="Name of the class, or its index.", examples=["cat"])
    image: int = Field(0, ge=0, description="Place of the image in the request, from 0.")
    stream: StreamName | None = Field(
        None, description="That answered; needed where several streams have a request of that id.", examples=["gate-7"]
    )


class Labels(Body):
    """True labels."""

    labels: list[LabelBody] = Field(
        min_length=1, max_length=MOST_LABELS, examples=[[{"id": "frame-1", "label": "cat"}]]
    )
