"""What the server answers when it is asked about drift, as JSON.

Written by docs/write_answers.py; the server's OpenAPI document says what each field means.
"""

from typing import Literal, TypedDict

from tta_server.client.answers import Said


class DriftScoreAbout(TypedDict):
    """A score of a window, beside what it is without drift; nulls where the bundle does not know."""

    name: (
        Literal["entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio", "prediction_divergence_ratio"]
        | Literal[
            "confidence",
            "low_confidence_share",
            "far_feature_share",
            "atc_accuracy",
            "doc_accuracy",
            "estimated_accuracy",
        ]
        | Literal["norm_w2_mean", "norm_w2_max", "norm_kl_mean", "norm_kl_max"]
    )
    value: float
    z: float | None
    p: float | None


class EstimatedAccuracies(TypedDict):
    """Share of the last window that each model answers as surely as source images, from features near theirs."""

    source: float | None
    adapted: float | None


class LayerShift(TypedDict):
    """How far the input of a normalisation layer lies from the source's."""

    layer: str
    w2: float
    kl_nats: float


class LearntWindow(TypedDict):
    """What the last window that was learnt from says; its layers are those of the stream's own network."""

    rows: int
    agreement: float | None
    measures: dict[str, float]
    scores: list[DriftScoreAbout]
    layers: list[LayerShift]


class ClassShare(TypedDict):
    """How often the frozen model sees a class of late, and how often it did in source images."""

    index: int
    label: str
    share: float
    source_share: float


class ScoredWindow(TypedDict):
    """A window of the history."""

    time: str
    state: Literal["unknown", "stable", "warning", "drift"]
    evidence_decades: float
    scores: dict[str, float]


class StyleAbout(TypedDict):
    """Whether images look like the source's."""

    away: bool
    images_astray: int
    images_settled: int
    distance: float | None
    limit: float


class DomainPlace(TypedDict):
    """Where a domain lies; see `/domains` for all of it."""

    id: str
    title: str
    current: bool
    share: float
    distance: float | None
    spread: float | None


class DriftAbout(TypedDict):
    """Whether the input of a stream drifts, since when, and what says so."""

    stream: str
    state: Literal["unknown", "stable", "warning", "drift"]
    since: str
    because: (
        Literal["entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio", "prediction_divergence_ratio"]
        | Literal["style"]
        | None
    )
    evidence_decades: float
    evidence_of_warning: float
    evidence_of_drift: float
    window_rows: int
    images_waiting: int
    windows_scored: int
    scores: list[DriftScoreAbout]
    estimated_accuracy: EstimatedAccuracies
    learnt: LearntWindow
    classes: list[ClassShare]
    history: list[ScoredWindow]
    missing: str
    style: StyleAbout | None
    domains: list[DomainPlace]


class Strange(TypedDict):
    """An image that raised the score, and what both models say of it now."""

    domain: str
    adapted: bool
    source: Said
    learnt: Said | None
    time: str
    distance: float
    png: str


class StrangeImages(TypedDict):
    """The last images of a stream that raised the score."""

    stream: str
    images: list[Strange]
