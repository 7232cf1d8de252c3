"""What all figures share: paper and ink, an MPM's line, labels at lines' ends, descriptions. And what a watch
recorded, over one time axis (`timeline`)."""

import math
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from mpmkit.lab import theme as colours
from mpmkit.measure.recording import Recording

OURS = "mpmkit"
WIDTH = 960  # CSS pixels of a still picture: the labels of six bars a panel fit
LETTERS = 70  # of a line below a title, so that a narrow cell holds it
plotly.io.defaults.default_width = WIDTH


def dress(
    figure: go.Figure, title: str, *, alt: str = "", theme: str | None = None, **layout: Any
) -> None:
    """Title, colours, fonts and quiet axes, as all figures have them, and the description `alt`. A figure is
    as wide as its cell; what is below its title is broken into lines that a narrow one holds, with room.

    layout: plotly's settings that differ from those.
    """
    dark = colours.is_dark(theme)
    paper, ink = colours.PAPER[dark], colours.INK[dark]
    axis = {"gridcolor": colours.GRID[dark], "zeroline": False, "linecolor": ink, "ticks": ""}
    head, sup, below = title.removesuffix("</sup>").partition("<br><sup>")
    lines = [line for part in below.split("<br>") for line in wrap(part, LETTERS)]
    more = 22 * max(0, len(lines) - 1)
    figure.update_layout(
        showlegend=False, autosize=True, height=layout.pop("height", 460) + more, meta={"alt": alt},
        title={"text": head + sup + "<br>".join(lines), "x": 0, "xref": "paper",
               "y": 1, "yanchor": "top", "pad": {"t": 28 if lines else 14}},
        margin={"l": 64, "r": 24, "t": 96 + more, "b": 56}, hoverlabel={"font": {"size": 13}},
        paper_bgcolor=paper, plot_bgcolor=paper, font={"color": ink, "size": 14},
        colorway=list((colours.DARK if dark else colours.LIGHT).values()),
    )  # fmt: skip
    figure.update_layout(layout).update_yaxes(axis)
    figure.update_xaxes({**axis, "showgrid": False, "showline": True})


def alt_text(figure: go.Figure) -> str:
    """What the figure shows, in words and numbers, for a reader who cannot see it."""
    meta: Any = figure.layout.meta
    return str((meta or {}).get("alt", ""))


def mpm_line(
    mpm: str,
    xs: Sequence[float],
    ys: Sequence[Any],
    *,
    theme: str | None = None,
    name: str = "",
    server: str = OURS,
    hollow: Iterable[Any] = (),
    **trace: Any,
) -> go.Scatter:
    """A line with markers: of one of our MPMs in its colour, dash and marker, of another server thin and
    grey. `hollow`: which markers are. `trace`: plotly's settings that differ."""
    ours = server == OURS
    greys = colours.OTHERS[colours.is_dark(theme)]
    colour = colours.stroke(mpm, theme) if ours else greys.get(server, "#777777")
    symbol = colours.MARKERS.get(mpm, "x")
    signs = [symbol + "-open" * bool(one) for one in hollow] or symbol
    dash = colours.DASHES.get(mpm, "solid")
    line = {"color": colour, "width": 2.5 if ours else 1.5, "dash": dash}
    mark = {"size": 9, "color": colour, "symbol": signs}
    figure = go.Scatter(x=xs, y=ys, name=name or mpm, mode="lines+markers", showlegend=False)
    return figure.update(line=line, marker=mark).update(trace)


def label_ends(
    figure: go.Figure, ends: Iterable[tuple[float, float, str, str]], room: float, **where: Any
) -> None:
    """Write names in the margin at lines' ends, (y, x, text, colour), at least `room` apart in y."""
    below = -math.inf
    for y, x, text, colour in sorted(ends):
        below = max(y, below + room)
        font = {"color": colour, "size": 13}
        place = {"x": x, "y": below, "showarrow": False, "xanchor": "left", "xshift": 6}
        figure.add_annotation(text=text, font=font, **place, **where)


