"""What one request costs a server: CPU time, context switches and system calls, counted from outside.

    python -m benchmarks.cost [--mpm event] [--work new keepalive] [--also httpd floor] [--requests N]
    python -m benchmarks.cost --mpm prefork --clients 1 4 16 64 --also httpd floor

Throughput on a small, shared machine says more about the neighbours than about the server. What a
server uses for a request says less about them: CPU time is what its own threads ran for
(/proc/PID/task/TID/schedstat), switches are how often they were taken off a CPU and why
(/proc/PID/task/TID/status), and calls are counted by strace in a run of its own, where time counts
for nothing because strace slows everything down.

    voluntary      a thread went to sleep: it waited for a client, another thread, or Python's lock
    involuntary    another thread was given its CPU

With `--clients` it is the CPU time of a kept-alive request against the number of clients who ask at
once, each server in turn in each of ROUNDS rounds.

ab is the client. The pools are made as large as the load needs before anything is counted, and
may not shrink: a process that ends takes its counts with it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mpmkit
from benchmarks import baseline
from benchmarks.usage import usage
from benchmarks.works import DIRECTIVES
from mpmkit.config.directives import MPMS
from mpmkit.measure import records, stats
from mpmkit.measure.experiment import OURS
from mpmkit.measure.procfs import members, numbers, tasks
from mpmkit.measure.reference_servers import Httpd, NotInstalled, find_program

# name -> (what it is, ab's options)
WORKS = {
    "new": ("a connection for each request, 100 clients", ("-c", "100")),
    "keepalive": ("kept-alive connections, 50 clients", ("-k", "-c", "50")),
}
CLIENTS = 100  # the most there are
ROUNDS = 3  # of --clients
FLOOR = "floor"
OTHERS: dict[str, Any] = {"httpd": Httpd, FLOOR: baseline.Baseline}
STRACE_WITHIN = 5.0  # seconds for strace to hold all threads


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
        name,
        mpm,
        work,
        requests,
        used.cpu_ns / requests / 1000,
        used.voluntary / requests,
        used.involuntary / requests,
        calls,
    )


def by_clients(
    mpm: str, clients: Sequence[int], also: Sequence[str], requests: int
) -> dict[str, dict[int, list[float]]]:
    """CPU µs of a kept-alive request: for each server and number of clients a figure a round.

    Each server is started anew in each round, each round begins with another one. Raises NotInstalled.
    """
    ab = find_program(("ab",), "ab", "apt install apache2-utils")
    names = [OURS, *also]
    found: dict[str, dict[int, list[float]]] = {name: {n: [] for n in clients} for name in names}
    for number in range(1, ROUNDS + 1):
        for name in stats.turns(names, number):
            print(f"round {number} of {ROUNDS}: {name} {mpm}", file=sys.stderr)
            with _server(name, mpm) as server:
                _load(ab, server.url, CLIENTS * 20, ("-c", str(CLIENTS)))
                for n in clients:
                    options = ("-k", "-c", str(n))
                    _load(ab, server.url, CLIENTS * 20, options)
                    before = usage(members(server.pid))
                    _load(ab, server.url, requests, options)
                    used = usage(members(server.pid)) - before
                    found[name][n].append(used.cpu_ns / requests / 1000)
    return found


def clients_table(mpm: str, found: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """What `by_clients` found, as text: medians, with the lowest and the highest of the rounds."""
    numbers = next(iter(found.values()))
    lines = [f"{mpm}, clients".ljust(18) + "".join(f"{n:>18}" for n in numbers)]
    for name, of in found.items():
        cells = (f"{statistics.median(us):.1f} ({min(us):.1f}–{max(us):.1f})" for us in of.values())
        lines.append(name.ljust(18) + "".join(f"{cell:>18}" for cell in cells))
    lines.append(
        f"CPU µs of a kept-alive request, median of {ROUNDS} interleaved rounds (lowest–highest)"
    )
    return "\n".join(lines)


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
    """`python -m benchmarks.cost`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--mpm", nargs="+", choices=MPMS, default=MPMS)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument(
        "--also",
        nargs="+",
        choices=OTHERS,
        default=[],
        help="the real httpd; the least that a Python server does (no event)",
    )
    parser.add_argument(
        "--clients",
        nargs="+",
        type=int,
        metavar="N",
        help="kept-alive requests by so many clients at once, one number after the other",
    )
    parser.add_argument("--requests", type=int, default=40_000, help="a cell (40,000)")
    args = parser.parse_args(argv)
    if not CLIENTS <= args.requests <= 1_000_000:
        parser.error(f"--requests {args.requests}: give {CLIENTS} to 1,000,000")
    for n in args.clients or ():
        if not 1 <= n <= CLIENTS:
            parser.error(f"--clients {n}: give numbers from 1 to {CLIENTS}")
    if args.clients and len(args.work) == 1 and args.work[0] != "keepalive":
        parser.error("--clients asks by kept-alive connections; leave out --work new")
    costs = []
    try:
        for mpm in args.mpm:
            also = [name for name in args.also if name != FLOOR or mpm in baseline.MODELS]
            if args.clients:
                found = by_clients(mpm, list(dict.fromkeys(args.clients)), also, args.requests)
                print(clients_table(mpm, found))
                continue
            for name in (OURS, *also):
                with _server(name, mpm) as server:
                    for work in args.work:
                        print(f"{name} {mpm}: {WORKS[work][0]}", file=sys.stderr)
                        costs.append(measure(server, name, mpm, work, args.requests))
    except NotInstalled as error:
        print(f"mpmkit: {error}", file=sys.stderr)
        return 1
    if costs:
        print(table(costs))
    print(f"measured on {records.machine()}")
    return 0


def _server(name: str, mpm: str) -> Any:
    """One of the servers to look at, for `with`, with a pool as large as the load needs."""
    directives = dict(DIRECTIVES[mpm])
    if mpm == "prefork":
        directives["StartServers"] = CLIENTS
    if name == OURS:
        return mpmkit.launch(mpm, access_log=True, **directives)
    root = os.path.join(os.path.dirname(mpmkit.__file__), "htdocs")
    return OTHERS[name](mpm, document_root=root, **directives)


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
        while not all(_traced(task) for pid in pids for task in tasks(pid)):
            if tracer.poll() is not None or time.monotonic() > until:
                raise NotInstalled("strace", "it may not look into other processes here")
            time.sleep(0.02)
        yield counted
    finally:
        tracer.send_signal(signal.SIGINT)
        _, summary = tracer.communicate()
        counted.update(calls_of(summary))


def _traced(task: str) -> bool:
    return numbers(f"{task}/status").get("TracerPid") != 0  # or it has ended


if __name__ == "__main__":
    sys.exit(main())
