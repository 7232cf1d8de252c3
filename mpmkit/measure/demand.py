"""What a request costs under each MPM: service demand at fixed rates, for decisions that hold.

    print(mpmkit.demand_table(scale="demo").text())

Requests a second at saturation measure the slower of generator and server. Here the generator sends at fixed
rates below its limit, and what is measured is how busy that keeps the server's CPU (docs/DEMAND.md). Each of
the two has a CPU of its own (`cpus`). A block starts each server once, in random order: prefork, worker, event
and a second prefork (the A/A control), of mpmkit and of httpd where it is installed.

The utilisation law says that a server which is busy for the share U of the time at X answers a second has a
service demand of S = U/X, the CPU time of one request. At several rates U against X is a line through the
origin with the slope S; how well the means of the rates lie on it is R². What makes R² low (other work, a
pool that grows) makes S worthless. Servers are compared within a block, at the rates that both have there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.fields import read_share
from mpmkit.load.profile import LoadProfile
from mpmkit.load.runner import run_load
from mpmkit.load.specs import Stage
from mpmkit.measure import command, competitors, cpus, experiment, published, stats
from mpmkit.measure.experiment import OURS, Cell, Launch, OnProgress, Report, Table
from mpmkit.measure.records import Row
from mpmkit.measure.stats import MARGIN, Decision
from mpmkit.measure.text import aligned

GENERATOR_MOST = 0.6  # cores that it may use: beyond, requests leave late and in bunches
STOLEN_MOST = (
    0.03  # of the server's CPU, by the host of a virtual machine: it slows what is counted
)
RATE_MISSED = 0.03  # share of the requests due by which the answers may differ

# Cores of the server's CPU that may be unaccounted for, and more as a share of the server's own: the kernel
# works for the network outside of any process. Beyond, something else ran there.
OTHER_WORK = (0.05, 0.25)
WARMUP, SETTLE = 0.3, 0.15  # seconds before the first rate, and at the beginning of each
USERS = 16  # requests at once, at most: fewer than each server has workers

# work -> the page, and whether connections are kept. httpd has no WSGI: the script is mpmkit's alone.
WORKS = {"page": ("static", False), "script": ("script", False), "keep-alive": ("static", True)}

# scale -> blocks, seconds at each rate, rates, kinds of work
SCALES: dict[str, tuple[int, float, tuple[float, ...], tuple[str, ...]]] = {
    "smoke": (1, 1.0, (1000.0, 2500.0), ("page",)),
    "demo": (7, 1.0, (1000.0, 2500.0), ("page",)),
    "full": (20, 2.0, (1000.0, 2000.0, 3000.0), tuple(WORKS)),
}

_FEW = {"StartServers": 4}  # children, of 25 threads
DIRECTIVES: dict[str, dict[str, Any]] = {
    mpm: {**published.DIRECTIVES[mpm], **pool, "KeepAlive": True, "MaxKeepAliveRequests": 0}
    for mpm, pool in (
        ("prefork", {"StartServers": 24, "MinSpareServers": 4, "MaxSpareServers": 32}),
        ("worker", _FEW),
        ("event", _FEW),
    )
}
"""The article's, but that no child is forked or ended while it is measured."""


# -- from rows to decisions ----------------------------------------------------------------------

Load = dict[float, tuple[float, float]]  # rate -> (answers a second, cores): X and U


class Who(NamedTuple):
    """One line of the table."""

    server: str
    mpm: str
    control: bool = False

    def __str__(self) -> str:
        return f"{self.server} {self.mpm}" + " (A/A)" * self.control


