"""mpmkit, the real httpd and the simulator in one figure: pools over time, requests per second.

    frames = {"simulated": run.to_frame(), "mpmkit": watched.to_frame(), "httpd": other.to_frame()}
    pools({"prefork": frames})

The frames are those of `mpmkit.watch` and `mpmkit.simulate`, which have the same columns.
"""

from __future__ import annotations

from typing import Any

import pandas
import plotly.graph_objects as go
from helpers.figures import measured_bars, need, spread
from plotly.subplots import make_subplots

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import OURS, dress

SIMULATED = "simulated"


def pools(
    runs: dict[str, dict[str, pandas.DataFrame]], column: str = "processes", *, title: str = ""
) -> go.Figure:
    """One quantity over time, a panel an MPM, a line for each server that was watched.

    runs    MPM -> "simulated", "mpmkit" or "httpd" -> frame with t (seconds) and the column
    The simulator is a broad pale band, mpmkit a line in the MPM's colour, others are grey and dashed,
    so that lines which lie on one another can all be seen. Raises ValueError for a missing column.
    """
    figure = make_subplots(
        cols=len(runs), subplot_titles=list(runs), horizontal_spacing=0.04, shared_yaxes=True
    )
    parts, named = [], set()
    for place, (mpm, by_server) in enumerate(runs.items(), 1):
        for who, frame in by_server.items():
            need(
                frame, ("t", column), f"a frame of mpmkit.watch or mpmkit.simulate for {mpm}, {who}"
            )
            known = frame[frame[column].notna()]
            values = known[column]
            line = go.Scatter(
                x=known["t"].tolist(), y=values.tolist(), mode="lines", name=who, legendgroup=who,
                line=_line(who, mpm), showlegend=who not in named,
                hovertemplate="%{y} at %{x:.1f} s<extra>" + f"{who}, {mpm}</extra>",
            )  # fmt: skip
            figure.add_trace(line, row=1, col=place)
            named.add(who)
            text = "nothing"
            if len(known):
                text = f"from {values.iloc[0]:g} to {values.iloc[-1]:g}, at most {values.max():g}"
            parts.append(f"{mpm}, {who}: {text}")
    dress(
        figure,
        title,
        alt=f"{title or column}. " + "; ".join(parts) + ".",
        showlegend=True,
        height=400,
        legend={"orientation": "h", "y": -0.28, "x": 0},
    )
    last = max(float(one["t"].max()) for whom in runs.values() for one in whom.values())
    figure.update_xaxes(title_text="seconds", range=[0, 1.02 * last])
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text=column, col=1)
    return figure


def rates(frame: pandas.DataFrame) -> go.Figure:
    """Requests per second of each server, grouped by MPM: mpmkit in the MPM's colour, others grey.

    `frame` is `QpsTable.to_frame()`: bars are the medians of the rounds, whiskers go from the slowest
    to the fastest round. A server without MPMs (nginx) stands alone. Raises ValueError without rows.
    """
    if not len(frame):
        raise ValueError("there are no rows; give QpsTable.to_frame() of a measured table")
    groups = frame.assign(mpm=frame["mpm"].fillna("")).groupby(["server", "mpm"], sort=False)["qps"]
    figure, parts = go.Figure(), []
    servers, mpms = list(dict.fromkeys(frame["server"])), [*colours.MPMS, ""]
    places = {key: (servers.index(key[0]), mpms.index(key[1])) for key, _ in groups}
    for (server, mpm), values in sorted(groups, key=lambda one: places[one[0]]):
        middle = float(values.median())
        row = {"server": server, "median": middle, "min": values.min(), "max": values.max()}
        text, group = f"{server}<br>{middle:,.0f}", server if mpm else OURS
        highest = float(frame["qps"].max())
        bars = measured_bars(mpm or server, row, highest, text, group=group)
        figure.add_traces(list(bars))
        parts.append(f"{server} {mpm}".strip() + f" {middle:,.0f}")
    dress(
        figure,
        f"Requests per second<br><sup>{spread(int(groups.size().max()))}</sup>",
        alt="Requests per second. " + "; ".join(parts) + ".",
        bargap=0.2,
        height=440,
    )
    figure.update_yaxes(title_text="requests per second", rangemode="tozero")
    return figure


def _line(who: str, mpm: str) -> dict[str, Any]:
    if who == SIMULATED:
        return {"color": colours.GRID[colours.is_dark()], "width": 12, "shape": "hv"}
    if who == OURS:
        return {"color": colours.stroke(mpm), "width": 3, "shape": "hv"}
    return {"color": colours.ink(), "width": 1.5, "dash": "dash", "shape": "hv"}
