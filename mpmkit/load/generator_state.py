"""What one generator process shares between its users and its clerk: what is asked for, how much of it is
done, and how it ends (`State`).

Locust's statistics are fed in batches by the clerk: each request is counted, in its second and its
millisecond, as if by events.request.fire, which costs more than the request (``--request-events each``
fires it for every response, for those who attach listeners). Failures are always fired.

Imported by the locustfile alone: locust and gevent belong in no other process.
"""

from __future__ import annotations

import _socket  # the C type itself: locust's monkey-patching replaces socket.socket, not this
import array
import itertools
import json
import logging
import os
import random
import resource
import ssl
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from locust import __version__ as locust_version
from locust import events
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import StatsEntry

from mpmkit.load import tls
from mpmkit.load.budget import NEVER, Budget, Schedule
from mpmkit.load.profile import MAX_REQUESTS, LoadProfile
from mpmkit.load.specs import RequestSpec
from mpmkit.load.target import target_of

if TYPE_CHECKING:
    from mpmkit.load.client import Client

log = logging.getLogger("mpmkit.load")
clock = time.perf_counter_ns

TICK = 0.25
"""Seconds between the clerk's reports: to Locust's statistics, to the progress pipe, to the
timeline."""

LATE_NS = 1_000_000
"""A request of the open loop that is sent later than this after its due time counts as late."""

IMPORT_PID = os.getpid()
FORKED_BY_HAND = "--worker" in sys.argv or os.environ.get("LOCUST_MODE_WORKER")


def inherited(name: str) -> int | None:
    """A file descriptor that drive.py passed by its number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else None


progress_fd = inherited("MPMKIT_LOAD_PROGRESS_FD")
tell_ticks = bool(os.environ.get("MPMKIT_LOAD_TICKS"))
if progress_fd is not None:
    os.set_blocking(progress_fd, False)


class LoadFailure(Exception):
    """What Locust's statistics show for a failed request: its kind."""


