"""Running a load from Python: one call, one result type, several generators behind it.

    run = run_load("http://127.0.0.1:8080", "/index.html", users=200, requests=20_000)
    run.qps, run.latency_ms(99), run.failures, run.errors, run.generator_cpu

The generator always runs in a process of its own (Locust monkey-patches whatever process imports
it), in a session of its own (a Ctrl-C reaches us, and we end it with care), and holds one end of
a pipe whose other end only we hold: it ends when we do, however we end.

`mpmkit.load.drive` imports neither locust nor gevent nor pandas.
"""

from __future__ import annotations

import argparse
import array
import importlib.util
import json
import math
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mpmkit.load.profile import LoadProfile, ProfileError, loopback_target

if TYPE_CHECKING:
    import pandas

Progress = Callable[[int, float], None]
"""Called with (requests done, seconds since the first that counts), some four times a second."""

GENERATOR_LIMIT = 0.9
"""Share of a core from which on a generator process is taken to be what limited the run. Above it
the
process hardly ever waits for an answer, so a faster server would not have shown as one."""

STARTUP = 30.0
"""Seconds granted to a generator for starting and ending, beside the profile's time limit."""

GRACE = 1.2
"""Seconds between asking a generator to end and killing it. With what Python needs to get there, a
Ctrl-C is over within two seconds."""

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


class LoadError(RuntimeError):
    """The generator could not run, or died. The text says what happened; `log` is what it
    printed."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class LoadInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the run. `run` is what had been measured until then, or None."""

    def __init__(self, run: LoadRun | None) -> None:
        super().__init__("the load was interrupted")
        self.run = run


class HasUrl(Protocol):
    """What `run_load` needs of a server: where it listens."""

    @property
    def url(self) -> str: ...


