"""The highest Poisson rate at which a server still answers in time: p99 within a limit, nothing unsent.

    print(mpmkit.capacity_table(scale="demo").text())

The server is made the bottleneck: it has one CPU and a script that burns more of it for each request than the
generator uses, which has a CPU of its own (`cpus`). The rate is found by bisection (`next_rate`). The latency of
a request counts from when it was due.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import Tick
from mpmkit.load.runner import run_load
from mpmkit.measure import command, cpus, demand, experiment, procfs, stats
from mpmkit.measure.experiment import OURS, Cell, Launch, OnProgress, Report, Table
from mpmkit.measure.records import Row
from mpmkit.measure.stats import MARGIN, TAIL, decide
from mpmkit.measure.text import aligned

BUDGET = 0.97  # share of the machine that generator, server and idle time have to make up
GENERATOR_MOST = 0.8  # cores of the generator; beyond, it is not the server that is measured
USERS = 200  # requests at once, at most
TRIES = 3  # cells rejected in a row
MOST_STEPS = 14  # of a bisection
SEED = 1  # of the random order

# scale -> rounds, seconds a step, how near the bisection comes
SCALES = {"smoke": (1, 1.0, 0.3), "demo": (2, 3.0, 0.05), "full": (8, 10.0, 0.03)}

DIRECTIVES = {**demand.DIRECTIVES}  # a hundred workers each
DIRECTIVES["prefork"] = {**DIRECTIVES["prefork"], "StartServers": 100, "MaxSpareServers": 128}

SCRIPT = """import time
def application(environ, start_response):
    end = time.thread_time_ns() + {ns}
    while time.thread_time_ns() < end:
        pass
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


Steps = Iterable[tuple[float, bool]]  # rates that were tried, and whether the server held each


def bracket(steps: Steps) -> tuple[float, float]:
    """(the highest rate that held below the lowest that did not, that one); 0 and inf for none."""
    steps = list(steps)
    high = min((rate for rate, held in steps if not held), default=math.inf)
    return max((rate for rate, held in steps if held and rate < high), default=0.0), high


def next_rate(steps: Steps, first: float, precision: float) -> float | None:
    """What to try next: outwards from `first` by half, until one held and one did not, then their
    middle (of the logarithms); None once they are as near as `precision`, or after `MOST_STEPS`."""
    steps = list(steps)
    low, high = bracket(steps)
    if len(steps) >= MOST_STEPS or high <= low * (1 + precision):
        return None
    if not steps:
        return first
    return low * 1.5 if math.isinf(high) else high / 1.5 if not low else math.sqrt(low * high)


class CapacityTable(Table):
    """What `mpmkit capacity` measured. first, precision: of the bisections."""

    name = "capacity"
    unit = "bisections"
    first = 1000.0
    precision = 0.05

    def steps(self, number: int, mpm: str) -> list[tuple[float, bool]]:
        """What was tried in a round, without what was rejected."""
        rows = [row for row in self.records if (row["round"], row["mpm"]) == (number, mpm)]
        return [(row["rate"], row["holds"]) for row in rows if not row["flaw"]]

    def next(self, number: int, mpm: str) -> float | None:
        """The rate to try next in a round; None when its bisection is finished."""
        return next_rate(self.steps(number, mpm), self.first, self.precision)

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
        """What progress says of a step."""
        said = "held" if row["holds"] else "not held"
        return row["flaw"] or f"{row['rate']:,.0f}/s {said}, p99 {row['p99_ms'] or math.nan:.1f} ms"

    def text(self) -> str:
        """The capacities, the decisions on the time that each request takes (1 / capacity), and what was
        rejected."""
        found = {mpm: self.capacities(mpm) for mpm in MPMS}
        lines = [["mpmkit", "requests/s", "95%", "rounds"]]
        for mpm, rates in found.items():
            if rates:
                mean = stats.ratio(list(rates.values()), [1.0] * len(rates))
                between = f"{mean.low:,.0f} to {mean.high:,.0f}" if mean.level else "one round"
                lines.append([mpm, f"{mean.value:,.0f}", between, str(len(rates))])
        costs = {mpm: {n: 1 / rate for n, rate in rates.items()} for mpm, rates in found.items()}
        pairs = [(one, other) for one, other in stats.PAIRS if costs[one] and costs[other]]
        said = [f"  {a} / {b}, time a request: {decide(costs[a], costs[b])}" for a, b in pairs]
        flaws = [row["flaw"] for row in self.records if row["flaw"]]
        if flaws:
            number = f"{len(flaws)} of {len(self.records)} cells"
            said.append(f"{number} were rejected; last: {flaws[-1]}")
        return "\n".join([*aligned(lines, (0, 2)), *said, *self.footer()])


