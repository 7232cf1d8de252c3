"""The load, executed by Locust. The only file of mpmkit that imports locust or gevent.

`mpmkit.load.drive.run_load` starts it. It also runs by itself, with Locust's own options and page::

    locust -f mpmkit/load/locustfile.py --host http://127.0.0.1:8080 -u 200 -r 200 \\
           --path /index.html --requests 20000 --headless

Why it is not HttpUser or FastHttpUser: on loopback the generator is slower than the servers it
should measure, so whoever uses those measures the generator. What a request costs here:

* one send, one recv, one look-up of the whole answer in a memo of answers already read and checked;
* a socket watcher that stays registered while a connection lives (no epoll_ctl per request), whose
  callback switches straight into the user's greenlet;
* two readings of the clock and one append to an array of nanoseconds;
* no timer per request: one clerk greenlet per process looks for the overdue, several times a
  second;
* Locust's statistics are fed in batches by that clerk: each request is counted, in its second and
  its millisecond, as if by events.request.fire, which costs more than the request
  (``--request-events each`` fires it for every response, for those who attach listeners).
  Failures are always fired.

A user is a Locust User in a greenlet of its own: claim a request from the budget, send, wait for
the whole answer, check it, record it, claim again. The two plain loads (one request, closed loop,
connections all kept or none) have loops of their own; a third loop, somewhat slower, does all that
a profile can say: mixes, think times, shares, the open loop. In the open loop a claim comes with
the time at which the request is due, and a timerfd wakes the user then: gevent's own timers end
with a whole millisecond, more than a request takes. Latency counts from the due time, also where
every user was busy by then.

`IdleHolder` and `SlowReader` are clients beside the users; what they get is counted apart.

By itself, with workers of its own (``--processes``) or on other machines (``--master``,
``--worker``), it does the same: each worker sends its histogram to the master, which merges them,
prints what was measured and, with ``--load-results FILE``, writes it down.

Latency is counted in ns from just before the connection is opened (new connection per request) or
the request is sent (keep-alive) to the last byte of the body. With a new connection per request
the user then waits, as ab does, until the server ends the connection, before it goes on: so it is
the server's side that gets the TIME_WAIT state, and a run of millions of connections leaves the
client's ephemeral ports free. Where a server does not close first and ports run out after all,
the users move on to another loopback source address (127.0.0.2, ...), each with ports of its own.
Connections that must be given up are reset, which leaves no TIME_WAIT either.

The budget of requests is exact over all users and all processes of ``--processes``: it lies, in
tokens, in a pipe that Locust's forks inherit; who reads a token owns its share. The kernel makes
the reading atomic, and a killed process can block nobody.
"""

from __future__ import annotations

import _socket  # the C type itself: locust's monkey-patching replaces socket.socket, not this
import array
import bisect
import errno
import hashlib
import itertools
import json
import logging
import os
import random
import resource
import shutil
import ssl
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import greenlet  # type: ignore[import-untyped]
from gevent import get_hub, getcurrent
from locust import LoadTestShape, User, events, task
from locust import __version__ as locust_version
from locust.exception import StopTest, StopUser
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import StatsEntry
from locust.user.task import LOCUST_STATE_STOPPING

try:
    import mpmkit  # noqa: F401
except ModuleNotFoundError:  # run from a checkout that is not installed
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from mpmkit.load import tls
from mpmkit.load.arrivals import arrivals
from mpmkit.load.profile import MAX_REQUESTS, Ask, LoadProfile, ProfileError, target_of
from mpmkit.load.response import ResponseReader
from mpmkit.load.timer import Timer

log = logging.getLogger("mpmkit.load")

clock = time.perf_counter_ns
READ, WRITE = 1, 2
RECV_SIZE = 65_536
NEVER = 1 << 62

MEMO_ENTRIES = 1_024
MEMO_BYTES = 8_192
"""An answer longer than this is not kept in the memo; with MEMO_ENTRIES it bounds it to 8 MiB."""

TICK = 0.25
"""Seconds between the clerk's reports: to Locust's statistics, to the progress pipe, to the
timeline."""

BACK_OFF = 0.05
"""Seconds that a user waits after a connection that could not be opened. A refused connection costs
microseconds, so without a pause a dead server would use up the budget in an instant."""

HOLD_OFF = 0.5
"""Seconds after which an idle holder or a slow reader tries again when its connection failed."""

READ_TICK = 0.1
"""Seconds between two sips of a slow reader."""

LATE_NS = 1_000_000
"""A request of the open loop that is sent later than this after its due time counts as late."""

RESET_ON_CLOSE = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # struct linger {on, 0 s}
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; the socket module has no name for it before 3.12
MAX_SOURCES = 200

IMPORT_PID = os.getpid()
FORKED_BY_HAND = "--worker" in sys.argv or os.environ.get("LOCUST_MODE_WORKER")


class LoadFailure(Exception):
    """What Locust's statistics show for a failed request: its kind."""


class Overdue(Exception):
    """Thrown into a user whose request has passed its time."""


