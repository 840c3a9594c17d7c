"""Tables of ``kproxy top`` that fit: the least important columns go first, and no number is ever cut.

A name may be shortened, in its middle, as its ends tell it from others; a list is cut between two of its parts. What
every column needs at least is taken first, then what is left goes to the more important ones::

    client           address        requests/s    in/s out/s in flight
    consumer…ders-17 10.0.0.7:50122        500 500 KiB   0 B         1

Never here: what is shown.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

GOOD = 36
"""How much of a name is enough to tell it from others, so that what is left can go to a column that is nice to have."""

WIDE = 100
"""From this width on there are two blanks between two columns, below it one."""

Cell = str | Sequence[str]
"""A number or a name, or the parts of a list."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``rank``: the highest goes first where there is no room for all."""

    heading: str
    rank: int
    least: int | None = None
    """How short its names or lists may become; None: numbers, which are there whole or not at all."""
    extra: bool = False
    """Nice to have: not there where names in the others are shortened below GOOD for it."""
    style: str = ""
    """Of what is there, not of the "-" where there is nothing."""


def fitted(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], width: int) -> Table:
    """Return a table of at most ``width``; each row has a cell for every column."""
    rows = [[_printable(cell) for cell in row] for row in rows]
    gap = 2 if width >= WIDE else 1
    widths = _widths(columns, rows, width, gap)
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for at, wide in widths.items():
        heading = _shortened(columns[at].heading, wide)
        table.add_column(heading, justify="left" if columns[at].least else "right", width=wide, no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(columns[at], row[at], wide) for at, wide in widths.items()))
    return table


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int, gap: int) -> dict[int, int]:
    """Return how wide each column is that is shown, by its place, from left to right."""
    wants = [
        max(map(cell_len, (column.heading, *(_whole(row[at]) for row in rows)))) for at, column in enumerate(columns)
    ]
    needs = [
        want if column.least is None else min(want, max(column.least, len(column.heading)))
        for want, column in zip(wants, columns, strict=True)
    ]
    first, *others = sorted(range(len(columns)), key=lambda at: columns[at].rank)
    widths = {first: needs[first]}
    for at in others:
        enough = {other: min(wants[other], max(need, GOOD)) for other, need in widths.items()}
        before = enough if columns[at].extra else widths
        if sum(before.values()) + len(before) * gap + needs[at] > width:
            break
        widths[at] = needs[at]
    left = width - sum(widths.values()) - (len(widths) - 1) * gap
    for most in (GOOD, width):
        for at, wide in widths.items():
            more = min(max(min(wants[at], most) - wide, 0), left)
            widths[at] += more
            left -= more
    return dict(sorted(widths.items()))


def _printable(cell: Cell) -> Cell:
    """Keep a terminal safe from names that clients choose."""
    if not isinstance(cell, str):
        return cell
    return "".join(character if character.isprintable() else "?" for character in cell)


def _whole(cell: Cell) -> str:
    return cell if isinstance(cell, str) else ", ".join(cell)


def _cell(column: Column, cell: Cell, width: int) -> Text:
    if not cell:
        return Text("-")
    return Text(_shortened(cell, width) if isinstance(cell, str) else _listed(cell, width), column.style)


def _shortened(text: str, width: int) -> str:
    """Leave out the middle of what is too long."""
    if cell_len(text) <= width:
        return text
    return f"{set_cell_size(text, (width - 1) // 2)}…{set_cell_size(text[::-1], width // 2)[::-1]}"


def _listed(parts: Sequence[str], width: int) -> str:
    """Leave out the last parts of what is too long."""
    for count in range(len(parts), 0, -1):
        text = ", ".join(parts[:count]) + ", …" * (count < len(parts))
        if cell_len(text) <= width:
            return text
    return "…"
