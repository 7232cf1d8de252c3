"""Tables: what was measured, as DataFrames and as styled DataFrames that a notebook shows.

Numbers stay numbers in the frames; `styled` formats them for reading, marks the MPM with its colour
and leaves every cell's text readable without colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from helpers.figures import KIND_TITLES, need

from mpmkit.config.extras import require
from mpmkit.lab import theme as colours
from mpmkit.lab.plots import OURS
from mpmkit.lab.replay import not_headline
from mpmkit.measure import stats

if TYPE_CHECKING:
    import pandas
    from pandas.io.formats.style import Styler

    from mpmkit.measure.qps import QpsTable
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
    "µs CPU": ("cpu_us", "{:.1f}"),
    "limit": ("limit", "{}"),
}
LOOK = [
    {"selector": "th, td", "props": "padding: 0.25em 0.9em; text-align: right;"},
    {"selector": "th.row_heading", "props": "text-align: left;"},
    {"selector": "caption", "props": "caption-side: top; text-align: left; font-weight: bold; "
     "padding-bottom: 0.5em;"},
]  # fmt: skip


def qps(table: QpsTable, kind: str, *, server: str = OURS) -> pandas.DataFrame:
    """One of the article's tables: published | measured | ratios | µs of the server's CPU for a request |
    what else than the server was the limit, and in how many rounds: a row an MPM.

    kind: "static" or "script". server: mpmkit, or another that was measured in the same rounds.
    Raises ValueError if nothing of that kind was measured on that server.
    """
    rows = table.summary()
    if len(rows):
        rows = rows[(rows["kind"] == kind) & (rows["server"] == server)]
    if not len(rows):
        raise ValueError(
            f"no row of kind {kind!r} measured on {server!r}; there are "
            f"{', '.join(table.kinds) or 'none'}, on {', '.join(table.servers)}"
        )
    made = {heading: rows[column].to_list() for heading, (column, _) in QPS_COLUMNS.items()}
    return require("pandas").DataFrame(made).set_index("MPM")


def compared(table: QpsTable, server: str = "httpd") -> pandas.DataFrame:
    """Published | mpmkit | another server of the same rounds, which has the same MPMs: a row a page
    and MPM, medians, and the ratio within the rounds. What was not measured is NaN.
    """
    summary = table.summary().assign(server=lambda rows: rows["server"] + " /s")
    made = summary.pivot_table(index=["kind", "mpm"], columns="server", values="median", sort=False)
    made = made.reindex(columns=[f"{OURS} /s", f"{server} /s"])
    published = summary.groupby(["kind", "mpm"], sort=False)["published"].first()
    made.insert(0, "published /s", published)
    made[f"{OURS} / {server}"] = [
        paired(table.rounds(kind).get(mpm, {}), table.rounds(kind, server).get(mpm, {}))
        for kind, mpm in made.index
    ]
    names = [f"{KIND_TITLES.get(kind, kind)}, {mpm}" for kind, mpm in made.index]
    return made.set_axis(names, axis="index").rename_axis(None, axis="columns")


def paired(one: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    """The ratio of two servers within the rounds that both have (`stats.paired`); NaN without any."""
    try:
        return stats.paired(one, other).value
    except ValueError:
        return math.nan


def compared_recorded(
    mine: pandas.DataFrame, recorded: pandas.DataFrame, by: list[str], value: str = "qps"
) -> pandas.DataFrame:
    """This machine's medians of `value` and a recorded run's (`mpmkit.recorded`): a row for each
    `by` that both have, with how many times the recorded figure yours is.

    The machines differ: what can be compared is how the ratios of the rows stand to one another.
    Raises ValueError if a column is missing or the two have nothing in common.
    """
    for name, frame in (("yours", mine), ("the recorded run", recorded)):
        need(frame, (*by, value), f"those of the same table for {name}")
    yours, theirs = (
        frame.groupby(by, sort=False, dropna=False)[value].median() for frame in (mine, recorded)
    )
    made = yours.to_frame("yours").join(theirs.rename("recorded"), how="inner")
    if not len(made):
        raise ValueError(f"your rows and the recorded ones have no {' and '.join(by)} in common")
    return made.assign(**{"yours / recorded": made["yours"] / made["recorded"]})


def machine(described: Machine) -> pandas.DataFrame:
    """The machine as a table of two columns; what is not known is left out. For a small machine
    the table says what not to trust of its figures."""
    rows = {**vars(described), "caveat": not_headline(described) or None}
    known = {name.replace("_", " "): str(one) for name, one in rows.items() if one is not None}
    return require("pandas").DataFrame({"value": known.values()}, index=list(known))


def styled(frame: pandas.DataFrame, caption: str = "") -> Styler:
    """A table for reading: thousands separated, ratios with two decimals, a colour bar an MPM.

    Missing values are shown as a dash. Works on any frame of this module.
    """
    formats: dict[Any, str] = {
        heading: how for heading, (_, how) in QPS_COLUMNS.items() if heading in frame.columns
    }
    for name in frame.select_dtypes("number").columns:  # others are text already
        if name in ("published", "measured") or " / " in str(name):
            formats.setdefault(name, "{:.2f}")  # ratios
        elif str(name).endswith(" /s"):
            formats.setdefault(name, "{:,.0f}")

    def bar(label: str) -> str:
        mpm = str(label).rpartition(", ")[2]  # "static page, worker" is worker's, too
        known = mpm in colours.MPMS
        return f"border-left: 0.5em solid {colours.colour(mpm)};" if known else ""

    style = frame.style.format(formats, na_rep="–").hide(names=True).set_table_styles(LOOK)
    style = style.map_index(bar, axis="index")
    return style.set_caption(caption) if caption else style
