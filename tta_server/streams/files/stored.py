"""What a file says of a stream: a record with a version of its own, read with care.

A field that a file lacks has its default, so that files of older servers are read. What a newer server may have written
is left out where it is not understood: fields that this one does not know, and whatever is wrong in what is not the
learnt state, its versions and where it belongs. Where those are wrong the file cannot be read. It is the same for one
that an operator sends.
"""

import json
import logging
import math
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from tta_server.drift.evidence import Evidence
from tta_server.drift.watch import Learnt
from tta_server.guard.verdict import Serve
from tta_server.settings import AdapterSettings, Mode
from tta_server.streams.lately import Lately
from tta_server.streams.summary import Summary
from tta_server.telemetry.closed_sets import DriftCause, DriftState
from tta_server.telemetry.log_format import fields

log = logging.getLogger(__name__)

SCHEMA: Final = 1
MOST_STEPS: Final = 2**53
"""Beyond it, JSON readers elsewhere no longer tell numbers apart."""

Count = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_ESSENTIAL: Final = frozenset(
    ("schema", "stream", "mode_s", "adapter", "version", "steps", "begun", "frozen", "history", "whereabouts", "place")
)
"""What must be right: the learnt state, its versions, where it belongs and who stopped it. The rest may be left out."""

_STRICT = ConfigDict(strict=True)


def _hex(text: str) -> str:
    bytes.fromhex(text)
    return text


def _time(text: str) -> str:
    if text:
        datetime.fromisoformat(text)
    return text


def _sound(evidence: Evidence) -> Evidence:
    _time(evidence.began)
    if not all(math.isfinite(won) and won >= 0 for won in (evidence.log, *evidence.each.values())):
        raise ValueError("evidence must be finite and not negative")
    return evidence


Digest = Annotated[str, AfterValidator(_hex)]
Time = Annotated[str, AfterValidator(_time)]


