"""Requests per second as published and as measured: functions that take rows and return plotly figures.

Each figure carries its description for a reader who cannot see it in `layout.meta["alt"]` (see
`alt_text`), labels its bars directly, and draws the spread of the rounds. Drawn elsewhere: `lab.timeline`
(what a watch recorded) and `diagram` (a scoreboard).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import OURS, dress
from mpmkit.lab.plots import alt_text as alt_text

KIND_TITLES = {
    "static": "static page",
    "script": "script",
    "cgi": "script by CGI",
    "php-fpm": "script by PHP-FPM",
    "mod_php": "script by mod_php",
}
PUBLISHED, MEASURED = "as published", "measured"
HEAT = ["#F4F6F9", "#5B9BD5"]  # a map's cells, from the least to the most, on any page
ON_HEAT = "#111111"  # what is written in them
LIMITED = "the load generator or its machine was the limit"
PRINTED = ("static", "script")  # what the article has figures of
COLUMNS = (
    "kind", "server", "mpm", "rounds", "published", "median", "min", "max", "published_ratio", "ratio",
)  # fmt: skip


def need(frame: pandas.DataFrame, columns: Iterable[str], give: str) -> None:
    """Raises ValueError if columns are missing; `give` is what has them."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"the rows lack {', '.join(missing)}; give {give}")


def count(value: float) -> str:
    """A number without decimals, thousands separated; a dash for NaN."""
    return f"{value:,.0f}" if value == value else "–"


def qps_bars(summary: pandas.DataFrame) -> go.Figure:
    """Requests per second as published (pale, hatched) and as measured (solid), a panel each: heights of two
    machines say nothing on one axis.

    `summary` is `QpsTable.summary()`: one row a kind, server and MPM with published, median, min
    and max in requests per second, NaN where there is nothing. The whisker on a measured bar goes
    from the slowest to the fastest round; the article states no spread, nor how its script was run: its
    figures are shown with WSGI's alone. Other servers are grey. A figure with a * is a lower bound: the
    generator or the machine was the limit. Raises ValueError if columns are missing.
    """
    figure, places = _panels(kinds_of(summary))
    servers = [OURS, *(name for name in dict.fromkeys(summary["server"]) if name != OURS)]
    said = []
    for (kind, side), place in places.items():
        bars = _measured if side == MEASURED else _published
        for bar in bars(summary[summary["kind"] == kind], servers):
            figure.add_trace(bar, **place)
        column = "median" if side == MEASURED else "published"
        parts = (f"{mpm} {count(row[column])}" for mpm, row in by_mpm(summary, kind).items())
        said.append(f"{KIND_TITLES.get(kind, kind)}, {side}: {'; '.join(parts)}")
    note = spread(int(summary["rounds"].max()))
    if servers[1:]:
        note += f" · grey: {', '.join(servers[1:])}"
    if "bound" in summary and summary["bound"].any():
        note += f"<br>*: in some rounds {LIMITED}"
    dress(
        figure,
        f"Requests per second<br><sup>a scale each · solid: {note}</sup>",
        alt=f"Requests per second. {'. '.join(said)}.",
        height=180 + 260 * max(place["row"] for place in places.values()),
        bargap=0.14,
        bargroupgap=0.04,
        uniformtext={"minsize": 10, "mode": "show"},
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="requests per second", col=1)
    return figure


def _measured(summary: pandas.DataFrame, servers: list[str]) -> Iterator[go.Bar]:
    for group, server in enumerate(servers):
        for mpm, row in by_mpm(summary, summary["kind"].iloc[0], server).items():
            text = count(row["median"]) + "*" * bool(row.get("bound"))
            yield from measured_bars(mpm, row, float(summary["max"].max()), text, group=group)


def spread(rounds: int) -> str:
    """What a measured bar and its whisker are."""
    if rounds > 1:
        return "median; whisker: slowest and fastest round"
    return "one round, so no spread is known"


