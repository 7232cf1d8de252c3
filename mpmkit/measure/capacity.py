"""The highest Poisson rate at which a server still answers in time: p99 within a limit, nothing unsent.

    print(mpmkit.capacity_table(scale="demo").text())

The server is made the bottleneck: it has one CPU and a script that burns more of it for each request than the
generator uses, which has a CPU of its own (`cpus`). The rate is found by bisection (`next_rate`). The latency of
a request counts from when it was due.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import Tick
from mpmkit.load.runner import run_load
from mpmkit.measure import command, cpus, demand, experiment, stats
from mpmkit.measure.experiment import OURS, Cell, Figures, Names, Report, Table
from mpmkit.measure.records import Row
from mpmkit.measure.stats import MARGIN, TAIL, decide

BUDGET = 0.97  # share of the machine that generator, server and idle time have to make up
GENERATOR_MOST = 0.8  # cores of the generator; beyond, it is not the server that is measured
USERS = 200  # requests at once, at most
TRIES = 3  # cells rejected in a row
MOST_STEPS = 14  # of a bisection

# scale -> rounds, seconds a step, how near the bisection comes
SCALES = {"smoke": (1, 1.0, 0.3), "demo": (2, 3.0, 0.05), "full": (8, 10.0, 0.03)}

_PREFORK = demand.DIRECTIVES["prefork"] | {"StartServers": 100, "MaxSpareServers": 128}
DIRECTIVES = demand.DIRECTIVES | {"prefork": _PREFORK}  # a hundred workers each

SCRIPT = """import time
def application(environ, start_response):
    end = time.thread_time_ns() + {ns}
    while time.thread_time_ns() < end:
        pass
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


Steps = Sequence[tuple[float, bool]]  # rates that were tried, and whether the server held each


def bracket(steps: Steps) -> tuple[float, float]:
    """(the highest rate that held below the lowest that did not, that one); 0 and inf for none."""
    high = min((rate for rate, held in steps if not held), default=math.inf)
    return max((rate for rate, held in steps if held and rate < high), default=0.0), high


def next_rate(steps: Steps, first: float, precision: float) -> float | None:
    """What to try next: outwards from `first` by half, until one held and one did not, then their
    middle (of the logarithms); None once they are as near as `precision`, or after `MOST_STEPS`."""
    low, high = bracket(steps)
    if len(steps) >= MOST_STEPS or high <= low * (1 + precision):
        return None
    if not steps:
        return first
    return low * 1.5 if math.isinf(high) else high / 1.5 if not low else math.sqrt(low * high)


