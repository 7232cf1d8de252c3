"""Which MPM, and which numbers? A log's requests under prefork, worker and event: as given, and as proposed.

    advice = advise({"event": directives, ...}, trace, costs, growth=1.5, ram="4GiB")
    for case in advice.cases: case.mpm, case.kind, case.run.peak_busy, case.memory, case.reasons

The numbers of a proposal follow from the demand: how many workers would be busy if no request had to wait. They
are raised as long as the simulation shows that they let clients wait (docs/ADVISE.md).
"""

import math
import statistics
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from random import Random
from typing import Any

from mpmkit.config.directives import Directives
from mpmkit.measure.parallel import Report, in_turn
from mpmkit.measure.sizing import Line, room_for
from mpmkit.measure.trace import Trace
from mpmkit.policy.simulator import settled
from mpmkit.policy.trace_run import TraceRun
from mpmkit.policy.traffic import Traffic, check_span

ATTEMPTS = 4  # simulations of a proposal
WARM_SECONDS = 60  # of the trace, by whose demand the first children are counted
COPY_SECONDS = 1.0  # copies of a connection come so much later, at most
LEAST_SPAN = 3600.0  # seconds of log, below which a note says what is missing
FULL = 0.95  # of the workers: a log with more busy ones ran into the limit
FEW_WAIT = 0.01  # of the requests, under a proposal that can be recommended
HEADROOM = 1.25  # MaxRequestWorkers over the peak of the demand
FORK_SECONDS = 2  # until idle maintenance has seen a rise, and a child is there
WAITING_SHARE = 0.001  # of the requests may wait under a proposal
MOST = 20_000  # workers of a proposal
FEWEST_PAUSES = 20  # on kept connections, for a KeepAliveTimeout to be proposed

LOG_LINES = r"""
    LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\" %D %X %k %{usec}t" trace
    CustomLog "logs/trace.log" trace"""


@dataclass(frozen=True)
class Cost:
    """Memory of a server in KiB."""

    workers: Line  # against the workers that there are, busy or not: children x ThreadsPerChild
    source: str  # where it was measured, for the reader
    kept: Line | None = None  # against kept connections, which event holds without a worker
    measured: bool = False  # whether it is the server that is asked about

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
    """What the trace meets under one MPM. kind: "given" or "proposed". reasons: why a directive has its value."""

    kind: str
    directives: Directives
    run: TraceRun
    cost: Cost
    reasons: Mapping[str, str]

    @property
    def mpm(self) -> str:
        return self.directives.mpm

    def _memory(self) -> Iterator[tuple[float, float, float]]:
        """`Cost.at` in each second."""
        workers = (n * self.directives.ThreadsPerChild for n in self.run.series["processes"])
        return map(self.cost.at, workers, self.run.series["kept"])

    @cached_property
    def memory(self) -> tuple[float, float, float]:
        """KiB in the second in which it is most (`Cost.at`)."""
        return max(self._memory(), key=itemgetter(1))

    def memory_over_time(self) -> list[float]:
        """KiB expected in each second of the run."""
        return [middle for _, middle, _ in self._memory()]


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


def holds(d: Directives) -> float:
    """Seconds for which a kept connection holds a worker."""
    return d.KeepAliveTimeout if d.KeepAlive and d.mpm != "event" else 0.0


def demand(trace: Trace, keep: float, factor: float = 1.0) -> array:
    """For each second the most workers that would be busy if no request had to wait. keep: seconds for which a
    kept connection holds a worker. factor: of the durations, which all requests must have."""
    following: dict[int, float] = {}
    ends = array("d")
    for i in range(len(trace) - 1, -1, -1):
        start, connection = trace.start[i], trace.connection[i]
        end = start + factor * trace.seconds[i]
        if keep and trace.kept[i]:
            end = max(end, min(following.get(connection, math.inf), end + keep))
        following[connection] = start
        ends.append(end if end > start else math.nextafter(start, math.inf))
    ordered, ended, found = sorted(ends), 0, array("L", [0])
    for begun, start in enumerate(trace.start):  # those that have ended began before
        while len(found) <= start:
            while ordered[ended] <= len(found):
                ended += 1
            found.append(begun - ended)
        while ordered[ended] <= start:
            ended += 1
        found[-1] = max(found[-1], begun + 1 - ended)
    return found


