"""What a watch recorded, over one time axis: a plotly figure with a strip for each quantity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours
from mpmkit.measure.recording import Recording, Sample

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
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    chosen = strips or ("processes", "workers", "connections", "queue")
    unknown = [name for name in chosen if name not in STRIPS]
    if unknown:
        raise ValueError(f"no strip {', '.join(unknown)}; there are {', '.join(STRIPS)}")
    one = isinstance(recordings, Recording)
    runs = {recordings.mpm: recordings} if isinstance(recordings, Recording) else recordings
    if not all(run.samples for run in runs.values()):
        raise ValueError("a recording without samples can't be drawn")
    dark = colours.is_dark(theme)
    figure = make_subplots(rows=len(chosen), shared_xaxes=True, vertical_spacing=0.14 / len(chosen))
    told = []
    for row, name in enumerate(chosen, 1):
        heading, fields = STRIPS[name]
        if not one:  # of each run, the one line that compares
            fields = dict([next(iter(fields.items()))])
            heading = "busy workers" if name == "workers" else heading
        figure.update_yaxes(
            title_text=heading.replace(", ", "<br>"), rangemode="tozero", row=row, col=1
        )
        for run in runs.values():
            shown = _worth_showing(run, fields)
            for number, (key, label) in enumerate(shown.items()):
                times, values = run.column("t"), run.column(key)
                named = label if one else run.mpm
                figure.add_trace(
                    _line(
                        go,
                        times,
                        values,
                        named,
                        colours.colour(run.mpm, theme),
                        number,
                        colours.INK[dark] if one else "",
                    ),
                    row=row,
                    col=1,
                )
                told.append(f"{heading}, {named}: at most {run.most(key):,.4g}")
        _label_ends(figure, row, runs, fields, one, dark, theme)
    if one:
        _mark_events(figure, next(iter(runs.values())), len(chosen), dark)
    settings = colours.layout(theme)
    axes = settings.pop("xaxis"), settings.pop("yaxis")
    settings["margin"] = {"l": 76, "r": 130, "t": 72 if title else 34, "b": 52}
    figure.update_layout(
        showlegend=False,
        width=960,
        height=90 + STRIP_HEIGHT * len(chosen),
        title={"text": title, "x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 12}},
        **settings,
        meta={"alt": (title + ". " if title else "") + "; ".join(told) + "."},
    )
    figure.update_xaxes(**axes[0])
    figure.update_yaxes(**axes[1])
    figure.update_xaxes(title_text="seconds", title_font_size=13, row=len(chosen), col=1)
    figure.update_yaxes(title_font_size=13, title_standoff=8)
    # To the last sample and no farther: the lines' names stand in the margin.
    figure.update_xaxes(range=[0, max(run.samples[-1].t for run in runs.values())])
    return figure


def _line(
    go: Any, times: list[float], values: list[float], name: str, colour: str, number: int, ink: str
) -> Any:
    """A line. Alone in its figure, the first is an area, and the second a dotted line in ink."""
    area = bool(ink) and not number
    return go.Scatter(
        x=times,
        y=values,
        mode="lines",
        name=name,
        fill="tozeroy" if area else None,
        fillcolor=_pale(colour) if area else None,
        line={
            "color": ink if ink and number else colour,
            "width": 2.5 if not number else 2,
            "dash": DASHES[number],
            "shape": "hv",
        },
        hovertemplate="%{y:,} " + name + " at %{x:.1f} s<extra></extra>",
    )


def _pale(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.25)"


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
    runs: dict[str, Recording],
    fields: dict[str, str],
    one: bool,
    dark: bool,
    theme: str | None,
) -> None:
    """Names at the right ends of the lines, pushed apart where they would touch."""
    highest = max((run.most(key) for run in runs.values() for key in fields), default=1) or 1
    ends: list[tuple[float, str, str]] = []
    for run in runs.values():
        shown = _worth_showing(run, fields)
        for key, label in shown.items():
            last: Sample = run.samples[-1]
            value = getattr(last, key)
            name = label if one else run.mpm
            colour = colours.INK[dark] if one else colours.colour(run.mpm, theme)
            ends.append((0.0 if value != value else float(value), name, colour))
    gap = 0.2 * highest
    low = -1e9
    end = max(run.samples[-1].t for run in runs.values())
    for value, name, colour in sorted(ends):
        low = max(value, low + gap)
        figure.add_annotation(
            x=end,
            y=low,
            text=name,
            showarrow=False,
            xanchor="left",
            xshift=6,
            font={"size": 12, "color": colour},
            row=row,
            col=1,
        )


def _mark_events(figure: Any, run: Recording, rows: int, dark: bool) -> None:
    """A thin line at each note of the experimenter, with its words at the top."""
    for event in run.events:
        if event.kind == "note":
            figure.add_vline(
                x=event.t, line={"color": colours.INK[dark], "width": 1, "dash": "dot"}
            )
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
