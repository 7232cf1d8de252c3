"""What a load will meet, shown before it starts: open files, ports, TIME_WAIT; and how busy the machine was.

    forecast(profile, target, system()).problems    why it cannot run: refused
                                       .notes       what will happen, and what was done about it

A TCP connection is named by two addresses and two ports. Towards one server the client has only its own
address and port to vary, some 28,000 by default; and the side that closes first keeps the name for a minute
(TIME_WAIT). 200,000 new connections therefore fail on many a bench. Here:

* the server closes first (HTTP/1.0, or `Connection: close`), so the names that rest are the
  server's side of them, and a client's port can be used again at once;
* more connections at the same time than there are ports go out from several loopback addresses
  (127.0.0.1, 127.0.0.2, ...), each of which has all ports of its own;
* connections that are given up are reset, which leaves no TIME_WAIT at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mpmkit.load.profile import LoadProfile
from mpmkit.load.target import Target
from mpmkit.measure.procfs import MachineTimes, machine_times

OWN_FILES = 128
"""Files that a generator process has open besides its connections: Locust's some thirty, and room."""

LOOPBACK_SOURCES = 200
"""Addresses that the generator goes through, from 127.0.0.1 on, when ports run out."""

TIME_WAIT = 60
"""Seconds that Linux keeps a closed connection's name (TCP_TIMEWAIT_LEN; no setting changes it)."""


@dataclass(frozen=True)
class System:
    """The limits of a machine.

    files: hard limit of open files a process. ports: first and last of the ephemeral ports.
    backlog: net.core.somaxconn.
    """

    files: int
    ports: tuple[int, int] = (32_768, 60_999)
    backlog: int = 4_096

    @property
    def port_count(self) -> int:
        return max(0, self.ports[1] - self.ports[0] + 1)


def system(root: str = "/proc/sys/net") -> System:
    """This machine's limits; Linux's defaults where they cannot be read."""

    def numbers(path: str) -> list[int]:
        try:
            return [int(word) for word in Path(root, path).read_text().split()]
        except (OSError, ValueError):
            return []

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    ports = numbers("ipv4/ip_local_port_range")
    return System(
        files=1 << 30 if hard == resource.RLIM_INFINITY else hard,
        ports=(ports[0], ports[1]) if len(ports) == 2 else System.ports,
        backlog=(numbers("core/somaxconn") or [System.backlog])[0],
    )


class Forecast(NamedTuple):
    """problems: why the load cannot run here, each with the remedy. notes: what to know about it."""

    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def connections(profile: LoadProfile) -> int | None:
    """How many connections the users will open in all, warm-up included; None if that depends on
    how fast the server is."""
    share = 1 - profile.keep_share
    per = profile.requests_per_connection
    requests = profile.requests
    if requests is None and profile.open_loop and profile.planned_seconds is not None:
        requests = round(
            sum(stage.seconds * (stage.rate or 0) for stage in profile.stages)
            or (profile.rate or 0) * profile.planned_seconds
        )
    if requests is None:
        return None if share or per else profile.users
    requests += profile.warmup_requests
    kept = (1 - share) * (requests / per if per else profile.users)
    return round(share * requests + kept)


def forecast(profile: LoadProfile, target: Target, limits: System) -> Forecast:
    """What the load needs, compared with what there is."""
    problems = [*_files(profile, limits)]
    notes = []
    clients, ports = profile.clients, limits.port_count
    spread = target.loopback and ":" not in target.host
    if clients > ports * (LOOPBACK_SOURCES if spread else 1):
        problems.append(
            f"users: {clients:,} connections at once need as many ports, and "
            f"{limits.ports[0]} to {limits.ports[1]} are {ports:,}; use fewer users, or widen "
            f"net.ipv4.ip_local_port_range (sysctl -w net.ipv4.ip_local_port_range='1024 65535')"
            + (", or the target 127.0.0.1" if target.loopback and not spread else "")
        )
    opened = connections(profile)
    new = profile.keep_share < 1 or profile.requests_per_connection
    if new and not spread and (opened is None or opened > ports):
        many = f"{opened:,}" if opened is not None else "many"
        notes.append(
            f"{many} new connections, {ports:,} ports: should the server not close each first, the "
            f"ports allow {ports // TIME_WAIT:,} connections a second (TIME_WAIT lasts {TIME_WAIT} s), "
            "unless sysctl net.ipv4.tcp_tw_reuse is 1"
        )
    if clients > limits.backlog:
        notes.append(
            f"{clients:,} clients connect at once and net.core.somaxconn is "
            f"{limits.backlog:,}: some will try again after 1 s; raise it and ListenBacklog"
        )
    return Forecast(tuple(problems), tuple(notes))


def _files(profile: LoadProfile, limits: System) -> Iterator[str]:
    """Whether a process has the files that it needs; each kind of background client has a process."""
    users = -(-profile.users // profile.processes)
    files = max(users, profile.slow_readers, profile.idle_holders) + OWN_FILES
    allowed = limits.files  # the generator's processes raise their soft limit as far
    if files <= allowed:
        return
    more = ""
    if users + OWN_FILES > allowed > OWN_FILES + 1:
        more = f", or spread them over processes={-(-profile.users // (allowed - OWN_FILES))}"
    yield (
        f"users: {files:,} open files are needed and {allowed:,} are allowed; use fewer users, or "
        f"raise the limit (ulimit -Hn {files}){more}"
    )


def describe(error: OSError) -> str:
    """What a connection that could not be opened means, and the remedy."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no file descriptors are left; raise the limit (ulimit -n) or use fewer connections"
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            "no local ports are left (net.ipv4.ip_local_port_range); wait a minute for those in "
            "TIME_WAIT, or use fewer connections"
        )
    return f"a connection failed: {error.strerror}"


def too_few_descriptors(need: int) -> str:
    """Why a process here cannot have `need` file descriptors, with the remedy; "" if it can."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= need:
        return ""
    return (
        f"{need:,} file descriptors are needed and the hard limit is {hard:,} (ulimit -Hn); "
        "use fewer connections, or raise it"
    )


@contextlib.contextmanager
def descriptors(need: int) -> Iterator[None]:
    """Let what is started inside have `need` descriptors, as far as the hard limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = need if hard == resource.RLIM_INFINITY else min(need, hard)
    if soft == resource.RLIM_INFINITY or soft >= more:
        yield
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class Pressure:
    """How busy the machine was while a load ran, from readings of /proc/stat, one by each `sample`.

    run_queue: tasks ready to run for each processor, our own reading left out; nan if not known. 1
    means that every processor had just one to run. steal: the share of the time that the host gave to
    other guests, 0 to 1; nan if not known.
    """

    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    readings: list[MachineTimes] = field(default_factory=list)

    def sample(self, reading: MachineTimes | None = None) -> None:
        """Take a reading (or the one given). A system without /proc/stat gives none."""
        reading = reading or machine_times()
        if reading.total:
            self.readings.append(reading)

    @property
    def run_queue(self) -> float:
        if not self.readings:
            return float("nan")
        running = sum(max(0, reading.running - 1) for reading in self.readings)
        return running / len(self.readings) / self.cores

    @property
    def steal(self) -> float:
        stolen = self.readings[-1].steal_since(self.readings[0]) if self.readings else None
        return float("nan") if stolen is None else stolen
