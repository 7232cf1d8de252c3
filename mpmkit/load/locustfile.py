"""The load, executed by Locust: its users, its options, its events.

`mpmkit.load.runner.run_load` starts it. It also runs by itself, with Locust's own options and page::

    locust -f mpmkit/load/locustfile.py --host http://127.0.0.1:8080 -u 200 -r 200 \\
           --path /index.html --requests 20000 --headless

A user is a Locust User in a greenlet of its own, and its one task is a loop (`client.py`, which says why
it is not HttpUser). What they share in a process is in `generator_state.py`, what is still to be sent in
`budget.py`. Reports go to one `Receiver`: in a process of its own, or in Locust's master where the users are
in workers (``--processes``, ``--worker`` on other machines). Run by itself it prints what was measured and,
with ``--load-results FILE``, writes it down.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import gevent
from gevent import get_hub
from locust import LoadTestShape, User, events, task
from locust.exception import StopTest, StopUser
from locust.runners import MasterRunner, WorkerRunner

try:
    import mpmkit  # noqa: F401
except ModuleNotFoundError:  # run from a checkout that is not installed
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from mpmkit.load.budget import READ
from mpmkit.load.client import Client
from mpmkit.load.fields import option
from mpmkit.load.generator_state import State, log
from mpmkit.load.holder import Background
from mpmkit.load.profile import MAX_REQUESTS, LoadProfile, ProfileError, new_seed
from mpmkit.load.reports import Collector
from mpmkit.load.target import target_of

DRAWN_SEED = new_seed()  # for a profile without one; before Locust forks, so that all have the same
state = State()


def inherited(name: str) -> int | None:
    """A file descriptor that `runner.py` passed by its number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else None


life_fd, reports_fd = inherited("MPMKIT_LOAD_LIFE_FD"), inherited("MPMKIT_LOAD_REPORTS_FD")


class LeanUser(User):
    """One client: its single task is the whole loop."""

    @task
    def loop(self) -> None:
        Client(self, state).run()
        raise StopUser


class Steps(LoadTestShape):
    """The profile's stages, for Locust: how many users there are to be now."""

    abstract = True  # not for Locust to find: only profiles with stages have it

    def __init__(self, profile: LoadProfile) -> None:
        super().__init__()
        self.profile = profile

    def tick(self):
        # Never "that was all": the users end with their deadline, and the run with them.
        level = self.profile.level_at(self.get_run_time() - self.profile.warmup_seconds)
        users = max(1, round(level))
        return users, users


@events.init_command_line_parser.add_listener
def add_options(parser) -> None:
    """The fields of LoadProfile as options of Locust's command line, also by environment."""
    group = parser.add_argument_group(
        "mpmkit load", "What to ask for. Users, spawn rate and run time are Locust's own options."
    )

    def add(name: str, **how: Any) -> None:
        env = "MPMKIT_LOAD_" + name.replace("-", "_").upper()
        group.add_argument(f"--{name}", env_var=env, **how)

    add(
        "load-profile", help="a load profile as JSON, or @FILE; the options below change its fields"
    )
    add("load-results", help="write what was measured to this file, as JSON", metavar="FILE")
    for field, name, how in options_of_locust():
        if field.metadata["kind"] == "share":
            # Locust's page shows a yes as a box.
            how = {"help": how["help"], "action": "store_true"}
        add(name, **how)


def options_of_locust() -> Iterator[tuple[Field, str, dict[str, Any]]]:
    """(field, name, how argparse is to read it) of the fields that Locust has no option for."""
    names = {"timeout": "request-timeout"}
    for field in fields(LoadProfile):
        how = option(field)
        if how is not None and field.name not in ("users", "processes", "ramp"):
            yield field, names.get(field.name, field.name.replace("_", "-")), how


def profile_of(options) -> LoadProfile:
    """The profile that Locust's options describe. Raises StopTest with the reason if they cannot be
    one."""
    given = {}
    for field, name, _ in options_of_locust():
        value = getattr(options, name.replace("-", "_"))
        if value is not None and value is not False:  # a box that is not ticked says nothing
            given[field.name] = value
    try:
        if text := options.load_profile:
            if text.startswith("@"):
                text = Path(text[1:]).read_text()
            profile = LoadProfile.from_json(text).but(**given)
            return profile.but(seed=DRAWN_SEED) if profile.seed is None else profile
        # Without a bound of ours, Locust's stop button or --run-time ends the run; the profile's
        # own bounds still hold.
        given.setdefault("requests", MAX_REQUESTS)
        given.setdefault("time_limit", 3600.0)
        return LoadProfile(users=options.num_users or 1, **{"seed": DRAWN_SEED} | given)
    except (ProfileError, OSError) as error:
        raise StopTest(f"load profile: {error}") from None


def orphaned() -> None:
    """The process that started us is gone, and with it what would remove our folder."""
    try:
        if os.path.basename(os.getcwd()).startswith("mpmkit-load-"):
            shutil.rmtree(os.getcwd(), ignore_errors=True)
    finally:  # another process of ours may have removed it
        os._exit(3)