class Proposal:
    """Directives for a trace. reasons: name -> why it has that number. given: the present values, kept where
    there is no reason to change them. most: workers that fit in memory; why_most: for the reason."""

    def __init__(self, given: Directives, trace: Trace, most: int, why_most: str) -> None:
        self.given, self.threads, self.why_most = given, given.ThreadsPerChild, why_most
        self.kind = "Threads" if given.threaded else "Servers"
        self.reasons = why = dict[str, str]()
        self.keep = given.KeepAliveTimeout
        pauses = trace.think_times()
        if holds(given) and len(pauses) >= FEWEST_PAUSES:  # no longer than most clients need
            found = max(1, math.ceil(statistics.quantiles(pauses, n=20)[-1]))
            if found < self.keep:
                self.keep = float(found)
                come = f"95% of the next requests on a connection come within {found} s"
                why["KeepAliveTimeout"] = f"{come}, and each kept connection holds a worker"
        self.most = max(self.threads, min(most, MOST) // self.threads * self.threads)
        load = demand(trace, self.keep if holds(given) else 0.0)
        self.peak, self.mean = max(load), statistics.fmean(load)
        self.when = trace.clock(load.index(self.peak))
        self.rise = max(map(int.__sub__, load[FORK_SECONDS:], load), default=self.peak)
        self.wanted = self._whole(self.peak * HEADROOM, 2)
        self.spare = min(self._whole(self.rise), self.wanted)
        self.factor = given.AsyncRequestWorkerFactor
        if given.mpm == "event" and given.KeepAlive:
            # A factor that lets the pool hold all connections (policy/admission.py).
            most = max(demand(trace, self.keep))
            children = self._whole(min(self.peak + self.spare, self.most)) // self.threads
            needed = math.ceil((most * HEADROOM - children * self.threads) / self.spare)
            if needed > self.factor:
                self.factor = float(needed)
                free = f"{children} children with {self.spare} idle threads"
                why["AsyncRequestWorkerFactor"] = f"{most} connections at the peak, {free}"

    def _whole(self, workers: float, least: int = 1) -> int:
        """Rounded up to children."""
        return max(least, math.ceil(workers / self.threads)) * self.threads

    def raised(self, run: TraceRun) -> bool:
        """Raise what lets most clients wait. False: few wait, or nothing can be raised."""
        binds = {name: count for name, (_, count) in run.binds.items() if name != "ListenBacklog"}
        name = max(binds, key=binds.__getitem__, default="") if run.waited > WAITING_SHARE else ""
        if name == f"MinSpare{self.kind}" and self.spare < min(self.wanted, self.most):
            self.spare = min(self._whole(2 * self.spare), self.wanted)
        elif name == "AsyncRequestWorkerFactor":
            self.reasons[name] = f"with {self.factor:g} connections waited while threads were idle"
            self.factor *= 2
        elif name in ("MaxRequestWorkers", "ServerLimit") and self.wanted < self.most:
            self.wanted = self._whole(self.wanted * HEADROOM)
        else:
            return False
        return True

    def directives(self) -> Directives:
        """As they are now; fills `reasons`."""
        given, kind, threads = self.given, self.kind, self.threads
        workers = min(self.wanted, self.most)
        spare, children = min(self.spare, workers), workers // threads
        finishing = math.ceil(children / 4) if given.mpm == "event" else 0
        start = min(children, math.ceil((self.mean + min(spare, self.rise)) / threads))
        rise = f"busy workers rise by up to {self.rise} in the {FORK_SECONDS} s that a fork takes"
        rise += f"; with fewer than {spare}, too many wait" * (spare > self._whole(self.rise))
        limit = "MaxRequestWorkers" + " / ThreadsPerChild" * given.threaded
        limit += ", plus a quarter for processes that finish gracefully" * bool(finishing)
        twice = "twice the minimum, so children do not keep ending and starting"
        more = "plus a quarter" if workers == self.wanted else f"but {self.why_most}"
        table: dict[str, tuple[Any, str]] = {
            "StartServers": (max(1, start), f"{self.mean:.0f} busy on average, plus spares"),
            f"MinSpare{kind}": (spare, rise), f"MaxSpare{kind}": (max(2 * spare, spare + threads + 1), twice),
            "ServerLimit": (children + finishing, limit),
            "MaxRequestWorkers": (workers, f"{self.peak} busy at the peak ({self.when}), {more}"),
        }  # fmt: skip
        table |= {"ThreadsPerChild": (threads, "unchanged")} if given.threaded else {}
        self.reasons |= {name: why for name, (_, why) in table.items()}
        d = replace(given, AsyncRequestWorkerFactor=self.factor, KeepAliveTimeout=self.keep)
        return replace(d, **{name: value for name, (value, _) in table.items()})


def advise(
    given: Mapping[str, Directives], trace: Trace, costs: Mapping[str, Cost], *, growth: float = 1.0,
    ram: str | int = 0, writer: str = "", on_progress: Report = lambda share, text: None,
    calls: Callable[..., list[Any]] = in_turn,
) -> Advice:  # fmt: skip
    """The trace under each MPM of `given`, with those directives and with proposed ones. costs: memory, for
    each MPM. growth: of the number of connections, up to 1000. ram: of the machine, bytes or "4GiB"; a fifth of
    it and at least 256 MiB are kept back. writer: the MPM that wrote the log ("": not known). on_progress:
    called with the share that is done, and what is simulated. calls: `parallel.in_turn`, or
    `parallel.in_processes` for one process a processor. Without durations the advice has no cases, and its
    notes say what to log and what can be said meanwhile. Raises ValueError for an empty trace, one that lacks
    some durations, a growth or a size that can't be."""
    if not 0 < growth <= 1000:
        raise ValueError(f"growth: must be more than 0 and at most 1000, not {growth!r}")
    total, kept_back = room_for(ram) if ram else (0, 0)
    room = total - kept_back
    check_span(trace := trace.complete())
    load = grown(trace, growth)
    if not len(load):
        raise ValueError(f"trace: no request is left at growth {growth:g}, of {len(trace):,}")
    if not trace.timed:
        return Advice(load, growth, (*trace.notes, *_untimed(load)), (), total, room)
    notes = (*trace.notes, *_notes(trace, given.get(writer), load, growth))
    kinds = ("given", "proposed")
    jobs = [(kind, d, costs[mpm], room) for mpm, d in given.items() for kind in kinds]
    return Advice(load, growth, notes, tuple(calls(_case, load, jobs, on_progress)), total, room)


def _case(load: Trace, job: tuple[str, Directives, Cost, int], report: Report) -> Case:
    """What the trace meets. A proposal is raised as long as its simulation shows that it lets clients wait."""
    kind, d, cost, room = job
    begin = load.of(range(min(len(load), bisect_left(load.start, WARM_SECONDS) + 1)))
    proposal = Proposal(d, load, *cost.fitting(room)) if kind == "proposed" else None
    attempts = ATTEMPTS if proposal else 1
    for attempt in range(1, attempts + 1):
        d = proposal.directives() if proposal else d
        what = f"{d.mpm} as {kind}" + f", attempt {attempt}" * bool(proposal)

        def progress(share: float, done: int = attempt - 1, what: str = what) -> None:
            report((done + share) / attempts, what)

        progress(0.0)
        # With the children that idle maintenance has for that demand: a log usually begins on a running server.
        busy = statistics.fmean(demand(begin, holds(d))[:WARM_SECONDS])
        run = Traffic(replace(d, StartServers=settled(d, busy)), load).run(progress)
        if proposal is None or attempt == attempts or not proposal.raised(run):
            break
    return Case(kind, d, run, cost, proposal.reasons if proposal else {})


def _notes(trace: Trace, writer: Directives | None, load: Trace, growth: float) -> Iterator[str]:
    """What the log does not show, and what growth assumes."""
    if trace.span < LEAST_SPAN:
        covers = f"{trace.span:.0f} s" if trace.span < 120 else f"{trace.span / 60:.0f} minutes"
        more = "hours in which more happens are not in it. Give a whole day, better a week."
        yield f"The log covers {covers}: {more}"
    if writer is None:
        unknown = "Which MPM wrote the log is not known, so whether it ran into its limit is not"
        yield f"{unknown} either: give -f with the LoadModule of an MPM, or --status."
    else:
        limit = writer.process_limit * writer.ThreadsPerChild
        workers = enumerate(demand(trace, holds(writer)))
        if full := [t for t, busy in workers if busy >= FULL * limit]:
            yield (
                f"The log ran into the limit: all {limit} workers were busy in {len(full):,} s, first at "
                f"{trace.clock(full[0])}. What waited is in the log with the time at which a worker read it, "
                "and clients that gave up are not in it. The demand was higher: take the numbers as the least, "
                "raise MaxRequestWorkers, log again, and ask again."
            )
    if growth != 1:
        how = "their copies come up to 1 s later (superposed)" if growth > 1 else "thinned evenly"
        yield f"Growth {growth:g}: that many times the connections, each whole; {how}."
    if growth > 1:
        usual, slow = max(demand(load, 0.0)), max(demand(load, 0.0, growth))
        longer = f"With a full processor they are longer: {growth:g} times as long, requests would"
        yield f"Durations are the log's. {longer} keep {slow} workers busy at the peak, not {usual}."


def _untimed(load: Trace) -> Iterator[str]:
    """What a log without durations can say."""
    second, peak = Counter(map(int, load.start)).most_common(1)[0]
    none = "No request has a duration, so it is not known which workers are busy, and nothing is proposed."
    yield f"{none} Add to httpd.conf:{LOG_LINES}"
    yield (
        f"Meanwhile: {peak} requests in the busiest second ({load.clock(second)}), "
        f"{len(load) / max(1.0, load.span):.2f} per second on average. By Little's law each 100 ms that a "
        f"request takes on average keep {0.1 * peak:.1f} workers busy in such a second; under prefork and worker "
        "kept connections come on top."
    )