def _published(summary: pandas.DataFrame, _: list[str]) -> Iterator[go.Bar]:
    for mpm, row in by_mpm(summary, summary["kind"].iloc[0]).items():
        colour = colours.colour(mpm)
        hatched = {"shape": "/", "fgcolor": colour, "size": 6, "solidity": 0.15}
        look = {"line": {"color": colour, "width": 1.5}, "pattern": hatched}
        name, hover = f"{mpm}, published", "%{y:,.0f}/s published<extra></extra>"
        bar = go.Bar(x=[mpm], y=[row["published"]], name=name, hovertemplate=hover)
        bar.update(marker={"color": colours.pale(colour), **look}, cliponaxis=False)
        yield bar.update(text=[count(row["published"])], textposition="outside")


def _panels(kinds: list[str]) -> tuple[go.Figure, dict[tuple[str, str], dict[str, int]]]:
    """(kind, side) -> its panel, two in a row: as published, if the article has the kind, and measured."""
    sides = [(kind, side) for kind in kinds for side in (PUBLISHED, MEASURED)
             if side == MEASURED or kind in PRINTED]  # fmt: skip
    titles = [f"{KIND_TITLES.get(kind, kind)}, {side}" for kind, side in sides]
    rows = -(-len(sides) // 2)
    apart = {"horizontal_spacing": 0.1, "vertical_spacing": 0.3 / rows}
    figure = make_subplots(rows=rows, cols=min(2, len(sides)), subplot_titles=titles, **apart)
    places = ({"row": n // 2 + 1, "col": n % 2 + 1} for n in range(len(sides)))
    return figure, dict(zip(sides, places, strict=True))


def measured_bars(
    mpm: str, row: dict[str, Any], highest: float, text: str, *, group: int | str
) -> Iterator[go.Bar]:
    """A bar with its whisker: mpmkit's in the MPM's colour, another server's grey. The whisker crosses
    the bar's end, so it is drawn twice, a thin line in ink over a wide one in paper. The label stands at
    the foot of the bar, or above the whisker if the bar is too low: `highest` is the figure's highest."""
    server, dark = row["server"], colours.is_dark()
    colour = colours.colour(mpm if server == OURS else server)
    high = row["median"] > 0.16 * highest * (1 + text.count("<br>") / 2)
    yield go.Bar(
        x=[mpm], y=[row["median"]], name=f"{mpm}, {server}", offsetgroup=group, marker={"color": colour},
        error_y=_whisker(row, row["median"], colours.PAPER[dark], 5), text=[text if high else ""],
        textposition="inside", insidetextanchor="start", textangle=0,
        textfont={"color": colours.ink_on(colour), "size": 11},
        hovertemplate="%{y:,.0f}/s measured<extra></extra>",
    )  # fmt: skip
    yield go.Bar(
        x=[mpm], y=[row["max"]], offsetgroup=group, hoverinfo="skip",
        marker={"color": "rgba(0,0,0,0)", "line": {"width": 0}},
        error_y=_whisker(row, row["max"], colours.INK[dark], 1.5), text=["" if high else text],
        textposition="outside", cliponaxis=False, textfont={"size": 11},
    )  # fmt: skip


def _whisker(row: dict[str, float], at: float, colour: str, thickness: float) -> dict[str, Any]:
    spread = bool(row["max"] > row["min"])
    look = {"color": colour, "thickness": thickness, "width": 6, "visible": spread}
    ends = {"array": [row["max"] - at], "arrayminus": [at - row["min"]]}
    return {"type": "data", "symmetric": False, **look, **ends}


def kinds_of(summary: pandas.DataFrame) -> list[str]:
    """The kinds of page in it. Raises ValueError if columns are missing."""
    need(summary, COLUMNS, "QpsTable.summary()")
    return list(dict.fromkeys(summary["kind"]))


def by_mpm(summary: pandas.DataFrame, kind: str, server: str = OURS) -> dict[str, Any]:
    """MPM -> the row of that kind and server."""
    rows = summary[(summary["kind"] == kind) & (summary["server"] == server)]
    return {str(row["mpm"]): row for row in rows.to_dict("records")}