@dataclass(frozen=True)
class StoredState:
    """An earlier state in the same file.

    Attributes:
        version: Its version.
        steps: Steps that made it, since the source.
        passed: Whether the guard's complete check found it good.
    """

    version: Count
    steps: Count = 1
    passed: bool = False

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class StoredImage:
    """An image in the same file that waited to be learnt from.

    Attributes:
        digest: Of its type and content, in hex.
        client: Who sent it.
        arrived_s: When, on the clock of the process that wrote the file.
    """

    digest: Digest
    client: str = ""
    arrived_s: Finite = 0.0

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class StoredPlace:
    """Where a domain lies; its centre lies beside.

    Attributes:
        spread: See `Place`.
        images: See `Place`.
        space: Name of the space that it is a place of.
    """

    spread: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    images: Annotated[int, Field(ge=1, le=MOST_STEPS)]
    space: str = ""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class StoredWhereabouts:
    """Where a stream that tells domains apart has been; the styles of its last images lie beside.

    Attributes:
        current: See `Whereabouts`.
        next: See `Whereabouts`.
        space: Name of the space that the styles belong to.
        domains: See `Whereabouts`; None where files did not say: any below `next`.
    """

    current: str = ""
    next: Annotated[int, Field(ge=1, le=10**9)] = 1
    space: str = ""
    domains: list[Count] | None = None

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class StoredDrift:
    """How the input of a stream drifts; windows, waiting images and shares of classes lie beside. See `Watch`.

    The names are those of columns beside, whether or not this server knows them.
    """

    state: DriftState = "unknown"
    since: Time = ""
    because: DriftCause | None = None
    evidence: Annotated[Evidence, AfterValidator(_sound)] = field(default_factory=Evidence)
    alarmed: bool = False
    away: bool = False
    astray: Count = 0
    settled: Count = 0
    first_astray: Time = ""
    names: tuple[str, ...] = ()
    seen: Count = 0
    learnt: Learnt = field(default_factory=Learnt)

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True)
class Stored:
    """A stream as its file has it; the tensors lie beside.

    Attributes:
        schema: Version of this record; 0 where files had none.
        stream: Its name.
        mode: The mode that it had.
        mode_s: See `Stream`.
        adapter: Its own adapter; None if it has the server's.
        version: Version of its state.
        steps: Steps that made the state; 0 is the source.
        images: Images answered.
        learnt: Images that committed steps learnt from.
        dropped: Images that were offered for learning but not learnt from, by reason.
        serve: Whether its own state or the source answers, as the guard wants it.
        restores: Times in a row that the guard took it back.
        frozen: Why the guard switched it off; empty if it did not.
        entropy_ratio: Recent mean entropy of the answers over ln K.
        confidence: Recent mean probability of the predicted class.
        verdicts: The last verdicts, newest last.
        history: Its earlier states, oldest first.
        window: Images that waited, in order.
        recent: Digests of images that are refused if they come again, in hex, oldest first.
        whereabouts: Where it has been, if it tells domains apart.
        place: Where it lies, if it is a domain.
        title: What an operator calls the domain.
        since: When the domain was opened.
        begun: How many waiting images the state has the statistics of, before the first step.
        lately: How much of what the stream sees is of this domain; of a stream: how much is at home.
        drift: How its input drifts.
    """

    schema: Annotated[int, Field(ge=0, le=SCHEMA)] = 0
    stream: str = ""
    mode: Mode | None = None
    mode_s: Finite = 0.0
    adapter: AdapterSettings | None = None
    version: Count = 1
    steps: Count = 1
    images: Count = 0
    learnt: Count = 0
    dropped: dict[str, Count] = field(default_factory=dict)
    serve: Serve = "adapted"
    restores: Count = 0
    frozen: str = ""
    entropy_ratio: Finite | None = None
    confidence: Finite | None = None
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    history: list[StoredState] = field(default_factory=list)
    window: list[StoredImage] = field(default_factory=list)
    recent: list[Digest] = field(default_factory=list)
    whereabouts: StoredWhereabouts | None = None
    place: StoredPlace | None = None
    title: str = ""
    since: str = ""
    begun: Count = 0
    lately: Lately = field(default_factory=Lately)
    drift: StoredDrift = field(default_factory=StoredDrift)

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    @property
    def learnt_unseen(self) -> bool:
        """Whether it learnt in the shadow, and nobody gave it that mode: what it has learnt answers nobody."""
        return self.mode == "shadow" and not self.mode_s

    @classmethod
    def read(cls, about: dict[str, Any], aloud: bool = False) -> "Stored":
        """Return what a file says.

        Args:
            about: What is in the file.
            aloud: Whether what is left out of it is logged.

        Raises:
            ValueError: If of what a stream cannot do without a field has the wrong type or is out of range.
        """
        known, left_out = about, list[str]()
        while True:
            try:
                found = _RECORD.validate_json(json.dumps(known))  # strict, and still a list is a list
                break
            except ValidationError as error:
                wrong = error.errors()
            for each in wrong:
                if each["loc"][:1] == () or (each["loc"][0] in _ESSENTIAL and each["type"] != "extra_forbidden"):
                    where = ".".join(map(str, each["loc"]))
                    raise ValueError(f"what the file says of the stream is damaged: {where}: {each['msg']}")
            places = {_place(known, each["loc"]) for each in wrong}
            known = _without(known, places)
            left_out += [".".join(place) for place in places]
        if left_out and aloud:
            log.warning(
                "left out of a stream's file what this server does not understand; a newer one may have written it",
                extra=fields(stream=found.stream, left_out=", ".join(sorted(left_out))[:500]),
            )
        if "mode" in left_out:
            found = replace(found, mode="off")  # somebody wanted it otherwise than is known here
        if "serve" in left_out:
            found = replace(found, serve="source")  # until the guard says otherwise
        newest = found.history[-1].version if found.history else found.version
        return found if "version" in about else replace(found, version=newest)

    def written(self) -> dict[str, Any]:
        """Return it as a file has it."""
        content: dict[str, Any] = _RECORD.dump_python(self, mode="json")
        return content

    def summary(self, name: str, mode: Mode, adapter: str) -> Summary:
        """Return what lists say of the stream while it is on disk only; who answers is for the caller to say."""
        return Summary(
            name=name,
            mode=mode,
            adapter=adapter,
            state_version=self.version,
            steps=self.steps,
            frozen=self.frozen,
            restores_in_a_row=self.restores,
            images=self.images,
            images_learnt=self.learnt,
            images_dropped=sum(self.dropped.values()),
            images_in_window=len(self.window),
            entropy_ratio=self.entropy_ratio,
            confidence_ratio=self.confidence,
            last_verdict=self.verdicts[-1] if self.verdicts else None,
            in_memory=False,
        )


_RECORD = TypeAdapter(Stored)


def _place(about: dict[str, Any], where: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the keys that lead to the smallest field in which something is wrong; a list counts as a whole."""
    at: Any = about
    found: list[str] = []
    for key in where:
        if not isinstance(at, dict) or key not in at:
            break
        found.append(str(key))
        at = at[key]
    return tuple(found)


def _without(about: dict[str, Any], places: set[tuple[str, ...]]) -> dict[str, Any]:
    """Return a record without some of its fields."""
    inner = {key: {place[1:] for place in places if place[0] == key} for key in {place[0] for place in places}}
    return {
        key: _without(value, inner[key]) if key in inner else value
        for key, value in about.items()
        if () not in inner.get(key, ())
    }
