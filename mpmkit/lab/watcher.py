"""Watching a server that runs: a few times a second, what it is doing, and what has changed.

    with watch(server) as seen:
        ...put a load on it...
    seen.to_frame().plot(x="t", y=["processes", "busy"])
    print(seen.story())

A sample costs the server no request. It is read from the scoreboard's shared memory, from the
kernel's list of listening sockets and, more rarely, from /proc/PID/smaps_rollup (memory: the kernel
walks a process's pages for it, so a server of many processes is asked less often). One sample of a
full scoreboard takes about a millisecond of the watcher's time.

    what                 from
    -------------------  ---------------------------------------------------------------------
    processes, threads   scoreboard rows with a pid; the living slots in them
    idle, busy           letters `_`; letters R W K L C (states.BUSY)
    reading … closing    a connection for each busy letter, plus event's counters of parked ones
    queue                connections the kernel has taken and nobody has accepted yet
    qps, service_ms      differences of the scoreboard's request counters and times
    pss_mb               proportional set size of parent and children: shared pages counted once
    events               pids that came and went, generations, and new lines of the error log
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmkit.launcher import LaunchError, ScoreboardView, Server
from mpmkit.policy.states import BUSY, LETTERS, READY

if TYPE_CHECKING:
    import pandas

EVERY = 0.35  # seconds between samples: about three a second
MEMORY_EVERY = 2.0  # seconds between looks at memory, at least
MEMORY_SHARE = 0.01  # of a core that looking at memory may take
KEEP = 3600  # samples kept: some twenty minutes

BUSY_LETTERS = "".join(LETTERS[state] for state in BUSY)
IDLE_LETTER = LETTERS[READY]


class Sample(NamedTuple):
    """One look. Counts, except where a unit is in the name; NaN is not known (yet)."""

    t: float  # seconds since the watch began
    processes: int
    threads: int
    idle: int
    busy: int
    reading: int
    writing: int
    keep_alive: int
    parked: int  # of all connections, those that no thread holds (event)
    closing: int
    queue: float  # in the listen queue
    generation: int
    accesses: int  # requests since the start
    qps: float  # requests per second since the sample before
    service_ms: float  # mean time of those requests, in the server
    pss_mb: float


class Event(NamedTuple):
    """Something that happened between two samples. `kind`: forked, ended, generation, log, note."""

    t: float
    kind: str
    text: str


class Picture(NamedTuple):
    """The scoreboard at one moment: (slot, letters, connections without a thread) a process."""

    label: str
    t: float
    mpm: str
    rows: tuple[tuple[int, str, int], ...]

    @classmethod
    def of(cls, board: ScoreboardView, label: str = "", t: float = 0.0) -> Picture:
        """From what `server.scoreboard()` returns."""
        parked = {
            row.slot: row.keep_alive + row.write_completion + row.lingering_close
            for row in board.snapshot.processes
        }
        return cls(
            label,
            round(t, 2),
            board.mpm,
            tuple((slot, text, parked[slot]) for slot, text in board.letters.items()),
        )

    def count(self, letter: str) -> int:
        """How many slots show the letter."""
        return sum(text.count(letter) for _, text, _ in self.rows)


class Watch:
    """Watches one server until it is closed or the server ends; a context manager.

    server      what `mpmkit.launch` returned
    every       seconds between samples, 0.05 or more
    on_sample   called in the watching thread with each Sample and its ScoreboardView
    on_end      called there when the server has ended, unless the watch was closed before

    `samples` and `events` may be read at any time, from any thread.
    Raises ValueError for a shorter `every`.
    """

    def __init__(
        self,
        server: Server,
        *,
        every: float = EVERY,
        on_sample: Callable[[Sample, ScoreboardView], None] | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        if every < 0.05:
            raise ValueError(
                f"every: must be 0.05 s or more, not {every!r}: watching would be load"
            )
        self.server = server
        self.mpm = server.mpm
        self.every = every
        self.on_sample = on_sample
        self.on_end = on_end
        self.samples: list[Sample] = []
        self.events: list[Event] = []
        self.pictures: list[Picture] = []
        self.board: ScoreboardView | None = None  # the last one seen
        self._began = time.monotonic()
        self._pids: dict[int, int] = {}  # pid -> slot
        self._log_seen = 0
        self._duration = 0
        self._memory = float("nan")
        self._memory_at = 0.0  # when to look at it again
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mpmkit-watch", daemon=True)

    def start(self) -> Watch:
        """Take the first sample now, the others in a thread."""
        self.look()
        self._thread.start()
        return self

    def close(self) -> None:
        """Take a last sample and stop. Twice does nothing."""
        if not self._stop.is_set():
            self._stop.set()
            if self._thread.is_alive() and threading.current_thread() is not self._thread:
                self._thread.join()
            self.look()

    def __enter__(self) -> Watch:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            if not self.server.running:
                if self.on_end is not None and not self._stop.is_set():
                    self.on_end()
                return
            self.look()  # one that fails while the server runs is one look missed

    @property
    def now(self) -> float:
        """Seconds since the watch began."""
        return time.monotonic() - self._began

    def note(self, text: str, kind: str = "note") -> None:
        """Add an event of your own: what you did to the server, and when."""
        with self._lock:
            self.events.append(Event(self.now, kind, text))

    def shoot(self, label: str) -> Picture:
        """Keep a picture of the scoreboard as it is now, and note the moment."""
        picture = Picture.of(self.server.scoreboard(), label, self.now)
        with self._lock:
            self.pictures.append(picture)
        self.note(label)
        return picture

    def until(self, condition: Callable[[Sample], Any], seconds: float = 30.0) -> Sample:
        """Wait for a sample that fulfils the condition, and return it. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not condition(sample := self.last):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds:g} s; the last sample: {sample}")
            time.sleep(self.every / 4)
        return sample

    def look(self) -> Sample | None:
        """One sample, now; None when the server has ended."""
        with self._lock:
            try:
                board = self.server.scoreboard()
            except (LaunchError, OSError, ValueError):
                return None
            now = self.now
            sample = self._sample(board, now)
            self._differences(board, now)
            self.board = board
            self.samples.append(sample)
            del self.samples[:-KEEP], self.events[:-KEEP]
        if self.on_sample is not None:
            self.on_sample(sample, board)
        return sample

    def _sample(self, board: ScoreboardView, now: float) -> Sample:
        letters = "".join(board.letters.values())
        rows = [row for row in board.snapshot.processes if row.pid]
        parked_reads = sum(row.keep_alive for row in rows)
        parked_writes = sum(row.write_completion for row in rows)
        lingering = sum(row.lingering_close for row in rows)
        duration = sum(row.duration for row in board.workers)
        last = self.samples[-1] if self.samples else None
        qps = service = float("nan")
        if last is not None and now > last.t:
            # A restart begins counting at zero again.
            again = board.accesses < last.accesses
            done = board.accesses - (0 if again else last.accesses)
            qps = done / (now - last.t)
            if done:
                service = (duration - (0 if again else self._duration)) / done / 1e6
        self._duration = duration
        if now >= self._memory_at or last is None:
            began = time.thread_time()
            self._memory = pss_mb([self.server.pid, *(row.pid for row in rows)])
            took = time.thread_time() - began
            self._memory_at = now + max(MEMORY_EVERY, took / MEMORY_SHARE)
        return Sample(
            t=round(now, 3),
            processes=len(rows),
            threads=len(letters) - letters.count(LETTERS[0]),
            idle=letters.count(IDLE_LETTER),
            busy=sum(map(letters.count, BUSY_LETTERS)),
            reading=letters.count("R"),
            writing=letters.count("W") + letters.count("L") + parked_writes,
            keep_alive=letters.count("K") + parked_reads,
            parked=parked_reads + parked_writes + lingering,
            closing=letters.count("C") + lingering,
            queue=listen_queue(self.server.port),
            generation=board.snapshot.generation,
            accesses=board.accesses,
            qps=qps,
            service_ms=service,
            pss_mb=self._memory,
        )

    def _differences(self, board: ScoreboardView, now: float) -> None:
        """Events: who came, who went, a new generation, new lines in the error log."""
        pids = {row.pid: row.slot for row in board.snapshot.processes if row.pid}
        came, gone = pids.keys() - self._pids.keys(), self._pids.keys() - pids.keys()
        one = "a process" if self.mpm != "prefork" else "a child"
        many = "processes" if self.mpm != "prefork" else "children"
        for kind, which in (("forked", came), ("ended", gone)):
            if which:
                text = f"{kind} {len(which)} {many}" if len(which) > 1 else f"{kind} {one}"
                self.events.append(Event(now, kind, text))
        self._pids = pids
        before = self.samples[-1].generation if self.samples else 0
        if board.snapshot.generation != before:
            self.events.append(Event(now, "generation", f"generation {board.snapshot.generation}"))
        log = self.server.error_log()
        for line in log_lines(log[self._log_seen :]):
            self.events.append(Event(now, "log", line))
        self._log_seen = len(log)

    # -- what was seen ------------------------------------------------------------------------

    @property
    def last(self) -> Sample:
        """The newest sample. Raises IndexError before the first."""
        return self.samples[-1]

    def recording(self) -> Recording:
        """What was seen, apart from the server: it can be drawn, saved and read again."""
        with self._lock:
            return Recording(
                self.mpm, tuple(self.samples), tuple(self.events), tuple(self.pictures)
            )

    def to_frame(self) -> pandas.DataFrame:
        """One row a sample."""
        return self.recording().to_frame()

    def story(self) -> str:
        """The events, one a line."""
        return self.recording().story()


