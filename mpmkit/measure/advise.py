"""Which MPM, and which numbers? A log's requests under prefork, worker and event: as given, and as proposed.

    advice = advise({"event": directives, ...}, trace, costs, growth=1.5, ram="4GiB")
    for case in advice.cases: case.mpm, case.kind, case.run.peak_busy, case.memory, case.reasons

Directives, a trace and lines of memory in, figures out. The numbers of a proposal follow from the demand:
how many workers would be busy if no request had to wait. They are raised as long as the simulation shows that
they let clients wait (docs/ADVISE.md).
"""

import math
import statistics
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from random import Random
from typing import Any

from mpmkit.config.directives import Directives
from mpmkit.measure.parallel import Report, in_turn
from mpmkit.measure.proposal import Proposal, demand, holds
from mpmkit.measure.sizing import Line, room_for
from mpmkit.measure.trace import Trace
from mpmkit.policy.simulator import simulate
from mpmkit.policy.trace_run import TraceRun
from mpmkit.policy.traffic import check_span

ATTEMPTS = 4  # simulations of a proposal
WARM_SECONDS = 60  # of the trace, by whose demand the first children are counted
COPY_SECONDS = 1.0  # copies of a connection come so much later, at most
LEAST_SPAN = 3600.0  # seconds of log, below which a note says what is missing
FULL = 0.95  # of the workers: a log with more busy ones ran into the limit
FEW_WAIT = 0.01  # of the requests, under a proposal that can be recommended

LOG_LINES = r"""
    LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\" %D %X %k %{usec}t" trace
    CustomLog "logs/trace.log" trace"""


@dataclass(frozen=True)
class Cost:
    """Memory of a server in KiB.

    workers   a line against the workers that there are, busy or not: children x ThreadsPerChild
    source    where it was measured, for the reader
    kept      a line against kept connections, which event holds without a worker
    measured  whether it is the server that is asked about
    """

    workers: Line
    source: str
    kept: Line | None = None
    measured: bool = False

    def at(self, workers: float, kept: float) -> tuple[float, float, float]:
        """(low end, expected, high end) of the 95% interval; its ends are nan where too few points were seen."""
        middle, reach = self.workers.at(workers), (self.workers.high - self.workers.slope) * workers
        if self.kept is not None:
            middle += self.kept.slope * kept
            reach = math.hypot(reach, (self.kept.high - self.kept.slope) * kept)
        reach = reach if math.isfinite(reach) else math.nan
        return max(middle - reach, 0.0), middle, middle + reach  # of nan and 0, max takes the first

    def fitting(self, room: int) -> tuple[int, str]:
        """The most workers that `room` bytes hold (0: no limit), and the reason."""
        if not room:
            return 1 << 30, ""
        each = max(1e-9, self.workers.dear)
        why = f"{room / (1 << 20):,.0f} MiB have room for no more, {each:,.0f} KiB a worker"
        return int((room / 1024 - self.workers.base) / each), why


@dataclass(frozen=True)
class Case:
    """What the trace meets under one MPM. kind: "given" or "proposed". memory: KiB in the second in which it is
    most (`Cost.at`). reasons: directive -> why it has that number."""

    mpm: str
    kind: str
    directives: Directives
    run: TraceRun
    memory: tuple[float, float, float]
    cost: Cost
    reasons: Mapping[str, str] = field(default_factory=dict)

    def memory_over_time(self) -> list[float]:
        """KiB expected in each second of the run."""
        return [middle for _, middle, _ in _memory(self.directives, self.run, self.cost)]


def _memory(d: Directives, run: TraceRun, cost: Cost) -> Iterator[tuple[float, float, float]]:
    """`Cost.at` each second."""
    for processes, kept in zip(run.series["processes"], run.series["kept"], strict=True):
        yield cost.at(processes * d.ThreadsPerChild, kept)


