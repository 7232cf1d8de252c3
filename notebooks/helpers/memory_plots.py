"""What the memory of each server is made of, as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours
from mpmkit.lab.figures_memory import by_server, memory_rows, name_of
from mpmkit.lab.plots import dress, pale

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

PARTS = {
    "code": "code (files)",
    "heap": "heap",
    "anonymous": "other anonymous",
    "stacks": "stacks",
    "shm": "shared memory",
}
SHADES = (0.25, 0.45, 0.65, 0.85, 1.0)


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
    for (server, mpm), own in by_server(memory_rows(frame, against)):
        at = own[own["level"] == own["level"].max()]
        held, name = int(at["held"].median()), name_of(server, mpm)
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
