"""What a watch recorded, over one time axis: a plotly figure with a strip for each quantity."""

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress, label_ends
from mpmkit.measure.recording import Recording

# A strip: its title with the unit, and the fields drawn in it (field of Sample -> label).
STRIPS: dict[str, tuple[str, dict[str, str]]] = {
    "processes": ("processes", {"processes": "processes"}),
    "workers": ("workers", {"busy": "busy", "threads": "all"}),
    "connections": ("connections", {"parked": "kept alive", "without_thread": "without a thread"}),
    "queue": ("listen queue", {"waiting": "waiting"}),
    "qps": ("requests/s", {"qps": "served"}),
    "memory": ("memory, MB", {"pss_mb": "PSS"}),
}
DEFAULT = ("processes", "workers", "connections", "queue")
STRIP_HEIGHT = 120


def timeline(
    recordings: Recording | dict[str, Recording], *strips: str, title: str = ""
) -> go.Figure:
    """Strips of `STRIPS` over seconds, one line a field; events as thin lines across.

    recordings  one, or several by name to lay over one another, each in its MPM's colour
    strips      which, top to bottom (default: processes, workers, connections, queue)

    Raises ValueError for a strip that does not exist or a recording without samples.
    """
    chosen = strips or DEFAULT
    if unknown := [name for name in chosen if name not in STRIPS]:
        raise ValueError(f"no strip {', '.join(unknown)}; there are {', '.join(STRIPS)}")
    one = isinstance(recordings, Recording)
    runs = [recordings] if isinstance(recordings, Recording) else list(recordings.values())
    if not all(run.samples for run in runs):
        raise ValueError("a recording without samples can't be drawn")
    figure = make_subplots(rows=len(chosen), shared_xaxes=True, vertical_spacing=0.14 / len(chosen))
    said = [
        part for row, name in enumerate(chosen, 1) for part in _strip(figure, row, name, runs, one)
    ]
    if one:
        _mark_events(figure, runs[0])
    dress(
        figure,
        title,
        alt=(title + ". " if title else "") + "; ".join(said) + ".",
        height=90 + STRIP_HEIGHT * len(chosen),
        margin={"l": 76, "r": 130, "t": 72 if title else 34, "b": 52},
    )
    figure.update_layout(title={"y": 1, "yanchor": "top", "pad": {"t": 12}})
    figure.update_xaxes(title_text="seconds", title_font_size=13, row=len(chosen), col=1)
    figure.update_yaxes(rangemode="tozero", title_font_size=13, title_standoff=8)
    # To the last sample and no farther: the lines' names stand in the margin.
    figure.update_xaxes(range=[0, max(run.samples[-1].t for run in runs)])
    return figure


def _strip(figure: Any, row: int, strip: str, runs: list[Recording], one: bool) -> list[str]:
    """Draw a strip, with names at the lines' ends: all fields of one recording, or of several the one
    that compares. What it shows, in words."""
    heading, fields = STRIPS[strip]
    first = next(iter(fields))
    if not one and strip == "workers":
        heading = "busy workers"
    ends, said = [], []
    end = max(run.samples[-1].t for run in runs)
    for run in runs:
        # Fields that are not zero all the time; the first one always.
        shown = [key for key in fields if key == first or (one and run.most(key) > 0)]
        for number, key in enumerate(shown):
            name = fields[key] if one else run.mpm
            figure.add_trace(_line(run, key, name, number, one), row=row, col=1)
            said.append(f"{heading}, {name}: at most {run.most(key):,.4g}")
            last = float(getattr(run.samples[-1], key))
            ink = colours.ink() if one else colours.text_colour(run.mpm)
            ends.append((last if last == last else 0.0, end, name, ink))
    most = max((run.most(key) for run in runs for key in fields if one or key == first), default=1)
    label_ends(figure, ends, 0.2 * (most or 1), row=row, col=1)
    figure.update_yaxes(title_text=heading.replace(", ", "<br>"), row=row, col=1)
    return said


def _line(run: Recording, key: str, name: str, number: int, one: bool) -> go.Scatter:
    """A line. In the figure of one recording, the first is an area, the second a dotted line in ink."""
    colour = colours.stroke(run.mpm)
    filled = {"fill": "tozeroy", "fillcolor": colours.pale(colour, 0.25)}
    area = filled if one and not number else {}
    dotted = {"color": colours.ink(), "width": 2, "dash": "dot"}
    solid = {"color": colour, "width": 2.5}
    line = go.Scatter(x=run.column("t"), y=run.column(key), mode="lines", name=name, **area)
    hover = "%{y:,} " + name + " at %{x:.1f} s<extra></extra>"
    return line.update(line={"shape": "hv", **(dotted if number else solid)}, hovertemplate=hover)


def _mark_events(figure: Any, run: Recording) -> None:
    """A thin line at each note of the experimenter, with its words at the top."""
    line = {"color": colours.ink(), "width": 1, "dash": "dot"}
    above = {"y": 1.0, "yref": "paper", "yanchor": "bottom", "xanchor": "left"}
    for event in run.events:
        if event.kind == "note":
            figure.add_vline(x=event.t, line=line)
            figure.add_annotation(
                x=event.t, text=event.text, showarrow=False, font={"size": 11}, **above
            )
