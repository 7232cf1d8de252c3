"""The README's pictures and tables, drawn from the runs that data/recorded ships.

    python -m docs._tools.readme_figures    # docs/img/cliffs.*, qps.*, bench.* and memory.*; prints the tables

Nothing in the README is typed by hand: record a run (`mpmkit bench --record`), run this, and paste what
it prints. A run that is not recorded is reported and left out. SVG needs kaleido and a Chromium, as all
pictures do.
"""

from __future__ import annotations

import importlib
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from benchmarks.ratios import Comparison, baseline_lines, comparisons, table
from benchmarks.works import WORKS
from docs._tools.render import find_browser
from mpmkit.config.directives import MPMS
from mpmkit.lab import replay
from mpmkit.lab import theme as colours
from mpmkit.lab.plots import WIDTH, dress
from mpmkit.measure import published, records, stats
from mpmkit.measure.command import aligned
from mpmkit.measure.published import column, page
from mpmkit.measure.qps import QpsTable
from mpmkit.measure.records import Row
from mpmkit.measure.sizing import lines

IMAGES = Path("docs/img")
# The runs behind the front page, in data/recorded.
QPS, BENCH, MEMORY = "qps-full.csv", "bench-demo.csv", "memory-demo.csv"
OTHERS, SCRIPTS = "qps-demo.csv", "qps-scripts.csv"
CLIFFS = "03-cliffs.json"
FLOOR, CROWD, NEWEST = "bench-floor.csv", "memory-400.csv", "bench-314.csv"

# How a script is run, as a reader would say it: column of the table -> words.
WAYS = {
    "script": "WSGI, in process",
    "cgi": "CGI, a process a request",
    "php-fpm": "PHP, FastCGI to php-fpm",
    "mod_php": "mod_php, in process",
}


def ratios(found: Iterable[Comparison]) -> go.Figure:
    """mpmkit compared with the real httpd: a marker an MPM and work at the median of the ratios
    within the rounds, a line over the 95% interval of their mean. Right of 1 mpmkit is faster.
    `found` are `ratios.comparisons`; those against other servers are left out.

    Raises ValueError when nothing is left.
    """
    found = [cell for cell in found if cell.reference.startswith("httpd")]
    if not found:
        raise ValueError(
            "no work was measured against httpd; record one: mpmkit bench --only bench"
        )
    works = [name for name in WORKS if any(cell.work == name for cell in found)]
    ink, figure, said = colours.ink(), go.Figure(), []
    for cell in found:
        mpms = [other.mpm for other in found if other.work == cell.work]
        # One row a work, its MPMs one under the other within it.
        y = -works.index(cell.work) + 0.24 * ((len(mpms) - 1) / 2 - mpms.index(cell.mpm))
        ratio = stats.ratio(*([row["qps"] for row in side] for side in (cell.mine, cell.theirs)))
        bound = "*" if 2 * cell.client_bound > cell.rounds else ""
        colour = colours.stroke(cell.mpm)
        figure.add_scatter(
            x=[ratio.low, ratio.high], y=[y, y], mode="lines+text", hoverinfo="skip",
            text=["", f"  {cell.mpm} {cell.median:.2f}{bound}"], textposition="middle right",
            textfont={"size": 12, "color": ink}, cliponaxis=False, line={"color": colour, "width": 2},
        )  # fmt: skip
        figure.add_scatter(
            x=[cell.median], y=[y], mode="markers",
            marker={"symbol": colours.MARKERS[cell.mpm], "size": 10, "color": colour},
            hovertemplate=f"{cell.mpm}, {cell.work}: %{{x:.2f}}<extra></extra>",
        )  # fmt: skip
        said.append(f"{WORKS[cell.work].what} {cell.mpm} {cell.median:.2f}")
    dress(
        figure,
        "Times the real httpd's requests per second"
        "<br><sup>marker: median of the rounds · line: 95% interval of their mean"
        "<br>*: the client was at its limit in most rounds; the ratio may be higher</sup>",
        alt="Requests per second as a multiple of httpd's: " + ", ".join(said) + ".",
        height=154 + 64 * len(works),
        margin={"l": 190, "t": 130, "r": 110, "b": 56},
    )
    figure.add_vline(x=1, line={"color": ink, "width": 1, "dash": "dot"})
    rows = {
        "tickvals": [-n for n in range(len(works))],
        "ticktext": [WORKS[name].what.replace(", ", "<br>") for name in works],
    }
    figure.update_yaxes(showgrid=False, range=[-len(works) + 0.4, 0.6], **rows)
    figure.update_xaxes(rangemode="tozero", showgrid=True, title_text="mpmkit / httpd")
    return figure


