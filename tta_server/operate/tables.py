"""What a server says of its streams, as tables for a terminal."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType

from tta_server.operate.sheet import TIME, Sheet
from tta_server.operate.words import answering, clock, moment

_LAST_VERDICTS: Final = 10
_MOST_LAYERS: Final = 5


def many(streams: Iterable[Mapping[str, Any]], replica: str = "", drift: Mapping[str, str] | None = None) -> Sheet:
    """Return one row for each stream.

    Args:
        streams: In short.
        replica: Whose they are, if others have more.
        drift: The state of the drift of each, if it was asked for.
    """
    heads = ["stream", "mode", "answers", "version", "images", "learnt", "last verdict", "trouble"]
    rows = []
    for each in streams:
        last = each["last_verdict"] or {}
        told = f"{last.get('verdict', '')} {last.get('cause', '')}".strip()
        row = [each["name"], each["mode"], _who(each), each["state_version"], each["images"]]
        rows.append([*row, each["images_learnt"], told, _wrong(each)])
        if drift is not None:
            rows[-1].insert(1, drift[each["name"]])
    if drift is not None:
        heads.insert(1, "drift")
    alone = f"of replica {replica} alone: ask each of the others at its own address" if replica else ""
    return Sheet(heads, rows, caption=alone)


def one(stream: Mapping[str, Any]) -> RenderableType:
    """Return everything about a stream."""
    labelled = stream["labelled"]
    facts = {
        "stream": stream["name"],
        "mode": stream["mode"],
        "adapter": stream["adapter"],
        "answers": answering(stream),
        "frozen": stream["frozen"],
        "trouble": stream["trouble"],
        "version": f"{stream['state_version']}; its state was made by {stream['steps']} steps",
        "images": f"{stream['images']}, {stream['images_learnt']} learnt from, {stream['images_in_window']} waiting",
        "dropped": ", ".join(f"{count} {reason}" for reason, count in stream["dropped"].items()),
        "right, by labels": _accuracy(labelled["answered"]),
        "compared": f"{_accuracy(labelled['adapted'])}, the frozen model {_accuracy(labelled['source'])}",
        "versions kept": _range(stream["versions_kept"]),
        "domains": ", ".join(stream["domains"]),
    }
    heads = [TIME, "verdict", "cause", "who", "version", "domain", "reason"]
    last = [
        [moment(each["time"]), each["verdict"], each["cause"], each["who"], each["version_after"], each["domain"],
         each["reason"]]
        for each in stream["verdicts"][-_LAST_VERDICTS:]
    ]  # fmt: skip
    return Group(_facts(facts), Sheet(heads, last, "last verdicts, newest last"))


def apart(domains: Iterable[Mapping[str, Any]]) -> Sheet:
    """Return one row for what is at home, and for each domain."""
    rows = [
        [each["id"] + (", now" if each["current"] else ""), each["title"], each["images"], _share(each["share"]),
         each["steps"], _who(each), _number(each["estimated_gain"]), _number(each["distance"]), _wrong(each)]
        for each in domains
    ]  # fmt: skip
    heads = ["domain", "title", "images", "of late", "steps", "answers", "gain", "distance", "trouble"]
    return Sheet(heads, rows)


def drifting(drift: Mapping[str, Any]) -> RenderableType:
    """Return whether a stream drifts, since when, and what says so."""
    guess, learnt = drift["estimated_accuracy"], drift["learnt"]
    facts = {
        "stream": drift["stream"],
        "drift": drift["state"],
        "since": clock(drift["since"]),
        "because of": drift["because"] or "",
        "evidence": f"10^{drift['evidence_decades']:.1f}; a warning from 10^{drift['evidence_of_warning']:.1f}, drift "
        f"from 10^{drift['evidence_of_drift']:.1f}",
        "windows": f"{drift['windows_scored']} of {drift['window_rows']} images",
        "agreement": _share(learnt["agreement"]),
        "accuracy, a guess": f"frozen model {_share(guess['source'])}, stream {_share(guess['adapted'])}",
        "guard measured": ", ".join(f"{name} {value:.3g}" for name, value in learnt["measures"].items()),
        "worst layers": ", ".join(f"{each['layer']} {each['w2']:.2f}" for each in learnt["layers"][:_MOST_LAYERS]),
        "domains": ", ".join(f"{each['id']} {each['share']:.0%}" for each in drift["domains"]),
        "missing": drift["missing"],
    }
    scores = [[each["name"], *map(_number, (each["value"], each["z"], each["p"]))] for each in drift["scores"]]
    return Group(_facts(facts), Sheet(["score", "value", "z", "p"], scores, "last window, as the frozen model sees it"))


def _who(each: Mapping[str, Any]) -> str:
    """Return who answers for a stream or a domain: of the frozen model also why, of a domain its name."""
    more = each["source_because"] or each.get("domain")
    return f"{each['answers']} ({more})" if more else str(each["answers"])


def _wrong(each: Mapping[str, Any]) -> str:
    return str(each["trouble"] or (each["frozen"] and f"frozen: {each['frozen']}"))


def _facts(facts: Mapping[str, str]) -> Sheet:
    return Sheet((), [[name, value] for name, value in facts.items() if value])


def _accuracy(found: Mapping[str, Any]) -> str:
    if not found["labels"]:
        return "unknown"
    return f"{found['accuracy']:.1%} ({found['low']:.1%} to {found['high']:.1%}, {found['labels']} labels)"


def _range(versions: list[int]) -> str:
    return f"{versions[0]} to {versions[-1]}, {len(versions)} of them" if versions else ""


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
