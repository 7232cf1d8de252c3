"""What a request costs under each MPM: service demand at fixed rates, for decisions that hold (docs/DEMAND.md).

    print(mpmkit.demand_table(scale="demo").text())

The generator sends at fixed rates below its limit, and the measurement is how busy that keeps the server's CPU.
Generator and server have a CPU each (`cpus`). A block starts each server once, in random order: prefork, worker,
event and a second prefork (the A/A control), of mpmkit and of httpd if it is installed. Then they get their
requests in turns (`turns`).
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.fields import listed, read_share
from mpmkit.load.profile import RequestSpec
from mpmkit.load.runner import run_load
from mpmkit.load.target import target_of
from mpmkit.measure import command, competitors, cpus, experiment, published, stats, turns
from mpmkit.measure.experiment import OURS, Cell, Launch, OnProgress, Report, Table
from mpmkit.measure.records import Row
from mpmkit.measure.stats import MARGIN
from mpmkit.measure.text import aligned
from mpmkit.measure.utilisation import comparisons, current, demand_of, loads, r_squared, slope

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

_FEW = {"StartServers": 4}  # children, of 25 threads
_POOLS = {"prefork": {"StartServers": 24, "MinSpareServers": 4, "MaxSpareServers": 32}}
DIRECTIVES: dict[str, dict[str, Any]] = {
    mpm: {**block, **_POOLS.get(mpm, _FEW), "KeepAlive": True, "MaxKeepAliveRequests": 0}
    for mpm, block in published.DIRECTIVES.items()
}
"""The article's, but that no child is forked or ended while it is measured."""


def flaw_of(row: Mapping[str, Any], cycles: int) -> str:
    """Why a row must not be used; "" if it may. cycles: of turns, in its block."""
    if row["seconds"] < turns.COUNTED * cycles / 2:
        return "other work: more than half of its turns were disturbed by it, or by the host"
    if row["generator_u"] > GENERATOR_MOST:
        used = f"{row['generator_u']:.0%} of its CPU, more than {GENERATOR_MOST:.0%}"
        return f"generator: it used {used}, at {row['rate']:,.0f} requests/s"
    if row["failures"] or row["unsent"]:
        return f"failed: {row['failures']:,} requests failed, {row['unsent']:,} were not sent"
    return ""


class DemandTable(Table):
    """The result of `mpmkit demand`. works, margin, head: of the plan."""

    name = "demand"
    unit = "loads"
    works: tuple[str, ...] = ()
    margin = MARGIN
    head = ""

    @property
    def measured(self) -> int:
        """Loads that have their rows."""
        return len({tuple(row[name] for name in ("round", *WHO)) for row in self.records})

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
        own, found = loads(self.records, "group_u"), loads(self.records)
        mine = {who: blocks for (kind, who), blocks in sorted(found.items()) if kind == work}
        if not mine:
            return [f"{work}: no row can be used"]
        rates = sorted({rate for one in mine.values() for load in one.values() for rate in load})
        head = [work, "S µs", "95%", "own µs", *(f"at {rate:,.0f}/s" for rate in rates)]
        lines = [[*head, "R²", "blocks"]]
        for who, blocks in mine.items():
            s, fit = demand_of(blocks), r_squared(blocks)
            between = f"{s.low:.1f} to {s.high:.1f}" if s.level else "one block"
            of_group = f"{demand_of(own[work, who]).value:.1f}" if (work, who) in own else "-"
            some = [[load[rate] for load in blocks.values() if rate in load] for rate in rates]
            at = [f"{slope(points):.1f}" if points else "-" for points in some]
            last = ["-" if fit is None else f"{fit:.3f}", str(len(blocks))]
            lines.append([str(who), f"{s.value:.1f}", between, of_group, *at, *last])
        said = comparisons(self.records, work, self.margin)
        return [*aligned(lines, (0, 2)), *(f"  {pair}: {one}" for pair, one in said.items())]


