"""The load, executed by Locust: its users, its options, its events.

`mpmkit.load.runner.run_load` starts it. It also runs by itself, with Locust's own options and page::

    locust -f mpmkit/load/locustfile.py --host http://127.0.0.1:8080 -u 200 -r 200 \\
           --load-profile '{"path": "/index.html", "requests": 20000}' --headless

A user is a Locust User in a greenlet of its own, and its one task is a loop (`client.py`). Reports go to one
`Receiver`: of the process, or of Locust's master if the users are in workers. Run by itself it prints the results
and, with ``--load-results FILE``, writes them to a file.
"""

import contextlib
import json
import os
import secrets
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gevent import get_hub
from locust import LoadTestShape, User, events, task
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

try:
    import mpmkit  # noqa: F401
except ModuleNotFoundError:  # run from a checkout that is not installed
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from mpmkit.load.client import Client
from mpmkit.load.connections import HoldingProcess
from mpmkit.load.generator_state import READ, State, log
from mpmkit.load.preflight import target_of
from mpmkit.load.profile import UNBOUNDED, LoadProfile, ProfileError, loaded, profile_with
from mpmkit.load.result import Collector

AGAIN = 0.5  # seconds after which an idle holder whose connection ended comes back
DRAWN_SEED = secrets.randbelow(1 << 31)  # for a profile without one; before Locust forks
state: State | None = None  # of the test that runs, or ran last
receiver: "Receiver | None" = None  # of the reports; none in a worker
# The descriptor that `runner.py` passed by its number; -1: this runs by itself.
parent_fd = int(os.environ.get("MPMKIT_LOAD_FD", -1))


class LeanUser(User):
    """One client: its single task is the whole loop."""

    @task
    def loop(self) -> None:
        if state is not None:  # else the test was refused; Locust starts its users all the same
            Client(self, state).run()
        raise StopUser


class Steps(LoadTestShape):
    """The profile's stages, for Locust: how many users there are to be now."""

    abstract = True  # not for Locust to find: only profiles with stages have it
    profile: LoadProfile

    def tick(self):
        # Never "that was all": the users end with their deadline, and the run with them.
        level = self.profile.level_at(self.get_run_time() - self.profile.warmup_seconds)
        users = max(1, round(level))
        return users, users


@events.init_command_line_parser.add_listener
def add_options(parser) -> None:
    """What to request. Users, spawn rate and run time are Locust's own options."""
    group = parser.add_argument_group("mpmkit load")
    profile = 'a load profile as JSON like {"path": "/", "requests": 1000}, or @FILE'
    group.add_argument("--load-profile", help=profile, env_var="MPMKIT_LOAD_PROFILE")
    results = "write what was measured to this file, as JSON"
    group.add_argument("--load-results", help=results, metavar="FILE")


def profile_of(options) -> LoadProfile:
    """The profile that Locust's options describe. Raises ProfileError."""
    text = options.load_profile or "{}"
    try:
        given = loaded(Path(text[1:]).read_text() if text.startswith("@") else text)
        given["users"] = options.num_users or given.get("users", 1)
        given["seed"] = DRAWN_SEED if given.get("seed") is None else given["seed"]
        if not {"requests", "duration", "stages"} & given.keys():
            # Without a bound of ours, Locust's stop button or --run-time ends the run.
            given |= UNBOUNDED
        return profile_with(given)
    except (ValueError, OSError) as error:
        raise ProfileError(f"load profile: {error}") from None


@events.init.add_listener
def on_init(environment, runner, **_) -> None:
    global receiver
    if parent_fd >= 0:
        # The other end is held by the process that started us: when it is gone, however it died,
        # this end reads as closed. No orphan goes on loading a server.
        environment.mpmkit_life = get_hub().loop.io(parent_fd, READ)
        environment.mpmkit_life.start(lambda: os._exit(3))
    options = environment.parsed_options
    try:  # refuse what cannot be before anything starts
        profile = profile_of(options)
        if environment.host:
            target_of(environment.host)
    except ValueError as error:
        log.error("%s", error)
        sys.exit(2)
    if options.load_profile:
        # Workers get the options by message, and may have no such file.
        options.load_profile = profile.to_json()
        # All users at once, unless a ramp is wanted: it would be part of what is measured.
        options.num_users = profile.users
        options.spawn_rate = options.spawn_rate or profile.users / (profile.ramp or 1)
    if isinstance(runner, WorkerRunner):
        return
    if profile.stages and not profile.open_loop:
        environment.shape_class = steps = Steps()
        steps.profile, steps.runner = profile, runner
    receiver = Receiver(environment)


