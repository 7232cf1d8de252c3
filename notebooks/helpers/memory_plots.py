"""Figures of memory: of a whole server against what it holds, and what it is made of at its highest level."""

from __future__ import annotations

from typing import Any

import pandas
import plotly.graph_objects as go
from helpers.figures import need
from helpers.labels import label_lines

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import OURS, dress, mpm_line
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
    names: list[tuple[Any, str, str]] = []
    for server, mpm, name, own in _by_server(frame, against):
        middle = own.groupby("held")["pss_kb"].median() / 1024
        xs, ys, cost = middle.index.tolist(), middle.tolist(), ""
        if len(xs) > 1:
            each = slope(list(own["held"]), list(own["pss_kb"])).slope
            cost = f", {each:,.1f} KiB each" if abs(each) < 100 else f", {each:,.0f} KiB each"
        hover = "%{x:,} held: %{y:,.1f} MiB<extra>" + name + "</extra>"
        line = mpm_line(mpm, xs, ys, name=name, server=server, hovertemplate=hover)
        figure.add_trace(line)
        names.append((figure.data[-1], f"{name}{cost.removesuffix(' each')}", ink))
        said.append(
            f"{name}: {ys[0]:,.0f} MiB at {xs[0]:,.0f}, {ys[-1]:,.0f} at {xs[-1]:,.0f}{cost}"
        )
    dress(
        figure,
        "Memory of the whole server<br><sup>PSS, shared pages divided among the processes that share "
        f"them<br>at each line: what one more {ONE_MORE[against]} costs</sup>",
        alt=f"Memory against {AGAINST[against]}. {'; '.join(said)}.",
    )
    most = max(x for line in figure.data for x in line.x)
    figure.update_xaxes(title_text=AGAINST[against], range=[-0.03 * most, 1.42 * most or 1])
    figure.update_yaxes(
        title_text="MiB, logarithmic", type="log", tickvals=[10, 20, 50, 100, 200, 500, 1000]
    )
    label_lines(figure, names)
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
        (server, mpm, mpm if server == OURS else f"{server} with {mpm}" if mpm else server, own)
        for (server, mpm), own in groups
    ]
    return sorted(found, key=lambda one: one[0] != OURS)


def memory_parts(frame: pandas.DataFrame, against: str = "busy") -> go.Figure:
    """What the memory of each server is made of at its highest level: a bar a server, as shares of PSS, so
    that a small server can be read next to a large one. At its name PSS and summed RSS, which counts shared
    pages once for each process.

    `frame` as for `memory_curve`. Raises ValueError if there is nothing of that kind.
    """
    ink, names, tops, said = colours.ink(), [], [], []
    for *_, name, own in _by_server(frame, against):
        at = own[own["level"] == own["level"].max()]
        held = f"{int(at['held'].median()):,}"
        top = {part: float(at[f"{part}_kb"].median()) / 1024 for part in (*PARTS, "pss", "rss")}
        sums = f"PSS {top['pss']:,.0f} MiB, summed RSS {top['rss']:,.0f}"
        names.append(f"{name}<br><sup>{held} {against}: {sums}</sup>")
        tops.append(top)
        said.append(f"{name} with {held}: {sums}")
    figure = go.Figure()
    for (part, title), shade in zip(PARTS.items(), SHADES, strict=True):
        figure.add_bar(
            y=names, x=[100 * top[part] / sum(top[one] for one in PARTS) for top in tops], orientation="h",
            name=title, marker={"color": colours.pale(ink, shade)}, customdata=[top[part] for top in tops],
            hovertemplate="%{customdata:,.1f} MiB, %{x:.0f}%<extra>" + title + "</extra>",
        )  # fmt: skip
    dress(
        figure,
        "What the memory is made of<br><sup>shares of the memory in use (PSS)<br>"
        "summed RSS counts shared pages once for each process</sup>",
        alt=f"What the memory is made of. {'; '.join(said)}.",
        barmode="stack",
        showlegend=True,
        legend={"orientation": "h", "y": -0.18, "traceorder": "normal"},
        height=230 + 48 * len(names),
        margin={"l": 200},
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(title={"xref": "container", "x": 0.02})  # names take the left
    figure.update_xaxes(title_text="%", range=[0, 100])
    return figure