class State:
    """What one generator process shares between its users and its clerk."""

    def __init__(self) -> None:
        self.budget = Budget(self.measure)
        self.profile = LoadProfile(requests=1)  # until a test begins
        self.prepared = False
        self.environment: Any = None
        self.life: Any = None
        self.master: Any = None
        self.reset()

    def reset(self) -> None:
        self.latencies = array.array("q")
        self.which = array.array("B")  # which line of the mix each latency is of, if several
        self.lags = array.array("q")  # open loop: from due to sent
        self.failures: Counter[str] = Counter()
        self.background: Counter[str] = Counter()  # what idle holders and slow readers got
        self.connections = 0
        self.serial = 0  # of users, to share out who keeps connections
        self.schedule: Schedule | None = None
        self.over = False  # open loop: nothing more is due before the end
        self.reconnects = 0  # the server ended a kept connection and said so
        self.retries = 0  # it ended one while a request was on its way: sent again, once
        self.body_bytes = 0
        self.warmed = 0
        self.reported = 0  # latencies already folded into Locust's statistics
        self.folded_bytes = 0
        self.ticked = 0  # latencies already told as a tick
        self.ticked_failures: Counter[str] = Counter()
        self.timeline: list[tuple[int, int, int, dict[str, int]]] = []
        self.running = 0  # users inside their loop
        self.users: set[Client] = set()
        self.started_ns = 0  # of the first measured request; 0 until then
        self.last_end = 0
        self.deadline = NEVER
        self.begun_ns = 0  # of the first request of all, warm-up included
        self.started_at = 0.0
        self.cpu_start = (0.0, 0.0)
        self.cpu_end = (0.0, 0.0)
        self.ended = ""
        self.written = False
        self.refused_since = 0  # connections that failed since the last answer
        self.last_answer = 0
        self.memos: list[dict[bytes, tuple]] = [{}]
        self.memo = self.memos[0]
        self.bodies: dict[int, str] = {}  # SHA-256 of the first answer to each line of the mix
        self.source = 0
        self.pressure = (0.0, 0.0)
        self.sofar: Any = None
        self.sofar_paths: dict[str, Any] = {}

    def prepare(self, environment, profile: LoadProfile) -> None:
        """A test begins: resolve the target, set the budget. Raises StopTest, OSError."""
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
            host, port, 0, _socket.SOCK_STREAM
        )[0]
        self.kind = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK
        self.loopback = target.loopback
        self.host = host
        self.tls = None
        if target.scheme == "https":
            try:
                self.tls = tls.context(profile.ca_file, target.loopback)
            except (OSError, ssl.SSLError) as error:
                raise StopTest(f"ca_file: {profile.ca_file}: {error}") from None
        self.specs = profile.specs
        self.memos = [{} for _ in self.specs]
        self.memo = self.memos[0]
        self.request = profile.request_bytes(target.place)
        # For each line of the mix: on a connection of its own, on a kept one, the last on it.
        self.requests = [
            tuple(
                profile.request_bytes(target.place, spec, keep=keep, last=last)
                for keep, last in ((False, False), (True, False), (True, True))
            )
            for spec in self.specs
        ]
        self.random = random.Random(f"{profile.seed} {os.getpid()}")
        self.weights = list(itertools.accumulate(spec.weight for spec in self.specs))
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
            self.budget = Budget(self.measure)
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
        spec = self.specs[which]
        events.request.fire(
            request_type=spec.method,
            name=spec.path,
            context={},
            response_time=(clock() - t0) / 1e6,
            response_length=length,
            exception=LoadFailure(kind),
        )

    # -- ending ----------------------------------------------------------------------------------

    def left_loop(self) -> None:
        """A user's loop ended. The last one out ends the run, if there is nothing left to claim."""
        if not self.running and (self.budget.exhausted or self.over or clock() >= self.deadline):
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
        from mpmkit.load.runner import merged

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
            self.sofar_paths = {spec.path: Histogram() for spec in self.specs[1:] and self.specs}
        told, count = self.sofar.count, len(self.latencies)
        self.sofar.record(self.latencies[told:count])
        for path, found in self.sofar_paths.items():
            found.record(self.of_path(path, told, count))
        return self.result(partial=True) | {
            "histogram": self.sofar.to_text(),
            "lag": Histogram().to_text(),
            "timeline": [],
            "paths": {path: found.to_text() for path, found in self.sofar_paths.items()},
            "late": 0,
        }

    def of_path(self, path: str, begin: int = 0, end: int | None = None) -> list[int]:
        """The latencies, from one place to another, of a path of the mix; several lines may have it."""
        those = [spec.path == path for spec in self.specs]
        return list(
            itertools.compress(
                self.latencies[begin:end], [those[which] for which in self.which[begin:end]]
            )
        )

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
            "asks": [spec.path for spec in self.specs],
        }
        if for_message:
            from mpmkit.load.histogram import Histogram

            result["histogram"] = Histogram(self.latencies).to_text()
            result["lag"] = Histogram(self.lags).to_text()
            seconds: dict[int, Histogram] = {}
            before = 0
            for ns, _, ok, _ in self.timeline:
                seconds.setdefault(ns // 1_000_000_000, Histogram()).record(
                    self.latencies[before:ok]
                )
                before = ok
            result["seconds"] = {str(second): found.to_text() for second, found in seconds.items()}
            result["paths"] = (
                {spec.path: Histogram(self.of_path(spec.path)).to_text() for spec in self.specs}
                if len(self.specs) > 1
                else {}
            )
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
            for suffix, values in (
                (".ns", self.latencies),
                (".which", self.which),
                (".lag", self.lags),
            ):
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
                    text = text[os.write(progress_fd, text) :]

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
            if (
                self.refused_since > max(50, 2 * len(self.users))
                and now - max(self.last_answer, self.begun_ns) > 1_000_000_000
            ):
                self.finish(
                    f"gave up: no connection to the server for 1 s ({self.refused_since} attempts)"
                )
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
                batch = self.latencies[self.reported : count]
                if len(self.specs) == 1:
                    self._fold(batch, self.specs[0])
                else:
                    which = self.which[self.reported : count]
                    for number, spec in enumerate(self.specs):
                        part = list(itertools.compress(batch, [n == number for n in which]))
                        if part:
                            self._fold(part, spec)
            self.reported = count
        if not self.started_ns:
            return
        done, now = self.done(), clock()
        self.timeline.append((max(0, now - self.started_ns), done, count, dict(self.failures)))
        if progress_fd is not None:
            line = b"%d %d %d" % (os.getpid(), done, now - self.started_ns)
            failures = Counter(self.failures)
            if tell_ticks:
                line += b" " + self.tick(count, failures)
            try:
                os.write(progress_fd, line + b"\n")
            except OSError:
                return  # nobody reads, or not fast enough; progress is a courtesy
            self.ticked, self.ticked_failures = count, failures

    def tick(self, count: int, failures: Counter[str]) -> bytes:
        """What was done since the last tick that got through, as JSON.

        Latencies are cut to their six leading bits, 32 steps for each power of two, and told by the
        middle of the step. So a tick stays below PIPE_BUF (4 KB), and the kernel neither divides it
        nor mixes it with another process's.
        """
        from mpmkit.load.histogram import Histogram

        found = Histogram()
        found.record(
            [
                ((ns >> cut) << cut) + (1 << cut >> 1)
                for ns in self.latencies[self.ticked : count]
                for cut in (max(0, ns.bit_length() - 6),)
            ]
        )
        return json.dumps(
            {"latencies": found.to_text(), "failures": failures - self.ticked_failures},
            separators=(",", ":"),
        ).encode()

    def _fold(self, batch: array.array | list[int], spec: RequestSpec) -> None:
        """What events.request.fire would have done for each of these, as the sum.

        Locust merges the reports of its own workers in this very way.
        """
        stats = self.environment.stats
        entry = StatsEntry(stats, spec.path, spec.method)
        now = time.time()
        entry.num_requests = len(batch)
        # Locust's annotations say whole milliseconds; its own code stores whatever it measured.
        entry.total_response_time = sum(batch) / 1e6  # type: ignore[assignment]
        entry.min_response_time = min(batch) / 1e6  # type: ignore[assignment]
        entry.max_response_time = max(batch) / 1e6  # type: ignore[assignment]
        entry.response_times = dict(Counter([ns // 1_000_000 for ns in batch]))
        entry.num_reqs_per_sec = {int(now): len(batch)}
        entry.last_request_timestamp = now
        entry.start_time = stats.start_time
        entry.total_content_length = self.body_bytes - self.folded_bytes
        self.folded_bytes = self.body_bytes
        stats.total.extend(entry)
        stats.entries[(spec.path, spec.method)].extend(entry)


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
        raise StopTest(
            f"{wanted} open files are needed and {hard} are allowed; use fewer users, "
            f"or raise the limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


state = State()
