"""What the kernel says of processes, sockets and the machine: the one reader of /proc outside the servers.

psutil is asked where it gives the same figure. It has no CPU time in nanoseconds (its own counts
10 ms), no context switches of all threads, no kinds of mappings, no page tables and no queue of a
listening socket. proc(5) describes the files.
"""

import contextlib
import glob
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
STEADY = 1.5  # seconds without a new or ended process or thread: more than the parent's one second
SETTLED_WITHIN = 15.0
SAMPLES, BETWEEN = 3, 0.2  # the memory of a server is read so often, so many seconds apart


def text_of(path: str | os.PathLike[str]) -> str:
    """A file of /proc; empty if its process has ended or is another user's."""
    with contextlib.suppress(OSError), open(path, errors="replace") as file:
        return file.read()
    return ""


def numbers(path: str) -> dict[str, int]:
    """The numbers of a file of lines such as "VmPTE:  48 kB"; empty if it can't be read."""
    found = re.findall(r"(?am)^(\w+):\s+(\d+)", text_of(path))
    return {label: int(value) for label, value in found}


def stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field, the state, on. Empty if there is no such process."""
    # The name in parentheses may hold anything.
    return text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()


def alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and waits for its parent (a zombie) does not."""
    return stat(pid)[:1] not in ([], ["Z"], ["X"])


def members(group: int) -> list[int]:
    """The living processes of a process group, the first one first."""
    stats = {int(name): stat(int(name)) for name in os.listdir("/proc") if name.isdecimal()}
    found = [pid for pid, w in stats.items() if w[2:3] == [str(group)] and w[0] not in "ZX"]
    return sorted(found, key=lambda pid: (pid != group, pid))


def children(pid: int) -> list[int]:
    """The living children of a process."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children() if alive(child.pid)]
    return []


def tasks(pid: int) -> list[str]:
    """The folders of a process's threads; none if it has ended."""
    return glob.glob(f"/proc/{pid}/task/*")


def status_numbers(pid: int) -> dict[str, int]:
    """The numbers of /proc/PID/status: Threads, VmPTE (KiB of page tables) …; empty if it has ended."""
    return numbers(f"/proc/{pid}/status")


def ran_for(task: str) -> int:
    """CPU time in ns of the thread whose folder is `task`; 0 if it has ended."""
    return int((text_of(f"{task}/schedstat").split() or ["0"])[0])


def cpu_ns(pids: Sequence[int]) -> int:
    """CPU time of `pids` so far, in ns, with that of their children who ended and were waited for (counted in
    ticks of 10 ms). Threads that have ended are not in it."""
    of_children = sum(int(ticks) for pid in pids for ticks in stat(pid)[13:15])  # cutime and cstime
    return of_children * TICK_NS + sum(ran_for(task) for pid in pids for task in tasks(pid))


def clock_ns(pid: int) -> int:
    """CPU time of a process so far, in ns, with that of its threads that have ended; exact to this moment
    (clock_getcpuclockid(3)), and quickly read. 0 if the process is gone."""
    with contextlib.suppress(OSError):
        return time.clock_gettime_ns(~pid << 3 | 2)  # CPUCLOCK_SCHED of a process
    return 0


class Meter:
    """CPU time of a server's process group (None: not known) for each request of one load, in µs: from the first
    report of requests done, so without start and warm-up, to the end. Less than `LEAST` seconds have no figure:
    the time between a report and its reading would be too large a part of them."""

    LEAST = 1.0

    def __init__(self, group: int | None) -> None:
        self.group, self._begun = group, (0, 0, 0.0)

    def progress(self, done: int) -> None:
        """So many requests are done; called while the load runs."""
        if done and not self._begun[0] and self.group is not None:
            self._begun = done, cpu_ns(members(self.group)), time.monotonic()

    def per_request(self, done: int) -> float | None:
        """The load is over after so many requests. None if it was too short, or nothing is known."""
        before, ns, since = self._begun
        if self.group is None or not 0 < before < done or time.monotonic() - since < self.LEAST:
            return None
        used = cpu_ns(members(self.group)) - ns
        return used / (done - before) / 1000 if used > 0 else None


