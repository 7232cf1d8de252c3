"""The same load by ab and by wrk: their command lines, what they cannot do, and how their reports are read."""

from __future__ import annotations

import math
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from mpmkit.load.generator_process import (
    STARTUP,
    Generator,
    LoadError,
    LoadInterrupted,
    Progress,
    last_words,
    scratch,
)
from mpmkit.load.preflight import Pressure
from mpmkit.load.profile import LoadProfile
from mpmkit.load.result import LoadRun

INTERRUPTED = "interrupted"  # why a run ended: Ctrl-C

# -- ab ------------------------------------------------------------------------------------------


def _only_locust(profile: LoadProfile) -> Iterable[tuple[str, str]]:
    """(field, why) of everything that neither ab nor wrk has."""
    for name, why in (
        ("mix", "asks for one path"),
        ("stages", "has one load from begin to end"),
        ("arrival", "is a closed loop"),
        ("think_time", "never pauses"),
        ("requests_per_connection", "leaves closing to the server"),
        ("ramp", "starts all clients at once"),
        ("slow_readers", "has no other clients"),
        ("idle_holders", "has no other clients"),
        ("expect_body", "does not look at bodies"),
        ("ca_file", "checks no certificate"),
        ("events", "has no events"),
    ):
        if getattr(profile, name) != LoadProfile.__dataclass_fields__[name].default:
            yield name, why
    if 0 < profile.keep_share < 1:
        yield "keep_alive", "keeps all connections or none"


def _ab_cannot(profile: LoadProfile) -> Iterable[tuple[str, str]]:
    for name, why in _only_locust(profile):
        yield name, f"ab {why}"
    if profile.processes != 1:
        yield "processes", "ab is one process"
    if not 200 <= profile.expect_status < 300:
        yield "expect_status", "ab only tells 2xx from the rest"
    if (profile.requests or profile.users) < profile.users:
        yield "requests", "ab wants at least one request per user"


def _wrk_cannot(profile: LoadProfile) -> Iterable[tuple[str, str]]:
    for name, why in _only_locust(profile):
        yield name, f"wrk {why}"
    if profile.requests is not None:
        yield "requests", "wrk stops by time only, give duration"
    if profile.warmup_requests:
        yield "warmup_requests", "wrk stops by time only, give warmup_seconds"
    if profile.expect_status >= 400:
        yield "expect_status", "wrk counts every answer from 400 on as failed"
    if profile.expect_length is not None:
        yield "expect_length", "wrk does not look at bodies"


CANNOT: dict[str, Callable[[LoadProfile], Iterable[tuple[str, str]]]] = {
    "ab": _ab_cannot,
    "wrk": _wrk_cannot,
}
"""What a driver cannot do of a profile: (field, why)."""


def _execute(
    driver: str,
    argv: list[str],
    folder: Path,
    profile: LoadProfile,
    parse: Callable[[str], LoadRun | None],
    on_progress: Progress | None,
    *,
    limit: float,
    threads: int = 1,
) -> LoadRun:
    """Run a generator to its end, or for `limit` seconds, and read its report.

    Raises LoadInterrupted after a Ctrl-C, LoadError without a report.
    """
    pressure, started_at, began = Pressure(), time.time(), time.monotonic()
    ended, shown = "", (0, 0)
    with open(folder / "out", "wb") as out, Generator(argv, folder, stdout=out) as generator:
        try:
            while not generator.ended():
                time.sleep(0.02)
                pressure.sample()
                passed = time.monotonic() - began
                if passed > limit:
                    ended = f"time limit of {profile.time_limit:g} s"
                    generator.ask_to_end(signal.SIGINT)  # on which ab prints what it has
                    break
                # wrk counts to itself until its end.
                found = re.findall(r"Completed (\d+) requests", generator.log()) or [0]
                now = int(found[-1]), int(passed / 0.25)
                if on_progress is not None and now != shown:
                    shown = now
                    on_progress(now[0], passed)
        except KeyboardInterrupt:
            ended = INTERRUPTED
            generator.ask_to_end(signal.SIGINT)
    text = (folder / "out").read_text(errors="replace")
    run, usage = parse(text), generator.rusage
    if run is not None:
        run.started_at = started_at
        run.run_queue, run.steal = pressure.run_queue, pressure.steal
        if usage is not None and run.duration > 0:
            used = (usage.ru_utime + usage.ru_stime) / run.duration / threads
            run.processes_cpu = (min(1.0, used),) * threads
        run.ended = ended or run.ended
    if ended == INTERRUPTED:
        raise LoadInterrupted(run)
    if run is None:
        said = f"{generator.log()}\n{text}".strip()
        raise LoadError(
            f"{driver} ended with exit code {generator.process.returncode} and no result: "
            f"{last_words(said, 1)}",
            said,
        )
    if on_progress is not None:
        on_progress(run.requests, run.duration)
    return run


