"""Figures: functions that take rows and return plotly figures. They draw what is in the rows, only.

Each figure carries its description for those who can't see it in `layout.meta["alt"]` (see
`alt_text`), labels its bars directly, and draws the spread of the rounds. `save` writes it as PNG
and SVG.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

KIND_TITLES = {
    "static": "static page",
    "script": "script",
    "cgi": "script by CGI",
    "php-fpm": "script by PHP-FPM",
    "mod_php": "script by mod_php",
}
COLUMNS = (
    "kind",
    "server",
    "mpm",
    "rounds",
    "published",
    "median",
    "min",
    "max",
    "published_ratio",
    "ratio",
)
OURS = "mpmkit"
LIMITED = "the load generator was the limit, or the machine that it shares"
WIDTH = 960  # CSS pixels: a Lab page holds it, and the labels of six bars a panel fit


def qps_bars(summary: pandas.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Requests per second as published (pale, hatched) and as measured (solid), a panel a kind.

    `summary` is `QpsTable.summary()`: one row a kind, server and MPM with published, median, min
    and max in requests per second, NaN where there is nothing. The whisker on a measured bar goes
    from the slowest to the fastest round; the article states no spread. Servers other than ours
    stand beside in grey. A figure with a * is a lower bound: the generator or the machine was the limit.
    Raises ValueError if columns are missing.
    """
    import plotly.graph_objects as go

    kinds = _kinds(summary)
    dark = colours.is_dark(theme)
    others = [name for name in dict.fromkeys(summary["server"]) if name != OURS]
    highest = float(summary[["published", "max"]].max().max())
    figure, places = _panels(kinds)
    for kind, place in places.items():
        for mpm, row in _by_mpm(summary, kind).items():
            colour = colours.colour(mpm, theme)
            figure.add_trace(
                go.Bar(
                    x=[mpm],
                    y=[row["published"]],
                    name=f"{mpm}, published",
                    offsetgroup=0,
                    marker={
                        "color": _pale(colour),
                        "line": {"color": colour, "width": 1.5},
                        "pattern": {"shape": "/", "fgcolor": colour, "size": 6, "solidity": 0.15},
                    },
                    text=[_count(row["published"])],
                    textposition="outside",
                    cliponaxis=False,
                    hovertemplate="%{y:,.0f}/s published<extra></extra>",
                ),
                **place,
            )
        for group, server in enumerate((OURS, *others), 1):
            for mpm, row in _by_mpm(summary, kind, server).items():
                colour = colours.colour(mpm if server == OURS else server, theme)
                label = _count(row["median"]) + ("*" if row.get("bound") else "")
                for bar in measured_bars(mpm, row, colour, group, dark, highest, label):
                    figure.add_trace(bar, **place)
    spread = (
        "median; whisker: slowest and fastest round"
        if summary["rounds"].max() > 1
        else "one round, so no spread is known"
    )
    beside = f" · grey: {', '.join(others)}" if others else ""
    bound = "bound" in summary and bool(summary["bound"].any())
    if bound:
        beside += f"<br>*: in some rounds {LIMITED}"
    dress(
        figure,
        "Requests per second<br><sup>hatched: as published · solid: measured, "
        f"{spread}{beside}</sup>",
        theme,
    )
    more = 36 if bound else 0  # room for a second line under the title
    figure.update_layout(
        height=180 + more + 280 * max(place["row"] for place in places.values()),
        margin={"t": (figure.layout.margin.t or 100) + more},
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="requests per second", col=1)
    figure.update_layout(
        bargap=0.14,
        bargroupgap=0.04,
        uniformtext={"minsize": 10, "mode": "show"},
        meta={"alt": _qps_alt(summary, kinds)},
    )
    return figure