def flaw_of(row: Mapping[str, Any], shared: bool = False) -> str:
    """Why a row must not be used; "" if it may. shared: generator and server had one CPU."""
    other, (least, share) = row["server_u"] - row["group_u"], OTHER_WORK
    if not row["seconds"]:
        return "other work: the generator had too little of its CPU to report"
    if row["stolen"] > STOLEN_MOST:
        return f"stolen: the host of this machine took {row['stolen']:.0%} of the server's CPU"
    if not shared and other > least + share * row["group_u"]:
        return f"other work: {other:.0%} of the server's CPU was not the server's"
    if row["generator_u"] > GENERATOR_MOST:
        used = f"{row['generator_u']:.0%} of its CPU, more than {GENERATOR_MOST:.0%}"
        return f"generator: it used {used}, at {row['rate']:,.0f} requests/s"
    if row["failures"] or row["unsent"]:
        return f"failed: {row['failures']:,} requests failed, {row['unsent']:,} were not sent"
    if abs(row["x"] / row["rate"] - 1) > RATE_MISSED:
        return f"rate: {row['x']:,.0f} instead of {row['rate']:,.0f} requests/s were answered"
    return ""


def current(rows: Iterable[Row]) -> list[Row]:
    """The rows without those of a block that a later run measured again from its beginning."""
    rows = list(rows)
    last = {row["round"]: row["run_id"] for row in rows}
    return [row for row in rows if row["run_id"] == last[row["round"]]]


def loads(rows: Iterable[Row], column: str = "server_u") -> dict[tuple[str, Who], dict[int, Load]]:
    """(work, who) -> block -> rate -> (X, U), of the rows without a flaw."""
    found: dict[tuple[str, Who], dict[int, Load]] = {}
    for row in current(rows):
        if not row["flaw"] and row["x"] > 0 and row[column] > 0:
            who = Who(row["server"], row["mpm"], row["control"])
            blocks = found.setdefault((row["work"], who), {})
            blocks.setdefault(row["round"], {})[row["rate"]] = row["x"], row[column]
    return found


def slope(points: Iterable[tuple[float, float]]) -> float:
    """S in µs: the slope of the line through the origin that is nearest to the points (X, U)."""
    points = list(points)
    return 1e6 * sum(x * u for x, u in points) / sum(x * x for x, _ in points)


def r_squared(blocks: Mapping[int, Load]) -> float | None:
    """How well the means of the rates lie on their line through the origin: 1 is exactly, 0 no better than
    a constant, less is worse. None for fewer than two rates."""
    rates = {rate for load in blocks.values() for rate in load}
    points = [[load[rate] for load in blocks.values() if rate in load] for rate in rates]
    mean = statistics.fmean
    means = [(mean(x for x, _ in some), mean(u for _, u in some)) for some in points]
    around = sum((u - mean(u for _, u in means)) ** 2 for _, u in means)
    if not around:
        return None
    s = slope(means) / 1e6
    return 1 - sum((u - s * x) ** 2 for x, u in means) / around


def demand_of(blocks: Mapping[int, Load]) -> stats.Interval:
    """S in µs with its 95% interval: by the same method as the ratios, over the blocks."""
    return stats.ratio([slope(load.values()) for load in blocks.values()], [1.0] * len(blocks))


def ratio_of(one: Mapping[int, Load], other: Mapping[int, Load], margin: float) -> Decision | None:
    """The decision on two servers, over the blocks and the rates that both have; None without any."""
    pairs = {n: one[n].keys() & other[n].keys() for n in sorted(one.keys() & other.keys())}
    a, b = (
        {n: slope(side[n][rate] for rate in rates) for n, rates in pairs.items() if rates}
        for side in (one, other)
    )
    return stats.decide(a, b, margin) if a else None


def comparisons(rows: Iterable[Row], work: str, margin: float = MARGIN) -> dict[str, Decision]:
    """What is compared for one kind of work -> the decision: A/A first, then the MPMs of each server,
    then the servers under the same MPM."""
    found = {who: blocks for (kind, who), blocks in loads(rows).items() if kind == work}
    servers = sorted({who.server for who in found}, key=lambda name: (name != OURS, name))
    pairs = []
    for server in servers:
        prefork, worker, event = (Who(server, mpm) for mpm in MPMS)
        pairs.append((Who(server, "prefork", True), prefork))
        pairs += [(worker, prefork), (event, prefork), (event, worker)]
    for one, other in itertools.combinations(servers, 2):
        pairs += [(Who(one, mpm), Who(other, mpm)) for mpm in MPMS]
    both = [(a, b) for a, b in pairs if a in found and b in found]
    decisions = {f"{a} / {b}": ratio_of(found[a], found[b], margin) for a, b in both}
    return {pair: decision for pair, decision in decisions.items() if decision}


