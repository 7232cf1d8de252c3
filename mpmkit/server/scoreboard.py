"""The scoreboard: what every process and thread is doing, in memory that all of them share.

Apache's own layout (scoreboard.h), as four arrays one after the other:

    header      one record      written by the parent
    processes   one a slot      pid and generation by the parent, the rest by the child that owns it
    states      one byte a thread slot: a number of `states.py`
    workers     counters of one thread slot (64-bit integers)
    texts       client, vhost, protocol and request line of one thread slot

There is no lock. Each record has one writer at a time, a byte and an aligned 64-bit integer are
written atomically, and a reader needs a snapshot, not a transaction: a state change is one store.

With ScoreBoardFile the memory is a named file, as in httpd, and `Scoreboard.attach` reads it from
another process: that costs no request, and needs no idle worker.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mpmkit.config.directives import MPMS, Directives
from mpmkit.http.messages import text_field
from mpmkit.policy.snapshot import ProcessRow, Snapshot
from mpmkit.policy.states import DEAD, STARTING
from mpmkit.server.pidfile import own_file

MAGIC = int.from_bytes(b"mpmkit01", "little")

# Header fields, in order, all 64-bit.
(
    H_MAGIC, H_MPM, H_SERVER_LIMIT, H_THREAD_LIMIT, H_PROCESS_LIMIT, H_THREADS_PER_CHILD,
    H_GENERATION, H_CONFIG_GENERATION, H_RESTART_TIME, H_PARENT_PID,
) = range(10)  # fmt: skip
HEADER = 16

# Process fields, all 64-bit, in ProcessRow's order.
(
    P_PID, P_GENERATION, P_QUIESCING, P_NOT_ACCEPTING, P_CONNECTIONS, P_WRITE_COMPLETION,
    P_LINGERING_CLOSE, P_KEEP_ALIVE,
) = range(8)  # fmt: skip
PROCESS = 8

# Worker fields: WorkerRow's from `conn_count` to `tid`. One `pack_into` stores all of them at the end
# of a request.
WORKER = 10
_store = struct.Struct(f"={WORKER}q").pack_into
_store_two = struct.Struct("=2q").pack_into

# Bytes of each text.
CLIENT, VHOST, PROTOCOL, REQUEST = 64, 32, 16, 64
TEXT = CLIENT + VHOST + PROTOCOL + REQUEST
_read_texts = struct.Struct(f"{CLIENT}s{VHOST}s{PROTOCOL}s{REQUEST}s").unpack_from
# Cuts and pads with NULs; the last byte of each is always one.
_store_request = struct.Struct(f"{PROTOCOL - 1}sx{REQUEST - 1}sx").pack_into


class WorkerRow(NamedTuple):
    """One thread slot as mod_status shows it. Times in nanoseconds, `duration` summed over requests."""

    process: int
    thread: int
    pid: int
    generation: int
    state: int
    conn_count: int
    conn_bytes: int
    access_count: int
    bytes_served: int
    my_access_count: int
    my_bytes_served: int
    duration: int
    last_duration: int
    last_used: int
    tid: int
    client: str
    vhost: str
    protocol: str
    request: str


def _header(index: int) -> Any:
    """A number of the header, as an attribute of the scoreboard."""

    def read(board: Scoreboard) -> int:
        return board._header[index]

    def write(board: Scoreboard, value: int) -> None:
        board._header[index] = value

    return property(read, write)


class Scoreboard:
    """The parent makes one before it forks; children inherit the memory.

    generation           Apache's my_generation: 0 at first, one more at each restart
    config_generation    how many times the configuration was read, 1 after the start
    restart_time         ns since the epoch of the start or the last SIGHUP

    Raises OSError when the ScoreBoardFile can't be made, MemoryError or OSError when
    ServerLimit × ThreadLimit asks for more memory than there is.
    """

    generation: int = _header(H_GENERATION)
    config_generation: int = _header(H_CONFIG_GENERATION)
    restart_time: int = _header(H_RESTART_TIME)
    process_limit: int = _header(H_PROCESS_LIMIT)
    threads_per_child: int = _header(H_THREADS_PER_CHILD)
    parent_pid: int = _header(H_PARENT_PID)

    _used = 0  # the parent's: slots that had a child since the start or the last SIGHUP
    # `name:port` of the server, for the children's records; the parent sets it before it forks.
    vhost = ""
    make_slot: Callable[[Scoreboard, int, int], WorkerSlot] | None = None  # with virtual hosts

    def __init__(self, directives: Directives, path: str | None = None) -> None:
        self.path = path
        self._map_memory(
            directives.ServerLimit,
            directives.ThreadLimit,
            lambda size: mmap.mmap(-1, size) if path is None else _mapped_file(path, size),
        )
        self._header[H_MPM] = MPMS.index(directives.mpm)
        self._header[H_SERVER_LIMIT] = self.server_limit
        self._header[H_THREAD_LIMIT] = self.thread_limit
        self.parent_pid = os.getpid()
        self.config_generation = 1
        self.restart_time = time.time_ns()
        self.set_limits(directives)
        self._header[H_MAGIC] = MAGIC  # last: a reader that finds it finds a whole header

    @classmethod
    def attach(cls, path: str) -> Scoreboard:
        """Read another server's ScoreBoardFile. Raises FileNotFoundError when it does not exist (yet),
        ValueError when it isn't a scoreboard."""
        self = cls.__new__(cls)
        self.path = path
        with open(path, "rb") as file:
            head = file.read(8 * HEADER)
            if len(head) < 8 * HEADER or int.from_bytes(head[:8], "little") != MAGIC:
                text = f"{path} is not an mpmkit scoreboard; name the server's ScoreBoardFile"
                raise ValueError(text)
            fields = struct.unpack(f"={HEADER}q", head)
            self._map_memory(
                fields[H_SERVER_LIMIT],
                fields[H_THREAD_LIMIT],
                lambda size: mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ),
            )
        return self

    def _map_memory(
        self, server_limit: int, thread_limit: int, mapped: Callable[[int], mmap.mmap]
    ) -> None:
        self.server_limit = server_limit
        self.thread_limit = thread_limit
        slots = server_limit * thread_limit
        sizes = (
            8 * HEADER,
            8 * PROCESS * server_limit,
            slots + -slots % 8,
            8 * WORKER * slots,
            TEXT * slots,
        )
        self._offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        self._map = mapped(sum(sizes))
        view = memoryview(self._map)
        header, processes, states, workers, texts = self._offsets
        self._header = view[header:processes].cast("q")
        self._processes = view[processes:states].cast("q")
        self._states = view[states:workers]
        self._workers = view[workers:texts].cast("q")
        self._texts = view[texts:]
        self._view = view

    def restart(self) -> None:
        """A SIGHUP (no child is left): every record that was in use from zero, RestartTime now."""
        threads = self.thread_limit
        rows = (8 * PROCESS, threads, 8 * WORKER * threads, TEXT * threads)
        for start, size in zip(self._offsets[1:], rows, strict=True):
            self._view[start : start + self._used * size] = bytes(self._used * size)
        self._used = 0
        self.restart_time = time.time_ns()

    def set_limits(self, directives: Directives) -> None:
        """What mod_status prints depends on the current limits, which a restart may change."""
        self.process_limit = directives.process_limit
        self.threads_per_child = directives.ThreadsPerChild

    @property
    def mpm(self) -> str:
        return MPMS[self._header[H_MPM]]

    def born(self, slot: int, pid: int, generation: int) -> None:
        """The parent forked `pid` into `slot`."""
        self._used = max(self._used, slot + 1)
        self._clear(slot)
        self._processes[slot * PROCESS + P_GENERATION] = generation
        self._processes[slot * PROCESS + P_PID] = pid

    def died(self, slot: int) -> None:
        """The parent reaped the child of `slot`: no process, every thread DEAD."""
        first = slot * self.thread_limit
        for i in range(first, first + self.thread_limit):
            self._states[i] = DEAD
        self._clear(slot)

    def _clear(self, slot: int) -> None:
        for field in range(slot * PROCESS, (slot + 1) * PROCESS):
            self._processes[field] = 0

    def set_states(self, slot: int, state: int, threads: int, *, only: tuple[int, ...]) -> None:
        """Set those of the first `threads` states of a row that are in one of `only`."""
        first = slot * self.thread_limit
        for i in range(first, first + threads):
            if self._states[i] in only:
                self._states[i] = state

    def process(self, slot: int) -> ProcessSlot:
        return ProcessSlot(self, slot)

    def worker(self, slot: int, thread: int = 0) -> WorkerSlot:
        return (self.make_slot or WorkerSlot)(self, slot, thread)

    def began(self, slot: int) -> bool:
        """A thread of the child of that row has begun to serve."""
        first = slot * self.thread_limit
        return not {DEAD, STARTING}.issuperset(self._states[first : first + self.thread_limit])

    def generation_of(self, slot: int) -> int:
        return self._processes[slot * PROCESS + P_GENERATION]

    def rows(self, free: int) -> Snapshot:
        """For the parent: the slots that it has ever used, and `free` more. So a pass costs by the
        children that there were at a time, not by ServerLimit."""
        return self.snapshot(min(self.server_limit, self._used + free))

    def snapshot(self, slots: int | None = None) -> Snapshot:
        """A frozen picture of every process row, or of the first `slots`; empty ones have pid 0."""
        slots = self.server_limit if slots is None else slots
        threads = self.thread_limit
        states = bytes(self._states[: slots * threads])
        rows = []
        for slot in range(slots):
            fields = self._processes[slot * PROCESS : (slot + 1) * PROCESS].tolist()
            row = states[slot * threads : (slot + 1) * threads]
            rows.append(ProcessRow(slot, *fields, states=row))  # type: ignore[misc, arg-type]
        return Snapshot(
            server_limit=self.server_limit,
            thread_limit=threads,
            generation=self.generation,
            restart_time=self.restart_time,
            processes=tuple(rows),
        )

    def workers(self) -> list[WorkerRow]:
        """Every thread slot that is alive or has served something, with its counters and texts."""
        rows = []
        for slot in range(self.server_limit):
            pid = self._processes[slot * PROCESS + P_PID]
            generation = self._processes[slot * PROCESS + P_GENERATION]
            for thread in range(self.thread_limit):
                index = slot * self.thread_limit + thread
                state = self._states[index]
                counters = self._workers[index * WORKER : (index + 1) * WORKER].tolist()
                if state == DEAD and not counters[2]:
                    continue
                texts = [
                    text.split(b"\0", 1)[0].decode("latin-1")
                    for text in _read_texts(self._texts, index * TEXT)
                ]
                fields = (slot, thread, pid, generation, state, *counters, *texts)
                rows.append(WorkerRow._make(fields))
        return rows

    def totals(self) -> tuple[int, int, int]:
        """(accesses, bytes served, duration in ns) over all slots since RestartTime."""
        w = self._workers
        return (sum(w[2::WORKER]), sum(w[3::WORKER]), sum(w[6::WORKER]))

    def close(self) -> None:
        """Give the memory back; the parent also removes the ScoreBoardFile."""
        arrays = (self._header, self._processes, self._states, self._workers, self._texts)
        for view in (*arrays, self._view):
            view.release()
        self._map.close()