# A strip of a timeline: its title with the unit, and the fields drawn in it (field of Sample -> label).
STRIPS: dict[str, tuple[str, dict[str, str]]] = {
    "processes": ("processes", {"processes": "processes"}),
    "workers": ("workers", {"busy": "busy", "threads": "all"}),
    "connections": ("connections", {"parked": "kept alive", "without_thread": "without a thread"}),
    "queue": ("listen queue", {"waiting": "waiting"}),
    "qps": ("requests/s", {"qps": "served"}),
    "memory": ("memory, MB", {"pss_mb": "PSS"}),
}


def timeline(
    recordings: Recording | dict[str, Recording], *strips: str, title: str = ""
) -> go.Figure:
    """Strips of `STRIPS` over seconds, one line a field; events as thin lines across.

    recordings  one, or several by name to lay over one another, each in its MPM's colour
    strips      which, top to bottom (default: processes, workers, connections, queue)

    Raises ValueError for a strip that does not exist or a recording without samples.
    """
    chosen = strips or ("processes", "workers", "connections", "queue")
    if unknown := [name for name in chosen if name not in STRIPS]:
        raise ValueError(f"no strip {', '.join(unknown)}; there are {', '.join(STRIPS)}")
    runs = [recordings] if isinstance(recordings, Recording) else list(recordings.values())
    if not all(run.samples for run in runs):
        raise ValueError("a recording without samples can't be drawn")
    one, end = isinstance(recordings, Recording), max(run.samples[-1].t for run in runs)
    figure = make_subplots(rows=len(chosen), shared_xaxes=True, vertical_spacing=0.14 / len(chosen))
    said = []
    for row, strip in enumerate(chosen, 1):
        said += _strip(figure, {"row": row, "col": 1}, strip, runs, one)
    # A thin line at each note of the experimenter, with its words at the top.
    above = {"y": 1.0, "yref": "paper", "yanchor": "bottom", "xanchor": "left", "showarrow": False}
    for event in runs[0].events if one else ():
        if event.kind == "note":
            figure.add_vline(x=event.t, line={"color": colours.ink(), "width": 1, "dash": "dot"})
            figure.add_annotation(x=event.t, text=event.text, font={"size": 11}, **above)
    dress(
        figure, title, alt=(title + ". " if title else "") + "; ".join(said) + ".",
        height=90 + 120 * len(chosen), margin={"l": 76, "r": 130, "t": 72 if title else 34, "b": 52},
    )  # fmt: skip
    figure.update_xaxes(title_text="seconds", title_font_size=13, row=len(chosen), col=1)
    figure.update_yaxes(rangemode="tozero", title_font_size=13, title_standoff=8)
    # To the last sample and no farther: the lines' names stand in the margin.
    return figure.update_xaxes(range=[0, end])


def _strip(figure: Any, where: Any, strip: str, runs: list[Recording], one: bool) -> list[str]:
    """Draw a strip, names at its lines' ends: all fields of one recording (an area, then dotted and in ink), or
    of several the one that compares. What it shows, in words."""
    (heading, fields), end = STRIPS[strip], max(run.samples[-1].t for run in runs)
    if not one and strip == "workers":
        heading = "busy workers"
    ends, said, high = [], [], 0.0
    for run in runs:
        for number, (key, label) in enumerate(fields.items()):
            most = run.most(key)
            if number and not (one and most > 0):  # one that is zero all the time, if not the first
                continue
            name, stroke = label if one else run.mpm, colours.stroke(run.mpm)
            line = {"shape": "hv", "color": stroke, "width": 2.5}
            dotted = {"color": colours.ink(), "width": 2, "dash": "dot"}
            area = {"fill": "tozeroy", "fillcolor": colours.pale(stroke, 0.25)}
            figure.add_scatter(
                x=run.column("t"), y=run.column(key), mode="lines", name=name, **where,
                hovertemplate="%{y:,} " + name + " at %{x:.1f} s<extra></extra>",
                line=line | dotted if number else line, **(area if one and not number else {}),
            )  # fmt: skip
            said.append(f"{heading}, {name}: at most {most:,.4g}")
            last = float(getattr(run.samples[-1], key))
            ink = colours.ink() if one else colours.text_colour(run.mpm)
            ends.append((last if last == last else 0.0, end, name, ink))
            high = max(high, most)
    label_ends(figure, ends, 0.2 * (high or 1), **where)
    figure.update_yaxes(title_text=heading.replace(", ", "<br>"), **where)
    return said
