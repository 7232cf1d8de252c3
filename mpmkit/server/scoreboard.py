"""The scoreboard: what every process and thread is doing, in memory that all of them share.

Apache's own layout (scoreboard.h), one after the other:

    header      one record      written by the parent
    processes   one a slot      pid and generation by the parent, the rest by the child that owns it
    states      one byte a thread slot: a number of `states.py`
    workers     counters of one thread slot (64-bit integers)
    texts       client, vhost, protocol and request line of one thread slot

There is no lock: each record has one writer at a time, and a byte or an aligned 64-bit integer is written
atomically. With ScoreBoardFile the memory is a named file, as in httpd, and `Scoreboard.attach` reads it from
another process: that costs no request, and needs no idle worker.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
import time
from collections import namedtuple
from operator import setitem
from typing import Any

from mpmkit.config.directives import MPMS, Directives
from mpmkit.policy.states import DEAD, STARTING, ProcessRow, Snapshot

MAGIC = int.from_bytes(b"mpmkit01", "little")
HEADER = 16  # numbers of 64 bits, of which the first ten are used

# Process fields, all 64-bit, in ProcessRow's order: these, and three more that belong to the last.
P_PID, P_GENERATION, P_QUIESCING, P_NOT_ACCEPTING, P_CONNECTIONS = range(5)
PROCESS = 8
_NO_PROCESS = memoryview(bytes(8 * PROCESS)).cast("q")

# Worker fields, WorkerRow's from `conn_count` to `tid`: one `pack_into` stores all at the end of a request.
WORKER = 10
_store = struct.Struct(f"={WORKER}q").pack_into
_store_two, _store_four = (struct.Struct(f"={count}q").pack_into for count in (2, 4))

# Bytes of each text.
CLIENT, VHOST, PROTOCOL, REQUEST = 64, 32, 16, 64
TEXT = CLIENT + VHOST + PROTOCOL + REQUEST
_read_texts = struct.Struct(f"{CLIENT}s{VHOST}s{PROTOCOL}s{REQUEST}s").unpack_from
# Each cuts and pads with NULs; the last byte of a text is always one.
_store_client = struct.Struct(f"{CLIENT - 1}sx").pack_into
_store_vhost = struct.Struct(f"{VHOST - 1}sx").pack_into
_store_request = struct.Struct(f"{PROTOCOL - 1}sx{REQUEST - 1}sx").pack_into


class WorkerRow(
    namedtuple(
        "WorkerRow",
        "process thread pid generation state conn_count conn_bytes access_count bytes_served my_access_count "
        "my_bytes_served duration last_duration last_used tid client vhost protocol request",
    )
):  # fmt: skip
    """One thread slot as mod_status shows it: numbers and four texts. Times in ns, `duration` over requests."""


def _header(index: int) -> Any:
    """A number of the header, as an attribute of the scoreboard."""
    return property(
        lambda board: board._header[index],
        lambda board, value: setitem(board._header, index, value),
    )


class Scoreboard:
    """The parent makes one before it forks; children inherit the memory. Raises OSError when the ScoreBoardFile
    can't be made, MemoryError or OSError when ServerLimit × ThreadLimit asks for more memory than there is."""

    server_limit: int = _header(2)
    thread_limit: int = _header(3)
    process_limit: int = _header(4)
    threads_per_child: int = _header(5)
    generation: int = _header(6)  # Apache's my_generation: 0 at first, one more at each restart
    config_generation: int = _header(7)  # readings of the configuration, 1 after the start
    restart_time: int = _header(8)  # ns since the epoch of the start or the last SIGHUP
    parent_pid: int = _header(9)

    _used = 0  # the parent's: slots that had a child since the start or the last SIGHUP
    # `name:port` of the server, for the children's records; the parent sets it before it forks.
    vhost = ""

    def __init__(self, directives: Directives, path: str | None = None) -> None:
        self.path = path
        sizes = _sizes(directives.ServerLimit, directives.ThreadLimit)
        memory = mmap.mmap(-1, sum(sizes)) if path is None else _mapped_file(path, sum(sizes))
        self._divide(memory, sizes)
        self._header[1] = MPMS.index(directives.mpm)
        self.server_limit, self.thread_limit = directives.ServerLimit, directives.ThreadLimit
        self.parent_pid = os.getpid()
        self.config_generation = 1
        self.restart_time = time.time_ns()
        self.set_limits(directives)
        self._header[0] = MAGIC  # last: a reader that finds it finds a whole header

    @classmethod
    def attach(cls, path: str) -> Scoreboard:
        """Read another server's ScoreBoardFile. Raises FileNotFoundError, ValueError if it isn't a scoreboard."""
        self = cls.__new__(cls)
        self.path = path
        with open(path, "rb") as file:
            head = file.read(8 * HEADER)
            if len(head) < 8 * HEADER or int.from_bytes(head[:8], "little") != MAGIC:
                why = "is not an mpmkit scoreboard; name the server's ScoreBoardFile"
                raise ValueError(f"{path} {why}")
            sizes = _sizes(*struct.unpack_from("=2q", head, 16))
            self._divide(mmap.mmap(file.fileno(), sum(sizes), access=mmap.ACCESS_READ), sizes)
        return self

    def _divide(self, memory: mmap.mmap, sizes: tuple[int, ...]) -> None:
        self._offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        self._map, view = memory, memoryview(memory)
        header, processes, states, workers, texts = self._offsets
        self._header = view[header:processes].cast("q")
        self._processes = view[processes:states].cast("q")
        self._states = view[states:workers]
        self._workers = view[workers:texts].cast("q")
        self._texts, self._view = view[texts:], view

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

    mpm: str = property(lambda board: MPMS[board._header[1]])  # type: ignore[assignment]

    def born(self, slot: int, pid: int, generation: int) -> None:
        self._used = max(self._used, slot + 1)
        row = self._process(slot)
        row[:] = _NO_PROCESS
        row[P_GENERATION], row[P_PID] = generation, pid

    def died(self, slot: int) -> None:
        """The parent reaped the child of `slot`: no process, every thread DEAD."""
        self._row(slot)[:] = bytes((DEAD,)) * self.thread_limit
        self._process(slot)[:] = _NO_PROCESS

    def _process(self, slot: int) -> memoryview:
        return self._processes[slot * PROCESS : (slot + 1) * PROCESS]

    def _row(self, slot: int) -> memoryview:
        return self._states[slot * self.thread_limit : (slot + 1) * self.thread_limit]

    def set_states(self, slot: int, state: int, threads: int, *, only: tuple[int, ...]) -> None:
        """Set those of the first `threads` states of a row that are in one of `only`."""
        row = self._row(slot)
        for i in range(threads):
            if row[i] in only:
                row[i] = state

    def quiescing(self, slot: int) -> None:
        """By that child: it is leaving, none of its threads count as idle or busy any more."""
        self._process(slot)[P_QUIESCING] = 1

    def not_accepting(self, slot: int, value: bool) -> None:
        """Event: the listener has stopped listening, or goes on."""
        self._process(slot)[P_NOT_ACCEPTING] = value

    def connections(self, slot: int, *counts: int) -> None:
        """Event: connections held; without a thread: in write completion, lingering close, keep-alive."""
        _store_four(self._view, 8 * (HEADER + slot * PROCESS + P_CONNECTIONS), *counts)

    def worker(self, slot: int, thread: int = 0) -> WorkerSlot:
        return WorkerSlot(self, slot, thread)

    def began(self, slot: int) -> bool:
        """A thread of the child of that row has begun to serve."""
        return not {DEAD, STARTING}.issuperset(self._row(slot))

    def generation_of(self, slot: int) -> int:
        return self._process(slot)[P_GENERATION]

    def rows(self, free: int) -> Snapshot:
        """The slots ever used, and `free` more: a pass costs by the children there were, not by ServerLimit."""
        return self.snapshot(min(self.server_limit, self._used + free))

    def snapshot(self, slots: int | None = None) -> Snapshot:
        """A frozen picture of every process row, or of the first `slots`; empty ones have pid 0."""
        slots = self.server_limit if slots is None else slots
        threads = self.thread_limit
        states = bytes(self._states[: slots * threads])
        rows = []
        for slot in range(slots):
            row = states[slot * threads : (slot + 1) * threads]
            fields = self._process(slot).tolist()
            rows.append(ProcessRow(slot, *fields, states=row))  # type: ignore[misc, arg-type]
        limits = self.server_limit, threads
        return Snapshot(*limits, self.generation, self.restart_time, tuple(rows))

    def workers(self) -> list[WorkerRow]:
        """Every thread slot that is alive or has served something, with its counters and texts."""
        rows = []
        threads = self.thread_limit
        for index, state in enumerate(self._states[: self.server_limit * threads]):
            counters = self._workers[index * WORKER : (index + 1) * WORKER].tolist()
            if state != DEAD or counters[2]:
                slot, thread = divmod(index, threads)
                process = self._process(slot)[:P_QUIESCING].tolist()
                texts = (one.decode("latin-1") for one in _read_texts(self._texts, index * TEXT))
                shown = (one.partition("\0")[0] for one in texts)
                rows.append(WorkerRow._make((slot, thread, *process, state, *counters, *shown)))
        return rows

    def totals(self) -> tuple[int, int, int]:
        """(accesses, bytes served, duration in ns) over all slots since RestartTime."""
        w = self._workers
        return sum(w[2::WORKER]), sum(w[3::WORKER]), sum(w[6::WORKER])

    def close(self) -> None:
        """Give the memory back; the parent also removes the ScoreBoardFile."""
        for name in ("_header", "_processes", "_states", "_workers", "_texts", "_view"):
            getattr(self, name).release()
        self._map.close()