def _mapped_file(path: str, size: int) -> mmap.mmap:
    """An empty ScoreBoardFile with all of its blocks, so that no write meets a full disk (SIGBUS). Not
    through a link, nor a file of another user, who could cut it short. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        own_file(fd, path)
        os.ftruncate(fd, 0)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.unlink(path)
            raise
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)


class ProcessSlot:
    """The writer of one child's process record."""

    __slots__ = ("_base", "_fields", "slot")

    def __init__(self, board: Scoreboard, slot: int) -> None:
        self.slot = slot
        self._fields = board._processes
        self._base = slot * PROCESS

    def quiescing(self) -> None:
        """This process is leaving: none of its threads count as idle or busy any more."""
        self._fields[self._base + P_QUIESCING] = 1

    def not_accepting(self, value: bool) -> None:
        """Event: the listener has stopped listening, or goes on."""
        self._fields[self._base + P_NOT_ACCEPTING] = value

    def connections(self, total: int, writing: int, keep_alive: int, closing: int) -> None:
        """Event: connections held, and how many of them wait without a thread."""
        fields, base = self._fields, self._base
        fields[base + P_CONNECTIONS] = total
        fields[base + P_WRITE_COMPLETION] = writing
        fields[base + P_KEEP_ALIVE] = keep_alive
        fields[base + P_LINGERING_CLOSE] = closing


