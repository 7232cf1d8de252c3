"""Diagrams of one connection: its path under an MPM, and the states it goes through.

They are drawn as SVG from the tables of connection_states.py.
"""

from __future__ import annotations

import textwrap
from html import escape

from helpers.connection_states import CONNECTION_NAMES, PATHS, TRANSITIONS

from mpmkit.lab import theme as colours
from mpmkit.lab.diagram import Svg, drawing, label


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
    """The states of a connection and what moves it from one to the next, from
    TRANSITIONS: arcs above the line are a worker's, arcs below the listener's."""
    dark = colours.is_dark()
    ink, listener = colours.INK[dark], colours.stroke("event")
    table = TRANSITIONS[mpm]
    used = sorted({state for row in table for state in (row.state, row.next)})
    step, left = 106, 60
    at = {state: left + step * place for place, state in enumerate(used)}
    width = left + step * (len(used) - 1) + 70
    arcs: dict[tuple[int, int, str], list[str]] = {}
    for row in table:
        arcs.setdefault((row.state, row.next, row.who), []).append(row.event)
    steps = {who: [0] for who in ("worker", "listener")}
    for start, end, who in arcs:
        steps["worker" if who == "worker" else "listener"].append(
            abs(used.index(end) - used.index(start))
        )
    middle, below = 46 + 26 * max(1, *steps["worker"]), max(steps["listener"])
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
        parts.append(label(place, middle + 4, name, ink, size=9, anchor="middle"))
    parts.append(label(8, 18, f"{mpm}: what a connection waits for", ink, size=13, bold=True))
    parts.append(label(8, 34, "above: a worker moves it", ink, size=11))
    if below:
        parts.append(label(8, height - 8, "below: the listener moves it", ink, size=11))
    spoken = [
        f"{CONNECTION_NAMES[row.state]} to {CONNECTION_NAMES[row.next]} on {row.event} ({row.who})"
        for row in table
    ]
    return drawing(width, height, parts, f"{mpm}. " + "; ".join(spoken) + ".")
