"""Diagrams of one connection: its path under an MPM, and the states it goes through.

They are drawn as SVG from the tables of connection_states.py.
"""

from __future__ import annotations

import textwrap

from helpers.connection_states import PATHS, TRANSITIONS

from mpmkit.lab import theme as colours
from mpmkit.lab.diagram import Svg, drawing, label
from mpmkit.policy.connection_trace import STATE_NAMES


def path(mpm: str) -> Svg:
    """One connection's life under an MPM, from PATHS: which letter its worker shows in
    each phase, and in which phases event holds it without a thread."""
    dark = colours.is_dark()
    ink, grid = colours.INK[dark], colours.GRID[dark]
    phases = [phase for phase in PATHS[mpm] if "graceful" not in phase.name]
    lanes = [{"prefork": "a process"}.get(mpm, "a worker thread")]
    if any(phase.parked for phase in phases):
        lanes.append("no thread: the listener keeps it")
    box, left, top = 98, 116, 40
    width, height = left + box * len(phases) + 8, top + 84 * len(lanes) + 8
    parts = [
        f"<rect x='6' y='9' width='14' height='16' fill='{colours.colour(mpm)}'/>",
        label(28, 22, f"{mpm}: one connection", ink, size=15, bold=True),
    ]
    for number, lane in enumerate(lanes):
        y = top + 84 * number
        frame = f"x='4' y='{y}' width='{width - 8}' height='76' stroke='{grid}' rx='6'"
        parts.append(f"<rect {frame} fill='none'/>")
        for row, line in enumerate(textwrap.wrap(lane, 15)):
            parts.append(label(12, y + 34 + 15 * row, line, ink))
    end = ""  # of the box before
    for place, phase in enumerate(phases):
        x, y = left + box * place, top + 84 * bool(phase.parked) + 8
        fill = colours.PAPER[dark] if phase.parked else colours.letter_colour(phase.letter)
        pen = ink if phase.parked else colours.ink_on(fill)
        if end:
            parts.append(
                f"<path d='M{end}L{x} {y + 30}' stroke='{ink}' stroke-width='1.5' fill='none'/>"
            )
        end = f"{x + box - 8} {y + 30}"
        dash = " stroke-dasharray='4 3'" if phase.parked else ""
        parts.append(
            f"<rect x='{x}' y='{y}' width='{box - 8}' height='60' rx='4' fill='{fill}' stroke='{ink}'{dash}/>"
        )
        parts.append(
            label(x + 6, y + 16, "+" if phase.parked else phase.letter, pen, size=13, bold=True)
        )
        for row, line in enumerate(textwrap.wrap(phase.name, 14)[:3]):
            parts.append(label(x + 6, y + 29 + 12 * row, line, pen, size=10.5))
    spoken = (f"{one.name}: {'no thread' if one.parked else one.letter}" for one in phases)
    return drawing(width, height, parts, f"{mpm}, one connection. {'; '.join(spoken)}.")


def connection_states(mpm: str) -> Svg:
    """The states of a connection and what moves it from one to the next, from TRANSITIONS: arcs above
    the line are a worker's, arcs below the listener's. Each arc has a number, and its line below says when."""
    dark = colours.is_dark()
    ink, listener = colours.INK[dark], colours.stroke("event")
    arcs: dict[tuple[int, int, bool], list[str]] = {}  # from, to, by a worker -> when
    for row in TRANSITIONS[mpm]:
        arcs.setdefault((row.state, row.next, row.who == "worker"), []).append(row.event)
    used = sorted({state for start, end, _ in arcs for state in (start, end)})
    step, left = 106, 60
    at = {state: left + step * place for place, state in enumerate(used)}
    width = left + step * (len(used) - 1) + 70
    spans = [(abs(at[end] - at[start]) // step, up) for start, end, up in arcs]
    above, below = (max([0, *(n for n, by in spans if by is up)]) for up in (True, False))
    middle = 60 + 26 * max(1, above)
    parts, numbers, lines = [], [], []
    for number, ((start, end, up), events) in enumerate(arcs.items(), 1):
        colour, sign = (ink, -1) if up else (listener, 1)
        x1, x2, y = at[start], at[end], middle + sign * 14
        high = sign * 26 * (abs(x2 - x1) / step or 0.9)
        if start == end:
            x1, x2 = x1 - 16, x2 + 16
        curve = f"M{x1} {y}C{x1} {y + high * 1.25},{x2} {y + high * 1.25},{x2} {y}"
        pen = f"fill='none' stroke='{colour}' stroke-width='1.5'"
        parts.append(f"<path d='{curve}' {pen}/>")
        parts.append(f"<path d='M{x2 - 4} {y + sign * 7}L{x2} {y}L{x2 + 4} {y + sign * 7}' {pen}/>")
        top = (x1 + x2) / 2, y + high * 0.94  # of the curve
        numbers.append(
            f"<circle cx='{top[0]}' cy='{top[1]:g}' r='8.5' fill='{colours.PAPER[dark]}' stroke='{colour}'/>"
        )
        numbers.append(label(top[0], top[1] + 4, str(number), ink, size=11, anchor="middle"))
        names = (STATE_NAMES[state].replace("_", " ") for state in (start, end))
        who = "" if up else "listener: "
        lines.append(f"{number}  {' → '.join(names)}: {who}{'; or '.join(events)}")
    parts += numbers  # over every curve
    for state, place in at.items():
        name = STATE_NAMES[state].replace("_", " ")
        box = f"x='{place - 51}' y='{middle - 13}' width='102' height='26' rx='4'"
        parts.append(f"<rect {box} fill='{colours.PAPER[dark]}' stroke='{ink}'/>")
        parts.append(label(place, middle + 4, name, ink, size=9.5, anchor="middle"))
    title = f"{mpm}: what moves a connection. Above the line a worker"
    parts.append(
        label(8, 18, title + ", below it the listener" * bool(below), ink, size=13, bold=True)
    )
    foot = middle + 56 + 26 * below
    for place, line in enumerate(lines):
        parts.append(label(12, foot + 17 * place, line, ink))
    height = foot + 17 * len(lines)
    return drawing(width, height, parts, f"{mpm}. {'. '.join(lines)}.")