@events.init.add_listener
def on_init(environment, runner, **_) -> None:
    if life_fd is not None:
        # The other end is held by the process that started us: when it is gone, however it died,
        # this end reads as closed. No orphan goes on loading a server.
        environment.mpmkit_life = get_hub().loop.io(life_fd, READ)
        environment.mpmkit_life.start(orphaned)
    options = environment.parsed_options
    try:
        # Refuse what cannot be before anything starts.
        profile = profile_of(options)
        if environment.host:
            target_of(environment.host)
    except (StopTest, ValueError) as error:
        log.error("%s", error)
        sys.exit(2)
    if options.load_profile:
        # Workers get the options by message, and may have no such file.
        options.load_profile = profile.to_json()
        # All users at once, unless a ramp is wanted: it would be part of what is measured.
        options.num_users = options.num_users or profile.users
        options.spawn_rate = options.spawn_rate or (
            profile.users / profile.ramp if profile.ramp else profile.users
        )
    if profile.stages and not profile.open_loop and not isinstance(runner, WorkerRunner):
        environment.shape_class = Steps(profile)
        environment.shape_class.runner = runner
    if isinstance(runner, WorkerRunner):
        state.send = lambda report: runner.send_message("mpmkit_report", report)
    else:
        Receiver(environment)


class Receiver:
    """Receives the reports: of this process, or as the master those of the workers.

    They go on to the process that started us, or are added up here. As the master it ends the run when
    all workers that live have sent their last one.
    """

    def __init__(self, environment) -> None:
        self.environment = environment
        self.collector: Collector | None = None
        self.background: Background | None = None
        self.unsent = b""
        self.done: set[str] = set()  # workers that have sent their last report
        environment.mpmkit_receiver = self
        if isinstance(environment.runner, MasterRunner):
            environment.runner.register_message("mpmkit_report", self.on_message)
            gevent.spawn(self.watch)
        else:
            state.send = self.add

    def begin(self, profile: LoadProfile) -> None:
        """A test begins: its background clients come first."""
        expected = 1
        if isinstance(self.environment.runner, MasterRunner):
            expected = max(profile.processes, self.environment.parsed_options.expect_workers or 1)
        self.done.clear()
        self.collector = Collector(self.environment.host, profile, expected)
        self.background = Background(self.environment.host, profile).__enter__()

    def on_message(self, environment, msg, **_) -> None:
        self.add(msg.data)
        if msg.data["ended"]:
            self.done.add(msg.node_id)
            self.look()

    def add(self, report: dict[str, Any]) -> None:
        """One report."""
        if self.collector is None:
            return  # of a worker that is quicker than its master
        if reports_fd is None:
            self.collector.add(report)
        else:
            self.pass_on(report, wait=bool(report["ended"]))
        if report["ended"] and not isinstance(self.environment.runner, MasterRunner):
            self.conclude()

    def pass_on(self, report: dict[str, Any], *, wait: bool) -> None:
        """One report to the process that started us. Without `wait`, what it has no room for now goes
        with the next one: a reader that is slow must not hold up the load."""
        assert reports_fd is not None
        self.unsent += json.dumps(report).encode() + b"\n"
        os.set_blocking(reports_fd, wait)
        with contextlib.suppress(OSError):  # full, or gone
            while self.unsent:
                self.unsent = self.unsent[os.write(reports_fd, self.unsent) :]

    def watch(self) -> None:
        """A worker that was killed sends nothing; Locust misses it after some seconds."""
        while True:
            gevent.sleep(0.5)
            self.look()

    def look(self) -> None:
        """As the master: end the run when no worker will report any more."""
        runner = self.environment.runner
        alive = {client.id for client in runner.clients.values() if client.state != "missing"}
        if self.collector is not None and not alive - self.done:
            self.conclude()
            gevent.spawn(runner.quit)

    def conclude(self, why: str = "") -> None:
        """Show what was measured, and write it down, unless another process does that."""
        collector, self.collector = self.collector, None
        if collector is None or self.background is None:
            return
        totals = self.background.totals()
        self.background.__exit__()
        if reports_fd is not None:
            self.pass_on({"background": totals}, wait=True)
            return
        collector.background = totals
        run = collector.run(why)
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


@events.test_start.add_listener
def on_test_start(environment, **_) -> None:
    receiver = getattr(environment, "mpmkit_receiver", None)
    try:
        profile = profile_of(environment.parsed_options)
        state.prepare(environment, profile)
        if receiver is not None:
            receiver.begin(profile)
    except (StopTest, OSError, RuntimeError) as error:
        # Raised from here, it would leave Locust waiting for users that never come.
        log.error("%s", error)
        environment.process_exit_code = 2
        gevent.spawn(environment.runner.quit)
        state.prepared = False
        state.ended = str(error)
        return
    if not isinstance(environment.runner, MasterRunner):
        gevent.spawn(state.monitor)


@events.test_stop.add_listener
def on_test_stop(environment, **_) -> None:
    """Stopped from Locust's page, by a signal, or at the regular end: what was measured is kept."""
    if not isinstance(environment.runner, MasterRunner) and state.prepared and not state.ended:
        state.finish_accounting("interrupted")
        state.report()


@events.quitting.add_listener
def on_quitting(environment, **_) -> None:
    """The end of the process, regular or by a signal."""
    on_test_stop(environment)
    receiver = getattr(environment, "mpmkit_receiver", None)
    if receiver is not None and receiver.collector is not None:
        receiver.conclude("interrupted")