@dataclass(frozen=True)
class Advice:
    """The answer. trace: with its growth. cases: none without durations. ram, room: bytes of the machine, and
    of it for the server; 0: not given."""

    trace: Trace
    growth: float
    notes: tuple[str, ...]
    cases: tuple[Case, ...] = ()
    ram: int = 0
    room: int = 0

    def verdict(self) -> str:
        """The proposal that takes the least memory, of those under which hardly any request waits."""
        good = [c for c in self.cases if c.kind == "proposed" and c.run.waited <= FEW_WAIT]
        if not good:
            return f"Under each proposal more than {FEW_WAIT:.0%} of the requests wait: see what binds."
        if len({case.cost.measured for case in good}) > 1:
            alone = "Memory was measured on your server for one MPM alone; that of the others is a plain httpd's"
            return f"{alone}, so it does not decide between them."
        best = min(good, key=lambda case: case.memory[1])
        near = [c.mpm for c in good if c is not best and not c.memory[0] > best.memory[2]]
        same = f"; that of {' and '.join(near)} is not clearly more" if near else ""
        few = f"Under {best.mpm} as proposed hardly any request waits"
        return f"{few}, with the least memory{same}."


def grown(trace: Trace, growth: float) -> Trace:
    """The trace with `growth` times as many connections, each whole, with its requests and pauses. Superposed:
    copies come up to COPY_SECONDS later, so bursts become higher, and as long as before. For growth < 1
    connections are left out evenly (thinned)."""
    if growth == 1:
        return trace
    chance = Random(1)
    copies: dict[int, list[tuple[int, float]]] = {}  # connection -> (new number, delay)
    rows: list[tuple[float, int, int]] = []
    for i, (start, connection) in enumerate(zip(trace.start, trace.connection, strict=True)):
        if connection not in copies:
            numbers = range(int(len(copies) * growth), int((len(copies) + 1) * growth))
            copies[connection] = [
                (n, chance.uniform(0, COPY_SECONDS) if n > numbers[0] else 0.0) for n in numbers
            ]
        rows += [(start + delay, i, number) for number, delay in copies[connection]]
    rows.sort()
    new = {"start": [start for start, *_ in rows], "connection": [number for *_, number in rows]}
    return trace.of((i for _, i, _ in rows), **new)


def advise(
    given: Mapping[str, Directives],
    trace: Trace,
    costs: Mapping[str, Cost],
    *,
    growth: float = 1.0,
    ram: str | int = 0,
    writer: str = "",
    on_progress: Report = lambda share, text: None,
    calls: Callable[..., list[Any]] = in_turn,
) -> Advice:
    """The trace under each MPM of `given`, with those directives and with proposed ones.

    costs: memory, for each MPM. growth: of the number of connections, up to 1000. ram: of the machine, bytes or
    "4GiB"; a fifth of it and at least 256 MiB are kept back. writer: the MPM that wrote the log ("": not known).
    on_progress: called with the share that is done, and what is simulated. calls: `parallel.in_turn`, or
    `parallel.in_processes` for one process a processor.

    Without durations the advice has no cases, and its notes say what to log and what can be said meanwhile.
    Raises ValueError for an empty trace, one that lacks some durations, a growth or a size that can't be.
    """
    if not 0 < growth <= 1000:
        raise ValueError(f"growth: must be more than 0 and at most 1000, not {growth!r}")
    total, kept_back = room_for(ram) if ram else (0, 0)
    room = total - kept_back
    trace = trace.complete()
    check_span(trace)
    load = grown(trace, growth)
    if not len(load):
        raise ValueError(f"trace: no request is left at growth {growth:g}, of {len(trace):,}")
    if not trace.timed:
        return Advice(load, growth, (*trace.notes, *_untimed(load)), (), total, room)
    notes = (*trace.notes, *_reach(trace, given.get(writer)), *_growth_notes(load, growth))
    kinds = ("given", "proposed")
    jobs = [(kind, d, costs[mpm], room) for mpm, d in given.items() for kind in kinds]
    cases = calls(_case, load, jobs, on_progress)
    return Advice(load, growth, notes, tuple(cases), total, room)


