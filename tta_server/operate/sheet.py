"""A table that fits a terminal and loses nothing."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

TIME: Final = "time, UTC"
"""The head of a column of times, which are never broken."""

_GAP: Final = 2
_INDENT: Final = 4
_LONGEST_WORD: Final = 32
_READABLE: Final = 24


class Sheet:
    """Rows of text, and no markup, under heads; a column in which nothing is said is left out.

    Where there is not room for all, the widest columns have more lines, and what the last one says stands under its row
    if it would be a column of words. No time is broken, and no word but one of more than 32 characters; a terminal that
    is too narrow even for words breaks lines by itself.
    """

    def __init__(
        self, heads: Sequence[str], rows: Iterable[Iterable[object]], title: str = "", caption: str = ""
    ) -> None:
        """Take the words.

        Args:
            heads: Of the columns; without any nothing stands over them.
            rows: A cell for each column.
            title: Stands before it.
            caption: Stands behind it.
        """
        self._title, self._caption = title, caption
        cells = [[Text(str(cell)) for cell in row] for row in rows]
        above = [[Text(head, "table.header") for head in heads]] if heads else []
        columns = list(zip(*above, *cells, strict=True))
        self._columns = [column for column in columns if not cells or any(column[len(above) :])]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the rows, each a table of its own, for between two there may be what the first says at length."""
        if self._title:
            yield Text(self._title, "table.title")
        sizes = [_size(column) for column in self._columns]
        widths = _fitted(sizes, options.max_width)
        below = len(sizes) > 1 and widths[-1] < _READABLE < sizes[-1].maximum
        if below:
            widths = _fitted(sizes[:-1], options.max_width)
        wide = options.update_width(max(_taken(widths), 1))
        under = options.update_width(max(options.max_width, _INDENT + _READABLE))
        for row in zip(*self._columns, strict=True):
            table = Table(box=None, show_header=False, padding=(0, _GAP, 0, 0), pad_edge=False)
            for width in widths:
                table.add_column(width=width, overflow="fold")
            table.add_row(*row[: len(widths)])
            yield from console.render(table, wide)
            if below and row[-1]:
                yield from console.render(Padding(row[-1], (0, 0, 0, _INDENT), expand=False), under)
        if self._caption:
            yield Text(self._caption, "table.caption")


def _size(column: Sequence[Text]) -> Measurement:
    """Return how wide a column must be at least, and would be."""
    said = "\n".join(cell.plain for cell in column)
    natural = max(map(cell_len, said.split("\n")))
    least = min(max(map(cell_len, said.split())), _LONGEST_WORD)
    return Measurement(natural if column[0].plain == TIME else least, natural)


def _fitted(sizes: Sequence[Measurement], room: int) -> list[int]:
    """Return how wide columns are: the widest give way, as far as they can."""
    widths = [size.maximum for size in sizes]
    while _taken(widths) > room:
        give = {width: place for place, width in enumerate(widths) if width > sizes[place].minimum}
        if not give:
            break
        widths[give[max(give)]] -= 1
    return widths


def _taken(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)
