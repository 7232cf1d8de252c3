"""What notebook 04 shows of the published order: ratios, pairs of MPMs, the noise of the rounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas
import plotly.graph_objects as go
from helpers.figures import KIND_TITLES, by_mpm, kinds_of

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import LIMITED, dress, mpm_line
from mpmkit.measure import stats

if TYPE_CHECKING:
    from mpmkit.measure.stats import OrderVerdict


def ratio_dots(summary: pandas.DataFrame) -> go.Figure:
    """How many times prefork each MPM is, published and measured: the shape without the machine.

    `summary` as for `qps_bars`. A hollow marker is the article's ratio, a filled one this machine's within
    the rounds, with a * where the generator or the machine was the limit; the line at 1 is prefork itself.
    """
    figure = go.Figure()
    lines: list[str] = []
    values: list[float] = [1.0]
    for kind in kinds_of(summary):
        for mpm, row in by_mpm(summary, kind).items():
            if mpm == "prefork":
                continue
            label = f"{mpm}, {KIND_TITLES.get(kind, kind)}"
            pair = row["published_ratio"], row["ratio"]
            values += [ratio for ratio in pair if ratio == ratio]  # without NaN
            text = [
                f"published {pair[0]:.2f}",
                f"measured {pair[1]:.2f}" + "*" * bool(row.get("bound")),
            ]
            figure.add_trace(mpm_line(
                mpm, pair, [label, label], hollow=(True, False), mode="lines+markers+text",
                line={"width": 1}, marker={"size": 14, "line": {"width": 2}}, text=text,
                textposition=["top center", "bottom center"],
                hovertemplate="%{x:.2f} × prefork<extra></extra>",
            ))  # fmt: skip
            lines.append(f"{label}: {pair[0]:.2f} published, {pair[1]:.2f} measured")
    figure.add_vline(
        x=1,
        line={"color": colours.ink(), "width": 1, "dash": "dot"},
        annotation_text="prefork",
        annotation_position="top",
    )
    dress(
        figure,
        "Requests per second as a multiple of prefork's"
        + (f"<br><sup>*: in some rounds {LIMITED}</sup>" if any(summary.get("bound", ())) else ""),
        alt="Multiples of prefork's requests per second. " + "; ".join(lines) + ".",
        margin={"l": 150},
        height=140 + 90 * max(1, len(lines)),
    )
    # Room for the labels, which plotly does not count when it chooses a range.
    low, high = min(values), max(values)
    room = 0.12 * (high - low) + 0.02
    figure.update_xaxes(title_text="× prefork", range=[low - room, high + room])
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def pairs(verdict: OrderVerdict | None) -> pandas.DataFrame:
    """What an OrderVerdict says of MPMs next to each other in the published order: a row a pair, with the
    ratio within the rounds and its 95% interval.

    "came out" is yes or no, or not decidable: the interval holds 1, or the generator or the machine was
    the limit, and then no ratio is shown, either. Empty if there is no verdict.
    """
    words = {True: "yes", False: "no", None: "not decidable"}
    limited = verdict is not None and str(verdict.limits)
    rows = []
    for pair in verdict.pairs if verdict is not None else ():
        ratio = stats.Interval(math.nan, math.nan, math.nan, 0.0) if limited else pair.ratio
        known = f"{ratio.low:.2f} to {ratio.high:.2f}" if ratio.level else "–"
        answer = words[None if limited else pair.came_out]
        name = f"{pair.faster} / {pair.slower}"
        rows.append((name, pair.published, ratio.value, known, answer))
    headings = ["pair", "published", "measured", "95% interval", "came out"]
    return pandas.DataFrame(rows, columns=headings).set_index("pair")


def noise(summary: pandas.DataFrame) -> pandas.DataFrame:
    """How far the rounds of each cell lie apart: the standard deviation of their logarithms, a row a cell.

    `summary` is `QpsTable.summary()`. A single round shows no noise: its cell is "unknown".
    """
    noise = ["unknown" if math.isnan(value) else f"{value:.1%}" for value in summary["noise"]]
    return summary[["kind", "server", "mpm", "rounds"]].assign(noise=noise)