class DemandTable(Table):
    """What `mpmkit demand` measured. works, margin, head: of the plan."""

    name = "demand"
    unit = "loads"
    works: tuple[str, ...] = ()
    margin = MARGIN
    head = ""

    @property
    def measured(self) -> int:
        """Loads that have their rows."""
        names = ("round", "server", "mpm", "control", "work")
        return len({tuple(row[name] for name in names) for row in self.records})

    def result(self, row: Row) -> str:
        """What progress says of a finished load."""
        return row["flaw"] or f"{1e6 * row['server_u'] / row['x']:.1f} µs a request"

    def text(self) -> str:
        """Demand, R² and decisions for each kind of work, then what a reader should know."""
        lines = [self.head]
        for work in self.works:
            lines += ["", *self._of_work(work)]
        flaws = [row["flaw"] for row in self.records if row["flaw"]]
        if flaws:
            lines += ["", f"{len(flaws)} of {len(self.records)} rows are not used:"]
            for kind, count in Counter(text.partition(":")[0] for text in flaws).most_common():
                first = next(text for text in flaws if text.startswith(kind))
                lines.append(f"  {count} for {kind}; the first of them{first.removeprefix(kind)}")
        return "\n".join([*lines, "", *self.footer()]).rstrip()

    def _of_work(self, work: str) -> list[str]:
        own = loads(self.records, "group_u")
        lines = []
        for (kind, who), blocks in sorted(loads(self.records).items()):
            if kind == work:
                s, fit = demand_of(blocks), r_squared(blocks)
                between = f"{s.low:.1f} to {s.high:.1f}" if s.level else "one block"
                mine = f"{demand_of(own[kind, who]).value:.1f}" if (kind, who) in own else "-"
                fits = "-" if fit is None else f"{fit:.4f}"
                lines.append([str(who), f"{s.value:.1f}", between, mine, fits, str(len(blocks))])
        if not lines:
            return [f"{work}: no row can be used"]
        said = [
            f"  {pair}: {decision}"
            for pair, decision in comparisons(self.records, work, self.margin).items()
        ]
        return [*aligned([[work, "S µs", "95%", "own µs", "R²", "blocks"], *lines], (0, 2)), *said]


# -- the plan ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DemandPlan:
    """An experiment, checked. cells: those of a block. missing: a sentence on each rival that is not
    installed."""

    cells: list[Cell]
    works: tuple[str, ...]
    rates: tuple[float, ...]
    blocks: int
    seconds: float
    seed: int
    margin: float
    scale: str
    missing: list[str]

    @property
    def id(self) -> str:
        """Tells this plan from another; the same whenever the settings are, but for more blocks."""
        servers = dict.fromkeys(cell.server for cell in self.cells)
        given = (self.works, self.rates, self.seconds, self.seed, self.margin, *servers)
        return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:12]

    def block(self, number: int) -> list[Cell]:
        """The cells of a block, from 1, in their random order."""
        return experiment.in_rounds(self.cells, [number], self.seed)


def plan(
    works: str | Iterable[str] | None = None,
    rates: Iterable[float] | None = None,
    blocks: int | None = None,
    scale: str | None = None,
    *,
    seed: int = 1,
    margin: float = MARGIN,
    also: Iterable[str] = ("httpd",),
    launch: Launch | None = None,
) -> DemandPlan:
    """Check what is asked for. Raises ValueError with everything that is wrong with it."""
    problems = command.Problems()
    chosen, (most, seconds, speeds, kinds) = problems.scale(scale, SCALES)
    if (rates, blocks) != (None, None):
        chosen = "custom"
    kinds = problems.chosen("work", kinds if works is None else works, WORKS)
    also = problems.chosen("also", also, ("httpd",), 0)
    problems.rounds(blocks, name="blocks")
    speeds = speeds if rates is None else tuple(rates) or (0,)
    problems.numbers("rates", speeds, 1, 1_000_000)
    problems.numbers("margin", (margin,), 0.001, 0.5)
    problems.numbers("seed", (seed if type(seed) is int else str(seed),), 0, 1 << 31)
    problems.raise_any()
    start = launch or experiment.launcher()
    cells = [Cell(1, OURS, mpm, parts=kinds, stands_for=mpm, start=start) for mpm in MPMS]
    rivals, missing = competitors.installed(competitors.of(also))
    static = tuple(work for work in kinds if WORKS[work][0] == "static")
    cells += [replace(rival, parts=static) for rival in rivals if static]
    cells += [replace(cell, control=True) for cell in cells if cell.mpm == "prefork"]
    speeds = tuple(sorted(set(map(float, speeds))))
    blocks = blocks or most
    return DemandPlan(cells, kinds, speeds, blocks, seconds, seed, margin, chosen, missing)


