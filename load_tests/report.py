"""A report in Markdown: what it was measured on, rows of its tables, and where it goes."""

from collections.abc import Iterable
from pathlib import Path

import torch

from load_tests.machine import describe, load_average


def ran_on(load_before: float, device: torch.device | None = None) -> list[str]:
    """Return facts about this machine and how busy it was, a line each.

    Args:
        load_before: What `load_average` was before the measurement.
        device: Where the network ran; None leaves that out.
    """
    facts = describe(device or torch.device("cpu"))
    facts["load average"] = f"{load_before:.1f} before, {load_average():.1f} after"
    return [f"- {name}: {fact}" for name, fact in facts.items() if device or name != "device"]


def row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    """Return the first two rows of a table."""
    return [row(*cells), row(*["---"] * len(cells))]


def publish(lines: Iterable[str], out: Path | None) -> None:
    """Print a report, and write it to a file if one is named."""
    report = "\n".join(lines)
    print(report)
    if out:
        out.write_text(report + "\n", encoding="utf-8")
