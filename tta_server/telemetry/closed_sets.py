"""Every enumeration that labels a metric: closed, so that nobody can make the number of series grow."""

from typing import Final, Literal, get_args

RequestOutcome = Literal["ok", "rejected", "overloaded", "streams_full", "cancelled", "error"]
"""How a request ended: answered; the caller's fault, more than his key allows, or what this server does not do; too
much waits; there is no place for a new stream; the caller hung up; the server's fault."""
TurnedAway = Literal[
    "connections",
    "handshake",
    "head",
    "slow_head",
    "body",
    "slow_body",
    "bodies",
    "unread",
    "no_http",
    "unauthorized",
    "forbidden",
]
"""Why something was turned away at the door: too many connections; a handshake of TLS that failed; a
head or a body that is too large or too slow; too many bytes on their way; an answer that nobody reads; no HTTP; no key;
a key, port or website that is not for this."""
Stage = Literal["decode", "queue", "route", "forward", "judge", "adapt"]
WindowOutcome = Literal["updated", "rejected", "skipped", "restored", "failed", "dropped"]
"""What became of a window: learnt from; the step refused; not learnt from, because it is no fair sample or
nothing drifts; the stream taken back; an error; no time for it."""

Cause = Literal[
    "healthy",
    "nothing_selected",
    "not_finite",
    "too_few_pictures",
    "class_share",
    "update",
    "trust_region",
    "diversity",
    "canary",
    "contradicted",
]
"""Why the guard decided as it did, in order of trust but for the first four."""

RestoreCause = Cause | Literal["periodic", "operator"]
DropReason = Literal[
    "duplicate", "constant", "client_share", "overload", "too_young", "rejected", "skipped", "calm", "failed", "reset"
]
"""Why an image that was offered for learning was not learnt from; calm: the input did not drift."""

DomainOutcome = Literal["opened", "recalled", "merged", "forgotten"]
"""What happened to a domain: new; the stream came back to it; two were one; it is gone."""

DriftState = Literal["unknown", "stable", "warning", "drift"]
"""Whether a stream's input drifts; unknown until there is something to judge by."""

JudgedScore = Literal["entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio", "prediction_divergence_ratio"]
"""Scores of a window that say whether the input drifts; the last says whether other classes are seen."""

ShownScore = Literal[
    "confidence",
    "low_confidence_share",
    "far_feature_share",
    "atc_accuracy",
    "doc_accuracy",
    "estimated_accuracy",
]
LearntScore = Literal["norm_w2_mean", "norm_w2_max", "norm_kl_mean", "norm_kl_max"]
"""The others, and those of windows that are learnt from; one that a bundle does not know without drift, because it was
made before, has no z and no p."""

DriftScore = JudgedScore | ShownScore | LearntScore
DriftCause = JudgedScore | Literal["style"]
"""What says that the input drifts: the score that speaks loudest, or the look of the images."""

WebhookOutcome = Literal["sent", "retried", "failed", "dropped"]
"""What became of a message to the configured address: it arrived; it did not, and is tried again; it was given up;
there was no room or no time for it."""

Action = Literal["commit", "reject", "rollback", "reset"]
StateKind = Literal["state", "history", "window"]
Move = Literal["evicted", "revived", "deleted"]

REQUEST_OUTCOMES: Final[tuple[RequestOutcome, ...]] = get_args(RequestOutcome)
TURNED_AWAY: Final[tuple[TurnedAway, ...]] = get_args(TurnedAway)
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
WINDOW_OUTCOMES: Final[tuple[WindowOutcome, ...]] = get_args(WindowOutcome)
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
RESTORE_CAUSES: Final[tuple[RestoreCause, ...]] = (*CAUSES, "periodic", "operator")
DROP_REASONS: Final[tuple[DropReason, ...]] = get_args(DropReason)
DOMAIN_OUTCOMES: Final[tuple[DomainOutcome, ...]] = get_args(DomainOutcome)
DRIFT_STATES: Final[tuple[DriftState, ...]] = get_args(DriftState)
DRIFT_CAUSES: Final[tuple[DriftCause, ...]] = (*get_args(JudgedScore), "style")
DRIFT_SCORES: Final[tuple[DriftScore, ...]] = (
    *get_args(JudgedScore),
    *get_args(ShownScore),
    *get_args(LearntScore),
)
LEARNT_SCORES: Final[tuple[LearntScore, ...]] = get_args(LearntScore)
WEBHOOK_OUTCOMES: Final[tuple[WebhookOutcome, ...]] = get_args(WebhookOutcome)
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
STATE_KINDS: Final[tuple[StateKind, ...]] = get_args(StateKind)
MOVES: Final[tuple[Move, ...]] = get_args(Move)
