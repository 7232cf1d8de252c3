"""What a process's memory is made of, from the text of its /proc/PID/smaps. Pure: text in, figures out."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Footprint:
    """KiB of one process, or of several added up.

    rss         every page it has mapped: a page of ten processes counts ten times in a sum
    pss         its own pages, and of each shared page the part of one of those who map it: adds up
    uss         its own pages alone: what would be free if only this process ended
    code        of pss: files, that is the program, its libraries, compiled modules
    heap        of pss: what malloc took by brk
    stacks      of pss: the first thread's and the other threads' (see `kind_of`)
    shm         of pss: shared memory, such as the scoreboard
    anonymous   of pss, the rest: Python's own arenas, malloc's further ones, written copies
    """

    pss: int = 0
    uss: int = 0
    rss: int = 0
    swap: int = 0
    code: int = 0
    heap: int = 0
    anonymous: int = 0
    stacks: int = 0
    shm: int = 0

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass
class Mapping:
    """One mapping of a process. `kb`: its figures by their label in smaps."""

    start: int
    end: int
    permissions: str
    name: str
    kb: Counter[str] = field(default_factory=Counter)
    flags: str = ""


_LINES = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ \d+ *(.*)$"
    r"|^(Rss|Pss|SwapPss|Private_\w+|Referenced): +(\d+) kB$|^VmFlags:(.*)$",
    re.ASCII | re.MULTILINE,
)
GUARD = 65536  # bytes: a guard is one page, 64 KiB where pages are that large


def mappings(smaps: str) -> list[Mapping]:
    """The mappings of the text of a /proc/PID/smaps, in its order: by address."""
    found: list[Mapping] = []
    for start, end, permissions, name, label, kb, flags in _LINES.findall(smaps):
        if start:
            found.append(Mapping(int(start, 16), int(end, 16), permissions, name))
        elif found and label:
            found[-1].kb[label] = int(kb)
        elif found:
            found[-1].flags = flags
    return found


def kind_of(mapping: Mapping, below: Mapping | None) -> str:
    """The kind of a mapping: code, heap, stacks, shm or anonymous. `below` is the one before it.

    A thread's stack is an anonymous mapping like any other since Linux 4.5. The C library puts a
    guard right below it, so that an overflow faults: a mapping of one or a few pages without any
    permission (glibc before 2.42, musl), or guard pages inside it, which show as the flag `gu`. An
    arena of malloc has its reserve *above* it, so it is not taken for a stack.
    """
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
    total, kb = Counter[str](), Counter[str]()
    below: Mapping | None = None
    for mapping in mappings(smaps):
        total[kind_of(mapping, below)] += mapping.kb["Pss"]
        kb.update(mapping.kb)
        below = mapping
    private = kb["Private_Clean"] + kb["Private_Dirty"] + kb["Private_Hugetlb"]
    return Footprint(kb["Pss"], private, kb["Rss"], kb["SwapPss"], **total)
