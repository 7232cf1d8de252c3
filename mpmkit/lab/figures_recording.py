"""What a watch recorded, over one time axis: a plotly figure with a strip for each quantity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress, pale
from mpmkit.measure.recording import Recording

if TYPE_CHECKING:
    import plotly.graph_objects as go

# A strip: its title with the unit, and the fields drawn in it (field of Sample -> label).
STRIPS: dict[str, tuple[str, dict[str, str]]] = {
    "processes": ("processes", {"processes": "processes"}),
    "workers": ("workers", {"busy": "busy", "threads": "all"}),
    "connections": ("connections", {"parked": "kept alive", "without_thread": "without a thread"}),
    "queue": ("listen queue", {"waiting": "waiting"}),
    "qps": ("requests/s", {"qps": "served"}),
    "memory": ("memory, MB", {"pss_mb": "PSS"}),
}
DASHES = ("solid", "dot")
STRIP_HEIGHT = 120


def timeline(
    recordings: Recording | dict[str, Recording],
    *strips: str,
    title: str = "",
    theme: str | None = None,
) -> go.Figure:
    """Strips of `STRIPS` over seconds, one line a field; events as thin lines across.

    recordings  one, or several by name to lay over one another, each in its MPM's colour
    strips      which, top to bottom (default: processes, workers, connections, queue)

    Raises ValueError for a strip that does not exist or a recording without samples.
    """
    from plotly.subplots import make_subplots

    chosen = strips or ("processes", "workers", "connections", "queue")
    unknown = [name for name in chosen if name not in STRIPS]
    if unknown:
        raise ValueError(f"no strip {', '.join(unknown)}; there are {', '.join(STRIPS)}")
    one = isinstance(recordings, Recording)
    runs = {recordings.mpm: recordings} if isinstance(recordings, Recording) else recordings
    if not all(run.samples for run in runs.values()):
        raise ValueError("a recording without samples can't be drawn")
    figure = make_subplots(rows=len(chosen), shared_xaxes=True, vertical_spacing=0.14 / len(chosen))
    parts = []
    for row, name in enumerate(chosen, 1):
        heading, fields = STRIPS[name]
        if not one:  # of each run, the one line that compares
            fields = dict([next(iter(fields.items()))])
            heading = "busy workers" if name == "workers" else heading
        lines = [
            (run, key, label if one else run.mpm, number)
            for run in runs.values()
            for number, (key, label) in enumerate(_worth_showing(run, fields).items())
        ]
        for run, key, label, number in lines:
            figure.add_trace(_line(run, key, label, number, one, theme), row=row, col=1)
            parts.append(f"{heading}, {label}: at most {run.most(key):,.4g}")
        _label_ends(figure, row, lines, one, theme)
        figure.update_yaxes(title_text=heading.replace(", ", "<br>"), row=row, col=1)
    if one:
        _mark_events(figure, next(iter(runs.values())), theme)
    dress(
        figure,
        title,
        theme,
        alt=(title + ". " if title else "") + "; ".join(parts) + ".",
        height=90 + STRIP_HEIGHT * len(chosen),
        margin={"l": 76, "r": 130, "t": 72 if title else 34, "b": 52},
    )
    figure.update_layout(title={"y": 1, "yanchor": "top", "pad": {"t": 12}})
    figure.update_xaxes(title_text="seconds", title_font_size=13, row=len(chosen), col=1)
    figure.update_yaxes(rangemode="tozero", title_font_size=13, title_standoff=8)
    # To the last sample and no farther: the lines' names stand in the margin.
    figure.update_xaxes(range=[0, max(run.samples[-1].t for run in runs.values())])
    return figure


def _line(
    run: Recording, key: str, name: str, number: int, one: bool, theme: str | None
) -> go.Scatter:
    """A line. In the figure of one recording, the first is an area, the second a dotted line in ink."""
    import plotly.graph_objects as go

    colour = colours.stroke(run.mpm, theme)
    area = one and not number
    return go.Scatter(
        x=run.column("t"),
        y=run.column(key),
        mode="lines",
        name=name,
        fill="tozeroy" if area else None,
        fillcolor=pale(colour, 0.25) if area else None,
        line={
            "color": colours.INK[colours.is_dark(theme)] if one and number else colour,
            "width": 2 if number else 2.5,
            "dash": DASHES[number],
            "shape": "hv",
        },
        hovertemplate="%{y:,} " + name + " at %{x:.1f} s<extra></extra>",
    )


def _worth_showing(run: Recording, fields: dict[str, str]) -> dict[str, str]:
    """Fields that are not zero all the time; the first one always."""
    return {
        key: label
        for number, (key, label) in enumerate(fields.items())
        if not number or run.most(key) > 0
    }


def _label_ends(
    figure: Any,
    row: int,
    lines: list[tuple[Recording, str, str, int]],
    one: bool,
    theme: str | None,
) -> None:
    """Names at the right ends of a strip's lines, pushed apart where they would touch."""
    ink = colours.INK[colours.is_dark(theme)]
    gap = 0.2 * (max((run.most(key) for run, key, *_ in lines), default=1) or 1)
    end = max(run.samples[-1].t for run, *_ in lines)
    low = -math.inf
    ends = []
    for run, key, name, _ in lines:
        value = float(getattr(run.samples[-1], key))
        ends.append((0.0 if math.isnan(value) else value, name, run.mpm))
    for value, name, mpm in sorted(ends):
        low = max(value, low + gap)
        figure.add_annotation(
            x=end,
            y=low,
            text=name,
            showarrow=False,
            xanchor="left",
            xshift=6,
            font={"size": 12, "color": ink if one else colours.text_colour(mpm, theme)},
            row=row,
            col=1,
        )


def _mark_events(figure: Any, run: Recording, theme: str | None) -> None:
    """A thin line at each note of the experimenter, with its words at the top."""
    line = {"color": colours.INK[colours.is_dark(theme)], "width": 1, "dash": "dot"}
    for event in run.events:
        if event.kind == "note":
            figure.add_vline(x=event.t, line=line)
            figure.add_annotation(
                x=event.t,
                y=1.0,
                yref="paper",
                text=event.text,
                showarrow=False,
                yanchor="bottom",
                xanchor="left",
                font={"size": 11},
            )