watch = Watch  # a verb reads better in a `with`


class Recording(NamedTuple):
    """What a Watch saw. `to_json` and `from_json` keep it."""

    mpm: str
    samples: tuple[Sample, ...]
    events: tuple[Event, ...]
    pictures: tuple[Picture, ...] = ()

    def picture(self, label: str) -> Picture:
        """The picture of that label. Raises KeyError if none was taken."""
        for picture in self.pictures:
            if picture.label == label:
                return picture
        raise KeyError(f"no picture {label!r}; there are {[p.label for p in self.pictures]}")

    def column(self, name: str) -> list[Any]:
        """One field of all samples: `recording.column("processes")`."""
        return [getattr(sample, name) for sample in self.samples]

    def most(self, name: str) -> Any:
        """The largest value of a field; what isn't known doesn't count."""
        return max((v for v in self.column(name) if v == v), default=float("nan"))

    def forks(self) -> list[int]:
        """How many children each burst of forks had, in order: the parent forks once a second."""
        found = [
            (event.t, int((re.findall(r"\d+", event.text) or [1])[0]))
            for event in self.events
            if event.kind == "forked"
        ]
        bursts: list[list[float]] = []
        for t, count in found:
            # Two samples may fall into one burst: the next burst is a second away.
            if bursts and t - bursts[-1][0] < 0.7:
                bursts[-1][1] += count
            else:
                bursts.append([t, count])
        return [int(count) for _, count in bursts]

    def to_frame(self) -> pandas.DataFrame:
        """One row a sample."""
        import pandas

        return pandas.DataFrame(self.samples, columns=Sample._fields)

    def story(self) -> str:
        """The events, one a line, with their second."""
        return "\n".join(f"{event.t:6.1f} s  {event.text}" for event in self.events)

    def to_json(self) -> dict[str, Any]:
        """Plain values: samples as lists in the order of `fields`, NaN as None."""
        return {
            "mpm": self.mpm,
            "fields": list(Sample._fields),
            "samples": [[None if v != v else round(v, 3) for v in s] for s in self.samples],
            "events": [[round(e.t, 2), e.kind, e.text] for e in self.events],
            "pictures": [list(picture) for picture in self.pictures],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recording:
        """Raises ValueError for what `to_json` did not make."""
        try:
            nan = float("nan")
            samples = tuple(
                Sample(
                    **dict(zip(data["fields"], (nan if v is None else v for v in row), strict=True))
                )
                for row in data["samples"]
            )
            pictures = tuple(
                Picture(label, t, mpm, tuple((int(s), str(text), int(n)) for s, text, n in rows))
                for label, t, mpm, rows in data.get("pictures", ())
            )
            return cls(
                data["mpm"], samples, tuple(Event(*event) for event in data["events"]), pictures
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no recording of a watch: {error!r}") from None

    def __str__(self) -> str:
        return json.dumps(self.to_json())


# -- /proc ----------------------------------------------------------------------------------------

LISTENING = "0A"


def listen_queue(port: int) -> float:
    """Connections waiting on the listening port to be accepted; NaN if nobody listens there.

    Asked of the kernel by sock_diag(7), as `ss -l` does: that takes 30 us. /proc/net/tcp says the
    same, but to read it the kernel walks the table of all connections, 13 ms each time; it is read
    where a container has no sock_diag.
    """
    try:
        found = [
            waiting
            for family in (socket.AF_INET, socket.AF_INET6)
            for waiting in _listeners(family, port)
        ]
        return float(sum(found)) if found else float("nan")
    except OSError:
        return listen_queue_by_proc(port)


_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_QUESTION = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states
_SOCKET = struct.Struct("!H46x")  # inet_diag_sockid: the local port; all else is any
SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, DONE = 20, 0x301, 3
_QUEUE_AT = 16 + 4 + 48 + 4  # of inet_diag_msg: behind header, four bytes, sockid and a timer


def _listeners(family: int, port: int) -> Iterator[int]:
    """What waits at each listening socket of the port. Raises OSError where the kernel won't say."""
    question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 1 << int(LISTENING, 16))
    length = _HEADER.size + len(question) + _SOCKET.size
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 4) as netlink:
        netlink.settimeout(1)
        netlink.send(
            _HEADER.pack(length, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0)
            + question
            + _SOCKET.pack(port)
        )
        while True:
            answer = netlink.recv(65_536)
            while answer:
                length, kind, *_ = _HEADER.unpack_from(answer)
                if kind == DONE:
                    return
                if kind != SOCK_DIAG_BY_FAMILY:
                    raise OSError("the kernel has no sock_diag for TCP")
                yield struct.unpack_from("=I", answer, _QUEUE_AT)[0]
                answer = answer[(length + 3) & ~3 :]


