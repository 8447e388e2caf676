"""Tables for people: columns that line up, spans and sizes in few signs, nothing that a terminal would obey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ffsuper.commands.colour import Meaning, painted
from ffsuper.commands.texts import printable

GAP = "  "


class Cell(NamedTuple):
    """A text with a meaning."""

    text: str
    meaning: Meaning


def table(heads: Sequence[str], rows: Sequence[Sequence[str | Cell]], width: int | None = None) -> list[str]:
    """Return a table's lines.

    Args:
        heads: of the columns; one that begins with ``>`` is of numbers, which stand at the right.
        rows: as many cells as heads; an empty one is shown as ``-``.
        width: where lines are cut off; None for nowhere.
    """
    plain = [[shown(cell) for cell in row] for row in rows]
    names = [head.removeprefix(">") for head in heads]
    widths = [max(map(len, column)) for column in zip(names, *plain, strict=True)]
    if not heads[-1].startswith(">"):
        widths[-1] = 0  # nothing stands behind it

    def line(texts: Sequence[str], meanings: Sequence[Meaning | None]) -> str:
        padded = [
            text.rjust(size) if head.startswith(">") else text.ljust(size)
            for head, text, size in zip(heads, texts, widths, strict=True)
        ]
        return cut(padded, meanings, width)

    meant = [[cell.meaning if isinstance(cell, Cell) else None for cell in row] for row in rows]
    return [line(names, [Meaning.DIM] * len(names)), *map(line, plain, meant)]


def cut(texts: Sequence[str], meanings: Sequence[Meaning | None], width: int | None) -> str:
    """Return the cells of a row as a line that is not longer than ``width``; what paints them has no length."""
    left = sum(map(len, texts)) + len(GAP) * len(texts) if width is None else width
    line = ""
    for number, (one, meaning) in enumerate(zip(texts, meanings, strict=True)):
        gap = GAP[:left] if number else ""
        part = one[: left - len(gap)]
        left -= len(gap) + len(part)
        line += gap + (part if meaning is None else painted(part, meaning))
    return line.rstrip()


def shown(cell: str | Cell) -> str:
    """Return a cell's text as it is shown: other people's words may hold anything."""
    text = cell.text if isinstance(cell, Cell) else cell
    return printable(text) or "-"


def span(ms: float) -> str:
    """Return a span of time in its two largest units."""
    seconds = ms / 1000
    if seconds < 10:
        return f"{seconds:.1f}s"
    for unit_s, next_s, unit, following in ((86_400, 3_600, "d", "h"), (3_600, 60, "h", "m"), (60, 1, "m", "s")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)}{unit}{int(seconds % unit_s // next_s):02}{following}"
    return f"{int(seconds)}s"


def size(count: int) -> str:
    """Return a number of bytes in the largest unit that leaves something before the point."""
    scaled = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if scaled < 1024:
            return f"{scaled:.0f} {unit}"
        scaled /= 1024
    return f"{scaled:.1f} TiB"
