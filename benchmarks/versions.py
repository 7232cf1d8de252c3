"""Two versions of this project in turn: the CPU time of a request under each MPM.

    git worktree add /tmp/old COMMIT
    python -m benchmarks.versions /tmp/old . [--mpm event] [--work kept,new] [--pairs 60]
    python -m benchmarks.versions . python3.14@.    the same version on two interpreters

Both servers run at the same time, on one CPU, and get turns of a few hundred requests by one client on another
CPU, the two of a pair in random order: a machine that changes its speed from second to second changes it for
both. A looper keeps both CPUs awake (`measure.cpus`). So differences of 1% show on machines on which two runs
differ by 30%. Printed: medians in µs, and the ratio old/new (above 1, the new one is cheaper) with its
95% interval, from the middle four fifths of the pairs; then the memory that is the child's own (USS).
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.measure import command, cpus, procfs, stats
from mpmkit.measure.command import aligned

WORKS = {
    "kept": "/index.html",
    "distinct": "/index.html?{}",
    "script": "/hello.py",
    "post": "/hello.py",
    "new": "/index.html",
}
POOL = {
    "prefork": ("StartServers 1", "MinSpareServers 1", "MaxSpareServers 1"),
    **dict.fromkeys(
        ("worker", "event"),
        ("StartServers 1", "ThreadsPerChild 5", "MinSpareThreads 1", "MaxSpareThreads 25"),
    ),
}
KEPT = "GET {} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"
POST = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
LENGTHS = (20, 300, 5_000, 20_000, 65_000)  # bytes of bodies, in turn
NEW = "GET {} HTTP/1.0\r\nHost: localhost\r\n\r\n"


@contextlib.contextmanager
def served(tree: str, mpm: str, cpu: int) -> Iterator[tuple[int, int]]:
    """A server of one version with one child on this CPU: (port, child)."""
    lines = (
        "MaxKeepAliveRequests 0",
        "KeepAliveTimeout 60",
        "CustomLog /dev/null common",
        *POOL[mpm],
    )
    asked = [part for line in lines for part in ("-c", line)]
    python, _, tree = tree.rpartition("@")
    serve = [python or sys.executable, "-m", "mpmkit", "serve", mpm, "--port", "0", *asked]
    starting = subprocess.Popen(
        ["taskset", "-c", str(cpu), *serve],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": os.path.abspath(tree)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with starting as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            if not ready.startswith("ready "):
                raise RuntimeError(f"{tree}: the server of {mpm} did not start")
            port, deadline = int(ready.rsplit(":", 1)[1]), time.monotonic() + 10
            while not (children := procfs.children(process.pid)) and time.monotonic() < deadline:
                time.sleep(0.05)
            yield port, children[0]
        finally:
            process.terminate()


def client(stack: contextlib.ExitStack, port: int, work: str) -> Callable[[int], None]:
    """What sends so many requests of a kind of work, one after the other."""
    form, kept = {"new": NEW, "post": POST}.get(work, KEPT), None
    bodies = [bytes(length) for length in LENGTHS] if work == "post" else [b""]
    if work != "new":
        kept = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    sent = 0

    def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            sent += 1
            sock = kept or socket.create_connection(("127.0.0.1", port))
            body = bodies[sent % len(bodies)]
            sock.sendall(form.format(WORKS[work].format(sent), len(body)).encode() + body)
            if not sock.recv(65536).startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"{work}: an answer was not 200")
            if kept is None:
                while sock.recv(65536):
                    pass
                sock.close()

    return send


def compare(trees: Sequence[str], mpm: str, work: str, pairs: int, turn: int) -> list[str]:
    """A line of the table."""
    place = cpus.here()
    with contextlib.ExitStack() as stack:
        stack.enter_context(cpus.loopers({place.generator, place.server}))
        servers = [stack.enter_context(served(tree, mpm, place.server)) for tree in trees]
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {place.generator})
        sends = [client(stack, port, work) for port, _ in servers]
        for send in sends:
            send(turn)
        costs: list[list[float]] = [[], []]
        for _ in range(pairs):
            for which in random.sample((0, 1), 2):
                before = procfs.cpu_ns([servers[which][1]])
                sends[which](turn)
                used = procfs.cpu_ns([servers[which][1]]) - before
                costs[which].append(used / turn / 1000)
        maps = [procfs.read_smaps(child) for _, child in servers]
        memory = [f"{one.uss:,}" if one else "-" for one in maps]
    logs = sorted(math.log(old / new) for old, new in zip(*costs, strict=True))
    cut = len(logs) // 10
    ratio = stats.ratio([math.exp(log) for log in logs[cut : len(logs) - cut]], [1.0] * pairs)
    between = f"{ratio.low:.3f} to {ratio.high:.3f}"
    middles = [f"{statistics.median(cost):.1f}" for cost in costs]
    return [mpm, work, *middles, f"{ratio.value:.3f}", between, *memory]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare as asked, and print the table."""
    what = __doc__.partition("\n\n")[0]
    parser = Parser(prog="python -m benchmarks.versions", description=what)
    parser.add_argument("--mpm", default="all", help="only this MPM; several as a,b")
    # One metavar: with two, argparse of 3.11 cannot print its help.
    parser.add_argument(
        "trees", nargs=2, metavar="TREE", help="[PYTHON@]FOLDER: the old version, the new"
    )
    parser.add_argument("--work", metavar="WORK", help=f"{', '.join(WORKS)}; several as a,b")
    parser.add_argument("--pairs", type=int, default=60, metavar="N", help="of turns (60)")
    parser.add_argument(
        "--turn", type=int, default=250, metavar="N", help="requests of a turn (250)"
    )
    chosen = parser.parse_args(argv)
    problems = command.Problems()
    mpms = problems.chosen("mpm", command.words(chosen.mpm), MPMS)
    works = problems.chosen("work", command.words(chosen.work or ",".join(WORKS)), WORKS)
    problems.numbers("pairs", chosen.pairs, 10, 10_000)
    problems.numbers("turn", chosen.turn, 10, 100_000)
    problems += [
        f"{tree}: has no folder mpmkit" for tree in chosen.trees
        if not os.path.isdir(os.path.join(tree.rpartition("@")[2], "mpmkit"))
    ]  # fmt: skip
    if problems:
        parser.error("; ".join(problems))
    lines = [["MPM", "work", "old µs", "new µs", "old/new", "95%", "old KiB", "new KiB"]]
    for mpm in mpms:
        for work in works:
            lines.append(compare(chosen.trees, mpm, work, chosen.pairs, chosen.turn))
            print(" ".join(lines[-1]), file=sys.stderr, flush=True)
    print("\n".join(aligned(lines, (0, 1, 5))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
