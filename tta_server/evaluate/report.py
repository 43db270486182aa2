"""Tables of an evaluation: for people, as JSON and as CSV."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from tta_server.evaluate.results import SOURCE, Result

CLEAN_COST = 0.02
"""From how much more error on clean images than the frozen model has on, an adapter is said to have lost something."""

_BESIDE = ("protocol", "adapter", "status", "reason", "remark", "mean", "ratio", "clean", "clean_again")
_BEHIND = ("selected", "accepted", "answer_ms", "learn_ms", "state_bytes", "peak_bytes", "images", "elapsed_s")
_SHORT = 5  # letters of a corruption's name that still tell it from the others


@dataclass(frozen=True)
class Line:
    """A result beside the frozen model's.

    Attributes:
        result: The numbers.
        ratio: Mean error over the frozen model's; None if either is missing or that is 0.
        remark: What stands out.
    """

    result: Result
    ratio: float | None
    remark: str

    def flat(self) -> dict[str, Any]:
        """Return everything but the steps under one level of names."""
        result = self.result
        values = {"ratio": self.ratio, "remark": self.remark, "mean": result.mean}
        fields = {name: getattr(result, name) for name in (*_BESIDE, *_BEHIND) if name not in values}
        return {**fields, **values, **result.errors}


def compare(results: Sequence[Result]) -> list[Line]:
    """Set the results of one protocol beside the frozen model's.

    Raises:
        ValueError: If the frozen model's is not among them.
    """
    frozen = next((result for result in results if result.adapter == SOURCE), None)
    if frozen is None:
        raise ValueError(f"there is no result of '{SOURCE}' to compare with")
    means = [result.mean for result in results if result.mean is not None]
    return [
        Line(result, _ratio(result, frozen), _remark(result, frozen, min(means, default=0.0))) for result in results
    ]


def as_table(lines: Sequence[Line], title: str, columns: bool) -> Table:
    """Return a table for people; errors are in percent.

    Args:
        lines: One protocol.
        title: Above it.
        columns: Whether to show every corruption, which needs some 200 characters.
    """
    names = next((list(line.result.errors) for line in lines if line.result.errors), []) if columns else []
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("adapter", no_wrap=True)
    for head in ("mean", "x frozen", "clean", "again", *(_short(name) for name in names)):
        table.add_column(head, justify="right", no_wrap=True)
    for head in ("learnt", "answer ms", "learn ms", "state kB", "peak MB"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for line in lines:
        table.add_row(*_cells(line, names), style="dim" if line.result.status != "ok" else None)
    return table


def as_text(lines: Sequence[Line], title: str, width: int | None = None) -> str:
    """Return the table and the reasons for missing rows as text; narrow ones leave the corruptions out."""
    console = Console(file=io.StringIO(), width=width or 1000, color_system=None)
    table = as_table(lines, title, columns=True)
    if Measurement.get(console, console.options.update(width=1000), table).minimum > console.width:
        table = as_table(lines, title, columns=False)
    console.print(table)
    for line in lines:
        if line.result.reason:
            console.print(f"{line.result.adapter}: {line.result.status}: {line.result.reason}", highlight=False)
    text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return "\n".join(row.rstrip() for row in text.splitlines()) + "\n"


def write(folder: Path, arguments: Mapping[str, Any], tables: Mapping[str, Sequence[Line]]) -> None:
    """Write `report.txt`, `report.json` and `report.csv`.

    Args:
        folder: Where.
        arguments: What the numbers were made with.
        tables: The lines of each protocol.
    """
    content = {
        protocol: [{**line.flat(), "steps": line.result.steps} for line in lines] for protocol, lines in tables.items()
    }
    (folder / "report.json").write_text(json.dumps({"arguments": dict(arguments), "protocols": content}, indent=1))
    about = "\n".join(f"{name}: {value}" for name, value in arguments.items())
    texts = [as_text(lines, title(protocol)) for protocol, lines in tables.items()]
    (folder / "report.txt").write_text("\n".join([about + "\n", *texts]))
    rows = [line.flat() for lines in tables.values() for line in lines]
    fields = list(dict.fromkeys([*_BESIDE, *(name for row in rows for name in row if name not in _BEHIND), *_BEHIND]))
    with (folder / "report.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)


def title(protocol: str) -> str:
    """Return what to write above a table."""
    return f"{protocol}: error in %, lower is better; 'again' is the clean error at the end"


def _ratio(result: Result, frozen: Result) -> float | None:
    return result.mean / frozen.mean if result.mean is not None and frozen.mean else None


def _remark(result: Result, frozen: Result, best: float) -> str:
    if result.status != "ok" or result.mean is None or frozen.mean is None:
        return result.status
    if result.adapter == SOURCE:
        return "frozen"
    remarks = ["worse than frozen"] if result.mean > frozen.mean else ["best"] if result.mean == best else []
    if result.clean_again is not None and frozen.clean_again is not None:
        cost = result.clean_again - frozen.clean_again
        if cost > CLEAN_COST:
            remarks.append(f"loses {100 * cost:.1f} on clean")
    return ", ".join(remarks)


def _cells(line: Line, names: Sequence[str]) -> list[str]:
    result = line.result
    return [
        result.adapter,
        _percent(result.mean),
        "-" if line.ratio is None else f"{line.ratio:.3f}",
        _percent(result.clean),
        _percent(result.clean_again),
        *(_percent(result.errors.get(name)) for name in names),
        _percent(result.selected),
        _number(result.answer_ms, 1, 2),
        _number(result.learn_ms, 1, 2),
        _number(result.state_bytes, 1e3, 1),
        _number(result.peak_bytes, 1e6, 1),
        line.remark,
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _number(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:.{digits}f}"


def _short(column: str) -> str:
    return column if column.startswith("part ") else column[:_SHORT].rstrip("_")
