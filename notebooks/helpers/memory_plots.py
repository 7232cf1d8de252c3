"""Figures of memory: of a whole server against what it holds, and what it is made of at its highest level."""

from __future__ import annotations

import math
from typing import Any

import pandas
import plotly.graph_objects as go

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import OURS, dress, label_ends, mpm_line, need
from mpmkit.measure.sizing import slope

AGAINST = {"busy": "requests being served at once", "idle": "kept-alive connections, idle"}
ONE_MORE = {"busy": "busy request", "idle": "idle connection"}
COLUMNS = ("server", "mpm", "against", "scope", "held", "level", "pss_kb", "rss_kb")
PARTS = {
    "code": "code (files)",
    "heap": "heap",
    "anonymous": "other anonymous",
    "stacks": "stacks",
    "shm": "shared memory",
}
SHADES = (0.25, 0.45, 0.65, 0.85, 1.0)


def memory_curve(frame: pandas.DataFrame, against: str = "busy") -> go.Figure:
    """Memory (PSS, MiB) of the whole server against busy requests or idle connections, a line an MPM.

    `frame` is the records table memory (`MemoryTable.to_frame()`, or `mpmkit.recorded("memory")`).
    A marker is a measured level, the median of its rounds, and stands where the server got to: under
    prefork and worker the line of idle connections ends where the workers do. Each line has its name
    and the cost of one more at its end. Other servers are grey. Raises ValueError if there is nothing
    of that kind.
    """
    figure, ink = go.Figure(), colours.ink()
    said: list[str] = []
    ends: list[tuple[float, float, str, str]] = []
    for server, mpm, name, own in _by_server(frame, against):
        middle = own.groupby("held")["pss_kb"].median() / 1024
        xs, ys, cost = middle.index.tolist(), middle.tolist(), ""
        if len(xs) > 1:
            each = slope(list(own["held"]), list(own["pss_kb"])).slope
            cost = f", {each:,.1f} KiB each" if abs(each) < 100 else f", {each:,.0f} KiB each"
        hover = "%{x:,} held: %{y:,.1f} MiB<extra>" + name + "</extra>"
        line = mpm_line(mpm, xs, ys, name=name, server=server, hovertemplate=hover)
        figure.add_trace(line)
        ends.append((math.log10(ys[-1]), xs[-1], f" {name}{cost}", ink))
        said.append(
            f"{name}: {ys[0]:,.0f} MiB at {xs[0]:,.0f}, {ys[-1]:,.0f} at {xs[-1]:,.0f}{cost}"
        )
    most = max(x for _, x, *_ in ends)
    # Lines that end at nearly the same place have their labels in one column, clear of all markers.
    ends = [(y, most if x > 0.95 * most else x, text, ink) for y, x, text, _ in ends]
    label_ends(figure, ends, 0.17, near=0.7 * most, shift=4)
    dress(
        figure,
        "Memory of the whole server<br><sup>PSS, shared pages divided among the processes that share "
        f"them · at each line's end: what one more {ONE_MORE[against]} costs</sup>",
        alt=f"Memory against {AGAINST[against]}. {'; '.join(said)}.",
    )
    figure.update_xaxes(title_text=AGAINST[against], range=[-0.03 * most, 1.42 * most or 1])
    figure.update_yaxes(
        title_text="MiB, logarithmic", type="log", tickvals=[10, 20, 50, 100, 200, 500, 1000]
    )
    return figure


def _by_server(
    frame: pandas.DataFrame, against: str
) -> list[tuple[str, str, str, pandas.DataFrame]]:
    """(server, MPM or "", its name, its rows) of whole servers against "busy" or "idle"; mpmkit first.
    Raises ValueError if there are none."""
    if against not in AGAINST:
        raise ValueError(f"against: {against!r} is not one of {', '.join(AGAINST)}")
    need(frame, COLUMNS, "MemoryTable.to_frame()")
    rows = frame[(frame["against"] == against) & (frame["scope"] == "server")]
    if not len(rows):
        raise ValueError(f"nothing was measured against {against}")
    groups = rows.assign(mpm=rows["mpm"].fillna("")).groupby(["server", "mpm"], sort=False)
    found = [
        (server, mpm, mpm if server == OURS else f"{server} {mpm}".strip(), own)
        for (server, mpm), own in groups
    ]
    return sorted(found, key=lambda one: one[0] != OURS)


def memory_parts(frame: pandas.DataFrame, against: str = "busy") -> go.Figure:
    """What the memory of each server is made of at its highest level: a stacked bar a server, in MiB
    of PSS, with summed RSS next to it as an outline, which counts shared pages once for each process.

    `frame` as for `memory_curve`. Raises ValueError if there is nothing of that kind.
    """
    ink = colours.ink()
    names, tops, said = [], [], []
    for *_, name, own in _by_server(frame, against):
        at = own[own["level"] == own["level"].max()]
        held = f"{int(at['held'].median()):,}"
        top = {part: float(at[f"{part}_kb"].median()) / 1024 for part in (*PARTS, "pss", "rss")}
        names.append(f"{name}<br>{held} {against}")
        tops.append(top)
        said.append(f"{name} with {held}: PSS {top['pss']:,.0f} MiB, summed RSS {top['rss']:,.0f}")

    def bar(part: str, title: str, group: int, total: str, **marker: Any) -> go.Bar:
        text = [f"{total.upper()} {top[total]:,.0f}" for top in tops] if total else None
        return go.Bar(
            x=names, y=[top[part] for top in tops], name=title, offsetgroup=group, marker=marker,
            text=text, textposition="outside" if total else "none", constraintext="none",
            cliponaxis=False, hovertemplate="%{y:,.1f} MiB " + title + "<extra></extra>",
        )  # fmt: skip

    last = list(PARTS)[-1]  # on top of the stack: it has the sum above it
    figure = go.Figure([
        bar(part, title, 0, "pss" * (part == last), color=colours.pale(ink, shade))
        for (part, title), shade in zip(PARTS.items(), SHADES, strict=True)
    ])  # fmt: skip
    outline = {"color": "rgba(0,0,0,0)", "line": {"color": ink, "width": 1.5}}
    figure.add_trace(bar("rss", "summed RSS", 1, "rss", **outline))
    dress(
        figure,
        "What the memory is made of<br><sup>filled: PSS by kind, adds up · outline: summed "
        "RSS, counts shared pages once for each process</sup>",
        alt=f"What the memory is made of. {'; '.join(said)}.",
        barmode="stack",
        showlegend=True,
        legend={"orientation": "h", "y": -0.2},
    )
    figure.update_yaxes(title_text="MiB", rangemode="tozero")
    return figure
