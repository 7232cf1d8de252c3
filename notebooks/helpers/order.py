"""What notebook 04 shows of the published order: ratios, pairs of MPMs, the noise of the rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpmkit.config.extras import require
from mpmkit.lab import theme as colours
from mpmkit.lab.figures_qps import KIND_TITLES, by_mpm, kinds_of
from mpmkit.lab.plots import OURS, dress

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go

    from mpmkit.measure.comparison import OrderVerdict
    from mpmkit.measure.qps_table import QpsTable


def ratio_dots(summary: pandas.DataFrame, *, theme: str | None = None) -> go.Figure:
    """How many times prefork each MPM is, published and measured: the shape without the machine.

    `summary` as for `qps_bars`. A hollow marker is the article's ratio, a filled one this
    machine's median over prefork's median; the line at 1 is prefork itself.
    """
    import plotly.graph_objects as go

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
            figure.add_trace(_pair_of_dots(mpm, label, pair, theme))
            lines.append(f"{label}: {pair[0]:.2f} published, {pair[1]:.2f} measured")
    figure.add_vline(
        x=1,
        line={"color": colours.INK[colours.is_dark(theme)], "width": 1, "dash": "dot"},
        annotation_text="prefork",
        annotation_position="top",
    )
    dress(
        figure,
        "Requests per second as a multiple of prefork's",
        theme,
        alt="Multiples of prefork's requests per second. " + "; ".join(lines) + ".",
        margin=colours.layout(theme)["margin"] | {"l": 150},
        height=140 + 90 * max(1, len(lines)),
    )
    # Room for the labels, which plotly does not count when it chooses a range.
    low, high = min(values), max(values)
    room = 0.12 * (high - low) + 0.02
    figure.update_xaxes(title_text="× prefork", range=[low - room, high + room])
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def _pair_of_dots(mpm: str, label: str, pair: tuple[float, float], theme: str | None) -> go.Scatter:
    import plotly.graph_objects as go

    colour, symbol = colours.stroke(mpm, theme), colours.MARKERS[mpm]
    return go.Scatter(
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


def decided(table: QpsTable, kind: str) -> str:
    """What the table says of the published order, or that it cannot say it: where the generator was the
    limit, a faster server would not have shown."""
    rows = [row for row in table.records if (row["kind"], row["server"]) == (kind, OURS)]
    limited = sum(bool(row["generator_bound"] or row["generator_starved"]) for row in rows)
    if limited:
        return (
            "whether the published order comes out is not decidable here: the generator, or the "
            f"machine that it shares, was the limit in {limited} of {len(rows)} cells"
        )
    return str(table.verdict(kind))


def pairs(verdict: OrderVerdict | None) -> pandas.DataFrame:
    """What an OrderVerdict says of MPMs next to each other in the published order: a row a pair.

    "beyond the noise" is yes if the 95% interval of the ratio within the rounds excludes 1, no if it
    does not, and unknown after a single round. Empty if there is no verdict.
    """
    pandas = require("pandas")

    words = {True: "yes", False: "no", None: "unknown"}
    rows = (
        []
        if verdict is None
        else [
            {
                "pair": f"{pair.faster} / {pair.slower}",
                "published": pair.published,
                "measured": pair.measured,
                "same winner": words[pair.agrees],
                "beyond the noise": words[pair.larger_than_noise],
            }
            for pair in verdict.pairs
        ]
    )
    headings = ["pair", "published", "measured", "same winner", "beyond the noise"]
    return pandas.DataFrame(rows, columns=headings).set_index("pair")


def noise(summary: pandas.DataFrame) -> pandas.DataFrame:
    """How far the rounds of each cell lie apart, as a share of their median: a row a cell.

    `summary` is `QpsTable.summary()`. A single round shows no noise: its cell is "unknown".
    """
    share = (summary["max"] - summary["min"]) / summary["median"]
    noise = [
        f"{value:.0%}" if rounds > 1 else "unknown"
        for value, rounds in zip(share, summary["rounds"], strict=True)
    ]
    return summary[["kind", "server", "mpm", "rounds"]].assign(noise=noise)