# -- measuring -----------------------------------------------------------------------------------


def demand_table(
    works: str | Iterable[str] | None = None,
    rates: Iterable[float] | None = None,
    blocks: int | None = None,
    scale: str | None = None,
    out: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    *,
    say: experiment.Say | None = None,
    **more: Any,
) -> DemandTable:
    """Measure what a request costs under each MPM; five minutes at the demo scale.

    works: of "page" (a new connection each), "script" (the same) and "keep-alive". rates: requests/s,
        two or more for a line. blocks: how often each is measured. scale: "smoke", "demo", "full" (an
        hour); by default the environment's MPMKIT_SCALE, or else demo.
    out: a CSV file to which rows are appended at once. The same call goes on where it was stopped; a block
        that was not finished is measured again. on_progress, say: as in `qps_table`.
    more: seed of the random order (1); margin (0.03); also: ("httpd",) or ();
        launch: starts a server of ours, ``launch(mpm, **directives)``.

    Raises as `qps_table` does.
    """
    todo, place = plan(works, rates, blocks, scale, **more), cpus.here()
    table = DemandTable([], scale=todo.scale, left_out=todo.missing, notes=[*place.notes])
    table.works, table.margin = todo.works, todo.margin
    table.head = (
        "service demand S = U/X: CPU time of the server's CPU for a request, 95% intervals\n"
        f"stated before: margin ±{todo.margin:.3g}, {todo.blocks} blocks in random order (seed "
        f"{todo.seed}), {', '.join(f'{x:,.0f}' for x in todo.rates)} requests/s; {place}"
    )
    file = table.keep_in(out)
    experiment.resume(table, file, design=todo.id)
    table.records = whole_blocks(table.records, todo)
    table.resumed = table.measured
    done = {row["round"] for row in table.records}
    left = [number for number in range(1, todo.blocks + 1) if number not in done]
    table.planned = table.measured + len(left) * sum(len(cell.parts) for cell in todo.cells)
    if table.resumed:
        table.notes.append(f"{table.resumed} of {table.planned} loads are of an earlier run")

    def measure(cell: Cell, report: Report) -> Iterator[list[Row]]:
        return _measure_server(todo, table, place, cell, report)

    cells = _cells(todo, table, left)
    return experiment.run(cells, measure, table, file=file, on_progress=on_progress, say=say)


def whole_blocks(rows: list[Row], todo: DemandPlan) -> list[Row]:
    """The rows of the blocks that are finished: the cells of a block have to be of one time. Only the last
    block can have been stopped; earlier ones lack what had failed for good."""
    rows = current(rows)
    last = max((row["round"] for row in rows), default=0)
    names = ("server", "mpm", "control", "work")
    have = {tuple(row[name] for name in names) for row in rows if row["round"] == last}
    wanted = {(c.server, c.mpm, c.control, work) for c in todo.cells for work in c.parts}
    return [row for row in rows if row["round"] != last or wanted <= have]


def _cells(todo: DemandPlan, table: DemandTable, left: Sequence[int]) -> Iterator[Cell]:
    """The cells of the blocks that are left. Raises RuntimeError after a block that shows a rate to be
    beyond the generator."""
    for number in left:
        yield from todo.block(number)
        for rate in todo.rates:
            rows = [row for row in table.records if (row["round"], row["rate"]) == (number, rate)]
            if rows and all((row["flaw"] or "").startswith("generator") for row in rows):
                fit = min(row["rate"] * GENERATOR_MOST / row["generator_u"] for row in rows)
                lower = ",".join(f"{0.8 * fit / todo.rates[-1] * one:.2g}" for one in todo.rates)
                raise RuntimeError(
                    f"{rate:,.0f} requests/s are above the generator's limit on this machine, in all "
                    f"{len(rows)} cells of block {number} ({rows[0]['flaw']}); give lower rates, "
                    f"--rates {lower}"
                )


