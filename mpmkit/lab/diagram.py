"""ScoreboardSnapshots of what does not change: a request's path, a connection's states, a scoreboard.

They are drawn from the tables that the servers run by (`mpmkit.policy.states`), as SVG: sharp on a
projector, the same in an executed copy, and readable as a file. Each has a description in words
(`.alt`), and shows itself in a notebook.
"""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import ink_on
from mpmkit.launcher import ScoreboardView
from mpmkit.measure.recording import ScoreboardSnapshot
from mpmkit.policy.states import CONNECTION_NAMES, LETTERS, PATHS, TRANSITIONS, WORDS

FONT = "font-family='system-ui, -apple-system, Segoe UI, Roboto, sans-serif'"


class Svg:
    """An SVG (`text`) and what it shows, in words (`alt`)."""

    def __init__(self, text: str, alt: str) -> None:
        self.text = text
        self.alt = alt

    def __repr__(self) -> str:
        return self.alt

    def _repr_svg_(self) -> str:
        return self.text

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as a file; returns the path."""
        Path(path).write_text(self.text, encoding="utf-8")
        return Path(path)


def _svg(width: float, height: float, parts: list[str], alt: str, theme: str | None) -> Svg:
    dark = colours.is_dark(theme)
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}' role='img' {FONT}><title>{escape(alt)}</title>"
        f"<rect width='100%' height='100%' fill='{colours.PAPER[dark]}'/>"
    )
    return Svg(head + "".join(parts) + "</svg>", alt)


def _text(
    x: float,
    y: float,
    text: str,
    fill: str,
    *,
    size: float = 12,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    weight = " font-weight='600'" if bold else ""
    return (
        f"<text x='{x:g}' y='{y:g}' font-size='{size:g}' fill='{fill}' "
        f"text-anchor='{anchor}'{weight}>{escape(text)}</text>"
    )


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def path(mpm: str, *, theme: str | None = None) -> Svg:
    """One connection's life under an MPM, from `states.PATHS`: which letter its worker shows in
    each phase, and in which phases event holds it without a thread."""
    dark = colours.is_dark(theme)
    ink, grid = colours.INK[dark], colours.GRID[dark]
    phases = [phase for phase in PATHS[mpm] if "graceful" not in phase.name]
    lanes = [{"prefork": "a process"}.get(mpm, "a worker thread")]
    if any(phase.parked for phase in phases):
        lanes.append("no thread: the listener keeps it")
    box, left, top = 98, 116, 40
    width, height = left + box * len(phases) + 8, top + 84 * len(lanes) + 8
    parts = [
        f"<rect x='6' y='9' width='14' height='16' fill='{colours.colour(mpm, theme)}'/>",
        _text(28, 22, f"{mpm}: one connection", ink, size=15, bold=True),
    ]
    for number, lane in enumerate(lanes):
        y = top + 84 * number
        parts.append(
            f"<rect x='4' y='{y}' width='{width - 8}' height='76' fill='none' "
            f"stroke='{grid}' rx='6'/>"
        )
        for row, line in enumerate(_wrap(lane, 15)):
            parts.append(_text(12, y + 34 + 15 * row, line, ink, size=12))
    spoken: list[str] = []
    before: tuple[int, int] | None = None
    for place, phase in enumerate(phases):
        x, y = left + box * place, top + 84 * bool(phase.parked) + 8
        fill = colours.letter_colour(phase.letter, theme)
        if phase.parked:
            fill = colours.PAPER[dark]
        if before is not None:
            parts.append(
                f"<path d='M{before[0]} {before[1]}L{x} {y + 30}' stroke='{ink}' "
                f"stroke-width='1.5' fill='none'/>"
            )
        before = (x + box - 8, y + 30)
        dash = " stroke-dasharray='4 3'" if phase.parked else ""
        parts.append(
            f"<rect x='{x}' y='{y}' width='{box - 8}' height='60' rx='4' fill='{fill}' "
            f"stroke='{ink}'{dash}/>"
        )
        pen = ink if phase.parked else ink_on(fill)
        label = phase.letter if not phase.parked else "+"
        parts.append(_text(x + 6, y + 16, label, pen, size=13, bold=True))
        for row, line in enumerate(_wrap(phase.name, 14)[:3]):
            parts.append(_text(x + 6, y + 29 + 12 * row, line, pen, size=10.5))
        spoken.append(f"{phase.name}: {'no thread' if phase.parked else phase.letter}")
    return _svg(width, height, parts, f"{mpm}, one connection. " + "; ".join(spoken) + ".", theme)


def connection_states(mpm: str, *, theme: str | None = None) -> Svg:
    """The states of a connection and what moves it from one to the next, from
    `states.TRANSITIONS`: arcs above the line are a worker's, arcs below the listener's."""
    dark = colours.is_dark(theme)
    ink, listener = colours.INK[dark], colours.colour("event", theme)
    table = TRANSITIONS[mpm]
    used = sorted({state for row in table for state in (row.state, row.next)})
    step, left = 106, 60
    at = {state: left + step * place for place, state in enumerate(used)}
    width = left + step * (len(used) - 1) + 70
    arcs: dict[tuple[int, int, str], list[str]] = {}
    for row in table:
        arcs.setdefault((row.state, row.next, row.who), []).append(row.event)
    middle = 46 + 26 * max(
        (abs(used.index(b) - used.index(a)) for a, b, who in arcs if who == "worker"), default=1
    )
    below = max(
        (abs(used.index(b) - used.index(a)) for a, b, who in arcs if who != "worker"), default=0
    )
    height = middle + 40 + 26 * below + 22
    parts = []
    for (start, end, who), events in arcs.items():
        up = who == "worker"
        colour, sign = (ink, -1) if up else (listener, 1)
        x1, x2, y = at[start], at[end], middle + sign * 14
        high = 26 * max(abs(used.index(end) - used.index(start)), 0.8)
        if start == end:
            x1, x2 = x1 - 9, x2 + 9
        curve = f"M{x1} {y}C{x1} {y + sign * high * 1.25},{x2} {y + sign * high * 1.25},{x2} {y}"
        parts.append(
            f"<path d='{curve}' fill='none' stroke='{colour}' stroke-width='1.5'>"
            f"<title>{escape('; '.join(events))} ({who})</title></path>"
            f"<path d='M{x2 - 4} {y + sign * 7}L{x2} {y}L{x2 + 4} {y + sign * 7}' "
            f"fill='none' stroke='{colour}' stroke-width='1.5'/>"
        )
    for state, place in at.items():
        name = CONNECTION_NAMES[state].replace("_", " ")
        parts.append(
            f"<rect x='{place - 49}' y='{middle - 13}' width='98' height='26' rx='4' "
            f"fill='{colours.PAPER[dark]}' stroke='{ink}'/>"
        )
        parts.append(_text(place, middle + 4, name, ink, size=9, anchor="middle"))
    parts.append(_text(8, 18, f"{mpm}: what a connection waits for", ink, size=13, bold=True))
    parts.append(_text(8, 34, "above: a worker moves it", ink, size=11))
    if below:
        parts.append(_text(8, height - 8, "below: the listener moves it", ink, size=11))
    spoken = [
        f"{CONNECTION_NAMES[row.state]} to {CONNECTION_NAMES[row.next]} on {row.event} ({row.who})"
        for row in table
    ]
    return _svg(width, height, parts, f"{mpm}. " + "; ".join(spoken) + ".", theme)


CELL, LEFT, TOP = 18, 90, 30  # of a scoreboard: a cell's size, and where the first one is


def scoreboard(board: ScoreboardSnapshot | ScoreboardView, *, theme: str | None = None) -> Svg:
    """A scoreboard: a cell a worker, with httpd's letter; a row a process (under prefork, where a
    process is one worker, rows of 32). To the right of a row of event: connections without a thread."""
    picture = board if isinstance(board, ScoreboardSnapshot) else ScoreboardSnapshot.of(board)
    ink = colours.INK[colours.is_dark(theme)]
    rows = list(picture.rows)
    if picture.mpm == "prefork":
        flat = "".join(text for _, text, _ in rows)
        rows = [(32 * n, flat[32 * n : 32 * n + 32], 0) for n in range(-(-len(flat) // 32))]
    used = {c: picture.count(c) for c in LETTERS if any(c in text for _, text, _ in rows)}
    title = picture.label or f"scoreboard of {picture.mpm}"
    many = "1 process" if len(picture.rows) == 1 else f"{len(picture.rows)} processes"
    parts = [_text(8, 18, f"{title} · {many}", ink, size=13, bold=True)]
    for number, (slot, text, parked) in enumerate(rows):
        name = f"slot {slot}" if picture.mpm != "prefork" else f"slots {slot} …"
        parts += _row(TOP + CELL * number, name, text, parked, theme)
    bottom = TOP + CELL * len(rows)
    legend, right = _legend(bottom + 12, used, theme)
    longest = max((len(text) for _, text, _ in rows), default=0)
    counts = ", ".join(f"{n} {WORDS[LETTERS.index(letter)]}" for letter, n in used.items())
    parked = sum(n for _, _, n in picture.rows)
    alt = f"{title}: {many} of {picture.mpm}; {counts}"
    alt += f"; {parked} connections without a thread." if parked else "."
    width = max(LEFT + CELL * longest + 130, 480, right)
    return _svg(width, bottom + 34, parts + legend, alt, theme)


def _square(x: float, y: float, size: float, letter: str, theme: str | None) -> list[str]:
    """A cell in its letter's colour, with the letter in it."""
    fill = colours.letter_colour(letter, theme)
    grid = colours.GRID[colours.is_dark(theme)]
    rect = f"<rect x='{x:g}' y='{y:g}' width='{size:g}' height='{size:g}' fill='{fill}' stroke='{grid}'/>"
    middle = x + size / 2, y + size / 2 + 4
    return [rect, _text(*middle, letter, ink_on(fill), size=11, anchor="middle", bold=True)]


def _row(y: float, name: str, text: str, parked: int, theme: str | None) -> list[str]:
    ink = colours.INK[colours.is_dark(theme)]
    parts = [_text(8, y + 13, name, ink, size=11)]
    for place, letter in enumerate(text):
        square = _square(LEFT + CELL * place, y, CELL - 2, letter, theme)
        parts += square if letter not in "_." else square[:1]
    if parked:
        x = LEFT + CELL * len(text) + 8
        parts.append(_text(x, y + 13, f"+ {parked} without a thread", ink, size=11))
    return parts


def _legend(y: float, used: dict[str, int], theme: str | None) -> tuple[list[str], float]:
    """The letters that are there, how many and what they mean; and where the line ends."""
    parts, x = [], 8.0
    for letter, number in used.items():
        words = f"{number} {WORDS[LETTERS.index(letter)]}"
        parts += _square(x, y, 14, letter, theme)
        parts.append(_text(x + 19, y + 11, words, colours.INK[colours.is_dark(theme)], size=11))
        x += 34 + 6.2 * len(words)
    return parts, x
