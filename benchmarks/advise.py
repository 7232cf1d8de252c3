"""Is the simulation behind `mpmkit advise` right? The same load on the real httpd, predicted and measured.

    python -m benchmarks.advise [--load steady] [--write]

For each load: the real httpd under prefork, with ample limits, writes a log. The log is read, and simulated under
each MPM with tight limits. Then the same load meets the real httpd with these limits, under each MPM. The page is
a CGI program that sleeps, so a request that took longer than that waited. Twelve servers, some seven minutes. The
table goes to docs/ADVISE.md with --write; the exit status is 1 if a figure is out of its bounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mpmkit
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile
from mpmkit.measure import procfs
from mpmkit.measure.monitor import StatusPage
from mpmkit.measure.proposal import demand
from mpmkit.measure.reference_servers import Httpd

SERVICE = 0.2  # seconds that the page sleeps
SLACK = 0.1  # a request that takes longer than SERVICE by more than that has waited
PAGE = f"#!/bin/sh\nsleep {SERVICE}\nprintf 'Content-Type: text/plain\\r\\n\\r\\nslept'\n"
LOG = "%h %t %{remote}p %D %X %k %{usec}t %b"
AMPLE: dict[str, Any] = {
    "StartServers": 60, "MinSpareServers": 60, "MaxSpareServers": 250, "ServerLimit": 250,
    "MaxRequestWorkers": 250, "KeepAliveTimeout": 5,
}  # fmt: skip

PATH = "/sleep.cgi"
SAME: dict[str, Any] = {"path": PATH, "expect_length": 5, "seed": 18, "timeout": 60}
LOADS: dict[str, tuple[LoadProfile, int]] = {  # with the MaxRequestWorkers of the tight servers
    "steady": (LoadProfile(users=300, arrival="poisson", rate=60, duration=30, **SAME), 15),
    "burst": (
        LoadProfile(
            users=400, arrival="poisson", **SAME,
            stages=(
                {"seconds": 10, "rate": 20}, {"seconds": 4, "rate": 120}, {"seconds": 16, "rate": 20},
            ),  # type: ignore[arg-type]
        ),
        20,
    ),
    "browsers": (
        LoadProfile(
            users=40, keep_alive=True, requests_per_connection=6, think_time=0.6,
            think="exponential", duration=30, **SAME,
        ),
        30,
    ),
}  # fmt: skip
BEGIN, END = (
    "<!-- from here on written by `python -m benchmarks.advise --write` -->",
    "<!-- end -->",
)


def tight(mpm: str, load: str) -> dict[str, Any]:
    """Directives under which the load has to wait. The steady load finds all children there."""
    workers = LOADS[load][1]
    first = workers if load == "steady" else 5
    if mpm == "prefork":
        spare = {"StartServers": first, "MinSpareServers": 3, "MaxSpareServers": 10}
    else:
        spare = {
            "StartServers": first // 5,
            "MinSpareThreads": 5,
            "MaxSpareThreads": 15,
            "ThreadsPerChild": 5,
        }
    return {**spare, "MaxRequestWorkers": workers, "KeepAliveTimeout": 5}


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
        self.page, self.pid, self.busy, self.processes = (
            StatusPage(httpd.url, 60.0),
            httpd.pid,
            0,
            0,
        )
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
            # One worker answers us; where that is the last one, it is taken for a busy one.
            busy = int(auto["BusyWorkers"]) - (auto["IdleWorkers"] != "0")
            self.busy = max(self.busy, busy)


@contextmanager
def served(mpm: str, root: Path, **directives: Any) -> Iterator[Httpd]:
    extra = (
        f'LogFormat "{LOG}" trace\nCustomLog "trace_log" trace "expr=%{{REQUEST_URI}} == \'{PATH}\'"\n'
        '<Location "/server-status">\nSetHandler server-status\n</Location>\n'
    )
    with Httpd(
        mpm, document_root=root, cgi=True, modules=["status"], access_log=False, extra=extra, **directives
    ) as httpd:  # fmt: skip
        time.sleep(2)
        yield httpd


def measured(mpm: str, root: Path, load: str) -> Outcome:
    with served(mpm, root, **tight(mpm, load)) as httpd:
        sampler = Sampler(httpd)
        sampler.start()
        run = mpmkit.run_load(httpd.url, profile=LOADS[load][0])
        sampler.done.set()
        sampler.join(60)
        trace = mpmkit.Trace.read(httpd.root / "trace_log", log_format=LOG)
    slow = sum(seconds > SERVICE + SLACK for seconds in trace.seconds) / len(trace)
    print(f"{load}, {mpm}: {slow:.1%} took that long without a wait", file=sys.stderr)
    # Between two looks at the page, requests in progress may have been more, by httpd's own log.
    busy = max(sampler.busy, *demand(trace, 0.0))
    limit = (SERVICE + SLACK) * 1e9
    late = sum(count for ns, count in run.histogram.to_json() if ns > limit) + run.failures
    return Outcome(busy, late / run.requests, sampler.processes)


def predicted(mpm: str, trace: mpmkit.Trace, load: str) -> Outcome:
    run = mpmkit.simulate(mpm, trace=trace, **tight(mpm, load))
    return Outcome(run.peak_busy, run.waited_longer(SLACK), run.peak_processes)


def compare(name: str, root: Path) -> Iterator[tuple[str, str, Outcome, Outcome]]:
    """(load, MPM, predicted, measured), one MPM after the other."""
    with served("prefork", root, **AMPLE) as httpd:
        mpmkit.run_load(httpd.url, profile=LOADS[name][0])
        time.sleep(SERVICE * 2)
        trace = mpmkit.Trace.read(httpd.root / "trace_log", log_format=LOG)
    usual = statistics.median(trace.seconds)
    print(f"{name}: {len(trace):,} requests, {usual:.3f} s in the middle", file=sys.stderr)
    for mpm in MPMS:
        yield name, mpm, predicted(mpm, trace, name), measured(mpm, root, name)


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
    order = list(LOADS)
    both = sorted([*old, *rows], key=lambda row: order.index(row.split("|")[1].strip()))
    page.write_text("\n".join([f"{before}{BEGIN}", "", *head, *both, "", f"{END}{after}"]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.advise", description="Predicted against measured.")
    parser.add_argument("--load", action="append", choices=list(LOADS), help="only this load")
    parser.add_argument("--write", action="store_true", help="the table, into docs/ADVISE.md")
    options = parser.parse_args(argv)
    found = []
    with tempfile.TemporaryDirectory(prefix="mpmkit-advise-") as place:
        root = Path(place)
        root.chmod(0o755)
        (root / "sleep.cgi").write_text(PAGE)
        (root / "sleep.cgi").chmod(0o755)
        (root / "index.html").write_text("x")
        for name in options.load or LOADS:
            for row in compare(name, root):
                print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
                found.append(row)
    print(table(found))
    if options.write:
        write(Path(__file__).resolve().parents[1] / "docs" / "ADVISE.md", table(found))
    return int(any(one.off(real) for *_, one, real in found))


if __name__ == "__main__":
    sys.exit(main())