def _measure_server(
    todo: DemandPlan, table: DemandTable, place: cpus.Placement, cell: Cell, report: Report
) -> Iterator[list[Row]]:
    """Start one server on its CPU, measure its works, stop it."""
    same: dict[str, Any] = {"design": todo.id, "seed": todo.seed, "margin": todo.margin}
    same |= {"blocks": todo.blocks, "control": cell.control, "cpus": str(place)}
    directives = DIRECTIVES[cell.mpm]
    with (
        cpus.loopers({place.generator, place.server}) as awake,
        cpus.pinned(lambda: cell.start(cell.mpm, **directives), place) as server,
    ):
        for work in cell.parts:
            report(f"block {cell.round}, {cell.label}, {work}", 0.0)
            rates = stats.turns(todo.rates, cell.round, f"{todo.seed} {cell.label} {work}")
            readings = cpus.Readings(server.pid, place, awake)
            conditions = experiment.Conditions(table, cell)
            kind, keep = WORKS[work]
            load = LoadProfile(
                path=published.page(kind).path,
                expect_length=published.page(kind).length,
                users=USERS,
                keep_alive=keep,
                arrival="constant",
                stages=tuple(Stage(todo.seconds, rate=rate) for rate in rates),
                warmup_seconds=WARMUP,
            )
            found = run_load(server, profile=load, on_tick=readings.tick)
            if not found.complete or experiment.is_gone(server):
                words = f"{found.ended}{experiment.last_words(server)}"
                raise RuntimeError(f"{cell.label}, {work}: {words}")
            rows = []
            for number, rate in enumerate(rates):
                begin, end = number * todo.seconds + SETTLE, (number + 1) * todo.seconds + 0.02
                columns = {**same, **readings.window(begin, end), "work": work, "rate": rate}
                columns["unsent"] = found.errors["unsent"]
                columns["flaw"] = flaw_of(columns, place.shared)
                rows.append(conditions.row(directives, **columns))
            yield rows


# -- the command line ----------------------------------------------------------------------------


def _rates(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit demand``: the table on standard output, progress and errors on standard error. The exit
    status is that of `command.execute`."""
    parser = Parser(
        prog="mpmkit demand",
        description="Measure the CPU time that a request costs under prefork, worker and event, of mpmkit and "
        "of httpd if it is installed, with a decision on each pair (docs/DEMAND.md). The same command goes on.",
    )
    add = parser.add_argument
    add("--work", action="append", metavar="WORK", help=f"{', '.join(WORKS)}; several as a,b")
    add("--rates", type=_rates, metavar="X,X", help="requests/s, two or more: 2000,4000")
    add("--blocks", type=int, metavar="N", help="how often each server is measured")
    add("--seed", type=int, default=1, metavar="N", help="of the random order (1)")
    add("--margin", type=read_share, default=MARGIN, metavar="P", help="the same within (3%%)")
    add("--without-httpd", action="store_true", help="measure mpmkit alone")
    scales = "smoke (half a minute), demo (five minutes; the default) or full (an hour)"
    command.add_options(parser, "--scale", "--out", scale=scales)
    options = parser.parse_args(argv)
    works = command.listed(options.work) if options.work else None
    given = (works, options.rates, options.blocks, options.scale)
    how: dict[str, Any] = {"seed": options.seed, "margin": options.margin}
    how["also"] = () if options.without_httpd else ("httpd",)

    def measure(bar: OnProgress) -> DemandTable:
        out = command.out_of(options, f"demand-{plan(*given, **how).id}")
        return demand_table(*given, out, bar, say=command.say, **how)

    status, _ = command.execute(measure, DemandTable.text, "; the same command goes on from here")
    return status