@dataclass(frozen=True)
class DemandPlan:
    """An experiment, checked. cells: those of a block. missing: a sentence on each rival that is not
    installed."""

    cells: list[Cell]
    works: tuple[str, ...]
    rates: tuple[float, ...]
    blocks: int
    cycles: int
    seed: int
    margin: float
    scale: str
    missing: list[str]

    @property
    def id(self) -> str:
        """Tells this plan from another; the same whenever the settings are, but for more blocks."""
        servers = dict.fromkeys(cell.server for cell in self.cells)
        given = (self.works, self.rates, self.cycles, self.seed, self.margin, *servers)
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
    """Check the arguments. Raises ValueError naming every mistake."""
    problems = command.Problems()
    chosen, (most, cycles, speeds, kinds) = problems.scale(scale, SCALES)
    if (rates, blocks) != (None, None):
        chosen = "custom"
    kinds = problems.chosen("work", kinds if works is None else works, WORKS)
    also = problems.chosen("also", also, ("httpd",), 0)
    problems.rounds(blocks, name="blocks")
    speeds = speeds if rates is None else tuple(rates) or (0,)
    problems.numbers("rates", speeds, 1, 1_000_000)
    problems.numbers("margin", (margin,), 0.001, 0.5)
    problems.numbers("seed", (seed,), 0, 1 << 31, "whole")
    problems.raise_any()
    start = launch or experiment.launch
    cells = [Cell(1, OURS, mpm, parts=kinds, stands_for=mpm, start=start) for mpm in MPMS]
    rivals, missing = competitors.installed(competitors.of(also))
    static = tuple(work for work in kinds if WORKS[work][0] == "static")
    cells += [replace(rival, parts=static) for rival in rivals if static]
    cells += [replace(cell, control=True) for cell in cells if cell.mpm == "prefork"]
    speeds = tuple(sorted(set(map(float, speeds))))
    blocks = blocks or most
    return DemandPlan(cells, kinds, speeds, blocks, cycles, seed, margin, chosen, missing)


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
    out: a CSV file to which rows are appended at once. The same call resumes an interrupted run; an
        unfinished block is measured again. on_progress, say: as in `qps_table`.
    more: seed of the random order (1); margin (0.03); also: ("httpd",) or ();
        launch: starts a server of ours, ``launch(mpm, **directives)``.

    Raises as `qps_table` does.
    """
    todo, place = plan(works, rates, blocks, scale, **more), cpus.here()
    table = DemandTable([], scale=todo.scale, left_out=todo.missing, notes=[*place.notes])
    table.works, table.margin = todo.works, todo.margin
    table.head = (
        "service demand S = U/X: CPU time of the server's CPU for a request, 95% intervals\n"
        f"fixed beforehand: margin ±{todo.margin:.3g}, {todo.blocks} blocks in random order (seed "
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

    cells, measure = _cells(todo, table, left), partial(_measure_block, todo, table, place)
    return experiment.run(cells, measure, table, file=file, on_progress=on_progress, say=say)


def whole_blocks(rows: list[Row], todo: DemandPlan) -> list[Row]:
    """The rows of the blocks that are finished: the cells of a block have to be of one time. Only the last
    block can have been stopped; earlier ones lack what had failed for good."""
    rows = current(rows)
    last = max((row["round"] for row in rows), default=0)
    have = {tuple(row[name] for name in WHO) for row in rows if row["round"] == last}
    wanted = {(c.server, c.mpm, c.control, work) for c in todo.cells for work in c.parts}
    return [row for row in rows if row["round"] != last or wanted <= have]


def _cells(todo: DemandPlan, table: DemandTable, left: Sequence[int]) -> Iterator[Cell]:
    """The blocks that are left, a cell each. Raises RuntimeError after a block that shows a rate to be
    beyond the generator."""
    for number in left:
        loads = tuple(f"{cell.label} {work}" for cell in todo.cells for work in cell.parts)
        yield Cell(number, OURS, "", parts=loads)
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


def _measure_block(
    todo: DemandPlan, table: DemandTable, place: cpus.Placement, block: Cell, report: Report
) -> experiment.Figures:
    """Start all servers of a block on their CPU, measure one kind of work after the other, stop them."""
    same: dict[str, Any] = {"design": todo.id, "seed": todo.seed, "margin": todo.margin}
    same |= {"blocks": todo.blocks, "cpus": str(place)}
    cells = [c for c in todo.block(block.round) if not c.subjects & table.broken]
    with (
        cpus.loopers({place.generator, place.server}) as awake,
        cpus.pinned(lambda: _started(cells, table), place) as servers,
    ):
        for work in stats.turns(todo.works, block.round, f"{todo.seed} works"):
            report(f"block {block.round}, {work}", 0.0)
            some = [cell for cell in servers if work in cell.parts]
            conditions = [experiment.Conditions(table, cell) for cell in some]
            kind, keep = WORKS[work]
            page = published.page(kind)
            urls = [servers[cell].url for cell in some]
            lines = [
                RequestSpec(page.path, expect_length=page.length, port=target_of(url).port)
                for url in urls
            ]
            order = turns.order(len(some), todo.rates, todo.cycles, f"{todo.id} {block.round}")
            load = turns.profile(order, lines, keep)
            groups = [servers[cell].pid for cell in some]
            sampler = turns.Sampler(len(order), groups, place, awake)
            found = run_load(urls[0], profile=load, on_tick=sampler.tick)
            gone = [servers[cell] for cell in some if experiment.is_gone(servers[cell])]
            if gone or not found.complete:
                words = "".join(map(experiment.last_words, gone[:1]))
                raise RuntimeError(f"block {block.round}, {work}: {found.ended}{words}")
            sampler.join()
            sums = turns.loads(order, load, found, sampler, place.shared)
            for number, cell in enumerate(some):
                rows = []
                for rate in todo.rates:
                    columns = {**same, **sums[turns.Turn(number, rate)], "work": work, "rate": rate}
                    columns |= {"control": cell.control, "flaw": flaw_of(columns, todo.cycles)}
                    rows.append(conditions[number].row(DIRECTIVES[cell.mpm], **columns))
                yield rows


@contextlib.contextmanager
def _started(cells: Iterable[Cell], table: DemandTable) -> Iterator[dict[Cell, Any]]:
    """The servers of a block, all running. A competitor that does not start is left out from here on."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for cell in cells:
            try:
                server = stack.enter_context(cell.start(cell.mpm, **DIRECTIVES[cell.mpm]))
            except RuntimeError as error:
                if cell.server == OURS:
                    raise
                had = [tuple(row[name] for name in WHO[:3]) for row in table.records]
                table.leave_out(cell, error, had.count((cell.server, cell.mpm, cell.control)))
            else:
                servers[cell] = server
        yield servers


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit demand``: the table on standard output, progress and errors on standard error. The exit
    status is that of `command.execute`."""
    parser = Parser(
        prog="mpmkit demand",
        description="Measure the CPU time that a request costs under prefork, worker and event, of mpmkit and "
        "of httpd if it is installed, with a decision on each pair (docs/DEMAND.md). The same command "
        "resumes an interrupted run.",
    )
    add = parser.add_argument
    kinds = f"{', '.join(WORKS)}; several as a,b"
    add("--work", dest="works", **command.WORDS, metavar="WORK", help=kinds)
    add("--rates", type=listed(float), metavar="X,X", help="requests/s, two or more: 2000,4000")
    add("--blocks", type=int, metavar="N", help="how often each server is measured")
    add("--seed", type=int, metavar="N", help="of the random order (1)")
    add("--margin", type=read_share, metavar="P", help="the same within (3%%)")
    alone = "measure mpmkit alone"
    add("--without-httpd", dest="also", action="store_const", const=(), help=alone)
    scales = "smoke (half a minute), demo (five minutes; the default) or full (an hour)"
    command.add_options(parser, "--scale", "--out", scale=scales)
    options = parser.parse_args(argv)
    asked = command.asked(options)

    def measure(bar: OnProgress) -> DemandTable:
        out = command.out_of(options, f"demand-{plan(**asked).id}")
        return demand_table(**asked, out=out, on_progress=bar, say=command.say)

    return command.execute(measure, DemandTable.text, command.AGAIN)[0]
