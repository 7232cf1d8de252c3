"""Both servers' processes over time: growth, shrinking, saturation, signals, crashes, who is closed when.

Times are told in words (`at once`, `after 1 s`), because two servers on a busy machine agree no
better than that; counts are exact.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpmkit.config.directives import MPMS
from tests.fidelity.cases import Row, unexplained
from tests.fidelity.compare_http import split
from tests.fidelity.server_pair import Twin, Twins

AGAIN = 2
AT_ONCE = 0.7  # seconds: what a busy machine may take for what takes milliseconds
GET = b"GET /file.txt HTTP/1.1\r\nHost: lab.example\r\n\r\n"
HALF, REST = GET[:-4], GET[-4:]
KEEP_ALIVE_TIMEOUT = 3
BEFORE = 100  # requests before a signal: more than come after it, so that the counter tells


def dial(twin: Twin) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", twin.port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def fate(sock: socket.socket, seconds: float) -> tuple[str, float, bytes]:
    """What the server does with this connection: (`open`, `FIN`, `reset` or `answer`, when, bytes)."""
    began = time.monotonic()
    sock.settimeout(seconds)
    try:
        data = sock.recv(65536)
    except TimeoutError:
        return "open", seconds, b""
    except OSError:
        return "reset", time.monotonic() - began, b""
    return ("answer" if data else "FIN"), time.monotonic() - began, data


def when(seconds: float) -> str:
    return "at once" if seconds < AT_ONCE else f"after {round(seconds)} s"


def parked(twin: Twin) -> socket.socket:
    """A client that has had an answer and stays."""
    sock = dial(twin)
    sock.sendall(GET)
    data = b""
    while not split(data, ["GET"], False).replies:
        data += sock.recv(65536)
    return sock


def half_sent(twin: Twin) -> socket.socket:
    sock = dial(twin)
    sock.sendall(HALF)
    return sock


def until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, KeyError, IndexError):
            if condition():
                return True
        time.sleep(0.02)
    return False


def counts(children: Callable[[], int], seconds: float) -> list[int]:
    """The numbers of children that stayed for a third of a second, in their order."""
    end = time.monotonic() + seconds
    seen: list[int] = []
    last, since = -1, 0.0
    while (now := time.monotonic()) < end:
        current = children()
        if current != last:
            last, since = current, now
        elif now - since > 0.35 and (not seen or seen[-1] != current):
            seen.append(current)
        time.sleep(0.02)
    return seen


def ids(twin: Twin, *wanted: str) -> str:
    """Those message ids of the log, in their order."""
    found = [ah for ah in re.findall(r"AH\d{5}(?=:)", twin.log()) if ah in wanted]
    return " ".join(found) or "none"


# --- Timelines -------------------------------------------------------------------------------------

GROW = {
    "prefork": "StartServers 1\nMinSpareServers 12\nMaxSpareServers 40\nMaxRequestWorkers 40",
    "worker": "StartServers 1\nThreadsPerChild 2\nMinSpareThreads 24\nMaxSpareThreads 80\n"
              "ServerLimit 40\nMaxRequestWorkers 80",
    "event": "StartServers 1\nThreadsPerChild 2\nMinSpareThreads 24\nMaxSpareThreads 80\n"
             "ServerLimit 40\nMaxRequestWorkers 80",
}  # fmt: skip
SHRINK = {
    "prefork": "StartServers 8\nMinSpareServers 1\nMaxSpareServers 4\nMaxRequestWorkers 16",
    "worker": "StartServers 7\nThreadsPerChild 2\nMinSpareThreads 1\nMaxSpareThreads 6\n"
              "ServerLimit 20\nMaxRequestWorkers 20",
    "event": "StartServers 7\nThreadsPerChild 2\nMinSpareThreads 1\nMaxSpareThreads 6\n"
             "ServerLimit 20\nMaxRequestWorkers 20",
}  # fmt: skip
FOUR_THREADS = (
    "StartServers 1\nThreadsPerChild 2\nMinSpareThreads 1\nMaxSpareThreads 6\nMaxRequestWorkers 4"
)
FULL = {
    "prefork": ("StartServers 2\nMinSpareServers 1\nMaxSpareServers 3\nMaxRequestWorkers 3", 3),
    "worker": (FOUR_THREADS, 4),
    "event": (FOUR_THREADS, 4),
}  # fmt: skip
ONE = {
    "prefork": "StartServers 1\nMinSpareServers 1\nMaxSpareServers 2\nMaxRequestWorkers 1",
    "worker": "StartServers 1\nThreadsPerChild 4\nMinSpareThreads 1\nMaxSpareThreads 9\n"
              "MaxRequestWorkers 4\nServerLimit 1",
    "event": "StartServers 1\nThreadsPerChild 4\nMinSpareThreads 1\nMaxSpareThreads 9\n"
             "MaxRequestWorkers 4\nServerLimit 1",
}  # fmt: skip
REACHED = ("AH00161", "AH00286", "AH00287", "AH00484", "AH10159", "AH00288", "AH03490")


def grow(twin: Twin) -> str:
    """The first child may have a second one before we look."""
    return " ".join(map(str, [n for n in counts(lambda: len(twin.children()), 6.0) if n > 1]))


def shrink(twin: Twin) -> str:
    """From what to what, and whether by one at a time."""
    seen = counts(lambda: len(twin.children()), 7.0)
    steps = {a - b for a, b in zip(seen, seen[1:], strict=False)}
    pace = "one or two at a time" if steps <= {1, 2} else f"by {sorted(steps)}"
    return f"to {seen[-1]}, {pace}"


def saturate(twin: Twin) -> str:
    """More half-sent requests than workers; then one more client, and room for it."""
    workers = FULL[twin.mpm][1]
    socks = [half_sent(twin) for _ in range(workers)]
    time.sleep(2.5)
    extra = dial(twin)
    extra.sendall(GET)
    waited = fate(extra, 2.5)[0] == "open"
    socks[0].sendall(REST)
    socks[0].recv(65536)
    socks[0].close()
    kind, _, data = fate(extra, 10.0)
    said = ids(twin, *REACHED)
    for sock in (*socks, extra):
        sock.close()
    return f"{said}; the next client {'waits' if waited else 'does not wait'}, then " + (
        data.split(b" ")[1].decode() if kind == "answer" else kind
    )


def misconfigured(twin: Twin) -> str:
    """MaxRequestWorkers beyond what ServerLimit allows: a complaint, and how often."""
    socks = [half_sent(twin) for _ in range(5)]
    time.sleep(4.5)
    said = ids(twin, *REACHED).split()
    for sock in socks:
        sock.close()
    return f"{' and '.join(sorted(set(said)))}, {'again and again' if len(said) > 1 else 'once'}"


def broken_file(number: int) -> Callable[[Twin], str]:
    def scenario(twin: Twin) -> str:
        """A restart with a mistake in the file."""
        twin.conf.write_text(twin.conf.read_text() + "NoSuchDirective on\n")
        os.kill(twin.pid, number)
        time.sleep(2)
        if twin.exit_status() is None:
            return f"{ids(twin, 'AH00526')}; goes on, answers {_newcomer(twin)}"
        pid_file = "left" if (twin.root / "pid").exists() else "removed"
        return f"{ids(twin, 'AH00526')}; ends with status {twin.exit_status()}, pid file {pid_file}"

    return scenario


def factor(twin: Twin) -> str:
    """How many connections one child of four threads parks."""
    socks: list[socket.socket] = []
    try:
        while len(socks) < 24:
            sock = dial(twin)
            sock.sendall(GET)
            socks.append(sock)
            if fate(sock, 1.0)[0] != "answer":
                return f"{len(socks) - 1} parked"
            time.sleep(0.05)
        return "no limit seen"
    finally:
        for sock in socks:
            sock.close()


def crash(number: int) -> Callable[[Twin], str]:
    def scenario(twin: Twin) -> str:
        before = twin.children()
        os.kill(min(before), number)
        until(lambda: min(before) not in twin.children(), 2.5)
        time.sleep(2.2)
        after = twin.children()
        gone = "gone" if min(before) not in after else "stays"
        return f"{gone}, then {len(after)} of {len(before)}; {ids(twin, 'AH00052')}"

    return scenario


def connections_per_child(twin: Twin) -> str:
    """Connections one after the other under MaxConnectionsPerChild 4: how many the first child has."""
    for _ in range(9):
        sock = dial(twin)
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        while sock.recv(65536):
            pass
        sock.close()
    until(lambda: len(twin.access_lines()) == 9, 3)
    pids = [line.split()[0] for line in twin.access_lines()]
    # One more was the look whether it is up.
    served = 1 + pids.index(next(pid for pid in pids if pid != pids[0]))
    if twin.mpm == "worker":  # it counts when a connection ends, with the next one accepted already
        return "more than 4, at most 6" if 4 < served <= 6 else str(served)
    return str(served)


def keep_alive_max(twin: Twin) -> str:
    """The Keep-Alive headers under MaxKeepAliveRequests 3."""
    sock = dial(twin)
    said = []
    for _ in range(4):
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"))
        headers = dict(split(sock.recv(65536), ["GET"], False).replies[0].headers)
        said.append(headers.get("Keep-Alive", headers.get("Connection", "")))
    sock.close()
    return "; ".join(said)


def never_closes(twin: Twin) -> str:
    """The letters that an idle kept-alive client's worker shows until it is `_` again."""
    sock = parked(twin)
    seen: list[str] = []
    end = time.monotonic() + 5.5
    while time.monotonic() < end:
        # W is the look itself, S a child that starts, L lasts for microseconds.
        busy = "".join(sorted(set(twin.auto()["Scoreboard"].strip()) - set("_.SLW"))) or "_"
        if len(busy) == 1 and (not seen or seen[-1] != busy):
            seen.append(busy)
        time.sleep(0.15)
    sock.close()
    if twin.mpm == "event":  # a letter for a moment is no state of a waiting client
        seen = seen[-1:]
    if len(seen) > 1 and seen[0] == "_":  # the first look met the worker in its W
        del seen[0]
    return " ".join(seen)


