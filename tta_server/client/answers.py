"""What the server answers, as JSON.

Written by docs/write_answers.py; the server's OpenAPI document says what each field means.
"""

from typing import Any, Literal, NotRequired, TypedDict


class Ranked(TypedDict):
    """A class and how probable it is."""

    label: str
    index: int
    probability: float


class Prediction(TypedDict):
    """What is seen in one image."""

    label: str
    domain: str | None
    entropy_nats: float
    top: list[Ranked]


class Predictions(TypedDict):
    """What is seen in each image of a request, in their order."""

    model: str
    request_id: str
    stream: str
    state_version: int
    adapted: bool
    predictions: list[Prediction]


class InferParameters(TypedDict):
    """Who answered."""

    stream: str
    state_version: int
    adapted: bool
    request_id: str
    domains: NotRequired[str | None]


class BinarySize(TypedDict):
    """How many bytes behind the JSON are a tensor's."""

    binary_data_size: int


class OutputTensor(TypedDict):
    """A tensor, flat in row-major order: as `data`, or as bytes behind the JSON."""

    name: Literal["probabilities", "label"]
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]
    data: NotRequired[list[float] | list[str] | None]
    parameters: NotRequired[BinarySize | None]


class Inferred(TypedDict):
    """The tensors that were asked for."""

    model_name: str
    model_version: str
    id: NotRequired[str | None]
    parameters: InferParameters
    outputs: list[OutputTensor]


class Said(TypedDict):
    """What a model says of an image."""

    label: str
    entropy_nats: float
    top: list[Ranked]


class Compared(TypedDict):
    """What the frozen model and what was learnt say of one image."""

    domain: str
    adapted: bool
    source: Said
    learnt: Said | None


class Comparison(TypedDict):
    """Two answers to each image of a request, in their order; nothing was learnt from them, or counted."""

    stream: str
    state_version: int
    images: list[Compared]


class LastVerdict(TypedDict):
    """What happened to a stream, and why."""

    time: str
    domain: NotRequired[str]
    verdict: str
    cause: str
    reason: str
    who: str
    version_before: int
    version_after: int


class StreamAbout(TypedDict):
    """A stream in short."""

    name: str
    mode: Literal["after", "inline", "shadow", "off"]
    adapter: str
    state_version: int
    steps: int
    domain: str
    answers: Literal["source", "adapted"]
    source_because: Literal["", "home", "off", "shadow", "new", "guard", "frozen"]
    frozen: str
    restores_in_a_row: int
    images: int
    images_learnt: int
    images_dropped: int
    images_in_window: int
    entropy_ratio: float | None
    confidence_ratio: float | None
    last_verdict: LastVerdict | None
    in_memory: bool
    trouble: str


class StreamPage(TypedDict):
    """Streams by name; `next` is what the next page comes `after`."""

    streams: list[StreamAbout]
    next: str | None
    replica: str


class Accuracy(TypedDict):
    """How often answers were right, with a 95 % interval; nothing but `labels` if there are none."""

    labels: int
    accuracy: NotRequired[float]
    low: NotRequired[float]
    high: NotRequired[float]


class Accuracies(TypedDict):
    """How often the answers were right, by the last 1,000 true labels."""

    answered: Accuracy
    adapted: Accuracy
    source: Accuracy


class StreamDetails(TypedDict):
    """Everything about a stream."""

    name: str
    mode: Literal["after", "inline", "shadow", "off"]
    adapter: str
    state_version: int
    steps: int
    domain: str
    answers: Literal["source", "adapted"]
    source_because: Literal["", "home", "off", "shadow", "new", "guard", "frozen"]
    frozen: str
    restores_in_a_row: int
    images: int
    images_learnt: int
    images_dropped: int
    images_in_window: int
    entropy_ratio: float | None
    confidence_ratio: float | None
    last_verdict: LastVerdict | None
    in_memory: bool
    trouble: str
    dropped: dict[str, int]
    bytes: dict[Literal["state", "history", "window"], int]
    versions_kept: list[int]
    verdicts: list[LastVerdict]
    domains: list[str]
    labelled: Accuracies


class Switched(TypedDict):
    """What was asked for, and how many streams are in which mode now."""

    mode: Literal["after", "inline", "shadow", "off"] | Literal["configured"]
    streams: dict[Literal["after", "inline", "shadow", "off"], int]
    unread: int
    replica: str


class SnapshotAbout(TypedDict):
    """A snapshot that is kept."""

    id: str
    kind: Literal["state", "snapshot"]
    version: int
    sha256: str
    size_bytes: int
    time: str
    note: str


class SnapshotList(TypedDict):
    """A stream's snapshots, oldest first."""

    snapshots: list[SnapshotAbout]


class SnapshotTaken(TypedDict):
    """The snapshot that was taken."""

    id: str


class DomainAbout(TypedDict):
    """What is known of one kind of input that a stream has met, or of input that looks like the source's."""

    id: str
    title: str
    since: str
    current: bool
    last_asked: str
    images: int
    share: float
    steps: int
    state_version: int
    answers: Literal["source", "adapted"]
    source_because: Literal["", "home", "off", "shadow", "new", "guard", "frozen"]
    frozen: str
    estimated_gain: float | None
    distance: float | None
    spread: float | None
    bytes: int
    in_memory: bool
    trouble: str


class DomainList(TypedDict):
    """What is at home, then a stream's domains, the oldest first."""

    domains: list[DomainAbout]


class DomainsOpened(TypedDict):
    """The domains that were opened, one in each stream that was named."""

    opened: list[str]


class AuditLine(TypedDict):
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


class AuditLines(TypedDict):
    """Lines of the audit log, newest first; `memory` holds the last ones only, and ends with the server."""

    entries: list[AuditLine]
    kept: Literal["storage", "memory"]
    unwritten: int


class Gathered(TypedDict):
    """How far images are taken as home."""

    state: Literal["idle", "gathering", "making", "made", "failed", "cancelled"]
    stream: str | None
    images: int
    wanted: int
    said: str


class LabelsCounted(TypedDict):
    """How many labels were counted, and the accuracy of each stream they are about."""

    counted: int
    unknown: int
    streams: dict[str, Accuracies]


class IndexEntry(TypedDict):
    """A model of the repository."""

    name: str
    version: str
    state: str
    reason: str


class Loaded(TypedDict):
    """The model answers."""

    name: str
    load: bool


class Unloaded(TypedDict):
    """The model does not answer any more."""

    name: str
    unload: bool
