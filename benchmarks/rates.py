"""Does the same work cost the same at every rate on this machine? If not, no server's service demand can be a
line through the origin (docs/DEMAND.md).

    python -m benchmarks.rates

An echo: one process on its own CPU answers one byte with one byte; another one sends at a fixed rate. Both CPUs
are kept awake, as in `mpmkit demand`. It uses little memory, so only the kernel's work for a message is measured.

A copy: a process copies a block of memory after a pause in which it looks at the clock and does nothing else.
If that takes longer after a longer pause, the CPU's caches have lost what nothing here has replaced: on a
virtual machine the host's other guests use them, too. Needs two CPUs.
"""

from __future__ import annotations

import os
import resource
import socket
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

from mpmkit.measure import cpus
from mpmkit.measure.command import aligned

RATES = (1_000, 2_500, 4_000, 8_000)  # messages a second
SECONDS = 1.0  # of each run
WARM = 50  # messages that do not count
WORK = 400  # turns of an empty loop that an answer takes: some 10 µs
PAUSES = (0.0, 0.2, 0.4, 1.0, 4.0, 20.0)  # milliseconds
SIZE = 200_000  # bytes: more than the first cache holds, less than the second
COPIES = 100  # of each round
ROUNDS = 5


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


def of_an_echo(rate: float, pair: Sequence[int], seconds: float = SECONDS) -> float:
    """CPU time of the echo, µs a message, asked so many times a second. pair: the client's CPU, the echo's."""
    near, far = socket.socketpair()
    reader, writer = os.pipe()
    if not (child := os.fork()):
        near.close()
        os.sched_setaffinity(0, {pair[1]})
        os.write(writer, str(echo(far)).encode())
        os._exit(0)
    far.close()
    os.sched_setaffinity(0, {pair[0]})
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


def of_a_copy(pause: float, count: int = COPIES, size: int = SIZE) -> float:
    """µs that a copy of `size` bytes takes after a pause of so many milliseconds: the median of `count`."""
    source, target = bytes(size), memoryview(bytearray(size))
    found = []
    for _ in range(count):
        end = time.perf_counter() + pause / 1e3
        while (began := time.perf_counter()) < end:
            pass
        target[:] = source
        found.append(1e6 * (time.perf_counter() - began))
    return statistics.median(found)


def lines(what: str, found: Mapping[float, Sequence[float]]) -> list[str]:
    """A table of what was found, for each rate or pause."""
    table: list[tuple[str, ...]] = [(what, "µs, median", "lowest", "highest")]
    for key, costs in found.items():
        figures = statistics.median(costs), min(costs), max(costs)
        table.append((f"{key:,g}", *(f"{one:.1f}" for one in figures)))
    return aligned(table)


def main() -> int:
    """Print both tables; 1 with one CPU alone."""
    given = os.sched_getaffinity(0)
    if len(given) < 2:
        print("this takes two CPUs: one for the echo, one for the client", file=sys.stderr)
        return 1
    both = sorted(given)[:2]
    echoes: dict[float, list[float]] = {rate: [] for rate in RATES}
    copies: dict[float, list[float]] = {pause: [] for pause in PAUSES}
    try:
        with cpus.loopers(both):
            for _ in range(ROUNDS):
                for rate, costs in echoes.items():
                    costs.append(of_an_echo(rate, both))
        for _ in range(ROUNDS):
            for pause, costs in copies.items():
                costs.append(of_a_copy(pause))
    finally:
        os.sched_setaffinity(0, given)
    print("\n".join(lines("an echo, messages/s", echoes)), end="\n\n")
    print("\n".join(lines("a copy, ms of pause before", copies)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
