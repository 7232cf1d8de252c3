"""Record what a running server's pool does, second by second: ours, or a real httpd.

    run = mpmkit.watch(server, seconds=12)             look once a second for 12 seconds
    with mpmkit.watch(server) as run:                  or for as long as the block takes
        mpmkit.run_load(server, "/index.html", users=200)
    run.to_frame()

A server of `mpmkit.launch` is read by its scoreboard, which costs it nothing. A real httpd is asked
for `?auto`, which keeps one of its workers busy for a moment: that one is taken off again. The columns
are those of `mpmkit.simulate`, so simulated, measured and real runs can be laid over one another.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload
from urllib.parse import urlsplit

from mpmkit.launcher import LaunchError, Server
from mpmkit.policy.simulator import COLUMNS

if TYPE_CHECKING:
    import pandas

LISTEN = "0A"  # the state in /proc/net/tcp


class Running(Protocol):
    """What is known of a server of another make: `mpmkit.measure.reference_servers.Httpd`, for instance."""

    url: str
    pid: int


class Sample(NamedTuple):
    """One look. `t` in seconds since the first; the other columns are counts.

    processes   children that exist, those that are leaving included; None where nobody can tell
    workers     processes or threads that are up and not leaving: idle and busy ones
    idle, busy  by the status page's rules
    waiting     clients in the kernel's queue: connected, and not accepted yet
    parked      kept-alive connections without a request: without a thread under event, and under
                prefork and worker among the busy ones (K)
    accesses    requests since RestartTime; None without ExtendedStatus

    All but `t` and `waiting` are None where the server gave no answer in time; `processes` is known
    even then if its pid is.
    """

    t: float
    processes: int | None
    workers: int | None
    idle: int | None
    busy: int | None
    waiting: int
    parked: int | None
    accesses: int | None


assert Sample._fields[: len(COLUMNS)] == COLUMNS


@dataclass
class Recording(Sequence[Sample]):
    """A sequence of samples. As a context manager it records until the block ends."""

    mpm: str
    source: str
    every: float
    samples: list[Sample] = field(default_factory=list)
    look: Callable[[float], Sample] | None = field(default=None, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)
    _began: float = field(default=0.0, repr=False)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(list(self.samples))

    def __repr__(self) -> str:
        return f"<Recording of {self.source}: {len(self)} samples, one each {self.every:g} s>"

    def column(self, name: str) -> list[Any]:
        """One quantity over time."""
        return [getattr(sample, name) for sample in self]

    def to_frame(self) -> pandas.DataFrame:
        """One row a sample. Needs pandas, which is imported only here."""
        import pandas

        return pandas.DataFrame(list(self), columns=Sample._fields)

    def __enter__(self) -> Recording:
        self._first()
        self._thread = threading.Thread(target=self._go_on, args=(None,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _first(self) -> None:
        """The look at 0 seconds: before anything that the block does."""
        assert self.look is not None
        self._began = time.monotonic()
        self.samples.append(self.look(0.0))

    def _go_on(self, seconds: float | None) -> None:
        """Look again at the full multiples of `every`."""
        assert self.look is not None
        number = 1
        while seconds is None or number * self.every <= seconds + 1e-9:
            if self._stop.wait(max(0.0, self._began + number * self.every - time.monotonic())):
                break
            self.samples.append(self.look(time.monotonic() - self._began))
            number += 1


def watch(
    server: Server | Running | str, seconds: float | None = None, *, every: float = 1.0
) -> Recording:
    """Record a server's pool: for `seconds` from now on, or, without, in a `with` block.

    server   of `mpmkit.launch`; or something with `url` and `pid`, whose status page is at
             /server-status; or the URL of a server or of its status page
    every    seconds between two looks, more than 0

    Raises ValueError for numbers that can't be, LaunchError for a server of ours that has stopped,
    OSError for a URL where nobody answers or that is no status page.
    """
    if every <= 0 or (seconds is not None and seconds < 0):
        raise ValueError("every is more than 0 seconds, and seconds is 0 or more")
    if isinstance(server, Server):
        recording = Recording(server.mpm, f"mpmkit {server.mpm}", every)
        server.scoreboard()  # stopped? Then say so now
        recording.look = lambda t: _ours(server, t)
    else:
        page, pid, port = _page_of(server)
        first = _auto(page, 10.0)
        recording = Recording(
            first["ServerMPM"],
            f"{first['ServerVersion'].split('/')[0]} {first['ServerMPM']}",
            every,
        )
        recording.look = lambda t: _other(page, pid, port, t, max(every, 0.2))
    if seconds is not None:
        recording._first()
        recording._go_on(seconds)
    return recording


# --- Two ways to look --------------------------------------------------------------------------------


def _ours(server: Server, t: float) -> Sample:
    waiting = listen_queue(server.port)
    try:
        view = server.scoreboard()
    except LaunchError:
        return Sample(round(t, 3), None, None, None, None, waiting, None, None)
    counts = view.counts
    parked = view.count("K") + sum(row.keep_alive for row in view.snapshot.processes if row.pid)
    workers = counts.busy + counts.idle
    return Sample(
        round(t, 3),
        counts.processes,
        workers,
        counts.idle,
        counts.busy,
        waiting,
        parked,
        view.accesses,
    )


def _other(page: str, pid: int | None, port: int, t: float, patience: float) -> Sample:
    waiting = listen_queue(port)  # before we stand in it ourselves
    try:
        auto = _auto(page, patience)
        idle = int(auto["IdleWorkers"])
        busy = max(0, int(auto["BusyWorkers"]) - 1)  # one answers us
        letters = auto["Scoreboard"]
        parked = letters.count("K") + int(auto.get("ConnsAsyncKeepAlive", 0))
        accesses = int(auto["Total Accesses"]) if "Total Accesses" in auto else None
    except (OSError, KeyError, ValueError):
        # Every worker is busy: the page does not come, and /proc still has the children.
        children = None if pid is None else _children(pid)
        return Sample(round(t, 3), children, None, None, None, waiting, None, None)
    processes: int | None = None
    if pid is not None:
        processes = _children(pid)
    elif "Processes" in auto:
        processes = int(auto["Processes"])
    elif auto["ServerMPM"] == "prefork":
        processes = len(letters) - letters.count(".")
    return Sample(
        round(t, 3), processes, idle + busy + 1, idle + 1, busy, waiting, parked, accesses
    )


def _page_of(server: Running | str) -> tuple[str, int | None, int]:
    """The URL of `?auto`, the parent's pid if it is known, and the port."""
    url = server if isinstance(server, str) else server.url
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the URL of a server; write http://host:port")
    path = parts.path if parts.path.strip("/") else "/server-status"
    port = parts.port or (443 if parts.scheme == "https" else 80)
    pid = None if isinstance(server, str) else server.pid
    return f"{parts.scheme}://{parts.netloc}{path}?auto", pid, port


def _auto(page: str, patience: float) -> dict[str, str]:
    """`?auto` as a dict. Raises OSError when it does not come, or is something else."""
    with urllib.request.urlopen(page, timeout=patience) as reply:
        lines = reply.read().decode("latin-1").splitlines()
    auto = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "Scoreboard" not in auto:
        raise OSError(f"{page} is not a status page; is SetHandler server-status configured?")
    return auto


# --- What the kernel knows ---------------------------------------------------------------------------


def listen_queue(port: int) -> int:
    """Connections that wait to be accepted on a port of this machine (0 for another machine's)."""
    waiting = 0
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(name) as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    waiting += int(fields[4].partition(":")[2], 16)
    return waiting


def _children(pid: int) -> int:
    """Living children of a process."""
    count = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                with open(f"/proc/{entry}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
                count += int(parent) == pid and state not in "ZX"
    return count
