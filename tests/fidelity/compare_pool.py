"""Both servers' processes over time: growth, shrinking, saturation, signals, crashes, who is closed when.

Counts are exact, times are in words.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mpmkit.config.directives import MPMS
from tests.fidelity.cases import Row, unexplained
from tests.fidelity.clients import (
    GET,
    REST,
    counts,
    dial,
    fate,
    half_sent,
    ids,
    newcomer,
    parked,
    until,
    when,
)
from tests.fidelity.compare_http import split
from tests.fidelity.server_pair import Pair, Side, pools

AGAIN = 2
KEEP_ALIVE_TIMEOUT = 3
BEFORE = 100  # requests before a signal: more than come after it, so that the counter tells


# --- Timelines -------------------------------------------------------------------------------------

GROW = pools(
    "StartServers 1, MinSpareServers 12, MaxSpareServers 40, MaxRequestWorkers 40",
    "StartServers 1, ThreadsPerChild 2, MinSpareThreads 24, MaxSpareThreads 80, ServerLimit 40, "
    "MaxRequestWorkers 80",
)
SHRINK = pools(
    "StartServers 8, MinSpareServers 1, MaxSpareServers 4, MaxRequestWorkers 16",
    "StartServers 7, ThreadsPerChild 2, MinSpareThreads 1, MaxSpareThreads 6, ServerLimit 20, "
    "MaxRequestWorkers 20",
)
FULL = pools(
    "StartServers 2, MinSpareServers 1, MaxSpareServers 3, MaxRequestWorkers 3",
    "StartServers 1, ThreadsPerChild 2, MinSpareThreads 1, MaxSpareThreads 6, MaxRequestWorkers 4",
)
ONE = pools(
    "StartServers 1, MinSpareServers 1, MaxSpareServers 2, MaxRequestWorkers 1",
    "StartServers 1, ThreadsPerChild 4, MinSpareThreads 1, MaxSpareThreads 9, MaxRequestWorkers 4, "
    "ServerLimit 1",
)
BEYOND = pools(
    "",
    "StartServers 1, ThreadsPerChild 2, ThreadLimit 2, MinSpareThreads 1, MaxSpareThreads 6, "
    "ServerLimit 2, MaxRequestWorkers 20",
)
REACHED = ("AH00161", "AH00286", "AH00287", "AH00484", "AH10159", "AH00288", "AH03490")


def grow(server: Side) -> str:
    """The first child may have a second one before we look."""
    return " ".join(map(str, [n for n in counts(lambda: len(server.children()), 6.0) if n > 1]))


def shrink(server: Side) -> str:
    """From what to what, and whether by one at a time."""
    seen = counts(lambda: len(server.children()), 7.0)
    steps = {a - b for a, b in zip(seen, seen[1:], strict=False)}
    pace = "one or two at a time" if steps <= {1, 2} else f"by {sorted(steps)}"
    return f"to {seen[-1]}, {pace}"


def saturate(server: Side) -> str:
    """More half-sent requests than workers; then one more client, and room for it."""
    socks = [half_sent(server) for _ in range(3 if server.mpm == "prefork" else 4)]
    time.sleep(2.5)
    extra = dial(server)
    extra.sendall(GET)
    waited = fate(extra, 2.5)[0] == "open"
    socks[0].sendall(REST)
    socks[0].recv(65536)
    socks[0].close()
    kind, _, data = fate(extra, 10.0)
    said = ids(server, *REACHED)
    for sock in (*socks, extra):
        sock.close()
    return f"{said}; the next client {'waits' if waited else 'does not wait'}, then " + (
        data.split(b" ")[1].decode() if kind == "answer" else kind
    )


def misconfigured(server: Side) -> str:
    """MaxRequestWorkers beyond what ServerLimit allows: a complaint, and how often."""
    socks = [half_sent(server) for _ in range(5)]
    time.sleep(4.5)
    said = ids(server, *REACHED).split()
    for sock in socks:
        sock.close()
    return f"{' and '.join(sorted(set(said)))}, {'again and again' if len(said) > 1 else 'once'}"


def broken_file(number: int) -> Callable[[Side], str]:
    def scenario(server: Side) -> str:
        """A restart with a mistake in the file."""
        server.conf.write_text(server.conf.read_text() + "NoSuchDirective on\n")
        os.kill(server.pid, number)
        time.sleep(2)
        if server.exit_status() is None:
            return f"{ids(server, 'AH00526')}; goes on, answers {newcomer(server)}"
        pid_file = "left" if (server.root / "pid").exists() else "removed"
        return f"{ids(server, 'AH00526')}; ends with status {server.exit_status()}, pid file {pid_file}"

    return scenario


def factor(server: Side) -> str:
    """How many connections one child of four threads parks."""
    socks: list[socket.socket] = []
    try:
        while len(socks) < 24:
            sock = dial(server)
            sock.sendall(GET)
            socks.append(sock)
            if fate(sock, 1.0)[0] != "answer":
                return f"{len(socks) - 1} parked"
            time.sleep(0.05)
        return "no limit seen"
    finally:
        for sock in socks:
            sock.close()


def crash(number: int) -> Callable[[Side], str]:
    def scenario(server: Side) -> str:
        before = server.children()
        os.kill(min(before), number)
        until(lambda: min(before) not in server.children(), 2.5)
        time.sleep(2.2)
        after = server.children()
        gone = "gone" if min(before) not in after else "stays"
        return f"{gone}, then {len(after)} of {len(before)}; {ids(server, 'AH00052')}"

    return scenario


def connections_per_child(server: Side) -> str:
    """Connections one after the other under MaxConnectionsPerChild 4: how many the first child has."""
    for _ in range(9):
        sock = dial(server)
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        while sock.recv(65536):
            pass
        sock.close()
    until(lambda: len(server.access_lines()) == 9, 3)
    pids = [line.split()[0] for line in server.access_lines()]
    # One more was the look whether it is up.
    served = 1 + pids.index(next(pid for pid in pids if pid != pids[0]))
    if (
        server.mpm == "worker"
    ):  # it counts when a connection ends, with the next one accepted already
        return "more than 4, at most 6" if 4 < served <= 6 else str(served)
    return str(served)


def keep_alive_max(server: Side) -> str:
    """The Keep-Alive headers under MaxKeepAliveRequests 3."""
    sock = dial(server)
    said = []
    for _ in range(4):
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
        headers = dict(split(sock.recv(65536), ["GET"], False).replies[0].headers)
        said.append(headers.get("Keep-Alive", headers.get("Connection", "")))
    sock.close()
    return "; ".join(said)


def never_closes(server: Side) -> str:
    """The letters that an idle kept-alive client's worker shows until it is `_` again."""
    sock = parked(server)
    seen: list[str] = []
    end = time.monotonic() + 5.5
    while time.monotonic() < end:
        # W is the look itself, S a child that starts, L lasts for microseconds.
        busy = "".join(sorted(set(server.auto()["Scoreboard"].strip()) - set("_.SLW"))) or "_"
        if len(busy) == 1 and (not seen or seen[-1] != busy):
            seen.append(busy)
        time.sleep(0.15)
    sock.close()
    if server.mpm == "event":  # a letter for a moment is no state of a waiting client
        seen = seen[-1:]
    if len(seen) > 1 and seen[0] == "_":  # the first look met the worker in its W
        del seen[0]
    return " ".join(seen)


