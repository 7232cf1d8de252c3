"""What a request costs under each MPM: service demand at fixed rates, for decisions that hold (docs/DEMAND.md).

    print(mpmkit.demand_table(scale="demo").text())

The generator sends at fixed rates below its limit, and the measurement is how busy that keeps the server's CPU.
Generator and server have a CPU each (`cpus`). A block starts each server once, in random order: prefork, worker,
event and a second prefork (the A/A control), of mpmkit and of httpd if it is installed.

A machine's speed changes from second to second, by a third or more, and servers measured one after the other
would meet different conditions. So all servers of a block run, and one generator sends to them in turns: in each
cycle every server has a turn at every rate, in random order. The beginning of a turn does not count: it fills the
CPU's caches, which other servers have used. Nor does a turn in which something else ran there.

The utilisation law: a server that is busy for the share U of the time at X answers a second has a service demand
of S = U/X, the CPU time of a request; U against X is a line through the origin.

    cycle     1                                     2
    turn      | event | httpd prefork | prefork ... | httpd prefork | event ...
    requests   ,,|||||_ ,,||||||||||||_ ,,||||||...        , before it counts   _ pause: the last answers
"""

import contextlib
import itertools
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from mpmkit.config.directives import MPMS
from mpmkit.load.fields import read_share
from mpmkit.load.preflight import target_of
from mpmkit.load.profile import LoadProfile, RequestSpec, Stage, arrivals
from mpmkit.load.result import LoadRun, Tick
from mpmkit.load.runner import run_load
from mpmkit.measure import command, competitors, cpus, experiment, published, stats
from mpmkit.measure.experiment import OURS, Cell, Figures, Names, Report, Table
from mpmkit.measure.records import Row
from mpmkit.measure.stats import MARGIN, Decision

GENERATOR_MOST = 0.6  # cores that it may use: beyond, requests leave late and in bunches

# work -> the page, and whether connections are kept. httpd has no WSGI: the script is mpmkit's alone.
WORKS = {"page": ("static", False), "script": ("script", False), "keep-alive": ("static", True)}

# scale -> blocks, cycles of turns in each, rates, kinds of work
SCALES: dict[str, tuple[int, int, tuple[float, ...], tuple[str, ...]]] = {
    "smoke": (1, 4, (1000.0, 2500.0), ("page",)),
    "demo": (8, 10, (1000.0, 2500.0), ("page",)),
    "full": (20, 15, (1000.0, 2000.0, 3000.0), tuple(WORKS)),
}

WHO = ("server", "mpm", "control", "work")  # the columns that tell loads apart

DIRECTIVES: dict[str, dict[str, Any]] = {
    mpm: {**block, "StartServers": 4, "KeepAlive": True, "MaxKeepAliveRequests": 0}
    for mpm, block in published.DIRECTIVES.items()
}
"""The article's, but that no child is forked or ended while it is measured."""
DIRECTIVES["prefork"] |= {"StartServers": 24, "MinSpareServers": 4, "MaxSpareServers": 32}

LEAD, COUNTED, PAUSE = 0.03, 0.1, 0.01  # seconds of a turn
DISTURBED = 0.03  # of the server's CPU, by other work or the host: such a turn does not count
LENGTH = LEAD + COUNTED + PAUSE
SETTLE = 0.6  # seconds of turns, at least, that do not count: connections are opened, caches filled
USERS = 16  # requests at once, at most: fewer than each server has workers


class Turn(NamedTuple):
    """One server's turn. server: its number, from 0. rate: requests/s."""

    server: int
    rate: float


def order_of(servers: int, rates: Sequence[float], cycles: int, seed: str) -> list[Turn]:
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
    """Reads at the begin and at the end of what counts of each of so many turns. `tick` is for `run_load`: it
    starts with the first report of the generator, which says when the first turn began."""

    def __init__(self, turns: int, read: Callable[[], list[cpus.Spent]]) -> None:
        super().__init__(daemon=True)
        self.readings: dict[tuple[int, int], list[cpus.Spent]] = {}  # turn, 0 or 1: begin or end
        self._turns, self._read, self._origin = turns, read, 0.0

    def tick(self, tick: Tick) -> None:
        if not self._origin:
            self._origin = tick.origin
            self.start()

    def run(self) -> None:
        self._read()  # looks up the processes
        for number, end in itertools.product(range(self._turns), (0, 1)):
            wait = self._origin + number * LENGTH + LEAD + end * COUNTED - time.monotonic()
            if wait >= 0:  # else before the first report: among those that do not count
                time.sleep(wait)
                self.readings[number, end] = self._read()


