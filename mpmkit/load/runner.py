"""Running a load from Python: one call, one result type, several generators behind it.

    run = run_load("http://127.0.0.1:8080", "/index.html", users=200, requests=20_000)
    run.qps, run.latency_ms(99), run.failures, run.errors, run.generator_cpu

The generator always runs in a process of its own (Locust monkey-patches whatever process imports
it), in a session of its own (a Ctrl-C reaches us, and we end it with care), and holds one end of
a pipe whose other end only we hold: it ends when we do, however we end.

Here are the call and the driver for Locust; `run` has the result, `ab_wrk` the two other drivers,
`process` what all three share. None of them imports locust, gevent or pandas.
"""

from __future__ import annotations

import array
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from mpmkit.load import tls
from mpmkit.load.ab_wrk import CANNOT, run_ab, run_wrk
from mpmkit.load.generator_process import (
    STARTUP,
    Generator,
    LoadError,
    LoadInterrupted,
    Progress,
    last_words,
    scratch,
)
from mpmkit.load.histogram import Histogram
from mpmkit.load.preflight import Forecast, forecast, system
from mpmkit.load.profile import LoadProfile, ProfileError, new_seed, refuse_unknown
from mpmkit.load.result import LoadRun, OnTick, Tick
from mpmkit.load.run_queue import Pressure
from mpmkit.load.target import target_of

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


class HasUrl(Protocol):
    """What `run_load` needs of a server: where it listens."""

    @property
    def url(self) -> str: ...