class Receiver:
    """Receives the reports: of this process, or as the master those of the workers. They go on to the process
    that started us, or are added up here."""

    def __init__(self, environment) -> None:
        self.environment = environment
        self.is_master = isinstance(environment.runner, MasterRunner)
        self.collector: Collector | None = None
        self.holders: HoldingProcess | None = None
        self.unsent = b""
        self.done: set[str] = set()  # workers that have sent their last report
        if self.is_master:
            environment.runner.register_message("mpmkit_report", self.on_message)
            gevent.spawn(self.watch)

    def begin(self, profile: LoadProfile) -> None:
        """A test begins: its background clients come first."""
        options, expected = self.environment.parsed_options, 1
        if self.is_master:
            expected = max(profile.processes, options.expect_workers or 1)
        self.done.clear()
        url, spec, self.holders = self.environment.host, profile.specs[0], None
        self.collector = Collector(url, profile, expected)
        if profile.idle_holders:
            request = profile.request_bytes(target_of(url).place, spec, True).decode("latin-1")
            self.holders = HoldingProcess(
                url, count=profile.idle_holders, request=request, expect_status=spec.expect_status,
                timeout=profile.timeout, again=AGAIN,
            )  # fmt: skip
            self.holders.ask("report")  # it runs

    def on_message(self, environment, msg, **_) -> None:
        self.add(msg.data)
        if msg.data["ended"]:
            self.done.add(msg.node_id)

    def add(self, report: dict[str, Any]) -> None:
        if self.collector is None:
            return  # of a worker that is quicker than its master
        if parent_fd < 0:
            self.collector.add(report)
        else:
            self.pass_on(report, wait=bool(report["ended"]))
        if report["ended"] and not self.is_master:
            self.conclude()

    def pass_on(self, report: dict[str, Any], *, wait: bool) -> None:
        """One report to the process that started us. Without `wait`, what it has no room for now goes
        with the next one: a reader that is slow must not hold up the load."""
        self.unsent += json.dumps(report).encode() + b"\n"
        os.set_blocking(parent_fd, wait)
        with contextlib.suppress(OSError):  # full, or gone
            while self.unsent:
                self.unsent = self.unsent[os.write(parent_fd, self.unsent) :]

    def watch(self) -> None:
        """As the master: end the run when no worker will report any more; Locust misses a killed one late."""
        runner = self.environment.runner
        while True:
            gevent.sleep(0.1)
            alive = {client.id for client in runner.clients.values() if client.state != "missing"}
            if self.collector is not None and not alive - self.done:
                self.conclude()
                gevent.spawn(runner.quit)

    def conclude(self, why: str = "") -> None:
        """Show what was measured, and write it down, unless another process does that."""
        collector, self.collector = self.collector, None
        if collector is None:
            return
        totals: Counter[str] = Counter()
        if self.holders is not None:
            with self.holders, contextlib.suppress(RuntimeError):  # their process died
                for what, count in self.holders.ask("report")["totals"].items():
                    totals[f"idle {what}"] = count
        if parent_fd >= 0:
            self.pass_on({"background": totals}, wait=True)
            return
        collector.background = totals
        run, where = collector.run(why), self.environment.parsed_options.load_results
        said = run.summary() if run else "mpmkit: nothing was measured"
        print(said, file=sys.stderr, flush=True)  # --json has standard output
        try:
            if where and run:
                Path(where).write_text(run.to_json())
        except OSError as error:
            log.error("--load-results: %s", error)
            self.environment.process_exit_code = 1


@events.test_start.add_listener
def on_test_start(environment, **_) -> None:
    global state
    if state is not None and state.schedule is not None:
        state.schedule.close()
    state = None
    try:
        profile = profile_of(environment.parsed_options)
        message = partial(environment.runner.send_message, "mpmkit_report")
        made = State(environment, profile, message if receiver is None else receiver.add)
        if receiver is not None:
            receiver.begin(profile)
    except (ValueError, OSError, RuntimeError) as error:
        # Raised from here, it would leave Locust waiting for users that never come.
        log.error("%s", error)
        environment.process_exit_code = 2
        gevent.spawn(environment.runner.quit)
        return
    if not isinstance(environment.runner, MasterRunner):
        state = made
        gevent.spawn(state.monitor)


@events.test_stop.add_listener
def on_test_stop(environment, **_) -> None:
    """Stopped from Locust's page, by a signal, or at the regular end: what was measured is kept."""
    if state is not None and not state.ended:
        state.finish_accounting("interrupted")
        state.report()


@events.quitting.add_listener
def on_quitting(environment, **_) -> None:
    """The end of the process, regular or by a signal."""
    on_test_stop(environment)
    if receiver is not None:
        receiver.conclude("interrupted")
