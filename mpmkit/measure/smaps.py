"""What a process's memory is made of, from /proc/PID/smaps. Pure, but for the two readers at the end.

    RSS   every page it has mapped: pages that ten processes share count ten times when summed
    PSS   its own pages, and of each shared page the share of one of those who map it: adds up
    USS   its own pages alone: what would be free if only this process ended

Each mapping is one of

    code        a file: the program, its libraries, compiled modules
    heap        [heap], what malloc took by brk
    stacks      [stack], and the threads' stacks (see below)
    shm         shared memory: the scoreboard
    anonymous   everything else: Python's own arenas, malloc's further ones, written copies

A thread's stack is an anonymous mapping like any other since Linux 4.5. The C library puts a guard
right below it, so that an overflow faults: a mapping of one or a few pages without any permission
(glibc before 2.42, musl), or guard pages inside it, which show as the flag `gu`. A stack is what
follows such a guard, if its name is not another. An arena of malloc has its reserve *above* it, so it
is not taken for one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

GUARD_KB = 64  # a guard is one page, 64 KiB where pages are that large

_HEADER = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ \d+ *(.*)$"
)


@dataclass(frozen=True)
class Memory:
    """KiB of one process, or of several added up. code to shm are shares of pss and add up to it."""

    pss: int = 0
    uss: int = 0
    rss: int = 0
    swap: int = 0
    code: int = 0
    heap: int = 0
    anonymous: int = 0
    stacks: int = 0
    shm: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            *(getattr(self, field.name) + getattr(other, field.name) for field in fields(self))
        )


@dataclass
class _Mapping:
    start: int
    end: int
    permissions: str
    name: str
    pss: int = 0
    rss: int = 0
    uss: int = 0
    swap: int = 0
    flags: str = ""


def parse_smaps(text: str) -> Memory:
    """The mappings of /proc/PID/smaps added up. Empty text (a process that has ended) gives zeros."""
    total = {field.name: 0 for field in fields(Memory)}
    before: _Mapping | None = None
    for mapping in _mappings(text):
        kind = kind_of(mapping, before)
        total[kind] += mapping.pss
        for name in ("pss", "uss", "rss", "swap"):
            total[name] += getattr(mapping, name)
        before = mapping
    return Memory(**total)


def _mappings(text: str) -> Iterable[_Mapping]:
    current: _Mapping | None = None
    for line in text.splitlines():
        label, _, value = line.partition(":")
        # A mapping's own line has no label; its first colon, if any, is inside the device.
        header = _HEADER.match(line) if " " in label else None
        if header:
            if current is not None:
                yield current
            current = _Mapping(int(header[1], 16), int(header[2], 16), header[3], header[4])
        elif current is not None:
            if label == "Pss":
                current.pss = _kb(value)
            elif label == "Rss":
                current.rss = _kb(value)
            elif label in ("Private_Clean", "Private_Dirty", "Private_Hugetlb"):
                current.uss += _kb(value)
            elif label == "SwapPss":
                current.swap = _kb(value)
            elif label == "VmFlags":
                current.flags = value
    if current is not None:
        yield current


def kind_of(mapping: _Mapping, before: _Mapping | None) -> str:
    """The kind of a mapping: code, heap, stacks, shm or anonymous. `before` is the one below it."""
    name = mapping.name
    if name.startswith("[stack"):
        return "stacks"
    if name == "[heap]":
        return "heap"
    if mapping.permissions[3] == "s":
        # Shared and written: the scoreboard's file, or /dev/zero (deleted). A shared file that
        # is only read is a cache of the C library.
        return "shm" if "w" in mapping.permissions else "code"
    if name.startswith(("/memfd:", "/dev/zero", "/dev/shm", "/SYSV")):
        return "shm"
    if name.startswith("/") or name in ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"):
        return "code"
    if not name and mapping.permissions.startswith("rw"):
        guarded = (
            before is not None
            and before.end == mapping.start
            and not before.name
            and before.permissions == "---p"
            and before.end - before.start <= GUARD_KB * 1024
        )
        if guarded or " gu" in mapping.flags:
            return "stacks"
    return "anonymous"


def parse_rollup(text: str) -> Memory:
    """/proc/PID/smaps_rollup: the totals alone, read much faster; code to shm are 0."""
    found = dict.fromkeys(
        ("Pss", "Rss", "SwapPss", "Private_Clean", "Private_Dirty", "Private_Hugetlb"), 0
    )
    for line in text.splitlines():
        label, _, value = line.partition(":")
        if label in found:
            found[label] = _kb(value)
    return Memory(
        pss=found["Pss"],
        rss=found["Rss"],
        swap=found["SwapPss"],
        uss=found["Private_Clean"] + found["Private_Dirty"] + found["Private_Hugetlb"],
    )


def _kb(value: str) -> int:
    digits = value.split()[0] if value.split() else ""
    return int(digits) if digits.isdigit() else 0


# -- reading -------------------------------------------------------------------------------------


def read_smaps(pid: int) -> Memory | None:
    """The memory of a living process; None if it has ended or is another user's.

    Needs Linux and, for another user's processes, root.
    """
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps").read_text(errors="replace")
        if text:  # a zombie has none
            return parse_smaps(text)
    return None


def status_numbers(pid: int) -> dict[str, int]:
    """Threads and VmPTE (KiB of page tables) of a process; empty if it has ended."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            label, _, value = line.partition(":")
            if label in ("Threads", "VmPTE"):
                found[label] = _kb(value)
    return found