def of_turns(
    turns: Sequence[Turn], load: LoadProfile, run: LoadRun, sampler: Sampler, shared: bool
) -> dict[Turn, dict[str, Any]]:
    """(server, rate) -> the columns of its row: sums over its turns that count. Left out are turns that were
    disturbed, or whose readings are missing or late. shared: generator and server had one CPU."""
    first, readings = uncounted(len(set(turns))), sampler.readings
    dues = [*itertools.takewhile(lambda due: due < len(turns) * LENGTH, arrivals(load))]
    counts, sums = Counter[Turn](), dict.fromkeys(turns, cpus.Spent())
    for number, turn in enumerate(turns):
        if number < first or not {(number, 0), (number, 1)} <= readings.keys():
            continue
        old, new = (readings[number, end][turn.server] for end in (0, 1))
        spent = new.plus(old, -1)
        disturbed = max(spent.stolen, spent.server - spent.group) > DISTURBED * spent.seconds
        if 0.9 < spent.seconds / COUNTED < 1.1 and (shared or not disturbed):
            begin = number * LENGTH + LEAD
            counts[turn] += bisect_left(dues, begin + COUNTED) - bisect_left(dues, begin)
            sums[turn] = sums[turn].plus(spent)
    # A request due where two turns meet may be of either: so no more are missing than failed.
    due = Counter(turns[int(when / LENGTH)].server for when in dues[bisect_left(dues, 0.0) :])
    good = [len(run.paths.get(line.name, ())) for line in load.mix]
    missing = [min(run.failures, max(0, due[n] - some)) for n, some in enumerate(good)]
    found = {}
    for turn, spent in sums.items():
        counted = {"requests": counts[turn], "failures": missing[turn.server]}
        found[turn] = counted | {"unsent": run.errors["unsent"]} | spent.columns(counts[turn])
    return found


Points = dict[tuple[int, float], stats.Point]
"""(block, rate) -> (answers a second, cores): X and U, of one server and kind of work."""


def current(rows: Sequence[Row]) -> list[Row]:
    """The rows without those of a block that a later run measured again from its beginning."""
    last = {row["round"]: row["run_id"] for row in rows}
    return [row for row in rows if row["run_id"] == last[row["round"]]]


def loads(rows: Sequence[Row], work: str, column: str = "server_u") -> dict[str, Points]:
    """Server with its MPM, as `Cell.label` -> what was measured of it without a flaw."""
    found: dict[str, Points] = {}
    for row in current(rows):
        if row["work"] == work and not row["flaw"] and row["x"] > 0 and row[column] > 0:
            who = f"{row['server']} {row['mpm']}" + " (A/A)" * row["control"]
            found.setdefault(who, {})[row["round"], row["rate"]] = row["x"], row[column]
    return found


def by(place: int, points: Points) -> dict[float, list[stats.Point]]:
    """The points of each block (place 0), or of each rate (1)."""
    found: dict[float, list[stats.Point]] = {}
    for key in sorted(points):
        found.setdefault(key[place], []).append(points[key])
    return found


def costs(points: Points) -> dict[float, float]:
    """Block -> S in µs."""
    return {block: 1e6 * stats.slope(some) for block, some in by(0, points).items()}