class Budget:
    """How many requests may still be sent: first the warm-up, then the measured ones.

    `left` is this process's share in hand. A user that finds it empty calls `more()`.
    """

    TOKENS = 1_600
    """At most this many tokens for each phase: two phases fit into the smallest pipe, one page."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self.write_end, False)
        self.reset(0, 0)

    def reset(self, warmup: int, requests: int) -> None:
        """Forget what was in hand. The sizes of the shares follow from the two totals alone, so
        processes that read the same pipe agree on them."""
        self.left = 0
        self.measuring = False
        self.exhausted = False
        self.warm_until = 0
        self.warm_seconds = 0.0
        warm, warm_shares = self._phase(warmup, b"wx")
        measured, measured_shares = self._phase(requests, b"mn")
        self._tokens = warm + measured  # a pipe is read in order: the warm-up comes first
        self._shares = warm_shares | measured_shares
        self._held = b""

    def _phase(self, total: int, letters: bytes) -> tuple[bytes, dict[int, int]]:
        """(tokens, what each is worth): equal shares, and a last one for the rest."""
        share = -(-total // self.TOKENS) or 1
        rest = total % share
        tokens = letters[:1] * (total // share) + (letters[1:] if rest else b"")
        return tokens, {letters[0]: share, letters[1]: rest}

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)

    def fill(self) -> None:
        """Put the tokens into the pipe, which is emptied before (a second test from Locust's
        page)."""
        try:
            while os.read(self.read_end, RECV_SIZE):
                pass
        except BlockingIOError:
            pass
        written = os.write(self.write_end, self._tokens)
        if written != len(self._tokens):
            raise StopTest("the pipe that holds the request budget is too small")

    def claim(self) -> bool:
        """One measured request, for the open loop, whose warm-up goes by time and not by count."""
        if self.left:
            self.left -= 1
            return True
        try:
            token = os.read(self.read_end, 1)
        except BlockingIOError:
            token = b""
        if not token:
            self.exhausted = True
            return False
        self.left = self._shares[token[0]] - 1
        return True

    def more(self) -> bool:
        """True when the caller may send one more request; it then owns it. False: all are
        claimed."""
        if not self.measuring and self._warming():
            return True
        if self.left:
            self.left -= 1
            return True
        try:
            token = self._held or os.read(self.read_end, 1)
        except BlockingIOError:
            token = b""
        self._held = b""
        if not token:
            self.exhausted = True
            return False
        if token in b"mn" and not self.measuring:
            # Requests of the warm-up come first, then its seconds, then what is measured.
            if self.warm_seconds and not self.warm_until:
                self.warm_until = clock() + int(self.warm_seconds * 1e9)
            if self._warming():
                self._held = token
                return True
            self._measure()
        self.left = self._shares[token[0]] - 1
        return True

    def _warming(self) -> bool:
        return clock() < self.warm_until

    def _measure(self) -> None:
        self.measuring = True
        state.measure()


class Schedule:
    """The due times of the open loop in this process, in ns of the clock, one after the other."""

    def __init__(self, profile: LoadProfile, index: int, of: int) -> None:
        self.origin = clock() + int(profile.warmup_seconds * 1e9)
        self._seconds: Iterator[float] = arrivals(profile, index, of)
        self._next = self._draw()
        self.timer = Timer()
        self.watcher = get_hub().loop.io(self.timer.fd, READ)
        self.watcher.start(self._fire)
        self.waiting: deque[tuple[int, Client]] = deque()

    def _draw(self) -> int:
        return self.origin + int(next(self._seconds) * 1e9)

    def take(self) -> int:
        """The next due time; the caller owns it."""
        due, self._next = self._next, self._draw()
        return due

    def left_until(self, ns: int) -> int:
        """How many are due before `ns` that nobody took; they are taken by this."""
        count = 0
        while self._next < ns:
            self._next = self._draw()
            count += 1
        return count

    def wait(self, due: int, client: Client) -> None:
        """Come back at the due time. Times are taken in their order, so who comes last waits
        longest."""
        self.waiting.append((due, client))
        if len(self.waiting) == 1:
            self.timer.set(due)
        client.due = NEVER
        client.quiet()
        client.called = False
        while not client.called:
            client.wait()

    def _fire(self) -> None:
        self.timer.clear()
        waiting, soon = self.waiting, clock() + 20_000
        while waiting and waiting[0][0] <= soon:
            client = waiting.popleft()[1]
            client.called = True
            client.wake()
        if waiting:
            self.timer.set(waiting[0][0])

    def close(self) -> None:
        self.watcher.stop()
        self.watcher.close()
        self.timer.close()


class State:
    """What one generator process shares between its users and its clerk."""

    def __init__(self) -> None:
        self.budget = Budget()
        self.profile = LoadProfile(requests=1)  # until a test begins
        self.prepared = False
        self.environment: Any = None
        self.life: Any = None
        self.master: Any = None
        self.reset()

    def reset(self) -> None:
        self.latencies = array.array("q")
        self.which = array.array("B")      # which line of the mix each latency is of, if several
        self.lags = array.array("q")       # open loop: from due to sent
        self.failures: Counter[str] = Counter()
        self.background: Counter[str] = Counter()  # what idle holders and slow readers got
        self.connections = 0
        self.serial = 0           # of users, to share out who keeps connections
        self.schedule: Schedule | None = None
        self.over = False         # open loop: nothing more is due before the end
        self.reconnects = 0       # the server ended a kept connection and said so
        self.retries = 0          # it ended one while a request was on its way: sent again, once
        self.body_bytes = 0
        self.warmed = 0
        self.reported = 0         # latencies already folded into Locust's statistics
        self.folded_bytes = 0
        self.timeline: list[tuple[int, int, int, dict[str, int]]] = []
        self.running = 0          # users inside their loop
        self.users: set[Client] = set()
        self.started_ns = 0       # of the first measured request; 0 until then
        self.last_end = 0
        self.deadline = NEVER
        self.begun_ns = 0         # of the first request of all, warm-up included
        self.started_at = 0.0
        self.cpu_start = (0.0, 0.0)
        self.cpu_end = (0.0, 0.0)
        self.ended = ""
        self.written = False
        self.refused_since = 0    # connections that failed since the last answer
        self.last_answer = 0
        self.memos: list[dict[bytes, tuple]] = [{}]
        self.memo = self.memos[0]
        self.bodies: dict[int, str] = {}  # SHA-256 of the first answer to each line of the mix
        self.source = 0
        self.pressure = (0.0, 0.0)
        self.sofar: Any = None
        self.sofar_paths: dict[str, Any] = {}

    def prepare(self, environment) -> None:
        """A test begins: read the profile, resolve the target, set the budget."""
        options = environment.parsed_options
        profile = profile_of(options)
        try:
            target = target_of(environment.host or "")
        except ValueError as error:
            raise StopTest(f"--host: {error}") from None
        host, port = target.host, target.port
        if self.schedule is not None:
            self.schedule.close()
        self.reset()
        self.environment = environment
        self.profile = profile
        self.prepared = True
        self.family, _, _, _, self.address = _socket.getaddrinfo(
            host, port, 0, _socket.SOCK_STREAM)[0]
        self.kind = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK
        self.loopback = target.loopback
        self.host = host
        self.tls = None
        if target.scheme == "https":
            try:
                self.tls = tls.context(profile.ca_file, target.loopback)
            except (OSError, ssl.SSLError) as error:
                raise StopTest(f"ca_file: {profile.ca_file}: {error}") from None
        self.asks = profile.asks
        self.memos = [{} for _ in self.asks]
        self.memo = self.memos[0]
        self.request = profile.request_bytes(target.place)
        # For each line of the mix: on a connection of its own, on a kept one, the last on it.
        self.requests = [tuple(profile.request_bytes(target.place, ask, keep=keep, last=last)
                               for keep, last in ((False, False), (True, False), (True, True)))
                         for ask in self.asks]
        self.random = random.Random(f"{profile.seed} {os.getpid()}")
        self.weights = list(itertools.accumulate(ask.weight for ask in self.asks))
        self.timeout_ns = int(profile.timeout * 1e9)
        raise_file_limit(profile.clients + 128)  # Locust itself keeps some thirty open
        runner = environment.runner
        self.index, self.of = 0, 1
        if isinstance(runner, WorkerRunner):
            self.index = runner.worker_index
            self.of = max(1, environment.parsed_options.expect_workers or profile.processes)
        warmup = profile.warmup_requests
        requests = profile.requests or MAX_REQUESTS
        if isinstance(runner, WorkerRunner) and (FORKED_BY_HAND or os.getpid() == IMPORT_PID):
            # Workers started one by one, perhaps on other machines, share no pipe: they split the
            # budget by their index among as many as the master expects (--expect-workers).
            self.budget.close()
            self.budget = Budget()
            self.budget.reset(*(share(total, self.index, self.of) for total in (warmup, requests)))
            self.budget.fill()
        else:
            self.budget.reset(warmup, requests)
            if not isinstance(runner, WorkerRunner):
                self.budget.fill()
        self.budget.warm_seconds = profile.warmup_seconds
        if profile.open_loop and not isinstance(runner, MasterRunner):
            self.schedule = Schedule(profile, self.index, self.of)
            if profile.planned_seconds is not None:
                self.deadline = self.schedule.origin + int(profile.planned_seconds * 1e9)

    def measure(self, since: int | None = None) -> None:
        """The warm-up is over; what starts from here on (or was due since) counts."""
        now = clock()
        self.started_ns = now if since is None else since
        self.last_answer = now
        self.started_at = time.time() - (now - self.started_ns) / 1e9
        self.cpu_start = cpu_seconds()
        self.pressure = run_queue_seconds(), clock() / 1e9
        if self.profile.planned_seconds is not None:
            self.deadline = self.started_ns + int(self.profile.planned_seconds * 1e9)

    def done(self) -> int:
        return len(self.latencies) + sum(self.failures.values())

    def fail(self, kind: str, t0: int, length: int, which: int = 0) -> None:
        self.failures[kind] += 1
        ask = self.asks[which]
        events.request.fire(
            request_type=ask.method, name=ask.path, context={},
            response_time=(clock() - t0) / 1e6, response_length=length, exception=LoadFailure(kind))

    # -- ending ----------------------------------------------------------------------------------

    def left_loop(self) -> None:
        """A user's loop ended. The last one out ends the run, if there is nothing left to claim."""
        if not self.running and (
                self.budget.exhausted or self.over or clock() >= self.deadline):
            self.finish("requests" if self.budget.exhausted else "duration")

    def finish(self, why: str) -> None:
        if self.ended or not self.prepared:
            return
        self.ended = why
        self.close_books()
        gevent.spawn(self._finish)

    def close_books(self) -> None:
        """Nothing counts from here on. What was due and never sent counts as failed."""
        self.cpu_end = cpu_seconds()
        if self.pressure[1]:
            waited, since = self.pressure
            passed = clock() / 1e9 - since
            self.pressure = ((run_queue_seconds() - waited) / passed if passed > 0 else 0.0, 0.0)
        if self.schedule is not None and self.started_ns:
            until = min(self.deadline, clock())
            unsent = 0
            for _ in range(self.schedule.left_until(until)):
                if not self.budget.claim():
                    break
                unsent += 1
            if unsent:
                self.failures["unsent"] += unsent
                self.last_end = max(self.last_end, until)

    def _finish(self) -> None:
        self.report()
        self.write()
        runner = self.environment.runner
        if isinstance(runner, WorkerRunner):
            runner.send_message("mpmkit_done", self.result(for_message=True))
        elif self.environment.parsed_options.headless:
            self.conclude([self.result(for_message=True)])
            runner.quit()
        else:
            self.conclude([self.result(for_message=True)])
            runner.stop()

    def conclude(self, parts: list[dict[str, Any]]) -> None:
        """By itself or as the master of workers: say what was measured, and write it down."""
        if os.environ.get("MPMKIT_LOAD_RESULTS"):
            return  # the process that started us does that
        from mpmkit.load.drive import merged

        run = merged(parts, self.environment.host, self.profile, self.of)
        if run is None:
            print("mpmkit: nothing was measured", file=sys.stderr)
            return
        print(run.summary(), file=sys.stderr, flush=True)  # --json has standard output
        where = self.environment.parsed_options.load_results
        if where:
            try:
                Path(where).write_text(run.to_json())
            except OSError as error:
                log.error("--load-results: %s", error)
                self.environment.process_exit_code = 1

    def so_far(self) -> dict[str, Any]:
        """The same while it goes on, for a master that may lose us: no details, and each latency is
        counted once, however often it is told."""
        from mpmkit.load.histogram import Histogram

        if self.sofar is None:
            self.sofar = Histogram()
            self.sofar_paths = {ask.path: Histogram() for ask in self.asks[1:] and self.asks}
        told, count = self.sofar.count, len(self.latencies)
        self.sofar.record(self.latencies[told:count])
        for path, found in self.sofar_paths.items():
            found.record(self.of_path(path, told, count))
        return self.result(partial=True) | {
            "histogram": self.sofar.to_text(), "lag": Histogram().to_text(), "timeline": [],
            "paths": {path: found.to_text() for path, found in self.sofar_paths.items()}, "late": 0}

    def of_path(self, path: str, begin: int = 0, end: int | None = None) -> list[int]:
        """The latencies, from one place to another, of a path of the mix; several lines may have it."""
        those = [ask.path == path for ask in self.asks]
        return list(itertools.compress(
            self.latencies[begin:end], [those[which] for which in self.which[begin:end]]))

    def result(self, for_message: bool = False, partial: bool = False) -> dict[str, Any]:
        """What this process measured. In a message the latencies are histograms, by the second."""
        if partial:
            cpu_end, waited = cpu_seconds(), 0.0
        else:
            if self.cpu_end == (0.0, 0.0):
                self.close_books()
            cpu_end, waited = self.cpu_end, self.pressure[0]
        result = {
            "version": 2,
            "pid": os.getpid(),
            "locust": locust_version,
            "started_ns": self.started_ns,
            "started_at": self.started_at,
            "last_end_ns": self.last_end,
            "finished_ns": clock(),
            "ok": len(self.latencies),
            "failures": dict(self.failures),
            "retries": self.retries,
            "reconnects": self.reconnects,
            "body_bytes": self.body_bytes,
            "warmed": self.warmed,
            "cpu_user": cpu_end[0] - self.cpu_start[0],
            "cpu_system": cpu_end[1] - self.cpu_start[1],
            "timeline": self.timeline,
            "sources": self.source + 1,
            "ended": self.ended or "interrupted",
            "background": dict(self.background),
            "connections": self.connections,
            "run_queue_wait": waited,
            "boot": boot_id(),
            "place": f"{os.uname().nodename} {os.getpid()}",
            "late": 0 if partial else sum(lag > LATE_NS for lag in self.lags),
            "asks": [ask.path for ask in self.asks],
        }
        if for_message:
            from mpmkit.load.histogram import Histogram

            result["histogram"] = Histogram(self.latencies).to_text()
            result["lag"] = Histogram(self.lags).to_text()
            seconds: dict[int, Histogram] = {}
            before = 0
            for ns, _, ok, _ in self.timeline:
                seconds.setdefault(ns // 1_000_000_000, Histogram()).record(
                    self.latencies[before:ok])
                before = ok
            result["seconds"] = {str(second): found.to_text() for second, found in seconds.items()}
            result["paths"] = {
                ask.path: Histogram(self.of_path(ask.path)).to_text()
                for ask in self.asks} if len(self.asks) > 1 else {}
        return result

    def write(self) -> None:
        """The raw results of this process: <pid>.ns, then <pid>.json, which says that all is whole.

        If the disk is full, the histogram goes through the progress pipe instead.
        """
        folder = os.environ.get("MPMKIT_LOAD_RESULTS")
        if self.written or not folder or not self.prepared:
            return
        self.written = True
        name = os.path.join(folder, str(os.getpid()))
        try:
            for suffix, values in ((".ns", self.latencies), (".which", self.which),
                                   (".lag", self.lags)):
                with open(name + suffix, "wb") as file:
                    values.tofile(file)
            with open(name + ".part", "w") as file:
                json.dump(self.result(), file)
            os.rename(name + ".part", name + ".json")
        except OSError as error:
            self.ended = f"disk: {error.strerror} ({folder}); latencies to within 0.1%"
            for suffix in (".ns", ".which", ".lag", ".part"):
                try:
                    os.unlink(name + suffix)
                except OSError:
                    pass
            if progress_fd is not None:
                os.set_blocking(progress_fd, True)
                text = b"= " + json.dumps(self.result(for_message=True)).encode() + b"\n"
                while text:
                    text = text[os.write(progress_fd, text):]

    # -- the clerk -------------------------------------------------------------------------------

    def clerk(self) -> None:
        """Looks for overdue requests, reports, and sees to it that the run ends."""
        profile = self.profile
        tick = min(TICK, max(0.01, profile.timeout / 20))
        next_report = 0
        limit_ns = int(profile.time_limit * 1e9)
        while not self.ended:
            gevent.sleep(tick)
            now = clock()
            for client in self.users:
                if client.waiting and now >= client.due:
                    client.loop.run_callback(client.expire)
            if self.begun_ns and now - self.begun_ns > limit_ns:
                self.finish(f"time limit of {profile.time_limit:g} s")
            if (self.refused_since > max(50, 2 * len(self.users))
                    and now - max(self.last_answer, self.begun_ns) > 1_000_000_000):
                self.finish(f"gave up: no connection to the server for 1 s "
                            f"({self.refused_since} attempts)")
            if now >= next_report:
                next_report = now + int(TICK * 1e9)
                self.report()

    def report(self) -> None:
        """Tell Locust's statistics, the timeline and the progress pipe what was done since last
        time."""
        count = len(self.latencies)
        if count > self.reported:
            self.last_answer = clock()
            self.refused_since = 0
            if self.profile.events == "batch":
                batch = self.latencies[self.reported:count]
                if len(self.asks) == 1:
                    self._fold(batch, self.asks[0])
                else:
                    which = self.which[self.reported:count]
                    for number, ask in enumerate(self.asks):
                        part = list(itertools.compress(batch, [n == number for n in which]))
                        if part:
                            self._fold(part, ask)
            self.reported = count
        if not self.started_ns:
            return
        done, now = self.done(), clock()
        self.timeline.append((max(0, now - self.started_ns), done, count, dict(self.failures)))
        if progress_fd is not None:
            try:
                os.write(progress_fd, b"%d %d %d\n" % (os.getpid(), done, now - self.started_ns))
            except OSError:
                pass  # nobody reads, or not fast enough; progress is a courtesy

    def _fold(self, batch: array.array | list[int], ask: Ask) -> None:
        """What events.request.fire would have done for each of these, as the sum.

        Locust merges the reports of its own workers in this very way.
        """
        stats = self.environment.stats
        entry = StatsEntry(stats, ask.path, ask.method)
        now = time.time()
        entry.num_requests = len(batch)
        entry.total_response_time = sum(batch) / 1e6
        entry.min_response_time = min(batch) / 1e6
        entry.max_response_time = max(batch) / 1e6
        entry.response_times = dict(Counter([ns // 1_000_000 for ns in batch]))
        entry.num_reqs_per_sec = {int(now): len(batch)}
        entry.last_request_timestamp = now
        entry.start_time = stats.start_time
        entry.total_content_length = self.body_bytes - self.folded_bytes
        self.folded_bytes = self.body_bytes
        stats.total.extend(entry)
        stats.entries[(ask.path, ask.method)].extend(entry)


def share(total: int, index: int, of: int) -> int:
    """Part `index` (from 0) of `total` cut into `of` parts that differ by one at most."""
    return total // of + (index < total % of)


def cpu_seconds() -> tuple[float, float]:
    """CPU time of this process so far: (user, system) in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def run_queue_seconds() -> float:
    """How long this process, which has one thread that works, was ready to run and had to wait."""
    try:
        with open("/proc/self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def boot_id() -> str:
    """Names the machine as long as it runs: its monotonic clock is the same for all on it."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return os.uname().nodename


def raise_file_limit(wanted: int) -> None:
    """One file descriptor per user: raise the soft limit as far as is wanted and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise StopTest(f"{wanted} open files are needed and {hard} are allowed; use fewer users, "
                       f"or raise the limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# -- one user's connection -----------------------------------------------------------------------


class Client:
    """The socket of one user, and its loop in two forms: `keep_alive` and `new_connections`."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.hub = get_hub()
        self.loop = self.hub.loop
        self.greenlet = getcurrent()
        self.sock: Any = None
        self.watcher: Any = None
        self.waiting = False
        self.due = NEVER
        self.which = 0
        self.called = False  # by the schedule
        # Straight into the hub: gevent's own switch() asks for hooks that no user here has.
        self.to_hub = greenlet.greenlet.switch.__get__(self.hub)
        self.resume = self.greenlet.switch

    # These two run in the hub.

    def wake(self) -> None:
        # A watcher outlives the wait (that saves two epoll_ctl per request), so it may fire for a
        # greenlet that waits for something else.
        if self.waiting:
            self.waiting = False
            self.resume()

    def expire(self) -> None:
        if self.waiting and clock() >= self.due:
            self.waiting = False
            self.greenlet.throw(Overdue())

    # These run in the user's greenlet.

    def wait(self) -> None:
        self.waiting = True
        try:
            self.to_hub()
        finally:
            self.waiting = False

    def open(self):
        """A connected socket. Raises OSError, or Overdue."""
        sock = _socket.socket(state.family, state.kind)
        self.sock = sock
        state.connections += 1
        if state.source:
            sock.setsockopt(_socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{1 + state.source}", 0))
        code = sock.connect_ex(state.address)
        if code == errno.EADDRNOTAVAIL and self.next_source():
            self.close()
            return self.open()
        if code and code != errno.EINPROGRESS:
            raise OSError(code, os.strerror(code))
        if state.tls is not None:
            return self.secure(sock, code)
        return sock

    def secure(self, sock, code: int):
        """The TLS handshake on a socket that is connected, or will be."""
        if code:
            self.wait_writable()
        made = tls.TlsSocket(sock, state.tls, state.host)
        self.sock = made
        self.watch()
        while True:
            try:
                made.handshake()
                self.quiet()  # a watcher that is watching cannot be given another socket
                return made
            except BlockingIOError:
                self.wait()

    def next_source(self) -> bool:
        """All ephemeral ports towards the target are in TIME_WAIT: go on from another address."""
        if (state.family != _socket.AF_INET or state.source >= MAX_SOURCES
                or not state.loopback):
            return False
        state.source += 1
        return True

    def send(self, data: bytes) -> None:
        """Send all, waiting where the connection is not there yet or the buffer is full, then
        watch."""
        sock = self.sock
        if self.watcher is not None:
            self.watcher.stop()  # else an early answer would wake us again and again
        while data:
            try:
                data = data[sock.send(data):]
            except BlockingIOError:
                self.wait_writable()
        self.watch()

    def wait_writable(self) -> None:
        """Until the connection is there, or its buffer has room. Raises OSError if it failed."""
        watcher = self.loop.io(self.sock.fileno(), WRITE)
        watcher.start(self.wake)
        try:
            self.wait()
        finally:
            watcher.stop()
            watcher.close()
        code = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None

    def watch(self) -> None:
        if self.watcher is None:
            self.watcher = self.loop.io(self.sock.fileno(), READ)
        else:
            self.watcher.fd = self.sock.fileno()
        self.watcher.start(self.wake)

    def quiet(self) -> None:
        """Watch no more until the next request: a server that closes meanwhile would wake us on and
        on."""
        if self.watcher is not None:
            self.watcher.stop()

    def receive(self) -> bytes:
        """What has come, waiting for it if need be; b"" at the end of the connection."""
        while True:
            try:
                return self.sock.recv(RECV_SIZE)
            except BlockingIOError:
                self.wait()

    def close(self, reset: bool = False) -> None:
        if self.watcher is not None:
            self.watcher.stop()
        sock, self.sock = self.sock, None
        if sock is not None:
            try:
                if reset:
                    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, RESET_ON_CLOSE)
            except OSError:
                pass
            sock.close()

    def read(self, data: bytes):
        """Read an answer that the memo does not know, from its first bytes `data` on."""
        ask = state.asks[self.which]
        hasher = None
        if ask.expect_body is not None and (len(data) <= MEMO_BYTES or (
                ask.expect_body == "same" and self.which not in state.bodies)
                or state.random.random() < state.profile.body_sample):
            hasher = hashlib.sha256()
        reader = ResponseReader(ask.method, ask.expect_status, ask.expect_length, hasher)
        first = data
        while True:
            verdict = reader.feed(data) if data else reader.eof()
            if verdict is not None:
                if hasher is not None and verdict[0] is None:
                    verdict = self.compare(ask, hasher.hexdigest(), verdict)
                if data is first and len(data) <= MEMO_BYTES:
                    memo = state.memos[self.which]
                    if len(memo) >= MEMO_ENTRIES:
                        memo.clear()
                    if data:
                        memo[data] = verdict
                return verdict
            data = self.receive()

    def compare(self, ask: Ask, digest: str, verdict: tuple) -> tuple:
        """The verdict, unless the body is another than it should be."""
        wanted = (state.bodies.setdefault(self.which, digest) if ask.expect_body == "same"
                  else ask.expect_body)
        return verdict if digest == wanted else ("body", verdict[1], verdict[2])

    def run(self) -> None:
        if not state.prepared:
            return  # the test was refused when it began; Locust starts its users all the same
        if not state.begun_ns:
            state.begun_ns = clock()
        state.users.add(self)
        state.running += 1
        try:
            if not state.profile.plain:
                self.anything()
            elif state.profile.keep_alive:
                self.keep_alive()
            else:
                self.new_connections()
        finally:
            state.running -= 1
            state.users.discard(self)
            self.close(reset=True)
            if self.watcher is not None:
                self.watcher.close()
        state.left_loop()

    # The two loops. They say the same things twice, and spell out what could be a method, because a
    # call costs a hundredth of a request here and there would be five of them.

    def new_connections(self) -> None:
        shared, user, budget, memo = state, self.user, state.budget, state.memo
        request, size, timeout_ns = state.request, len(state.request), state.timeout_ns
        record = state.latencies.append
        each = state.profile.events == "each"
        while user._state is not LOCUST_STATE_STOPPING and not shared.ended:
            t0 = clock()
            if t0 >= shared.deadline:
                return
            if budget.left:
                budget.left -= 1
            elif not budget.more():
                return
            measured = budget.measuring
            self.due = t0 + timeout_ns
            verdict = None
            try:
                sock = self.open()
                # On loopback the handshake is over when connect() returns, so sending right away
                # nearly always spares a wait for "writable".
                try:
                    sent = sock.send(request)
                except BlockingIOError:
                    sent = 0
                if sent == size:
                    self.watch()
                else:
                    self.send(request[sent:])
                self.waiting = True
                self.to_hub()
                try:
                    data = sock.recv(RECV_SIZE)
                except BlockingIOError:
                    data = self.receive()
                verdict = memo.get(data) or self.read(data)
                t1 = clock()
                if data:
                    # The server ends the connection: see the module's text on TIME_WAIT.
                    try:
                        rest = sock.recv(RECV_SIZE)
                    except BlockingIOError:
                        rest = self.receive()
                    if rest:
                        verdict = ("length", False, verdict[2] + len(rest))
                self.close(reset=verdict[0] is not None)
            except (Overdue, OSError) as error:
                if verdict is None or verdict[0] is not None:
                    self.failed(kind_of(error), t0, measured)
                    continue
                # The answer was complete; only the end of the connection went wrong.
                if isinstance(error, Overdue):
                    self.failed("unclosed", t0, measured)
                    continue
                self.close(reset=True)
            kind, _, length = verdict
            if not measured:
                shared.warmed += 1
            elif kind is None:
                record(t1 - t0)
                shared.body_bytes += length
                shared.last_end = t1
                if each:
                    fire(t1 - t0, length)
            else:
                self.failed(kind, t0, True)

    def keep_alive(self) -> None:
        shared, user, budget, memo = state, self.user, state.budget, state.memo
        request, size, timeout_ns = state.request, len(state.request), state.timeout_ns
        record = state.latencies.append
        each = state.profile.events == "each"
        sock: Any = None
        while user._state is not LOCUST_STATE_STOPPING and not shared.ended:
            t0 = clock()
            if t0 >= shared.deadline:
                return
            if budget.left:
                budget.left -= 1
            elif not budget.more():
                return
            measured = budget.measuring
            self.due = t0 + timeout_ns
            try:
                fresh = sock is None
                try:
                    if fresh:
                        sock = self.open()
                        self.send(request)
                    else:
                        sent = sock.send(request)
                        if sent != size:
                            self.send(request[sent:])
                    self.waiting = True
                    self.to_hub()
                    try:
                        data = sock.recv(RECV_SIZE)
                    except BlockingIOError:
                        data = self.receive()
                except (ConnectionResetError, BrokenPipeError):
                    if fresh:
                        raise
                    data = b""
                if not data and not fresh:
                    # The server's close and our request crossed. That is nobody's fault (RFC 9112,
                    # 9.3.1 lets a client send it again): once, on a new connection.
                    if measured:
                        shared.retries += 1
                    self.close()
                    sock = self.open()
                    self.send(request)
                    data = self.receive()
                verdict = memo.get(data) or self.read(data)
                t1 = clock()
                if not verdict[1]:
                    # It will not be used again. After a good answer, let the server close first.
                    if verdict[0] is None:
                        shared.reconnects += measured
                        self.drain()
                    self.close(reset=verdict[0] is not None)
                    sock = None
            except BlockingIOError:
                # Only a buffer that is full at the very first byte of a reused connection's
                # request.
                self.failed("connect", t0, measured)
                sock = None
                continue
            except (Overdue, OSError) as error:
                self.failed(kind_of(error), t0, measured)
                sock = None
                continue
            kind, _, length = verdict
            if not measured:
                shared.warmed += 1
            elif kind is None:
                record(t1 - t0)
                shared.body_bytes += length
                shared.last_end = t1
                if each:
                    fire(t1 - t0, length)
            else:
                shared.last_end = t1
                shared.fail(kind, t0, length)

    def anything(self) -> None:
        """All that a profile can say, one request after the other."""
        shared, user, budget, profile = state, self.user, state.budget, state.profile
        schedule = shared.schedule
        several = len(shared.asks) > 1
        exponential = profile.think == "exponential"
        # So many of the users keep their connections, spread evenly over their numbers.
        shared.serial += 1
        keep = (int(shared.serial * profile.keep_share)
                > int((shared.serial - 1) * profile.keep_share))
        most = profile.requests_per_connection or NEVER
        served = 0
        rest = False  # a pause is due: not before the first request
        while user._state is not LOCUST_STATE_STOPPING and not shared.ended:
            if rest and profile.think_time:
                pause = (shared.random.expovariate(1 / profile.think_time) if exponential
                         else profile.think_time)
                if not self.pause(pause):
                    return
            rest = True
            now = clock()
            if now >= shared.deadline:
                return
            if schedule is not None:
                t0 = schedule.take()
                if t0 >= shared.deadline:
                    shared.over = True
                    return
                measured = t0 >= schedule.origin
                if measured:
                    if not budget.claim():
                        return
                    if not shared.started_ns:
                        shared.measure(schedule.origin)
                if t0 > now:
                    schedule.wait(t0, self)
                    now = clock()
                if measured:
                    shared.lags.append(max(0, now - t0))
            else:
                t0 = now
                if budget.left:
                    budget.left -= 1
                elif not budget.more():
                    return
                measured = budget.measuring
            which = self.which = (bisect.bisect(
                shared.weights, shared.random.random() * shared.weights[-1]) if several else 0)
            last = keep and served + 1 >= most
            request = shared.requests[which][keep + last]
            self.due = now + shared.timeout_ns
            verdict = None
            try:
                verdict = self.exchange(request, which)
                t1 = clock()
                served += 1
                if not verdict[1] or last or not keep:
                    if verdict[0] is None:
                        if keep and not last:
                            shared.reconnects += measured
                        # The server is to end the connection: see the module's text on TIME_WAIT.
                        self.drain()
                    self.close(reset=verdict[0] is not None)
                    served = 0
            except (Overdue, OSError, ssl.SSLError) as error:
                self.failed(kind_of(error), t0, measured, which)
                served = 0
                continue
            kind, _, length = verdict
            if not measured:
                shared.warmed += 1
            elif kind is None:
                shared.latencies.append(t1 - t0)
                if several:
                    shared.which.append(which)
                shared.body_bytes += length
                shared.last_end = t1
                if profile.events == "each":
                    fire(t1 - t0, length, which)
            else:
                shared.last_end = t1
                shared.fail(kind, t0, length, which)

    def exchange(self, request: bytes, which: int):
        """Send on the connection there is, or on a new one; the verdict on the answer."""
        fresh = self.sock is None
        data = b""
        try:
            if fresh:
                self.open()
            self.send(request)
            data = self.receive()
        except (ConnectionResetError, BrokenPipeError):
            if fresh:
                raise
        if not data and not fresh:
            # The server's close and our request crossed: once more, on a new connection.
            state.retries += bool(state.started_ns)
            self.close()
            self.open()
            self.send(request)
            data = self.receive()
        return state.memos[which].get(data) or self.read(data)

    def pause(self, seconds: float) -> bool:
        """Think. False if the run ended meanwhile."""
        self.quiet()
        until = clock() + int(seconds * 1e9)
        while (left := min(until, state.deadline) - clock()) > 0:
            # In short sleeps, so that a user who thinks for a minute does not keep the run.
            gevent.sleep(min(left / 1e9, 1.0))
            if state.ended or self.user._state is LOCUST_STATE_STOPPING:
                return False
        return True

    def drain(self) -> None:
        """Wait for the server's end of the connection, one second at most: it said it would
        close."""
        self.due = clock() + 1_000_000_000
        try:
            while self.receive():
                pass
        except (Overdue, OSError):
            pass

    def failed(self, kind: str, t0: int, measured: bool, which: int = 0) -> None:
        """A request that failed with its connection."""
        self.waiting = False
        self.close(reset=True)
        if measured:
            state.last_end = clock()
            state.fail(kind, t0, 0, which)
        if kind in ("refused", "connect"):
            state.refused_since += 1
            gevent.sleep(BACK_OFF)


class Beside(Client):
    """A client beside the users. It never ends the run, and what it gets is counted apart."""

    def run(self) -> None:
        if not state.prepared:
            return
        state.users.add(self)
        try:
            while self.user._state is not LOCUST_STATE_STOPPING and not state.ended:
                try:
                    self.live()
                except (Overdue, OSError) as error:
                    state.background[f"{self.name} {kind_of(error)}"] += 1
                    gevent.sleep(HOLD_OFF)
                finally:
                    self.waiting = False
                    self.close(reset=True)
        finally:
            state.users.discard(self)
            if self.watcher is not None:
                self.watcher.close()

    name = ""

    def live(self) -> None:
        raise NotImplementedError

    def count(self, what: str, how_many: int = 1) -> None:
        state.background[f"{self.name} {what}"] += how_many


class Holder(Beside):
    """Connects, asks once if the profile says so, and stays until the server ends it."""

    name = "idle"

    def live(self) -> None:
        profile = state.profile
        self.due = clock() + state.timeout_ns
        self.open()
        self.count("opened")
        if profile.idle_request:
            self.send(state.requests[0][1])
            verdict = self.read(self.receive())
            if verdict[0] is not None:
                self.count(verdict[0])
                gevent.sleep(HOLD_OFF)
                return
            self.count("answered")
            if not verdict[1]:
                self.count("closed")
                gevent.sleep(HOLD_OFF)
                return
        else:
            self.watch()
        self.due = NEVER
        while self.receive():
            pass
        self.count("closed")
        gevent.sleep(BACK_OFF)


class Reader(Beside):
    """Fetches the page again and again, a sip at a time. A tenth of a second's worth is taken at
    once; the small receive buffer lets the server feel it."""

    name = "slow"

    def live(self) -> None:
        profile, ask = state.profile, state.asks[0]
        self.which = 0
        sip = max(1, int(profile.read_rate * READ_TICK))
        self.due = clock() + state.timeout_ns
        sock = self.open()
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, 4096)
        self.send(state.requests[0][0])
        self.count("opened")
        reader = ResponseReader(ask.method, ask.expect_status, ask.expect_length)
        verdict = None
        while verdict is None:
            # Each sip has its own time-out: slow is not dead.
            self.due = clock() + state.timeout_ns
            try:
                data = self.sock.recv(sip)
            except BlockingIOError:
                self.wait()
                continue
            verdict = reader.feed(data) if data else reader.eof()
            self.count("bytes", len(data))
            # What lies ready must not wake us while we pause.
            self.quiet()
            gevent.sleep(len(data) / profile.read_rate)
            if state.ended or self.user._state is LOCUST_STATE_STOPPING:
                return
            self.watch()
        self.count(verdict[0] or "answered")
        if verdict[0] is not None:
            gevent.sleep(HOLD_OFF)


def kind_of(error: Exception) -> str:
    if isinstance(error, Overdue):
        return "timeout"
    if isinstance(error, ssl.SSLError):
        return "certificate" if isinstance(error, ssl.SSLCertVerificationError) else "tls"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return "reset"
    return "connect"


def fire(ns: int, length: int, which: int = 0) -> None:
    ask = state.asks[which]
    events.request.fire(
        request_type=ask.method, name=ask.path, context={},
        response_time=ns / 1e6, response_length=length, exception=None)


# -- Locust's side -------------------------------------------------------------------------------

state = State()


def inherited(name: str) -> int | None:
    """A file descriptor that drive.py passed by its number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else None


progress_fd = inherited("MPMKIT_LOAD_PROGRESS_FD")
life_fd = inherited("MPMKIT_LOAD_LIFE_FD")
if progress_fd is not None:
    os.set_blocking(progress_fd, False)


class LeanUser(User):
    """One client: its single task is the whole loop."""

    @task
    def loop(self) -> None:
        Client(self).run()
        raise StopUser


class IdleHolder(User):
    """A client that holds a connection; as many as the profile's idle_holders."""

    @task
    def hold(self) -> None:
        Holder(self).run()
        raise StopUser


class SlowReader(User):
    """A client that reads slowly; as many as the profile's slow_readers."""

    @task
    def sip(self) -> None:
        Reader(self).run()
        raise StopUser


class Steps(LoadTestShape):
    """The profile's stages, for Locust: how many users there are to be now."""

    abstract = True  # not for Locust to find: only profiles with stages have it

    def __init__(self, profile: LoadProfile) -> None:
        super().__init__()
        self.profile = profile

    def tick(self):
        # Never "that was all": the users end with their deadline, and the run with them.
        extra = self.profile.slow_readers + self.profile.idle_holders
        level = self.profile.level_at(self.get_run_time() - self.profile.warmup_seconds)
        users = max(1, round(level)) + extra
        return users, max(1, users)


@events.init_command_line_parser.add_listener
def add_options(parser) -> None:
    """The fields of LoadProfile as options of Locust's command line, also by environment."""
    group = parser.add_argument_group(
        "mpmkit load", "What to ask for. Users, spawn rate and run time are Locust's own options.")

    def add(name: str, help: str, **how) -> None:
        env = "MPMKIT_LOAD_" + name.replace("-", "_").upper()
        group.add_argument(f"--{name}", env_var=env, help=help, **how)

    add("load-profile", "a load profile as JSON, or @FILE; the options below change its fields")
    add("load-results", "write what was measured to this file, as JSON", metavar="FILE")
    add("path", "path to ask for, default /")
    add("requests", "requests in all, over all users and processes", type=int)
    add("duration", "seconds to go on sending (as --run-time, but lets requests end)", type=float)
    add("keep-alive", "reuse connections", action="store_true")
    add("expect-status", "status of a good answer, default 200", type=int)
    add("expect-length", "body length of a good answer in bytes, default any", type=int)
    add("request-timeout", "seconds a request may take, default 30", type=float)
    add("warmup-requests", "requests sent before those that count", type=int)
    add("warmup-seconds", "seconds of load before the requests that count", type=float)
    add("arrival", "closed, constant or poisson", choices=("closed", "constant", "poisson"))
    add("rate", "requests/s of the open loop (constant, poisson)", type=float)
    add("think-time", "seconds between an answer and the next request", type=float)
    add("idle-holders", "clients beside the users that hold connections", type=int)
    add("slow-readers", "clients beside the users that read slowly", type=int)
    add("request-events", "fire Locust's request event for each answer, or count in batches",
        choices=("batch", "each"))


def profile_of(options) -> LoadProfile:
    """The profile that Locust's options describe. Raises StopTest with the reason if there is
    none."""
    given = {
        "path": options.path, "requests": options.requests, "duration": options.duration,
        "keep_alive": options.keep_alive or None, "expect_status": options.expect_status,
        "expect_length": options.expect_length, "timeout": options.request_timeout,
        "warmup_requests": options.warmup_requests, "warmup_seconds": options.warmup_seconds,
        "events": options.request_events, "arrival": options.arrival, "rate": options.rate,
        "think_time": options.think_time, "idle_holders": options.idle_holders,
        "slow_readers": options.slow_readers,
    }
    given = {name: value for name, value in given.items() if value is not None}
    try:
        text = options.load_profile
        if text:
            if text.startswith("@"):
                text = Path(text[1:]).read_text()
            return LoadProfile.from_json(text).but(**given)
        # Without a bound of ours, Locust's stop button or --run-time ends the run; the profile's
        # own bounds still hold.
        given.setdefault("requests", MAX_REQUESTS)
        given.setdefault("time_limit", 3600.0)
        beside = given.get("idle_holders", 0) + given.get("slow_readers", 0)
        return LoadProfile(users=max(1, (options.num_users or 1) - beside), **given)
    except (ProfileError, OSError) as error:
        raise StopTest(f"load profile: {error}") from None


def orphaned() -> None:
    """The process that started us is gone; so is whoever would remove its folder of results."""
    folder = os.environ.get("MPMKIT_LOAD_RESULTS", "")
    if os.path.basename(folder).startswith("mpmkit-load-"):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(3)


@events.init.add_listener
def on_init(environment, runner, **_) -> None:
    if life_fd is not None:
        # The other end is held by the process that started us: when it is gone, however it died,
        # this end reads as closed. No orphan goes on loading a server.
        watcher = get_hub().loop.io(life_fd, READ)
        watcher.start(orphaned)
        state.life = watcher
    try:
        # Refuse what cannot be before anything starts.
        profile = profile_of(environment.parsed_options)
        if environment.host:
            target_of(environment.host)
    except (StopTest, ValueError) as error:
        log.error("%s", error)
        sys.exit(2)
    options = environment.parsed_options
    if options.load_profile:
        # Workers get the options by message, and may have no such file.
        options.load_profile = profile.to_json()
        options.num_users = options.num_users or profile.clients
        options.spawn_rate = options.spawn_rate or (
            profile.clients / profile.ramp if profile.ramp else profile.clients)
    IdleHolder.fixed_count, SlowReader.fixed_count = profile.idle_holders, profile.slow_readers
    if not (isinstance(runner, WorkerRunner) and FORKED_BY_HAND):
        # A worker that was started by hand learns the profile later, and what to be with it.
        environment.user_classes[:] = [
            LeanUser, *([IdleHolder] if profile.idle_holders else []),
            *([SlowReader] if profile.slow_readers else [])]
        if profile.stages and not profile.open_loop:
            environment.shape_class = Steps(profile)
            environment.shape_class.runner = runner
    if isinstance(runner, MasterRunner):
        state.master = Master(environment)


class Master:
    """Collects what the workers measured, and ends the run when all that live have told."""

    def __init__(self, environment) -> None:
        self.environment = environment
        self.parts: dict[str, dict[str, Any]] = {}
        self.partial: dict[str, dict[str, Any]] = {}  # what workers told on the way
        self.concluded = False
        environment.runner.register_message("mpmkit_done", self.told)
        gevent.spawn(self.watch)

    def told(self, environment, msg, **_) -> None:
        self.parts[msg.node_id] = msg.data
        self.look()

    def watch(self) -> None:
        """A worker that was killed tells nothing; Locust misses it after some seconds."""
        while not self.concluded:
            gevent.sleep(0.5)
            if state.prepared:
                self.look()

    def look(self) -> None:
        clients = self.environment.runner.clients
        alive = {client.id for client in clients.values() if client.state != "missing"}
        if self.concluded or not state.prepared or alive - set(self.parts):
            return
        if not alive and not self.parts and self.environment.runner.state == "ready":
            return  # no worker has come yet
        self.conclude("died")
        gevent.spawn(self.environment.runner.quit)

    def conclude(self, what: str) -> None:
        """Say what was measured. Of a worker that did not come to its end, what it told last."""
        self.concluded = True
        lost = [part | {"ended": f"worker {part['place']} {what}; the rest of what it did is lost"}
                for name, part in self.partial.items() if name not in self.parts]
        state.of = max(state.of, self.environment.parsed_options.expect_workers or 1)
        state.conclude([*self.parts.values(), *lost])


@events.report_to_master.add_listener
def on_report(client_id, data, **_) -> None:
    """With each of Locust's reports, every three seconds: if we are killed, this is what is kept."""
    if state.prepared and state.started_ns and not state.ended and "MPMKIT_LOAD_RESULTS" not in (
            os.environ):
        data["mpmkit"] = state.so_far()


@events.worker_report.add_listener
def on_worker_report(client_id, data, **_) -> None:
    if state.master is not None and "mpmkit" in data:
        state.master.partial[client_id] = data["mpmkit"]


@events.test_start.add_listener
def on_test_start(environment, **_) -> None:
    try:
        state.prepare(environment)
    except (StopTest, OSError) as error:
        # Raised from here, it would leave Locust waiting for users that never come.
        log.error("%s", error)
        environment.process_exit_code = 2
        gevent.spawn(environment.runner.quit)
        state.prepared = False
        state.ended = str(error)
        return
    if not isinstance(environment.runner, MasterRunner):
        gevent.spawn(state.clerk)


@events.quitting.add_listener
def on_quitting(environment, **_) -> None:
    """Ctrl-C, SIGTERM or the regular end: what was measured is kept."""
    if state.master is not None:
        if not state.master.concluded and (state.master.parts or state.master.partial):
            state.master.conclude("was interrupted")
        return
    if isinstance(environment.runner, MasterRunner):
        return
    if not state.ended and state.prepared:
        state.ended = "interrupted"
        state.close_books()
        state.report()
        if not isinstance(environment.runner, WorkerRunner):
            state.conclude([state.result(for_message=True)])
    state.write()
