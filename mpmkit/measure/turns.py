"""Servers that run at the same time and get their requests in turns, a tenth of a second each.

A machine's speed changes from second to second, by a third or more. Two servers measured one after the
other meet different conditions. So one generator sends to all servers of a block, on one CPU, in turns: in each
cycle every server has a turn at every rate, in random order. The beginning of a turn does not count: it fills the
CPU's caches, which other servers have used. Nor does a turn in which something else ran there.

    cycle     1                                     2
    turn      | event | httpd prefork | prefork ... | httpd prefork | event ...
    requests   ,,|||||_ ,,||||||||||||_ ,,||||||...        , before it counts   _ pause: the last answers
"""

import itertools
import operator
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpmkit.load.profile import LoadProfile, RequestSpec, Stage, arrivals
from mpmkit.load.result import LoadRun, Tick
from mpmkit.measure import cpus, stats

LEAD, COUNTED, PAUSE = 0.03, 0.1, 0.01  # seconds of a turn
DISTURBED = 0.03  # of the server's CPU, by other work or the host: such a turn does not count
LENGTH = LEAD + COUNTED + PAUSE
SETTLE = 0.6  # seconds of turns, at least, that do not count: connections are opened, caches filled
USERS = 16  # requests at once, at most: fewer than each server has workers


class Turn(NamedTuple):
    """One server's turn. server: its number, from 0. rate: requests/s."""

    server: int
    rate: float


def order(servers: int, rates: Sequence[float], cycles: int, seed: str) -> list[Turn]:
    """Cycles of turns, each in a random order; the first of them, of at least SETTLE seconds, are not among
    the `cycles` (see `uncounted`)."""
    cycle = [Turn(*pair) for pair in itertools.product(range(servers), rates)]
    all_cycles = uncounted(len(cycle)) // len(cycle) + cycles
    return [turn for n in range(1, all_cycles + 1) for turn in stats.turns(cycle, n, seed)]


def uncounted(cycle: int) -> int:
    """How many turns do not count, for cycles of so many turns."""
    return cycle * -(-int(SETTLE / LENGTH + 1) // cycle)


def profile(turns: Sequence[Turn], lines: Sequence[RequestSpec], keep_alive: bool) -> LoadProfile:
    """The load: a line of the mix for each server, two stages for each turn."""
    stages = tuple(
        Stage(seconds, rate=each, line=server + 1)
        for server, rate in turns
        for seconds, each in ((LEAD + COUNTED, rate), (PAUSE, 0.01))
    )
    how: dict[str, Any] = {"users": USERS, "arrival": "constant", "warmup_seconds": 0.3}
    return LoadProfile(mix=tuple(lines), stages=stages, keep_alive=keep_alive, **how)


class Sampler(threading.Thread):
    """Takes a reading at the begin and at the end of what counts of each of so many turns. `tick` is for
    `run_load`: it starts with the first report of the generator, which says when the first turn began."""

    def __init__(self, turns: int, read: Callable[[], cpus.Reading]) -> None:
        super().__init__(daemon=True)
        self.readings: dict[tuple[int, int], cpus.Reading] = {}  # turn, 0 or 1: begin or end
        self._turns, self._read, self._origin = turns, read, 0.0

    def tick(self, tick: Tick) -> None:
        """The generator has reported."""
        if not self._origin:
            self._origin = tick.origin
            self.start()

    def run(self) -> None:
        """Read at the times that the turns leave for it."""
        self._read()  # looks up the processes
        for number, end in itertools.product(range(self._turns), (0, 1)):
            wait = self._origin + number * LENGTH + LEAD + end * COUNTED - time.monotonic()
            if wait >= 0:  # else before the first report: among those that do not count
                time.sleep(wait)
                self.readings[number, end] = self._read()


def loads(
    turns: Sequence[Turn], load: LoadProfile, run: LoadRun, sampler: Sampler, shared: bool
) -> dict[Turn, dict[str, Any]]:
    """(server, rate) -> the columns of its row: sums over its turns that count. Left out are turns that were
    disturbed, or whose readings are missing or late. shared: generator and server had one CPU."""
    first = uncounted(len(set(turns)))
    dues = [*itertools.takewhile(lambda due: due < len(turns) * LENGTH, arrivals(load))]
    counts = Counter[Turn]()
    sums = dict.fromkeys(turns, cpus.Spent())
    for number, turn in enumerate(turns):
        old, new = (sampler.readings.get((number, end)) for end in (0, 1))
        if number < first or old is None or new is None:
            continue
        spent = cpus.Spent.between(old, new, turn.server, shared)
        disturbed = max(spent.stolen, spent.server - spent.group) > DISTURBED * spent.seconds
        if not 0.9 < spent.seconds / COUNTED < 1.1 or (disturbed and not shared):
            continue
        begin = number * LENGTH + LEAD
        counts[turn] += bisect_left(dues, begin + COUNTED) - bisect_left(dues, begin)
        sums[turn] = cpus.Spent(*map(operator.add, sums[turn], spent))
    due = Counter(turns[int(when / LENGTH)].server for when in dues[bisect_left(dues, 0.0) :])
    good = [len(run.paths.get(line.name, ())) for line in load.mix]
    found = {}
    for turn, spent in sums.items():
        # A request due where two turns meet may be of either: so no more are missing than failed.
        missing = min(run.failures, max(0, due[turn.server] - good[turn.server]))
        counted = {"requests": counts[turn], "failures": missing, "unsent": run.errors["unsent"]}
        found[turn] = counted | spent.columns(counts[turn])
    return found
