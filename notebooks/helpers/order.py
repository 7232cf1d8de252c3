"""What notebook 04 shows of the published order: ratios, pairs of MPMs, the noise of the rounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas
import plotly.graph_objects as go
from helpers.figures import KIND_TITLES, LIMITED, by_mpm, kinds_of

from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress, mpm_line
from mpmkit.measure import stats

if TYPE_CHECKING:
    from mpmkit.measure.stats import OrderVerdict


def ratio_dots(summary: pandas.DataFrame) -> go.Figure:
    """How many times prefork each MPM is: measured, the ratio within the rounds with its 95% interval, and
    what the article's figures give as a hollow marker.

    `summary` as for `qps_bars`. One round has no interval. With a * the generator or the machine was the
    limit in some rounds; the line at 1 is prefork itself.
    """
    figure = go.Figure()
    lines: list[str] = []
    values: list[float] = [1.0]
    for kind in kinds_of(summary):
        for mpm, row in by_mpm(summary, kind).items():
            if mpm == "prefork":
                continue
            label, ratio, low, high = f"{mpm}, {KIND_TITLES.get(kind, kind)}", *_interval(row)
            paper, star = row["published_ratio"], "*" * bool(row.get("bound"))
            known = "" if math.isnan(low) else f" ({low:.2f} to {high:.2f})"
            values += [one for one in (ratio, low, high, paper) if not math.isnan(one)]
            row_name = f"{label}<br>{ratio:.2f}{star}{known}"
            colour, ink = colours.stroke(mpm), colours.ink()
            ends = {"array": [high - ratio], "arrayminus": [ratio - low], "symmetric": False}
            bar = {"type": "data", "thickness": 2.5, "width": 8, "color": colour, **ends}
            figure.add_trace(mpm_line(
                mpm, [ratio], [row_name], mode="markers", marker={"size": 13},
                error_x=bar if known else None, hovertemplate="%{x:.2f} × prefork<extra></extra>",
            ))  # fmt: skip
            if not math.isnan(paper):
                figure.add_scatter(
                    x=[paper], y=[row_name], mode="markers+text", showlegend=False, text=["published"],
                    textposition="top center", textfont={"size": 11, "color": ink}, hoverinfo="x",
                    marker={"symbol": "circle-open", "size": 11, "color": ink},
                )  # fmt: skip
                known += f", {paper:.2f} published"
            lines.append(f"{label}: {ratio:.2f} measured{known}")
    figure.add_vline(x=1, line={"color": colours.ink(), "width": 1, "dash": "dot"})
    star = f"<br>*: in some rounds {LIMITED}" if any(summary.get("bound", ())) else ""
    dress(
        figure,
        "Requests per second as a multiple of prefork's (dotted)<br><sup>filled: within the rounds, "
        f"with its 95% interval · hollow: published{star}</sup>",
        alt="Multiples of prefork's requests per second. " + "; ".join(lines) + ".",
        margin={"l": 170},
        height=160 + 90 * max(1, len(lines)),
    )
    # Room for the word, which plotly does not count when it chooses a range.
    low, high = min(values), max(values)
    room = 0.12 * (high - low) + 0.02
    figure.update_xaxes(title_text="× prefork", range=[low - room, high + room])
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(title={"xref": "container", "x": 0.02})  # names take the left
    return figure


def _interval(row: dict[str, float]) -> tuple[float, float, float]:
    """The ratio with its interval's ends; NaN for those of one round, which has none."""
    low, high = row["ratio_low"], row["ratio_high"]
    known = 0 < low and math.isfinite(high)
    return row["ratio"], *((low, high) if known else (math.nan, math.nan))


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