@dataclass(repr=False)
class LoadRun:
    """What one load measured.

    driver: which generator ran. target: where. profile: the load that it executed.
    requests: requests that ended, well or badly (the warm-up's do not count).
    errors: how many failed, by kind (see mpmkit.load.response for the kinds).
    duration: seconds from the first request's start to the last one's end.
    latencies_ns: one entry per good answer, in the order in which they came in each process;
    empty for
        generators that only give percentiles.
    processes_cpu: share of a core that each generator process used, 0 to 1.
    retries: requests that crossed the server's closing of a kept connection and were sent again.
    reconnects: kept connections that the server closed after an answer, having said so.
    ended: why the run ended: "requests", "duration", "interrupted", "time limit of ...", "gave
    up: ...". timeline: (seconds, requests done) about four times a second.
    """

    driver: str
    target: str
    profile: LoadProfile
    requests: int
    errors: Counter[str]
    duration: float
    latencies_ns: array.array = field(default_factory=lambda: array.array("q"))
    processes_cpu: tuple[float, ...] = ()
    retries: int = 0
    reconnects: int = 0
    ended: str = "requests"
    started_at: float = 0.0
    timeline: tuple[tuple[float, int], ...] = ()
    version: str = ""
    percentiles_ms: dict[float, float] = field(default_factory=dict)
    _sorted: array.array | None = None

    @property
    def users(self) -> int:
        """Concurrent clients."""
        return self.profile.users

    @property
    def keep_alive(self) -> bool:
        """Whether connections were reused."""
        return self.profile.keep_alive

    @property
    def path(self) -> str:
        """What was asked for."""
        return self.profile.path

    @property
    def failures(self) -> int:
        """Requests without a good answer."""
        return sum(self.errors.values())

    @property
    def succeeded(self) -> int:
        """Requests with a good answer."""
        return self.requests - self.failures

    @property
    def complete(self) -> bool:
        """Whether the run came to the end that its profile asked for."""
        return self.ended in ("requests", "duration")

    @property
    def qps(self) -> float:
        """Good answers per second, over the whole window; 0 if there was none."""
        return self.succeeded / self.duration if self.duration > 0 else 0.0

    @property
    def generator_cpu(self) -> float:
        """Share of a core that a generator process used, on average; nan if not known."""
        cpu = self.processes_cpu
        return sum(cpu) / len(cpu) if cpu else math.nan

    @property
    def generator_bound(self) -> bool:
        """True if a generator process was as busy as a core allows: then `qps` is its limit and
        says
        little about the server's."""
        return any(cpu > GENERATOR_LIMIT for cpu in self.processes_cpu)

    def latency_ms(self, percentile: float = 50) -> float:
        """The latency in ms that `percentile` (0 to 100) percent of the good answers did not
        exceed.

        Exact where raw latencies are at hand (nearest rank: a latency that was observed); read off
        the generator's own table otherwise. nan if nothing is known. Raises ValueError outside
        0-100.
        """
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile: must be 0 to 100, not {percentile!r}")
        if len(self.latencies_ns):
            if self._sorted is None or len(self._sorted) != len(self.latencies_ns):
                self._sorted = array.array("q", sorted(self.latencies_ns))
            # The small step back keeps 99.9 % of 1,000 from becoming 999.0000000001.
            rank = math.ceil(percentile * len(self._sorted) / 100 - 1e-9)
            return self._sorted[max(rank, 1) - 1] / 1e6
        above = [p for p in self.percentiles_ms if p >= percentile]
        return self.percentiles_ms[min(above)] if above else math.nan

    @property
    def mean_ms(self) -> float:
        """Mean latency of the good answers in ms, or nan."""
        count = len(self.latencies_ns)
        return sum(self.latencies_ns) / count / 1e6 if count else math.nan

    def row(self) -> dict[str, Any]:
        """The run as one tidy row; the columns are described in data/README.md."""
        return {
            "started_at": self.started_at,
            "driver": self.driver,
            "driver_version": self.version,
            "path": self.path,
            "method": self.profile.method,
            "users": self.users,
            "keep_alive": self.keep_alive,
            "processes": self.profile.processes,
            "requests": self.requests,
            "failures": self.failures,
            "errors": json.dumps(dict(sorted(self.errors.items()))),
            "duration_s": self.duration,
            "qps": self.qps,
            "mean_ms": self.mean_ms,
            "p50_ms": self.latency_ms(50),
            "p90_ms": self.latency_ms(90),
            "p99_ms": self.latency_ms(99),
            "p999_ms": self.latency_ms(99.9),
            "max_ms": self.latency_ms(100),
            "generator_cpu": self.generator_cpu,
            "generator_bound": self.generator_bound,
            "retries": self.retries,
            "reconnects": self.reconnects,
            "ended": self.ended,
        }

    def to_frame(self) -> pandas.DataFrame:
        """The run as a frame of one tidy row."""
        import pandas

        frame = pandas.DataFrame([self.row()])
        frame["started_at"] = pandas.to_datetime(frame["started_at"], unit="s", utc=True)
        return frame

    def summary(self) -> str:
        """A few lines for people."""
        way = "keep-alive" if self.keep_alive else "new connection each"
        p50, p99, longest = (self.latency_ms(p) for p in (50, 99, 100))
        lines = [
            f"{self.profile.method} {self.path}, {self.users} users, {way}, by {self.driver}",
            f"{self.qps:,.0f} requests/s: {self.succeeded:,} good answers in {self.duration:.2f} s",
        ]
        if self.succeeded:
            lines.append(f"latency ms: p50 {p50:.3g}, p99 {p99:.3g}, max {longest:.3g}")
        if self.failures:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.errors.most_common())
            lines.append(f"{self.failures:,} of {self.requests:,} requests failed: {kinds}")
        if self.retries:
            lines.append(f"{self.retries:,} requests met the server's close and were sent again")
        if not self.complete:
            lines.append(f"the run did not come to its end: {self.ended}")
        if not math.isnan(self.generator_cpu):
            lines.append(f"generator: {self.generator_cpu:.0%} of a core per process"
                         + (" - it was the bottleneck, the server may be faster"
                            if self.generator_bound else ""))
        return "\n".join(lines)

    def __repr__(self) -> str:
        notes = f", {self.failures:,} FAILED {dict(self.errors)}" if self.failures else ""
        if not self.complete:
            notes += f", ended early: {self.ended}"
        if self.generator_bound:
            notes += ", generator-bound"
        if self.succeeded:
            notes = (f", p50 {self.latency_ms(50):.3g} ms, p99 {self.latency_ms(99):.3g} ms"
                     + notes)
        return (f"<LoadRun {self.qps:,.0f} requests/s, {self.requests:,} requests, {self.users} "
                f"users, {'keep-alive' if self.keep_alive else 'new connections'}{notes}>")


