"""What memory is made of, read from recorded /proc/PID/smaps of ours and of the real httpd."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.measure import smaps
from mpmkit.measure.smaps import Memory, parse_rollup, parse_smaps, read_smaps, status_numbers

SAMPLES = Path(__file__).resolve().parent / "data" / "smaps"
# name -> stacks: one a thread (its `Threads:` line said 1, 7 and 7), and in httpd that of the thread
# that started the others and has ended, which the C library keeps for the next one.
STACKS = {"prefork": 1, "event": 7, "httpd-worker": 8}


@pytest.fixture(params=STACKS)
def name(request) -> str:
    return request.param


def text(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text()


def test_a_recorded_process_adds_up(name):
    memory = parse_smaps(text(name))
    assert memory.code + memory.heap + memory.anonymous + memory.stacks + memory.shm == memory.pss
    assert 0 < memory.uss < memory.pss < memory.rss and memory.swap == 0
    # Summed independently of the parser: every figure of a label, wherever it stands.
    for label, value in (("Pss", memory.pss), ("Rss", memory.rss)):
        assert sum(map(int, re.findall(rf"^{label}: +(\d+) kB", text(name), re.M))) == value
    # The kernel's own sum rounds once, each mapping's is rounded down.
    whole = parse_rollup((SAMPLES / f"{name}-rollup.txt").read_text())
    mappings = len(list(smaps._mappings(text(name))))
    assert (whole.rss, whole.uss) == (memory.rss, memory.uss)
    assert memory.pss <= whole.pss <= memory.pss + mappings


def test_a_thread_has_a_stack(name):
    mappings = list(smaps._mappings(text(name)))
    kinds = [
        smaps.kind_of(one, before) for one, before in zip(mappings, [None, *mappings], strict=False)
    ]
    assert kinds.count("stacks") == STACKS[name]
    assert kinds.count("heap") == 1 and "shm" in kinds
    for one, kind in zip(mappings, kinds, strict=True):
        if one.name.endswith((".so", "/scoreboard")) or ".so." in one.name:
            assert kind == ("shm" if one.name.endswith("/scoreboard") else "code"), one


MADE = """\
55d0c0000000-55d0c0001000 r-xp 00000000 08:01 10                         /usr/bin/python3.11 (deleted)
Rss:                  40 kB
Pss:                  10 kB
Private_Clean:         0 kB
Private_Dirty:         4 kB
SwapPss:               0 kB
VmFlags: rd ex
55d0c1000000-55d0c1001000 rw-p 00000000 00:00 0                          [heap]
Rss:                 100 kB
Pss:                  90 kB
Private_Clean:         0 kB
Private_Dirty:        80 kB
SwapPss:               7 kB
VmFlags: rd wr
7f0000000000-7f0000021000 rw-p 00000000 00:00 0\x20
Rss:                   8 kB
Pss:                   8 kB
Private_Dirty:         8 kB
VmFlags: rd wr nr
7f0000021000-7f0004000000 ---p 00000000 00:00 0\x20
Rss:                   0 kB
Pss:                   0 kB
VmFlags: nr
7f0004000000-7f0004800000 rw-p 00000000 00:00 0\x20
Rss:                   5 kB
Pss:                   5 kB
Private_Dirty:         5 kB
VmFlags: rd wr
7f0004800000-7f0004801000 ---p 00000000 00:00 0\x20
Rss:                   0 kB
Pss:                   0 kB
VmFlags: mr
7f0004801000-7f0005001000 rw-p 00000000 00:00 0\x20
Rss:                  12 kB
Pss:                  12 kB
Private_Dirty:        12 kB
VmFlags: rd wr
7f0006000000-7f0006800000 rw-p 00000000 00:00 0\x20
Rss:                   4 kB
Pss:                   4 kB
Private_Dirty:         4 kB
VmFlags: rd wr gu
7f0007000000-7f0007001000 rw-s 00000000 00:01 5                          /dev/zero (deleted)
Rss:                   4 kB
Pss:                   1 kB
VmFlags: rd wr sh
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                  20 kB
Pss:                  20 kB
Private_Dirty:        20 kB
VmFlags: rd wr gd
"""


def test_kinds_of_mappings():
    """An arena of malloc (its reserve is above it) is anonymous; what a guard stands below, and what
    has guard pages of its own (gu), is a stack."""
    assert parse_smaps(MADE) == Memory(
        pss=150, uss=133, rss=193, swap=7, code=10, heap=90, anonymous=13, stacks=36, shm=1
    )


def test_a_process_that_has_ended_has_no_memory():
    assert parse_smaps("") == parse_rollup("") == Memory()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert read_smaps(child.pid) is None and status_numbers(child.pid) == {}


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_no_text_makes_the_parser_fail(junk):
    memory = parse_smaps(MADE + junk)
    assert memory.code + memory.heap + memory.anonymous + memory.stacks + memory.shm == memory.pss
    parse_rollup(junk)


def test_memories_are_added():
    one, other = parse_smaps(MADE), parse_smaps(text("event"))
    both = one + other
    assert both.pss == one.pss + other.pss and both.shm == one.shm + other.shm


def test_this_very_process_is_read():
    memory, numbers = read_smaps(os.getpid()), status_numbers(os.getpid())
    assert memory is not None and memory.rss >= memory.pss >= memory.uss > 1000
    assert numbers["Threads"] >= 1 and numbers["VmPTE"] > 0