def _program(name: str, package: str) -> str:
    """Where a program is. Raises LoadError with the way to install it."""
    found = shutil.which(name)
    if found is None:
        raise LoadError(
            f"{name} is not installed; install it (Debian, Ubuntu: apt-get install {package}) "
            "or use driver='locust'"
        )
    return found


def run_ab(base: str, profile: LoadProfile, on_progress: Progress | None) -> LoadRun:
    """The same load by ab: one process, HTTP/1.0 (also with keep-alive), times in microseconds, and
    percentiles instead of single latencies."""
    program = _program("ab", "apache2-utils")
    with scratch() as name:
        folder = Path(name)
        if profile.warmup_requests:
            warm = max(profile.users, profile.warmup_requests)
            _ab(program, base, profile.but(requests=warm, duration=None), folder, None)
        if profile.warmup_seconds:
            warmer = profile.but(requests=None, duration=profile.warmup_seconds)
            _ab(program, base, warmer, folder, None)
        return _ab(program, base, profile, folder, on_progress)


def _ab(
    program: str, base: str, profile: LoadProfile, folder: Path, on_progress: Progress | None
) -> LoadRun:
    csv_path = folder / "percentiles.csv"
    csv_path.unlink(missing_ok=True)
    argv = [program, "-r", "-c", str(profile.users), "-s", str(math.ceil(profile.timeout))]
    argv += ["-e", str(csv_path)]
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

    def parse(text: str) -> LoadRun | None:
        table = csv_path.read_text() if csv_path.exists() else ""
        return parse_ab(text, table, base, profile)

    limit = profile.time_limit
    return _execute("ab", argv, folder, profile, parse, on_progress, limit=limit)


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
    for kind, count in (
        ("status", not_2xx),
        ("length", length - not_2xx),
        ("connect", connect),
        ("receive", receive),
        ("exception", exceptions),
    ):
        # A refused connection counts as several failures with ab, but it is one request.
        if (count := min(left, count)) > 0:
            errors[kind] = count
            left -= count
    table = _ab_table(csv_text, requests)
    longest = re.search(r"^\s*100%\s+(\d+)", text, re.MULTILINE)
    if longest:
        table.setdefault(100.0, float(longest[1]))
    version = re.search(r"ApacheBench, Version ([\d.]+)", text)
    return LoadRun(
        driver="ab",
        target=base,
        profile=profile,
        requests=int(requests),
        errors=errors,
        duration=requests / rate,
        percentiles_ms=table if left else {},
        ended="requests" if requests == profile.requests else "duration",
        version=version[1] if version else "",
    )


def _ab_table(csv_text: str, requests: float) -> dict[float, float]:
    """Percentile -> ms, from ab's file."""
    table: dict[float, float] = {}
    for line in csv_text.splitlines()[1:]:
        percent, _, ms = line.partition(",")
        try:
            share, latency = float(percent), float(ms)
        except ValueError:
            continue
        # ab rounds the rank, counted from 0, and with fewer than 50 requests reads the 99th percentile
        # from behind its own table. What it never measured is left out; the slowest stands for it.
        if share == 100 or math.floor(0.5 + requests * share / 100) < requests:
            table[share] = latency
    return table