def _sizes(server_limit: int, thread_limit: int) -> tuple[int, ...]:
    """Bytes of header, processes, states, workers, texts."""
    slots = server_limit * thread_limit
    padded = slots + -slots % 8
    return 8 * HEADER, 8 * PROCESS * server_limit, padded, 8 * WORKER * slots, TEXT * slots


def _mapped_file(path: str, size: int) -> mmap.mmap:
    """An empty ScoreBoardFile, with all its blocks: no write meets a full disk (SIGBUS). Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            # Another user could cut it short.
            why = "it is not an ordinary file of this user's alone: remove it, or name another"
            raise PermissionError(errno.EPERM, why, path)
        os.ftruncate(fd, 0)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.unlink(path)
            raise
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)


class WorkerSlot:
    """The writer of one thread's worker record: its counters are stored together once a request."""

    __slots__ = (
        "_index", "_offset", "_states", "_text", "_texts", "_view", "access_count", "bytes_served",
        "conn_bytes", "conn_count", "duration", "my_access_count", "my_bytes_served", "process",
        "thread", "tid",
    )  # fmt: skip

    def __init__(self, board: Scoreboard, slot: int, thread: int) -> None:
        self.process, self.thread = slot, thread
        self._index = slot * board.thread_limit + thread
        self._states, self._view, self._texts = board._states, board._view, board._texts
        self._offset = board._offsets[3] + 8 * WORKER * self._index
        self._text = self._index * TEXT
        # The slot's own counts outlive the process; those of the child and the connection do not.
        counts = board._workers[self._index * WORKER : (self._index + 1) * WORKER].tolist()
        _, _, self.access_count, self.bytes_served, _, _, self.duration, *_ = counts
        self.conn_count = self.conn_bytes = self.my_access_count = self.my_bytes_served = 0
        self.tid = 0
        self.vhost(board.vhost)

    def set(self, state: int) -> None:
        self._states[self._index] = state

    def get(self) -> int:
        return self._states[self._index]

    def connected(self, client: str) -> None:
        """A new connection: its client's address, and its own counts from zero."""
        _store_client(self._texts, self._text, client.encode("latin-1", "replace"))
        self.conn_count = self.conn_bytes = 0
        _store_two(self._view, self._offset, 0, 0)

    def requested(self, protocol: bytes, line: bytes) -> None:
        """The request being served: its protocol and its request line, of which 63 bytes are kept."""
        _store_request(self._texts, self._text + CLIENT + VHOST, protocol, line)

    def vhost(self, name: str) -> None:
        _store_vhost(self._texts, self._text + CLIENT, name.encode("latin-1", "replace"))

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
