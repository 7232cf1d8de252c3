"""What a load will meet, shown before it starts: open files, ports, TIME_WAIT; and how busy the machine was.

    forecast(profile, target, system()).problems    why it cannot run: refused
                                       .notes       what its user can do something about

Towards one server a client has only its own address and port to vary, some 28,000, and the side that closes
first keeps the name of a connection for a minute (TIME_WAIT). How the generator avoids that is in docs/LOAD.md.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mpmkit.load.profile import LoadProfile
from mpmkit.load.target import Target
from mpmkit.measure.procfs import MachineTimes, machine_times

OWN_FILES = 128  # that a generator process has open besides connections: Locust's thirty, and room
LOOPBACK_SOURCES = 200  # addresses that it goes through, from 127.0.0.1 on, when ports run out
TIME_WAIT = 60  # seconds that Linux keeps a closed connection's name (TCP_TIMEWAIT_LEN)


class System(NamedTuple):
    """The limits of a machine: open files of a process, first and last ephemeral port, net.core.somaxconn."""

    files: float
    ports: tuple[int, int] = (32_768, 60_999)
    backlog: int = 4_096


def system(root: str = "/proc/sys/net") -> System:
    """This machine's limits; Linux's defaults where they cannot be read."""
    limits = System(_hard_limit())
    with contextlib.suppress(OSError, ValueError):
        first, last = Path(root, "ipv4/ip_local_port_range").read_text().split()
        limits = limits._replace(ports=(int(first), int(last)))
        limits = limits._replace(backlog=int(Path(root, "core/somaxconn").read_text()))
    return limits


class Forecast(NamedTuple):
    """Why the load cannot run here, each with the remedy, and what to know about it."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def forecast(profile: LoadProfile, target: Target, limits: System) -> Forecast:
    """What the load needs, compared with what there is."""
    problems, notes = [], []
    users = -(-profile.users // profile.processes)
    files = max(users, profile.idle_holders) + OWN_FILES  # those have a process of their own
    if short := too_few_descriptors(files, limits.files):
        more = ", or give more processes" if users + OWN_FILES == files else ""
        problems.append(f"users: {short}{more}")
    (first, last), clients = limits.ports, profile.clients
    ports = last - first + 1
    spread = target.loopback and ":" not in target.host
    if clients > ports * (LOOPBACK_SOURCES if spread else 1):
        problems.append(
            f"users: {clients:,} connections at once need as many ports, and {first} to {last} are "
            f"{ports:,}; use fewer users, or widen net.ipv4.ip_local_port_range (sysctl -w "
            "net.ipv4.ip_local_port_range='1024 65535')"
            + (", or the target 127.0.0.1" if target.loopback and not spread else "")
        )
    new = not profile.keep_alive or profile.requests_per_connection
    if new and not spread and (profile.requests or math.inf) > ports:
        notes.append(
            f"should the server not close each connection first, {ports:,} ports allow "
            f"{ports // TIME_WAIT:,} new ones a second (TIME_WAIT lasts {TIME_WAIT} s), "
            "unless sysctl net.ipv4.tcp_tw_reuse is 1"
        )
    if clients > limits.backlog:
        notes.append(
            f"{clients:,} clients connect at once and net.core.somaxconn is "
            f"{limits.backlog:,}: some will try again after 1 s; raise it and ListenBacklog"
        )
    return Forecast(tuple(problems), tuple(notes))


def describe(error: OSError) -> str:
    """What a connection that could not be opened means, and the remedy."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptors are left; raise the limit (ulimit -n) or use fewer connections"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "no local ports are left (net.ipv4.ip_local_port_range); wait a minute for those in "
            "TIME_WAIT, or use fewer connections"
        )
    return f"a connection failed: {os.strerror(error.errno or errno.EIO)}"


def _hard_limit() -> float:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return math.inf if hard == resource.RLIM_INFINITY else hard


def too_few_descriptors(need: int, hard: float | None = None) -> str:
    """Why a process here, or where `hard` is the limit, cannot have `need` file descriptors, with the remedy;
    "" if it can."""
    hard = _hard_limit() if hard is None else hard
    if hard >= need:
        return ""
    return (
        f"{need:,} file descriptors are needed and the hard limit is {hard:,} (ulimit -Hn); "
        "use fewer connections, or raise it"
    )


def raise_descriptors(need: float) -> tuple[int, int]:
    """Let this process have `need` descriptors, as far as the hard limit goes; the limits until now."""
    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = int(min(need, _hard_limit(), 1 << 20))
    if soft != resource.RLIM_INFINITY and soft < more:
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    return before


@contextlib.contextmanager
def descriptors(need: int) -> Iterator[None]:
    """Let what is started inside have `need` descriptors, as far as the hard limit goes."""
    before = raise_descriptors(need)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Pressure:
    """How busy the machine was while a load ran, from readings of /proc/stat, one by each `sample`."""

    def __init__(self, cores: int | None = None) -> None:
        self.cores = cores or len(os.sched_getaffinity(0))
        self.readings: list[MachineTimes] = []

    def sample(self, reading: MachineTimes | None = None) -> None:
        """Take a reading (or the one given). A system without /proc/stat gives none."""
        reading = reading or machine_times()
        if reading.total:
            self.readings.append(reading)

    @property
    def run_queue(self) -> float:
        """Tasks ready to run for each processor, our own reading left out; nan if not known. 1: every processor
        had just one to run."""
        if not self.readings:
            return math.nan
        running = sum(max(0, reading.running - 1) for reading in self.readings)
        return running / len(self.readings) / self.cores

    @property
    def steal(self) -> float:
        """The share of the time that the host gave to other guests, 0 to 1; nan if not known."""
        stolen = self.readings[-1].steal_since(self.readings[0]) if self.readings else None
        return math.nan if stolen is None else stolen
