"""Figures of a sweep: a map over two names of the grid, a curve over one."""

from __future__ import annotations

from typing import Any

import pandas
import plotly.graph_objects as go
from helpers.figures import HEAT, LIMITED, ON_HEAT, count, need
from helpers.labels import label_lines

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress, mpm_line
from mpmkit.measure.stats import knee

UNITS = {
    "qps": "requests per second",
    "p50_ms": "median latency, ms",
    "p99_ms": "99th percentile of latency, ms",
    "turn_ms": "a user's turn, N/X, ms",
}


def turn_ms(row: Any) -> Any:
    """How long a user's turn takes, N/X in ms, of a row or a frame of them. Users who are never let in
    count, too: a percentile of the answers does not know them."""
    return 1000 * row["users"] / row["qps"]


def sweep_heat(
    summary: pandas.DataFrame, x: str, y: str, *, value: str = "qps", mpm: str | None = None
) -> go.Figure:
    """A sweep over two names as a map: `value` (qps, p50_ms, p99_ms) of each point, written into it.

    `summary` is `SweepTable.summary()`. A point at which the generator, or the machine that it shares
    with the server, was the limit has a *. With more than one MPM in it, say which. Raises ValueError
    if names or rows are missing, or a point is there twice (another name of the grid varies too).
    """
    rows = _rows(summary, (x, y, value), mpm)
    if rows.duplicated([x, y]).any():
        raise ValueError(
            f"{x} and {y} do not tell the points apart; choose the rows of one value of the others first"
        )
    form = "{:,.0f}" if value == "qps" else "{:,.1f}"
    words = rows[value].map(form.format) + rows["limited"].map({True: "*", False: ""})
    words = words.where(rows[value].notna(), "")
    table = rows.assign(words=words).pivot(index=y, columns=x, values=[value, "words"])
    unit = UNITS.get(value, value)
    figure = go.Figure(
        go.Heatmap(
            x=[str(one) for one in table[value].columns],
            y=[str(one) for one in table.index],
            z=table[value].to_numpy().tolist(),
            colorscale=HEAT,
            text=table["words"].fillna("").to_numpy().tolist(),
            texttemplate="%{text}",
            textfont={"color": ON_HEAT},
            colorbar={"title": {"text": unit, "side": "right"}},
            xgap=2,
            ygap=2,
            hovertemplate=f"{x} %{{x}}, {y} %{{y}}: %{{text}}<extra></extra>",
        )
    )
    name, best = str(rows["mpm"].iloc[0]), rows.loc[rows["qps"].idxmax()]
    bound = f" · *: {LIMITED}" if rows["limited"].any() else ""
    alt = (
        f"{unit} of {name} for {len(rows)} points; most requests per second with "
        f"{x} {best[x]} and {y} {best[y]}: {count(best['qps'])}."
    )
    dress(figure, f"{name}: {unit}<br><sup>{y} against {x}{bound}</sup>", alt=alt)
    figure.update_xaxes(title_text=x, type="category")
    figure.update_yaxes(title_text=y, type="category")
    return figure


def sweep_curve(summary: pandas.DataFrame, x: str, *, value: str = "qps") -> go.Figure:
    """A sweep over one name as a curve, a line an MPM, with its knee marked: beyond it more `x` gives
    little more.

    `summary` is `SweepTable.summary()`. A hollow marker is a point at which the generator, or the
    machine that it shares with the server, was the limit. Raises ValueError if names are missing or
    `x` is not made of numbers.
    """
    rows = _rows(summary, (x, value), None, one=False)
    if not all(isinstance(v, int | float) for v in rows[x].tolist()):
        raise ValueError(f"{x} is not made of numbers; a curve needs some")
    figure, ink = go.Figure(), colours.ink()
    said = []
    for name, own in rows.sort_values(x).groupby("mpm", sort=False):
        mpm, xs, ys = str(name), own[x].tolist(), own[value].tolist()
        hover = f"{x} %{{x}}: %{{y:,.1f}}<extra>{mpm}</extra>"
        figure.add_trace(mpm_line(mpm, xs, ys, hollow=own["limited"], hovertemplate=hover))
        points = ", ".join(f"{count(v)} at {one:g}" for one, v in zip(xs, ys, strict=True))
        bend = knee(xs, ys) if value == "qps" else None
        if bend is not None:
            figure.add_annotation(
                x=bend, y=ys[xs.index(bend)], text=f"knee: {bend:g}", ay=-36, ax=0,
                arrowcolor=colours.stroke(mpm), font={"color": ink},
            )  # fmt: skip
            points += f", knee at {bend:g}"
        said.append(f"{mpm}: {points}")
    low, high = min(rows[x]), max(rows[x])
    unit = UNITS.get(value, value)
    hollow = f"<br><sup>hollow: {LIMITED}</sup>" if rows["limited"].any() else ""
    title, alt = f"{unit[0].upper()}{unit[1:]} against {x}{hollow}", f"{unit} against {x}. "
    dress(figure, title, alt=alt + "; ".join(said) + ".")
    figure.update_xaxes(title_text=x, range=[low - 0.04 * (high - low), high + 0.18 * (high - low)])
    figure.update_yaxes(title_text=unit, rangemode="tozero")
    label_lines(figure, [(line, line.name, ink) for line in figure.data])
    return figure


def _rows(
    summary: pandas.DataFrame, names: tuple[str, ...], mpm: str | None, *, one: bool = True
) -> pandas.DataFrame:
    """The rows of `mpm`, with a column `limited`: by the generator, or by what it shares."""
    need(summary, (*names, "mpm", "qps", "generator_bound"), "SweepTable.summary()")
    rows = summary if mpm is None else summary[summary["mpm"] == mpm]
    there = list(dict.fromkeys(summary["mpm"]))
    if not len(rows) or (one and rows["mpm"].nunique() > 1):
        raise ValueError(f"say which MPM: {', '.join(there) or 'there are no rows'}")
    limited = rows["generator_bound"].astype(bool)
    if "generator_starved" in rows:
        limited |= rows["generator_starved"].astype(bool)
    return rows.assign(limited=limited)
