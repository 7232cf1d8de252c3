"""The README's pictures and tables, drawn from the runs that data/recorded ships.

    python -m mpmkit.lab.front            # docs/img/qps.* and docs/img/bench.*; prints the tables

Nothing in the README is typed by hand: record a run (`mpmkit bench --record`), run this, and paste what
it prints. SVG needs kaleido and a Chromium, as all pictures do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpmkit.lab import figures
from mpmkit.lab import theme as colours
from mpmkit.measure import records
from mpmkit.measure.bench import FREE, WORKS, Cell, cells, table
from mpmkit.measure.qps import QpsTable, published

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGES = Path("docs/img")
# The runs behind the front page, in data/recorded.
QPS, BENCH = "qps-full.csv", "bench-demo.csv"


def ratios(found: Iterable[Cell], *, theme: str | None = None) -> go.Figure:
    """Ours beside the real httpd's: a marker an MPM and work, a line over its rounds, a tick where the
    target is. Right of 1 ours is faster. `found` are `bench.cells`; those beside nginx are left out.

    Raises ValueError when nothing is left.
    """
    import plotly.graph_objects as go

    found = [cell for cell in found if cell.rival.startswith("httpd") or cell.rival == FREE]
    if not found:
        raise ValueError("no work was measured beside httpd; record one: mpmkit bench --only bench")
    works = [name for name in WORKS if any(cell.work == name for cell in found)]
    ink = colours.INK[colours.is_dark(theme)]
    figure = go.Figure()
    said = []
    for cell in found:
        mpms = [other.mpm for other in found if other.work == cell.work]
        # One row a work, its MPMs one under the other within it.
        y = -works.index(cell.work) + 0.24 * ((len(mpms) - 1) / 2 - mpms.index(cell.mpm))
        colour = colours.colour(cell.mpm, theme)
        figure.add_trace(go.Scatter(
            x=[cell.lowest, cell.highest], y=[y, y], mode="lines+text", hoverinfo="skip",
            text=["", f"  {cell.mpm} {cell.median:.2f}"], textposition="middle right",
            textfont={"size": 12, "color": ink}, cliponaxis=False,
            line={"color": colour, "width": 2}))
        if cell.target is not None:
            figure.add_trace(go.Scatter(
                x=[cell.target], y=[y], mode="markers", hoverinfo="skip",
                marker={"symbol": "line-ns-open", "size": 13, "color": ink, "line": {"width": 2}}))
        figure.add_trace(go.Scatter(
            x=[cell.median], y=[y], mode="markers",
            marker={"symbol": colours.MARKERS[cell.mpm], "size": 10, "color": colour},
            hovertemplate=f"{cell.mpm}, {cell.work}: %{{x:.2f}}<extra></extra>"))
        said.append(f"{cell.work} {cell.mpm} {cell.median:.2f}")
    figures.dress(figure, "Times the real httpd's requests per second"
                  "<br><sup>marker: median of the rounds · line: lowest to highest round · tick: target"
                  "<br>idle-5000: event with 5,000 idle connections, against itself with none</sup>",
                  theme)
    figure.add_vline(x=1, line={"color": ink, "width": 1, "dash": "dot"})
    figure.update_yaxes(tickvals=[-n for n in range(len(works))], ticktext=works, showgrid=False,
                        range=[-len(works) + 0.4, 0.6])
    figure.update_xaxes(rangemode="tozero", showgrid=True, title_text="ours / httpd")
    figure.update_layout(
        showlegend=False, height=170 + 64 * len(works), margin={"l": 150, "t": 120, "r": 110},
        meta={"alt": "Requests per second as a multiple of httpd's: " + ", ".join(said) + "."})
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures, print the tables; returns the exit status."""
    folder = records.recorded_folder()
    rows = records.read(folder / QPS)
    qps = QpsTable(rows, published(), planned=len(rows), out=folder / QPS)
    figures.save(figures.qps_bars(qps.summary()), IMAGES / "qps")
    print(qps.text())
    found = cells(records.read(folder / BENCH))
    figure = ratios(found)
    figures.save(figure, IMAGES / "bench", height=figure.layout.height)
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