def run_load(
    target: HasUrl | str,
    path: str | None = None,
    *,
    users: int | None = None,
    requests: int | None = None,
    duration: float | None = None,
    keep_alive: bool | None = None,
    driver: str = "locust",
    processes: int | None = None,
    timeout: float | None = None,
    expect_status: int | None = None,
    expect_length: int | None = None,
    warmup_requests: int | None = None,
    warmup_seconds: float | None = None,
    time_limit: float | None = None,
    profile: LoadProfile | None = None,
    on_progress: Progress | None = None,
) -> LoadRun:
    """Put a load on a server and return what was measured.

    target: a server (anything with a `.url`) or ``http://127.0.0.1:PORT``; loopback only.
    driver: "locust" or "ab" (which must be installed).
    profile: a LoadProfile to start from; the other arguments change its fields, which are described
        there with their units and ranges. Without one, `requests` or `duration` must be given.
    on_progress: called in this thread with (requests done, seconds) while the load runs.

    Raises ValueError for a bad target, driver or field (ProfileError), LoadError if the generator
    cannot run or dies, LoadInterrupted (a KeyboardInterrupt that carries what was measured) on
    Ctrl-C. A server that fails does not raise: see `failures`, `errors` and `ended` of the
    result.
    """
    url = target if isinstance(target, str) else getattr(target, "url", target)
    host, port = loopback_target(url)
    if driver not in DRIVERS:
        raise ValueError(f"driver: must be one of {', '.join(DRIVERS)}, not {driver!r}")
    given: dict[str, Any] = {
        "path": path, "users": users, "requests": requests, "duration": duration,
        "keep_alive": keep_alive, "processes": processes, "timeout": timeout,
        "expect_status": expect_status, "expect_length": expect_length,
        "warmup_requests": warmup_requests, "warmup_seconds": warmup_seconds,
        "time_limit": time_limit,
    }
    given = {name: value for name, value in given.items() if value is not None}
    profile = profile.but(**given) if profile is not None else LoadProfile(**given)
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return DRIVERS[driver](base, profile, on_progress)


# -- the generator's process ---------------------------------------------------------------------


class Generator:
    """A child process in a session of its own, which is gone when the `with` block is."""

    def __init__(self, argv: list[str], folder: Path, **how: Any) -> None:
        self.log_path = folder / "log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stderr=log, cwd=folder, start_new_session=True,
                **how)
        self.rusage: Any = None

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def ended(self) -> bool:
        """Whether the leader has ended. It is not reaped yet, so its process group cannot be
        reused."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid,
                         os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def ask_to_end(self, number: int) -> None:
        """Send a signal to all its processes and wait a moment for them to write what they have."""
        self._signal(number)
        until = time.monotonic() + GRACE
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.02)

    def log(self) -> str:
        """The end of what it printed on standard error."""
        with open(self.log_path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            return file.read().decode(errors="replace").strip()

    def _signal(self, number: int) -> None:
        if self.process.returncode is None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass

    def _kill(self) -> None:
        # Also after a regular end: whatever its leader left behind goes with it.
        self._signal(signal.SIGKILL)
        if self.process.returncode is None:
            _, status, self.rusage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)


def _last_words(log: str, lines: int = 3) -> str:
    errors = re.findall(r"/(?:ERROR|CRITICAL)/[\w.]+: (.+)$", log, re.MULTILINE)
    said = errors or [line.strip() for line in log.splitlines() if line.strip()]
    return " | ".join(said[-lines:]) if said else "it said nothing"


# -- locust --------------------------------------------------------------------------------------


def _run_locust(base: str, profile: LoadProfile, on_progress: Progress | None) -> LoadRun:
    if importlib.util.find_spec("locust") is None:
        raise LoadError("Locust is not installed for this Python; install it (pip install locust) "
                        "or use driver='ab'")
    with tempfile.TemporaryDirectory(prefix="mpmkit-load-") as name:
        folder = Path(name)
        (folder / "profile.json").write_text(profile.to_json())
        progress, progress_out = os.pipe()
        life_in, life = os.pipe()
        try:
            # Locust's own environment variables would change a run behind the profile's back.
            environ = {key: value for key, value in os.environ.items()
                       if not key.startswith(("LOCUST_", "MPMKIT_LOAD_"))}
            environ.update(MPMKIT_LOAD_RESULTS=name, MPMKIT_LOAD_PROGRESS_FD=str(progress_out),
                           MPMKIT_LOAD_LIFE_FD=str(life_in))
            how = {"env": environ, "stdout": subprocess.DEVNULL,
                   "pass_fds": (progress_out, life_in)}
            with Generator(_locust_argv(base, profile), folder, **how) as generator:
                os.close(progress_out)
                os.close(life_in)
                progress_out = life_in = -1
                try:
                    stopped = _watch(generator, progress, profile, on_progress)
                except KeyboardInterrupt:
                    generator.ask_to_end(signal.SIGTERM)
                    raise LoadInterrupted(_gather(folder, base, profile)) from None
                except BaseException:
                    generator.ask_to_end(signal.SIGTERM)
                    raise
                if stopped:
                    generator.ask_to_end(signal.SIGTERM)
            run = _gather(folder, base, profile)
            if run is None:
                raise LoadError(
                    f"Locust ended with exit code {generator.process.returncode} and no result: "
                    f"{_last_words(generator.log())}", generator.log())
            if stopped:
                run.ended = stopped
            return run
        finally:
            for fd in (progress, progress_out, life_in, life):
                if fd >= 0:
                    os.close(fd)


def _locust_argv(base: str, profile: LoadProfile) -> list[str]:
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
            "--loglevel", "WARNING", "--json-file", "locust",  # else it prints its tables
            "--host", base, "--load-profile", "@profile.json",
            # All users at once: a ramp would be part of what is measured.
            "--users", str(profile.users), "--spawn-rate", str(profile.users)]
    if profile.processes > 1:
        # Locust's default is every address of the machine and one fixed port for all runs on it.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        argv += ["--processes", str(profile.processes),
                 "--master-bind-host", "127.0.0.1", "--master-bind-port", port,
                 "--master-host", "127.0.0.1", "--master-port", port]
    return argv


def _watch(generator: Generator, progress: int, profile: LoadProfile,
           on_progress: Progress | None) -> str:
    """Wait for the generator's end and hand on its progress. Why it had to be stopped, or ""."""
    until = time.monotonic() + profile.time_limit + STARTUP
    done: dict[bytes, tuple[int, int]] = {}
    rest = b""
    while not generator.ended():
        if time.monotonic() > until:
            return f"time limit of {profile.time_limit:g} s (the generator did not end by itself)"
        # Reads as ended when the generator's last process is gone, so this also waits for that.
        if not select.select([progress], [], [], 0.1)[0]:
            continue
        data = os.read(progress, 65_536)
        if not data:
            time.sleep(0.005)
            continue
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            pid, count, ns = line.split()
            done[pid] = int(count), int(ns)
        if on_progress is not None and lines:
            on_progress(sum(count for count, _ in done.values()),
                        max(ns for _, ns in done.values()) / 1e9)
    return ""


