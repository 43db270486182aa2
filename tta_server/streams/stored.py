"""What a file says of a stream: a record with a version of its own, read with care.

A field that a file lacks has its default, so that files of older servers are read; a field of the wrong type makes the
file one that cannot be read.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from tta_server.drift.evidence import Evidence
from tta_server.drift.watch import Learnt
from tta_server.guard.verdict import Serve
from tta_server.settings import AdapterSettings, Mode
from tta_server.streams.lately import Lately
from tta_server.streams.summary import Summary
from tta_server.telemetry.closed_sets import DriftCause, DriftScore, DriftState

SCHEMA: Final = 1
MOST_STEPS: Final = 2**53
"""Beyond it, JSON readers elsewhere no longer tell numbers apart."""

Count = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_STRICT = ConfigDict(strict=True)


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

    digest: str
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
    """How the input of a stream drifts; windows, waiting images and shares of classes lie beside. See `Watch`."""

    state: DriftState = "unknown"
    since: str = ""
    because: DriftCause | None = None
    evidence: Evidence = field(default_factory=Evidence)
    alarmed: bool = False
    away: bool = False
    astray: Count = 0
    settled: Count = 0
    first_astray: str = ""
    names: tuple[DriftScore, ...] = ()
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
    recent: list[str] = field(default_factory=list)
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
    def read(cls, about: dict[str, Any]) -> "Stored":
        """Return what a file says.

        Raises:
            ValueError: If a field has the wrong type or is out of range.
        """
        try:
            found = _RECORD.validate_json(json.dumps(about))  # strict, and still a list is a list
        except ValidationError as error:
            wrong = error.errors()[0]
            where = ".".join(map(str, wrong["loc"]))
            raise ValueError(f"what the file says of the stream is damaged: {where}: {wrong['msg']}") from error
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