@dataclass(repr=False)
class CapacityTable(Table):
    """`mpmkit capacity`: its plan and its result. limit_ms, cost_us: as asked. seconds: a step; precision: of the
    bisections. place: the CPUs."""

    limit_ms: float = 50.0
    cost_us: float = 300.0
    seconds: float = 3.0
    precision: float = 0.05
    place: cpus.Placement = field(default_factory=cpus.here)

    name = "capacity"
    unit = "bisections"
    again = "; the same command resumes from here"

    def steps(self, number: int, mpm: str) -> list[tuple[float, bool]]:
        """What was tried in a round, without what was rejected."""
        rows = (row for row in self.records if not row["flaw"])
        return [(r["rate"], r["holds"]) for r in rows if (r["round"], r["mpm"]) == (number, mpm)]

    def next(self, number: int, mpm: str) -> float | None:
        """The rate to try next in a round; None when its bisection is finished."""
        first = 0.7e6 / (self.cost_us + 100)
        return next_rate(self.steps(number, mpm), first, self.precision)

    def capacities(self, mpm: str) -> dict[int, float]:
        """Round -> requests/s, of the bisections that are finished."""
        ended = [n for n in {row["round"] for row in self.records} if self.next(n, mpm) is None]
        found = {number: bracket(self.steps(number, mpm))[0] for number in ended}
        return {number: rate for number, rate in sorted(found.items()) if rate}

    @property
    def measured(self) -> int:
        """Bisections that are finished."""
        return sum(len(self.capacities(mpm)) for mpm in MPMS)

    def result(self, row: Row) -> str:
        said = "held" if row["holds"] else "not held"
        return row["flaw"] or f"{row['rate']:,.0f}/s {said}, p99 {row['p99_ms'] or math.nan:.1f} ms"

    def _text(self) -> Iterator[str]:
        costs: dict[str, dict[int, float]] = {}
        lines = [["mpmkit", "requests/s", "95%", "rounds"]]
        for mpm in MPMS:
            if rates := self.capacities(mpm):
                costs[mpm] = {number: 1 / rate for number, rate in rates.items()}
                mean = stats.mean([*rates.values()])
                between = mean.between(",.0f") or "one round"
                lines.append([mpm, f"{mean.value:,.0f}", between, str(len(rates))])
        yield from command.aligned(lines, (0, 2))
        for a, b in stats.PAIRS:
            if {a, b} <= costs.keys():
                yield f"  {a} / {b}, time a request: {decide(costs[a], costs[b])}"
        if flaws := [row["flaw"] for row in self.records if row["flaw"]]:
            yield f"{len(flaws)} of {len(self.records)} cells were rejected; last: {flaws[-1]}"
        yield from self.footer()

    def left(self) -> list[Cell]:
        self.notes += self.place.notes
        return [one for one in super().left() if self.next(one.round, one.mpm) is not None]

    def measure(self, cell: Cell, report: Report) -> Figures:
        place, rejected = self.place, 0
        same: dict[str, Any] = {"design": self.design, "seed": self.seed, "margin": MARGIN}
        same |= {"cpus": str(place), "limit_ms": self.limit_ms, "cost_us": self.cost_us}
        with tempfile.TemporaryDirectory(prefix="mpmkit-capacity-") as root:
            (Path(root) / "burn.py").write_text(SCRIPT.format(ns=int(self.cost_us * 1000)))
            Path(root).chmod(0o755)  # children of root's server are of another user
            start = partial(cell.started, document_root=root)
            with cpus.loopers(place[:2]) as awake, cpus.pinned(start, place) as server:
                while rate := self.next(cell.round, cell.mpm):
                    report(f"round {cell.round}, {cell.label}", 0.0)
                    row = self.conditions(cell)
                    found = self._step(server, rate, awake)
                    yield [row(**same, **found)]
                    rejected = rejected + 1 if found["flaw"] else 0
                    if rejected == TRIES:
                        said = f"{TRIES} cells in a row were rejected: {found['flaw']}"
                        raise RuntimeError(said)
        if not bracket(self.steps(cell.round, cell.mpm))[0]:
            limit = f"{self.limit_ms:g} ms"
            raise RuntimeError(f"{cell.label}: no rate kept p99 within {limit}; raise it")

    def _step(self, server: Any, rate: float, awake: Mapping[int, int]) -> dict[str, Any]:
        """Put one rate on the server: the columns of its row. The machine is read whenever the generator reports,
        so that answers and the CPU time for them are of the same moments, from the first report to the last."""
        how: dict[str, Any] = {"users": USERS, "arrival": "poisson", "warmup_seconds": 0.5}
        how |= {"rate": rate, "duration": max(self.seconds, 1.1 * TAIL / rate)}
        load = LoadProfile(path="/burn.py", expect_length=2, **how)
        seen: list[tuple[Tick, cpus.Spent]] = []
        read = cpus.Reader(self.place, awake, [server.pid])
        found = run_load(server, profile=load, on_tick=lambda now: seen.append((now, read()[0])))
        good = sum(len(tick.values) for tick, _ in seen[1:])
        failures = sum(tick.failures.total() for tick, _ in seen[1:])
        spent = seen[-1][1].plus(seen[0][1], -1) if seen else cpus.Spent()
        p99 = found.latency_ms(99) if found.succeeded >= TAIL else None
        held = p99 is not None and p99 <= self.limit_ms and not found.failures and found.complete
        columns = {
            "requests": good + failures, "failures": failures, "rate": rate, "p99_ms": p99,
            "unsent": found.errors["unsent"], "holds": held, **spent.columns(good),
        }  # fmt: skip
        return {**columns, "flaw": flaw_of(columns)}


@experiment.measured
def capacity_table(
    mpms: Names = MPMS, limit_ms: float = 50.0, cost_us: float = 300.0, rounds: int | None = None,
    scale: str | None = None, *, launch: experiment.Launch | None = None,
) -> CapacityTable:  # fmt: skip
    """Find the highest Poisson rate at which p99 stays within a limit and nothing is unsent, for a script under
    each MPM of mpmkit on one CPU. Five minutes at the demo scale; an interrupted run resumes with its file.

    limit_ms: what p99 must not exceed, in ms, 1 to 10,000 (50). cost_us: µs of CPU that the script burns, 50 to
    100,000 (300). mpms: of prefork, worker, event. rounds: how often each is measured. scale: smoke, demo, full;
    by default the environment's MPMKIT_SCALE, or else demo.

    out, launch, on_progress, say: as in `qps_table`. Raises as it does.
    """
    problems = command.Problems()
    chosen, (most, seconds, precision) = problems.scale(scale, SCALES, rounds)
    mpms = problems.chosen("mpm", mpms, MPMS)
    problems.numbers("rounds", rounds, 1, 1000, "whole")
    problems.numbers("limit_ms", limit_ms, 1, 10_000)
    problems.numbers("cost_us", cost_us, 50, 100_000)
    problems.raise_any()
    start = launch or experiment.launch
    cells = [Cell(1, OURS, mpm, start=start, directives=DIRECTIVES[mpm]) for mpm in mpms]
    asked = (float(limit_ms), float(cost_us), seconds, precision)
    how: dict[str, Any] = {"cells": cells, "repeats": rounds or most, "seed": 1, "scale": chosen}
    return CapacityTable([], *asked, design=experiment.identity(mpms, *asked), **how)


def flaw_of(row: Mapping[str, Any]) -> str:
    """Why a cell is rejected; "" if it counts."""
    busy, rest = row["generator_u"], 1 - row["budget"]
    if row["budget"] < BUDGET:
        missing = f"{rest:.0%} of its CPU time was not generator, server or idle"
        return f"other work on the machine: {missing}"
    used = f"it used {busy:.0%} of its CPU at {row['rate']:,.0f} requests/s"
    return f"generator: {used}; make the script cost more" if busy > GENERATOR_MOST else ""


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit capacity``, as in `command.measured`."""
    options = "mpm limit cost rounds scale"
    parser = command.parser("mpmkit capacity", capacity_table, options)
    return command.measured(parser.parse_args(argv), capacity_table)[0]
