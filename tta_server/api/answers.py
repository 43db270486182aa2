"""What the server answers, for the OpenAPI document."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from tta_server.api.front.document import Told, described, refusals
from tta_server.settings import Mode
from tta_server.streams.present import Because
from tta_server.telemetry.closed_sets import StateKind

AnsweredBy = Literal["source", "adapted"]
_REPLICA = "The server that speaks, of its own streams alone, where servers share their storage; else empty."


def returns(model: type[Told], *refused: int, status: int = 200, also: Sequence[int] = ()) -> dict[str, Any]:
    """Return how a route is declared that answers with `model`.

    Args:
        model: What the OpenAPI document says of the answer; the answer itself is not touched.
        refused: Statuses of errors.
        status: Of the answer.
        also: Other statuses that it may have.
    """
    answer = described(model, " ".join((model.__doc__ or "").split()))
    responses = dict.fromkeys((status, *also), answer) | refusals(*refused)
    return {"status_code": status, "response_model": None, "responses": responses}


# Predictions
class Ranked(Told):
    """A class and how probable it is."""

    label: str
    index: int = Field(description="Of the class, from 0.")
    probability: float


class Prediction(Told):
    """What is seen in one image."""

    label: str = Field(description="The most probable class.")
    domain: str | None = Field(description="'source' or a domain of the stream; null where none are told apart.")
    entropy_nats: float
    top: list[Ranked] = Field(description="The most probable classes, best first.")


class Predictions(Told):
    """What is seen in each image of a request, in their order."""

    model: str
    request_id: str = Field(description="What labels that come later call the request.")
    stream: str
    state_version: int = Field(description="Of the state that answered.")
    adapted: bool = Field(description="Whether that state has learnt something; else the frozen model answered.")
    predictions: list[Prediction]


class Said(Told):
    """What a model says of an image."""

    label: str
    entropy_nats: float
    top: list[Ranked] = Field(description="The most probable classes, best first.")


class Compared(Told):
    """What the frozen model and what was learnt say of one image."""

    domain: str = Field(description="What a request would take it for; empty for nothing that is known.")
    adapted: bool = Field(description="Whether what was learnt would answer, and not the frozen model.")
    source: Said = Field(description="The frozen model.")
    learnt: Said | None = Field(description="What was learnt; null if nothing was of such images.")


class Comparison(Told):
    """Two answers to each image of a request, in their order; nothing was learnt from them, or counted."""

    stream: str
    state_version: int
    images: list[Compared]


class InferParameters(Told):
    """Who answered."""

    stream: str
    state_version: int
    adapted: bool
    request_id: str
    domains: str | None = Field(None, description="Of each image, with commas; absent where none are told apart.")


class BinarySize(Told):
    """How many bytes behind the JSON are a tensor's."""

    binary_data_size: int


class OutputTensor(Told):
    """A tensor, flat in row-major order: as `data`, or as bytes behind the JSON."""

    name: Literal["probabilities", "label"]
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]
    data: list[float] | list[str] | None = Field(None, description="Absent where the tensor is sent as bytes.")
    parameters: BinarySize | None = Field(None, description="Only where the tensor is sent as bytes.")


