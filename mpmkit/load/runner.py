"""Running a load from Python: one call, one result.

    run = run_load("http://127.0.0.1:8080", "/index.html", users=200, requests=20_000)
    run.qps, run.latency_ms(99), run.failures, run.errors, run.generator_cpu

The generator is Locust, in a separate process (`generator_process.py`), because Locust monkey-patches the
process that imports it.
"""

import importlib.util
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from mpmkit.load import tls
from mpmkit.load.arrivals import plan_problem
from mpmkit.load.generator_process import STARTUP, Generator, LoadError, LoadInterrupted, Progress
from mpmkit.load.preflight import OWN_FILES, too_few_descriptors
from mpmkit.load.profile import LoadProfile, ProfileError, new_seed, refuse_unknown
from mpmkit.load.reports import Collector
from mpmkit.load.result import LoadRun
from mpmkit.load.target import target_of
from mpmkit.load.windows import OnTick
from mpmkit.measure.procfs import machine_times

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def run_load(
    target: Any,
    path: str | None = None,
    *,
    profile: LoadProfile | None = None,
    on_progress: Progress | None = None,
    on_tick: OnTick | None = None,
    **fields: Any,
) -> LoadRun:
    """Apply a load to a server and return the results.

    target: a server (anything with a `.url`) or ``http://127.0.0.1:PORT``, or https; loopback only,
        see `target_of`.
    path, fields: the fields of a LoadProfile, described there with units and ranges (users,
        requests, duration, keep_alive, ...); None: not given.
    profile: a LoadProfile to start from; `path` and `fields` change it. Without one, `requests`,
        `duration` or `stages` must be given.
    on_progress: called in this thread with (requests done, seconds) while the load runs.
    on_tick: called in this thread, some four times a second for each generator process, with a Tick:
        the results since its last one.

    Raises ValueError for a bad target or field (ProfileError), naming all problems, and
    for a load that this machine's limits do not allow, before anything starts; LoadError if the
    generator cannot run or dies, LoadInterrupted (a KeyboardInterrupt that carries the
    results so far) on Ctrl-C. A failing server does not raise: see `failures`, `errors` and `ended` of
    the result.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if path is not None:
        given["path"] = path
    base, load = _prepared(target, given, profile)
    if importlib.util.find_spec("locust") is None:
        raise LoadError("Locust is not installed for this Python; install it (pip install locust)")
    return _run_locust(base, load, on_progress, on_tick)


def _prepared(
    target: Any, given: dict[str, Any], profile: LoadProfile | None
) -> tuple[str, LoadProfile]:
    """(URL, profile) of a load, or ProfileError with everything that is wrong with it."""
    problems: list[str] = []
    place = load = None
    try:
        place = target_of(target if isinstance(target, str) else getattr(target, "url", target))
    except ValueError as error:
        problems.append(str(error))
    try:
        refuse_unknown(given)
        load = profile.but(**given) if profile is not None else LoadProfile(**given)
    except ProfileError as error:
        problems.append(str(error))
    if load is not None and load.ca_file is not None:
        try:
            tls.context(load.ca_file, False)
            load = load.but(ca_file=str(Path(load.ca_file).resolve()))  # Locust runs elsewhere
        except OSError as error:  # ssl.SSLError is one
            problems.append(f"ca_file: {load.ca_file}: {error.strerror or error}")
    if load is not None and place is not None:
        if load.idle_holders and place.scheme == "https":
            problems.append("idle_holders: hold connections without TLS; give an http target")
        users = -(-load.users // load.processes)
        if short := too_few_descriptors(max(users, load.idle_holders) + OWN_FILES):
            problems.append(f"users: {short}, or give more processes")
    if not problems and load is not None and load.plan:
        problems += filter(None, [plan_problem(load.plan, len(load.specs))])
    if problems or load is None or place is None:
        raise ProfileError("; ".join(problems))
    if load.seed is None:
        load = load.but(seed=new_seed())
    return place.base, load


def _run_locust(
    base: str, profile: LoadProfile, on_progress: Progress | None, on_tick: OnTick | None
) -> LoadRun:
    collector = Collector(base, profile, profile.processes)
    ready: list[int] = []  # tasks that were ready to run, without us

    def take(reports: list[dict[str, Any]]) -> None:
        for report in reports:
            tick = collector.add(report)
            if on_tick is not None and tick is not None and tick.end > tick.begin:
                on_tick(tick)
        if reports and on_progress is not None and collector.seconds:
            on_progress(collector.requests, collector.seconds)

    def watch() -> str:
        """Until the generator's end: why it had to be stopped, or ""."""
        until, sampled = time.monotonic() + profile.time_limit + STARTUP, 0.0
        while not generator.ended():
            now = time.monotonic()
            if now > until:
                late = "the generator did not end by itself"
                return f"time limit of {profile.time_limit:g} s ({late})"
            if generator.at_end:
                time.sleep(0.005)  # its processes are gone, or will be in a moment
            take(generator.read(0.1))
            if collector.last and now - sampled > 0.2:
                sampled = now
                ready.append(max(0, machine_times().running - 1))
        return ""

    def measured(why: str) -> LoadRun | None:
        generator.kill()
        for report in generator.rest():  # no more is passed on than added up
            collector.add(report)
        run = collector.run(why)
        if run is not None:
            run.run_queue = sum(ready) / max(1, len(ready)) / len(os.sched_getaffinity(0))
            run.ended = why or run.ended
        return run

    with Generator(_locust_argv(base, profile), profile.to_json()) as generator:
        try:
            stopped = watch()
            if stopped:
                generator.ask_to_end()
        except BaseException as error:
            generator.ask_to_end()
            if isinstance(error, KeyboardInterrupt):
                raise LoadInterrupted(measured("interrupted")) from None
            raise
        run = measured(stopped)
        if run is None:
            raise generator.failure()
    return run


def _locust_argv(base: str, profile: LoadProfile) -> list[str]:
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
    argv += ["--loglevel", "WARNING", "--host", base]
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
