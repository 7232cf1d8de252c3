"""Both servers' processes over time: growth, shrinking, saturation, signals, crashes, who is closed when.

Counts are exact, times are in words.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mpmkit.config.directives import MPMS
from tests.fidelity.cases import Row, unexplained
from tests.fidelity.clients import (
    GET,
    HALF,
    REST,
    counts,
    dial,
    fate,
    ids,
    newcomer,
    parked,
    split,
    until,
    when,
)
from tests.fidelity.server_pair import Pair, Side, pools

AGAIN = 2
LARGE = "large.bin"  # more than the buffers of a connection take
BEFORE = 100  # requests before a signal: more than come after it, so that the counter tells

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
LIFE = {
    "prefork": ("AH00163", "AH00169", "AH00170", "AH00171", "AH00173"),
    "worker": ("AH00292", "AH00295", "AH00296", "AH00297", "AH00298"),
    "event": ("AH00489", "AH00491", "AH00492", "AH00493", "AH00494"),
}


def with_field(line: bytes) -> bytes:
    """GET with one more line in its head."""
    return GET.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")


# --- Timelines -------------------------------------------------------------------------------------


def grow(server: Side) -> str:
    """The first child may have a second one before we look."""
    return " ".join(str(count) for count in counts(server, 6.0) if count > 1)


def shrink(server: Side) -> str:
    """From what to what, and whether by one at a time."""
    seen = counts(server, 7.0)
    steps = {a - b for a, b in zip(seen, seen[1:], strict=False)}
    pace = "one or two at a time" if steps <= {1, 2} else f"by {sorted(steps)}"
    return f"to {seen[-1]}, {pace}"


def saturate(server: Side) -> str:
    """More half-sent requests than workers; then one more client, and room for it."""
    first, *_ = [dial(server, HALF) for _ in range(3 if server.mpm == "prefork" else 4)]
    time.sleep(2.5)
    extra = dial(server, GET)
    waited = fate(extra, 2.5)[0] == "open"
    first.sendall(REST)
    first.recv(65536)
    first.close()
    kind, _, data = fate(extra, 10.0)
    then = data.split(b" ")[1].decode() if kind == "answer" else kind
    return f"{ids(server, *REACHED)}; the next client {'waits' if waited else 'does not wait'}, then {then}"


def misconfigured(server: Side) -> str:
    """MaxRequestWorkers beyond what ServerLimit allows: a complaint, and how often."""
    for _ in range(5):
        dial(server, HALF)
    time.sleep(4.5)
    said = ids(server, *REACHED).split()
    return f"{' and '.join(sorted(set(said)))}, {'again and again' if len(said) > 1 else 'once'}"


def broken_file(server: Side, number: int) -> str:
    """A restart with a mistake in the file."""
    server.conf.write_text(server.conf.read_text() + "NoSuchDirective on\n")
    os.kill(server.pid, number)
    time.sleep(2)
    if server.exit_status() is None:
        return f"{ids(server, 'AH00526')}; goes on, answers {newcomer(server)}"
    pid_file = "left" if (server.root / "pid").exists() else "removed"
    return f"{ids(server, 'AH00526')}; ends with status {server.exit_status()}, pid file {pid_file}"


def factor(server: Side) -> str:
    """How many connections one child of four threads parks."""
    for number in range(24):
        if fate(dial(server, GET), 1.0)[0] != "answer":
            return f"{number} parked"
        time.sleep(0.05)
    return "no limit seen"


def crash(server: Side, number: int) -> str:
    before = server.children()
    os.kill(min(before), number)
    until(lambda: min(before) not in server.children(), 2.5)
    time.sleep(2.2)
    after = server.children()
    gone = "gone" if min(before) not in after else "stays"
    return f"{gone}, then {len(after)} of {len(before)}; {ids(server, 'AH00052')}"


def connections_per_child(server: Side) -> str:
    """Connections one after the other under MaxConnectionsPerChild 4: how many the first child has."""
    for _ in range(9):
        sock = dial(server, with_field(b"Connection: close"))
        while sock.recv(65536):
            pass
        sock.close()
    until(lambda: len(server.access_lines()) == 9, 3)
    pids = [line.split()[0] for line in server.access_lines()]
    # One more was the look whether it is up.
    served = 1 + pids.index(next(pid for pid in pids if pid != pids[0]))
    # Worker counts when a connection ends, with the next one accepted already.
    return "more than 4, at most 6" if server.mpm == "worker" and 4 < served <= 6 else str(served)


def keep_alive_max(server: Side) -> str:
    """The Keep-Alive headers under MaxKeepAliveRequests 3."""
    sock = dial(server, b"")
    said = []
    for _ in range(4):
        sock.sendall(with_field(b"Connection: keep-alive"))
        headers = dict(split(sock.recv(65536), ["GET"]).replies[0].headers)
        said.append(headers.get("Keep-Alive", headers.get("Connection", "")))
    return "; ".join(said)


def never_closes(server: Side) -> str:
    """The letters that an idle kept-alive client's worker shows until it is `_` again."""
    parked(server)
    seen: list[str] = []
    end = time.monotonic() + 5.5
    while time.monotonic() < end:
        # W is the look itself, S a child that starts, L lasts for microseconds.
        busy = "".join(sorted(set(server.auto()["Scoreboard"].strip()) - set("_.SLW"))) or "_"
        if len(busy) == 1 and (not seen or seen[-1] != busy):
            seen.append(busy)
        time.sleep(0.15)
    if server.mpm == "event":  # a letter for a moment is no state of a waiting client
        seen = seen[-1:]
    if len(seen) > 1 and seen[0] == "_":  # the first look met the worker in its W
        del seen[0]
    return " ".join(seen)


