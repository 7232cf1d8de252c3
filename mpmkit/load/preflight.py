"""What a load will run into, said before it starts: open files, ports, TIME_WAIT, queues.

    forecast(profile, target, system()).problems    why it cannot run: refused
                                       .notes       what will happen, and what was done about it

A TCP connection is named by four things: two addresses and two ports. Towards one server the client
has only its own address and port to vary, some 28,000 by default; and the side that closes first
keeps the name for a minute (TIME_WAIT). 200,000 new connections therefore fail on many a bench. Here:

* the server closes first (HTTP/1.0, or `Connection: close`), so the names that rest are the
  server's side of them, and a client's port can be used again at once;
* more connections at the same time than there are ports go out from several loopback addresses
  (127.0.0.1, 127.0.0.2, ...), each of which has all ports of its own;
* connections that are given up are reset, which leaves no TIME_WAIT at all.

Pure, but for `system()`, which reads /proc.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from mpmkit.load.profile import LoadProfile
from mpmkit.load.target import Target

OWN_FILES = 128
"""Files that a generator process has open beside its connections: Locust's some thirty, and room."""

LOOPBACK_SOURCES = 200
"""Addresses that the generator goes through, from 127.0.0.1 on, when ports run out."""

TIME_WAIT = 60
"""Seconds that Linux keeps a closed connection's name (TCP_TIMEWAIT_LEN; no setting changes it)."""


@dataclass(frozen=True)
class System:
    """The limits of a machine. None: it has no such limit, or does not tell.

    files, files_hard: soft and hard limit of open files a process. ports: first and last of the
    ephemeral ports. tw_reuse: net.ipv4.tcp_tw_reuse, 0 off, 1 on, 2 on loopback only. backlog:
    net.core.somaxconn. tracked: connections that netfilter tracks at most.
    """

    files: int
    files_hard: int
    ports: tuple[int, int] = (32_768, 60_999)
    tw_reuse: int = 2
    backlog: int = 4_096
    tracked: int | None = None

    @property
    def port_count(self) -> int:
        return max(0, self.ports[1] - self.ports[0] + 1)


def system(root: str = "/proc/sys/net") -> System:
    """This machine's limits; Linux's defaults where it does not tell."""

    def numbers(path: str) -> list[int]:
        try:
            return [int(word) for word in Path(root, path).read_text().split()]
        except (OSError, ValueError):
            return []

    def limit(value: int) -> int:
        return 1 << 30 if value == resource.RLIM_INFINITY else value

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ports = numbers("ipv4/ip_local_port_range")
    return System(
        files=limit(soft),
        files_hard=limit(hard),
        ports=(ports[0], ports[1]) if len(ports) == 2 else System.ports,
        tw_reuse=(numbers("ipv4/tcp_tw_reuse") or [2])[0],
        backlog=(numbers("core/somaxconn") or [4_096])[0],
        tracked=(numbers("netfilter/nf_conntrack_max") or [None])[0],  # type: ignore[list-item]
    )


@dataclass(frozen=True)
class Forecast:
    """problems: why the load cannot run here, each with the mend. notes: what to know about it."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def connections(profile: LoadProfile) -> int | None:
    """How many connections the users will open in all, warm-up included; None if that depends on
    how fast the server is."""
    share = 1 - profile.keep_share
    per = profile.requests_per_connection
    asked = profile.requests
    if asked is None and profile.open_loop and profile.planned_seconds is not None:
        steps = profile.stages or ()
        asked = round(
            sum(stage.seconds * (stage.rate or 0) for stage in steps)
            or (profile.rate or 0) * profile.planned_seconds
        )
    if asked is None:
        return None if share or per else profile.users
    asked += profile.warmup_requests
    kept = (1 - share) * (asked / per if per else profile.users)
    return round(share * asked + kept)


def forecast(
    profile: LoadProfile, target: Target, limits: System, driver: str = "locust"
) -> Forecast:
    """What the load needs, beside what there is."""
    problems, notes = [], []
    clients = profile.clients
    each = -(-clients // profile.processes)
    files = each + OWN_FILES
    # Locust's processes raise their own soft limit as far as the hard one.
    allowed = limits.files_hard if driver == "locust" else limits.files
    if files > allowed:
        kind = "ulimit -Hn" if driver == "locust" else "ulimit -n"
        more = ""
        if driver == "locust" and allowed > OWN_FILES + 1:
            more = f", or spread them over processes={-(-clients // (allowed - OWN_FILES))}"
        problems.append(
            f"users: {files:,} open files are needed and {allowed:,} are allowed; use "
            f"fewer users, or raise the limit ({kind} {files}){more}"
        )
    ports = limits.port_count
    spread = driver == "locust" and target.loopback and ":" not in target.host
    sources = LOOPBACK_SOURCES if spread else 1
    if clients > ports * sources:
        way = (
            "widen net.ipv4.ip_local_port_range (sysctl -w "
            "net.ipv4.ip_local_port_range='1024 65535')"
        )
        problems.append(
            f"users: {clients:,} connections at once need as many ports, and "
            f"{limits.ports[0]} to {limits.ports[1]} are {ports:,}; use fewer users, "
            f"or {way}"
            + (
                ""
                if spread or not target.loopback
                else ", or the target 127.0.0.1 with driver locust"
            )
        )
    elif clients > ports:
        notes.append(
            f"{clients:,} connections at once are more than the {ports:,} ephemeral "
            f"ports: they will go out from {-(-clients // ports)} addresses, 127.0.0.1 on"
        )
    opened = connections(profile)
    if profile.keep_share < 1 or profile.requests_per_connection:
        many = f"{opened:,}" if opened is not None else "many"
        if opened is None or opened > ports:
            notes.append(
                f"{many} new connections, {ports:,} ports: the server closes each first (HTTP/1.0, "
                f"or Connection: close), so TIME_WAIT ({TIME_WAIT} s) stays with its port and the "
                f"client's ports are free again at once"
            )
            reuse = {0: False, 1: True}.get(limits.tw_reuse, target.loopback)
            if spread:
                notes.append(
                    "should a server not close first, the users move on to 127.0.0.2 and "
                    f"so on, {LOOPBACK_SOURCES} addresses with {ports:,} ports each"
                )
            elif not reuse:
                notes.append(
                    f"should a server not close first, {ports // TIME_WAIT:,} connections "
                    f"a second are all that the ports allow: sysctl -w "
                    f"net.ipv4.tcp_tw_reuse=1 lifts that"
                )
    if limits.tracked is not None and opened is not None and opened > limits.tracked:
        notes.append(
            f"{opened:,} connections are more than the {limits.tracked:,} that netfilter "
            f"tracks; if some fail to connect, raise net.netfilter.nf_conntrack_max"
        )
    if clients > limits.backlog:
        notes.append(
            f"{clients:,} clients connect at once and net.core.somaxconn is "
            f"{limits.backlog:,}: some will try again after 1 s; raise it and ListenBacklog"
        )
    return Forecast(tuple(problems), tuple(notes))