def capacity_table(
    mpms: Iterable[str] = MPMS,
    limit_ms: float = 50.0,
    cost_us: float = 300.0,
    rounds: int | None = None,
    scale: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    *,
    say: experiment.Say | None = None,
    launch: Launch | None = None,
) -> CapacityTable:
    """Find the capacity of each MPM of mpmkit; five minutes at the demo scale.

    limit_ms: the limit of p99. cost_us: CPU time that the script burns. out: a CSV file; the same
    call resumes an interrupted run. Raises as `mpmkit.demand_table` does.
    """
    problems = command.Problems()
    chosen, (most, seconds, precision) = problems.scale(scale, SCALES)
    mpms = problems.chosen("mpm", mpms, MPMS)
    problems.rounds(rounds)
    problems.numbers("limit_ms", (limit_ms,), 1, 10_000)
    problems.numbers("cost_us", (cost_us,), 50, 100_000)
    problems.raise_any()
    place = cpus.here()
    table = CapacityTable([], scale="custom" if rounds else chosen, notes=[*place.notes])
    table.first, table.precision = 0.7e6 / (cost_us + 100), precision
    design = " ".join(map(str, (*mpms, limit_ms, cost_us, seconds, precision)))
    same: dict[str, Any] = {"design": design, "seed": SEED, "cpus": str(place), "margin": MARGIN}
    same |= {"limit_ms": float(limit_ms), "cost_us": float(cost_us)}
    start = launch or experiment.launch
    servers = [Cell(1, OURS, mpm, start=start) for mpm in mpms]
    cells = experiment.in_rounds(servers, range(1, (rounds or most) + 1), SEED)
    table.planned = len(cells)
    file = table.keep_in(out)
    experiment.resume(table, file, design=design)

    def measure(cell: Cell, report: Report) -> experiment.Figures:
        how, rejected = {"document_root": root, **DIRECTIVES[cell.mpm]}, 0
        both = {place.generator, place.server}
        start = partial(cell.start, cell.mpm, **how)
        with cpus.loopers(both) as awake, cpus.pinned(start, place) as server:
            while rate := table.next(cell.round, cell.mpm):
                report(f"round {cell.round}, {cell.label}", 0.0)
                conditions = experiment.Conditions(table, cell)
                found = step(server, rate, seconds, limit_ms, place, awake)
                yield [conditions.row(DIRECTIVES[cell.mpm], **same, **found)]
                rejected = rejected + 1 if found["flaw"] else 0
                if rejected == TRIES:
                    raise RuntimeError(f"{TRIES} cells in a row were rejected: {found['flaw']}")
        if not bracket(table.steps(cell.round, cell.mpm))[0]:
            raise RuntimeError(f"{cell.label}: no rate kept p99 within {limit_ms:g} ms; raise it")

    with tempfile.TemporaryDirectory(prefix="mpmkit-capacity-") as root:
        (Path(root) / "burn.py").write_text(SCRIPT.format(ns=int(cost_us * 1000)))
        Path(root).chmod(0o755)  # children of root's server are of another user
        left = [cell for cell in cells if table.next(cell.round, cell.mpm) is not None]
        return experiment.run(left, measure, table, file=file, on_progress=on_progress, say=say)


def step(
    server: Any,
    rate: float,
    seconds: float,
    limit_ms: float,
    place: cpus.Placement,
    loopers: Mapping[int, int],
) -> dict[str, Any]:
    """Put one rate on the server: the columns of its row. The machine is read whenever the generator reports, so
    that answers and the CPU time for them are of the same moments, from the first report to the last."""
    how: dict[str, Any] = {"users": USERS, "arrival": "poisson", "warmup_seconds": 0.5}
    how |= {"rate": rate, "duration": max(seconds, 1.1 * TAIL / rate)}
    load = LoadProfile(path="/burn.py", expect_length=2, **how)
    seen: list[tuple[Tick, cpus.Reading]] = []

    def tick(now: Tick) -> None:
        mine = cpus.generator_pids({server.pid, *loopers.values()})
        servers = [procfs.members(server.pid)]
        seen.append((now, cpus.read(place.server, loopers, mine, servers)))

    found = run_load(server, profile=load, on_tick=tick)
    good = sum(len(tick.values) for tick, _ in seen[1:])
    failures = sum(tick.failures.total() for tick, _ in seen[1:])
    spent = cpus.Spent.between(seen[0][1], seen[-1][1], 0, place.shared) if seen else cpus.Spent()
    columns: dict[str, Any] = {"requests": good + failures, "failures": failures}
    p99 = found.latency_ms(99) if found.succeeded >= TAIL else None
    unsent = found.errors["unsent"]
    held = p99 is not None and p99 <= limit_ms and not found.failures and found.complete
    columns |= spent.columns(good) | {"rate": rate, "p99_ms": p99, "unsent": unsent, "holds": held}
    return {**columns, "flaw": flaw_of(columns)}


def flaw_of(row: Mapping[str, Any]) -> str:
    """Why a cell is rejected; "" if it counts."""
    if row["budget"] < BUDGET:
        missing = f"{1 - row['budget']:.0%} of its CPU time was not generator, server or idle"
        return f"other work on the machine: {missing}"
    if row["generator_u"] > GENERATOR_MOST:
        used = f"it used {row['generator_u']:.0%} of its CPU at {row['rate']:,.0f} requests/s"
        return f"generator: {used}; make the script cost more"
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit capacity``. The exit status is that of `command.execute`."""
    parser = Parser(
        prog="mpmkit capacity",
        description="Find the highest Poisson rate at which p99 stays within a limit and nothing is unsent, "
        "for a script under each MPM of mpmkit on one CPU. The same command resumes an interrupted run.",
    )
    add = parser.add_argument
    limit = "what p99 must not exceed (50)"
    add("--limit", dest="limit_ms", type=float, default=50.0, metavar="MS", help=limit)
    cost = "µs of CPU that it burns (300)"
    add("--cost", dest="cost_us", type=float, default=300.0, metavar="US", help=cost)
    command.add_options(parser, "--mpm", "--rounds", "--scale", "--out")
    options = parser.parse_args(argv)
    scale = options.scale or os.environ.get("MPMKIT_SCALE", "demo")
    sizes = f"{options.limit_ms:g}ms-{options.cost_us:g}us"
    name = f"capacity-{scale}-{'-'.join(options.mpms or MPMS)}-{sizes}"
    how = command.asked(options) | {"out": command.out_of(options, name), "say": command.say}
    return command.execute(
        lambda bar: capacity_table(**how, on_progress=bar), CapacityTable.text, command.AGAIN
    )[0]