def _case(load: Trace, job: tuple[str, Directives, Cost, int], report: Report) -> Case:
    """What the trace meets. A proposal is raised as long as its simulation shows that it lets clients wait."""
    kind, d, cost, room = job
    begin = load.of(range(min(len(load), bisect_left(load.start, WARM_SECONDS) + 1)))

    def simulated(d: Directives, before: float, part: float, attempt: str = "") -> TraceRun:
        """`before` of the work is done, and it is such a part of it."""
        begun = warm(d, statistics.fmean(demand(begin, holds(d))[:WARM_SECONDS]))
        what = f"{d.mpm} as {kind}{attempt}"
        report(before, what)
        return simulate(
            d.mpm, begun, trace=load, on_progress=lambda share: report(before + part * share, what)
        )

    reasons: Mapping[str, str] = {}
    if kind == "given":
        run = simulated(d, 0.0, 1.0)
    else:
        proposal = Proposal(d, load, *cost.fitting(room))
        for attempt in range(1, ATTEMPTS + 1):
            d = proposal.directives()
            run = simulated(d, (attempt - 1) / ATTEMPTS, 1 / ATTEMPTS, f", attempt {attempt}")
            if attempt == ATTEMPTS or not proposal.raised(run):
                break
        reasons = proposal.reasons
    memory = max(_memory(d, run, cost), key=itemgetter(1))
    return Case(d.mpm, kind, d, run, memory, cost, reasons)


def warm(d: Directives, busy: float) -> Directives:
    """With as many children at the start as idle maintenance has for that many busy workers: a log
    usually begins on a running server."""
    spare = d.MinSpareThreads if d.threaded else d.MinSpareServers
    children = max(d.StartServers, math.ceil((busy + spare) / d.ThreadsPerChild))
    return replace(d, StartServers=min(d.process_limit, children))


def _reach(trace: Trace, writer: Directives | None) -> Iterator[str]:
    """What the log does not show."""
    if trace.span < LEAST_SPAN:
        covers = f"{trace.span:.0f} s" if trace.span < 120 else f"{trace.span / 60:.0f} minutes"
        more = "hours in which more happens are not in it. Give a whole day, better a week."
        yield f"The log covers {covers}: {more}"
    if writer is None:
        unknown = (
            "Which MPM wrote the log is not known, so whether it ran into its limit is not either"
        )
        yield f"{unknown}: give -f with the LoadModule of an MPM, or --status."
        return
    limit = writer.process_limit * writer.ThreadsPerChild
    full = [t for t, busy in enumerate(demand(trace, holds(writer))) if busy >= FULL * limit]
    if full:
        yield (
            f"The log ran into the limit: all {limit} workers were busy in {len(full):,} s, first at "
            f"{trace.clock(full[0])}. What waited is in the log with the time at which a worker read it, and "
            "clients that gave up are not in it. The demand was higher: take the numbers as the least, raise "
            "MaxRequestWorkers, log again, and ask again."
        )


def _growth_notes(load: Trace, growth: float) -> Iterator[str]:
    if growth != 1:
        how = "their copies come up to 1 s later (superposed)" if growth > 1 else "thinned evenly"
        yield f"Growth {growth:g}: that many times the connections, each whole; {how}."
    if growth > 1:
        usual, slow = max(demand(load, 0.0)), max(demand(load, 0.0, growth))
        longer = f"With a full processor they are longer: {growth:g} times as long"
        busy = f"requests would keep {slow} workers busy at the peak, not {usual}"
        yield f"Durations are the log's. {longer}, {busy}."


def _untimed(load: Trace) -> Iterator[str]:
    """What a log without durations can say."""
    rate = array("L", bytes(8 * (int(load.start[-1]) + 1)))
    for start in load.start:
        rate[int(start)] += 1
    peak = max(rate)
    none = "No request has a duration, so it is not known which workers are busy, and nothing is proposed."
    yield f"{none} Add to httpd.conf:{LOG_LINES}"
    yield (
        f"Meanwhile: {peak} requests in the busiest second ({load.clock(rate.index(peak))}), "
        f"{len(load) / max(1.0, load.span):.2f} per second on average. By Little's law each 100 ms that a "
        f"request takes on average keep {0.1 * peak:.1f} workers busy in such a second; under prefork and worker "
        "kept connections come on top."
    )
