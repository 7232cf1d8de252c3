"""Why event exists: what a newcomer meets, and what memory costs, as more and more clients keep a connection.

The article's directives say in advance how many kept connections each MPM takes. Up to that number a new
client is served at once; beyond it, it waits until a kept connection ends: a cliff. The same number bounds
the throughput of browsers that think between two requests.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import mpmkit
from mpmkit.config.checks import check
from mpmkit.config.keywords import from_keywords
from mpmkit.lab import theme as colours
from mpmkit.lab.clients import KeepAliveClients
from mpmkit.lab.plots import dress
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
NEWCOMERS, PAUSE, PROBED = (
    10,
    0.2,
    3.0,
)  # clients that connect anew, s between two requests, s a level
SETTLE = 12.0  # seconds that a pool has to grow, at most
LATE = 1.2  # s: a pass of maintenance takes a second; who waits longer stands in front of a full server
BROWSERS = (100, 1000, 3000)
THINK = 1.0  # seconds


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
        if kept.counts()["thinking"] >= 0.97 * level and len(sizes) == 1:
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
                    "held": kept.counts()["thinking"],
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


# -- figures -------------------------------------------------------------------------------------------


def _trace(
    case: str, xs: list[float], ys: list[float], hollow: list[bool], theme: str | None
) -> Any:
    import plotly.graph_objects as go

    mpm, more = CASES[case]
    sign, dash = colours.MARKERS[mpm], "longdash" if more else colours.DASHES[mpm]
    return go.Scatter(
        x=xs, y=ys, name=case, mode="lines+markers", showlegend=False,
        line={"color": colours.stroke(mpm, theme), "width": 2.5, "dash": dash},
        marker={"size": 9, "symbol": [sign + "-open" * one for one in hollow]},
        hovertemplate="%{x:,}: %{y:,.4g}<extra>" + case + "</extra>",
    )  # fmt: skip


def _names(
    figure: Any, ends: list[tuple[str, float, float]], theme: str | None, row: int | None = None
) -> None:
    """Names to the right of the lines' ends on logarithmic axes, moved up where two would touch."""
    placed: list[tuple[float, float]] = []
    for case, x, y in sorted(ends, key=lambda end: end[2]):
        near = [up for right, up in placed if abs(right - math.log10(x)) < 0.5]
        low = max([math.log10(y), *(up + 0.2 for up in near)])
        placed.append((math.log10(x), low))
        figure.add_annotation(
            x=math.log10(x), y=low, text=case, showarrow=False, xanchor="left", xshift=9,
            row=row, col=row and 1,
            font={"color": colours.text_colour(CASES[case][0], theme), "size": 13},
        )  # fmt: skip


def cliffs_figure(rows: list[dict[str, Any]], *, theme: str | None = None) -> Any:
    """A newcomer's p99 wait and the server's memory against kept connections; a dotted line across where
    the directives say that each MPM is full."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    said: list[str] = []
    ends: dict[int, list[tuple[str, float, float]]] = {1: [], 2: []}
    for case in CASES:
        if not (own := [row for row in rows if row["case"] == case]):
            continue
        for place, key in enumerate(("wait_ms", "pss_mb"), 1):
            xs, ys = [row["kept"] for row in own], [row[key] for row in own]
            bound = [
                place == 1 and row["unanswered"] and row["wait_ms"] > 1000 * LATE for row in own
            ]
            figure.add_trace(_trace(case, xs, ys, bound, theme), row=place, col=1)
            ends[place].append((case, xs[-1], ys[-1]))
        found = [
            f"{r['wait_ms']:,.3g} ms and {r['pss_mb']:,.0f} MB with {r['kept']:,}" for r in own
        ]
        said.append(f"{case}: full at {predicted(case):,}, {', '.join(found)}")
        edge, ink = math.log10(predicted(case)), colours.stroke(CASES[case][0], theme)
        figure.add_vline(x=predicted(case), line={"color": ink, "dash": "dot", "width": 1.5})
        figure.add_annotation(
            x=edge, y=1.0, yref="paper", yanchor="bottom", showarrow=False, text=f"{predicted(case):,}",
            font={"color": colours.text_colour(CASES[case][0], theme), "size": 13},
        )  # fmt: skip
    for place, names in ends.items():
        _names(figure, names, theme, place)
    dress(
        figure,
        "A new client among kept connections<br><sup>dotted: where the directives say that a server is full · "
        "hollow: some newcomers had no answer yet, their wait so far counts</sup>",
        theme, height=620, alt="A newcomer's wait and memory against kept connections. " + "; ".join(said) + ".",
    )  # fmt: skip
    figure.update_xaxes(type="log", range=[math.log10(42), math.log10(14_000)], showgrid=True,
                        tickvals=[50, 100, 200, 500, 1000, 2000, 5000, 10_000])  # fmt: skip
    figure.update_xaxes(title_text="kept connections", row=2, col=1)
    figure.update_yaxes(type="log", title_text="wait of a newcomer, p99, ms", row=1, col=1, dtick=1)
    figure.update_yaxes(
        type="log", title_text="memory (PSS), MB", row=2, col=1, tickvals=[20, 50, 100, 200, 500]
    )
    return figure


def think_figure(rows: list[dict[str, Any]], *, theme: str | None = None) -> Any:
    """Throughput against the number of browsers, with the bound of each case as a thin line."""
    import plotly.graph_objects as go

    figure = go.Figure()
    ends: list[tuple[str, float, float]] = []
    said: list[str] = []
    for case in CASES:
        if not (own := [row for row in rows if row["case"] == case]):
            continue
        xs = [row["browsers"] for row in own]
        figure.add_trace(_trace(case, xs, [row["qps"] for row in own], [False] * len(own), theme))
        many = [round(80 * 1.05**n) for n in range(80)]
        figure.add_trace(go.Scatter(
            x=many, y=[browser_bound(case, n) for n in many], mode="lines", showlegend=False,
            line={"color": colours.stroke(CASES[case][0], theme), "width": 1}, hoverinfo="skip",
        ))  # fmt: skip
        ends.append((case, xs[-1], own[-1]["qps"]))
        found = [f"{r['qps']:,.0f} of {r['bound']:,.0f} with {r['browsers']:,}" for r in own]
        said.append(f"{case}: {', '.join(found)}")
    _names(figure, ends, theme)
    dress(
        figure,
        "Browsers that think for a second<br><sup>thin: min(N/(Z + R), W/(Z + S)), W from the directives</sup>",
        theme, alt="Requests per second against browsers, measured of the bound. " + "; ".join(said) + ".",
    )  # fmt: skip
    figure.update_xaxes(type="log", title_text="browsers", range=[math.log10(90), math.log10(9000)])
    figure.update_yaxes(
        type="log", title_text="requests/s", range=[math.log10(60), math.log10(5000)]
    )
    return figure