def comparisons(rows: Sequence[Row], work: str, margin: float = MARGIN) -> dict[str, Decision]:
    """What is compared for one kind of work -> the decision, over the blocks and the rates that both have: A/A
    first, then the MPMs of each server, then the servers under the same MPM."""
    found, decisions = loads(rows, work), {}
    servers = sorted({row["server"] for row in rows}, key=lambda name: (name != OURS, name))
    within = (("prefork (A/A)", "prefork"), *stats.PAIRS)
    pairs = [(f"{server} {a}", f"{server} {b}") for server in servers for a, b in within]
    for one, other in itertools.combinations(servers, 2):
        pairs += [(f"{one} {mpm}", f"{other} {mpm}") for mpm in MPMS]
    for who, rival in pairs:
        sides = found.get(who, {}), found.get(rival, {})
        if both := sides[0].keys() & sides[1].keys():
            mine, theirs = (costs({key: side[key] for key in both}) for side in sides)
            decisions[f"{who} / {rival}"] = stats.decide(mine, theirs, margin)
    return decisions


def flaw_of(row: Mapping[str, Any], cycles: int) -> str:
    """Why a row must not be used; "" if it may. cycles: of turns, in its block."""
    if row["seconds"] < COUNTED * cycles / 2:
        return "other work: more than half of its turns were disturbed by it, or by the host"
    if row["generator_u"] > GENERATOR_MOST:
        used = f"{row['generator_u']:.0%} of its CPU, more than {GENERATOR_MOST:.0%}"
        return f"generator: it used {used}, at {row['rate']:,.0f} requests/s"
    if row["failures"] or row["unsent"]:
        return f"failed: {row['failures']:,} requests failed, {row['unsent']:,} were not sent"
    return ""