def _gather(folder: Path, base: str, profile: LoadProfile) -> LoadRun | None:
    """Merge what the generator's processes wrote. None if none did."""
    parts = [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*.json"))]
    if not parts:
        return None
    latencies = array.array("q")
    errors: Counter[str] = Counter()
    timeline: list[tuple[int, int, int]] = []
    began = min((part["started_ns"] for part in parts if part["started_ns"]), default=0)
    for part in parts:
        latencies.frombytes((folder / f"{part['pid']}.ns").read_bytes())
        errors.update(part["failures"])
        timeline += [(part["started_ns"] - began + ns, part["pid"], done)
                     for ns, done in part["timeline"]]
    # The clock is the system's monotonic one, the same for all processes.
    last = max(part["last_end_ns"] for part in parts)
    counts: dict[int, int] = {}
    merged = []
    for ns, pid, done in sorted(timeline):
        counts[pid] = done
        merged.append((ns / 1e9, sum(counts.values())))
    reasons = [part["ended"] for part in parts]
    unusual = [reason for reason in reasons if reason not in ("requests", "duration")]
    if not unusual and len(parts) < profile.processes:
        lost = profile.processes - len(parts)
        unusual = [f"{lost} of {profile.processes} generator processes died"]
    return LoadRun(
        driver="locust", target=base, profile=profile,
        requests=len(latencies) + sum(errors.values()), errors=errors,
        duration=max(0, last - began) / 1e9 if began else 0.0,
        latencies_ns=latencies,
        processes_cpu=tuple(
            min(1.0, (part["cpu_user"] + part["cpu_system"])
                / max(1e-9, (part["finished_ns"] - part["started_ns"]) / 1e9))
            for part in parts if part["started_ns"]),
        retries=sum(part["retries"] for part in parts),
        reconnects=sum(part["reconnects"] for part in parts),
        ended=unusual[0] if unusual else reasons[0],
        started_at=min((part["started_at"] for part in parts if part["started_at"]),
                       default=time.time()),
        timeline=tuple(merged),
        version=parts[0]["locust"],
    )


# -- ab ------------------------------------------------------------------------------------------


def _run_ab(base: str, profile: LoadProfile, on_progress: Progress | None) -> LoadRun:
    """The same load by ab: one process, HTTP/1.0 (also with keep-alive), times in microseconds, and
    percentiles instead of single latencies."""
    program = shutil.which("ab")
    if program is None:
        raise LoadError("ab is not installed; install it (Debian, Ubuntu: apt-get install "
                        "apache2-utils) or use driver='locust'")
    for name, bad, why in (
        ("processes", profile.processes != 1, "ab is one process"),
        ("expect_status", not 200 <= profile.expect_status < 300,
         "ab only tells 2xx from the rest"),
        ("requests", (profile.requests or profile.users) < profile.users,
         "ab wants at least one request per user"),
    ):
        if bad:
            raise ProfileError(f"{name}: {why}; use driver='locust'")
    with tempfile.TemporaryDirectory(prefix="mpmkit-load-") as name:
        folder = Path(name)
        if profile.warmup_requests:
            warm = max(profile.users, profile.warmup_requests)
            _ab(program, base, profile.but(requests=warm, duration=None), folder, None)
        if profile.warmup_seconds:
            _ab(program, base, profile.but(requests=None, duration=profile.warmup_seconds),
            folder, None)
        return _ab(program, base, profile, folder, on_progress)


def _ab(program: str, base: str, profile: LoadProfile, folder: Path,
        on_progress: Progress | None) -> LoadRun:
    csv_path, out_path = folder / "percentiles.csv", folder / "out"
    csv_path.unlink(missing_ok=True)
    argv = [program, "-r", "-c", str(profile.users), "-s", str(math.ceil(profile.timeout)),
            "-e", str(csv_path)]
    if profile.duration is not None:
        argv += ["-t", str(math.ceil(profile.duration))]  # sets -n, so -n must follow it
    argv += ["-n", str(profile.requests or 5_000_000)]
    if profile.keep_alive:
        argv.append("-k")
    if profile.method == "HEAD":
        argv.append("-i")
    if profile.method == "POST":
        (folder / "body").write_text(profile.body)
        argv += ["-p", str(folder / "body")]
    for header in profile.headers:
        argv += ["-H", ": ".join(header)]
    argv.append(base + profile.path)
    started_at, began = time.time(), time.monotonic()
    interrupted = stopped = ""
    told = 0
    with open(out_path, "wb") as out:
        with Generator(argv, folder, stdout=out) as generator:
            try:
                until = began + profile.time_limit
                while not generator.ended():
                    time.sleep(0.02)
                    if time.monotonic() > until:
                        stopped = f"time limit of {profile.time_limit:g} s"
                        generator.ask_to_end(signal.SIGINT)  # on which ab prints what it has
                        break
                    if on_progress is not None:
                        said = re.findall(r"Completed (\d+) requests", generator.log())
                        if said and int(said[-1]) != told:
                            told = int(said[-1])
                            on_progress(told, time.monotonic() - began)
            except KeyboardInterrupt:
                interrupted = "interrupted"
                generator.ask_to_end(signal.SIGINT)
    text = out_path.read_text(errors="replace")
    run = parse_ab(text, csv_path.read_text() if csv_path.exists() else "", base, profile)
    if run is not None:
        usage = generator.rusage
        run.started_at = started_at
        if usage is not None and run.duration > 0:
            run.processes_cpu = (min(1.0, (usage.ru_utime + usage.ru_stime) / run.duration),)
        run.ended = interrupted or stopped or run.ended
        if on_progress is not None and not interrupted:
            on_progress(run.requests, run.duration)
    if interrupted:
        raise LoadInterrupted(run)
    if run is None:
        raise LoadError(f"ab ended with exit code {generator.process.returncode} and no result: "
                        f"{_last_words(generator.log(), 1)}", generator.log())
    return run


def parse_ab(text: str, csv_text: str, base: str, profile: LoadProfile) -> LoadRun | None:
    """A LoadRun from what ab printed and its file of percentiles (-e). None if it printed no
    result.

    ab counts an answer whose length differs from the first one's as failed, and counts answers that
    are not 2xx apart; those usually have another length too, so they are not counted twice here.
    What went wrong with a connection it does not tell: "connect", "receive" and "exception" are its
    own words.
    """
    def number(label: str) -> float | None:
        match = re.search(rf"^{label}:\s+([\d.]+)", text, re.MULTILINE)
        return float(match[1]) if match else None

    requests, rate = number("Complete requests"), number("Requests per second")
    if not requests or not rate:
        return None
    errors: Counter[str] = Counter()
    split = re.search(r"\(Connect: (\d+), Receive: (\d+), Length: (\d+), Exceptions: (\d+)\)", text)
    connect, receive, length, exceptions = map(int, split.groups()) if split else (0, 0, 0, 0)
    not_2xx = int(number("Non-2xx responses") or 0)
    expected = profile.expect_length
    if expected is not None and int(number("Document Length") or 0) != expected:
        # All that agreed with the first answer disagree with what was expected.
        length = int(requests) - length
    left = int(requests)
    for kind, count in (("status", not_2xx), ("length", length - not_2xx), ("connect", connect),
                        ("receive", receive), ("exception", exceptions)):
        # A refused connection counts as several failures with ab, but it is one request.
        if (count := min(left, count)) > 0:
            errors[kind] = count
            left -= count
    table: dict[float, float] = {}
    for line in csv_text.splitlines()[1:]:
        percent, _, ms = line.partition(",")
        try:
            table[float(percent)] = float(ms)
        except ValueError:
            continue
    longest = re.search(r"^\s*100%\s+(\d+)", text, re.MULTILINE)
    if longest:
        table.setdefault(100.0, float(longest[1]))
    version = re.search(r"ApacheBench, Version ([\d.]+)", text)
    return LoadRun(
        driver="ab", target=base, profile=profile, requests=int(requests), errors=errors,
        duration=requests / rate, percentiles_ms=table if left else {},
        ended="requests" if requests == profile.requests else "duration",
        version=version[1] if version else "")


DRIVERS: dict[str, Callable[[str, LoadProfile, Progress | None], LoadRun]] = {
    "locust": _run_locust,
    "ab": _run_ab,
}


# -- the command line ----------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line, where argparse prints its usage first."""
        self.exit(2, f"mpmkit: {message}; try: {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """``mpmkit load URL``: one load, and what it measured, on standard output.

    0: every request was answered well. 1: some were not, or the generator failed. 2: a bad
    argument. 130: Ctrl-C (what was measured until then is printed).
    """
    parser = _Parser(prog="mpmkit load", allow_abbrev=False,
                     description="Put a closed-loop load on a server of this machine.")
    parser.add_argument("target", metavar="URL", help="like http://127.0.0.1:8080 (loopback only)")
    parser.add_argument("--path", help="what to ask for (default: /)")
    parser.add_argument("--users", type=int, metavar="N", help="concurrent clients (default: 1)")
    parser.add_argument("--requests", type=int, metavar="N", help="requests in all")
    parser.add_argument("--duration", type=float, metavar="S", help="seconds to go on")
    parser.add_argument("--keep-alive", action="store_true", default=None, help="reuse connections")
    parser.add_argument("--driver", default="locust", metavar="NAME",
                        help=f"{' or '.join(DRIVERS)} (default: locust)")
    parser.add_argument("--processes", type=int, metavar="N",
                        help="generator processes (default: 1)")
    parser.add_argument("--timeout", type=float, metavar="S",
                        help="seconds that a request may take (default: 30)")
    parser.add_argument("--expect-status", type=int, metavar="N",
                        help="of a good answer (default: 200)")
    parser.add_argument("--expect-length", type=int, metavar="N",
                        help="bytes of a good answer's body (default: any)")
    parser.add_argument("--warmup-requests", type=int, metavar="N",
                        help="sent first and not counted")
    parser.add_argument("--warmup-seconds", type=float, metavar="S", help="of load, not counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = vars(parser.parse_args(argv))
    as_json = options.pop("json")
    live = sys.stderr.isatty()

    def show(done: int, seconds: float) -> None:
        sys.stderr.write(f"\r{done:,} requests in {seconds:.1f} s ")
        sys.stderr.flush()

    try:
        run = run_load(**options, on_progress=show if live else None)
        status = 1 if run.failures or not run.complete else 0
    except LoadInterrupted as stop:
        print("mpmkit: interrupted", file=sys.stderr)
        if stop.run is None:
            return 130
        run, status = stop.run, 130
    except LoadError as error:
        print(f"mpmkit: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"mpmkit: {error}", file=sys.stderr)
        return 2
    if live:
        sys.stderr.write("\r" + " " * 40 + "\r")
    if as_json:
        # Not a number is not JSON: what is not known is null.
        row = {key: None if value != value else value for key, value in run.row().items()}
        print(json.dumps(row))
    else:
        print(run.summary())
    return status