@dataclass(frozen=True)
class Footprint:
    """Threads and KiB of one process, or of several added up."""

    threads: int = 0
    pss: int = 0  # its own pages, and of each shared page the part of one who maps it: adds up
    uss: int = 0  # its own pages alone: what would be free if only this process ended
    rss: int = 0  # every page it has mapped: a page of ten processes counts ten times in a sum
    swap: int = 0
    code: int = 0  # of pss: files, that is the program, its libraries, compiled modules
    heap: int = 0  # of pss: what malloc took by brk
    anonymous: int = 0  # of pss: Python's own arenas, malloc's further ones, written copies
    stacks: int = 0  # of pss: the first thread's and the other threads' (see `kind_of`)
    shm: int = 0  # of pss: shared memory, such as the scoreboard
    page_tables: int = 0  # the kernel's, in no process's pss

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(sum, zip(vars(self).values(), vars(other).values(), strict=True)))


class Mapping(NamedTuple):
    """One mapping of a process. `kb`: its figures by their label in smaps."""

    start: int
    end: int
    permissions: str
    name: str
    kb: Counter[str]
    flags: str


_FIRST_LINE = re.compile(r"^(\w+)-(\w+) ([-rwxsp]{4}) \w+ \w+:\w+ \d+ *(.*)$", re.A | re.M)
_FIGURE = re.compile(r"^(Rss|Pss|SwapPss|Private_\w+|Referenced): +(\d+) kB$", re.A | re.M)
GUARD = 65536  # bytes: a guard is one page, 64 KiB where pages are that large


def mappings(smaps: str) -> list[Mapping]:
    """The mappings of the text of a /proc/PID/smaps, in its order: by address."""
    texts, found = iter(_FIRST_LINE.split(smaps)[1:]), []
    for start, end, permissions, name, rest in zip(*[texts] * 5, strict=True):
        kb = Counter({label: int(number) for label, number in _FIGURE.findall(rest)})
        flags = rest.partition("\nVmFlags:")[2].partition("\n")[0]
        found.append(Mapping(int(start, 16), int(end, 16), permissions, name, kb, flags))
    return found


def kind_of(mapping: Mapping, below: Mapping | None) -> str:
    """The kind of a mapping: code, heap, stacks, shm or anonymous. `below` is the one before it. A thread's
    stack is an anonymous mapping like any other. The C library puts a guard right below it: a mapping of a few
    pages without any permission (glibc before 2.42, musl), or guard pages inside it, which show as the flag
    `gu`. An arena of malloc has its reserve *above* it, so it does not count as a stack."""
    name, permissions = mapping.name, mapping.permissions
    if name == "[heap]" or name.startswith("[stack"):
        return "heap" if name == "[heap]" else "stacks"
    if permissions[3] == "s":
        # Shared and written: the scoreboard's file, or /dev/zero (deleted). A shared file that
        # is only read is a cache of the C library.
        return "shm" if "w" in permissions else "code"
    if name.startswith(("/memfd:", "/dev/zero", "/dev/shm", "/SYSV")):
        return "shm"
    if name.startswith(("/", "[v")):  # [vdso], [vvar]: pages that the kernel maps
        return "code"
    guarded = below and (below.end, below.name, below.permissions) == (mapping.start, "", "---p")
    narrow = below is not None and below.end - below.start <= GUARD
    stack = not name and permissions.startswith("rw")
    return "stacks" if stack and ((guarded and narrow) or " gu" in mapping.flags) else "anonymous"


