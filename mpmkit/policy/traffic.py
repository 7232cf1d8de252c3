"""A trace through an MPM: discrete events in continuous time, over the same policy as the servers'.

    run = mpmkit.simulate("event", trace=trace, MaxRequestWorkers=150)
    run.peak_busy, run.waited, run.series["processes"], run.binds

A request arrives, waits for a worker if none is idle, holds it for the logged duration, and its connection
is kept or not. Once a second `maintenance.look` and `plan` decide about children, as in a running server.

* A connection's first request arrives at the logged time. Each further one follows the previous answer after the
  logged pause. So a wait here delays the requests that follow.
* A kept connection holds its worker under prefork and worker. Under event it is parked, as far as
  AsyncRequestWorkerFactor allows. A child closes all its parked connections when one of them has news, or a
  new one comes, and none of its threads is idle; their clients connect again (httpd 2.4, workers_were_busy).
* After the last logged request of a connection, its client is assumed to stay: the connection ends by
  KeepAliveTimeout. A log does not show when the client left, so this is the pessimistic assumption.
* If ListenBacklog is full a client tries again after 1, 2, 4 ... s, six times, like TCP.

Idle children take connections in turn. A retired child finishes its requests; under prefork an idle one is
retired, else the oldest. A graceful restart retires all. Those without work end at once and are replaced, up to
StartServers; a second later the parent starts the missing ones in slots that were free; after another second
it looks again, and ten forking passes do not double. The model leaves out the duration of a fork and the fact
that requests slow one another down.
"""

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import accumulate
from typing import Any

from mpmkit.config.directives import Directives
from mpmkit.policy.admission import connections_above_limit
from mpmkit.policy.maintenance import ENOUGH, TOO_MANY, WAIT, Memory, Seen, look, plan
from mpmkit.policy.states import Snapshot
from mpmkit.policy.trace_run import SERIES, Child, TraceRun, rows

END, NEXT, TIMEOUT, ARRIVAL, RESTART = range(5)  # the kinds of events
RETRIES = 6  # tcp_syn_retries
PATIENCE = 3600  # passes without an event, after which a queue that does not move ends the run
LONGEST = 100 * 86_400.0  # seconds of a trace: each has a pass of idle maintenance
Event = tuple[float, int, int, Child | None]  # time, kind, request, child


def check_span(trace: Any) -> None:
    """Raise ValueError for a trace of more than 100 days: in one line the clock was wrong, most likely."""
    if len(trace.start) and trace.start[-1] > LONGEST:
        far = f"its requests are {trace.start[-1] / 86_400:,.0f} days apart, 100 at most can be simulated"
        raise ValueError(f"trace: {far}; leave out lines of a wrong clock, or give fewer files")


