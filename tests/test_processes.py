"""Which processes live, end and are replaced: under load, and with who started them."""

import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from support.client import Client, Lost, asked, get, half_sent, parked, refused
from support.configured import directives
from support.files import Gate, site
from support.load import Load
from support.servers import THREADED, environment, free_ports, launched, one_child, pool
from support.waiting import alive, all_gone, children_of, logged, nothing_left, poll_until

from mpmkit.server.child import CHILD_FATAL, CHILD_SICK, Child, use_batch_scheduling
from mpmkit.server.core import Service
from mpmkit.server.logs import ErrorLog
from mpmkit.server.pool import Pool

pytestmark = pytest.mark.usefixtures("everything_ends")
WAIT = "threading.Event().wait()"


def test_the_end_of_a_process_that_was_no_child_changes_nothing(tmp_path):
    """Process 1 of a container collects such."""
    with open(tmp_path / "log", "wb", 0) as log:
        children = Pool(Child, Service(directives(), None, None, ErrorLog(log.fileno())), [], [])
        before = children.memory
        for status in (CHILD_SICK << 8, CHILD_FATAL << 8, signal.SIGSEGV):
            children._handle_exit(1 << 22, status)
        children.pod.close()
    assert children.memory == before and children.fatal is None
    said = (tmp_path / "log").read_text().splitlines()
    assert len(said) == 3 and all("was not in the scoreboard" in line for line in said)


# Few children, so that each holds its share of the clients, and a killed one is missed.
TIGHT = {
    "prefork": pool("prefork", 4, 4, spare=(4, 5)),
    "worker": pool("worker", 2, 4, threads=2, spare=(2, 10)),
    "event": pool("event", 2, 4, threads=2, spare=(2, 10)) | {"AsyncRequestWorkerFactor": 1},
}
# What one child can hold: a connection for each thread; event as many again while threads idle.
HOLDS = {"prefork": 1, "worker": 2, "event": 4}


def test_a_killed_child_is_replaced_and_only_its_own_requests_fail(mpm):
    gate = Gate()

    def holder() -> int | None:
        busy = (row for row in server.scoreboard().workers if row.state == 4)
        return next((row.pid for row in busy if gate.path[:40] in row.request), None)

    with launched(mpm, pool=TIGHT[mpm], KeepAliveTimeout="200ms") as server:
        before = set(server.processes())
        with Load(server, clients=3, keep_alive=mpm != "worker", retry=True) as load:
            load.wait_for(20)
            with asked(server, gate.path) as held:
                victim = poll_until(holder, "the gate's child")
                os.kill(victim, signal.SIGKILL)
                with pytest.raises(Lost):
                    held.reply()
            load.wait_for(100)
            poll_until(lambda: len(set(server.processes()) - {victim}) >= len(before), "replaced")
            load.wait_for(100)
        # Every request came through in the end; what failed on the way, the killed child held.
        assert {status for status, _ in load.answers} == {200}
        assert len(load.failures) <= HOLDS[mpm] - 1, load.failures
        assert before - {victim} <= set(server.processes()), "no other child had to go"
        # SIGKILL is sent on purpose: httpd has no line for it.
        assert "AH00052" not in server.error_log()


def test_max_connections_per_child_loses_no_request(mpm, tmp_path):
    keep_alive = mpm != "prefork"
    limit, log, each = 10, tmp_path / "access.log", 45
    options = {"MaxConnectionsPerChild": limit, "MaxKeepAliveRequests": 2}
    lines = ['LogFormat "%P %{remote}p" pids', f"CustomLog {log} pids"]
    with launched(mpm, **options, directives=lines) as server:
        with Load(server, clients=4, keep_alive=keep_alive, requests=each) as load:
            load.join()
        assert load.failures == [], server.error_log()
        # Each port is a connection.
        counts = Counter(int(line.split()[0]) for line in set(logged(log, 4 * each)))
        gone = lambda: {pid: n for pid, n in counts.items() if pid not in server.processes()}  # noqa: E731
        ended = poll_until(lambda: len(gone()) >= 3 and gone(), f"children were recycled: {counts}")
    assert sum(counts.values()) >= 60
    # Worker counts connections that have ended, and its listener has accepted more by then.
    more = 4 + 1 if mpm == "worker" else 0
    assert all(limit <= n <= limit + more for n in ended.values()), ended
    assert max(counts.values()) <= limit + more


@pytest.mark.parametrize("mpm", THREADED)
def test_the_last_connection_of_a_child_is_not_kept_alive(mpm):
    with launched(mpm, pool=one_child(mpm, 2), MaxConnectionsPerChild=3) as server:
        said, reply = defaultdict(list), None  # by child: worker's may end between two
        while not (reply and reply.closes) and sum(map(len, said.values())) < 40:
            with Client(server) as client:
                said[(reply := client.get("/pid.py")).body].append(reply.closes)
    # Event knows at the accept which is the last; worker counts those that have ended: one or two more.
    assert said[reply.body].index(True) in ([2] if mpm == "event" else [3, 4, 5]), said


# States in which the parent's death is easily missed, and the clients that make them.
STATES = {
    "keep-alive": lambda server: [parked(server) for _ in range(4)],
    "half-sent": lambda server: [half_sent(server) for _ in range(4)],
    "C code": lambda server: [asked(server, "/busy.py")],
    "a graceful restart": lambda server: [asked(server, Gate().path)],
}


