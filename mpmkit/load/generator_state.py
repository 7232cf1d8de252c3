"""What a generator process shares between its users and its monitor: the requests, how many are done, and how
it ends (`State`); and the times at which the open loop's requests are due (`Schedule`).

Four times a second the monitor reports new results (`result.py`), and adds them to Locust's statistics as if by
events.request.fire, which costs more than the request; it is fired for failures only.

Imported by the locustfile alone: locust and gevent belong in no other process.
"""

import _socket  # the C type itself: locust's monkey-patching replaces socket.socket, not this
import bisect
import contextlib
import ctypes
import itertools
import logging
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

import gevent
from gevent import get_hub
from locust import __version__ as locust_version
from locust import events
from locust.exception import CatchResponseError
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import StatsEntry

from mpmkit.load import preflight
from mpmkit.load.histogram import pack
from mpmkit.load.profile import MAX_REQUESTS, LoadProfile, RequestSpec, arrivals
from mpmkit.load.response import Verdict
from mpmkit.measure.procfs import text_of

log = logging.getLogger("mpmkit.load")
clock = time.perf_counter_ns

TICK = 0.25  # seconds between two reports
LATE_NS = 1_000_000  # from due to sent: what is later counts as late
NEVER = 1 << 62
READ, WRITE = 1, 2  # what gevent's loop.io watches for
TFD_TIMER_ABSTIME = 1

Waiter = Any  # a user's Client, whose file imports this one
# A request of a plan: (due, ns from the answer before it, line of the mix, whether it closes).
Planned = tuple[int, int, int, bool]
Due = tuple[int, deque[Planned]]  # a due time, and what a plan has on its connection
REPORTED = ("started_at", "late", "retries", "reconnects", "connections", "ended")


class Schedule:
    """The due times of the open loop in this process, in ns of the clock, one after the other.

    Users wait for a timer of the kernel's, a file descriptor that is readable within microseconds: gevent's own
    end with a whole millisecond of epoll, longer than a request takes. The standard library has it from Python
    3.13 on; until then it comes from libc. Raises OSError without one.
    """

    def __init__(self, profile: LoadProfile, index: int, of: int) -> None:
        self.origin = clock() + int(profile.warmup_seconds * 1e9)
        none, times = deque[Planned](), arrivals(profile, index, of)
        alone = ((self.origin + int(s * 1e9), none) for s in times)
        self._coming = self._plan(profile, index, of) if profile.plan else alone
        self._next = next(self._coming)
        self._libc = ctypes.CDLL(None, use_errno=True)
        # The clock of time.perf_counter_ns() on Linux.
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._when = (ctypes.c_long * 4)()  # an interval, and a time: s, ns
        self._watcher = get_hub().loop.io(self._timer, READ)
        self._watcher.start(self._fire)
        self._waiting: list[tuple[int, int, Waiter]] = []  # a heap

    def _plan(self, profile: LoadProfile, index: int, of: int) -> Iterator[Due]:
        """A file's connections, every of-th; then none for as long as a run may be."""
        assert profile.plan is not None
        until = profile.planned_seconds or float("inf")
        with open(profile.plan, encoding="ascii") as file:
            for text in itertools.islice(file, index, None, of):
                words = text.removesuffix(" close\n").split()
                rows = [[*map(float, word.split(",")), 0.0][:3] for word in words]
                last = len(words) if text.endswith(" close\n") else 0
                planned = deque(
                    (self.origin + int(due * 1e9), int(pause * 1e9), int(line) - 1, place == last)
                    for place, (due, line, pause) in enumerate(rows, 1)
                    if due < until
                )
                yield self.origin + int(rows[0][0] * 1e9), planned
        yield from itertools.repeat((NEVER, deque()))

    def take(self) -> Due:
        """The next one; the caller owns it."""
        found, self._next = self._next, next(self._coming)
        return found

    def left_until(self, ns: int, users: Iterable[Waiter]) -> int:
        """How many are due before `ns` and were not sent; those that no user has taken are taken."""
        taken = [client.rest for client in users]
        count = 0
        while self._next[0] < ns:
            count += not (rest := self.take()[1])
            taken.append(rest)
        return count + sum(due < ns for rest in taken for due, *_ in rest)

    def wait(self, due: int, client: Waiter) -> None:
        """Come back at the due time."""
        heappush(self._waiting, (due, id(client), client))
        if self._waiting[0][2] is client:
            self._set_timer(due)
        client.due = NEVER
        client.quiet()
        client.called = False
        while not client.called:
            client.wait()

    def _fire(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._timer, 8)
        waiting, soon = self._waiting, clock() + 20_000
        while waiting and waiting[0][0] <= soon:
            client = heappop(waiting)[2]
            client.called = True
            client.wake()
        if waiting:
            self._set_timer(waiting[0][0])

    def _set_timer(self, ns: int) -> None:
        """Fire once, when time.perf_counter_ns() has come to `ns`; at once if that is past."""
        self._when[2], self._when[3] = divmod(max(1, ns), 1_000_000_000)
        self._libc.timerfd_settime(self._timer, TFD_TIMER_ABSTIME, self._when, None)

    def close(self) -> None:
        self._watcher.close()
        os.close(self._timer)


