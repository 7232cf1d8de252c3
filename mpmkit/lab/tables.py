"""Tables: what was measured, as DataFrames and as styled DataFrames that a notebook shows.

Numbers stay numbers in `frame`s; `styled` formats them for reading, marks the MPM with its colour
and leaves every cell's text readable without colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mpmkit.lab import theme as colours
from mpmkit.lab.figures import OURS

if TYPE_CHECKING:
    import pandas
    from pandas.io.formats.style import Styler

    from mpmkit.measure.qps import QpsTable, Verdict
    from mpmkit.measure.records import Machine

# Heading of a reader's table -> column of QpsTable.summary(), and how its numbers are written.
QPS_COLUMNS = {
    "MPM": ("mpm", "{}"),
    "published /s": ("published", "{:,.0f}"),
    "measured /s": ("median", "{:,.0f}"),
    "slowest round": ("min", "{:,.0f}"),
    "fastest round": ("max", "{:,.0f}"),
    "× prefork, published": ("published_ratio", "{:.2f}"),
    "× prefork, measured": ("ratio", "{:.2f}"),
}


def qps(table: QpsTable, kind: str, *, server: str = OURS) -> pandas.DataFrame:
    """One of the article's tables: published | measured | ratios, a row an MPM.

    kind: "static" or "script". server: ours, or a rival measured in the same rounds.
    Raises ValueError if nothing of that kind was measured on that server.
    """
    import pandas

    summary = table.summary()
    rows = summary[(summary["kind"] == kind) & (summary["server"] == server)] if len(
        summary) else summary
    if not len(rows):
        raise ValueError(f"no row of kind {kind!r} measured on {server!r}; there are "
                         f"{', '.join(table.kinds) or 'none'}, on {', '.join(table.servers)}")
    made = pandas.DataFrame({heading: rows[column].to_list()
                             for heading, (column, _) in QPS_COLUMNS.items()})
    return made.set_index("MPM")


def pairs(verdict: Verdict | None) -> pandas.DataFrame:
    """What a Verdict says of MPMs next to each other in the published order: a row a pair.

    "beyond the noise" is yes if no round of the one lies among the rounds of the other, no if some
    do, and unknown after a single round. Empty if there is no verdict.
    """
    import pandas

    words = {True: "yes", False: "no", None: "unknown"}
    rows = [] if verdict is None else [{
        "pair": f"{pair.faster} / {pair.slower}",
        "published": pair.published,
        "measured": pair.measured,
        "same winner": words[pair.agrees],
        "beyond the noise": words[pair.larger_than_noise],
    } for pair in verdict.pairs]
    headings = ["pair", "published", "measured", "same winner", "beyond the noise"]
    return pandas.DataFrame(rows, columns=headings).set_index("pair")


def noise(summary: pandas.DataFrame) -> pandas.DataFrame:
    """How far the rounds of each cell lie apart, as a share of their median: a row a cell.

    `summary` is `QpsTable.summary()`. A single round shows no noise: its cell is "unknown".
    """
    share = (summary["max"] - summary["min"]) / summary["median"]
    told = [f"{value:.0%}" if rounds > 1 else "unknown"
            for value, rounds in zip(share, summary["rounds"], strict=True)]
    return summary[["kind", "server", "mpm", "rounds"]].assign(noise=told)


def machine(described: Machine) -> pandas.DataFrame:
    """The machine as a table of two columns; what it does not tell is left out."""
    import pandas

    rows = {name.replace("_", " "): str(value) for name, value in described.row().items()
            if value is not None}
    return pandas.DataFrame({"value": rows.values()}, index=list(rows))


def styled(frame: pandas.DataFrame, caption: str = "", *, theme: str | None = None) -> Styler:
    """A table for reading: thousands separated, ratios with two decimals, a colour bar an MPM.

    Missing values are shown as a dash. Works on any frame of this module.
    """
    formats: dict[Any, str] = {heading: how for heading, (_, how) in QPS_COLUMNS.items()
                               if heading in frame.columns}
    formats |= {name: "{:.2f}" for name in ("published", "measured") if name in frame.columns}
    style = frame.style.format(formats, na_rep="–").hide(names=True).set_table_styles([
        {"selector": "th, td", "props": "padding: 0.25em 0.9em; text-align: right;"},
        {"selector": "th.row_heading", "props": "text-align: left;"},
        {"selector": "caption", "props": "caption-side: top; text-align: left; "
                                         "font-weight: bold; padding-bottom: 0.5em;"},
    ])
    if caption:
        style = style.set_caption(caption)

    def bar(label: str) -> str:
        known = colours.LIGHT.keys()
        return f"border-left: 0.5em solid {colours.colour(label, theme)};" if label in known else ""

    return style.map_index(bar, axis="index")