def cut_off(server: Side) -> dict[str, str]:
    """What the log says of responses that a client does not take, or leaves."""
    found: dict[str, str] = {}
    large, post = GET.replace(b"file.txt", LARGE.encode()), GET.replace(b"GET", b"POST", 1)
    for end in ("takes nothing", "resets", "closes", "resets in its body", "resets in its head"):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            if end.startswith("resets in"):
                body = post.replace(b"\r\n\r\n", b"\r\nContent-Length: 99\r\n\r\nabc")
                client.sendall(body if "body" in end else HALF)
                time.sleep(0.3)  # else it may be gone before it is accepted
            else:
                client.sendall(large)
                client.recv(1)
            if end.startswith("resets"):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if end != "takes nothing":
                client.close()
            until(lambda: len(server.lines("cut_log")) == len(found) + 1, 15)
        mark, status, whole, sent, seconds = server.lines("cut_log")[-1].split()
        part = "all" if sent == whole else "a part" if int(sent) else "nothing"
        took = "within three times Timeout" if int(seconds) < 6 else "later"
        found[end] = f"{mark}, {status}, {part} sent, {took}"
    return found


def parked_and_busy(server: Side, count: int) -> str:
    """Event: so many parked, then fourteen half-sent on four threads. What becomes of the parked?"""
    idle = [parked(server) for _ in range(count)]
    time.sleep(0.2)
    for _ in range(14):
        dial(server, HALF)
    if count > 2:
        return " and ".join(sorted({fate(sock, 0.3)[0] for sock in idle}))
    kind, took, _ = fate(idle[0], 2.0)
    return kind if kind == "open" else f"{kind} {when(took)}"


# --- Signals ----------------------------------------------------------------------------------------


def signalled(server: Side, number: signal.Signals) -> dict[str, str]:
    """One parked client, one in the middle of its head, and a signal to the parent."""
    written = (server.root / "pid").exists()
    for _ in range(BEFORE):
        before = server.auto()
    keeps, half = parked(server), dial(server, HALF)
    until(lambda: "R" in server.auto()["Scoreboard"], 3)
    os.kill(server.pid, number)
    ends = number in (signal.SIGTERM, signal.SIGWINCH)
    with ThreadPoolExecutor(2) as pool:
        watch_parked = pool.submit(fate, keeps, 9.0)
        watch_half = pool.submit(*((fate, half, 14.0) if ends else (_finish_later, half)))
        time.sleep(0.4)
        seen = {"a new client": newcomer(server)}
        kind, took, _ = watch_parked.result()
        seen["parked"] = "closed " + when(took) if kind in ("FIN", "reset") else kind
        kind, took, data = watch_half.result()
        words = data.split(b" ")[1].decode() if kind == "answer" else "cut"
        seen["half-sent"] = f"{words} {when(took)}"
    if ends:
        until(lambda: server.exit_status() is not None, 6)
        seen["exit status"] = str(server.exit_status())
        left = "left" if (server.root / "pid").exists() else "removed"
        seen["pid file"] = f"{'written' if written else 'none'}, {left}"
    else:
        until(server.auto, 5)
        after = server.auto()
        for key in ("ParentServerConfigGeneration", "ParentServerMPMGeneration"):
            seen[key] = f"+{int(after[key]) - int(before[key])}"
        seen["counters"] = "kept" if int(after["Total Accesses"]) >= BEFORE else "from zero"
    return seen | {"log": ids(server, *LIFE[server.mpm])}


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
    what: Callable[..., object]
    extra: str = ""
    pool: str | None = None
    args: tuple[int, ...] = ()


