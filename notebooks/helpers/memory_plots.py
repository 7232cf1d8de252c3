"""Figures of memory: of a whole server against what it holds, and what it is made of at its highest level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import OURS, dress, label_ends, need, pale, server_colour
from mpmkit.measure.sizing import slope

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

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


def memory_curve(
    frame: pandas.DataFrame, against: str = "busy", *, theme: str | None = None
) -> go.Figure:
    """Memory (PSS, MiB) of the whole server against busy requests or idle connections, a line an MPM.

    `frame` is the records table memory (`MemoryTable.to_frame()`, or `mpmkit.recorded("memory")`).
    A marker is a measured level, the median of its rounds, and stands where the server got to: under
    prefork and worker the line of idle connections ends where the workers do. Each line has its name
    and the cost of one more at its end. Other servers are grey. Raises ValueError if there is nothing
    of that kind.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    lines: list[str] = []
    ends: list[tuple[float, float, str]] = []
    for (server, mpm), own in _by_server(memory_rows(frame, against)):
        middle = own.groupby("held")["pss_kb"].median()
        xs, ys = [float(x) for x in middle.index], [float(y) / 1024 for y in middle]
        name, cost = _name_of(server, mpm), ""
        if len(xs) > 1:
            each = slope(list(own["held"]), list(own["pss_kb"])).slope
            cost = f", {each:,.1f} KiB each" if abs(each) < 100 else f", {each:,.0f} KiB each"
        figure.add_trace(_line(server, mpm, xs, ys, theme))
        ends.append((ys[-1], xs[-1], f" {name}{cost}"))
        lines.append(
            f"{name}: {ys[0]:,.0f} MiB at {xs[0]:,.0f}, {ys[-1]:,.0f} at {xs[-1]:,.0f}{cost}"
        )
    most = max(x for _, x, *_ in ends)
    # Lines that end at nearly the same place have their labels in one column, clear of all markers.
    label_ends(figure, [(y, most if x > 0.95 * most else x, text) for y, x, text in ends], theme, 4)
    dress(
        figure,
        "Memory of the whole server<br><sup>PSS, shared pages divided among the processes that share "
        f"them · at each line's end: what one more {ONE_MORE[against]} costs</sup>",
        theme,
        alt=f"Memory against {AGAINST[against]}. " + "; ".join(lines) + ".",
    )
    figure.update_xaxes(
        title_text=AGAINST[against], range=[-0.03 * most, 1.42 * most or 1], rangemode="tozero"
    )
    figure.update_yaxes(title_text="MiB", rangemode="tozero")
    return figure


def _line(server: str, mpm: str, xs: list[float], ys: list[float], theme: str | None) -> go.Scatter:
    import plotly.graph_objects as go

    colour, name = server_colour(server, mpm, theme, line=True), _name_of(server, mpm)
    return go.Scatter(
        x=xs,
        y=ys,
        name=name,
        mode="lines+markers",
        showlegend=False,
        line={
            "color": colour,
            "width": 2.5 if server == OURS else 1.5,
            "dash": colours.DASHES.get(mpm, "solid"),
        },
        marker={"size": 9, "symbol": colours.MARKERS.get(mpm, "x"), "color": colour},
        hovertemplate="%{x:,} held: %{y:,.1f} MiB<extra>" + name + "</extra>",
    )


def memory_rows(frame: pandas.DataFrame, against: str) -> pandas.DataFrame:
    """The rows of whole servers against "busy" or "idle". Raises ValueError if there are none."""
    if against not in AGAINST:
        raise ValueError(f"against: {against!r} is not one of {', '.join(AGAINST)}")
    need(frame, COLUMNS, "MemoryTable.to_frame()")
    rows = frame[(frame["against"] == against) & (frame["scope"] == "server")]
    if not len(rows):
        raise ValueError(f"nothing was measured against {against}")
    return rows


def _by_server(rows: pandas.DataFrame) -> list[tuple[tuple[str, str], pandas.DataFrame]]:
    """((server, MPM or ""), its rows); mpmkit first."""
    mpms = rows["mpm"].fillna("")
    keys = list(dict.fromkeys(zip(rows["server"], mpms, strict=True)))
    keys.sort(key=lambda key: key[0] != OURS)
    return [(key, rows[(rows["server"] == key[0]) & (mpms == key[1])]) for key in keys]


def _name_of(server: str, mpm: str) -> str:
    return mpm if server == OURS else f"{server} {mpm}".strip()


def memory_parts(
    frame: pandas.DataFrame, against: str = "busy", *, theme: str | None = None
) -> go.Figure:
    """What the memory of each server is made of at its highest level: a stacked bar a server, in MiB
    of PSS, with summed RSS next to it as an outline, which counts shared pages once for each process.

    `frame` as for `memory_curve`. Raises ValueError if there is nothing of that kind.
    """
    import plotly.graph_objects as go

    ink = colours.INK[colours.is_dark(theme)]
    names, tops, lines = [], [], []
    for (server, mpm), own in _by_server(memory_rows(frame, against)):
        at = own[own["level"] == own["level"].max()]
        held, name = int(at["held"].median()), _name_of(server, mpm)
        top = {part: float(at[f"{part}_kb"].median()) / 1024 for part in (*PARTS, "pss", "rss")}
        names.append(f"{name}<br>{held:,} {against}")
        tops.append(top)
        lines.append(
            f"{name} with {held:,}: PSS {top['pss']:,.0f} MiB, summed RSS {top['rss']:,.0f}"
        )

    def bar(part: str, title: str, group: int, total: str, **marker: Any) -> go.Bar:
        return go.Bar(
            x=names,
            y=[top[part] for top in tops],
            name=title,
            offsetgroup=group,
            marker=marker,
            text=[f"{total.upper()} {top[total]:,.0f}" for top in tops] if total else None,
            textposition="outside" if total else "none",
            constraintext="none",
            cliponaxis=False,
            hovertemplate="%{y:,.1f} MiB " + title + "<extra></extra>",
        )

    # The last one is on top of the stack, and has the sum above it.
    totals = [""] * (len(PARTS) - 1) + ["pss"]
    bars = [
        bar(part, title, 0, total, color=pale(ink, shade))
        for (part, title), total, shade in zip(PARTS.items(), totals, SHADES, strict=True)
    ]
    outline = {"color": "rgba(0,0,0,0)", "line": {"color": ink, "width": 1.5}}
    figure = go.Figure([*bars, bar("rss", "summed RSS", 1, "rss", **outline)])
    dress(
        figure,
        "What the memory is made of<br><sup>filled: PSS by kind, adds up · outline: summed "
        "RSS, counts shared pages once for each process</sup>",
        theme,
        alt="What the memory is made of. " + "; ".join(lines) + ".",
        barmode="stack",
        showlegend=True,
        legend={"orientation": "h", "y": -0.2},
    )
    figure.update_yaxes(title_text="MiB", rangemode="tozero")
    return figure