def flush(server: Side) -> str:
    """Event: two parked, then fourteen half-sent on four threads. What becomes of the parked?"""
    idle = [parked(server) for _ in range(2)]
    time.sleep(0.2)
    busy = [half_sent(server) for _ in range(14)]
    kind, took, _ = fate(idle[0], 2.0)
    for sock in (*idle, *busy):
        sock.close()
    return kind if kind == "open" else f"{kind} {when(took)}"


def parked_and_busy(server: Side) -> str:
    """Event: six parked, then fourteen half-sent on four threads: the parked live on."""
    idle = [parked(server) for _ in range(6)]
    time.sleep(0.2)
    busy = [half_sent(server) for _ in range(14)]
    fates = {fate(sock, 0.3)[0] for sock in idle}
    for sock in (*idle, *busy):
        sock.close()
    return " and ".join(sorted(fates))


# --- Signals ----------------------------------------------------------------------------------------

LIFE = {
    "prefork": ("AH00163", "AH00169", "AH00170", "AH00171", "AH00173"),
    "worker": ("AH00292", "AH00295", "AH00296", "AH00297", "AH00298"),
    "event": ("AH00489", "AH00491", "AH00492", "AH00493", "AH00494"),
}


def signalled(number: signal.Signals) -> Callable[[Side], dict[str, str]]:
    """One parked client, one in the middle of its head, and a signal to the parent."""

    def scenario(server: Side) -> dict[str, str]:
        written = (server.root / "pid").exists()
        for _ in range(BEFORE):
            before = server.auto()
        keeps, half = parked(server), half_sent(server)
        until(lambda: "R" in server.auto()["Scoreboard"], 3)
        os.kill(server.pid, number)
        seen: dict[str, str] = {}
        ends = number in (signal.SIGTERM, signal.SIGWINCH)
        with ThreadPoolExecutor(3) as pool:
            watch_parked = pool.submit(fate, keeps, 9.0)
            if ends:
                watch_half = pool.submit(fate, half, 14.0)
            else:
                watch_half = pool.submit(_finish_later, half)
            time.sleep(0.4)
            seen["a new client"] = newcomer(server)
            kind, took, _ = watch_parked.result()
            seen["parked"] = "closed " + when(took) if kind in ("FIN", "reset") else kind
            kind, took, data = watch_half.result()
            seen["half-sent"] = (
                data.split(b" ")[1].decode() + " " + when(took)
                if kind == "answer"
                else "cut " + when(took)
            )
        if ends:
            until(lambda: server.exit_status() is not None, 6)
            seen["exit status"] = str(server.exit_status())
            left = (server.root / "pid").exists()
            seen["pid file"] = (
                f"{'written' if written else 'none'}, {'left' if left else 'removed'}"
            )
        else:
            until(lambda: server.auto(), 5)
            after = server.auto()
            for key in ("ParentServerConfigGeneration", "ParentServerMPMGeneration"):
                seen[key] = f"+{int(after[key]) - int(before[key])}"
            kept = int(after["Total Accesses"]) >= BEFORE
            seen["counters"] = "kept" if kept else "from zero"
        seen["log"] = ids(server, *LIFE[server.mpm])
        keeps.close()
        half.close()
        return seen

    return scenario


