"""What one request costs a server: CPU time, context switches and system calls, counted from outside.

    python -m benchmarks.cost [--mpm event] [--work new keepalive] [--also httpd floor] [--requests N]
    python -m benchmarks.cost --mpm prefork --clients 1 4 16 64 --also httpd floor --rounds 3

Throughput on a small, shared machine says more about the neighbours than about the server. The
cost of a request depends less on them: CPU time is that of the server's own threads
(/proc/PID/task/TID/schedstat), switches are how often they left a CPU and why
(/proc/PID/task/TID/status), and strace counts calls in a separate run, whose time is not used
because strace slows everything down.

    voluntary      a thread went to sleep: it waited for a client, another thread, or Python's lock
    involuntary    another thread was given its CPU

`--clients`: that many kept-alive connections at once. Each round starts each server again.

ab is the client. The pools are made as large as the load needs before anything is counted, and
may not shrink: a process that ends takes its counts with it.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import mpmkit
from benchmarks import baseline
from benchmarks.usage import usage
from benchmarks.works import DIRECTIVES, rotated
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.measure import command, records
from mpmkit.measure.competitors import SAMPLE_SITE
from mpmkit.measure.experiment import OURS
from mpmkit.measure.procfs import members, numbers, tasks
from mpmkit.measure.reference_servers import Httpd, NotInstalled, find_program

WORKS: dict[str, tuple[str, ...]] = {
    "new": ("-c", "100"),
    "keepalive": ("-k", "-c", "50"),
}  # name -> ab's options
CLIENTS = 100  # the most there are
FLOOR = "floor"
OTHERS: dict[str, Any] = {"httpd": Httpd, FLOOR: baseline.Baseline}
STRACE_WITHIN = 5.0  # seconds for strace to hold all threads


class Cost(NamedTuple):
    """One row: what one request of `work` cost `server`, on average over the requests of a round.

    `calls` are system calls by name, a request; empty where strace isn't there or may not look.
    """

    server: str
    mpm: str
    work: str
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


def measure(server: Any, who: tuple[str, str, str], options: Sequence[str], requests: int) -> Cost:
    """One cell. `server` has `url` and runs. Raises NotInstalled without ab."""
    _load(server.url, CLIENTS * 20, ("-c", str(CLIENTS)))
    _load(server.url, CLIENTS * 20, options)
    before = usage(members(server.pid))
    _load(server.url, requests, options)
    used = usage(members(server.pid)) - before
    calls: dict[str, float] = {}
    with contextlib.suppress(NotInstalled):
        fewer = max(requests // 5, CLIENTS)
        with _strace(members(server.pid)) as counted:
            _load(server.url, fewer, options)
        calls = {call: count / fewer for call, count in counted.items()}
    us, switches = used.cpu_ns / 1000, (used.voluntary / requests, used.involuntary / requests)
    return Cost(*who, us / requests, *switches, calls)


def table(costs: Sequence[Cost], least: float = 0.05) -> str:
    """The rows as text, medians of the rounds. Calls made less often than `least` a request are left out."""
    lines = [f"{'server':<8}{'MPM':<9}{'work':<13}{'CPU µs':>18}{'switches':>16}   system calls"]
    rounds: dict[tuple[str, str, str], list[Cost]] = {}
    for cost in costs:
        rounds.setdefault(cost[:3], []).append(cost)
    for (server, mpm, work), found in rounds.items():
        us = [cost.cpu_us for cost in found]
        cpu = f"{statistics.median(us):.1f}" + f" ({min(us):.1f}–{max(us):.1f})" * (len(us) > 1)
        often = sorted(found[-1].calls.items(), key=lambda item: -item[1])
        calls = " ".join(f"{call} {count:.2f}" for call, count in often if count >= least)
        changed = f"{found[-1].voluntary:.2f} + {found[-1].involuntary:.2f}"
        lines.append(f"{server:<8}{mpm:<9}{work:<13}{cpu:>18}{changed:>16}   {calls}")
    lines.append(
        "switches: voluntary + involuntary, of the last round; all figures are per request"
    )
    return "\n".join(line.rstrip() for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.cost`; returns the exit status."""
    parser = Parser(prog="python -m benchmarks.cost", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--mpm", nargs="+", choices=MPMS, default=MPMS)
    add("--work", nargs="+", choices=WORKS, default=list(WORKS))
    also = "the real httpd; the least work of a Python server (no event)"
    add("--also", nargs="+", choices=OTHERS, default=[], help=also)
    clients = "kept-alive requests by so many clients at once, instead of --work"
    add("--clients", nargs="+", type=int, default=[], metavar="N", help=clients)
    add("--requests", type=int, default=40_000, help="a cell (40,000)")
    add("--rounds", type=int, default=1, help="each begins with another server (1)")
    args = parser.parse_args(argv)
    if not CLIENTS <= args.requests <= 1_000_000:
        parser.error(f"--requests {args.requests}: give {CLIENTS} to 1,000,000")
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: give 1 at least")
    for n in args.clients:
        if not 1 <= n <= CLIENTS:
            parser.error(f"--clients {n}: give numbers from 1 to {CLIENTS}")
    works: dict[str, tuple[str, ...]] = {
        f"keepalive {n}": ("-k", "-c", str(n)) for n in args.clients
    }
    works = works or {name: WORKS[name] for name in args.work}
    costs = []
    try:
        for mpm in args.mpm:
            names = [OURS, *(name for name in args.also if name != FLOOR or mpm in baseline.MODELS)]
            for number in range(1, args.rounds + 1):
                for name in rotated(names, number):
                    with _server(name, mpm) as server:
                        for work, options in works.items():
                            command.say(f"round {number} of {args.rounds}: {name} {mpm}, {work}")
                            costs.append(measure(server, (name, mpm, work), options, args.requests))
    except NotInstalled as error:
        command.say(str(error))
        return 1
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
    return OTHERS[name](mpm, document_root=SAMPLE_SITE, **directives)


def _load(url: str, requests: int, options: Sequence[str]) -> None:
    ab = find_program(("ab",), "ab", "apt install apache2-utils")
    argv = [ab, "-q", "-n", str(requests), *options, f"{url}/index.html"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, timeout=300)


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
