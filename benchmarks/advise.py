"""Is the simulation behind `mpmkit advise` right? The same replay on the real httpd, predicted and measured.

    python -m benchmarks.advise [--load steady] [--write]

Each load is a plan of `mpmkit replay`, made once. The real httpd runs it under each MPM with ample limits and
writes a log. The log is simulated under the same MPM with tight limits, prefork's log also under event. Then the
real httpd runs the same plan with these limits. The page is a CGI program that sleeps as long as
the plan says, so a request that took longer had to wait. Eighteen servers, some ten minutes. --write puts the
table into docs/ADVISE.md; the exit status is 1 if a figure is out of its bounds.

    python -m benchmarks.advise --restart proxy [--restart cgi-reaped] [--slots 6] [--after 7.8]

restarts event gracefully in the middle of the steady load, once for each --restart: with a page that httpd
fetches by mod_proxy, or with the CGI program (`cgi-reaped`: below a process that reaps orphans at once).
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from mpmkit.measure.monitor import StatusPage
from mpmkit.measure.proposal import demand, holds
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
# Runs a program, and reaps each orphan below it when it ends.
REAPER = """
import ctypes, os, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
program = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: program.terminate())
while os.wait()[0] != program.pid:
    pass
"""
WORKERS = {"steady": 15, "burst": 20, "browsers": 30}  # MaxRequestWorkers of the tight servers


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
    count = len(rows)
    return mpmkit.Trace(
        starts, [SERVICE] * count, [SIZE] * count, connection=connections, kept=kept
    )


BEGIN, END = (
    "<!-- from here on written by `python -m benchmarks.advise --write` -->",
    "<!-- end -->",
)


def tight(mpm: str, load: str) -> dict[str, Any]:
    """Directives under which the load has to wait. The steady load finds all children there."""
    workers = WORKERS[load]
    first = workers if load == "steady" else 5
    if mpm == "prefork":
        spare = {"StartServers": first, "MinSpareServers": 3, "MaxSpareServers": 10}
    else:
        spare = {
            "StartServers": first // 5, "MinSpareThreads": 5, "MaxSpareThreads": 15, "ThreadsPerChild": 5,
        }  # fmt: skip
    return {**spare, "MaxRequestWorkers": workers, "KeepAliveTimeout": 5}


def ample(mpm: str) -> dict[str, Any]:
    """Directives under which no request waits."""
    spare = {"StartServers": 60, "MinSpareServers": 60, "MaxSpareServers": 250}
    if mpm != "prefork":
        spare = {
            "StartServers": 4,
            "MinSpareThreads": 100,
            "MaxSpareThreads": 250,
            "ServerLimit": 20,
        }
    return {"ServerLimit": 250, **spare, "MaxRequestWorkers": 250, "KeepAliveTimeout": 5}


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
            # One worker answers this look; if it is the last one, it counts as busy.
            busy = int(auto["BusyWorkers"]) - (auto["IdleWorkers"] != "0")
            self.busy = max(self.busy, busy)


class Reaped(Httpd):
    """Its orphans are reaped at once; `pid` is not httpd's, but that of its parent."""

    def _command(self, file: Path) -> list[str]:
        return [sys.executable, "-c", REAPER, *super()._command(file)]