def scenarios() -> Iterator[Scenario]:
    most, kept, idle = "MaxConnectionsPerChild 4", "MaxKeepAliveRequests 3", "KeepAliveTimeout 2"
    waits = "KeepAliveTimeout 3\nGracefulShutdownTimeout 5"
    full = 'Timeout 2\nSendBufferSize 65536\nCustomLog cut_log "%X %>s %B %O %T"'
    for mpm in MPMS:
        yield Scenario(f"growth ({mpm})", mpm, grow, pool=GROW[mpm])
        yield Scenario(f"shrinking ({mpm})", mpm, shrink, pool=SHRINK[mpm])
        yield Scenario(f"saturation ({mpm})", mpm, saturate, pool=FULL[mpm])
        yield Scenario(f"{most} ({mpm})", mpm, connections_per_child, most, ONE[mpm])
        yield Scenario(f"{kept} ({mpm})", mpm, keep_alive_max, kept)
        yield Scenario(f"idle client that never closes ({mpm})", mpm, never_closes, idle)
        yield Scenario(f"response cut off ({mpm})", mpm, cut_off, full)
        for number in (signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM):
            yield Scenario(f"{number.name} to a child ({mpm})", mpm, crash, args=(number,))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH):
            yield Scenario(f"{number.name} ({mpm})", mpm, signalled, waits, args=(number,))
    for value in ("1", "1.5", "2", "3"):
        name = f"AsyncRequestWorkerFactor {value}"
        lines = f"{name}\nKeepAliveTimeout 30"
        yield Scenario(f"{name} (event)", "event", factor, lines, ONE["event"])
    for mpm in ("worker", "event"):
        name = f"MaxRequestWorkers above ServerLimit ({mpm})"
        yield Scenario(name, mpm, misconfigured, pool=BEYOND[mpm])
    for number, mpm in ((signal.SIGHUP, "prefork"), (signal.SIGUSR1, "event")):
        name = f"{number.name} with a mistake in the file ({mpm})"
        yield Scenario(name, mpm, broken_file, args=(number,))
    for count in (2, 6):
        name, lines = f"{count} parked, 14 half-sent, 4 threads (event)", "KeepAliveTimeout 5"
        yield Scenario(name, "event", parked_and_busy, lines, ONE["event"], (count,))


def rows(site: Path, only: Iterable[str] = ()) -> list[Row]:
    """All scenarios, or those whose names contain one of `only`; a few at the same time.

    Times are measured, on a machine that has other things to do. So where the two differ without a
    reason, the scenario is run again, alone, up to `AGAIN` times: a difference in what they do
    will be there each time.
    """
    wanted = tuple(only)
    (site / LARGE).write_bytes(bytes(3_000_000))
    chosen = [s for s in scenarios() if not wanted or any(word in s.case for word in wanted)]
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]))  # a crash on purpose leaves no file
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda scenario: _rows(site, scenario), chosen))
        for number, scenario in enumerate(chosen):
            for _ in range(AGAIN):
                if unexplained(found[number]):
                    found[number] = _rows(site, scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    return [row for of_one in found for row in of_one]


def _rows(site: Path, scenario: Scenario) -> list[Row]:
    with Pair(scenario.mpm, site, scenario.extra, pool=scenario.pool) as pair:
        theirs, ours = pair.both(lambda side: scenario.what(side, *scenario.args))
    if isinstance(theirs, dict) and isinstance(ours, dict):
        signals = ((f"{scenario.case}: {what}", said, ours[what]) for what, said in theirs.items())
        return [Row("pool", *texts) for texts in signals]
    return [Row("pool", scenario.case, str(theirs), str(ours))]
