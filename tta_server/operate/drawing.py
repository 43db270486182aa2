"""Drawings of numbers over time, as SVG that needs no script; the style sheet beside it has the colours."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final, NamedTuple

_WIDTH: Final = 900
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 16, 24


class Point(NamedTuple):
    """A window.

    Attributes:
        time_s: When it came, in seconds since 1970.
        state: Of the drift, which colours the ground up to it.
        value: What is drawn.
    """

    time_s: float
    state: str
    value: float


class Threshold(NamedTuple):
    """A value that is marked across."""

    value: float
    name: str


class Moment(NamedTuple):
    """Something that happened.

    Attributes:
        time_s: When, in seconds since 1970; what lies outside the windows is not drawn.
        kind: "event", or "domain" for what happened to one.
        name: What, in words.
    """

    time_s: float
    kind: str
    name: str


def course(
    points: Sequence[Point], limits: Sequence[Threshold], moments: Sequence[Moment], title: str, height: int
) -> str:
    """Return a line through two points or more, on the colours of the states, as an SVG element."""
    start, end = points[0].time_s, max(points[-1].time_s, points[0].time_s + 1)
    values = [point.value for point in points] + [limit.value for limit in limits]
    low, high = min(0.0, *values), max(1e-6, *values)

    def across(time_s: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (time_s - start) / (end - start)

    def up(value: float) -> float:
        return height - _BOTTOM - (height - _BOTTOM - _TOP) * (value - low) / (high - low)

    def level(value: float, kind: str) -> str:
        return f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(value):.1f}" y2="{up(value):.1f}" class="{kind}"/>'

    def text(x: float, y: float, said: str, kind: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(said)}</text>'

    parts, before = [], float(_LEFT)
    for point in points:
        wide, at = max(across(point.time_s) - before, 0.0), f'y="{_TOP}" height="{height - _TOP - _BOTTOM}"'
        parts.append(f'<rect x="{before:.1f}" width="{wide:.1f}" {at} class="band {escape(point.state)}"/>')
        before = across(point.time_s)
    for value in (low, (low + high) / 2, high):
        parts += [level(value, "grid"), text(_LEFT - 6, up(value) + 4, f"{value:.2g}", "end")]
    for limit in limits:
        parts += [level(limit.value, "limit"), text(_WIDTH - _RIGHT, up(limit.value) - 4, limit.name, "end")]
    for moment in moments:
        if start <= moment.time_s <= end:
            x = f"{across(moment.time_s):.1f}"
            line = f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - _BOTTOM}" class="mark {moment.kind}">'
            parts.append(f"{line}<title>{escape(moment.name)}</title></line>")
    places = [f"{across(point.time_s):.1f},{up(point.value):.1f}" for point in points]
    parts.append(f'<polyline points="{" ".join(places)}" class="line"/>')
    parts += [text(_LEFT, height - 6, _clock(start)), text(_WIDTH - _RIGHT, height - 6, _clock(end), "end")]
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _clock(time_s: float) -> str:
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
