"""What the server answers when it is asked about drift, for the OpenAPI document."""

from pydantic import Field

from tta_server.api.answers import Compared
from tta_server.api.front.document import Told
from tta_server.telemetry.closed_sets import DriftCause, DriftScore, DriftState


class DriftScoreAbout(Told):
    """A score of a window, beside what it is without drift; nulls where the bundle does not know."""

    name: DriftScore
    value: float
    z: float | None = Field(description="Standard deviations from its mean without drift.")
    p: float | None = Field(description="How likely a value at least as strange is without drift.")


class EstimatedAccuracies(Told):
    """Share of the last window that each model answers as surely as source images, from features near theirs.

    No more than a hint: a model that collapses grows sure of its answers, and this may rise while the accuracy falls.
    """

    source: float | None = Field(description="Of the frozen model; null without labels in the bundle.")
    adapted: float | None = Field(description="Of the stream, on the last window that it learnt from.")


class LayerShift(Told):
    """How far the input of a normalisation layer lies from the source's."""

    layer: str
    w2: float = Field(description="Wasserstein distance, in source standard deviations.")
    kl_nats: float = Field(description="Symmetric divergence, a mean over channels.")


class LearntWindow(Told):
    """What the last window that was learnt from says; its layers are those of the stream's own network."""

    rows: int
    agreement: float | None = Field(description="Share of it that the stream and the frozen model answer alike.")
    measures: dict[str, float] = Field(description="What the guard measured.")
    scores: list[DriftScoreAbout]
    layers: list[LayerShift] = Field(description="The farthest first, 50 at most.")


class ClassShare(Told):
    """How often the frozen model sees a class of late, and how often it did in source images."""

    index: int
    label: str
    share: float
    source_share: float


class StyleAbout(Told):
    """Whether images look like the source's."""

    away: bool
    images_astray: int = Field(
        description="How many more have lately looked unlike the source's than like them; at 32, away."
    )
    images_settled: int = Field(description="How many more have looked like the source's than unlike them, to 32.")
    distance: float | None = Field(description="Of the last request from the source, squared, over what chance says.")
    limit: float = Field(description="From which distance images are not the source's any more.")


class ScoredWindow(Told):
    """A window of the history."""

    time: str
    state: DriftState
    evidence_decades: float
    scores: dict[DriftScore, float]


class DomainPlace(Told):
    """Where a domain lies; see `/domains` for all of it."""

    id: str
    title: str
    current: bool
    share: float
    distance: float | None
    spread: float | None


class DriftAbout(Told):
    """Whether the input of a stream drifts, since when, and what says so."""

    stream: str
    state: DriftState
    since: str = Field(description="The first window or request that speaks for it: ISO 8601 in UTC.")
    because: DriftCause | None = Field(description="What says so; null while nothing does.")
    evidence_decades: float = Field(description="Gathered so far, as a power of ten.")
    evidence_of_warning: float
    evidence_of_drift: float
    window_rows: int = Field(description="Images of a scored window; 0 if none is scored.")
    images_waiting: int = Field(description="Of the window that is not full yet.")
    windows_scored: int
    scores: list[DriftScoreAbout] = Field(description="Of the last window, as the frozen model sees it.")
    estimated_accuracy: EstimatedAccuracies
    learnt: LearntWindow
    classes: list[ClassShare] = Field(description="Those whose shares changed most first, 20 at most.")
    history: list[ScoredWindow] = Field(description="The last windows, newest last.")
    missing: str = Field(description="What is not watched, and why; empty if all is.")
    style: StyleAbout | None = Field(description="Null where images are not told apart.")
    domains: list[DomainPlace]


class Strange(Compared):
    """An image that raised the score, and what both models say of it now."""

    time: str = Field(description="When it was scored: ISO 8601 in UTC.")
    distance: float = Field(description="Of its features from the source's, over the mean of source images.")
    png: str = Field(description="As the network takes it: a PNG file in base64.")


class StrangeImages(Told):
    """The last images of a stream that raised the score."""

    stream: str
    images: list[Strange] = Field(description="Newest first; at most `drift.keep_images`.")