def parse_smaps(smaps: str) -> Footprint:
    """The mappings of a text added up. Empty text (a process that has ended) gives zeros."""
    kinds, kb, found = Counter[str](), Counter[str](), mappings(smaps)
    for mapping, below in zip(found, [None, *found], strict=False):
        kinds[kind_of(mapping, below)] += mapping.kb["Pss"]
        kb.update(mapping.kb)
    private = sum(kb[f"Private_{kind}"] for kind in ("Clean", "Dirty", "Hugetlb"))
    return Footprint(pss=kb["Pss"], uss=private, rss=kb["Rss"], swap=kb["SwapPss"], **kinds)


def pss_mb(pids: Iterable[int]) -> float:
    """PSS of processes together, in MB (10^6 bytes); NaN if none of them can be read."""
    kib = sum(numbers(f"/proc/{pid}/smaps_rollup").get("Pss", 0) for pid in pids)
    return round(kib * 1024 / 1e6, 2) if kib else float("nan")


def read_smaps(pid: int) -> Footprint | None:
    """The memory of a living process; None if it has ended or is another user's and we are not root."""
    text, status = text_of(f"/proc/{pid}/smaps"), status_numbers(pid)
    if not text or not status:  # a zombie has no mappings
        return None
    threads, tables = status.get("Threads", 1), status.get("VmPTE", 0)
    return replace(parse_smaps(text), threads=threads, page_tables=tables)


def processes_of(pid: int) -> dict[int, Footprint]:
    """The memory of a server's living processes by their pids, parent first."""
    return {one: memory for one in members(pid) if (memory := read_smaps(one)) is not None}


def settle(pid: int) -> None:
    """Wait until a server has neither started nor ended a process or thread for STEADY seconds."""
    last, since = None, time.monotonic()
    until = since + SETTLED_WITHIN
    while (now := time.monotonic()) < until and now - since < STEADY:
        seen = {one: status_numbers(one).get("Threads", 0) for one in members(pid)}
        if seen != last:
            last, since = seen, now
        time.sleep(0.1)


def sample(pid: int) -> dict[str, dict[str, int]]:
    """scope -> the memory columns of a record, for the whole server, its parent, its median child. Empty if
    the server has ended."""
    looks: list[dict[int, Footprint]] = []
    for number in range(SAMPLES):
        time.sleep(BETWEEN if number else 0)
        looks += filter(None, [processes_of(pid)])
    if not looks:
        return {}
    look = sorted(looks, key=lambda look: sum(one.pss for one in look.values()))[len(looks) // 2]
    children = sorted((look[one] for one in look if one != pid), key=lambda one: one.pss)
    child, parent = children[len(children) // 2 :][:1], [look[pid]] if pid in look else []
    found = {}
    for scope, some in (("server", [*look.values()]), ("parent", parent), ("child", child)):
        if some:
            sizes = {f"{name}_kb": kb for name, kb in vars(sum(some, Footprint())).items()}
            found[scope] = {"processes": len(some), "threads": sizes.pop("threads_kb"), **sizes}
    return found


def ready_tasks() -> int:
    """How many tasks are ready to run now on this machine, the reader among them."""
    return next(map(int, re.findall(r"(?m)^procs_running (\d+)", text_of("/proc/stat"))), 0)


def listen_queue(port: int, tables: Iterable[str] = ("/proc/net/tcp", "/proc/net/tcp6")) -> float:
    """Connections that wait to be accepted on a port of this machine; NaN if no socket listens there. Takes 0.1
    ms, also with 10,000 connections: listening sockets come first in the table. IPv6 counts only where nothing
    listens on the port by IPv4."""
    for table in tables:
        found = []
        with contextlib.suppress(OSError), open(table, buffering=8192) as file:
            next(file, None)
            for words in map(str.split, file):
                if words[3] != "0A":  # listening
                    break
                if words[1].endswith(f":{port:04X}"):
                    found.append(int(words[4].partition(":")[2], 16))
        if found:
            return sum(found)
    return float("nan")
