"""What would the parent do? Idle maintenance in virtual time, without a server.

    run = simulate("event", busy=lambda t: 100 if t >= 3 else 0, seconds=12, ThreadsPerChild=25)
    print(run)
    run.to_frame().plot(x="t", y=["workers", "busy", "idle"])

The decisions are the real ones: those of policy/maintenance.py, which the parent of a running server asks, and
of policy/admission.py, which event's listener asks. Only the pool is a simple model: forks and requests take no
time, a worker serves one client. Under prefork and worker a parked client (it has had an answer and
stays connected) keeps a worker busy (K); under event it is a connection of some child, which takes it if
AsyncRequestWorkerFactor allows, and stops listening at that limit. The child that is retired is the one in the
highest slot: it takes no more work, and its parked clients return to the others. One pass is one second.

A run has the columns of a recording of a real server (`mpmkit.watch`) and a few more:

    frame = pandas.concat([run.to_frame().assign(who="simulated"),
                           mpmkit.watch(server, 12).to_frame().assign(who="measured")])
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, overload

from mpmkit.config.checks import check
from mpmkit.config.directives import Directives, Note
from mpmkit.config.extras import DataFrame, data_frame
from mpmkit.config.keywords import from_keywords
from mpmkit.policy.admission import connection_limit
from mpmkit.policy.maintenance import Memory, Plan, look, plan
from mpmkit.policy.states import Snapshot
from mpmkit.policy.trace_run import Child, TraceRun, rows
from mpmkit.policy.traffic import Traffic

Busy = Callable[[int], float] | Iterable[float] | float
Demand = Callable[[int], int]

# What a simulated run and a recorded one (`mpmkit.watch`) both have, in this order.
COLUMNS = ("t", "processes", "workers", "idle", "busy", "waiting", "parked")


class Second(NamedTuple):
    """One second of a run. Counts of processes, workers and clients, none of them negative."""

    t: int
    processes: int  # that exist after this second's pass; one that is leaving still counts
    workers: int
    idle: int  # what the pass found: workers without and with a client
    busy: int
    waiting: int  # clients that are not served
    parked: int  # clients that have had an answer and stay: under prefork and worker among `busy`
    spawned: int
    retired: int
    rate: int  # the spawn rate left for the next pass
    decision: str  # of maintenance.DECISIONS; "" at second 0, when the first are forked
    notes: tuple[Note, ...]


class Simulation(tuple[Second, ...]):
    """A run: a tuple of seconds, with the directives it was made under."""

    directives: Directives

    @property
    def mpm(self) -> str:
        return self.directives.mpm

    def column(self, name: str) -> list[Any]:
        """One quantity over time: `run.column("processes")` is `[1, 2, 4, 8, 16, 32, 64]`."""
        return [getattr(second, name) for second in self]

    @property
    def notes(self) -> tuple[tuple[int, Note], ...]:
        """What the error log would say, with the second in which it says it."""
        return tuple((second.t, note) for second in self for note in second.notes)

    def to_frame(self) -> DataFrame:
        """One row for each second, notes as text."""
        rows = [(*second[:-1], "; ".join(map(str, second.notes))) for second in self]
        return data_frame(rows, columns=Second._fields)

    def __str__(self) -> str:
        line = "{:>4} {:>9} {:>6} {:>6} {:>7}  {:<6} {:<9} {}".format
        lines = [line("t", "processes", "idle", "busy", "waiting", "", "decision", "")]
        for s in self:
            change = f"+{s.spawned}" if s.spawned else f"-{s.retired}" if s.retired else ""
            said = " ".join(note.ah for note in s.notes)
            lines.append(line(*s[:2], s.idle, s.busy, s.waiting, change, s.decision, said))
        return "\n".join(map(str.rstrip, lines))

    def __repr__(self) -> str:
        most = max(self.column("processes"))
        return f"<Simulation of {self.mpm}: {len(self) - 1} s, {most} processes at most>"


@overload
def simulate(
    mpm: str, directives: Directives | None = None, *, trace: None = None, **given: Any
) -> Simulation: ...
@overload
def simulate(
    mpm: str, directives: Directives | None = None, *, trace: Any, **given: Any
) -> TraceRun: ...
def simulate(
    mpm: str, directives: Directives | None = None, *, busy: Busy = 0, parked: Busy = 0, seconds: int = 10,
    leaving: int = 0, trace: Any = None, on_progress: Callable[[float], object] | None = None,
    restarts: Iterable[float] = (), **keywords: Any,
) -> Simulation | TraceRun:  # fmt: skip
    """Run idle maintenance for `seconds` passes and report second 0 and each pass; or run a trace.

    The directives are either ready-made or given by name, `simulate("prefork", StartServers=1)`,
    not both. `busy` is the number of workers that clients want: a number, a sequence with one number per
    second from 0 on (the last one persists), or a function of the second; rounded down. `parked`
    is the number of further clients that have had an answer and stay connected, in the same forms.
    `leaving` is how many passes still see a retired child; 0 if it is gone by the next.

    With `trace` (`mpmkit.Trace`: the requests of a log) the result is a TraceRun, see policy/traffic.py: in
    continuous time, with each request and connection; busy, parked, seconds and leaving are not used.
    `on_progress` is called now and then with the share done. `restarts`: seconds of graceful restarts
    with the same directives; an access log does not show those of its server.

    Raises ValueError for negative numbers, restarts after the trace, or directives given twice, DirectiveError
    (a ValueError) for invalid directives.
    """
    if seconds < 0 or leaving < 0:
        raise ValueError("seconds and leaving are 0 or more")
    if directives is None:
        directives, _ = check(mpm, from_keywords(mpm, **keywords))
    elif directives.mpm != mpm:
        raise ValueError(f"these directives are {directives.mpm}'s, not {mpm}'s")
    elif keywords:
        names = ", ".join(keywords)
        raise ValueError(f"directives are given twice, ready-made and by name ({names})")
    if trace is not None:
        return Traffic(directives, trace, restarts).run(on_progress)
    run = Simulation(_Pool(directives, leaving).seconds(_demand(busy), _demand(parked), seconds))
    run.directives = directives
    return run


def _demand(busy: Busy) -> Demand:
    """Every way to say how many workers are wanted, as whole workers at a second."""
    if callable(busy):
        return lambda t: int(busy(t))
    numbers = [int(number) for number in (busy if isinstance(busy, Iterable) else (busy,))]
    if not numbers:
        raise ValueError("busy is empty: it needs one number at least")
    return lambda t: numbers[min(t, len(numbers) - 1)]


class _Pool:
    """The children of the seconds model: how many workers have a client, and under event how many clients are
    parked (`connections`)."""

    def __init__(self, directives: Directives, leaving: int) -> None:
        self.d, self.leaving, self.threads = directives, leaving, directives.ThreadsPerChild
        self.slots: list[Child | None] = [None] * directives.ServerLimit

    def seconds(self, wanted: Demand, staying: Demand, last: int) -> Iterator[Second]:
        d, threads = self.d, self.threads
        decided = Plan("", Memory(), spawn=tuple(range(min(d.StartServers, d.process_limit))))
        for t in range(last + 1):
            if t:
                self.remove_dead()
                found = self.work(wanted(t), staying(t))
                board = Snapshot(d.ServerLimit, threads, 0, 0.0, rows(self.slots, threads))
                decided = plan(look(board, d, decided.memory), d, decided.memory)
            for slot in decided.spawn:
                self.slots[slot] = child = Child(slot, threads, self.leaving)
                child.listening = True
            if decided.retire:  # the highest slot that serves; its work is the others' now
                child = self.serving()[-1]
                child.quiescing, child.busy, child.idle = True, threads, 0
            if not t:
                found = self.work(wanted(t), staying(t))
            there, workers = sum(map(bool, self.slots)), len(self.serving()) * threads
            done = len(decided.spawn), decided.retire, decided.memory.idle_spawn_rate
            yield Second(t, there, workers, *found, *done, decided.decision, decided.notes)
            if decided.shutdown:
                break

    def serving(self) -> list[Child]:
        """The children that take clients, lowest slots first."""
        return [child for child in self.slots if child and not child.quiescing]

    def remove_dead(self) -> None:
        """Empty the slots of the children whose passes are over."""
        for child in [child for child in self.slots if child and child.quiescing]:
            if not child.left:
                self.slots[child.slot] = None
            child.left -= 1

    def work(self, wanted: int, parked: int) -> tuple[int, int, int, int]:
        """Give the clients to the workers, lowest slots first: (idle and busy workers, clients that
        wait, parked clients that are held)."""
        if wanted < 0 or parked < 0:
            raise ValueError(f"busy and parked can't be negative: {min(wanted, parked)}")
        # Under prefork and worker a client that stays connected takes a worker, after those that ask.
        event, children = self.d.mpm == "event", self.serving()
        capacity, left = len(children) * self.threads, wanted if event else wanted + parked
        served, busy = min(wanted, capacity), min(left, capacity)
        for child in children:
            child.busy = min(left, self.threads)
            child.idle, left = self.threads - child.busy, left - child.busy
        held = self._park(parked) if event else busy - served
        return capacity - busy, busy, wanted + parked - served - held, held

    def _park(self, wanted: int) -> int:
        """Event: let so many clients be parked, as far as the children take them; how many are held. Parked
        clients stay where they are. Newcomers go to the lowest child that may accept, and a child that has
        reached its limit stops listening: its idle threads don't count on the next look."""
        children = self.serving()
        held = sum(child.connections for child in children)
        for child in reversed(children):
            gone = min(child.connections, max(held - wanted, 0))
            child.connections -= gone
            held -= gone
        for child in children:
            limit = connection_limit(child.idle, self.threads, self.d.async_factor)
            room = limit - child.busy - child.connections
            more = max(0, min(room, wanted - held))
            child.connections, child.listening = child.connections + more, room > more
            held += more
        return held


def settled(d: Directives, busy: float) -> int:
    """The children with which maintenance is content while so many workers are busy, from StartServers on."""
    spare = d.MinSpareThreads if d.threaded else d.MinSpareServers
    return min(d.process_limit, max(d.StartServers, math.ceil((busy + spare) / d.ThreadsPerChild)))
