"""The figures of README.md and docs/PERFORMANCE.md that come from data/recorded, checked against its rows.

    python -m docs._tools.claims          a line per claim: in or out of tolerance (make claims)
    LIVE=1 python -m docs._tools.claims   the same against a fresh run of each command; of some:
                                          LIVE=memory-400,demand-demo
    python -m docs._tools.claims --write  docs/CLAIMS.md

A claim is a figure per server or MPM, its expected value, and the tolerance for a run on a machine like
the recorded one. The exit status is 1 if one is out of tolerance.
"""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.article import ArticleTable, rounds_of
from benchmarks.ratios import comparisons
from mpmkit.config.directives import MPMS
from mpmkit.measure import records, sizing
from mpmkit.measure.demand import comparisons as decisions
from mpmkit.measure.qps import QpsTable
from mpmkit.measure.records import Row

PAGE = Path(__file__).parents[1] / "CLAIMS.md"
Rows = Sequence[Row]


class Run(NamedTuple):
    """A recorded file: how it was made, and about how many minutes that takes."""

    command: str
    minutes: int


class Claim(NamedTuple):
    """tolerance: as a share of the expected figures."""

    file: str
    says: str
    of: str
    figures: Callable[[Rows], list[float]]
    expected: tuple[float, ...]
    tolerance: float


RUNS = {
    "qps-full": Run("mpmkit qps --scale full", 13),
    "qps-demo": Run("mpmkit bench --only qps --scale demo --also httpd,nginx", 8),
    "qps-scripts": Run("mpmkit qps --kind script --script all --also httpd", 4),
    "bench-demo": Run("python -m benchmarks.bench --work all", 8),
    "demand-demo": Run("mpmkit demand --blocks 48", 25),
    "demand-4000": Run("mpmkit demand --rates 2000,4000 --blocks 32", 16),
    "demand-works": Run("mpmkit demand --work script,keep-alive --blocks 12", 10),
    "article-full": Run("python -m benchmarks.article --scale full --rounds 3", 12),
    "memory-demo": Run("mpmkit memory --also httpd", 8),
    "memory-400": Run("mpmkit memory --mpm worker,event --against busy --busy 400 --also httpd", 1),
}


def cpu(kind: str, server: str = "mpmkit") -> Callable[[Rows], list[float]]:
    """CPU time of a request, µs, median of the rounds: a figure per MPM."""

    def figures(rows: Rows) -> list[float]:
        rounds = QpsTable(list(rows)).rounds(kind, server, "server_cpu_us")
        return [statistics.median(rounds[mpm].values()) for mpm in MPMS]

    return figures


def qps(kind: str, server: str = "mpmkit") -> Callable[[Rows], list[float]]:
    """Requests/s, median of the rounds: a figure per MPM."""

    def figures(rows: Rows) -> list[float]:
        rounds = QpsTable(list(rows)).rounds(kind, server)
        return [statistics.median(rounds[mpm].values()) for mpm in MPMS]

    return figures


def bench(work: str, reference: str = "httpd") -> Callable[[Rows], list[float]]:
    """Requests/s as a multiple of another server's, median of the rounds: a figure per MPM."""

    def figures(rows: Rows) -> list[float]:
        found = {one.mpm: one.median for one in comparisons(rows)
                 if (one.work, one.reference) == (work, reference)}  # fmt: skip
        return [found[mpm] for mpm in MPMS if mpm in found]

    return figures


def by_ab(work: str, server: str) -> Callable[[Rows], list[float]]:
    """Requests/s in one kind of turn of ab, median of the rounds: a figure per MPM."""

    def figures(rows: Rows) -> list[float]:
        turns = [
            row
            for row in ArticleTable(list(rows)).used
            if (row["work"], row["server"]) == (work, server)
        ]
        rounds = rounds_of(turns, "qps")
        return [statistics.median(rounds[mpm].values()) for mpm in MPMS]

    return figures


def slope(against: str, server: str = "mpmkit") -> Callable[[Rows], list[float]]:
    """What one more costs in KiB of PSS: a figure per MPM."""
    return lambda rows: [sizing.lines(rows)[server, mpm, against].slope for mpm in MPMS]