class Backend(BaseHTTPRequestHandler):
    """What the CGI program does, behind mod_proxy."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = dict(word.split("=") for word in self.path.partition("?")[2].split("&"))
        time.sleep(int(asked["ms"]) / 1000)
        self.send_response(200)
        self.send_header("Content-Length", asked["bytes"])
        self.end_headers()
        self.wfile.write(b"x" * int(asked["bytes"]))

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(
    mpm: str, root: Path, httpd: type[Httpd] = Httpd, log: str = LOG, more: str = "",
    modules: Sequence[str] = ("status",), **directives: Any,
) -> Iterator[Httpd]:  # fmt: skip
    extra = (
        f'{more}LogFormat "{log}" trace\nCustomLog "trace_log" trace "expr=%{{REQUEST_URI}} == \'{PATH}\'"\n'
        '<Location "/server-status">\nSetHandler server-status\n</Location>\n'
    )
    with httpd(
        mpm, document_root=root, cgi=True, modules=modules, access_log=False, extra=extra, **directives
    ) as server:  # fmt: skip
        time.sleep(2)
        yield server


def recorded(mpm: str, root: Path, profile: LoadProfile) -> mpmkit.Trace:
    """What httpd with ample limits writes of the load."""
    with served(mpm, root, **ample(mpm)) as httpd:
        run = mpmkit.run_load(httpd.url, profile=profile)
        time.sleep(2 * SERVICE)
        trace = mpmkit.Trace.read(httpd.root / "trace_log", log_format=LOG)
    print(
        f"{mpm}, ample: {len(trace):,} requests on {len(set(trace.connection)):,} connections, {run.late:,} "
        f"sent late, {late(run):.1%} took as long as if they had waited",
        file=sys.stderr,
    )
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
    made = replay.plan(load(name), 1.0, PATH, root / f"{name}.plan")
    profile = LoadProfile(**made)
    logs = {mpm: recorded(mpm, root, profile) for mpm in MPMS}
    for mpm in MPMS:
        real = measured(mpm, root, name, profile)
        yield name, mpm, predicted(mpm, logs[mpm], name), real
    yield name, "event, by prefork's log", predicted("event", logs["prefork"], name), real


class Restarter(threading.Thread):
    """Sends USR1 to httpd so many seconds after the first line of its log, and sees its children begin."""

    def __init__(self, pid: int, log: Path, after: float) -> None:
        super().__init__(daemon=True)
        self.pid, self.log, self.after, self.at, self.done = pid, log, after, 0.0, threading.Event()
        self.born: dict[int, float] = {}

    def run(self) -> None:
        due = 0.0
        while not self.done.wait(0.02):
            now = time.time()
            if not due and self.log.exists() and self.log.stat().st_size:
                due = now + self.after
            elif due and not self.at and now >= due:
                self.at = now
                os.kill(self.pid, signal.SIGUSR1)
            for child in procfs.children(self.pid):
                if procfs.status_numbers(child).get("Threads", 1) > 1:
                    self.born.setdefault(child, now)


def restarted(kind: str, root: Path, slots: int, after: float) -> str:
    """What a graceful restart did, measured and predicted with the durations in the log of the same run."""
    profile = LoadProfile(**replay.plan(load("steady"), 1.0, PATH, root / "steady.plan"))
    limits = {**tight("event", "steady"), "ServerLimit": slots}
    backend = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    backend.socket.listen(128)
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    how: dict[str, Any] = {"httpd": Reaped} if kind == "cgi-reaped" else {}
    if kind == "proxy":
        there = f"http://127.0.0.1:{backend.server_port}{PATH}"
        how = {
            "modules": ("status", "proxy", "proxy_http"),
            "more": f'ProxyPass "{PATH}" "{there}"\n',
        }
    with served("event", root, log=f"{LOG} %P", **how, **limits) as httpd:
        pid = procfs.children(httpd.pid)[0] if kind == "cgi-reaped" else httpd.pid
        restarter = Restarter(pid, httpd.root / "trace_log", after)
        restarter.start()
        run = mpmkit.run_load(httpd.url, profile=profile)
        restarter.done.set()
        restarter.join(60)
        rows = [line.split() for line in (httpd.root / "trace_log").read_text().splitlines()]
        full = (httpd.root / "error_log").read_text().count("AH03490")
    backend.shutdown()
    at, began = restarter.at, min(int(row[-3]) for row in rows) / 1e6
    # Start, end and process of each request.
    requests = [
        (int(row[-3]) / 1e6, (int(row[-3]) + int(row[-6])) / 1e6, int(row[-1])) for row in rows
    ]
    old = [child for child, born in restarter.born.items() if born <= at]
    new = sorted(born - at for born in restarter.born.values() if born > at)
    busy = [
        sum(begin <= at < end for begin, end, process in requests if process == one) for one in old
    ]
    took = [end - begin for begin, end, _ in sorted(requests)]
    asked = load("steady")
    asked.seconds[: len(took)] = array("d", took[: len(asked)])
    moments = [at - began + 0.37 * n for n in range(-5, 6)]
    shares = [
        mpmkit.simulate("event", trace=asked, restarts=[moment], **limits).waited_longer(SLACK)
        for moment in moments
    ]
    cells = (kind, slots, f"{statistics.fmean(took):.3f}",
             f"{min(shares):.0%} to {max(shares):.0%}", f"{late(run):.0%}", str(sorted(busy))[1:-1],
             ", ".join(f"{born:.1f}" for born in new), full)  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


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
    kinds = ("proxy", "cgi", "cgi-reaped")
    parser.add_argument(
        "--restart", action="append", choices=kinds, default=[], help="instead of a load"
    )
    parser.add_argument("--slots", type=int, default=3, help="ServerLimit for --restart")
    parser.add_argument(
        "--after", type=float, default=8.0, help="seconds of the load, for --restart"
    )
    options = parser.parse_args(argv)
    found = []
    with tempfile.TemporaryDirectory(prefix="mpmkit-advise-") as place:
        root = Path(place)
        root.chmod(0o755)
        (root / "sleep.cgi").write_text(PAGE)
        (root / "sleep.cgi").chmod(0o755)
        (root / "index.html").write_text("x")
        if options.restart:
            print(
                "| page | slots | mean s | waited: predicted | measured | busy then | forked, s after | AH03490 |"
            )
        for kind in options.restart:
            print(restarted(kind, root, options.slots, options.after), flush=True)
        for name in options.load or (() if options.restart else WORKERS):
            for row in compare(name, root):
                print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
                found.append(row)
    if found:
        print(table(found))
    if options.write:
        write(Path(__file__).resolve().parents[1] / "docs" / "ADVISE.md", table(found))
    return int(any(one.off(real) for *_, one, real in found))


if __name__ == "__main__":
    sys.exit(main())
