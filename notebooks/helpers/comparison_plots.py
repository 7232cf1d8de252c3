"""Ours, the real httpd and the simulator over one another: pools over time, requests per second.

    frames = {"simulated": run.to_frame(), "mpmkit": watched.to_frame(), "httpd": other.to_frame()}
    pools({"prefork": frames})

The frames are those of `mpmkit.watch` and `mpmkit.simulate`, which have the same columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours
from mpmkit.lab.figures import OURS, WIDTH, measured_bars

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

SIMULATED = "simulated"


def pools(
    runs: dict[str, dict[str, pandas.DataFrame]],
    column: str = "processes",
    *,
    title: str = "",
    theme: str | None = None,
) -> go.Figure:
    """One quantity over time, a panel an MPM, a line for each of who was watched.

    runs    MPM -> who ("simulated", "mpmkit", "httpd") -> frame with t (seconds) and the column
    The simulator is a broad pale band, ours a line in the MPM's colour, others are grey and dashed,
    so that lines which lie on one another can all be seen. Raises ValueError for a missing column.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    dark = colours.is_dark(theme)
    figure = make_subplots(cols=len(runs), subplot_titles=list(runs), horizontal_spacing=0.07)
    told, named = [], set()
    for place, (mpm, by_whom) in enumerate(runs.items(), 1):
        for who, frame in by_whom.items():
            if column not in frame.columns or "t" not in frame.columns:
                raise ValueError(
                    f"the frame of {mpm}, {who} lacks {column!r} or 't'; give one of "
                    "mpmkit.watch or mpmkit.simulate"
                )
            known = frame[frame[column].notna()]
            figure.add_trace(
                go.Scatter(
                    x=known["t"].tolist(),
                    y=known[column].tolist(),
                    mode="lines",
                    name=who,
                    line=_line(who, mpm, dark, theme),
                    showlegend=who not in named,
                    legendgroup=who,
                    hovertemplate="%{y} at %{x:.1f} s<extra>" + f"{who}, {mpm}</extra>",
                ),
                row=1,
                col=place,
            )
            named.add(who)
            told.append(
                f"{mpm}, {who}: from {known[column].iloc[0]:g} to {known[column].iloc[-1]:g}, "
                f"at most {known[column].max():g}"
                if len(known)
                else f"{mpm}, {who}: nothing"
            )
    _dress(figure, title, theme)
    figure.update_xaxes(title_text="seconds")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text=column, col=1)
    figure.update_layout(
        showlegend=True,
        height=400,
        legend={"orientation": "h", "y": -0.28, "x": 0},
        meta={"alt": f"{title or column}. " + "; ".join(told) + "."},
    )
    return figure


def rates(frame: pandas.DataFrame, *, theme: str | None = None) -> go.Figure:
    """Requests per second of each server, grouped by MPM: ours in the MPM's colour, others grey.

    `frame` is `QpsTable.to_frame()`: bars are the medians of the rounds, whiskers go from the slowest
    to the fastest round. A server without MPMs (nginx) stands alone. Raises ValueError without rows.
    """
    import plotly.graph_objects as go

    if not len(frame):
        raise ValueError("there are no rows; give QpsTable.to_frame() of a measured table")
    groups = frame.assign(mpm=frame["mpm"].fillna("")).groupby(["server", "mpm"], sort=False)["qps"]
    servers = list(dict.fromkeys(frame["server"]))
    figure, told = go.Figure(), []
    highest, dark = float(frame["qps"].max()), colours.is_dark(theme)
    for server in servers:
        for (who, mpm), values in groups:
            if who != server:
                continue
            middle, low, high = float(values.median()), float(values.min()), float(values.max())
            colour = (
                colours.colour(mpm, theme)
                if server == OURS
                else colours.OTHERS.get(server, "#777777")
            )
            row = {"server": server, "median": middle, "min": low, "max": high}
            for bar in measured_bars(
                mpm or server,
                row,
                colour,
                server if mpm else OURS,
                dark,
                highest,
                f"{server}<br>{middle:,.0f}",
            ):
                figure.add_trace(bar)
            told.append(f"{server} {mpm}".strip() + f" {middle:,.0f}")
    rounds = int(groups.size().max())
    spread = (
        "whisker: slowest and fastest round" if rounds > 1 else "one round, so no spread is known"
    )
    _dress(figure, f"Requests per second<br><sup>median · {spread}</sup>", theme)
    figure.update_yaxes(title_text="requests per second", rangemode="tozero")
    figure.update_layout(
        bargap=0.2,
        height=440,
        showlegend=False,
        meta={"alt": "Requests per second. " + "; ".join(told) + "."},
    )
    return figure


def _line(who: str, mpm: str, dark: bool, theme: str | None) -> dict[str, Any]:
    if who == SIMULATED:
        return {"color": colours.GRID[dark], "width": 12, "shape": "hv"}
    if who == OURS:
        return {"color": colours.colour(mpm, theme), "width": 3, "shape": "hv"}
    return {"color": colours.INK[dark], "width": 1.5, "dash": "dash", "shape": "hv"}


def _dress(figure: Any, title: str, theme: str | None) -> None:
    settings = colours.layout(theme)
    axes = settings.pop("xaxis"), settings.pop("yaxis")
    figure.update_layout(title={"text": title, "x": 0, "xref": "paper"}, width=WIDTH, **settings)
    figure.update_xaxes(**axes[0])
    figure.update_yaxes(**axes[1])