class Inferred(Told):
    """The tensors that were asked for."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="The request's, if it had one.")
    parameters: InferParameters
    outputs: list[OutputTensor]


# Server and models
class ServerAbout(Told):
    """The server, as the Open Inference Protocol describes one."""

    name: str
    version: str
    extensions: list[str]


class ModelNames(Told):
    """The models that are served."""

    models: list[str]


class TensorAbout(Told):
    """A tensor's name, type and shape; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelAbout(Told):
    """A model, as the Open Inference Protocol describes one."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorAbout]
    outputs: list[TensorAbout]


class ModelReadiness(Told):
    """Whether a good request to the model would be answered."""

    name: str
    ready: bool


class Liveness(Told):
    """Whether the process answers."""

    live: bool
    error: str = Field("", description="Why only a restart helps.")


class Readiness(Told):
    """Whether a good request would be answered."""

    ready: bool
    error: str = Field("", description="Why not.")


# Streams
class LastVerdict(Told):
    """What happened to a stream, and why."""

    time: str
    domain: str = Field("", description="The domain that it happened to; empty if it is the stream's own.")
    verdict: str
    cause: str
    reason: str
    who: str
    version_before: int
    version_after: int


class StreamAbout(Told):
    """A stream in short."""

    name: str
    mode: Mode
    adapter: str
    state_version: int
    steps: int = Field(description="That made its state, from the source on.")
    domain: str = Field(description="The domain that it is in, which answers; empty at home, or if there is none.")
    answers: AnsweredBy = Field(description="Who answers its requests now: what was learnt, or the frozen model.")
    source_because: Because = Field(description="Why the frozen model answers; empty if it does not.")
    frozen: str = Field(description="Why the guard switched off what would answer; empty if it did not.")
    restores_in_a_row: int = Field(description="Times that the guard has taken what answers back, one after the other.")
    images: int
    images_learnt: int
    images_dropped: int
    images_in_window: int
    entropy_ratio: float | None = Field(description="Recent mean entropy of its answers, of the highest there is.")
    confidence_ratio: float | None
    last_verdict: LastVerdict | None
    in_memory: bool
    trouble: str = Field(description="Why it is set aside and answers nobody; empty if it is not.")


class StreamPage(Told):
    """Streams by name; `next` is what the next page comes `after`."""

    streams: list[StreamAbout]
    next: str | None
    replica: str = Field(description=_REPLICA)


class Accuracy(Told):
    """How often answers were right, with a 95 % interval; nothing but `labels` if there are none."""

    labels: int
    accuracy: float = 0.0
    low: float = 0.0
    high: float = 0.0


class Accuracies(Told):
    """How often the answers were right, by the last 1,000 true labels."""

    answered: Accuracy = Field(description="Of every image with a label.")
    adapted: Accuracy = Field(description="Of those where what the frozen model says is known too.")
    source: Accuracy = Field(description="The frozen model, on the same images as 'adapted'.")


class StreamDetails(StreamAbout):
    """Everything about a stream."""

    dropped: dict[str, int] = Field(description="Images that were not learnt from, by reason.")
    bytes: dict[StateKind, int] = Field(description="Memory: of its state, of other versions, of images that wait.")
    versions_kept: list[int]
    verdicts: list[LastVerdict] = Field(description="The last ones, newest last.")
    domains: list[str] = Field(description="Names of its domains, the oldest first.")
    labelled: Accuracies


class DomainAbout(Told):
    """What is known of one kind of input that a stream has met, or of input that looks like the source's."""

    id: str = Field(description="Its name wherever one is asked for; 'source' for what is at home.")
    title: str = Field(description="What an operator calls it.")
    since: str = Field(description="When it was opened: ISO 8601 in UTC; empty for 'source'.")
    current: bool = Field(description="Whether the last image of the stream belonged to it.")
    last_asked: str = Field(description="When its last image came: ISO 8601 in UTC; empty before the first.")
    images: int = Field(description="Images answered.")
    share: float = Field(description="Of the stream's images of late; one counts for 1 / e after 256 others.")
    steps: int
    state_version: int
    answers: AnsweredBy = Field(description="Who answers its images.")
    source_because: Because = Field(description="Why the frozen model does, as for streams; empty if it does not.")
    frozen: str = Field(description="Why the guard switched it off; empty if it did not.")
    estimated_gain: float | None = Field(description="By the guard, as a share of images; null if unknown.")
    distance: float | None = Field(description="Squared, from the source, over the wider spread; null if unknown.")
    spread: float | None = Field(description="How widely its images scatter; 1 for the source's. Null if unknown.")
    bytes: int = Field(description="Memory that it takes.")
    in_memory: bool
    trouble: str = Field(description="Why it is set aside; empty if it is not.")


class DomainList(Told):
    """What is at home, then a stream's domains, the oldest first."""

    domains: list[DomainAbout]


class DomainsOpened(Told):
    """The domains that were opened, one in each stream that was named."""

    opened: list[str]


class Switched(Told):
    """What was asked for, and how many streams are in which mode now."""

    mode: Mode | Literal["configured"]
    streams: dict[Mode, int]
    unread: int = Field(description="Streams on disk that nobody asked for since the start: in which mode shows then.")
    replica: str = Field(description=_REPLICA)


class SnapshotAbout(Told):
    """A snapshot that is kept."""

    id: str
    kind: Literal["state", "snapshot"]
    version: int
    sha256: str
    size_bytes: int
    time: str
    note: str


class SnapshotList(Told):
    """A stream's snapshots, oldest first."""

    snapshots: list[SnapshotAbout]


class SnapshotTaken(Told):
    """The snapshot that was taken."""

    id: str


class AuditLine(Told):
    """What happened to a stream, as the audit log keeps it."""

    stream: str
    verdict: str
    version_before: int
    version_after: int
    cause: str
    reason: str
    batch: str | None
    rows: int
    state: str | None
    who: str
    time: str
    extra: dict[str, Any]


class AuditLines(Told):
    """Lines of the audit log, newest first; `memory` holds the last ones only, and ends with the server."""

    entries: list[AuditLine]
    kept: Literal["storage", "memory"]
    unwritten: int = Field(description="How many of these wait in memory for a storage that fails or is slow.")


class LabelsCounted(Told):
    """How many labels were counted, and the accuracy of each stream they are about."""

    counted: int
    unknown: int
    streams: dict[str, Accuracies]
