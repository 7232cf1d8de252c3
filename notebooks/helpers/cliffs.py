"""Why event exists: what a newcomer meets, and what memory costs, as more and more clients keep a connection.

The article's directives say in advance how many kept connections each MPM takes. Up to that number a new
client is served at once; beyond it, it waits until a kept connection ends: a cliff. The same number bounds
the throughput of browsers that think between two requests.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
from helpers.labels import label_lines
from plotly.subplots import make_subplots

import mpmkit
from mpmkit.config.checks import check
from mpmkit.config.keywords import from_keywords
from mpmkit.lab import theme as colours
from mpmkit.lab.plots import dress, mpm_line
from mpmkit.load.connections import KeepAliveClients
from mpmkit.measure.monitor import Watch
from mpmkit.measure.published import DIRECTIVES

KEEP = 5  # KeepAliveTimeout, httpd's default
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prefork": ("prefork", {}),
    "worker": ("worker", {}),
    "event": ("event", {}),
    "event, factor 20": ("event", {"AsyncRequestWorkerFactor": 20}),
}
LEVELS = (50, 100, 200, 300, 500, 1000, 1500, 2000)  # kept connections
NEWCOMERS, PAUSE = 10, 0.2  # clients with new connections, seconds between two of their requests
PROBED = 3.0  # seconds a level
SETTLE = 12.0  # seconds that a pool has to grow, at most
LATE = 1.2  # s: a pass of maintenance takes a second; who waits longer stands in front of a full server
BROWSERS = (100, 1000, 3000)
THINK = 1.0  # seconds
Name = tuple[Any, str, str]  # a line, its name, the colour


def _directives(case: str) -> tuple[str, dict[str, Any]]:
    mpm, more = CASES[case]
    return mpm, {**DIRECTIVES[mpm], **more, "KeepAlive": "On", "KeepAliveTimeout": KEEP}


def predicted(case: str) -> int:
    """How many kept connections the directives let in: one a worker under prefork and worker; under event
    a child with all threads idle takes ThreadsPerChild × (1 + AsyncRequestWorkerFactor)."""
    mpm, given = _directives(case)
    of, _ = check(mpm, from_keywords(mpm, **given))
    most = of.MaxRequestWorkers
    return int(most * (1 + of.AsyncRequestWorkerFactor)) if mpm == "event" else most


def simulated(case: str, seconds: int = 90) -> int:
    """The same by the simulator: of more clients than can be, how many it lets in."""
    mpm, given = _directives(case)
    run = mpmkit.simulate(mpm, parked=2 * predicted(case), seconds=seconds, **given)
    return run[-1].parked


def p99(waits: list[float]) -> float:
    """The 99th percentile by nearest rank; of fewer than a hundred the longest."""
    return sorted(waits)[math.ceil(0.99 * len(waits)) - 1]


def _settle(seen: Watch, kept: KeepAliveClients, level: int) -> None:
    """Wait until the connections are held and the pool has not grown for two passes of maintenance, but
    not longer than SETTLE: beyond the cliff the connections never are."""
    until = time.monotonic() + SETTLE
    while time.monotonic() < until:
        sizes = {sample.processes for sample in seen.samples if sample.t > seen.now - 2.2}
        if kept.held() >= 0.97 * level and len(sizes) == 1:
            return
        time.sleep(0.1)


def climb(case: str, levels: Sequence[int] = LEVELS) -> list[dict[str, Any]]:
    """One server, and more and more kept connections: a row a level. Ends two levels beyond the cliff.

    A newcomer who has no answer yet counts as far as it has waited: `unanswered` says how many those are.
    """
    mpm, given = _directives(case)
    rows: list[dict[str, Any]] = []
    with (
        mpmkit.launch(mpm, **given) as server,
        Watch(server, every=0.25) as seen,
        KeepAliveClients(server.url, think=60) as kept,
        KeepAliveClients(server.url, think=PAUSE, keep=False) as newcomers,
    ):
        newcomers.resize(NEWCOMERS)
        for level in levels:
            kept.resize(level)
            _settle(seen, kept, level)
            newcomers.take()
            time.sleep(PROBED)
            answered, waiting = newcomers.take(), newcomers.waits()
            rows.append(
                {
                    "case": case,
                    "kept": level,
                    "held": kept.held(),
                    "wait_ms": 1000 * p99(answered + waiting),
                    "newcomers": len(answered + waiting),
                    "unanswered": len(waiting),
                    "pss_mb": seen.last.pss_mb,
                    "processes": seen.last.processes,
                }
            )
            if sum(row["wait_ms"] > 1000 * LATE for row in rows) == 2:
                break
    return rows


def cliffs(levels: Sequence[int] = LEVELS, cases: Iterable[str] = CASES) -> list[dict[str, Any]]:
    """The rows of all cases; with factor 20 only the larger levels: its limit is beyond them."""
    large = tuple(level for level in levels if level >= 500) or levels[-1:]
    return [row for case in cases for row in climb(case, large if CASES[case][1] else levels)]


def where(case: str, rows: list[dict[str, Any]]) -> str:
    """Between which levels a newcomer begins to wait, and where the directives say that."""
    own = [row for row in rows if row["case"] == case]
    late = [row["kept"] for row in own if row["wait_ms"] > 1000 * LATE]
    well = [row["kept"] for row in own if row["kept"] < min(late, default=math.inf)]
    if not late:
        said = f"newcomers are served at once with {max(well):,} kept connections"
    else:
        said = f"newcomers wait from between {max(well, default=0):,} and {min(late):,} kept connections on"
    return f"{case}: {said}; by the directives from {predicted(case):,} on"


def growing(rows: list[dict[str, Any]]) -> Iterable[str]:
    """A sentence for each level below the cliff at which newcomers waited: the threads that the pool had at the
    level before were fewer than the kept connections, and the parent looks once a second."""
    for before, row in itertools.pairwise(rows):
        mpm, given = _directives(row["case"])
        threads = before["processes"] * (given.get("ThreadsPerChild", 1) if mpm != "prefork" else 1)
        slow = 300 < row["wait_ms"] and row["kept"] < predicted(row["case"])
        if slow and before["case"] == row["case"] and threads < row["kept"]:
            yield (
                f"{row['case']}: with {row['kept']:,} kept connections a newcomer waited up to "
                f"{row['wait_ms'] / 1000:.1f} s; the pool, of {threads} threads, was full until the parent, "
                f"looking once a second, had forked ({before['processes']} processes, at last {row['processes']})"
            )


def think(numbers: Sequence[int] = BROWSERS, cases: Iterable[str] = CASES) -> list[dict[str, Any]]:
    """Throughput of browsers that keep their connection and think for a second, exponentially
    distributed: a row a case and number. The pools have grown before it counts. A request that has no
    answer after three seconds is a failure. The rate is the median of the seconds: when the load ends, its
    last users leave room for those who wait, and that is not counted."""
    rows = []
    for case in cases:
        mpm, given = _directives(case)
        growing = 12.0 if mpm == "prefork" else 5.0  # 1, 2, 4, 8 … 32 children a second
        for browsers in numbers:
            with mpmkit.launch(mpm, **given) as server:
                run = mpmkit.run_load(
                    server, "/index.html", users=browsers, keep_alive=True, think_time=THINK,
                    think="exponential", warmup_seconds=growing, duration=4.0, timeout=3.0,
                )  # fmt: skip
            rows.append(
                {
                    "case": case,
                    "browsers": browsers,
                    "qps": statistics.median(one.qps for one in run.seconds[:4]),
                    "failures": run.failures,
                    "p50_ms": run.latency_ms(50),
                    "bound": browser_bound(case, browsers),
                }
            )
    return rows


def browser_bound(case: str, browsers: int, answer: float = 0.001) -> float:
    """min(N/(Z + R), W/(Z + S)): of N browsers who think Z at most W have a connection; R and S, the
    times of an answer and of its service, are a millisecond."""
    return min(browsers, predicted(case)) / (THINK + answer)


def _by_case(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(case, own) for case in CASES if (own := [r for r in rows if r["case"] == case])]


# -- figures -------------------------------------------------------------------------------------------


def _add(figure: Any, case: str, rows: list[dict[str, Any]], x: str, y: str, **where: Any) -> Name:
    """Add the line of a case; the line, its name and its colour. Hollow: some newcomers had no answer."""
    mpm, more = CASES[case]
    hollow = [y == "wait_ms" and row["unanswered"] and row["wait_ms"] > 1000 * LATE for row in rows]
    xs, ys = [row[x] for row in rows], [row[y] for row in rows]
    look = {"hovertemplate": "%{x:,}: %{y:,.4g}<extra>" + case + "</extra>"}
    line = mpm_line(mpm, xs, ys, name=case, hollow=hollow, **look)
    figure.add_trace(line.update(line_dash="longdash") if more else line, **where)
    return figure.data[-1], case, colours.text_colour(mpm)


def cliffs_figure(rows: list[dict[str, Any]]) -> Any:
    """A newcomer's p99 wait and the server's memory against kept connections; a dotted line across where
    the directives say that each MPM is full."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    said: list[str] = []
    names: list[Name] = []
    for case, own in _by_case(rows):
        for place, key in enumerate(("wait_ms", "pss_mb"), 1):
            names.append(_add(figure, case, own, "kept", key, row=place, col=1))
        found = (
            f"{r['wait_ms']:,.3g} ms and {r['pss_mb']:,.0f} MB with {r['kept']:,}" for r in own
        )
        full, mpm = predicted(case), CASES[case][0]
        said.append(f"{case}: full at {full:,}, {', '.join(found)}")
        line = {"color": colours.stroke(mpm), "dash": "dot", "width": 1.5}
        figure.add_vline(x=full, line=line)
        figure.add_annotation(
            x=math.log10(full), y=1.0, yref="paper", yanchor="bottom", showarrow=False, text=f"{full:,}",
            font={"color": colours.text_colour(mpm), "size": 13},
        )  # fmt: skip
    dress(
        figure,
        "A new client among kept connections<br><sup>dotted: where the directives say that a server is full<br>"
        "hollow: some newcomers had no answer yet, their wait so far counts</sup>",
        height=620, alt="A newcomer's wait and memory against kept connections. " + "; ".join(said) + ".",
    )  # fmt: skip
    figure.update_xaxes(type="log", range=[math.log10(42), math.log10(14_000)], showgrid=True,
                        tickvals=[50, 100, 200, 500, 1000, 2000, 5000, 10_000])  # fmt: skip
    figure.update_xaxes(title_text="kept connections", row=2, col=1)
    figure.update_yaxes(type="log", title_text="wait of a newcomer, p99, ms", row=1, col=1, dtick=1)
    figure.update_yaxes(
        type="log", title_text="memory (PSS), MB", row=2, col=1, tickvals=[20, 50, 100, 200, 500]
    )
    label_lines(figure, names)
    return figure


