"""The load, executed by Locust: its users, its options, its events.

`mpmkit.load.runner.run_load` starts it. It also runs by itself, with Locust's own options and page::

    locust -f mpmkit/load/locustfile.py --host http://127.0.0.1:8080 -u 200 -r 200 \\
           --path /index.html --requests 20000 --headless

A user is a Locust User in a greenlet of its own, and its one task is a loop (`client.py`, which tells why
it is not HttpUser). What they share in a process is in `books.py`, what is still to be sent in
`budget.py`. `IdleHolder` and `SlowReader` are clients beside the users; what they get is counted apart.

By itself, with workers of its own (``--processes``) or on other machines (``--master``,
``--worker``), it does the same: each worker sends its histogram to the master, which merges them,
prints what was measured and, with ``--load-results FILE``, writes it down.
"""

from __future__ import annotations

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
from mpmkit.load.client import Client, Holder, Reader
from mpmkit.load.fields import option
from mpmkit.load.generator_state import FORKED_BY_HAND, inherited, log, state
from mpmkit.load.profile import MAX_REQUESTS, LoadProfile, ProfileError, new_seed
from mpmkit.load.target import target_of

DRAWN_SEED = new_seed()  # for a profile without one; before Locust forks, so that all have the same
life_fd = inherited("MPMKIT_LOAD_LIFE_FD")


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
    names = {"timeout": "request-timeout", "events": "request-events"}
    for field in fields(LoadProfile):
        how = option(field)
        if how is not None and field.name not in ("users", "processes", "ramp"):
            yield field, names.get(field.name, field.name.replace("_", "-")), how


def profile_of(options) -> LoadProfile:
    """The profile that Locust's options describe. Raises StopTest with the reason if they cannot be
    one."""
    given = {
        field.name: getattr(options, name.replace("-", "_"))
        for field, name, _ in options_of_locust()
    }
    given["keep_alive"] = given["keep_alive"] or None
    given = {name: value for name, value in given.items() if value is not None}
    try:
        text = options.load_profile
        if text:
            if text.startswith("@"):
                text = Path(text[1:]).read_text()
            profile = LoadProfile.from_json(text).but(**given)
            return profile.but(seed=DRAWN_SEED) if profile.seed is None else profile
        # Without a bound of ours, Locust's stop button or --run-time ends the run; the profile's
        # own bounds still hold.
        given.setdefault("requests", MAX_REQUESTS)
        given.setdefault("time_limit", 3600.0)
        background = given.get("idle_holders", 0) + given.get("slow_readers", 0)
        return LoadProfile(
            users=max(1, (options.num_users or 1) - background), seed=DRAWN_SEED, **given
        )
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
            profile.clients / profile.ramp if profile.ramp else profile.clients
        )
    IdleHolder.fixed_count, SlowReader.fixed_count = profile.idle_holders, profile.slow_readers
    if not (isinstance(runner, WorkerRunner) and FORKED_BY_HAND):
        # A worker that was started by hand learns the profile later, and what to be with it.
        environment.user_classes[:] = [
            LeanUser,
            *([IdleHolder] if profile.idle_holders else []),
            *([SlowReader] if profile.slow_readers else []),
        ]
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
        lost = [
            part | {"ended": f"worker {part['place']} {what}; the rest of what it did is lost"}
            for name, part in self.partial.items()
            if name not in self.parts
        ]
        state.of = max(state.of, self.environment.parsed_options.expect_workers or 1)
        state.conclude([*self.parts.values(), *lost])


@events.report_to_master.add_listener
def on_report(client_id, data, **_) -> None:
    """With each of Locust's reports, every three seconds: if we are killed, this is what is kept."""
    if (
        state.prepared
        and state.started_ns
        and not state.ended
        and "MPMKIT_LOAD_RESULTS" not in (os.environ)
    ):
        data["mpmkit"] = state.so_far()


@events.worker_report.add_listener
def on_worker_report(client_id, data, **_) -> None:
    if state.master is not None and "mpmkit" in data:
        state.master.partial[client_id] = data["mpmkit"]


@events.test_start.add_listener
def on_test_start(environment, **_) -> None:
    try:
        state.prepare(environment, profile_of(environment.parsed_options))
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