def flush(twin: Twin) -> str:
    """Event: two parked, then fourteen half-sent on four threads. What becomes of the parked?"""
    idle = [parked(twin) for _ in range(2)]
    time.sleep(0.2)
    busy = [half_sent(twin) for _ in range(14)]
    kind, took, _ = fate(idle[0], 2.0)
    for sock in (*idle, *busy):
        sock.close()
    return kind if kind == "open" else f"{kind} {when(took)}"


def parked_beside_busy(twin: Twin) -> str:
    """Event: six parked, then fourteen half-sent on four threads: the parked live on."""
    idle = [parked(twin) for _ in range(6)]
    time.sleep(0.2)
    busy = [half_sent(twin) for _ in range(14)]
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


def signalled(name: str) -> Callable[[Twin], dict[str, str]]:
    """One parked client, one in the middle of its head, and a signal to the parent."""

    def scenario(twin: Twin) -> dict[str, str]:
        written = (twin.root / "pid").exists()
        for _ in range(BEFORE):
            before = twin.auto()
        keeps, half = parked(twin), half_sent(twin)
        until(lambda: "R" in twin.auto()["Scoreboard"], 3)
        os.kill(twin.pid, getattr(signal, f"SIG{name}"))
        seen: dict[str, str] = {}
        ends = name in ("TERM", "WINCH")
        with ThreadPoolExecutor(3) as pool:
            watch_parked = pool.submit(fate, keeps, 9.0)
            if ends:
                watch_half = pool.submit(fate, half, 14.0)
            else:
                watch_half = pool.submit(_finish_later, half)
            time.sleep(0.4)
            seen["a new client"] = _newcomer(twin)
            kind, took, _ = watch_parked.result()
            seen["parked"] = "closed " + when(took) if kind in ("FIN", "reset") else kind
            kind, took, data = watch_half.result()
            seen["half-sent"] = (
                data.split(b" ")[1].decode() + " " + when(took)
                if kind == "answer"
                else "cut " + when(took)
            )
        if ends:
            until(lambda: twin.exit_status() is not None, 6)
            seen["exit status"] = str(twin.exit_status())
            left = (twin.root / "pid").exists()
            seen["pid file"] = (
                f"{'written' if written else 'none'}, {'left' if left else 'removed'}"
            )
        else:
            until(lambda: twin.auto(), 5)
            after = twin.auto()
            for key in ("ParentServerConfigGeneration", "ParentServerMPMGeneration"):
                seen[key] = f"+{int(after[key]) - int(before[key])}"
            kept = int(after["Total Accesses"]) >= BEFORE
            seen["counters"] = "kept" if kept else "from zero"
        seen["log"] = ids(twin, *LIFE[twin.mpm])
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


