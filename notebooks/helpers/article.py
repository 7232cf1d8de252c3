"""The article's case on the article's server: the recorded run of ab on the real httpd and on mpmkit.

article.recorded()        its rows and its text: `python -m benchmarks.article --scale full --rounds 3`
article.cold_starts(...)  requests/s of each second from a cold start
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpmkit.config.directives import MPMS
from mpmkit.lab.plots import dress, label_ends, mpm_line
from mpmkit.lab.theme import text_colour
from mpmkit.measure import records
from mpmkit.measure.records import Row

sys.path.append(str(Path(__file__).resolve().parents[2]))  # of the checkout, where benchmarks/ is
from benchmarks.article import ArticleTable, conclusion

KINDS = {"cold": "a new connection each", "cold, kept": "kept connections"}
SECONDS = 12  # shown of each run


def recorded() -> ArticleTable:
    """The run that data/recorded ships. Raises RecordError without it."""
    return ArticleTable(records.read(records.recorded_folder() / "article-full.csv"))


def of_server(case: ArticleTable, server: str) -> str:
    """Figures of one server, and its steps of the published order."""
    mine = ArticleTable([row for row in case.records if row["server"] == server])
    return (
        mine.text().split(f"\n\n{server}: requests begun")[0]
        + "\n\n"
        + "\n".join(conclusion(server, mine.records))
    )


def curve(rows: Sequence[Row], server: str, mpm: str, work: str) -> list[float]:
    """Requests begun in each second of a run, from its start: the median of the rounds. The last second of a run
    is not a whole one and is left out."""
    mine = [row for row in rows if (row["server"], row["mpm"], row["work"]) == (server, mpm, work)]
    runs = [json.loads(row["curve"])[:-1] for row in mine]
    return [statistics.median(counts) for counts in zip(*runs, strict=False)][:SECONDS]


def cold_starts(rows: Sequence[Row]) -> go.Figure:
    """Requests/s of each second from a cold start: a panel a server and kind of connection, a line an MPM."""
    servers = sorted({row["server"] for row in rows})
    titles = [f"{server}, {kind}" for kind in KINDS.values() for server in servers]
    figure = make_subplots(
        2, len(servers), subplot_titles=titles, shared_xaxes=True, vertical_spacing=0.14
    )
    said = []
    for row, work in enumerate(KINDS, 1):
        for col, server in enumerate(servers, 1):
            found = {mpm: curve(rows, server, mpm, work) for mpm in MPMS}
            found = {mpm: ys for mpm, ys in found.items() if ys}
            for mpm, ys in found.items():
                figure.add_trace(mpm_line(mpm, list(range(1, len(ys) + 1)), ys), row=row, col=col)
                said.append(f"{server} {mpm}, {KINDS[work]}: {', '.join(f'{y:,.0f}' for y in ys)}")
            ends = [(ys[-1], len(ys), mpm, text_colour(mpm)) for mpm, ys in found.items()]
            room = 0.09 * max((max(ys) for ys in found.values()), default=1)
            label_ends(figure, ends, room, near=4, shift=10, row=row, col=col)
    dress(
        figure,
        "From a cold start: requests begun in each second<br><sup>ab, 200 clients, 200,000 requests; median of "
        "the rounds</sup>",
        alt="Requests begun in each second from a cold start. " + "; ".join(said) + ".",
        height=560,
    )
    figure.update_xaxes(title_text="second", row=2, range=[0.5, SECONDS + 2.5])
    figure.update_xaxes(range=[0.5, SECONDS + 2.5], row=1)
    figure.update_yaxes(rangemode="tozero")
    return figure
