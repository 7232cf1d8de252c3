"""Immortal objects: on a Python that has them, children share more, and nothing grows or stays open."""

import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.client import Client
from support.servers import MPMS, environment, launched, pool
from support.waiting import poll_until

from mpmkit.measure.procfs import children, read_smaps, status_numbers
from mpmkit.server import immortal
from mpmkit.server.immortal import NoImmortals, trial

KNOWN = sys.version_info[:2] in immortal.VALUES
POOL = {mpm: pool(mpm, 4 if mpm == "prefork" else 1, 4, threads=4) for mpm in MPMS}


def own_memory(mpm: str, immortal_objects: str) -> tuple[float, str]:
    """KiB that are a busy child's own, and the server's error log."""
    options = {"ImmortalObjects": immortal_objects, "LogLevel": "info", "KeepAliveTimeout": 60}
    with launched(mpm, pool=POOL[mpm], **options) as server, ExitStack() as clients:
        busy = [clients.enter_context(Client(server)) for _ in range(4)]
        for number in range(20):
            for client in busy:
                assert client.get(f"/file.txt?{number % 3 * number}").status == 200
        found = [read_smaps(child).uss for child in children(server.pid)]
        assert "ctypes" not in Path(f"/proc/{server.pid}/maps").read_text()
        return statistics.median(found), server.error_log()


def test_a_busy_child_shares_what_it_only_reads(mpm):
    without, silent = own_memory(mpm, "Off")
    assert "immortal" not in silent
    own, log = own_memory(mpm, "On")
    if KNOWN:
        assert "objects are immortal\n" in log
        assert own < (0.7 if mpm == "prefork" else 0.85) * without
    else:
        version = ".".join(map(str, sys.version_info[:2]))
        assert f"no immortal objects: not known for {sys.implementation.name} {version}\n" in log


def test_what_must_end_still_ends():
    program = """
import json, os, socket, sys
from mpmkit.server.immortal import IMMORTAL, make_immortal

class Root: pass

def pieces():
    yield b"piece"

root = Root()
root.kept = ["a string of its own" * 2, 3.25]
root.ends = [socket.socket(), open(os.devnull), pieces()]
fds = [one.fileno() for one in root.ends[:2]]
said = make_immortal(root)
immortal = lambda one: sys.getrefcount(one) >= IMMORTAL
kept = [immortal(one) for one in (root, root.kept, *root.kept)]
ends = [immortal(one) for one in root.ends]
root.ends.clear()
open_ = [os.path.exists(f"/proc/self/fd/{fd}") for fd in fds]
print(json.dumps([said, kept, ends, open_, "ctypes" in sys.modules]))
"""
    argv = [sys.executable, "-c", program]
    run = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    said, kept, ends, still_open, loaded = json.loads(run.stdout)
    assert ("objects are immortal" in said) is KNOWN
    assert kept == [KNOWN] * 4 and ends == [False] * 3
    assert still_open == [False, False] and not loaded


def test_a_version_that_is_not_known_is_left_alone(monkeypatch):
    monkeypatch.setattr(immortal, "VALUES", {})
    memory = os.open("/proc/self/mem", os.O_RDWR)
    try:
        with pytest.raises(NoImmortals, match="not known for"):
            trial(memory)
    finally:
        os.close(memory)


def test_a_parent_does_not_grow_with_its_restarts():
    """The first configuration stays behind once; the ones after it do not."""
    with launched("prefork", pool=POOL["prefork"]) as server:

        def restart(times: int) -> int:
            for _ in range(times):
                before = server.scoreboard().snapshot.generation
                server.graceful()
                poll_until(lambda n=before: server.scoreboard().snapshot.generation > n)
            return status_numbers(server.pid)["RssAnon"]

        first = restart(5)
        assert restart(12) - first < 60, "KiB of its own"
