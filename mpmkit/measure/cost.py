"""What one request costs a server: CPU time, context switches and system calls, counted from outside.

    python -m mpmkit.measure.cost [--mpm event] [--work new keepalive] [--beside httpd] [--requests N]

Throughput on a small, shared machine says more about the neighbours than about the server. What a
server uses for a request says less about them: CPU time is what its own threads ran for
(/proc/PID/task/TID/schedstat), switches are how often they were taken off a CPU and why
(/proc/PID/task/TID/status), and calls are counted by strace in a run of its own, where time counts
for nothing because strace slows everything down.

    voluntary      a thread went to sleep: it waited for a client, another thread, or Python's lock
    involuntary    another thread was given its CPU

ab is the client. The pools are made as large as the load needs before anything is counted, and
may not shrink: a process that ends takes its counts with it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import mpmkit
from mpmkit.directives import MPMS
from mpmkit.measure import records
from mpmkit.measure.bench import DIRECTIVES, OURS
from mpmkit.measure.rivals import Httpd, NotInstalled, find_program, members

# name -> (what it is, ab's options)
WORKS = {
    "new": ("a connection for each request, 100 clients", ("-c", "100")),
    "keepalive": ("kept-alive connections, 50 clients", ("-k", "-c", "50")),
}
CLIENTS = 100
STRACE_WITHIN = 5.0  # seconds for strace to hold all threads


class Usage(NamedTuple):
    """Sums over all threads of some processes."""

    cpu_ns: int
    voluntary: int
    involuntary: int

    def __sub__(self, other: Usage) -> Usage:  # type: ignore[override]
        return Usage(*(a - b for a, b in zip(self, other, strict=True)))


class Cost(NamedTuple):
    """One row: what one request of `work` cost `server`, on average over `requests`.

    `calls` are system calls by name, a request; empty where strace isn't there or may not look.
    """

    server: str
    mpm: str
    work: str
    requests: int
    cpu_us: float
    voluntary: float
    involuntary: float
    calls: dict[str, float]


def usage(pids: Iterable[int]) -> Usage:
    """What the threads of `pids` have used so far. Threads that have ended are not in it."""
    cpu = voluntary = involuntary = 0
    for pid in pids:
        for task in _tasks(pid):
            try:
                with open(f"{task}/schedstat") as file:
                    cpu += int(file.read().split()[0])
                with open(f"{task}/status") as file:
                    counts = switches(file.read())
            except OSError:
                continue
            voluntary += counts[0]
            involuntary += counts[1]
    return Usage(cpu, voluntary, involuntary)


def switches(status: str) -> tuple[int, int]:
    """(voluntary, involuntary) context switches of a /proc/PID/status."""
    found = dict(re.findall(r"^(\w+_ctxt_switches):\s*(\d+)$", status, re.MULTILINE))
    return int(found["voluntary_ctxt_switches"]), int(found["nonvoluntary_ctxt_switches"])


def calls_of(summary: str) -> dict[str, int]:
    """System calls by name, from what `strace -c` prints."""
    calls = {}
    for line in summary.splitlines():
        words = line.split()
        # "% time  seconds  usecs/call  calls  [errors]  syscall"
        if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
            calls[words[-1]] = int(words[3])
    return calls


def measure(server: Any, name: str, mpm: str, work: str, requests: int) -> Cost:
    """One cell. `server` has `url` and runs; it is warm afterwards. Raises NotInstalled without ab."""
    ab = find_program(("ab",), "ab", "apt install apache2-utils")
    _, options = WORKS[work]
    _load(ab, server.url, CLIENTS * 20, ("-c", str(CLIENTS)))
    _load(ab, server.url, CLIENTS * 20, options)
    before = usage(members(server.pid))
    _load(ab, server.url, requests, options)
    used = usage(members(server.pid)) - before
    calls: dict[str, float] = {}
    with contextlib.suppress(NotInstalled):
        fewer = max(requests // 5, CLIENTS)
        with _strace(members(server.pid)) as counted:
            _load(ab, server.url, fewer, options)
        calls = {call: count / fewer for call, count in counted.items()}
    return Cost(
        name, mpm, work, requests, used.cpu_ns / requests / 1000,
        used.voluntary / requests, used.involuntary / requests, calls,
    )  # fmt: skip


def table(costs: Sequence[Cost], least: float = 0.05) -> str:
    """The rows as text. Calls made less often than `least` a request are left out."""
    lines = [f"{'server':<8}{'MPM':<9}{'work':<11}{'CPU µs':>7}{'switches':>20}   system calls"]
    for cost in costs:
        often = sorted(cost.calls.items(), key=lambda item: -item[1])
        calls = " ".join(f"{call} {count:.2f}" for call, count in often if count >= least)
        changed = f"{cost.voluntary:.2f} + {cost.involuntary:.2f}"
        lines.append(
            f"{cost.server:<8}{cost.mpm:<9}{cost.work:<11}{cost.cpu_us:>7.1f}{changed:>20}   {calls}"
        )
    lines.append("switches: voluntary + involuntary; all figures are per request")
    return "\n".join(line.rstrip() for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m mpmkit.measure.cost`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mpmkit.measure.cost", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--mpm", nargs="+", choices=MPMS, default=MPMS)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--beside", choices=("httpd",), help="the real one, too")
    parser.add_argument("--requests", type=int, default=10_000, help="a cell (10,000)")
    args = parser.parse_args(argv)
    if not CLIENTS <= args.requests <= 1_000_000:
        parser.error(f"--requests {args.requests}: give {CLIENTS} to 1,000,000")
    costs = []
    try:
        for mpm in args.mpm:
            for name, server in _servers(mpm, args.beside):
                with server:
                    for work in args.work:
                        print(f"{name} {mpm}: {WORKS[work][0]}", file=sys.stderr)
                        costs.append(measure(server, name, mpm, work, args.requests))
    except NotInstalled as error:
        print(f"mpmkit: {error}", file=sys.stderr)
        return 1
    print(table(costs))
    print(f"measured on {records.machine()}")
    return 0


def _servers(mpm: str, beside: str | None) -> Iterator[tuple[str, Any]]:
    """The servers to look at, one after the other, with pools as large as the load needs."""
    directives = dict(DIRECTIVES[mpm])
    if mpm == "prefork":
        directives["StartServers"] = CLIENTS
    yield OURS, mpmkit.launch(mpm, access_log=True, **directives)
    if beside == "httpd":
        root = os.path.join(os.path.dirname(mpmkit.__file__), "htdocs")
        yield "httpd", Httpd(mpm, document_root=root, **directives)


def _tasks(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/task/{tid}" for tid in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _load(ab: str, url: str, requests: int, options: Sequence[str]) -> None:
    command = [ab, "-q", "-n", str(requests), *options, f"{url}/index.html"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=300)


@contextlib.contextmanager
def _strace(pids: Iterable[int]) -> Iterator[dict[str, int]]:
    """Counts the calls of `pids` meanwhile; the dict is filled at the end. Raises NotInstalled."""
    strace = shutil.which("strace")
    if strace is None:
        raise NotInstalled("strace", "apt install strace")
    attach = [word for pid in pids for word in ("-p", str(pid))]
    tracer = subprocess.Popen(
        [strace, "-f", "-c", *attach], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    counted: dict[str, int] = {}
    try:
        until = time.monotonic() + STRACE_WITHIN
        while not all(_traced(task) for pid in pids for task in _tasks(pid)):
            if tracer.poll() is not None or time.monotonic() > until:
                raise NotInstalled("strace", "it may not look into other processes here")
            time.sleep(0.02)
        yield counted
    finally:
        tracer.send_signal(signal.SIGINT)
        _, summary = tracer.communicate()
        counted.update(calls_of(summary))


def _traced(task: str) -> bool:
    try:
        with open(f"{task}/status") as file:
            return "\nTracerPid:\t0\n" not in file.read()
    except OSError:
        return True  # it has ended


if __name__ == "__main__":
    sys.exit(main())
