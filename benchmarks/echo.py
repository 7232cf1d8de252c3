"""Does a request cost the same at every rate on this machine? Tested with a process that echoes a byte.

    python -m benchmarks.echo

One process on its own CPU answers one byte with one byte; another one sends at a fixed rate. The echo does
the same work each time, so its CPU time per message should not depend on the rate. If it does, no server's
service demand can be a line through the origin (docs/DEMAND.md): a message that finds the process asleep pays
for its wake-up, with cold caches. Needs two CPUs.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import sys
import time
from collections.abc import Sequence

from mpmkit.measure.command import aligned

RATES = (300, 1_000, 3_000, 8_000)  # messages a second
SECONDS = 2.0  # of each run
ROUNDS = 5
WARM = 50  # messages that do not count
WORK = 400  # turns of an empty loop that an answer takes: some 10 µs


def echo(sock: socket.socket) -> float:
    """Answer until the other side closes; CPU seconds (user and system) that it took after WARM messages."""
    began = 0.0
    for number in range(sys.maxsize):
        if number == WARM:
            began = _cpu()
        if not sock.recv(1):
            return _cpu() - began
        for _ in range(WORK):
            pass
        sock.send(b"x")
    raise AssertionError


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(rate: float, cpus: Sequence[int], seconds: float = SECONDS) -> float:
    """CPU time of the echo, µs a message, asked so many times a second."""
    near, far = socket.socketpair()
    reader, writer = os.pipe()
    if not (child := os.fork()):
        near.close()
        os.sched_setaffinity(0, {cpus[1]})
        os.write(writer, str(echo(far)).encode())
        os._exit(0)
    far.close()
    os.sched_setaffinity(0, {cpus[0]})
    count = int(rate * seconds)
    due = time.perf_counter()
    for number in range(WARM + count):
        if number >= WARM:
            due += 1 / rate
            time.sleep(max(0.0, due - time.perf_counter()))
        else:
            due = time.perf_counter()
        near.send(b"x")
        near.recv(1)
    near.close()
    used = float(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    os.waitpid(child, 0)
    return 1e6 * used / count


def main() -> int:
    """Print a line a rate; 1 with one CPU alone."""
    given = os.sched_getaffinity(0)
    if len(given) < 2:
        print("this takes two CPUs: one for the echo, one for the client", file=sys.stderr)
        return 1
    cpus = sorted(given)[:2]
    found: dict[int, list[float]] = {rate: [] for rate in RATES}
    for _ in range(ROUNDS):
        for rate in RATES:
            found[rate].append(measure(rate, cpus))
    os.sched_setaffinity(0, given)
    lines: list[tuple[str, ...]] = [("messages/s", "µs CPU a message, median", "lowest", "highest")]
    for rate, costs in found.items():
        figures = statistics.median(costs), min(costs), max(costs)
        lines.append((f"{rate:,}", *(f"{one:.1f}" for one in figures)))
    print("\n".join(aligned(lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
