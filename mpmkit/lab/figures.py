"""Figures: functions that take rows and return plotly figures. They draw what is in the rows, only.

Each figure carries its description for those who can't see it in `layout.meta["alt"]` (see
`alt_text`), labels its bars directly, and draws the spread of the rounds. `save` writes it as PNG
and SVG.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

KIND_TITLES = {"static": "static page", "script": "script"}
COLUMNS = ("kind", "server", "mpm", "rounds", "published", "median", "min", "max",
           "published_ratio", "ratio")
OURS = "mpmkit"
WIDTH = 960  # CSS pixels: a Lab page holds it, and the labels of six bars a panel fit


def qps_bars(summary: pandas.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Requests per second as published (pale, hatched) and as measured (solid), a panel a kind.

    `summary` is `QpsTable.summary()`: one row a kind, server and MPM with published, median, min
    and max in requests per second, NaN where there is nothing. The whisker on a measured bar goes
    from the slowest to the fastest round; the article states no spread. Servers other than ours
    stand beside in grey. Raises ValueError if columns are missing.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    kinds = _kinds(summary)
    dark = colours.is_dark(theme)
    others = [name for name in dict.fromkeys(summary["server"]) if name != OURS]
    figure = make_subplots(
        cols=len(kinds), shared_yaxes=True, horizontal_spacing=0.06,
        subplot_titles=[KIND_TITLES.get(kind, kind) for kind in kinds])
    for place, kind in enumerate(kinds, 1):
        for mpm, row in _by_mpm(summary, kind).items():
            colour = colours.colour(mpm, theme)
            figure.add_trace(go.Bar(
                x=[mpm], y=[row["published"]], name=f"{mpm}, published", offsetgroup=0,
                marker={"color": _pale(colour), "line": {"color": colour, "width": 1.5},
                        "pattern": {"shape": "/", "fgcolor": colour, "size": 6, "solidity": 0.15}},
                text=[_count(row["published"])], textposition="outside", cliponaxis=False,
                hovertemplate="%{y:,.0f}/s published<extra></extra>"), row=1, col=place)
        for group, server in enumerate((OURS, *others), 1):
            for mpm, row in _by_mpm(summary, kind, server).items():
                colour = colours.colour(mpm if server == OURS else server, theme)
                for bar in _measured_bars(mpm, row, colour, group, dark):
                    figure.add_trace(bar, row=1, col=place)
    spread = ("median; whisker: slowest and fastest round" if summary["rounds"].max() > 1
              else "one round, so no spread is known")
    beside = f" · grey: {', '.join(others)}" if others else ""
    _dress(figure, "Requests per second<br><sup>hatched: as published · solid: measured here, "
                   f"{spread}{beside}</sup>", theme)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="requests per second", col=1)
    figure.update_layout(bargap=0.14, bargroupgap=0.04, uniformtext={"minsize": 10, "mode": "show"},
                         meta={"alt": _qps_alt(summary, kinds)})
    return figure


def _measured_bars(mpm: str, row: dict[str, float], colour: str, group: int, dark: bool) -> Any:
    """A bar with its whisker. The whisker crosses the bar's end, so it is drawn twice, a thin line
    in ink over a wide one in paper: it is seen on the bar and beside it."""
    import plotly.graph_objects as go

    yield go.Bar(
        x=[mpm], y=[row["median"]], name=f"{mpm}, {row['server']}", offsetgroup=group,
        marker={"color": colour}, text=[_count(row["median"])],
        error_y=_whisker(row, colours.PAPER[dark], 5),
        textposition="inside", insidetextanchor="middle", textangle=0,
        textfont={"color": _ink_on(colour), "size": 11},
        hovertemplate="%{y:,.0f}/s measured<extra></extra>")
    yield go.Bar(
        x=[mpm], y=[row["median"]], offsetgroup=group, marker={"color": "rgba(0,0,0,0)"},
        error_y=_whisker(row, colours.INK[dark], 1.5), hoverinfo="skip")


def ratio_dots(summary: pandas.DataFrame, *, theme: str | None = None) -> go.Figure:
    """How many times prefork each MPM is, published beside measured: the shape without the machine.

    `summary` as for `qps_bars`. A hollow marker is the article's ratio, a filled one this
    machine's median over prefork's median; the line at 1 is prefork itself.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    ink = colours.INK[colours.is_dark(theme)]
    lines: list[str] = []
    values: list[float] = []
    for kind in _kinds(summary):
        for mpm, row in _by_mpm(summary, kind).items():
            if mpm == "prefork":
                continue
            label = f"{mpm}, {KIND_TITLES.get(kind, kind)}"
            pair = row["published_ratio"], row["ratio"]
            values += [ratio for ratio in pair if ratio == ratio]  # without NaN
            colour, symbol = colours.colour(mpm, theme), colours.MARKERS[mpm]
            figure.add_trace(go.Scatter(
                x=list(pair), y=[label, label], mode="lines+markers+text", showlegend=False,
                line={"color": colour, "width": 1, "dash": colours.DASHES[mpm]},
                marker={"size": 14, "color": colour, "symbol": [f"{symbol}-open", symbol],
                        "line": {"width": 2, "color": colour}},
                text=[f"published {pair[0]:.2f}", f"measured {pair[1]:.2f}"],
                textposition=["top center", "bottom center"],
                hovertemplate="%{x:.2f} × prefork<extra></extra>"))
            lines.append(f"{label}: {pair[0]:.2f} published, {pair[1]:.2f} measured")
    figure.add_vline(x=1, line={"color": ink, "width": 1, "dash": "dot"},
                     annotation_text="prefork", annotation_position="top")
    _dress(figure, "Requests per second as a multiple of prefork's", theme)
    # Room for the labels, which plotly does not count when it chooses a range.
    low, high = min([1.0, *values]), max([1.0, *values])
    room = 0.12 * (high - low) + 0.02
    figure.update_xaxes(title_text="× prefork", range=[low - room, high + room])
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(margin={"l": 150}, height=140 + 90 * max(1, len(lines)), meta={
        "alt": "Multiples of prefork's requests per second. " + "; ".join(lines) + "."})
    return figure