def think_figure(rows: list[dict[str, Any]]) -> Any:
    """Throughput against the number of browsers, with the bound of each case as a thin line."""
    figure, names, said = go.Figure(), [], []
    for case, own in _by_case(rows):
        names.append(_add(figure, case, own, "browsers", "qps"))
        many = [round(80 * 1.05**n) for n in range(80)]
        bound = [browser_bound(case, n) for n in many]
        thin = {"color": colours.stroke(CASES[case][0]), "width": 1}
        figure.add_scatter(
            x=many, y=bound, mode="lines", line=thin, showlegend=False, hoverinfo="skip"
        )
        found = (f"{r['qps']:,.0f} of {r['bound']:,.0f} with {r['browsers']:,}" for r in own)
        said.append(f"{case}: {', '.join(found)}")
    dress(
        figure,
        "Browsers that think for a second<br><sup>thin: min(N/(Z + R), W/(Z + S)), W from the directives</sup>",
        alt="Requests per second against browsers, measured of the bound. " + "; ".join(said) + ".",
    )  # fmt: skip
    figure.update_xaxes(title_text="browsers", range=[math.log10(90), math.log10(9000)])
    figure.update_yaxes(title_text="requests/s", range=[math.log10(60), math.log10(5000)])
    ticks = [100, 200, 500, 1000, 2000, 5000]
    figure.update_xaxes(type="log", tickvals=ticks).update_yaxes(type="log", tickvals=ticks)
    label_lines(figure, names)
    return figure
