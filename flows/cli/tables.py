"""Tables for a terminal of any width: what a row is about is never lost."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

CUT_WIDTH = 12
"""Least width of a column of words that may be cut, characters."""
BORDER = 3
"""Characters that a column takes besides its cells: one space on each side and a line."""


@dataclass(frozen=True)
class Shown:
    """One column.

    Attributes:
        cut: words that end in … where the terminal is narrow.
        optional: left out, from the right, where the terminal is too narrow for all columns.
    """

    name: str
    cells: Sequence[str]
    numeric: bool = False
    cut: bool = False
    optional: bool = False

    @property
    def widest(self) -> int:
        """Characters of the longest cell."""
        return max(map(cell_len, (self.name, *self.cells)))

    @property
    def least(self) -> int:
        """Least width, characters."""
        return min(self.widest, max(CUT_WIDTH, cell_len(self.name))) if self.cut else self.widest


def fitted(columns: Sequence[Shown], title: str | None = None, width: int | None = None) -> Table:
    """The columns as a table of at most `width` characters (default: the terminal's), in which no number is cut."""
    room = (width or Console().width) - 1
    kept = list(columns)
    for column in [c for c in reversed(columns) if c.optional]:
        if sum(c.least + BORDER for c in kept) > room:
            kept.remove(column)
    absent = [column.name for column in columns if column not in kept]
    caption = f"not shown in this width: {', '.join(absent)} (--json has all)" if absent else None
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption=Text(caption) if caption else None,
        caption_justify="left",
    )
    spare = max(0, room - sum(column.least + BORDER for column in kept))
    for column in kept:
        more = min(spare, column.widest - column.least)
        spare -= more
        table.add_column(
            column.name,
            justify="right" if column.numeric else "left",
            width=column.least + more,
            no_wrap=True,
            overflow="ellipsis" if column.cut else "fold",
        )
    for cells in zip(*(column.cells for column in kept), strict=True):
        table.add_row(*cells)
    return table
