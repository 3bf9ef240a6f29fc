"""How do cells become rows of a fixed grid, cheaply enough for four pictures a second?

rich's own Table measures and wraps every cell anew: 64 µs each, three quarters of the view's CPU time. Here
all widths are known before, and a row is one Text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text


@dataclass(frozen=True)
class Column:
    """One column: its head, how many cells wide, on which side its text stands, its style."""

    head: str
    width: int
    right: bool = True
    style: str = ""


@dataclass
class Grid:
    """Rows below a line of heads; `gap` blanks between columns. `rows` are what is drawn."""

    columns: Sequence[Column]
    gap: int
    rows: list[Text] = field(default_factory=list)

    def heads(self) -> None:
        """The line of heads."""
        self._add([Text(column.head) for column in self.columns], style="bold dim")

    def add(self, *cells: Text) -> None:
        """A row; columns without a cell stay empty. A cell of several lines makes as many rows."""
        lines = [cell.split("\n") if "\n" in cell.plain else [cell] for cell in cells]
        for i in range(max(map(len, lines), default=1)):
            self._add([part[i] if i < len(part) else Text() for part in lines])

    def _add(self, cells: Sequence[Text], style: str = "") -> None:
        row = Text(style=style, no_wrap=True, overflow="crop")
        for i, (column, cell) in enumerate(zip(self.columns, cells, strict=False)):
            alone = len(cells) == 1  # a title may run over the other columns, which are empty
            width = sum(c.width + self.gap for c in self.columns) - self.gap if alone else column.width
            blank = width - cell.cell_len
            if blank < 0:
                cell.truncate(width, overflow="ellipsis")
                blank = width - cell.cell_len
            if column.style:
                cell.stylize_before(column.style)
            if column.right and not alone:
                row.append(" " * blank)
            row.append_text(cell)
            if i + 1 < len(cells):
                row.append(" " * (self.gap + (0 if column.right else blank)))
        self.rows.append(row)
