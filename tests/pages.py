"""What is written for people: the pages, and the blocks of code on them."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
WRITTEN_ADDRESS = "http://127.0.0.1:8000"

PAGES = (
    "README.md",
    "DESIGN.md",
    "BENCHMARKS.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)


class Block(NamedTuple):
    """A fenced block: where it stands, its language, and what it says."""

    page: str
    language: str
    text: str

    def commands(self) -> list[str]:
        """Return its commands, one each, however many lines they have."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(language: str = "", page: str = "") -> list[Block]:
    """Return the blocks in a language on a page; of all languages, on all pages, where they are left out."""
    found = [
        Block(each, *fence)
        for each in PAGES
        for fence in re.findall(r"^```(\S*)\n(.*?)^```$", text(each), re.DOTALL | re.MULTILINE)
    ]
    return [block for block in found if language in ("", block.language) and page in ("", block.page)]


def block(language: str, mark: str) -> str:
    """Return the one block in `language` that holds `mark`."""
    found = [block.text for block in blocks(language) if mark in block.text]
    assert len(found) == 1, f"{len(found)} {language} blocks with {mark!r}"
    return found[0]


@cache
def tracked() -> tuple[str, ...]:
    """Return the files of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(listed.stdout.splitlines())