def run_load(
    target: HasUrl | str,
    path: str | None = None,
    *,
    driver: str = "locust",
    profile: LoadProfile | None = None,
    on_progress: Progress | None = None,
    on_tick: OnTick | None = None,
    ceiling: float | None = None,
    **fields: Any,
) -> LoadRun:
    """Put a load on a server and return what was measured.

    target: a server (anything with a `.url`) or ``http://127.0.0.1:PORT``, or https; loopback only,
        see `target_of`.
    driver: "locust", "ab" or "wrk" (which must be installed). One that cannot do what the profile
        says refuses, naming the fields.
    path, fields: the fields of a LoadProfile, described there with their units and ranges (users,
        requests, duration, keep_alive, ...); None for one that is not given.
    profile: a LoadProfile to start from; `path` and `fields` change it. Without one, `requests`,
        `duration` or `stages` must be given.
    on_progress: called in this thread with (requests done, seconds) while the load runs.
    on_tick: called in this thread, some four times a second for each generator process, with a Tick:
        what it got since its last one, latencies to within 2% (those of the result are exact). Costs
        the generator about 1% of its time; only Locust tells that much on the way.
    ceiling: requests/s that the generator was seen to do at best with this load; a run near it is
        marked as bound by the generator.

    Raises ValueError for a bad target, driver or field (ProfileError), all problems at once, and
    for a load that this machine's limits do not allow, before anything starts; LoadError if the
    generator cannot run or dies, LoadInterrupted (a KeyboardInterrupt that carries what was
    measured) on Ctrl-C. A server that fails does not raise: see `failures`, `errors` and `ended` of
    the result.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if path is not None:
        given["path"] = path
    base, load, foreseen = prepared(target, given, profile, driver)
    if on_tick is not None and driver != "locust":
        raise ProfileError(f"on_tick: {driver} tells nothing on the way; use driver='locust'")
    if on_tick is not None:
        run = _run_locust(base, load, on_progress, on_tick)
    else:
        run = DRIVERS[driver](base, load, on_progress)
    run.notes = foreseen.notes
    run.ceiling = ceiling
    return run


def prepared(
    target: HasUrl | str, given: dict[str, Any], profile: LoadProfile | None, driver: str
) -> tuple[str, LoadProfile, Forecast]:
    """(URL, profile, forecast) of a load, or ProfileError with everything that is wrong with it."""
    problems: list[str] = []
    place = load = None
    url = target if isinstance(target, str) else getattr(target, "url", target)
    try:
        place = target_of(url)
    except ValueError as error:
        problems.append(str(error))
    if driver not in DRIVERS:
        problems.append(f"driver: must be one of {', '.join(DRIVERS)}, not {driver!r}")
    try:
        refuse_unknown(given)
        load = profile.but(**given) if profile is not None else LoadProfile(**given)
    except ProfileError as error:
        problems.append(str(error))
    foreseen = Forecast((), ())
    if load is not None and driver in CANNOT:
        refused = [f"{name}: {why}" for name, why in CANNOT[driver](load)]
        problems += [f"{text}; use driver='locust'" for text in refused]
    if load is not None and load.ca_file is not None:
        try:
            tls.context(load.ca_file, False)
        except OSError as error:  # ssl.SSLError is one
            problems.append(f"ca_file: {load.ca_file}: {error.strerror or error}")
    if load is not None and place is not None:
        foreseen = forecast(load, place, system(), driver)
        problems += foreseen.problems
    if problems or load is None or place is None:
        raise ProfileError("; ".join(problems))
    if load.seed is None:
        load = load.but(seed=new_seed())
    return place.base, load, foreseen


# -- locust --------------------------------------------------------------------------------------


def _run_locust(
    base: str, profile: LoadProfile, on_progress: Progress | None, on_tick: OnTick | None = None
) -> LoadRun:
    if importlib.util.find_spec("locust") is None:
        raise LoadError(
            "Locust is not installed for this Python; install it (pip install locust) "
            "or use driver='ab'"
        )
    with scratch() as name:
        folder = Path(name)
        try:
            (folder / "profile.json").write_text(profile.to_json())
        except OSError as error:
            raise LoadError(
                f"cannot write in {name}: {error.strerror}; make room there, or set "
                f"TMPDIR to another folder"
            ) from None
        pressure = Pressure()
        told: list[dict[str, Any]] = []
        progress, progress_out = os.pipe()
        life_in, life = os.pipe()
        try:
            # Locust's own environment variables would change a run behind the profile's back.
            environ = {
                key: value
                for key, value in os.environ.items()
                if not key.startswith(("LOCUST_", "MPMKIT_LOAD_"))
            }
            environ.update(
                MPMKIT_LOAD_RESULTS=name,
                MPMKIT_LOAD_PROGRESS_FD=str(progress_out),
                MPMKIT_LOAD_LIFE_FD=str(life_in),
                MPMKIT_LOAD_TICKS="1" if on_tick is not None else "",
            )
            how = {
                "env": environ,
                "stdout": subprocess.DEVNULL,
                "pass_fds": (progress_out, life_in),
            }
            with Generator(_locust_argv(base, profile), folder, **how) as generator:
                os.close(progress_out)
                os.close(life_in)
                progress_out = life_in = -1
                try:
                    stopped = _watch(
                        generator, progress, profile, on_progress, on_tick, pressure, told
                    )
                except KeyboardInterrupt:
                    generator.ask_to_end(signal.SIGTERM)
                    told += _left(progress)
                    raise LoadInterrupted(_gather(folder, base, profile, told)) from None
                except BaseException:
                    generator.ask_to_end(signal.SIGTERM)
                    raise
                if stopped:
                    generator.ask_to_end(signal.SIGTERM)
            told += _left(progress)
            run = _gather(folder, base, profile, told)
            if run is None:
                raise LoadError(
                    f"Locust ended with exit code {generator.process.returncode} and no result: "
                    f"{last_words(generator.log())}",
                    generator.log(),
                )
            if stopped:
                run.ended = stopped
            run.run_queue, run.steal = pressure.run_queue, pressure.steal
            return run
        finally:
            for fd in (progress, progress_out, life_in, life):
                if fd >= 0:
                    os.close(fd)


def _locust_argv(base: str, profile: LoadProfile) -> list[str]:
    argv = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        str(LOCUSTFILE),
        "--headless",
        "--only-summary",
        "--loglevel",
        "WARNING",
        "--json-file",
        "locust",  # else it prints its tables
        "--host",
        base,
        "--load-profile",
        "@profile.json",
        # All users at once, unless a ramp is wanted: it would be part of what is measured.
        "--users",
        str(profile.clients),
        "--spawn-rate",
        f"{profile.clients / profile.ramp if profile.ramp else profile.clients}",
    ]
    if profile.stages:
        argv += ["--stop-timeout", "5"]  # users that go may end their request first
    if profile.processes > 1:
        # Locust's default is every address of the machine and one fixed port for all runs on it.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        argv += [
            "--processes",
            str(profile.processes),
            "--master-bind-host",
            "127.0.0.1",
            "--master-bind-port",
            port,
            "--master-host",
            "127.0.0.1",
            "--master-port",
            port,
        ]
    return argv


def _left(progress: int) -> list[dict[str, Any]]:
    """Results that came through the pipe because the disk was full, and were not read yet."""
    data = b""
    while select.select([progress], [], [], 0)[0]:
        more = os.read(progress, 65_536)
        if not more:
            break
        data += more
    found = []
    for line in data.split(b"\n"):
        if line.startswith(b"= "):
            try:
                found.append(json.loads(line[2:]))
            except ValueError:
                pass  # its writer was killed over it
    return found


def _watch(
    generator: Generator,
    progress: int,
    profile: LoadProfile,
    on_progress: Progress | None,
    on_tick: OnTick | None,
    pressure: Pressure,
    told: list[dict[str, Any]],
) -> str:
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
        if lines:
            pressure.sample()
        for line in lines:
            if line.startswith(b"= "):
                told.append(json.loads(line[2:]))
                continue
            pid, count, ns, *tick = line.split(b" ", 3)
            before = done.get(pid, (0, 0))[1]
            done[pid] = int(count), int(ns)
            if on_tick is not None and tick:
                got = json.loads(tick[0])
                on_tick(
                    Tick(
                        before / 1e9,
                        int(ns) / 1e9,
                        Counter(got["failures"]),
                        Histogram.from_text(got["latencies"]),
                    )
                )
        if on_progress is not None and done and lines:
            on_progress(
                sum(count for count, _ in done.values()), max(ns for _, ns in done.values()) / 1e9
            )
    return ""


def _gather(
    folder: Path, base: str, profile: LoadProfile, told: Iterable[dict[str, Any]] = ()
) -> LoadRun | None:
    """Merge what the generator's processes wrote. None if none did."""
    parts = [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*.json"))]
    for part in parts:
        for name, suffix, code in (
            ("raw", "ns", "q"),
            ("which", "which", "B"),
            ("lags", "lag", "q"),
        ):
            part[name] = array.array(code)
            part[name].frombytes((folder / f"{part['pid']}.{suffix}").read_bytes())
    return merged([*parts, *told], base, profile, profile.processes)


def merged(
    parts: list[dict[str, Any]], base: str, profile: LoadProfile, expected: int
) -> LoadRun | None:
    """One run out of what `expected` generator processes measured (`State.result`), here or on
    other machines. None if nothing came."""
    if not parts:
        return None
    # On one machine the monotonic clock is the same for all; between machines, only the time is.
    same = len({part["boot"] for part in parts}) == 1

    def at(part: dict[str, Any], ns: int) -> float:
        return ns / 1e9 if same else part["started_at"] + (ns - part["started_ns"]) / 1e9

    started = [part for part in parts if part["started_ns"]]
    began = min((at(part, part["started_ns"]) for part in started), default=0.0)
    last = max(
        (at(part, part["last_end_ns"]) for part in started if part["last_end_ns"]), default=began
    )
    latencies = array.array("q")
    errors: Counter[str] = Counter()
    background: Counter[str] = Counter()
    counted, lag = Histogram(), Histogram()
    paths: dict[str, Histogram] = {}
    timeline: list[tuple[float, str, int]] = []
    ticks: list[Tick] = []
    all_raw = all("raw" in part for part in parts)
    for part in parts:
        errors.update(part["failures"])
        background.update(part["background"])
        raw = part.get("raw")
        if raw is None:
            counted.merge(Histogram.from_text(part["histogram"]))
            lag.merge(Histogram.from_text(part["lag"]))
            for path, text in part["paths"].items():
                paths.setdefault(path, Histogram()).merge(Histogram.from_text(text))
        else:
            if not all_raw:
                counted.record(raw)
            lag.record(part["lags"])
            if part["which"]:
                for number, path in enumerate(part["asks"]):
                    paths.setdefault(path, Histogram()).record(
                        [
                            ns
                            for ns, which in zip(raw, part["which"], strict=False)
                            if which == number
                        ]
                    )
        offset = at(part, part["started_ns"]) - began if part["started_ns"] else 0.0
        base_index, ok_before, before = len(latencies), 0, 0.0
        failed_before: Counter[str] = Counter()
        seconds = (
            {int(n): Histogram.from_text(text) for n, text in part.get("seconds", {}).items()}
            if raw is None
            else {}
        )
        for ns, done, ok, failed in part["timeline"]:
            end = ns / 1e9
            timeline.append((offset + end, part["place"], done))
            # The histogram of a whole second stands with the first of its ticks.
            found = (
                seconds.pop(ns // 1_000_000_000, Histogram())
                if raw is None
                else (base_index + ok_before, base_index + ok)
            )
            ticks.append(
                Tick(offset + before, offset + end, Counter(failed) - failed_before, found)
            )
            ok_before, before, failed_before = ok, end, Counter(failed)
        if raw is not None and all_raw:
            latencies += raw
    counts: dict[str, int] = {}
    summed = []
    for when, place, done in sorted(timeline):
        counts[place] = done
        summed.append((when, sum(counts.values())))
    reasons = [part["ended"] for part in parts]
    unusual = [reason for reason in reasons if reason not in ("requests", "duration")]
    if len(parts) < expected:
        unusual.append(f"{expected - len(parts)} of {expected} generator processes died")
    succeeded = len(latencies) if all_raw else len(counted)
    return LoadRun(
        driver="locust",
        target=base,
        profile=profile,
        requests=succeeded + errors.total(),
        errors=errors,
        duration=max(0.0, last - began),
        latencies_ns=latencies,
        counted=None if all_raw else counted,
        processes_cpu=tuple(
            min(
                1.0,
                (part["cpu_user"] + part["cpu_system"])
                / max(1e-9, (part["finished_ns"] - part["started_ns"]) / 1e9),
            )
            for part in started
        ),
        processes_wait=tuple(min(1.0, part["run_queue_wait"]) for part in started),
        retries=sum(part["retries"] for part in parts),
        reconnects=sum(part["reconnects"] for part in parts),
        ended=unusual[0] if unusual else reasons[0],
        started_at=min((part["started_at"] for part in started), default=time.time()),
        timeline=tuple(summed),
        version=parts[0]["locust"],
        background=background,
        connections=sum(part["connections"] for part in parts),
        lag=lag,
        late=sum(part["late"] for part in parts),
        paths=paths,
        ticks=tuple(ticks),
    )


DRIVERS: dict[str, Callable[[str, LoadProfile, Progress | None], LoadRun]] = {
    "locust": _run_locust,
    "ab": run_ab,
    "wrk": run_wrk,
}
