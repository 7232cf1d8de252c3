"""Is the simulation behind `mpmkit advise` right? The same replay on the real httpd, predicted and measured.

    python -m benchmarks.advise [--load steady] [--write]

Each load is a plan of `mpmkit replay`, made once. The real httpd runs it under each MPM with ample limits and
writes a log. The log is simulated under the same MPM with tight limits, prefork's log also under event. Then the
real httpd runs the same plan with these limits. The page is a CGI program that sleeps as long as
the plan says, so a request that took longer had to wait. Eighteen servers, some ten minutes. --write puts the
table into docs/ADVISE.md; the exit status is 1 if a figure is out of its bounds.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mpmkit
from mpmkit.config.arguments import Parser
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS
from mpmkit.config.keywords import from_keywords
from mpmkit.load.profile import LoadProfile
from mpmkit.measure import procfs, replay
from mpmkit.measure.advise import demand, holds
from mpmkit.measure.monitor import StatusPage
from mpmkit.measure.reference_servers import Httpd

SERVICE = 0.208  # seconds that the page sleeps: of the grid of `mpmkit replay`
SLACK = 0.1  # a request that takes longer than SERVICE by more than that has waited
SIZE = 5  # bytes of the answer
SECONDS = 25.0  # in which connections begin
PATH = "/sleep.cgi"
PAGE = r"""#!/bin/sh
ms=${QUERY_STRING##*ms=} bytes=${QUERY_STRING%%&*}
part=$((1000 + ms % 1000))
sleep $((ms / 1000)).${part#1}
printf "Content-Type: text/plain\r\n\r\n%${bytes#*=}s"
"""
LOG = "%h %t %{remote}p %D %X %k %{usec}t %b"
BEGIN = "<!-- from here on written by `python -m benchmarks.advise --write` -->"
END = "<!-- end -->"
WORKERS = {"steady": 15, "burst": 20, "browsers": 30}  # MaxRequestWorkers of the tight servers


@contextmanager
def site() -> Iterator[Path]:
    """A folder with the page."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-advise-") as place:
        root = Path(place)
        root.chmod(0o755)
        (page := root / "sleep.cgi").write_text(PAGE)
        page.chmod(0o755)
        (root / "index.html").write_text("x")
        yield root


def load(name: str) -> mpmkit.Trace:
    """The requests of a load: connections come at random, with the same seed in each run."""
    chance, at, rows = Random(18), 0.0, []
    rate, number = {"steady": (50, 1), "burst": (20, 1), "browsers": (4, 6)}[name]
    for connection in range(10_000):
        at += chance.expovariate(120 if name == "burst" and 8 <= at < 12 else rate)
        if at > SECONDS:
            break
        start, stays = at, number > 1 and chance.random() < 0.5
        for left in reversed(range(number)):
            rows.append((start, connection, int(left > 0 or stays)))
            start += SERVICE + chance.expovariate(1 / 0.6)
    starts, connections, kept = zip(*sorted(rows), strict=True)
    lasts, sizes = [SERVICE] * len(rows), [SIZE] * len(rows)
    return mpmkit.Trace(starts, lasts, sizes, connection=connections, kept=kept)


def tight(mpm: str, load: str) -> dict[str, Any]:
    """Directives under which the load has to wait. The steady load finds all children there."""
    workers = WORKERS[load]
    first = workers if load == "steady" else 5
    most = {"MaxRequestWorkers": workers, "KeepAliveTimeout": 5}
    if mpm == "prefork":
        return {**most, "StartServers": first, "MinSpareServers": 3, "MaxSpareServers": 10}
    threads = {"MinSpareThreads": 5, "MaxSpareThreads": 15, "ThreadsPerChild": 5}
    return {**most, "StartServers": first // 5, **threads}


def ample(mpm: str) -> dict[str, Any]:
    """Directives under which no request waits."""
    most = {"ServerLimit": 250, "MaxRequestWorkers": 250, "KeepAliveTimeout": 5}
    if mpm == "prefork":
        return {**most, "StartServers": 60, "MinSpareServers": 60, "MaxSpareServers": 250}
    threads = {"MinSpareThreads": 100, "MaxSpareThreads": 250}
    return {**most, "StartServers": 4, **threads, "ServerLimit": 20}


@dataclass
class Outcome:
    """Peaks, and the share of the requests that waited; predicted or measured."""

    busy: int
    waited: float
    processes: int

    def off(self, other: Outcome) -> list[str]:
        """Which figures differ by more than the bounds: busy 10% or 2, waited 5 points, processes 2."""
        bad = ["busy"] * (abs(self.busy - other.busy) > max(2, 0.1 * other.busy))
        bad += ["waited"] * (abs(self.waited - other.waited) > 0.05)
        return bad + ["processes"] * (abs(self.processes - other.processes) > 2)


class Sampler(threading.Thread):
    """The most busy workers on the status page, and the most children, ten times a second."""

    def __init__(self, httpd: Httpd) -> None:
        super().__init__(daemon=True)
        self.page, self.pid = StatusPage(httpd.url, 60.0), httpd.pid
        self.busy = self.processes = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            children = [
                one for one in procfs.children(self.pid)
                if self.page.mpm == "prefork" or procfs.status_numbers(one).get("Threads", 1) > 1
            ]  # fmt: skip
            self.processes = max(self.processes, len(children))
            try:
                auto = self.page.read(60.0)
            except OSError:
                continue
            # One worker answers this look; if it is the last one, it counts as busy.
            self.busy = max(self.busy, int(auto["BusyWorkers"]) - (auto["IdleWorkers"] != "0"))


@contextmanager
def served(
    mpm: str, root: Path, httpd: type[Httpd] = Httpd, log: str = LOG, more: str = "", **how: Any
) -> Iterator[Httpd]:
    logged = f'LogFormat "{log}" trace\nCustomLog "trace_log" trace "expr=%{{REQUEST_URI}} == \'{PATH}\'"\n'
    page = '<Location "/server-status">\nSetHandler server-status\n</Location>\n'
    how = {"modules": ("status",), "extra": more + logged + page} | how
    with httpd(mpm, document_root=root, cgi=True, access_log=False, **how) as server:
        time.sleep(2)
        yield server


def recorded(mpm: str, root: Path, profile: LoadProfile) -> mpmkit.Trace:
    """What httpd with ample limits writes of the load."""
    with served(mpm, root, **ample(mpm)) as httpd:
        run = mpmkit.run_load(httpd.url, profile=profile)
        time.sleep(2 * SERVICE)
        trace = mpmkit.Trace.read(httpd.root / "trace_log", log_format=LOG)
    many = f"{len(trace):,} requests on {len(set(trace.connection)):,} connections"
    slow = f"{run.late:,} sent late, {late(run):.1%} took as long as if they had waited"
    print(f"{mpm}, ample: {many}, {slow}", file=sys.stderr)
    return trace


def late(run: mpmkit.LoadRun) -> float:
    """The share of the requests that took longer than SERVICE and SLACK, or failed."""
    limit = (SERVICE + SLACK) * 1e9
    slow = sum(count for ns, count in run.histogram.to_json() if ns > limit)
    return (slow + run.failures) / run.requests


def measured(mpm: str, root: Path, load: str, profile: LoadProfile) -> Outcome:
    """The peak is what the log shows: its starts and durations, and under prefork and worker the time for which a
    kept connection holds a worker. The status page, read ten times a second, may have seen more."""
    with served(mpm, root, **tight(mpm, load)) as httpd:
        sampler = Sampler(httpd)
        sampler.start()
        run = mpmkit.run_load(httpd.url, profile=profile)
        sampler.done.set()
        sampler.join(60)
        trace = mpmkit.Trace.read(httpd.root / "trace_log", log_format=LOG)
    directives = check(mpm, from_keywords(mpm, **tight(mpm, load)))[0]
    in_log = min(WORKERS[load], max(demand(trace, holds(directives))))
    print(f"{load}, {mpm}: peak {sampler.busy} by the page, {in_log} by the log", file=sys.stderr)
    return Outcome(max(sampler.busy, in_log), late(run), sampler.processes)


def predicted(mpm: str, trace: mpmkit.Trace, load: str) -> Outcome:
    run = mpmkit.simulate(mpm, trace=trace, **tight(mpm, load))
    return Outcome(run.peak_busy, run.waited_longer(SLACK), run.peak_processes)


def compare(name: str, root: Path) -> Iterator[tuple[str, str, Outcome, Outcome]]:
    """(load, MPM, predicted, measured), one MPM after the other."""
    profile = LoadProfile(**replay.plan(load(name), 1.0, PATH, root / f"{name}.plan"))
    logs = {mpm: recorded(mpm, root, profile) for mpm in MPMS}
    for mpm in MPMS:
        real = measured(mpm, root, name, profile)
        yield name, mpm, predicted(mpm, logs[mpm], name), real
    yield name, "event, by prefork's log", predicted("event", logs["prefork"], name), real


def table(found: Sequence[tuple[str, str, Outcome, Outcome]]) -> str:
    lines = [
        "| load | MPM | peak busy: predicted | measured | waited: predicted | measured "
        "| processes: predicted | measured | out of bounds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, mpm, one, real in found:
        cells = (name, mpm, one.busy, real.busy, f"{one.waited:.1%}", f"{real.waited:.1%}", one.processes,
                 real.processes, ", ".join(one.off(real)) or "-")  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write(page: Path, made: str) -> None:
    """Put a table into a page. Rows of loads that were not measured now stay."""
    before, _, rest = page.read_text().partition(BEGIN)
    there, _, after = rest.partition(END)
    head, rows = made.splitlines()[:2], made.splitlines()[2:]
    measured_now = {row.split("|")[1] for row in rows}
    old = [row for row in there.split("\n")[4:] if row and row.split("|")[1] not in measured_now]
    order = list(WORKERS)
    both = sorted([*old, *rows], key=lambda row: order.index(row.split("|")[1].strip()))
    page.write_text("\n".join([f"{before}{BEGIN}", "", *head, *both, "", f"{END}{after}"]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.advise", description="Predicted against measured.")
    parser.add_argument("--load", action="append", choices=list(WORKERS), help="only this load")
    parser.add_argument("--write", action="store_true", help="the table, into docs/ADVISE.md")
    options = parser.parse_args(argv)
    found = []
    with site() as root:
        for name in options.load or WORKERS:
            for row in compare(name, root):
                print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
                found.append(row)
    print(table(found))
    if options.write:
        write(Path(__file__).resolve().parents[1] / "docs" / "ADVISE.md", table(found))
    return int(any(one.off(real) for *_, one, real in found))


if __name__ == "__main__":
    sys.exit(main())