# -- wrk -----------------------------------------------------------------------------------------

WRK_SCRIPT = """\
-- Written by mpmkit.load.ab_wrk.
wrk.method = %(method)s
wrk.body = %(body)s
%(headers)s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("MPMKIT %%d %%d %%d %%d %%d %%d %%d\\n", summary.requests,
    summary.duration, e.connect, e.read, e.write, e.status, e.timeout))
  for _, p in ipairs({%(steps)s}) do
    io.write(string.format("MPMKIT-P %%g %%d\\n", p, latency:percentile(p)))
  end
  io.write(string.format("MPMKIT-P 100 %%d\\n", latency.max))
end
"""

WRK_STEPS = (1, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99)


def _lua(text: str) -> str:
    """A Lua string of any bytes."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


def wrk_script(
    method: str = "GET", body: str | None = None, headers: Iterable[tuple[str, str]] = ()
) -> str:
    """The script that makes wrk ask so, and report what `parse_wrk` reads."""
    return WRK_SCRIPT % {
        "method": _lua(method),
        "body": "nil" if body is None else _lua(body),
        "headers": "\n".join(
            f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in headers
        ),
        "steps": ", ".join(map(str, WRK_STEPS)),
    }


def run_wrk(base: str, profile: LoadProfile, on_progress: Progress | None) -> LoadRun:
    """The same load by wrk: HTTP/1.1, one thread per process of the profile, by time only. Latency is
    from the sending of a request to the end of its answer; connecting is not part of it."""
    program = _program("wrk", "wrk")
    with scratch() as name:
        folder = Path(name)
        headers = list(profile.headers)
        if not profile.keep_alive:
            headers.append(("Connection", "close"))
        (folder / "script.lua").write_text(
            wrk_script(profile.method, profile.body if profile.method == "POST" else None, headers)
        )
        if profile.warmup_seconds:
            _wrk(program, base, profile.but(duration=profile.warmup_seconds), folder, None)
        return _wrk(program, base, profile, folder, on_progress)


def _wrk(
    program: str, base: str, profile: LoadProfile, folder: Path, on_progress: Progress | None
) -> LoadRun:
    seconds = max(1, round(profile.duration or 1))  # wrk takes whole seconds only
    argv = [program, f"-t{profile.processes}", f"-c{profile.users}", f"-d{seconds}s"]
    argv += ["--timeout", f"{math.ceil(profile.timeout)}s", "-s", str(folder / "script.lua")]
    return _execute(
        "wrk",
        [*argv, base + profile.path],
        folder,
        profile,
        lambda text: parse_wrk(text, base, profile),
        on_progress,
        limit=min(profile.time_limit, seconds + STARTUP),
        threads=profile.processes,
    )


def parse_wrk(text: str, base: str, profile: LoadProfile) -> LoadRun | None:
    """A LoadRun from the lines that our script had wrk print. None if they are not there.

    wrk counts a read error for a connection that ended between two answers as well as within one;
    the first kind loses no request, and it does not tell them apart: they stand as reconnects.
    """
    match = re.search(r"^MPMKIT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)
    if not match:
        return None
    requests, micros, connect, read, write, status, timeout = map(int, match.groups())
    kinds = {"connect": connect, "reset": write, "status": status, "timeout": timeout}
    errors = Counter({kind: count for kind, count in kinds.items() if count})
    version = re.search(r"^wrk (\S+)", text, re.MULTILINE)
    table = {
        float(p): int(us) / 1e3
        for p, us in re.findall(r"^MPMKIT-P ([\d.]+) (\d+)$", text, re.MULTILINE)
    }
    return LoadRun(
        driver="wrk",
        target=base,
        profile=profile,
        # Only answers are requests to wrk; what failed without one is added.
        requests=requests + connect + write + timeout,
        errors=errors,
        duration=micros / 1e6,
        reconnects=read,
        percentiles_ms=table if requests > status else {},
        ended="duration",
        version=version[1] if version else "",
    )