@pytest.mark.parametrize("what", STATES)
def test_no_child_outlives_a_killed_parent(mpm, what):
    with launched(mpm, KeepAliveTimeout=60) as server:
        STATES[what](server)
        idle = what in ("keep-alive", "half-sent")
        poll_until(lambda: idle or server.scoreboard().count("W"), what)
        if what == "a graceful restart":  # the child with the script is of the old generation
            old = set(server.processes())
            server.graceful()
            poll_until(lambda: old & (now := set(server.processes())) and now - old, what)
        # Maintenance may fork between the two looks, as clients hold what was spare.
        same = lambda: set(found := children_of(server.pid)) == set(server.processes()) and found  # noqa: E731
        children = poll_until(same, "/proc and the scoreboard with the same children")
        assert len(children) >= 2
        os.kill(server.pid, signal.SIGKILL)
        all_gone(children, f"children of a parent killed while {what}")
        with pytest.raises(OSError):
            Client(server)


LAUNCHER = """
import os, signal, sys, threading
import mpmkit

server = mpmkit.launch(sys.argv[1], StartServers=2)
print(server.pid, server.port, *server.processes(), flush=True)
"""


@contextmanager
def launcher(mpm: str, then: str) -> Iterator[tuple[subprocess.Popen, int, list[int]]]:
    """A Python program that launches a server and goes on with `then`: (the program, the port, the server's
    processes). All of them end with it. Killed, it cannot remove its server's files: they go with the site."""
    how = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    how |= {"env": environment(TMPDIR=str(site())), "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", LAUNCHER + then, mpm], **how)
    pid, port, *children = map(int, process.stdout.readline().split())
    yield process, port, [pid, *children]
    all_gone([pid, *children], "the server of a program that has ended", 4.0)
    process.communicate(timeout=20)


@pytest.mark.parametrize("then, expected", [
    ("", 0), ("\nwith server: pass\nassert not server.running", 0),
    ("\nwith server: raise LookupError('the reason')", 1), ("\nsys.exit(3)", 3),
    ("\nos._exit(4)", 4), ("\nsignal.raise_signal(15)", -signal.SIGTERM),  # no atexit, no finally
    ("\nwith server: os.kill(0, signal.SIGINT); " + WAIT, -signal.SIGINT),
], ids=["end", "with", "exception", "sys.exit", "os._exit", "SIGTERM", "Ctrl-C"])  # fmt: skip
def test_a_server_ends_with_the_launching_program(then, expected):
    with launcher("event", then) as (process, _, _):
        status, err = process.wait(20), process.stderr.read().decode()
        assert status == expected, err
        assert ("the reason" in err) == ("the reason" in then)
        assert ("KeyboardInterrupt" in err) == ("SIGINT" in then)


def test_a_server_ends_with_a_killed_launching_process_and_not_by_its_ctrl_c(mpm):
    """A notebook's interrupt stops the cell, not the server that an earlier cell launched."""
    then = f"""
try:
    print("waiting", flush=True)
    {WAIT}
except KeyboardInterrupt:
    print("interrupted", server.running, flush=True)
    {WAIT}
"""
    with launcher(mpm, then) as (process, port, pids):
        assert process.stdout.readline() == b"waiting\n", "past its start, where Ctrl-C ends it"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == b"interrupted True\n"
        Client(port).send(b"GET / HT")
        assert get(port, "/").status == 200 and all(map(alive, pids))
        process.kill()
    assert refused(port)


def test_two_servers_of_one_process_end_apart_and_a_port_is_free_at_once():
    with launched("prefork", port=free_ports(1)[0]) as first, launched("event") as second:
        assert first.port != second.port
        with parked(first):
            first.stop()
        assert get(second).status == 200
        with launched("prefork", port=first.port) as third:
            assert get(third).status == 200


def test_children_with_threads_stay_on_one_cpu_each(mpm):
    ours = os.sched_getaffinity(0)
    with launched(mpm, pool={"StartServers": 2}) as server:
        allowed = lambda: [os.sched_getaffinity(pid) for pid in server.processes()]  # noqa: E731
        if mpm == "prefork":
            assert all(cpus == ours for cpus in allowed())
        else:
            one = lambda: (found := allowed()) and {*map(len, found)} == {1} and found  # noqa: E731
            used = set.union(*(found := poll_until(one, "each has chosen a CPU")))
            assert used <= ours and len(used) == min(len(found), len(ours))
        assert os.sched_getaffinity(server.pid) == ours, "the parent, and what it forks, is free"


def test_threads_that_take_no_turns_share_no_cpu(monkeypatch):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    before = os.sched_getaffinity(0), os.sched_getscheduler(0)
    use_batch_scheduling()
    Child.stay_on_one_cpu(SimpleNamespace(slot=0))
    assert before == (os.sched_getaffinity(0), os.sched_getscheduler(0))


def test_the_check_for_leftovers_finds_one():
    ends = "every server and child of this test ended"
    with pytest.raises(AssertionError, match=ends), nothing_left(cap=0.1):
        left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert left.wait(5) == -signal.SIGKILL
    left.stdin.close()