def alt_text(figure: go.Figure) -> str:
    """What the figure shows, in words and numbers, for a reader who can't see it."""
    meta: Any = figure.layout.meta
    return str((meta or {}).get("alt", ""))


def save(figure: go.Figure, stem: str | os.PathLike[str], *, width: int = WIDTH,
         height: int = 460, scale: float = 2) -> tuple[Path, Path]:
    """Write STEM.png and STEM.svg; returns both paths. Pixels are CSS pixels times `scale`.

    Needs kaleido and a Chromium; raises RuntimeError that says which of them is missing.
    """
    from mpmkit.lab.render import find_browser

    browser = find_browser()
    if browser is None:
        raise RuntimeError("a figure becomes a picture in a Chromium, and there is none; "
                           "apt install chromium, or set BROWSER_PATH")
    os.environ.setdefault("BROWSER_PATH", browser)
    try:
        import kaleido  # noqa: F401
    except ImportError:
        raise RuntimeError("kaleido is not installed; pip install kaleido") from None
    paths = Path(f"{os.fspath(stem)}.png"), Path(f"{os.fspath(stem)}.svg")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.write_image(path, width=width, height=height, scale=scale)
    return paths


# ---------------------------------------------------------------- helpers


def _kinds(summary: pandas.DataFrame) -> list[str]:
    missing = [name for name in COLUMNS if name not in summary.columns]
    if missing:
        raise ValueError(f"the rows lack {', '.join(missing)}; give QpsTable.summary()")
    return list(dict.fromkeys(summary["kind"]))


def _by_mpm(summary: pandas.DataFrame, kind: str, server: str = OURS) -> dict[str, Any]:
    rows = summary[(summary["kind"] == kind) & (summary["server"] == server)]
    return {str(row["mpm"]): row for row in rows.to_dict("records")}


def _whisker(row: dict[str, float], colour: str, thickness: float) -> dict[str, Any]:
    above, below = row["max"] - row["median"], row["median"] - row["min"]
    return {"type": "data", "symmetric": False, "array": [above], "arrayminus": [below],
            "visible": above + below > 0, "thickness": thickness, "width": 6, "color": colour}


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == value else "–"  # NaN is the one value unlike itself


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _pale(colour: str) -> str:
    red, green, blue = _rgb(colour)
    return f"rgba({red},{green},{blue},0.12)"


def _ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a bar of that colour."""
    red, green, blue = _rgb(colour)
    return "#FFFFFF" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#111111"


def _dress(figure: go.Figure, title: str, theme: str | None) -> None:
    settings = colours.layout(theme)
    axes = settings.pop("xaxis"), settings.pop("yaxis")
    figure.update_layout(title={"text": title, "x": 0, "xref": "paper"}, showlegend=False,
                         width=WIDTH, height=460, **settings)
    figure.update_xaxes(**axes[0])
    figure.update_yaxes(**axes[1])


def _qps_alt(summary: pandas.DataFrame, kinds: list[str]) -> str:
    sentences = []
    for kind in kinds:
        told = [f"{mpm} {_count(row['published'])} published and {_count(row['median'])} measured"
                for mpm, row in _by_mpm(summary, kind).items()]
        sentences.append(f"{KIND_TITLES.get(kind, kind)}: {'; '.join(told)}")
    return "Requests per second. " + ". ".join(sentences) + "."
