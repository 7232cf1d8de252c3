"""Running a load from Python: one call, one result type, several generators behind it.

    run = run_load("http://127.0.0.1:8080", "/index.html", users=200, requests=20_000)
    run.qps, run.latency_ms(99), run.failures, run.errors, run.generator_cpu

The generator always runs in a process of its own (Locust monkey-patches whatever process imports
it), in a session of its own (a Ctrl-C reaches us, and we end it with care), and holds one end of
a pipe whose other end only we hold: it ends when we do, however we end.

Here are the call and the driver for Locust; `result` has the result, `ab_wrk` the two other drivers,
`generator_process` what all three share. None of them imports locust, gevent or pandas.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
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
from mpmkit.load.preflight import Forecast, Pressure, forecast, system
from mpmkit.load.profile import LoadProfile, ProfileError, new_seed, refuse_unknown
from mpmkit.load.reports import Collector
from mpmkit.load.result import LoadRun
from mpmkit.load.target import target_of
from mpmkit.load.windows import OnTick

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
        what came since its last one. Only Locust reports that much while it runs.
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
        raise ProfileError(f"on_tick: {driver} reports nothing while it runs; use driver='locust'")
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
    collector, pressure = Collector(base, profile, profile.processes), Pressure()
    with scratch() as name, Pipes() as pipes:
        folder = Path(name)
        try:
            (folder / "profile.json").write_text(profile.to_json())
        except OSError as error:
            raise LoadError(
                f"cannot write in {name}: {error.strerror}; make room there, or set "
                f"TMPDIR to another folder"
            ) from None

        def measured(why: str = "") -> LoadRun | None:
            run = collector.run(why)
            if run is not None:
                run.run_queue, run.steal = pressure.run_queue, pressure.steal
            return run

        with Generator(_locust_argv(base, profile), folder, **pipes.given()) as generator:
            pipes.started()
            reader = Reader(pipes.reports, collector, on_progress, on_tick)
            try:
                stopped = _watch(generator, reader, profile, pressure)
            except KeyboardInterrupt:
                generator.ask_to_end(signal.SIGTERM)
                reader.rest()
                raise LoadInterrupted(measured("interrupted")) from None
            except BaseException:
                generator.ask_to_end(signal.SIGTERM)
                raise
            if stopped:
                generator.ask_to_end(signal.SIGTERM)
        reader.rest()
        run = measured(stopped)
        if run is None:
            raise LoadError(
                f"Locust ended with exit code {generator.process.returncode} and no result: "
                f"{last_words(generator.log())}",
                generator.log(),
            )
        if stopped:
            run.ended = stopped
        return run


class Pipes:
    """Two pipes to a generator: by one it reports, and the other's end tells it that we are gone."""

    def __enter__(self) -> Pipes:
        self.reports, self._reports_out = os.pipe()
        with contextlib.suppress(OSError):  # room for a second, if the system grants it
            fcntl.fcntl(self.reports, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._life_in, self._life = os.pipe()
        return self

    def given(self) -> dict[str, Any]:
        """What the generator's process is started with."""
        # Locust's own environment variables would change a run behind the profile's back.
        environ = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("LOCUST_", "MPMKIT_LOAD_"))
        }
        environ["MPMKIT_LOAD_REPORTS_FD"] = str(self._reports_out)
        environ["MPMKIT_LOAD_LIFE_FD"] = str(self._life_in)
        fds = (self._reports_out, self._life_in)
        return {"env": environ, "stdout": subprocess.DEVNULL, "pass_fds": fds}

    def started(self) -> None:
        """Our copies of the generator's ends are not needed any more."""
        os.close(self._reports_out)
        os.close(self._life_in)
        self._reports_out = self._life_in = -1

    def __exit__(self, *_: object) -> None:
        for fd in (self.reports, self._reports_out, self._life_in, self._life):
            if fd >= 0:
                os.close(fd)


class Reader:
    """Reads reports from a pipe, adds them up and passes them on."""

    def __init__(
        self, fd: int, collector: Collector, on_progress: Progress | None, on_tick: OnTick | None
    ) -> None:
        self._fd, self._collector = fd, collector
        self._on_progress, self._on_tick = on_progress, on_tick
        self._unread = b""
        self.at_end = self.reported = False

    def read(self, seconds: float) -> None:
        """What comes, waiting for it at most so long."""
        if self.at_end or not select.select([self._fd], [], [], seconds)[0]:
            return
        data = os.read(self._fd, 1 << 20)
        self.at_end = not data
        *lines, self._unread = (self._unread + data).split(b"\n")
        self.reported = self.reported or bool(lines)
        for line in lines:
            tick = self._collector.add(json.loads(line))
            if self._on_tick is not None and tick is not None and tick.end > tick.begin:
                self._on_tick(tick)
        if lines and self._on_progress is not None and self._collector.seconds:
            self._on_progress(self._collector.requests, self._collector.seconds)

    def rest(self) -> None:
        """What the generator left in the pipe; no more is passed on than added up."""
        self._on_progress = self._on_tick = None
        while not self.at_end and select.select([self._fd], [], [], 0)[0]:
            self.read(0)


def _locust_argv(base: str, profile: LoadProfile) -> list[str]:
    # All users at once, unless a ramp is wanted: it would be part of what is measured.
    rate = profile.users / profile.ramp if profile.ramp else profile.users
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    argv += ["--loglevel", "WARNING", "--json-file", "locust"]  # else it prints its tables
    argv += ["--host", base, "--load-profile", "@profile.json"]
    argv += ["--users", str(profile.users), "--spawn-rate", str(rate)]
    if profile.stages:
        argv += ["--stop-timeout", "5"]  # users that go may end their request first
    if profile.processes > 1:
        # Locust's default is every address of the machine and one fixed port for all runs on it.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        argv += ["--processes", str(profile.processes)]
        argv += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port]
        argv += ["--master-host", "127.0.0.1", "--master-port", port]
    return argv


def _watch(generator: Generator, reader: Reader, profile: LoadProfile, pressure: Pressure) -> str:
    """Wait for the generator's end. Why it had to be stopped, or ""."""
    until = time.monotonic() + profile.time_limit + STARTUP
    sampled = 0.0
    while not generator.ended():
        now = time.monotonic()
        if now > until:
            return f"time limit of {profile.time_limit:g} s (the generator did not end by itself)"
        if reader.at_end:
            time.sleep(0.005)  # its processes are gone, or will be in a moment
        reader.read(0.1)
        if reader.reported and now - sampled > 0.2:
            sampled = now
            pressure.sample()
    return ""


DRIVERS: dict[str, Callable[[str, LoadProfile, Progress | None], LoadRun]] = {
    "locust": _run_locust,
    "ab": run_ab,
    "wrk": run_wrk,
}
