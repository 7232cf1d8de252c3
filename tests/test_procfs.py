"""Memory from recorded smaps, ours and the real httpd's; CPU time and queues from living processes."""

import math
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.waiting import poll_until

from benchmarks.usage import usage
from mpmkit.measure import procfs
from mpmkit.measure.procfs import Footprint, kind_of, mappings, parse_smaps

SAMPLES = Path(__file__).resolve().parent / "data" / "smaps"
NO_PROCESS = 2**22 + 1  # above the kernel's largest pid
# name -> stacks: one a thread (its `Threads:` line said 1, 7 and 7), and in httpd that of the thread
# that started the others and has ended, which the C library keeps for the next one.
STACKS = {"prefork": 1, "event": 7, "httpd-worker": 8}


def text(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", STACKS)
def test_a_recorded_process_adds_up_and_each_thread_has_a_stack(name):
    memory = parse_smaps(text(name))
    assert memory.code + memory.heap + memory.anonymous + memory.stacks + memory.shm == memory.pss
    assert 0 < memory.uss < memory.pss < memory.rss and memory.swap == 0
    # Summed independently of the parser: every figure of a label, wherever it stands.
    for label, value in (("Pss", memory.pss), ("Rss", memory.rss)):
        assert sum(map(int, re.findall(rf"^{label}: +(\d+) kB", text(name), re.M))) == value
    # The kernel's own sum rounds once, each mapping's is rounded down.
    whole = procfs.numbers(str(SAMPLES / f"{name}-rollup.txt"))
    assert whole["Rss"] == memory.rss
    found = mappings(text(name))
    assert memory.pss <= whole["Pss"] <= memory.pss + len(found)
    kinds = [kind_of(one, below) for one, below in zip(found, [None, *found], strict=False)]
    assert kinds.count("stacks") == STACKS[name] and kinds.count("heap") == 1 and "shm" in kinds
    for one, kind in zip(found, kinds, strict=True):
        if one.name.endswith((".so", "/scoreboard")) or ".so." in one.name:
            assert kind == ("shm" if one.name.endswith("/scoreboard") else "code"), one


# Address, permissions, name, flags, and the KiB of Rss, Pss, Private_Clean + Private_Dirty, SwapPss.
MADE = [
    ("55d0c0000000-55d0c0001000", "r-xp", "/usr/bin/python3.11 (deleted)", "rd ex", 40, 10, 4, 0),
    ("55d0c1000000-55d0c1001000", "rw-p", "[heap]", "rd wr", 100, 90, 80, 7),
    ("7f0000000000-7f0000021000", "rw-p", "", "rd wr nr", 8, 8, 8, 0),
    ("7f0000021000-7f0004000000", "---p", "", "nr", 0, 0, 0, 0),
    ("7f0004000000-7f0004800000", "rw-p", "", "rd wr", 5, 5, 5, 0),
    ("7f0004800000-7f0004801000", "---p", "", "mr", 0, 0, 0, 0),
    ("7f0004801000-7f0005001000", "rw-p", "", "rd wr", 12, 12, 12, 0),
    ("7f0006000000-7f0006800000", "rw-p", "", "rd wr gu", 4, 4, 4, 0),
    ("7f0007000000-7f0007001000", "rw-s", "/dev/zero (deleted)", "rd wr sh", 4, 1, 0, 0),
    ("7ffc00000000-7ffc00021000", "rw-p", "[stack]", "rd wr gd", 20, 20, 20, 0),
]
MADE_TEXT = "".join(
    f"{where} {permissions} 00000000 00:00 0   {name}\nRss: {rss} kB\nPss: {pss} kB\n"
    f"Private_Clean: 0 kB\nPrivate_Dirty: {own} kB\nSwapPss: {swap} kB\nVmFlags: {flags}\n"
    for where, permissions, name, flags, rss, pss, own, swap in MADE
)


def test_kinds_of_mappings():
    """An arena of malloc (its reserve is above it) is anonymous; what has a guard below it, and what
    has guard pages of its own (gu), is a stack."""
    parts = {"code": 10, "heap": 90, "anonymous": 13, "stacks": 36, "shm": 1}
    assert parse_smaps(MADE_TEXT) == Footprint(pss=150, uss=133, rss=193, swap=7, **parts)


def test_a_process_that_has_ended_has_no_memory():
    assert parse_smaps("") == Footprint()
    assert procfs.read_smaps(NO_PROCESS) is None and procfs.status_numbers(NO_PROCESS) == {}
    assert math.isnan(procfs.pss_mb([NO_PROCESS])) and procfs.pss_mb([os.getpid()]) > 1
    assert usage([NO_PROCESS]) == (0, 0, 0) and procfs.cpu_ns([NO_PROCESS]) == 0
    assert not procfs.alive(NO_PROCESS) and procfs.children(NO_PROCESS) == []
    # This very process has some.
    memory, numbers = procfs.read_smaps(os.getpid()), procfs.status_numbers(os.getpid())
    assert memory is not None and memory.rss >= memory.pss >= memory.uss > 1000
    assert (memory + memory).pss == 2 * memory.pss
    assert numbers["Threads"] >= 1 and numbers["VmPTE"] > 0


def test_a_zombie_is_no_living_child():
    program = [sys.executable, "-c", "input()"]
    child = subprocess.Popen(program, stdin=subprocess.PIPE, process_group=0)
    assert child.pid in procfs.children(os.getpid()) and procfs.members(child.pid) == [child.pid]
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.stat(child.pid)[0] == "Z" and not procfs.alive(child.pid)
    assert child.pid not in procfs.children(os.getpid()) and not procfs.members(child.pid)
    child.wait()


def test_the_threads_of_a_process_are_summed():
    """A thread that works adds to its process's figures while it lives."""
    before = usage([os.getpid()])
    done, go_on = threading.Event(), threading.Event()

    def work():
        sum(range(2_000_000))
        done.set()
        go_on.wait()

    thread = threading.Thread(target=work)
    thread.start()
    done.wait()
    used = usage([os.getpid()]) - before
    go_on.set()
    thread.join()
    assert used.cpu_ns > 0 and used.voluntary >= 1
    # Children that were waited for count in their parent.
    with Burner("subprocess.run([sys.executable, '-c', 'sum(range(3_000_000))'])") as parent:
        parent.work()
        own = sum(map(procfs.ran_for, procfs.tasks(parent.pid)))
        assert procfs.cpu_ns([parent.pid]) - own >= 2 * procfs.TICK_NS
        parent.stdin.close()


class Burner(subprocess.Popen):
    """A process group of Python that works when it is asked to."""

    def __init__(self, work: str = "sum(range(3_000_000))") -> None:
        program = f"import subprocess, sys\nfor line in sys.stdin:\n {work}; print(flush=True)"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        super().__init__([sys.executable, "-c", program], process_group=0, **pipes)

    def work(self) -> None:
        print(file=self.stdin, flush=True)
        self.stdout.readline()


def test_the_meter_counts_from_the_first_report_to_the_end():
    """What the server used before the first report (its start, the warm-up) is not in it."""
    with Burner() as server:
        meter = procfs.Meter(server.pid)
        server.work()
        meter.progress(0)
        assert meter.per_request(100) is None, "nothing was reported yet"
        before = procfs.cpu_ns([server.pid])
        meter.progress(40)
        server.work()
        meter.progress(50)
        assert meter.per_request(100) is None, "it took less than a second"
        meter.LEAST = 0.0
        used = meter.per_request(100)
        assert used is not None and before > 0
        assert used == pytest.approx((procfs.cpu_ns([server.pid]) - before) / 60 / 1000, rel=0.05)
        assert meter.per_request(40) is None, "no request since"
        assert procfs.Meter(None).per_request(100) is None
        server.stdin.close()


@pytest.mark.parametrize("family, host", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_clients_that_no_one_accepts_wait_in_the_queue(family, host, tmp_path):
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(16)
        port = listener.getsockname()[1]
        assert procfs.listen_queue(port) == 0
        clients = [socket.create_connection((host, port)) for _ in range(3)]
        poll_until(lambda: procfs.listen_queue(port) == 3, what="three wait")
        for client in clients:
            client.close()
    assert math.isnan(procfs.listen_queue(port))
    assert math.isnan(procfs.listen_queue(1, [str(tmp_path / "missing")]))
