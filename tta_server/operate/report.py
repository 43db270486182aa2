"""A report on one stream, for the person who was not there: one HTML file that needs nothing else and runs nothing."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from tta_server.operate.drawing import Moment, Point, Threshold, course
from tta_server.operate.server import RefusedError, Server
from tta_server.operate.words import BY_THE_GUARD, answering, better, clock, drifting, happened, percent, why

_LINES: Final = 1000  # of the audit log of the stream, and of each domain of it; the server gives no more
_MOST_ROWS: Final = 200
_MOST_BARS: Final = 10
_LONG: Final = 40  # letters, from which on a cell is broken into lines
_OF_DOMAINS: Final = ("open", "merge", "forget")
_UNMARKED: Final = ("create", "load", "begin", "commit", "drift", *_OF_DOMAINS)
_CHARTS: Final = ("entropy_ratio", "energy_shift_sigmas", "feature_distance_ratio", "prediction_divergence_ratio")


class Known(NamedTuple):
    """What a server knows of a stream, as its API says it.

    Attributes:
        stream: The stream.
        drift: Its drift; None if it is not known.
        refused: Why not.
        domains: What it tells apart; the source first.
        lines: What happened to it and its domains, oldest first.
        kept: Where those lines are kept: "storage" or "memory".
    """

    stream: Mapping[str, Any]
    drift: Mapping[str, Any] | None
    refused: str
    domains: Sequence[Mapping[str, Any]]
    lines: Sequence[Mapping[str, Any]]
    kept: str


def read(server: Server, name: str) -> Known:
    """Ask a server for everything that a report has.

    Raises:
        RefusedError: If there is no such stream, or the key may not read it.
        UnreachableError: If no server answers.
    """
    at = f"/v1/streams/{quote(name, safe='@')}"
    stream, drift, refused = server.get(at), None, ""
    try:
        drift = server.get(f"{at}/drift")
    except RefusedError as error:  # switched off, or a domain is asked for
        refused = str(error)
    domains = server.get(f"{at}/domains")["domains"] if drift and drift["domains"] else []
    logs = [
        server.get(f"/v1/streams/{quote(each, safe='@')}/audit", limit=_LINES) for each in (name, *stream["domains"])
    ]
    lines = sorted((line for log in logs for line in log["entries"]), key=lambda line: str(line["time"]))
    return Known(stream, drift, refused, domains, lines, logs[0]["kept"])


def written(known: Known, made: str) -> str:
    """Return the report.

    Args:
        known: What it is about.
        made: When it was made, ISO 8601 in UTC.
    """
    stream, drift = known.stream, known.drift
    name = escape(stream["name"])
    body = [f"<h1>Stream {name}</h1>", f'<p class="quiet">{escape(_facts(stream, made))}</p>', *_answers(known)]
    body += _drift_charts(known, drift) if drift else []
    body += [*_comparison(stream, drift), *_guard(known.lines), *_domains(known.domains)]
    body += _sights(drift) if drift else []
    body += _events(known)
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Stream {name}</title>'
    head += f"<style>{style}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{"".join(body)}</main></body></html>\n'


def _facts(stream: Mapping[str, Any], made: str) -> str:
    return (
        f"Made {clock(made)}. Mode {stream['mode']}, adapter {stream['adapter']}, version {stream['state_version']}. "
        f"{stream['images']:,} images answered, {stream['images_learnt']:,} learnt from, "
        f"{stream['images_dropped']:,} offered for learning and dropped."
    )


def _answers(known: Known) -> Iterable[str]:
    drift = known.drift
    yield '<div class="answers">'
    said = drifting(drift) if drift else f"Not known: {known.refused}."
    yield _answer("Is it drifting, and since when?", said, drift["state"] if drift else "unknown")
    yield _answer("Is adapting better than not?", better(known.stream, drift))
    yield _answer("What did the guard do last, and why?", why(known.stream))
    yield _answer("Who answers now?", answering(known.stream), "drift" if known.stream["frozen"] else "")
    if known.stream["trouble"]:
        yield _answer("The stream is set aside", known.stream["trouble"], "drift")
    yield "</div>"


def _answer(question: str, said: str, kind: str = "") -> str:
    return f'<div class="{escape(kind)}"><h2>{escape(question)}</h2><p>{escape(said)}</p></div>'


def _drift_charts(known: Known, drift: Mapping[str, Any]) -> Iterable[str]:
    history = drift["history"]
    yield "<h2>Drift over time</h2>"
    if len(history) < 2:
        yield '<p class="quiet">No window of images was scored yet, or one alone.</p>'
        return
    swatches = "".join(
        f'<span class="swatch {kind}"></span>{said}'
        for kind, said in [
            ("stable", "stable"), ("warning", "warning"), ("drift", "drift"),
            ("domain", "a domain opened, merged or forgotten"), ("event", "something else happened"),
        ]
    )  # fmt: skip
    yield f'<p class="quiet">The last {len(history)} windows of {drift["window_rows"]} images.{swatches}</p>'
    moments = [
        Moment(_seconds(line["time"]), "domain" if line["verdict"] in _OF_DOMAINS else "event", _told(line))
        for line in known.lines
        if line["verdict"] not in _UNMARKED or line["verdict"] in _OF_DOMAINS
    ]
    limits = [Threshold(drift["evidence_of_warning"], "warning"), Threshold(drift["evidence_of_drift"], "drift")]
    evidence = [Point(_seconds(each["time"]), each["state"], each["evidence_decades"]) for each in history]
    yield _figure("evidence of drift, powers of ten", course(evidence, limits, moments, "evidence of drift", 240))
    for score in [each for each in _CHARTS if each in history[-1]["scores"]]:
        points = [Point(_seconds(each["time"]), each["state"], each["scores"][score]) for each in history]
        last = next(each for each in drift["scores"] if each["name"] == score)
        beside = "" if last["z"] is None else f", {last['z']:+.1f} standard deviations from what it is without drift"
        title = score.replace("_", " ")
        yield _figure(f"{title}; the last is {last['value']:.3g}{beside}", course(points, [], moments, title, 130))


def _comparison(stream: Mapping[str, Any], drift: Mapping[str, Any] | None) -> Iterable[str]:
    labelled = stream["labelled"]
    own = labelled["adapted" if labelled["adapted"]["labels"] else "answered"]
    rows = [["right, by true labels", _labelled(labelled["source"]), _labelled(own)]]
    if drift:
        guess = drift["estimated_accuracy"]
        rows.append(["right, estimated without labels", percent(guess["source"]), percent(guess["adapted"])])
    yield "<h2>The frozen model against what was learnt</h2>"
    yield _table(["share of images", "frozen model", "stream"], rows)
    yield (
        '<p class="quiet">An estimate without labels is a hint: a stream that collapses is sure of its answers, and '
        "then it may rise while the accuracy falls.</p>"
    )


def _guard(lines: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    judged = [line for line in lines if line["who"] == "engine" and line["verdict"] in BY_THE_GUARD]
    counts = Counter((line["verdict"], line["cause"]) for line in judged)
    last = {(line["verdict"], line["cause"]): line for line in judged}
    yield "<h2>What the guard did, and why</h2>"
    rows = [
        [str(count), happened(kind[0]), kind[1], f"{clock(last[kind]['time'])}: {last[kind]['reason']}"]
        for kind, count in counts.most_common()
    ]
    yield _table(["times", "it", "because of", "the last time"], rows) if rows else _quiet("It judged nothing.")


def _domains(domains: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if domains:
        yield "<h2>Kinds of input that it tells apart</h2>"
        heads = ["domain", "since", "images", "of the images of late", "steps", "who answers", "gain", "trouble"]
        yield _table(heads, [_domain(each) for each in domains])


def _domain(domain: Mapping[str, Any]) -> list[str]:
    name = f"{domain['id']} {domain['title']}".strip() + (", now" if domain["current"] else "")
    who = f"frozen model ({domain['source_because']})" if domain["answers"] == "source" else "its own state"
    gain = "" if domain["estimated_gain"] is None else percent(domain["estimated_gain"])
    trouble = domain["trouble"] or (domain["frozen"] and f"frozen: {domain['frozen']}")
    numbers = [f"{domain['images']:,}", percent(domain["share"]), str(domain["steps"])]
    return [name, clock(domain["since"]), *numbers, who, gain, trouble]


def _sights(drift: Mapping[str, Any]) -> Iterable[str]:
    classes = drift["classes"][:_MOST_BARS]
    if classes:
        most = max(max(each["share"], each["source_share"]) for each in classes)
        shares = [
            [
                escape(each["label"]),
                _bar(each["share"] / most, percent(each["share"])),
                _bar(each["source_share"] / most, percent(each["source_share"]), "source"),
            ]
            for each in classes
        ]
        yield "<h2>Predicted classes that differ most from the source's</h2>"
        yield _raw_table(["class", "of late", "in source images"], shares)
    if layers := drift["learnt"]["layers"][:_MOST_BARS]:
        most = max(each["w2"] for each in layers) or 1.0
        shifts = [[escape(each["layer"]), _bar(each["w2"] / most, f"{each['w2']:.3f}")] for each in layers]
        yield "<h2>Layers whose input lies farthest from the source's</h2>"
        yield _raw_table(["layer", "distance, in standard deviations of the source"], shifts)


def _events(known: Known) -> Iterable[str]:
    """Say what happened, newest first; what happened several times in a row is one row."""
    runs = [
        list(run)
        for _, run in groupby(known.lines, lambda line: (line["stream"], line["verdict"], line["cause"], line["who"]))
    ]
    yield "<h2>What happened</h2>"
    rows = [_run(run) for run in reversed(runs[-_MOST_ROWS:])]
    yield _table(["when", "whose", "what", "why", "who"], rows) if rows else _quiet("Nothing.")
    left = len(runs) - len(rows)
    where = "the audit log" if known.kept == "storage" else "the server's memory, for it has no storage"
    more = f" {left} older rows are left out." if left else ""
    yield _quiet(f"From the last {_LINES} lines of {where}, of the stream and of each of its domains.{more}")


def _run(run: Sequence[Mapping[str, Any]]) -> list[str]:
    last, what = run[-1], happened(run[-1]["verdict"])
    times = f", {len(run)} times since {clock(run[0]['time'])}" if len(run) > 1 else ""
    return [clock(last["time"]), last["stream"], what + times, last["reason"], last["who"]]


def _told(line: Mapping[str, Any]) -> str:
    return f"{clock(line['time'])}, {line['stream']}: {happened(line['verdict'])}. {line['reason']}"


def _labelled(found: Mapping[str, Any]) -> str:
    if not found["labels"]:
        return "no labels"
    return (
        f"{percent(found['accuracy'])} ({percent(found['low'])} to {percent(found['high'])}), {found['labels']} labels"
    )


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).astimezone(UTC).timestamp()


def _figure(caption: str, drawing: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"


def _quiet(said: str) -> str:
    return f'<p class="quiet">{said}</p>'


def _bar(share: float, said: str, kind: str = "") -> str:
    return f'<span class="bar {kind}" style="width:{10 * share:.2f}rem"></span>{escape(said)}'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _raw_table(heads, ([escape(str(cell)) for cell in row] for row in rows))


def _raw_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are HTML."""
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(content: str) -> str:
    return f'<td class="said">{content}</td>' if len(content) > _LONG and "<" not in content else f"<td>{content}</td>"
