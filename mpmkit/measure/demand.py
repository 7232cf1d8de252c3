"""What a request costs under each MPM: service demand at fixed rates, for decisions that hold.

    print(mpmkit.demand_table(scale="demo").text())

Requests a second at saturation measure the slower of generator and server. Here the generator sends at fixed
rates below its limit, and what is measured is how busy that keeps the server's CPU (docs/DEMAND.md). Each of
the two has a CPU of its own (`cpus`). A block starts each server once, in random order: prefork, worker, event
and a second prefork (the A/A control), of mpmkit and of httpd where it is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS
from mpmkit.load.fields import read_share
from mpmkit.load.profile import LoadProfile
from mpmkit.load.runner import run_load
from mpmkit.load.specs import Stage
from mpmkit.measure import command, competitors, cpus, experiment, published, stats
from mpmkit.measure.decision import MARGIN
from mpmkit.measure.demand_table import GENERATOR_MOST, DemandTable, Who, current, flaw_of
from mpmkit.measure.experiment import OURS, Cell, Launch, OnProgress, Report
from mpmkit.measure.records import Row

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


# -- the plan ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DemandCell(Cell):
    """A server with the kinds of work that are asked of it, in that order. control: the second prefork."""

    works: tuple[str, ...]
    control: bool
    start: Launch = field(compare=False, repr=False)

    @property
    def label(self) -> str:
        """The server as the table calls it."""
        return str(Who(self.server, self.mpm, self.control))

    @property
    def figures(self) -> int:
        """A load for each kind of work."""
        return len(self.works)


@dataclass(frozen=True)
class DemandPlan:
    """An experiment, checked. missing: a sentence on each rival that is not installed."""

    works: tuple[str, ...]
    rates: tuple[float, ...]
    blocks: int
    seconds: float
    seed: int
    margin: float
    scale: str
    launches: dict[str, Launch]
    missing: list[str]

    @property
    def id(self) -> str:
        """Tells this plan from another; the same whenever the settings are, but for more blocks."""
        given = (self.works, self.rates, self.seconds, self.seed, self.margin, *self.launches)
        return hashlib.sha256(json.dumps(given).encode()).hexdigest()[:12]

    def block(self, number: int) -> list[DemandCell]:
        """The cells of a block, from 1, in their random order."""
        cells = []
        for server, launch in self.launches.items():
            works = [work for work in self.works if server == OURS or WORKS[work][0] == "static"]
            for mpm, control in [*((mpm, False) for mpm in MPMS), ("prefork", True)]:
                order = stats.turns(works, number, f"{self.seed} {server} {mpm} {control}")
                cells.append(DemandCell(number, server, mpm, tuple(order), control, launch))
        return stats.turns([cell for cell in cells if cell.works], number, str(self.seed))


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
    rivals, missing = competitors.installed(competitors.of(also))
    launches = {
        OURS: launch or experiment.launcher(),
        **{rival.server: rival.start for rival in rivals},
    }
    speeds = tuple(sorted(set(map(float, speeds))))
    return DemandPlan(
        kinds, speeds, blocks or most, seconds, seed, margin, chosen, launches, missing
    )


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
        that was not finished is measured again. on_progress: called with an `experiment.Progress`.
    say: called at once with each sentence on what is left out.
    more: seed of the random order (1); margin (0.03); also: ("httpd",) or ();
        launch: starts a server of ours, ``launch(mpm, **directives)``.

    Raises ValueError for a bad argument and RecordError for a bad file, before anything starts;
    `experiment.ExperimentError` and `experiment.Interrupted`, both with the `table` so far.
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
    if file is not None:
        experiment.resume(table, file, lambda row: row["design"] == todo.id)
        table.records = whole_blocks(table.records, todo)
        table.resumed = table.measured
    done = {row["round"] for row in table.records}
    left = [number for number in range(1, todo.blocks + 1) if number not in done]
    table.planned = table.measured + sum(c.figures for n in left for c in todo.block(n))
    if table.resumed:
        table.notes.append(f"{table.resumed} of {table.planned} loads are of an earlier run")

    def measure(cell: DemandCell, report: Report) -> Iterator[list[Row]]:
        return _measure_server(todo, table, place, cell, report)

    cells = _cells(todo, table, left)
    return experiment.run(cells, measure, table, file=file, on_progress=on_progress, say=say)


def whole_blocks(rows: list[Row], todo: DemandPlan) -> list[Row]:
    """The rows of the blocks that are finished: the cells of a block are compared with each other, so they
    have to be of one time. Only the last block can have been stopped; earlier ones lack what had
    failed for good."""
    rows = current(rows)
    last = max((row["round"] for row in rows), default=0)
    names = ("server", "mpm", "control", "work")
    have = {tuple(row[name] for name in names) for row in rows if row["round"] == last}
    wanted = {(c.server, c.mpm, c.control, work) for c in todo.block(last) for work in c.works}
    return [row for row in rows if row["round"] != last or wanted <= have]


def _cells(todo: DemandPlan, table: DemandTable, left: Sequence[int]) -> Iterator[DemandCell]:
    """The cells of the blocks that are left. Raises RuntimeError after a block that shows a rate to be
    beyond the generator."""
    for number in left:
        yield from todo.block(number)
        for rate in todo.rates:
            rows = [row for row in table.records if (row["round"], row["rate"]) == (number, rate)]
            if rows and all((row["flaw"] or "").startswith("generator") for row in rows):
                fit = min(row["rate"] * GENERATOR_MOST / row["generator_u"] for row in rows)
                share = 0.8 * fit / max(todo.rates)
                lower = ",".join(f"{share * one:.2g}" for one in todo.rates)
                raise RuntimeError(
                    f"{rate:,.0f} requests/s are above the generator's limit on this machine, in all "
                    f"{len(rows)} cells of block {number} ({rows[0]['flaw']}); give lower rates, "
                    f"--rates {lower}"
                )


def _measure_server(
    todo: DemandPlan, table: DemandTable, place: cpus.Placement, cell: DemandCell, report: Report
) -> Iterator[list[Row]]:
    """Start one server on its CPU, measure its works, stop it."""
    same: dict[str, Any] = {"design": todo.id, "seed": todo.seed, "margin": todo.margin}
    same |= {"blocks": todo.blocks, "control": cell.control, "cpus": str(place)}
    directives = DIRECTIVES[cell.mpm]
    with (
        cpus.loopers({place.generator, place.server}) as awake,
        cpus.pinned(lambda: cell.start(cell.mpm, **directives), place) as server,
    ):
        for work in cell.works:
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


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit demand``: the table on standard output, progress and errors on standard error. The exit
    status is that of `command.execute`."""
    parser = Parser(
        prog="mpmkit demand",
        description="Measure the CPU time that a request costs under prefork, worker and event, of "
        "mpmkit and of the real httpd if it is installed: at fixed rates, in random blocks, with a "
        "decision on each pair. The same command goes on where it was stopped. See docs/DEMAND.md.",
    )
    add = parser.add_argument
    add("--work", action="append", metavar="WORK", help=f"{', '.join(WORKS)}; several as a,b")
    add("--rates", type=command.floats, metavar="X,X", help="requests/s, two or more: 2000,4000")
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
