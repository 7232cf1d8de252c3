"""A scoreboard as a picture. It is SVG: sharp on a projector, the same in an executed copy, readable as
a file. It has a description in words (`.alt`), and shows itself in a notebook.
"""

from html import escape
from typing import NamedTuple

from mpmkit.lab import theme as colours
from mpmkit.launcher import ScoreboardView
from mpmkit.measure.recording import ScoreboardSnapshot
from mpmkit.policy.states import LETTERS, WORDS

FONT = "font-family='system-ui, -apple-system, Segoe UI, Roboto, sans-serif'"


class Svg(NamedTuple):
    """An SVG and what it shows, in words."""

    text: str
    alt: str

    def __repr__(self) -> str:
        return self.alt

    def _repr_svg_(self) -> str:
        return self.text


def drawing(
    width: float, height: float, parts: list[str], alt: str, theme: str | None = None
) -> Svg:
    """An SVG of that size, on the theme's paper."""
    paper = colours.PAPER[colours.is_dark(theme)]
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}' role='img' {FONT}><title>{escape(alt)}</title>"
        f"<rect width='100%' height='100%' fill='{paper}'/>"
    )
    return Svg(head + "".join(parts) + "</svg>", alt)


def label(
    x: float, y: float, text: str, fill: str, *, size: float = 12, anchor: str = "start", bold: bool = False
) -> str:  # fmt: skip
    """A line of text, its baseline at y."""
    style = f"fill='{fill}' text-anchor='{anchor}'" + " font-weight='600'" * bold
    return f"<text x='{x:g}' y='{y:g}' font-size='{size:g}' {style}>{escape(text)}</text>"


CELL, LEFT, TOP = 18, 90, 30  # of a scoreboard: a cell's size, and where the first one is


def scoreboard(board: ScoreboardSnapshot | ScoreboardView, *, theme: str | None = None) -> Svg:
    """A scoreboard: a cell a worker, with httpd's letter; a row a process (under prefork, where a
    process is one worker, rows of 32). To the right of a row of event: connections without a thread."""
    picture = board if isinstance(board, ScoreboardSnapshot) else ScoreboardSnapshot.of(board)
    ink = colours.ink(theme := colours.THEMES[colours.is_dark(theme)])  # once, not for each cell
    rows = [(f"slot {slot}", text, parked) for slot, text, parked in picture.rows]
    if picture.mpm == "prefork":
        flat = "".join(text for _, text, _ in rows)
        rows = [(f"slots {n} …", flat[n : n + 32], 0) for n in range(0, len(flat), 32)]
    title = picture.label or f"scoreboard of {picture.mpm}"
    many = "1 process" if len(picture.rows) == 1 else f"{len(picture.rows)} processes"
    parts = [label(8, 18, f"{title} · {many}", ink, size=13, bold=True)]
    for number, (name, text, parked) in enumerate(rows):
        y = TOP + CELL * number
        parts.append(label(8, y + 13, name, ink, size=11))
        for place, letter in enumerate(text):
            parts.append(_square(LEFT + CELL * place, y, CELL - 2, letter, theme))
        if parked:
            x = LEFT + CELL * len(text) + 8
            parts.append(label(x, y + 13, f"+ {parked} without a thread", ink, size=11))
    bottom, right = TOP + CELL * len(rows), 8.0
    counts = {c: f"{n} {WORDS[LETTERS.index(c)]}" for c in LETTERS if (n := picture.count(c))}
    for letter, words in counts.items():
        parts.append(_square(right, bottom + 12, 14, letter, theme, legend=True))
        parts.append(label(right + 19, bottom + 23, words, ink, size=11))
        right += 34 + 6.2 * len(words)
    alt = f"{title}: {many} of {picture.mpm}; {', '.join(counts.values())}"
    alt += f"; {n} connections without a thread." if (n := sum(row[2] for row in rows)) else "."
    longest = max((len(text) for _, text, _ in rows), default=0)
    width = max(LEFT + CELL * longest + 130, 480, right)
    return drawing(width, bottom + 34, parts, alt, theme)


def _square(x: float, y: float, size: float, letter: str, theme: str, legend: bool = False) -> str:
    """A cell in its letter's colour, with the letter in it; idle workers and empty slots without."""
    fill = colours.letter_colour(letter, theme)
    grid = colours.GRID[colours.is_dark(theme)]
    rect = f"<rect x='{x:g}' y='{y:g}' width='{size:g}' height='{size:g}' fill='{fill}' stroke='{grid}'/>"
    if letter in "_." and not legend:
        return rect
    middle = x + size / 2, y + size / 2 + 4
    return rect + label(*middle, letter, colours.ink_on(fill), size=11, anchor="middle", bold=True)