def _panels(kinds: list[str]) -> tuple[go.Figure, dict[str, dict[str, int]]]:
    """A panel a kind, all on one scale: side by side, and beyond two in rows of two, so that bars
    stay wide enough for their labels."""
    from plotly.subplots import make_subplots

    columns = min(2, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes="all",
        horizontal_spacing=0.06,
        vertical_spacing=0.16 if rows > 1 else None,
        subplot_titles=[KIND_TITLES.get(kind, kind) for kind in kinds],
    )
    return figure, {
        kind: {"row": n // columns + 1, "col": n % columns + 1} for n, kind in enumerate(kinds)
    }


def measured_bars(
    mpm: str,
    row: dict[str, Any],
    colour: str,
    group: int | str,
    dark: bool,
    highest: float,
    text: str = "",
) -> Any:
    """A bar with its whisker. The whisker crosses the bar's end, so it is drawn twice, a thin line
    in ink over a wide one in paper: it is seen on the bar and beside it. Its label stands at the
    foot of the bar, where no whisker is, or above the whisker if the bar is too low for it:
    `highest` is the highest value of the figure."""
    import plotly.graph_objects as go

    text = text or _count(row["median"])
    high = row["median"] > 0.16 * highest * (1 + text.count("<br>") / 2)
    yield go.Bar(
        x=[mpm],
        y=[row["median"]],
        name=f"{mpm}, {row['server']}",
        offsetgroup=group,
        marker={"color": colour},
        text=[text if high else ""],
        error_y=_whisker(row, colours.PAPER[dark], 5),
        textposition="inside",
        insidetextanchor="start",
        textangle=0,
        textfont={"color": _ink_on(colour), "size": 11},
        hovertemplate="%{y:,.0f}/s measured<extra></extra>",
    )
    yield go.Bar(
        x=[mpm],
        y=[row["max"]],
        offsetgroup=group,
        marker={"color": "rgba(0,0,0,0)", "line": {"width": 0}},
        text=["" if high else text],
        textposition="outside",
        cliponaxis=False,
        textfont={"size": 11},
        hoverinfo="skip",
        error_y=_whisker({**row, "median": row["max"]}, colours.INK[dark], 1.5),
    )


def rival_bars(others: pandas.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Requests per second of the servers that have no MPM of ours, a panel a kind.

    `others` is `QpsTable.others()`: one row a kind and server. Below each bar stands the MPM of ours
    that the server is compared with, in the bar its median, and how many times that MPM's it is. The
    whisker goes from the slowest to the fastest round. Raises ValueError if there is no rival.
    """
    if not len(others):
        raise ValueError(
            "there are no other servers in this table; measure them with "
            "beside=('nginx', 'gunicorn')"
        )
    dark = colours.is_dark(theme)
    kinds = list(dict.fromkeys(others["kind"]))
    figure, places = _panels(kinds)
    said = []
    highest = float(others["max"].max())
    for kind, place in places.items():
        told = []
        for row in others[others["kind"] == kind].to_dict("records"):
            ratio = row["ratio"]
            times = f"{ratio:.2f} x {row['stands_for']}" if ratio == ratio else row["stands_for"]
            for bar in measured_bars(
                f"{row['server']}<br><sup>{times}</sup>",
                row,
                colours.colour(row["server"], theme),
                0,
                dark,
                highest,
            ):
                figure.add_trace(bar, **place)
            told.append(f"{row['server']} {_count(row['median'])} ({times})")
        said.append(f"{KIND_TITLES.get(kind, kind)}: {'; '.join(told)}")
    spread = (
        "median; whisker: slowest and fastest round"
        if others["rounds"].max() > 1
        else "one round, so no spread is known"
    )
    dress(
        figure,
        f"Requests per second of other servers<br><sup>{spread} · "
        "below: times the MPM of ours that each is compared with</sup>",
        theme,
    )
    figure.update_layout(height=180 + 280 * max(place["row"] for place in places.values()))
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="requests per second", col=1)
    figure.update_layout(
        meta={"alt": "Requests per second of other servers. " + ". ".join(said) + "."}
    )
    return figure


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
            figure.add_trace(
                go.Scatter(
                    x=list(pair),
                    y=[label, label],
                    mode="lines+markers+text",
                    showlegend=False,
                    line={"color": colour, "width": 1, "dash": colours.DASHES[mpm]},
                    marker={
                        "size": 14,
                        "color": colour,
                        "symbol": [f"{symbol}-open", symbol],
                        "line": {"width": 2, "color": colour},
                    },
                    text=[f"published {pair[0]:.2f}", f"measured {pair[1]:.2f}"],
                    textposition=["top center", "bottom center"],
                    hovertemplate="%{x:.2f} × prefork<extra></extra>",
                )
            )
            lines.append(f"{label}: {pair[0]:.2f} published, {pair[1]:.2f} measured")
    figure.add_vline(
        x=1,
        line={"color": ink, "width": 1, "dash": "dot"},
        annotation_text="prefork",
        annotation_position="top",
    )
    dress(figure, "Requests per second as a multiple of prefork's", theme)
    # Room for the labels, which plotly does not count when it chooses a range.
    low, high = min([1.0, *values]), max([1.0, *values])
    room = 0.12 * (high - low) + 0.02
    figure.update_xaxes(title_text="× prefork", range=[low - room, high + room])
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(
        margin={"l": 150},
        height=140 + 90 * max(1, len(lines)),
        meta={"alt": "Multiples of prefork's requests per second. " + "; ".join(lines) + "."},
    )
    return figure


# ---------------------------------------------------------------- memory and sweeps

AGAINST = {"busy": "requests being served at once", "idle": "kept-alive connections, idle"}
SERVER_COLOUR = "#777777"  # a rival that has no colour of its own
PARTS = {
    "code": "code (files)",
    "heap": "heap",
    "anonymous": "other anonymous",
    "stacks": "stacks",
    "shm": "shared memory",
}


def memory_curve(
    frame: pandas.DataFrame, against: str = "busy", *, theme: str | None = None
) -> go.Figure:
    """Memory (PSS, MiB) of the whole server against busy requests or idle connections, a line an MPM.

    `frame` is the records table memory (`MemoryTable.to_frame()`, or `mpmkit.recorded("memory")`).
    A marker is a measured level, the median of its rounds, and stands where the server got to: under
    prefork and worker the line of idle connections ends where the workers do. Each line has its name
    and the cost of one more at its end. Rivals are grey. Raises ValueError if there is nothing of
    that kind.
    """
    import plotly.graph_objects as go

    from mpmkit.measure.sizing import slope

    rows = _memory_rows(frame, against)
    dark = colours.is_dark(theme)
    figure = go.Figure()
    told: list[str] = []
    ends: list[tuple[float, float, str]] = []
    for (server, mpm), own in _by_server(rows):
        middle = own.groupby("held")["pss_kb"].median()
        xs, ys = [float(x) for x in middle.index], [float(y) / 1024 for y in middle]
        colour = _server_colour(server, mpm, theme)
        name = mpm if server == OURS else f"{server} {mpm}".strip()
        cost = ""
        if len(xs) > 1:
            one_more = slope(list(own["held"]), list(own["pss_kb"])).slope
            cost = f", {_short(one_more)} KiB each"
        figure.add_trace(
            go.Scatter(
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
        )
        ends.append((ys[-1], xs[-1], f" {name}{cost}"))
        told.append(
            f"{name}: {ys[0]:,.0f} MiB at {xs[0]:,.0f}, {ys[-1]:,.0f} at {xs[-1]:,.0f}{cost}"
        )
    most = max(x for _, x, *_ in ends)
    # Lines that end at nearly the same place have their labels in one column, clear of all markers.
    ends = [(y, most if x > 0.95 * most else x, text) for y, x, text in ends]
    for y, x, text in _apart(ends):
        figure.add_annotation(
            x=x,
            y=y,
            text=text,
            showarrow=False,
            xanchor="left",
            xshift=4,
            font={"color": colours.INK[dark], "size": 13},
        )
    what = "busy request" if against == "busy" else "idle connection"
    dress(
        figure,
        f"Memory of the whole server<br><sup>PSS, shared pages divided among who shares "
        f"them · at each line's end: what one more {what} costs</sup>",
        theme,
    )
    figure.update_xaxes(
        title_text=AGAINST[against], range=[-0.03 * most, 1.42 * most or 1], rangemode="tozero"
    )
    figure.update_yaxes(title_text="MiB", rangemode="tozero")
    figure.update_layout(
        meta={"alt": f"Memory against {AGAINST[against]}. " + "; ".join(told) + "."}
    )
    return figure


def memory_parts(
    frame: pandas.DataFrame, against: str = "busy", *, theme: str | None = None
) -> go.Figure:
    """What the memory of each server is made of at its highest level: a stacked bar a server, in MiB
    of PSS, with summed RSS beside as an outline, which counts shared pages once for each process.

    `frame` as for `memory_curve`. Raises ValueError if there is nothing of that kind.
    """
    import plotly.graph_objects as go

    rows = _memory_rows(frame, against)
    dark = colours.is_dark(theme)
    figure = go.Figure()
    names, tops, told = [], [], []
    for (server, mpm), own in _by_server(rows):
        level = own["level"].max()
        at = own[own["level"] == level]
        held = int(at["held"].median())
        name = mpm if server == OURS else f"{server} {mpm}".strip()
        names.append(f"{name}<br>{held:,} {against}")
        tops.append(
            {part: float(at[f"{part}_kb"].median()) / 1024 for part in (*PARTS, "pss", "rss")}
        )
        told.append(
            f"{name} with {held:,}: PSS {tops[-1]['pss']:,.0f} MiB, summed RSS "
            f"{tops[-1]['rss']:,.0f}"
        )
    for number, (part, title) in enumerate(PARTS.items()):
        shade = (0.25, 0.45, 0.65, 0.85, 1.0)[number]
        red, green, blue = _rgb(colours.INK[dark])
        values = [top[part] for top in tops]
        figure.add_trace(
            go.Bar(
                x=names,
                y=values,
                name=title,
                offsetgroup=0,
                marker={"color": f"rgba({red},{green},{blue},{shade})"},
                # The last one is on top of the stack, and has the sum above it.
                text=[f"PSS {top['pss']:,.0f}" for top in tops] if part == "shm" else None,
                textposition="outside" if part == "shm" else "none",
                constraintext="none",
                cliponaxis=False,
                hovertemplate="%{y:,.1f} MiB " + title + "<extra></extra>",
            )
        )
    figure.add_trace(
        go.Bar(
            x=names,
            y=[top["rss"] for top in tops],
            name="summed RSS",
            offsetgroup=1,
            marker={"color": "rgba(0,0,0,0)", "line": {"color": colours.INK[dark], "width": 1.5}},
            text=[f"RSS {top['rss']:,.0f}" for top in tops],
            textposition="outside",
            constraintext="none",
            cliponaxis=False,
            hovertemplate="%{y:,.1f} MiB summed RSS<extra></extra>",
        )
    )
    dress(
        figure,
        "What the memory is made of<br><sup>filled: PSS by kind, adds up · outline: summed "
        "RSS, counts shared pages once for each process</sup>",
        theme,
    )
    figure.update_yaxes(title_text="MiB", rangemode="tozero")
    figure.update_layout(
        barmode="stack",
        showlegend=True,
        legend={"orientation": "h", "y": -0.2},
        meta={"alt": "What the memory is made of. " + "; ".join(told) + "."},
    )
    return figure


def sweep_heat(
    summary: pandas.DataFrame,
    x: str,
    y: str,
    *,
    value: str = "qps",
    mpm: str | None = None,
    theme: str | None = None,
) -> go.Figure:
    """A sweep over two names as a map: `value` (qps, p50_ms, p99_ms) of each point, written into it.

    `summary` is `SweepTable.summary()`. A point at which the generator, or the machine that it shares
    with the server, was the limit has a *. With more than one MPM in it, say which. Raises ValueError
    if names or rows are missing, or a point is there twice (another name of the grid varies too).
    """
    import plotly.graph_objects as go

    rows = _sweep_rows(summary, (x, y, value), mpm)
    if rows.duplicated([x, y]).any():
        raise ValueError(
            f"{x} and {y} do not tell the points apart; choose the rows of one value of "
            "the others first"
        )
    xs, ys = sorted(rows[x].unique()), sorted(rows[y].unique())
    found = {(row[x], row[y]): row for row in rows.to_dict("records")}

    def cell(column: Any, line: Any) -> str:
        row = found.get((column, line))
        if row is None or row[value] != row[value]:
            return ""
        text = _count(row[value]) if value == "qps" else f"{row[value]:,.1f}"
        return text + ("*" if row["limited"] else "")

    numbers = [
        [found[column, line][value] if (column, line) in found else None for column in xs]
        for line in ys
    ]
    unit = {
        "qps": "requests per second",
        "p50_ms": "median latency, ms",
        "p99_ms": "99th percentile of latency, ms",
    }.get(value, value)
    figure = go.Figure(
        go.Heatmap(
            x=[str(one) for one in xs],
            y=[str(one) for one in ys],
            z=numbers,
            colorscale="Cividis",
            text=[[cell(column, line) for column in xs] for line in ys],
            texttemplate="%{text}",
            colorbar={"title": {"text": unit, "side": "right"}},
            xgap=2,
            ygap=2,
            hovertemplate=f"{x} %{{x}}, {y} %{{y}}: %{{text}}<extra></extra>",
        )
    )
    name = str(rows["mpm"].iloc[0])
    bound = f" · *: {LIMITED}" if rows["limited"].any() else ""
    dress(figure, f"{name}: {unit}<br><sup>{y} against {x}{bound}</sup>", theme)
    figure.update_xaxes(title_text=x, type="category")
    figure.update_yaxes(title_text=y, type="category")
    best = rows.loc[rows["qps"].idxmax()]
    figure.update_layout(
        meta={
            "alt": f"{unit} of {name} for {len(rows)} points; most requests per "
            f"second with {x} {best[x]} and {y} {best[y]}: "
            f"{_count(best['qps'])}."
        }
    )
    return figure


def sweep_curve(
    summary: pandas.DataFrame, x: str, *, value: str = "qps", theme: str | None = None
) -> go.Figure:
    """A sweep over one name as a curve, a line an MPM, with its knee marked: beyond it more `x` gives
    little more.

    `summary` is `SweepTable.summary()`. A hollow marker is a point at which the generator, or the
    machine that it shares with the server, was the limit. Raises ValueError if names are missing or
    `x` is not made of numbers.
    """
    import plotly.graph_objects as go

    from mpmkit.measure.stats import knee

    rows = _sweep_rows(summary, (x, value), None, one=False)
    if not all(isinstance(v, int | float) for v in rows[x].tolist()):
        raise ValueError(f"{x} is not made of numbers; a curve needs some")
    figure = go.Figure()
    dark, told, ends = colours.is_dark(theme), [], []
    for mpm, own in rows.groupby("mpm", sort=False):
        own = own.sort_values(x)
        xs, ys = own[x].tolist(), own[value].tolist()
        colour, symbol = colours.colour(str(mpm), theme), colours.MARKERS[str(mpm)]
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=ys,
                mode="lines+markers",
                showlegend=False,
                name=str(mpm),
                line={"color": colour, "width": 2.5, "dash": colours.DASHES[str(mpm)]},
                marker={
                    "size": 10,
                    "color": colour,
                    "symbol": [
                        f"{symbol}-open" if limited else symbol for limited in own["limited"]
                    ],
                },
                hovertemplate=f"{x} %{{x}}: %{{y:,.1f}}<extra>{mpm}</extra>",
            )
        )
        ends.append((ys[-1], xs[-1], f" {mpm}"))
        bend = knee(xs, ys) if value == "qps" else None
        if bend is not None:
            figure.add_annotation(
                x=bend,
                y=ys[xs.index(bend)],
                text=f"knee: {bend:g}",
                ay=-36,
                ax=0,
                arrowcolor=colour,
                font={"color": colours.INK[dark]},
            )
        told.append(
            f"{mpm}: "
            + ", ".join(f"{_count(v)} at {one:g}" for one, v in zip(xs, ys, strict=True))
            + (f", knee at {bend:g}" if bend is not None else "")
        )
    for y, end, text in _apart(ends):
        figure.add_annotation(
            x=end,
            y=y,
            text=text,
            showarrow=False,
            xanchor="left",
            font={"color": colours.INK[dark], "size": 13},
        )
    unit = {
        "qps": "requests per second",
        "p50_ms": "median latency (ms)",
        "p99_ms": "99th percentile of latency (ms)",
    }.get(value, value)
    hollow = f"<br><sup>hollow: {LIMITED}</sup>" if rows["limited"].any() else ""
    dress(figure, f"{unit[0].upper()}{unit[1:]} against {x}{hollow}", theme)
    low, high = min(rows[x]), max(rows[x])
    figure.update_xaxes(title_text=x, range=[low - 0.04 * (high - low), high + 0.18 * (high - low)])
    figure.update_yaxes(title_text=unit, rangemode="tozero")
    figure.update_layout(meta={"alt": f"{unit} against {x}. " + "; ".join(told) + "."})
    return figure


def alt_text(figure: go.Figure) -> str:
    """What the figure shows, in words and numbers, for a reader who can't see it."""
    meta: Any = figure.layout.meta
    return str((meta or {}).get("alt", ""))


def save(
    figure: go.Figure,
    stem: str | os.PathLike[str],
    *,
    width: int = WIDTH,
    height: int | None = None,
    scale: float = 2,
) -> tuple[Path, Path]:
    """Write STEM.png and STEM.svg; returns both paths. Pixels are CSS pixels times `scale`; the
    height is the figure's own unless told.

    Needs kaleido and a Chromium; raises RuntimeError that says which of them is missing.
    """
    browser = find_browser()
    if browser is None:
        raise RuntimeError(
            "a figure becomes a picture in a Chromium, and there is none; "
            "apt install chromium, or set BROWSER_PATH"
        )
    os.environ.setdefault("BROWSER_PATH", browser)
    try:
        import kaleido  # noqa: F401
    except ImportError:
        raise RuntimeError("kaleido is not installed; pip install kaleido") from None
    paths = Path(f"{os.fspath(stem)}.png"), Path(f"{os.fspath(stem)}.svg")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.write_image(
            path, width=width, height=height or figure.layout.height or 460, scale=scale
        )
    return paths


# ---------------------------------------------------------------- helpers


def _kinds(summary: pandas.DataFrame) -> list[str]:
    missing = [name for name in COLUMNS if name not in summary.columns]
    if missing:
        raise ValueError(f"the rows lack {', '.join(missing)}; give QpsTable.summary()")
    return list(dict.fromkeys(summary["kind"]))


def _memory_rows(frame: pandas.DataFrame, against: str) -> pandas.DataFrame:
    if against not in AGAINST:
        raise ValueError(f"against: {against!r} is none of {', '.join(AGAINST)}")
    missing = [
        name
        for name in ("server", "mpm", "against", "scope", "held", "level", "pss_kb", "rss_kb")
        if name not in frame.columns
    ]
    if missing:
        raise ValueError(f"the rows lack {', '.join(missing)}; give MemoryTable.to_frame()")
    rows = frame[(frame["against"] == against) & (frame["scope"] == "server")]
    if not len(rows):
        raise ValueError(f"nothing was measured against {against}")
    return rows


def _by_server(rows: pandas.DataFrame) -> list[tuple[tuple[str, str], pandas.DataFrame]]:
    """((server, MPM or ""), its rows); ours first."""
    mpms = rows["mpm"].fillna("")
    keys = list(dict.fromkeys(zip(rows["server"], mpms, strict=True)))
    keys.sort(key=lambda key: key[0] != OURS)
    return [(key, rows[(rows["server"] == key[0]) & (mpms == key[1])]) for key in keys]


def _server_colour(server: str, mpm: str, theme: str | None) -> str:
    if server == OURS:
        return colours.colour(mpm, theme)
    return colours.OTHERS.get(server, SERVER_COLOUR)


def _apart(ends: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Labels at lines' ends, (y, x, text), moved up so that none lies on another."""
    room = 0.055 * max((y for y, *_ in ends), default=0)
    width = 0.4 * max((x for _, x, _ in ends), default=0)
    placed: list[tuple[float, float, str]] = []
    for y, x, text in sorted(ends):
        below = [other for other, place, _ in placed if abs(place - x) < width]
        if below and y - max(below) < room:
            y = max(below) + room
        placed.append((y, x, text))
    return placed


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def _sweep_rows(
    summary: pandas.DataFrame, names: tuple[str, ...], mpm: str | None, *, one: bool = True
) -> pandas.DataFrame:
    """The rows of `mpm`, with a column `limited`: by the generator, or by what it shares."""
    missing = [
        name for name in (*names, "mpm", "qps", "generator_bound") if name not in summary.columns
    ]
    if missing:
        raise ValueError(f"the rows lack {', '.join(missing)}; give SweepTable.summary()")
    rows = summary if mpm is None else summary[summary["mpm"] == mpm]
    there = list(dict.fromkeys(summary["mpm"]))
    if not len(rows) or (one and rows["mpm"].nunique() > 1):
        raise ValueError(f"say which MPM: {', '.join(there) or 'there are no rows'}")
    limited = rows["generator_bound"].astype(bool)
    if "generator_starved" in rows:
        limited |= rows["generator_starved"].astype(bool)
    return rows.assign(limited=limited)


def _by_mpm(summary: pandas.DataFrame, kind: str, server: str = OURS) -> dict[str, Any]:
    rows = summary[(summary["kind"] == kind) & (summary["server"] == server)]
    return {str(row["mpm"]): row for row in rows.to_dict("records")}


def _whisker(row: dict[str, float], colour: str, thickness: float) -> dict[str, Any]:
    above, below = row["max"] - row["median"], row["median"] - row["min"]
    return {
        "type": "data",
        "symmetric": False,
        "array": [above],
        "arrayminus": [below],
        "visible": above + below > 0,
        "thickness": thickness,
        "width": 6,
        "color": colour,
    }


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


def dress(figure: go.Figure, title: str, theme: str | None) -> None:
    """Title, colours, fonts and quiet axes, as all figures here have them."""
    settings = colours.layout(theme)
    axes = settings.pop("xaxis"), settings.pop("yaxis")
    figure.update_layout(
        title={"text": title, "x": 0, "xref": "paper"},
        showlegend=False,
        width=WIDTH,
        height=460,
        **settings,
    )
    figure.update_xaxes(**axes[0])
    figure.update_yaxes(**axes[1])


def _qps_alt(summary: pandas.DataFrame, kinds: list[str]) -> str:
    sentences = []
    for kind in kinds:
        told = [
            f"{mpm} {_count(row['published'])} published and {_count(row['median'])} measured"
            for mpm, row in _by_mpm(summary, kind).items()
        ]
        sentences.append(f"{KIND_TITLES.get(kind, kind)}: {'; '.join(told)}")
    return "Requests per second. " + ". ".join(sentences) + "."


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """A Chromium for kaleido, or None. BROWSER_PATH wins, as it does in kaleido itself."""
    told = os.environ.get("BROWSER_PATH")
    return told or next((found for name in BROWSERS if (found := shutil.which(name))), None)
