"""Tables as text, for a terminal and for the README."""

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> list[str]:
    """A line for each row, in columns of one width each, two blanks between them.

    `left` are the columns (from 0) that begin at their left edge, as words do; the others end at their
    right, as numbers do. All rows have as many cells as the first. Raises ValueError otherwise.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
