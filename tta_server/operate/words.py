"""What a server says of a stream, as sentences for somebody who was not there; the live page says it alike."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tta_server.telemetry.closed_sets import DriftCause

CAUSES: Final[Mapping[DriftCause, str]] = {
    "style": "the images look different from the source's",
    "entropy_ratio": "the frozen model is unsure of its answers",
    "energy_shift_sigmas": "the frozen model's logits lie elsewhere than on source images",
    "feature_distance_ratio": "the features lie elsewhere than on source images",
    "prediction_divergence_ratio": "other classes are seen than in source images",
}
HAPPENED: Final[Mapping[str, str]] = {
    "create": "was opened",
    "load": "went on after a restart",
    "commit": "learnt from a window",
    "reject": "refused what was learnt from a window",
    "skip": "did not learn from a window",
    "rollback": "went back to an earlier version",
    "reset": "went back to the frozen model",
    "freeze": "switched it off",
    "open": "opened a domain",
    "begin": "began a domain",
    "merge": "merged two domains",
    "forget": "forgot a domain",
    "restore": "went back to a snapshot",
    "import": "took a state from a file",
    "failed": "failed at a window",
    "mode": "switched the mode",
    "snapshot": "took a snapshot",
    "rename": "has another title",
    "offer": "was given to other streams",
    "settings": "learns in another way",
    "drift": "its input drifts, or no longer",
    "calibrate": "had images taken as home",
    "aside": "was set aside",
    "delete": "was erased",
}
ANSWERS: Final[Mapping[str, str]] = {
    "learnt": "What {whose} has learnt answers.",
    "home": "The frozen model answers: the images look like the source's.",
    "off": "The frozen model answers: the mode is off.",
    "shadow": "The frozen model answers: the mode is shadow.",
    "new": "The frozen model answers: the guard has weighed nothing of {whose} yet.",
    "guard": "The frozen model answers: the guard has not found what {whose} has learnt more credible.",
    "frozen": "The frozen model answers: the guard has switched {whose} off.",
}
"""Who answers, by `source_because`; "learnt" where that is empty."""

BY_THE_GUARD: Final = ("commit", "reject", "skip", "rollback", "reset", "freeze")


def happened(verdict: str) -> str:
    """Return what a line of the audit log says; one of a newer server may say what this one has no words for."""
    return HAPPENED.get(verdict, f"({verdict})")


def percent(share: float | None) -> str:
    """Return a share as people read it."""
    return "not known" if share is None else f"{share:.1%}".replace("%", "\u00a0%")


def clock(time: str) -> str:
    """Return a time of the server, ISO 8601, in UTC to the second; empty if it is."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else ""


def moment(time: str) -> str:
    """Return the same for a column of times: without the zone, and without the year if it is this one."""
    this_year, shown = f"{datetime.now(UTC):%Y-}", clock(time).removesuffix(" UTC")
    return shown.removeprefix(this_year)


def drifting(drift: Mapping[str, Any]) -> str:
    """Say whether a stream's input drifts, since when, and what says so."""
    since, because = f"since {clock(drift['since'])}", CAUSES.get(drift["because"], str(drift["because"]))
    harmless = ", which is no fault by itself" if drift["because"] == "prediction_divergence_ratio" else ""
    said = {
        "drift": f"Yes, {since}: {because}.",
        "warning": f"Perhaps, {since}: {because}{harmless}.",
        "stable": f"No. S{since[1:]}, its images look and read like the source's.",
    }.get(drift["state"], "Not known yet: too little was seen to say.")
    return said + (f" Note: {drift['missing']}." if drift["missing"] else "")


def better(stream: Mapping[str, Any], drift: Mapping[str, Any] | None) -> str:
    """Say whether a stream answers better than the frozen model, and how that is known."""
    answered, adapted, source = (stream["labelled"][of] for of in ("answered", "adapted", "source"))
    if source["labels"]:
        yes, no = adapted["low"] > source["high"], adapted["high"] < source["low"]
        found = "Yes" if yes else "No" if no else "No clear difference"
        return (
            f"{found}. Of {source['labels']} images with true labels the stream is right on {_interval(adapted)}, the "
            f"frozen model on {_interval(source)}."
        )
    who = answering(stream)
    if not drift or not drift["learnt"]["rows"]:
        return f"Nothing was learnt lately, so there is nothing to compare. {who}"
    gain, agreement = drift["learnt"]["measures"].get("estimated_gain"), drift["learnt"]["agreement"]
    credible = "neither" if not gain else "what was learnt" if gain > 0 else "the frozen model"
    guessed = "" if gain is None else f" Where the two differ, the guard finds {credible} more credible."
    unsure = "Nobody sent true labels, so it is not known for sure."
    if answered["labels"]:
        unsure = (
            f"Of {answered['labels']} images with true labels the stream is right on {_interval(answered)}; they were "
            "no longer there to ask the frozen model."
        )
    return f"{unsure}{guessed} On the last window both agree on {percent(agreement)} of the images. {who}"


def answering(stream: Mapping[str, Any]) -> str:
    """Say who answers a stream's requests now, and why."""
    return ANSWERS[stream["source_because"] or "learnt"].replace("{whose}", stream["domain"] or "the stream")


def why(stream: Mapping[str, Any]) -> str:
    """Say what the guard did last, and why."""
    if stream["frozen"]:
        return f"It switched {stream['domain'] or 'the stream'} off: {stream['frozen']}. Setting a mode lifts that."
    judged = [each for each in stream["verdicts"] if each["who"] == "engine" and each["verdict"] in BY_THE_GUARD]
    if not judged:
        return "It has judged nothing yet: it judges windows of images that are learnt from."
    last = judged[-1]
    whose = f" of {last['domain']}" if last["domain"] else ""
    reason = last["reason"] or last["cause"] or "no reason was given"
    return f"At {clock(last['time'])} it {HAPPENED[last['verdict']]}{whose}: {reason}."


def _interval(found: Mapping[str, float]) -> str:
    return f"{percent(found['accuracy'])} ({percent(found['low'])} to {percent(found['high'])})"