def _newcomer(twin: Twin) -> str:
    try:
        with urllib.request.urlopen(f"{twin.url}/file.txt", timeout=9) as reply:
            return str(reply.status)
    except urllib.error.URLError as error:
        return "refused" if isinstance(error.reason, ConnectionRefusedError) else "lost"
    except OSError:
        return "lost"


# --- All of them -------------------------------------------------------------------------------------

Scenario = tuple[str, str, str, str, Callable[[Twin], object]]  # case, mpm, extra, pool, what


def scenarios() -> list[Scenario]:
    found: list[Scenario] = []
    for mpm in MPMS:
        found += [
            (f"growth ({mpm})", mpm, "", GROW[mpm], grow),
            (f"shrinking ({mpm})", mpm, "", SHRINK[mpm], shrink),
            (f"saturation ({mpm})", mpm, "", FULL[mpm][0], saturate),
            (
                f"MaxConnectionsPerChild 4 ({mpm})",
                mpm,
                "MaxConnectionsPerChild 4",
                ONE[mpm],
                connections_per_child,
            ),
            (f"MaxKeepAliveRequests 3 ({mpm})", mpm, "MaxKeepAliveRequests 3", "", keep_alive_max),
            (f"idle client that never closes ({mpm})", mpm, "KeepAliveTimeout 2", "", never_closes),
        ]
        found += [
            (f"SIG{name} to a child ({mpm})", mpm, "", "", crash(number))
            for name, number in (
                ("SEGV", signal.SIGSEGV),
                ("KILL", signal.SIGKILL),
                ("TERM", signal.SIGTERM),
            )
        ]
        found += [
            (
                f"SIG{name} ({mpm})",
                mpm,
                f"KeepAliveTimeout {KEEP_ALIVE_TIMEOUT}\nGracefulShutdownTimeout 5",
                "",
                signalled(name),
            )
            for name in ("TERM", "HUP", "USR1", "WINCH")
        ]
    found += [
        (
            f"AsyncRequestWorkerFactor {value} (event)",
            "event",
            f"AsyncRequestWorkerFactor {value}\nKeepAliveTimeout 30",
            ONE["event"],
            factor,
        )
        for value in ("1", "1.5", "2", "3")
    ]
    two = (
        "StartServers 1\nThreadsPerChild 2\nThreadLimit 2\nMinSpareThreads 1\nMaxSpareThreads 6\n"
        "ServerLimit 2\nMaxRequestWorkers 20"
    )
    found += [
        (f"MaxRequestWorkers above ServerLimit ({mpm})", mpm, "", two, misconfigured)
        for mpm in ("worker", "event")
    ]
    found += [
        (
            f"SIG{name} with a mistake in the file ({mpm})",
            mpm,
            "",
            "",
            broken_file(getattr(signal, f"SIG{name}")),
        )
        for name, mpm in (("HUP", "prefork"), ("USR1", "event"))
    ]
    found += [
        (
            "2 parked, 14 half-sent, 4 threads (event)",
            "event",
            "KeepAliveTimeout 5",
            ONE["event"],
            flush,
        ),
        (
            "6 parked, 14 half-sent, 4 threads (event)",
            "event",
            "KeepAliveTimeout 5",
            ONE["event"],
            parked_beside_busy,
        ),
    ]
    return found


def rows(pages: Path, only: Iterable[str] = ()) -> list[Row]:
    """All scenarios, or those whose names contain one of `only`; a few at the same time.

    Times are measured, on a machine that has other things to do. So where the two differ without a
    reason, the scenario is run again, alone, up to `AGAIN` times: a difference in what they do
    will be there each time.
    """
    wanted = tuple(only)
    chosen = [s for s in scenarios() if not wanted or any(word in s[0] for word in wanted)]
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
    case = scenario[0]
    theirs, ours = _both(pages, scenario)
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [Row("signal", f"{case}: {what}", theirs[what], ours[what]) for what in theirs]
    return [Row("timeline", case, str(theirs), str(ours))]


def _both(pages: Path, scenario: Scenario) -> tuple[object, object]:
    _, mpm, extra, pool, what = scenario
    with Twins(mpm, pages, extra, pool=pool or None) as twins:
        with ThreadPoolExecutor(2) as both:
            theirs, ours = both.map(what, twins)
    return theirs, ours