class Traffic:
    """One run of a trace (`mpmkit.Trace`, or anything with its columns) under the directives. restarts: seconds
    of graceful restarts (USR1). Raises ValueError for a trace without requests or without the duration of each,
    or of over 100 days, and for restarts after it."""

    def __init__(self, directives: Directives, trace: Any, restarts: Iterable[float] = ()) -> None:
        check_span(trace)
        count, moments = len(trace.start), sorted(restarts)
        last = trace.start[-1] if count else 0.0
        if moments and not 0 <= moments[0] <= moments[-1] <= last:
            raise ValueError(f"restarts: must be seconds from 0 to {last:g}, the last request's")
        if not count:
            raise ValueError("trace: has no requests")
        if missing := sum(map(math.isnan, trace.seconds)):
            lacking = f"{missing:,} of {count:,} have no duration"
            raise ValueError(f"trace: {lacking}: add %D to LogFormat")
        d = self.d = directives
        self.threads = d.ThreadsPerChild
        self.parks = d.mpm == "event"
        self.timeout = d.KeepAliveTimeout if d.KeepAlive else 0.0
        self.most_kept = d.MaxKeepAliveRequests or math.inf  # N lets N + 1 requests through
        self.trace, self.seconds = trace, trace.seconds
        self._join(count)
        self.waits = array("d", bytes(8 * count))
        self.number = array("I", bytes(4 * count))  # how many came before it on its connection
        # Requests that wait to be accepted: when they came, and how often ListenBacklog was full.
        self.waiting: dict[int, tuple[float, int]] = {}
        self.heap: list[Event] = [(second, RESTART, 0, None) for second in moments]
        self.queue: deque[int] = deque()
        self.slots: list[Child | None] = [None] * d.ServerLimit
        self.children: dict[Child, None] = {}  # the oldest first
        self.listeners: deque[Child] = deque()
        self.memory, self.settled = Memory(), False
        self.to_start, self.restarted = 0, -1.0  # children that a graceful restart is to start
        self.held: set[int] = set()  # slots that its parent does not see as free yet
        self.busy = self.kept = self.most = self.longest = 0
        self.last = self.kept_time = 0.0
        self.busy_time: list[float] = [0.0]
        self.out = TraceRun(d, self.waits, series={name: array("d") for name in SERIES})

    def _join(self, count: int) -> None:
        """after: request -> the next one of its connection, or -1; think: seconds before each; first:
        those that a connection begins with."""
        start, before = self.trace.start, dict[int, int]()
        self.after, self.think = array("q", [-1]) * count, array("d", bytes(8 * count))
        self.first = array("q")
        for i, connection in enumerate(self.trace.connection):
            if (j := before.get(connection, -1)) < 0:
                self.first.append(i)
            else:
                self.after[j] = i
                self.think[i] = max(0.0, start[i] - start[j] - self.seconds[j])
            before[connection] = i

    def run(self, on_progress: Callable[[float], object] | None = None) -> TraceRun:
        """on_progress is called now and then with the share that is done."""
        heap, first, start = self.heap, self.first, self.trace.start
        handle = (self.end, self.next, self.over, self.arrive, self.restart)
        for slot in range(min(self.d.StartServers, self.d.process_limit)):
            self.fork(0.0, slot)
        self.out.forks = 0
        self.sample(0.0)
        tick, at, count, still = 1.0, 0, len(first), 0
        due = start[first[0]]
        while True:
            now = heap[0][0] if heap else math.inf
            if tick <= now and tick <= due:
                if tick < self.restarted + 1.0:  # the parent's second begins again
                    tick = self.restarted + 1.0
                    continue
                if now == due == math.inf and (not self.queue or still > PATIENCE):
                    break
                still += 1
                self.maintain(tick)
                if on_progress is not None and not int(tick) & 255:
                    on_progress(at / count)
                tick += 1.0
                continue
            still = 0
            if due <= now:
                self.arrive(due, first[at], None)
                at += 1
                due = start[first[at]] if at < count else math.inf
            else:
                now, kind, i, child = heappop(heap)
                handle[kind](now, i, child)
        self.sample(self.last)
        for i in self.queue:
            self.waits[i] = math.inf
        out, spent = self.out, self.busy_time
        reached = list(accumulate(spent))  # seconds for which so many workers were busy, or fewer
        out.seconds, out.peak_busy = self.last, len(spent) - 1
        if total := reached[-1]:
            out.mean_busy = sum(n * seconds for n, seconds in enumerate(spent)) / total
            out.mean_kept = self.kept_time / total
            out.busy_p99 = bisect_left(reached, 0.99 * total)
        return out

    def count(self, now: float, busy: int, kept: int = 0) -> None:
        """So many more are busy or kept from now on; add up how long they were as many as before."""
        spent = now - self.last
        self.busy_time[self.busy] += spent
        self.kept_time += spent * self.kept
        self.last = now
        self.kept += kept
        self.busy += busy
        if self.busy > self.most:
            self.most = self.busy
            if self.busy >= len(self.busy_time):
                self.busy_time.append(0.0)

    def arrive(self, now: float, i: int, _: Child | None) -> None:
        """A client connects, and sends request i."""
        child = self.listener(now)
        if child is not None and not self.queue:
            self.open(now, i, child)
            return
        if i not in self.waiting:
            self.out.bind(self.cause(), now)
        came, tries = self.waiting.get(i, (now, 0))
        if len(self.queue) > self.d.ListenBacklog:  # the kernel holds one more than that
            self.out.overflow += 1
            self.out.bind("ListenBacklog", now)
            if tries < RETRIES:
                heappush(self.heap, (now + 2.0**tries, ARRIVAL, i, None))
            else:
                self.waits[i] = math.inf
            tries += 1
        else:
            self.queue.append(i)
            self.longest = max(self.longest, len(self.queue))
        self.waiting[i] = came, tries

    def cause(self) -> str:
        """The directive that lets a client wait."""
        d, serving = self.d, [child for child in self.children if not child.quiescing]
        if any(child.idle > 0 for child in serving):
            return "AsyncRequestWorkerFactor"
        if len(serving) >= d.MaxRequestWorkers // d.ThreadsPerChild:
            return "MaxRequestWorkers"
        if len(serving) >= d.process_limit or not self.free():
            # event alone has slots beyond its workers
            return "ServerLimit" if self.parks else "MaxRequestWorkers"
        return "MinSpareThreads" if d.threaded else "MinSpareServers"

    def open(self, now: float, i: int, child: Child) -> None:
        """A child takes a new connection with its first request."""
        if waited := self.waiting.pop(i, None):
            self.waits[i] = now - waited[0]
        child.connections += 1
        child.left -= 1
        self.work(now, i, child)
        if not child.left:
            self.leave(now, child)

    def work(self, now: float, i: int, child: Child) -> None:
        """An idle thread of the child begins with request i."""
        self.settled = False
        child.idle -= 1
        child.busy += 1
        self.count(now, 1)
        heappush(self.heap, (now + self.seconds[i], END, i, child))

    def end(self, now: float, i: int, child: Any) -> None:
        """Request i is answered. Its connection is kept or closed; what comes next is due."""
        j, number = self.after[i], self.number[i]
        gap = self.think[j] if j >= 0 else math.inf
        stays = self.timeout and self.trace.kept[i] and number < self.most_kept
        key = -1
        if stays and not child.quiescing:
            if gap <= self.timeout:
                self.number[j] = number + 1
                key, event = j, (now + gap, NEXT, j, child)
            else:
                key, event = ~i, (now + self.timeout, TIMEOUT, ~i, child)
            heappush(self.heap, event)
            self.count(now, 0, 1)
            if self.parks:
                child.parked.add(key)
                self.release(now, child)
        else:
            child.connections -= 1
            self.release(now, child)
        if j >= 0 and key != j:
            heappush(self.heap, (now + gap, ARRIVAL, j, None))

    def next(self, now: float, i: int, child: Any) -> None:
        """Request i comes on a connection that was kept."""
        if not self.parks:
            self.count(now, 0, -1)
            heappush(self.heap, (now + self.seconds[i], END, i, child))
        elif i in child.parked and child.idle:
            child.parked.remove(i)
            self.count(now, 0, -1)
            self.work(now, i, child)
        else:
            if i in child.parked:
                self.close_parked(now, child)
            self.number[i] = 0
            self.arrive(now, i, None)

    def over(self, now: float, i: int, child: Any) -> None:
        """KeepAliveTimeout."""
        if self.parks and i not in child.parked:
            return
        child.parked.discard(i)
        child.connections -= 1
        self.count(now, 0, -1)
        (self.take if self.parks else self.release)(now, child)

    def release(self, now: float, child: Child) -> None:
        """A thread has ended its work."""
        self.settled = False
        child.busy -= 1
        self.count(now, -1)
        goes_on = child.heir if child.quiescing else child
        if goes_on is not None and goes_on.slot >= 0:
            goes_on.idle += 1
            self.take(now, goes_on)
        if child is not goes_on and not child.busy:
            self.gone(now, child)

    def take(self, now: float, child: Child) -> None:
        """A child has room, perhaps: it takes from the listen queue, and listens."""
        while (fits := self.accepts(child)) and self.queue:
            if self.parks:
                self.listen(child)
            self.open(now, self.queue.popleft(), child)
        if fits:
            self.listen(child)
        elif self.parks and self.queue and child.listening:
            self.listeners.remove(child)
            self.stop_listening(now, child)

    def listen(self, child: Child) -> None:
        if not child.listening:
            child.listening, self.settled = True, False
            self.listeners.append(child)

    def stop_listening(self, now: float, child: Child) -> None:
        """A new connection found that it can't be taken. If no thread is idle, event closes the parked ones."""
        child.listening = self.settled = False
        if child.parked and child.idle <= 0:
            self.close_parked(now, child)

    def accepts(self, child: Child) -> bool:
        if child.idle <= 0 or child.quiescing:
            return False
        if not self.parks:
            return True
        of_child = child.idle, child.connections, 0, self.threads, self.d.async_factor
        return not connections_above_limit(*of_child, not child.listening)

    def listener(self, now: float) -> Child | None:
        """The child that takes the next connection. One that can't stops listening."""
        while self.listeners:
            child = self.listeners.popleft()
            if self.accepts(child):
                self.listeners.append(child)
                return child
            self.stop_listening(now, child)
        return None

    def fork(self, now: float, slot: int) -> None:
        old, threads = self.slots[slot], self.threads
        child = Child(slot, threads - (old.busy if old else 0), self.d.MaxConnectionsPerChild or -1)
        if old is not None:
            old.heir = child
        self.slots[slot] = child
        self.children[child] = None
        self.out.forks += 1
        self.take(now, child)

    def leave(self, now: float, child: Child) -> None:
        """The child takes no more connections; it ends with its last request."""
        child.quiescing, child.idle = True, 0
        self.settled = False
        self.close_parked(now, child)
        if not child.busy:
            self.gone(now, child)

    def close_parked(self, now: float, child: Child) -> None:
        closed = len(child.parked)
        child.parked.clear()
        child.connections -= closed
        self.count(now, 0, -closed)

    def gone(self, now: float, child: Child) -> None:
        slot, child.slot = child.slot, -1
        if self.slots[slot] is child:
            self.slots[slot] = None
        del self.children[child]
        self.out.ends += 1
        if self.to_start and now == self.restarted and slot in self.free():
            self.to_start -= 1
            self.fork(now, slot)

    def free(self) -> list[int]:
        """Slots for the children of a new generation."""
        most = self.d.ServerLimit if self.parks else self.d.process_limit
        return [slot for slot, one in enumerate(self.slots[:most]) if one is None]

    def restart(self, now: float, i: int, _: Child | None) -> None:
        """USR1: the old generation finishes, another takes its slots."""
        self.to_start = min(self.d.StartServers, self.d.process_limit)
        self.memory, self.settled = self.memory.after_graceful_restart(), False
        self.restarted, old = now, [one for one in self.children if not one.quiescing]
        for child in old:
            self.leave(now, child)
        self.held = {child.slot for child in old}

    def maintain(self, now: float) -> None:
        """The parent's pass. If nothing has changed since one that changed nothing, nor would this."""
        d, memory, threads = self.d, self.memory, self.threads
        if self.to_start:
            for slot in [one for one in self.free() if one not in self.held][: self.to_start]:
                self.fork(now, slot)
            self.to_start = 0
        elif not self.settled:
            serving = [child for child in self.children if not child.quiescing]
            idle = sum(threads - child.busy for child in serving if child.listening)
            # Slots count only where workers are too few, and a `look` at them all takes long.
            decided = plan(Seen(idle, 0, len(self.children), len(serving)), d, memory)
            if decided.decision not in (ENOUGH, TOO_MANY, WAIT):
                used = max((child.slot for child in self.children), default=-1) + 1
                shown = self.slots[: used + memory.idle_spawn_rate]  # no pass fills more
                board = Snapshot(d.ServerLimit, threads, 0, 0.0, rows(shown, threads))
                decided = plan(look(board, d, memory), d, memory)
            self.settled = not decided.spawn and not decided.retire and decided.memory == memory
            self.memory = decided.memory
            for slot in decided.spawn:
                self.fork(now, slot)
            among = (self.children if threads > 1 else self.listeners) if decided.retire else ()
            able = (one for one in among if not one.quiescing and (threads > 1 or one.idle))
            if (child := next(able, None)) is not None:
                self.leave(now, child)
        self.sample(now)

    def sample(self, now: float) -> None:
        found = (now, len(self.children), self.most, self.kept, self.longest)
        for column, value in zip(self.out.series.values(), found, strict=True):
            column.append(value)
        self.most, self.longest = self.busy, len(self.queue)
