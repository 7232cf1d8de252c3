"""How fast are access logs read, and in how much memory? Logs are made, read and removed.

    python -m benchmarks.logs [--lines 200000] [--rounds 5] [--against CHECKOUT]

Each reading is a process of its own, and its time is its CPU time. The rows differ in the LogFormat, in the
lines a second, and in what clients do: `one` asks for one thing after another, `three` opens three connections
at once, as browsers do. With --against each reading is done by another checkout, too, in turn.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path

from mpmkit.config.arguments import Parser

FORMATS = ("combined %D", "combined %D %X %k")
CASES = [
    (form, rate, connections) for form in FORMATS for rate in (80, 5) for connections in (1, 3)
]
CLIENTS, REQUESTS, PATHS = 3000, 6, 5000
BEGIN = 1_430_000_000.0
READ = """
import json, resource, sys, time, mpmkit
began, peak = time.process_time(), lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
empty = peak()
trace = mpmkit.Trace.read(sys.argv[1], log_format=sys.argv[2])
print(json.dumps([len(trace), time.process_time() - began, peak() - empty]))
"""


def lines(count: int, form: str, rate: float, connections: int) -> Iterator[str]:
    """A log in the order of ends: sessions come at random, of REQUESTS requests on average."""
    chance = random.Random(1)
    agents = [
        f"Mozilla/5.0 (X11; Linux x86_64; rv:1{n}.0) Gecko/20100101 Firefox/1{n}.0"
        for n in range(40)
    ]
    waiting: list[
        tuple[float, float, int, int, int]
    ] = []  # end, start, client, %k, requests that follow
    begins, second, stamp = BEGIN, 0, ""
    serials = form.endswith("%k")
    while count:
        if not waiting or begins < waiting[0][0]:
            client = chance.randrange(CLIENTS)
            for n in range(connections):
                start, more = begins + 0.05 * n, int(chance.expovariate(connections / REQUESTS))
                heappush(waiting, (start + chance.expovariate(20), start, client, 0, more))
            begins += chance.expovariate(rate / REQUESTS)
            continue
        end, start, client, serial, more = heappop(waiting)
        if more:
            following = end + chance.expovariate(1)
            heappush(
                waiting,
                (following + chance.expovariate(20), following, client, serial + 1, more - 1),
            )
        if int(start) != second:
            second = int(start)
            stamp = time.strftime("[%d/%b/%Y:%H:%M:%S +0000]", time.gmtime(second))
        closes = not more and client % 2
        tail = f" {'-' if closes else '+'} {serial - (closes and serial > 0)}" if serials else ""
        path = int(chance.paretovariate(0.7)) % PATHS
        yield (
            f'10.{client >> 8}.{client & 255}.7 - - {stamp} "GET /{path}.html?page={count % 97} HTTP/1.1" 200 '
            f'{path * 7919 % 60_000} "https://www.example.org/{path % 97}" "{agents[client % 40]}" '
            f"{int(1e6 * (end - start))}{tail}\n"
        )
        count -= 1


def read(log: Path, form: str, checkout: str) -> tuple[float, float]:
    """(lines a second, bytes of memory a line that it took at most), by the code of a checkout."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(log), form], stdout=subprocess.PIPE, check=True,
        env={**os.environ, "PYTHONPATH": checkout}, cwd=checkout,
    )  # fmt: skip
    count, seconds, kib = json.loads(done.stdout)
    return count / seconds, 1024 * kib / count


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.logs", description="How fast are logs read?")
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--case", type=int, action="append", choices=range(len(CASES)), help="only this one"
    )
    parser.add_argument("--against", metavar="CHECKOUT", help="another checkout, read by in turn")
    options = parser.parse_args(argv)
    own = str(Path(__file__).resolve().parents[1])
    checkouts = [own, *([str(Path(options.against).resolve())] if options.against else [])]
    print(
        "format, lines/s in the log, connections: lines/s read (median, least to most), bytes a line"
    )
    for form, rate, connections in [CASES[n] for n in options.case or range(len(CASES))]:
        with tempfile.NamedTemporaryFile("w", prefix="mpmkit-logs-", suffix=".log") as file:
            file.writelines(lines(options.lines, form, rate, connections))
            file.flush()
            found: dict[str, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
            for _ in range(options.rounds):
                for checkout in checkouts:
                    found[checkout].append(read(Path(file.name), form, checkout))
        for checkout, each in found.items():
            speeds, memory = zip(*each, strict=True)
            print(
                f"{form}, {rate}/s, {('one', 'three')[connections > 1]}: {statistics.median(speeds):,.0f} "
                f"({min(speeds):,.0f} to {max(speeds):,.0f}), {max(memory):.0f}"
                + f" by {checkout}"
                * (len(found) > 1),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