def memory_text(rows: Sequence[Row]) -> str:
    """Memory per request model as a table of text: a line a figure and server, a column an MPM.

    `rows` are those of the records table memory. Costs are the slopes of PSS over the levels, in KiB;
    the whole server is the median at the highest level of busy requests, in MiB. A server that was not
    measured has no line. Raises ValueError when there are no rows.
    """
    if not rows:
        raise ValueError("no memory was measured; record it: mpmkit bench --only memory --record")
    costs = lines(rows, ("pss_kb",))
    servers = [name for name in ("mpmkit", "httpd") if any(row["server"] == name for row in rows)]
    busy = [row for row in rows if row["against"] == "busy" and row["scope"] == "server"]

    def cost(server: str, mpm: str, against: str) -> str:
        line = costs.get((server, mpm, against))
        return f"{line.slope:,.1f}" if line is not None else ""

    def whole(server: str, mpm: str) -> str:
        own = [row for row in busy if (row["server"], row["mpm"]) == (server, mpm)]
        most = max((row["held"] for row in own), default=0)
        if not most:
            return ""
        middle = statistics.median(row["pss_kb"] for row in own if row["held"] == most)
        return f"{middle / 1024:,.0f} ({most:,})"

    table: list[tuple[str, ...]] = [("memory (PSS)", "", *MPMS)]
    for title, cell in (
        ("one more busy request, KiB", lambda server, mpm: cost(server, mpm, "busy")),
        ("one more idle connection, KiB", lambda server, mpm: cost(server, mpm, "idle")),
        ("the server, MiB (with so many busy)", whole),
    ):
        for server in servers:
            cells = [cell(server, mpm) for mpm in MPMS]
            if any(cells):
                table.append((title if server == servers[0] else "", server, *cells))
    text = "\n".join(aligned(table, left=(0, 1)))
    return f"{text}\n\nmeasured on {records.Machine.of(rows[-1])}"


def crowd_text(rows: Sequence[Row]) -> str:
    """What a server under its highest level of busy requests takes, in MiB of PSS: a line an MPM and
    ThreadsPerChild, a column a server. `rows` are those of the records table memory."""
    busy = [row for row in rows if row["against"] == "busy" and row["scope"] == "server"]
    most = max(row["level"] for row in busy)
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in busy:
        if row["level"] == most:
            threads = dict(one.split("=", 1) for one in row["directives"].split() if "=" in one)
            line = found.setdefault((row["mpm"], threads.get("ThreadsPerChild", "1")), {})
            line.setdefault(row["server"], []).append(row["pss_kb"] / 1024)
    servers = list(dict.fromkeys(row["server"] for row in busy))
    table = [(f"{most} busy, MiB (PSS)", "ThreadsPerChild", *servers)]
    for name, line in found.items():
        table.append((*name, *(_median(line.get(server, ()), ".1f") for server in servers)))
    return "\n".join(aligned(table))


def _median(values: Iterable[float], form: str) -> str:
    """The median as text; "" of nothing."""
    known = list(values)
    return format(statistics.median(known), form) if known else ""