@dataclass(repr=False)
class DemandTable(Table):
    """`mpmkit demand`: its plan and its result. cells: of a block; repeats: blocks; works, rates, margin: as
    asked. cycles: of turns in each block. place: the CPUs."""

    works: tuple[str, ...] = ()
    rates: tuple[float, ...] = ()
    margin: float = MARGIN
    cycles: int = 1
    place: cpus.Placement = field(default_factory=cpus.here)

    name = "demand"
    unit = "loads"
    again = "; the same command resumes from here"

    @property
    def measured(self) -> int:
        """Loads that have their rows."""
        return len({tuple(row[name] for name in ("round", *WHO)) for row in self.records})

    def result(self, row: Row) -> str:
        return row["flaw"] or f"{1e6 * row['server_u'] / row['x']:.1f} µs a request"

    def _text(self) -> Iterator[str]:
        yield "service demand S = U/X: CPU time of the server's CPU for a request, 95% intervals"
        blocks = f"{self.repeats} blocks in random order (seed {self.seed})"
        rates = ", ".join(f"{rate:,.0f}" for rate in self.rates)
        yield f"fixed beforehand: margin ±{self.margin:.3g}, {blocks}, {rates} requests/s; {self.place}"
        for work in self.works:
            yield from ["", *self._of_work(work)]
        yield ""
        if flaws := [row["flaw"].partition(":") for row in self.records if row["flaw"]]:
            yield f"{len(flaws)} of {len(self.records)} rows are not used:"
            first = {kind: text for kind, _, text in reversed(flaws)}
            for kind, count in Counter(kind for kind, *_ in flaws).most_common():
                yield f"  {count} for {kind}; the first of them:{first[kind]}"
            yield ""
        yield from self.footer()

    def _of_work(self, work: str) -> Iterator[str]:
        found, own = loads(self.records, work), loads(self.records, work, "group_u")
        rates = sorted({rate for points in found.values() for _, rate in points})
        head = [work, "S µs", "95%", "own µs", *(f"at {rate:,.0f}/s" for rate in rates)]
        lines = [[*head, "R²", "blocks"]]
        for who, points in sorted(found.items()):
            blocks, of_rate = costs(points), by(1, points)
            s, fit = stats.mean([*blocks.values()]), stats.r_squared([*of_rate.values()])
            mine = f"{stats.mean([*costs(own[who]).values()]).value:.1f}" if who in own else "-"
            at = {rate: f"{1e6 * stats.slope(some):.1f}" for rate, some in of_rate.items()}
            cells = [who, f"{s.value:.1f}", s.between(".1f") or "one block", mine]
            cells += [at.get(rate, "-") for rate in rates]
            lines.append([*cells, command.known(fit, ".3f"), str(len(blocks))])
        yield from command.aligned(lines, (0, 2)) if found else [f"{work}: no row can be used"]
        for pair, decision in comparisons(self.records, work, self.margin).items():
            yield f"  {pair}: {decision}"

    def block(self, number: int) -> list[Cell]:
        """The cells of a block, from 1, in their random order."""
        return experiment.in_rounds(self.cells, [number], self.seed)

    def left(self) -> list[Cell]:
        """The blocks that are left, a cell each; those that were stopped are measured from their beginning."""
        self.records = whole_blocks(self.records, self)
        self.resumed = self.measured
        self.notes += self.place.notes
        parts = tuple(f"{cell.label} {work}" for cell in self.cells for work in cell.parts)
        left = {*range(1, self.repeats + 1)} - {row["round"] for row in self.records}
        return [Cell(number, OURS, "", parts=parts) for number in sorted(left)]

    def measure(self, block: Cell, report: Report) -> Figures:
        """Start all servers of a block on their CPU, measure one kind of work after the other, stop them."""
        start = partial(self._started, self.block(block.round))
        with cpus.loopers(self.place[:2]) as awake, cpus.pinned(start, self.place) as servers:
            for work in stats.turns(self.works, block.round, f"{self.seed} works"):
                report(f"block {block.round}, {work}", 0.0)
                some = {cell: one for cell, one in servers.items() if work in cell.parts}
                yield from self._loads(block.round, work, some, awake)
        self.must_fit(block.round)

    @contextlib.contextmanager
    def _started(self, cells: Iterable[Cell]) -> Iterator[dict[Cell, Any]]:
        """The servers of a block, all running. A competitor that does not start is left out from here on."""
        with contextlib.ExitStack() as stack:
            servers = {}
            for cell in cells:
                try:
                    if not cell.subjects & self.broken:
                        servers[cell] = stack.enter_context(cell.started())
                except RuntimeError as error:
                    if cell.server == OURS:
                        raise
                    had = [tuple(row[name] for name in WHO[:3]) for row in self.records]
                    self.leave_out(cell, error, had.count((cell.server, cell.mpm, cell.control)))
            yield servers

    def _loads(
        self, block: int, work: str, servers: Mapping[Cell, Any], awake: Mapping[int, int]
    ) -> Figures:
        """One kind of work, on all servers of a block in turns."""
        conditions = [self.conditions(cell) for cell in servers]
        kind, keep = WORKS[work]
        page, running = published.page(kind), [*servers.values()]
        ports = [target_of(server.url).port for server in running]
        lines = [RequestSpec(page.path, expect_length=page.length, port=port) for port in ports]
        order = order_of(len(running), self.rates, self.cycles, f"{self.design} {block}")
        load = profile(order, lines, keep)
        read = cpus.Reader(self.place, awake, [server.pid for server in running])
        sampler = Sampler(len(order), read)
        found = run_load(running[0].url, profile=load, on_tick=sampler.tick)
        gone = [server for server in running if experiment.is_gone(server)]
        if gone or not found.complete:
            words = "".join(map(experiment.last_words, gone[:1]))
            raise RuntimeError(f"block {block}, {work}: {found.ended}{words}")
        sampler.join()
        sums = of_turns(order, load, found, sampler, self.place.shared)
        same: Row = {"design": self.design, "seed": self.seed, "margin": self.margin}
        same |= {"blocks": self.repeats, "cpus": str(self.place), "work": work}
        for number, cell in enumerate(servers):
            rows = []
            for rate in self.rates:
                columns = {**same, **sums[Turn(number, rate)], "rate": rate}
                columns |= {"control": cell.control, "flaw": flaw_of(columns, self.cycles)}
                rows.append(conditions[number](**columns))
            yield rows

    def must_fit(self, block: int) -> None:
        """Raise RuntimeError after a block that shows a rate to be beyond the generator."""
        for rate in self.rates:
            rows = [row for row in self.records if (row["round"], row["rate"]) == (block, rate)]
            if rows and all((row["flaw"] or "").startswith("generator") for row in rows):
                fit = min(row["rate"] * GENERATOR_MOST / row["generator_u"] for row in rows)
                lower = ",".join(f"{0.8 * fit / self.rates[-1] * one:.2g}" for one in self.rates)
                what = f"in all {len(rows)} cells of block {block} ({rows[0]['flaw']})"
                above = f"{rate:,.0f} requests/s are above the generator's limit on this machine"
                raise RuntimeError(f"{above}, {what}; give lower rates, --rates {lower}")