class WorkerSlot:
    """The writer of one thread's worker record: its counters are stored together once a request."""

    __slots__ = (
        "_index", "_offset", "_states", "_text", "_texts", "_view", "access_count", "bytes_served",
        "conn_bytes", "conn_count", "duration", "my_access_count", "my_bytes_served", "process",
        "thread", "tid",
    )  # fmt: skip

    def __init__(self, board: Scoreboard, slot: int, thread: int) -> None:
        self.process = slot
        self.thread = thread
        self._index = slot * board.thread_limit + thread
        self._states = board._states
        self._view = board._view
        self._offset = board._offsets[3] + 8 * WORKER * self._index
        self._texts = board._texts
        self._text = self._index * TEXT
        # The slot's own counts outlive the process; those of the child and the connection do not.
        _, _, self.access_count, self.bytes_served, _, _, self.duration, *_ = board._workers[
            self._index * WORKER : (self._index + 1) * WORKER
        ].tolist()
        self.conn_count = self.conn_bytes = self.my_access_count = self.my_bytes_served = 0
        self.tid = 0
        self.vhost(board.vhost)

    def set(self, state: int) -> None:
        self._states[self._index] = state

    def get(self) -> int:
        return self._states[self._index]

    def connected(self, client: bytes) -> None:
        """A new connection: its client (64 bytes, padded), and its own counts from zero."""
        self._texts[self._text : self._text + CLIENT] = client
        self.conn_count = self.conn_bytes = 0
        _store_two(self._view, self._offset, 0, 0)

    def requested(
        self, protocol: bytes, line: bytes, request: Any = None, conn: Any = None
    ) -> None:
        """The request being served: its protocol and its request line, of which 63 bytes are kept."""
        _store_request(self._texts, self._text + CLIENT + VHOST, protocol, line)

    def vhost(self, name: str) -> None:
        start = self._text + CLIENT
        self._texts[start : start + VHOST] = text_field(name, VHOST)

    def served(self, sent: int, took: int, now: int) -> None:
        """One request done, at `now` ns: `sent` bytes in both directions (as mod_logio counts), `took` ns."""
        self.conn_count += 1
        self.conn_bytes += sent
        self.access_count += 1
        self.bytes_served += sent
        self.my_access_count += 1
        self.my_bytes_served += sent
        self.duration += took
        _store(
            self._view, self._offset, self.conn_count, self.conn_bytes, self.access_count, self.bytes_served,
            self.my_access_count, self.my_bytes_served, self.duration, took, now, self.tid,
        )  # fmt: skip