def _finish_later(half: socket.socket) -> tuple[str, float, bytes]:
    kind, took, data = fate(half, 1.5)
    if kind != "open":
        return kind, took, data
    try:
        half.sendall(REST)
    except OSError:
        return "reset", 1.5, b""
    kind, _, data = fate(half, 10.0)
    return kind, 0.0 if kind == "answer" else 1.5, data


# --- All of them -------------------------------------------------------------------------------------


class Scenario(NamedTuple):
    """What is done to both, started with the lines `extra` and, if given, with a pool of `POOLS`."""

    case: str
    mpm: str
    what: Callable[[Side], object]
    extra: str = ""
    pool: str | None = None


def scenarios() -> list[Scenario]:
    found: list[Scenario] = []
    for mpm in MPMS:
        most, kept, idle = (
            "MaxConnectionsPerChild 4",
            "MaxKeepAliveRequests 3",
            "KeepAliveTimeout 2",
        )
        found += [
            Scenario(f"growth ({mpm})", mpm, grow, pool=GROW[mpm]),
            Scenario(f"shrinking ({mpm})", mpm, shrink, pool=SHRINK[mpm]),
            Scenario(f"saturation ({mpm})", mpm, saturate, pool=FULL[mpm]),
            Scenario(f"{most} ({mpm})", mpm, connections_per_child, most, ONE[mpm]),
            Scenario(f"{kept} ({mpm})", mpm, keep_alive_max, kept),
            Scenario(f"idle client that never closes ({mpm})", mpm, never_closes, idle),
        ]
        found += [
            Scenario(f"{number.name} to a child ({mpm})", mpm, crash(number))
            for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM)
        ]
        waits = f"KeepAliveTimeout {KEEP_ALIVE_TIMEOUT}\nGracefulShutdownTimeout 5"
        found += [
            Scenario(f"{number.name} ({mpm})", mpm, signalled(number), waits)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH)
        ]
    one = ONE["event"]
    for value in ("1", "1.5", "2", "3"):
        name = f"AsyncRequestWorkerFactor {value}"
        waits = f"{name}\nKeepAliveTimeout 30"
        found.append(Scenario(f"{name} (event)", "event", factor, waits, one))
    for mpm in ("worker", "event"):
        name = f"MaxRequestWorkers above ServerLimit ({mpm})"
        found.append(Scenario(name, mpm, misconfigured, pool=BEYOND[mpm]))
    for number, mpm in ((signal.SIGHUP, "prefork"), (signal.SIGUSR1, "event")):
        name = f"{number.name} with a mistake in the file ({mpm})"
        found.append(Scenario(name, mpm, broken_file(number)))
    for count, what in ((2, flush), (6, parked_and_busy)):
        name = f"{count} parked, 14 half-sent, 4 threads (event)"
        found.append(Scenario(name, "event", what, "KeepAliveTimeout 5", one))
    return found


def rows(pages: Path, only: Iterable[str] = ()) -> list[Row]:
    """All scenarios, or those whose names contain one of `only`; a few at the same time.

    Times are measured, on a machine that has other things to do. So where the two differ without a
    reason, the scenario is run again, alone, up to `AGAIN` times: a difference in what they do
    will be there each time.
    """
    wanted = tuple(only)
    chosen = [s for s in scenarios() if not wanted or any(word in s.case for word in wanted)]
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]))  # a crash on purpose leaves no file
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda s: _rows(pages, s), chosen))
        for number, scenario in enumerate(chosen):
            for _ in range(AGAIN):
                if not unexplained(found[number]):
                    break
                found[number] = _rows(pages, scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    return [row for of_one in found for row in of_one]


def _rows(pages: Path, scenario: Scenario) -> list[Row]:
    with Pair(scenario.mpm, pages, scenario.extra, pool=scenario.pool) as pair:
        theirs, ours = pair.both(scenario.what)
    if isinstance(theirs, dict) and isinstance(ours, dict):
        signals = ((f"{scenario.case}: {what}", said, ours[what]) for what, said in theirs.items())
        return [Row("signal", *texts) for texts in signals]
    return [Row("timeline", scenario.case, str(theirs), str(ours))]