@experiment.measured
def demand_table(
    works: Names | None = None, rates: Iterable[float] | None = None, blocks: int | None = None,
    scale: str | None = None, *, seed: int = 1, margin: float = MARGIN, also: Names = ("httpd",),
    launch: experiment.Launch | None = None,
) -> DemandTable:  # fmt: skip
    """Measure the CPU time that a request costs under prefork, worker and event, of mpmkit and of httpd if it is
    installed, with a decision on each pair (docs/DEMAND.md). Five minutes at the demo scale; an interrupted run
    resumes with its file, and measures an unfinished block again.

    works: of page (a new connection each), script (the same) and keep-alive. rates: requests/s, two or more for a
    line: 2000,4000. blocks: how often each server is measured. scale: smoke (half a minute), demo (five minutes),
    full (an hour); by default the environment's MPMKIT_SCALE, or else demo. seed: of the random order (1).

    margin: within which two costs are called the same. also: ("httpd",) or (). out, launch, on_progress, say: as
    in `qps_table`. Raises as it does.
    """
    problems = command.Problems()
    chosen, (most, cycles, speeds, kinds) = problems.scale(scale, SCALES, rates, blocks)
    kinds = problems.chosen("work", kinds if works is None else works, WORKS)
    also = problems.chosen("also", also, ("httpd",), 0)
    problems.numbers("blocks", blocks, 1, 1000, "whole")
    speeds = speeds if rates is None else tuple(rates) or (0,)
    problems.numbers("rates", speeds, 1, 1_000_000)
    problems.numbers("margin", margin, 0.001, 0.5)
    problems.numbers("seed", seed, 0, 1 << 31, "whole")
    problems.raise_any()
    start = launch or experiment.launch
    cells = [Cell(1, OURS, mpm, parts=kinds, start=start) for mpm in MPMS]
    rivals, missing = experiment.installed(competitors.of(also))
    static = tuple(work for work in kinds if WORKS[work][0] == "static")
    cells += [replace(rival, parts=static) for rival in rivals if static]
    cells += [replace(cell, control=True) for cell in cells if cell.mpm == "prefork"]
    cells = [replace(cell, directives=DIRECTIVES[cell.mpm]) for cell in cells]
    speeds, servers = tuple(sorted({*map(float, speeds)})), dict.fromkeys(c.server for c in cells)
    design = experiment.identity(kinds, speeds, cycles, seed, margin, *servers)
    how: dict[str, Any] = {"cells": cells, "repeats": blocks or most, "seed": seed, "scale": chosen}
    how |= {"design": design, "left_out": missing}
    return DemandTable([], kinds, speeds, margin, cycles, **how)


def whole_blocks(rows: list[Row], todo: DemandTable) -> list[Row]:
    """The rows of the blocks that are finished: the cells of a block have to be of one time. Only the last
    block can have been stopped; earlier ones lack what had failed for good."""
    rows = current(rows)
    last = max((row["round"] for row in rows), default=0)
    have = {tuple(row[name] for name in WHO) for row in rows if row["round"] == last}
    wanted = {(c.server, c.mpm, c.control, work) for c in todo.cells for work in c.parts}
    return [row for row in rows if row["round"] != last or wanted <= have]


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit demand``, as in `command.measured`."""
    parser = command.parser("mpmkit demand", demand_table, "work rates blocks scale seed")
    add, alone = parser.add_argument, "measure mpmkit alone"
    add("--margin", type=read_share, metavar="P", help="the same within (3%%)")
    add("--without-httpd", dest="also", action="store_const", const=(), help=alone)
    return command.measured(parser.parse_args(argv), demand_table)[0]
