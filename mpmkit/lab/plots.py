"""What all figures share: paper and ink, an MPM's line, labels at lines' ends, descriptions."""

import math
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

import plotly.graph_objects as go
import plotly.io

from mpmkit.lab import theme as colours

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
    settings = colours.layout(theme)
    x, y = settings.pop("xaxis"), settings.pop("yaxis")
    head, sup, below = title.removesuffix("</sup>").partition("<br><sup>")
    lines = [line for part in below.split("<br>") for line in wrap(part, LETTERS)]
    more = 36 * max(0, len(lines) - 1)
    settings["margin"]["t"] += more
    settings["height"] = layout.pop("height", 460) + more
    figure.update_layout(
        {"showlegend": False, "autosize": True, **settings},
        title={"text": head + sup + "<br>".join(lines), "x": 0, "xref": "paper"},
        meta={"alt": alt},
    )
    figure.update_layout(layout).update_xaxes(x).update_yaxes(y)


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
    colour = colours.stroke(mpm, theme) if ours else colours.OTHERS.get(server, "#777777")
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
    """Write names in the margin at lines' ends, (y, x, text, colour), at least `room` apart in y, so that none
    covers another."""
    below = -math.inf
    for y, x, text, colour in sorted(ends):
        below = max(y, below + room)
        font = {"color": colour, "size": 13}
        place = {"x": x, "y": below, "showarrow": False, "xanchor": "left", "xshift": 6}
        figure.add_annotation(text=text, font=font, **place, **where)