def listen_queue_by_proc(
    port: int, tables: Iterable[str] = ("/proc/net/tcp", "/proc/net/tcp6")
) -> float:
    """The same from /proc. The kernel lists listening sockets first, and reading stops behind them:
    there may be tens of thousands of lines in TIME_WAIT."""
    wanted = f":{port:04X}"
    found = float("nan")
    for table in tables:
        try:
            with open(table, encoding="ascii", buffering=8192) as file:
                next(file, None)
                for line in file:
                    fields = line.split()
                    if fields[3] != LISTENING:
                        break
                    if fields[1].endswith(wanted):
                        waiting = int(fields[4].partition(":")[2], 16)
                        found = waiting if found != found else found + waiting
        except OSError:
            continue
    return found


def pss_mb(pids: Iterable[int]) -> float:
    """Proportional set size of processes together, in MB (10^6 bytes); NaN if none can be read.

    A page that n processes share counts 1/n for each, so the sum counts nothing twice, which
    summed RSS does. Processes that end meanwhile are left out.
    """
    total, seen = 0, False
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
                seen = True
                break
    return round(total / 1e6, 2) if seen else float("nan")


_LOG_LINE = re.compile(r"\[[^\]]+\] \[\w+:(\w+)\] \[pid \d+(?::tid \d+)?\] (.*)")
TOLD = ("notice", "warn", "error", "crit", "alert", "emerg")


def log_lines(text: str) -> list[str]:
    """The messages of an error log that an operator should see, without date and pid."""
    found = (_LOG_LINE.match(line) for line in text.splitlines())
    return [match[2] for match in found if match and match[1] in TOLD]