def demand(server: str, work: str = "page") -> Callable[[Rows], list[float]]:
    """CPU time of a request as a multiple of prefork's: a figure for worker and for event."""

    def figures(rows: Rows) -> list[float]:
        found = decisions(rows, work)
        return [
            found[f"{server} {mpm} / {server} prefork"].ratio.value for mpm in ("worker", "event")
        ]

    return figures


def whole(server: str) -> Callable[[Rows], list[float]]:
    """PSS of 400 busy workers in MiB: a figure per MPM with threads."""

    def figures(rows: Rows) -> list[float]:
        own = [row for row in rows if (row["server"], row["scope"]) == (server, "server")]
        first = {row["mpm"]: row["pss_kb"] / 1024 for row in reversed(own)}
        return [first[mpm] for mpm in ("worker", "event")]

    return figures


ALL, THREADED = "prefork, worker, event", "worker, event"
CLAIMS = [
    Claim("qps-full", "µs CPU, static page", ALL, cpu("static"), (37.8, 45.0, 44.0), 0.15),
    Claim("qps-full", "µs CPU, script", ALL, cpu("script"), (40.9, 45.4, 48.7), 0.15),
    Claim("qps-full", "requests/s, static page", ALL, qps("static"), (20851, 20228, 21056), 0.2),
    Claim("qps-full", "requests/s, script", ALL, qps("script"), (22298, 21505, 20122), 0.2),
    Claim("qps-demo", "µs CPU, static page", ALL, cpu("static"), (35.9, 42.0, 43.6), 0.15),
    Claim("qps-demo", "µs CPU, static page, httpd", ALL, cpu("static", "httpd"), (63.6, 92.5, 93.1), 0.3),
    Claim("qps-scripts", "requests/s, WSGI", ALL, qps("script"), (22459, 19279, 16750), 0.2),
    Claim("qps-scripts", "requests/s, CGI", ALL, qps("cgi"), (1480, 1465, 1480), 0.2),
    Claim("qps-scripts", "requests/s, PHP through php-fpm", ALL, qps("php-fpm"), (4494, 6117, 5900), 0.25),
    Claim("bench-demo", "times httpd, new connections", ALL, bench("new"), (1.39, 1.41, 1.56), 0.2),
    Claim("bench-demo", "times httpd, one request kept", ALL, bench("repeated"), (1.34, 2.03, 2.23), 0.2),
    Claim("bench-demo", "times httpd, all requests differ", ALL, bench("distinct"), (0.98, 1.26, 1.58), 0.2),
    Claim("bench-demo", "times httpd, 100 KB", ALL, bench("file-100k"), (1.21, 1.66, 1.31), 0.3),
    Claim("bench-demo", "times httpd, 10 MB", ALL, bench("file-10m"), (1.04, 1.00, 1.08), 0.1),
    Claim("bench-demo", "times mod_php, new connections", ALL, bench("script-new", "httpd-php"),
          (1.61, 1.74, 1.52), 0.2),
    Claim("bench-demo", "times mod_php, kept", ALL, bench("script-keepalive", "httpd-php"),
          (1.60, 2.46, 1.89), 0.2),
    Claim("bench-demo", "times itself, 5,000 idle", "event", bench("idle-5000", "mpmkit-free"), (0.82,), 0.3),
    Claim("demand-demo", "CPU time, times prefork", THREADED, demand("mpmkit"), (1.11, 1.26), 0.15),
    Claim("demand-demo", "CPU time, times prefork, httpd", THREADED, demand("httpd"), (1.00, 1.10), 0.1),
    Claim("demand-4000", "CPU time, times prefork", THREADED, demand("mpmkit"), (1.04, 1.20), 0.1),
    Claim("demand-4000", "CPU time, times prefork, httpd", THREADED, demand("httpd"), (1.06, 1.16), 0.05),
    Claim("demand-works", "CPU time, kept, times prefork", THREADED, demand("mpmkit", "keep-alive"),
          (0.50, 0.73), 0.2),
    Claim("demand-works", "CPU time, kept, times prefork, httpd", THREADED, demand("httpd", "keep-alive"),
          (0.91, 1.07), 0.1),
    Claim("article-full", "requests/s by ab, new, warm, httpd", ALL, by_ab("warm", "httpd"),
          (12811, 12849, 9429), 0.3),
    Claim("article-full", "requests/s by ab, new, warm", ALL, by_ab("warm", "mpmkit"),
          (20638, 20069, 18680), 0.2),
    Claim("article-full", "requests/s by ab, kept, cold, httpd", ALL, by_ab("cold, kept", "httpd"),
          (18227, 28477, 25148), 0.3),
    Claim("article-full", "requests/s by ab, kept, cold", ALL, by_ab("cold, kept", "mpmkit"),
          (20665, 60462, 53527), 0.3),
    Claim("memory-demo", "KiB per busy request", ALL, slope("busy"), (1563.0, 85.1, 87.1), 0.1),
    Claim("memory-demo", "KiB per busy request, httpd", ALL, slope("busy", "httpd"), (215.3, 61.4, 59.0), 0.1),
    Claim("memory-demo", "KiB per idle connection", ALL, slope("idle"), (1528.0, 78.3, 1.9), 0.1),
    Claim("memory-demo", "KiB per idle connection, httpd", ALL, slope("idle", "httpd"), (207.2, 56.2, 32.2), 0.1),
    Claim("memory-400", "MiB with 400 busy", THREADED, whole("mpmkit"), (54.3, 55.8), 0.1),
    Claim("memory-400", "MiB with 400 busy, httpd", THREADED, whole("httpd"), (29.0, 28.4), 0.1),
]  # fmt: skip