def servers_text(rows: Sequence[Row], kind: str) -> str:
    """A page's requests per second, a line a server and MPM: the median, all rounds, and the CPU time
    of a request in µs. `rows` are those of the records table qps. Raises ValueError when none is left.
    """
    rows = [row for row in rows if column(row) == kind]
    if not rows:
        raise ValueError(f"no row of {kind}; record it: mpmkit bench --only qps --record")
    found: dict[tuple[str, str], list[Row]] = {}
    first = sorted(rows, key=lambda row: (row["server"] != "mpmkit", row["server"] != "httpd"))
    for row in first:
        found.setdefault((row["server"], row["mpm"] or ""), []).append(row)
    table = []
    for names, own in found.items():
        qps = [row["qps"] for row in own]
        cpu = (row["server_cpu_us"] for row in own if row.get("server_cpu_us") is not None)
        ends = f"{min(qps):,.0f} to {max(qps):,.0f}"
        table.append((" ".join(names).rstrip(), _median(qps, ",.0f"), ends, _median(cpu, ".1f")))
    title = f"{page(kind).title}, a new connection each, {max(row['round'] for row in rows)} rounds"
    return "\n".join(
        [title, *aligned([("server", "requests/s", "all rounds", "µs CPU a request"), *table])]
    )


def scripts_text(rows: Sequence[Row]) -> str:
    """The ways to run a script: requests/s, a line a server and way, a column an MPM. `rows` are those of
    the records table qps. The last line is what is published."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["server"], column(row), row["mpm"]), []).append(row["qps"])
    rounds = max(row["round"] for row in rows)
    table: list[tuple[str, ...]] = [(f"requests/s, median of {rounds} rounds", *MPMS)]
    for server, way in ((server, way) for server in ("mpmkit", "httpd") for way in WAYS):
        cells = [_median(found.get((server, way, mpm), ()), ",.0f") for mpm in MPMS]
        if any(cells):
            table.append((f"{server}: {WAYS[way]}", *cells))
    known = published.figures()["script"]
    last = (f"{known[mpm]:,.0f}" for mpm in MPMS)
    return "\n".join(aligned([*table, ("published: PHP, in what way is not said", *last)]))


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures, print the tables; returns the exit status."""
    os.environ["MPMKIT_THEME"] = "light"
    if browser := find_browser():
        os.environ.setdefault("BROWSER_PATH", browser)
    folder = records.recorded_folder()
    rows = records.read(folder / QPS)
    qps = QpsTable(rows, published.figures(), planned=len(rows), out=folder / QPS)
    _save(_helpers("cliffs").cliffs_figure(replay.load(folder / CLIFFS)[0]), "cliffs")
    _save(_helpers("figures").qps_bars(qps.summary()), "qps")
    print(qps.text())
    _print_if_recorded(OTHERS, lambda rows: servers_text(rows, "static"))
    _print_if_recorded(SCRIPTS, scripts_text)
    found = comparisons(records.read(folder / BENCH))
    _save(ratios(found), "bench")
    print(table(found))
    if rows := _print_if_recorded(MEMORY, memory_text):
        _save(_helpers("memory_plots").memory_curve(records.frame(rows, "memory")), "memory")
    _print_if_recorded(CROWD, crowd_text)
    _print_if_recorded(NEWEST, lambda rows: table(comparisons(rows)))
    _print_if_recorded(FLOOR, lambda rows: "\n".join(baseline_lines(rows)))
    return 0


def _save(figure: go.Figure, name: str) -> None:
    """Write docs/img/NAME.png and .svg. Needs kaleido and a Chromium; plotly says which of them is missing."""
    for kind in ("png", "svg"):
        size = {"width": WIDTH, "height": figure.layout.height, "scale": 2}
        figure.write_image(IMAGES / f"{name}.{kind}", **size)


def _helpers(name: str) -> Any:
    """A module of notebooks/helpers: the README shows pictures of the notebooks."""
    sys.path.append(str(Path(__file__).parents[2] / "notebooks"))
    return importlib.import_module(f"helpers.{name}")


def _print_if_recorded(name: str, text: Callable[[Sequence[Row]], str]) -> list[Row]:
    """Print `text` of a recorded run, and return its rows: none if it is missing."""
    file = records.recorded_folder() / name
    if not file.exists():
        print(
            f"mpmkit: without {name}, which is not recorded; data/README.md says how",
            file=sys.stderr,
        )
        return []
    rows = records.read(file)
    print(text(rows))
    return rows


if __name__ == "__main__":
    sys.exit(main())
