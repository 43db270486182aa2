"""Building blocks of a Grafana dashboard: panels, and the grid that they lie on.

Plain dictionaries, as Grafana reads them. Every query goes to the data source that the viewer picks.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

Json = dict[str, Any]

COLUMNS: Final = 24
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    """A PromQL expression and what to call its series.

    Attributes:
        expr: The expression; `$namespace`, `$model`, `$stream`, `$__rate_interval` and `$__range` are
            filled in by Grafana.
        legend: Name of a series, with `{{label}}` for the value of a label.
    """

    expr: str
    legend: str = "__auto"


class Panel(NamedTuple):
    """A panel that does not know its place yet.

    Attributes:
        width: Columns that it takes, of 24.
        height: Grid units that it takes; 8 is a usual chart.
        body: What Grafana reads, without `id` and `gridPos`.
    """

    width: int
    height: int
    body: Json


class Row(NamedTuple):
    """A titled section of the dashboard; its panels flow from left to right and then down."""

    title: str
    panels: Sequence[Panel]


class Look(NamedTuple):
    """How a chart is drawn.

    Attributes:
        minimum: Lower end of the axis; None fits the data.
        maximum: Upper end of the axis; None fits the data.
        stacked: Draw the series on top of each other.
        colours: Fixed colour of a series by its name.
    """

    minimum: float | None = 0
    maximum: float | None = None
    stacked: bool = False
    colours: Mapping[str, str] = MappingProxyType({})


def series(
    title: str, description: str, queries: Sequence[Query], *, unit: str, width: int = 12, look: Look = Look()
) -> Panel:
    """Return a chart over time.

    Args:
        title: What is shown.
        description: What it means and what to do about it.
        queries: What to draw.
        unit: Grafana's name of the unit.
        width: Columns that it takes.
        look: How it is drawn.
    """
    defaults: Json = {
        "unit": unit,
        "custom": {
            "drawStyle": "line",
            "fillOpacity": 40 if look.stacked else 0,
            "lineWidth": 1,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": {"mode": "normal" if look.stacked else "none", "group": "A"},
        },
    }
    ends = {"min": look.minimum, "max": look.maximum}
    defaults |= {name: end for name, end in ends.items() if end is not None}
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    fields = _fields(defaults, [_colour(name, colour) for name, colour in look.colours.items()])
    return _panel("timeseries", title, description, _targets(queries), (width, 8), fields, options)


def stat(
    title: str,
    description: str,
    query: Query,
    *,
    unit: str,
    steps: Sequence[tuple[float | None, str]] = ((None, "text"),),
    no_value: str = "none",
) -> Panel:
    """Return one large number.

    Args:
        title: What is shown.
        description: What it means and what to do about it.
        query: Gives one value.
        unit: Grafana's name of the unit.
        steps: Colours, each from a value on; the first starts at None, minus infinity.
        no_value: Shown while the query gives nothing.
    """
    defaults = {
        "unit": unit,
        "noValue": no_value,
        "color": {"mode": "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]},
    }
    options = {
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return _panel("stat", title, description, _targets([query], instant=True), (4, 4), _fields(defaults), options)


def bars(title: str, description: str, query: Query, *, unit: str, width: int = 12) -> Panel:
    """Return one bar for each series, at its latest value; for `topk`."""
    defaults = {"unit": unit, "min": 0, "noValue": "none", "color": {"mode": "continuous-BlYlRd"}}
    options = {
        "orientation": "horizontal",
        "displayMode": "basic",
        "valueMode": "color",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return _panel(
        "bargauge", title, description, _targets([query], instant=True), (width, 8), _fields(defaults), options
    )


def heatmap(title: str, description: str, query: Query, *, unit: str, width: int = 12) -> Panel:
    """Return the distribution of a histogram over time; `query` gives one series for each `le`."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": unit},
        "tooltip": {"mode": "single", "yHistogram": True},
    }
    return _panel("heatmap", title, description, _targets([query], form="heatmap"), (width, 8), _fields({}), options)


def table(title: str, description: str, query: Query, *, hidden: Sequence[str], width: int = 8) -> Panel:
    """Return the labels of each series, one line a series, without the columns in `hidden`."""
    targets = _targets([query], instant=True, form="table")
    panel = _panel("table", title, description, targets, (width, 8), _fields({}), {})
    panel.body["transformations"] = [
        {"id": "organize", "options": {"excludeByName": dict.fromkeys(["Time", "Value", *hidden], True)}}
    ]
    return panel


def place(rows: Sequence[Row]) -> list[Json]:
    """Return the panels with their ids and places.

    Raises:
        ValueError: If a panel is wider than the grid.
    """
    placed: list[Json] = []
    top = 0
    for row in rows:
        placed.append(_placed({"type": "row", "title": row.title, "collapsed": False, "panels": []}, placed, top, 0))
        top += 1
        left = height = 0
        for panel in row.panels:
            if panel.width > COLUMNS:
                raise ValueError(f"panel '{panel.body['title']}' is {panel.width} columns wide; there are {COLUMNS}")
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            placed.append(_placed(panel.body, placed, top, left, panel.width, panel.height))
            left += panel.width
            height = max(height, panel.height)
        top += height
    return placed


def _placed(body: Json, before: Sequence[Json], top: int, left: int, width: int = COLUMNS, height: int = 1) -> Json:
    return {"id": len(before) + 1, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **body}


def _panel(
    kind: str, title: str, description: str, targets: list[Json], size: tuple[int, int], fields: Json, options: Json
) -> Panel:
    body = {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": fields,
        "options": options,
    }
    return Panel(*size, body)


def _targets(queries: Sequence[Query], instant: bool = False, form: str = "time_series") -> list[Json]:
    return [
        {
            "refId": chr(ord("A") + i),
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "instant": instant,
            "range": not instant,
            "format": form,
        }
        for i, query in enumerate(queries)
    ]


def _fields(defaults: Json, overrides: Sequence[Json] = ()) -> Json:
    return {"defaults": defaults, "overrides": list(overrides)}


def _colour(name: str, colour: str) -> Json:
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
    }