def checked(claim: Claim, rows: Rows) -> tuple[bool, str]:
    """Whether the rows support a claim, and a line that says so."""
    found = claim.figures(rows)
    share = [abs(a / b - 1) for a, b in zip(found, claim.expected, strict=True)]
    inside = max(share) <= claim.tolerance
    said = f"{', '.join(f'{one:,.4g}' for one in found)} (expected {_words(claim)})"
    return inside, f"{'in ' if inside else 'OUT'}  {claim.file}: {claim.says}: {said}"


def _words(claim: Claim) -> str:
    return ", ".join(f"{one:,.6g}" for one in claim.expected) + f" ±{claim.tolerance:.0%}"


def markdown() -> str:
    """docs/CLAIMS.md."""
    lines = [
        "# Claims",
        "",
        "Figures of the README and of [PERFORMANCE.md](PERFORMANCE.md) that come from `data/recorded`, and",
        "the commands that measure them. `make claims` checks each against the shipped rows,",
        "`make claims LIVE=1` against fresh runs, `LIVE=memory-400,demand-demo` against some of them.",
        "Made by `python -m docs._tools.claims --write`.",
        "",
        "| recorded | claim | of | expected | command | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for one in CLAIMS:
        run = RUNS[one.file]
        lines.append(
            f"| [{one.file}](../data/recorded/{one.file}.csv) | {one.says} | {one.of} | {_words(one)} "
            f"| `{run.command}` | {run.minutes} |"
        )
    return "\n".join(lines) + "\n"


def recorded(claim: Claim) -> Path:
    """The file of its rows."""
    return records.recorded_folder() / f"{claim.file}.csv"


def main(argv: Sequence[str]) -> int:
    """Check all claims, or write the page; the exit status."""
    if "--write" in argv:
        PAGE.write_text(markdown(), encoding="utf-8")
        return 0
    out, live = 0, os.environ.get("LIVE", "").split(",")
    if unknown := ", ".join(set(live) - {*RUNS, "1", ""}):
        print(f"LIVE: no such run: {unknown}; give 1 or some of {', '.join(RUNS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="mpmkit-claims-") as folder:
        for name, run in RUNS.items():
            file = Path(folder, f"{name}.csv") if {name, "1"} & set(live) else None
            if file:
                words = shlex.split(run.command.removeprefix("python -m "))
                command = [sys.executable, "-m", *words, "--out", str(file)]
                subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            for claim in CLAIMS:
                if claim.file == name:
                    inside, line = checked(claim, records.read(file or recorded(claim)))
                    print(line, flush=True)
                    out += not inside
    return int(out > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