class State:
    """What one generator process shares in a test. send: where its reports go. Raises ValueError, OSError."""

    body_bytes = 0  # since the last report
    # Since the measured part began:
    late = connections = 0
    reconnects = 0  # the server ended a kept connection and said so
    retries = 0  # it ended one while a request was on its way: sent again, once
    started_ns = 0  # of the first measured request; 0 until then
    started_at = 0.0
    last_end = 0
    used = (0.0, 0.0, 0.0)  # as `self_used` had it
    shares: tuple[float, float] | None = None  # of the time, once it ended
    # The requests that it may still send:
    left = 0  # measured ones; 0 during the warm-up
    measuring = exhausted = False
    warm_until = 0
    # How far it is:
    schedule: Schedule | None = None
    over = False  # open loop: nothing more is due before the end
    deadline = NEVER
    begun_ns = 0  # of the first request of all, warm-up included
    refused_since = 0  # connections that failed since the last answer
    last_answer = 0
    source = 0  # the loopback address that connections go out from

    def __init__(
        self, environment: Any, profile: LoadProfile, send: Callable[[dict[str, Any]], None]
    ) -> None:
        target = preflight.target_of(environment.host or "")
        self.environment, self.profile, self.send, self.ended = environment, profile, send, ""
        self.specs = profile.specs
        self.latencies: list[list[int]] = [[] for _ in self.specs]  # since the last report
        self.lags: list[int] = []  # open loop: from due to sent
        self.failures: Counter[str] = Counter()
        self.users: set[Waiter] = set()  # inside their loop
        found = _socket.getaddrinfo(target.host, target.port, 0, _socket.SOCK_STREAM)[0]
        self.family, address = found[0], found[4]
        self.kind = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK
        self.host, self.tls = target.host, None
        if target.scheme == "https":
            self.tls = preflight.tls_context(profile.ca_file, target.loopback)
        spread = target.loopback and self.family == _socket.AF_INET
        self.sources = preflight.LOOPBACK_SOURCES if spread else 0
        places = [target._replace(port=spec.port or target.port) for spec in self.specs]
        self.addresses = [(address[0], place.port, *address[2:]) for place in places]
        self.memos: list[dict[bytes, Verdict]] = [{} for _ in self.specs]
        # For each line of the mix: on a connection of its own, on a kept one, the last on it.
        ways = ((False, False), (True, False), (True, True))
        self.requests = [
            tuple(profile.request_bytes(place.place, spec, *way) for way in ways)
            for spec, place in zip(self.specs, places, strict=True)
        ]
        self.random = random.Random(f"{profile.seed} {os.getpid()}")
        self.weights = list(itertools.accumulate(spec.weight for spec in self.specs))
        self.timeout_ns = int(profile.timeout * 1e9)
        self.stage_ends = list(itertools.accumulate(stage.seconds for stage in profile.stages))
        files = profile.users + preflight.OWN_FILES
        if short := preflight.too_few_descriptors(files):
            raise ValueError(f"users: {short}")
        preflight.raise_descriptors(files)
        # This process's part of the requests and of the schedule.
        runner, (index, of) = environment.runner, (0, 1)
        if isinstance(runner, WorkerRunner):
            index = runner.worker_index
            of = max(1, environment.parsed_options.expect_workers or profile.processes)
        total = profile.requests or MAX_REQUESTS
        self.share = total // of + (index < total % of)  # exact without a message between processes
        if profile.open_loop and not isinstance(runner, MasterRunner):
            self.schedule = Schedule(profile, index, of)
            if profile.planned_seconds is not None:
                self.deadline = self.schedule.origin + int(profile.planned_seconds * 1e9)

    def claim(self, since: int = 0) -> bool:
        """One measured request, or False. The first ends the warm-up: what was due `since` (now) counts."""
        if not self.measuring:
            self.measuring, self.left = True, self.share
            if self.share:
                now = self.last_answer = self.last_end = clock()
                self.started_ns = since or now
                self.started_at = time.time() - (now - self.started_ns) / 1e9
                self.used = self_used()
                if self.profile.planned_seconds is not None:
                    self.deadline = self.started_ns + int(self.profile.planned_seconds * 1e9)
        self.exhausted = not self.left
        self.left -= not self.exhausted
        return not self.exhausted

    def more(self) -> bool:
        """One more request of the closed loop, of the warm-up while it lasts."""
        if not self.measuring:
            self.warm_until = self.warm_until or clock() + int(self.profile.warmup_seconds * 1e9)
            if clock() < self.warm_until:
                return True
        return self.claim()

    def line_at(self, due: int) -> int:
        """The line of the mix, from 0, that a request of this time is of: of its stage, or drawn."""
        if self.stage_ends and self.schedule is not None:
            stage = bisect.bisect(self.stage_ends, (due - self.schedule.origin) / 1e9)
            if line := self.profile.stages[min(stage, len(self.stage_ends) - 1)].line:
                return line - 1
        return bisect.bisect(self.weights, self.random.random() * self.weights[-1])

    def fail(self, kind: str, t0: int, which: int) -> None:
        self.failures[kind] += 1
        spec, ms = self.specs[which], (clock() - t0) / 1e6
        events.request.fire(
            request_type=spec.method, name=spec.name, context={}, response_time=ms, response_length=0,
            exception=CatchResponseError(kind),
        )  # fmt: skip

    def finish(self, why: str) -> None:
        """The run is over in this process: the last report, then Locust's own end."""
        if not self.ended:
            self.finish_accounting(why)
            gevent.spawn(self._finish)

    def _finish(self) -> None:
        self.report()
        runner = self.environment.runner
        if not isinstance(runner, WorkerRunner):  # which its master ends
            runner.quit() if self.environment.parsed_options.headless else runner.stop()

    def finish_accounting(self, why: str) -> None:
        """Nothing counts from here on. What was due and never sent counts as failed."""
        self.ended = why
        self.shares = self._shares()
        if self.schedule is not None and self.started_ns:
            until = min(self.deadline, clock())
            if unsent := min(self.left, self.schedule.left_until(until, self.users)):
                self.left -= unsent
                self.failures["unsent"] += unsent
                self.last_end = max(self.last_end, until)

    def _shares(self) -> tuple[float, float]:
        """Shares of the time, since the measured part began, that this process ran and waited."""
        cpu, wait, passed = (now - then for now, then in zip(self_used(), self.used, strict=True))
        return min(1.0, cpu / passed), min(1.0, wait / passed)

    def monitor(self) -> None:
        """Looks for overdue requests, reports, and sees to it that the run ends."""
        profile, next_report = self.profile, 0
        tick = min(TICK, max(0.01, profile.timeout / 20))
        limit_ns = int(profile.time_limit * 1e9)
        while not self.ended:
            gevent.sleep(tick)
            now = clock()
            for client in self.users:
                if client.waiting and now >= client.due:
                    client.loop.run_callback(client.expire)
            if self.begun_ns and now - self.begun_ns > limit_ns:
                self.finish(f"time limit of {profile.time_limit:g} s")
            refused, silent = self.refused_since, now - max(self.last_answer, self.begun_ns)
            if refused > max(50, 2 * len(self.users)) and silent > 1_000_000_000:
                self.finish(f"gave up: no connection to the server for 1 s ({refused} attempts)")
            if now >= next_report and not self.ended:
                next_report = now + int(TICK * 1e9)
                self.report()

    def report(self) -> None:
        """Report what came since the last report, to Locust's statistics and to `send`."""
        lags, self.lags = self.lags, []
        failures, self.failures = self.failures, Counter()
        paths: dict[str, list[int]] = {}
        for spec, found in zip(self.specs, self.latencies, strict=True):
            if found:
                self.last_answer, self.refused_since = clock(), 0
                self._count(found, spec)
                paths.setdefault(spec.name, []).extend(found)
                found.clear()  # in place: the users hold on to these lists
        if not self.started_ns and not self.ended:
            return
        self.late += sum(lag > LATE_NS for lag in lags)
        since = self.started_ns or clock()
        cpu, wait = self.shares or self._shares()
        self.send({
            **{name: getattr(self, name) for name in REPORTED},
            "process": f"{os.uname().nodename} {os.getpid()}", "version": locust_version, "origin": since / 1e9,
            "end": max(0, clock() - since) / 1e9, "last_end": max(0, self.last_end - since) / 1e9,
            "failures": failures, "paths": {path: pack(found) for path, found in paths.items()},
            "lag": pack(lags), "cpu": cpu, "wait": wait,
        })  # fmt: skip

    def _count(self, found: list[int], spec: RequestSpec) -> None:
        """To Locust's statistics, as Locust adds up its own workers."""
        stats = self.environment.stats
        # Any: Locust's annotations say whole milliseconds; its own code stores whatever it measured.
        entry: Any = StatsEntry(stats, spec.name, spec.method)
        entry.num_requests, entry.total_response_time = len(found), sum(found) / 1e6
        entry.min_response_time, entry.max_response_time = min(found) / 1e6, max(found) / 1e6
        entry.response_times = dict(Counter([ns // 1_000_000 for ns in found]))
        entry.last_request_timestamp = now = time.time()
        entry.num_reqs_per_sec = {int(now): len(found)}
        entry.start_time = stats.start_time
        entry.total_content_length, self.body_bytes = self.body_bytes, 0
        stats.total.extend(entry)
        stats.entries[(spec.name, spec.method)].extend(entry)


def self_used() -> tuple[float, float, float]:
    """Seconds that this process has run, that it was ready to run and had to wait, and of the clock."""
    ns = text_of("/proc/self/schedstat").split() or ["0", "0"]
    return time.process_time(), int(ns[1]) / 1e9, clock() / 1e9
