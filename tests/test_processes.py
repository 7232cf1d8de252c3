"""Who lives, who dies, who is replaced: children under load, and the end of everybody with the end
of whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
from support.client import Client, Lost, get, half_sent, parked, request
from support.files import Gate, site
from support.load import Load
from support.servers import THREADED, Serve, command, environment, launched
from support.waiting import alive, all_gone, children_of, marked, nothing_left, poll_until

pytestmark = pytest.mark.usefixtures("everything_ends")


def test_the_check_for_leftovers_finds_one():
    with pytest.raises(AssertionError, match="every server and child of this test ended"):
        with nothing_left(cap=0.1):
            left = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert left.wait(5) == -signal.SIGKILL
    left.stdin.close()


# --- A child is killed ---------------------------------------------------------------------------

# Few children, so that each holds its share of the clients, and a pool that wants all it may have:
# a killed one is missed.
TIGHT = {
    "prefork": {"StartServers": 4, "MinSpareServers": 4, "MaxSpareServers": 5,
                "MaxRequestWorkers": 4},
    "worker": {"StartServers": 2, "ThreadsPerChild": 2, "MinSpareThreads": 2,
               "MaxSpareThreads": 10, "MaxRequestWorkers": 4},
    "event": {"StartServers": 2, "ThreadsPerChild": 2, "MinSpareThreads": 2,
              "MaxSpareThreads": 10, "MaxRequestWorkers": 4, "AsyncRequestWorkerFactor": 1},
}  # fmt: skip
# What one child can hold: a connection for each thread; event as many again while threads idle.
HOLDS = {"prefork": 1, "worker": 2, "event": 4}


@pytest.mark.parametrize("keep_alive", [False, True], ids=["new", "keep-alive"])
def test_a_killed_child_is_replaced_and_only_its_own_requests_fail(mpm, keep_alive):
    gate = Gate()
    with launched(mpm, pool=TIGHT[mpm], KeepAliveTimeout="200ms") as server:
        before = set(server.processes())
        with Load(server, clients=3, keep_alive=keep_alive, retry=True) as load:
            load.wait_for(20)
            with Client(server).send(request(gate.path)) as held:
                victim = poll_until(lambda: holder(server, gate), "the gate's child")
                os.kill(victim, signal.SIGKILL)
                with pytest.raises(Lost):
                    held.reply()
            load.wait_for(100)
            poll_until(
                lambda: len(set(server.processes()) - {victim}) >= len(before), "a replacement"
            )
            load.wait_for(100)
        gate.open()
        # Every request came through in the end; what failed on the way, the killed child held.
        assert {status for status, _ in load.answers} == {200}
        assert len(load.failures) <= HOLDS[mpm] - 1, load.failures
        assert "gave up" not in load.failures
        assert before - {victim} <= set(server.processes()), "no other child had to go"
        # Killed by SIGKILL is somebody's wish: httpd has no line for it.
        assert "AH00052" not in server.error_log()


def holder(server, gate) -> int | None:
    """The child that serves the gate's request."""
    script = gate.path[:40]
    for row in server.scoreboard().workers:
        if script in row.request and row.state == 4:
            return row.pid
    return None


def test_children_killed_one_after_the_other_all_come_back(mpm):
    with launched(mpm, pool=TIGHT[mpm]) as server:
        before = server.processes()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        poll_until(lambda: len(server.processes()) == len(before), "as many as before")
        poll_until(lambda: not set(before) & set(server.processes()), "all of them new")
        assert get(server).status == 200


# --- MaxConnectionsPerChild ----------------------------------------------------------------------


def connections_per_child(log: str) -> Counter[int]:
    """From lines of `%P %k`: the first request of each connection."""
    pairs = [line.split() for line in log.splitlines()]
    return Counter(int(pid) for pid, kept in pairs if kept == "0")


@pytest.mark.parametrize("keep_alive", [False, True], ids=["new", "keep-alive"])
def test_max_connections_per_child_recycles_children_without_a_failed_request(
    mpm, keep_alive, tmp_path
):
    limit = 10
    log = tmp_path / "access.log"
    with launched(
        mpm,
        MaxConnectionsPerChild=limit,
        MaxKeepAliveRequests=2,
        directives=['LogFormat "%P %k" pids', f"CustomLog {log} pids"],
    ) as server:
        load = Load(server, clients=4, keep_alive=keep_alive, requests=45 if keep_alive else 15)
        with load:
            load.join()
        assert load.failures == [], server.error_log()
        assert len(load.answers) == 4 * (45 if keep_alive else 15)
        poll_until(
            lambda: len(log.read_text().splitlines()) >= len(load.answers), "the last log line"
        )
        counts = connections_per_child(log.read_text())
        ended = {pid: n for pid, n in counts.items() if pid not in server.processes()}
        assert sum(counts.values()) >= 60
        assert len(ended) >= 3, f"children were recycled: {counts}"
        if mpm == "worker":
            # It counts connections that have ended, and its listener has accepted more by then.
            assert all(limit <= n <= limit + 4 + 1 for n in ended.values()), ended
        else:
            assert set(ended.values()) == {limit}
            assert max(counts.values()) == limit


@pytest.mark.parametrize("mpm", THREADED)
def test_the_last_connection_of_a_child_is_not_kept_alive(mpm):
    pool = {"StartServers": 1, "ThreadsPerChild": 2, "MaxRequestWorkers": 2, "MinSpareThreads": 1}
    with launched(mpm, pool=pool, MaxConnectionsPerChild=3) as server:
        said = []
        while True not in said and len(said) < 8:
            with Client(server) as client:
                said.append(client.get().closes)
    # Event knows at the accept which connection is the last one. Worker counts those that have
    # ended, while its listener already waits for the next: it serves one or two more.
    assert said.index(True) in ([2] if mpm == "event" else [3, 4, 5]), said


# --- The parent is killed ------------------------------------------------------------------------


def busy_with(server, what: str, gate: Gate) -> list[Client]:
    """Bring the server into a state in which its parent's death is easily missed."""
    match what:
        case "idle":
            return []
        case "keep-alive":
            clients = [parked(server) for _ in range(4)]
        case "half-sent":
            clients = [half_sent(server) for _ in range(4)]
        case "script":
            clients = [Client(server).send(request(gate.path)) for _ in range(3)]
            poll_until(lambda: server.scoreboard().count("W") == 3, "three busy scripts")
        case "C code":
            clients = [Client(server).send(request("/busy.py"))]
            poll_until(lambda: server.scoreboard().count("W"), "a busy script")
    return clients


STATES = ["idle", "keep-alive", "half-sent", "script", "C code"]


@pytest.mark.parametrize("what", STATES)
def test_no_child_outlives_a_killed_parent(mpm, what):
    gate = Gate()
    server = launched(mpm, KeepAliveTimeout=60)
    try:
        clients = busy_with(server, what, gate)
        children = children_of(server.pid)
        assert len(children) >= 2 and sorted(children) == sorted(server.processes())
        os.kill(server.pid, signal.SIGKILL)
        all_gone(children, f"children of a parent killed while {what}")
        with pytest.raises(OSError):
            Client(server)
        for client in clients:
            client.close()
    finally:
        gate.open()
        server.stop()


def test_a_parent_killed_during_a_graceful_restart_leaves_no_child_of_either_generation(mpm):
    gate = Gate()
    server = launched(mpm)
    try:
        with Client(server).send(request(gate.path)):
            old = poll_until(lambda: holder(server, gate), "the gate's child")
            server.graceful()
            poll_until(lambda: server.scoreboard().snapshot.generation == 1, "a new generation")
            poll_until(lambda: any(pid != old for pid in server.processes()), "new children")
            children = children_of(server.pid)
            assert old in children
            os.kill(server.pid, signal.SIGKILL)
            all_gone(children, "old and new children")
    finally:
        gate.open()
        server.stop()


# --- Who launched the server ends ----------------------------------------------------------------

LAUNCHER = """
import os, signal, sys, threading
import mpmkit

server = mpmkit.launch(sys.argv[1], StartServers=2)
print(server.pid, server.port, *server.processes(), flush=True)
"""


def launcher(mpm: str, then: str) -> tuple[subprocess.Popen, int, int, list[int]]:
    """A Python program that launches a server and goes on with `then`.

    Killed, it cannot remove its server's files: they go with the site.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER + then, mpm],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(TMPDIR=str(site())),
        start_new_session=True,
    )
    pid, port, *children = map(int, process.stdout.readline().split())
    return process, pid, port, children


def end(process: subprocess.Popen) -> tuple[int, str]:
    _, err = process.communicate(timeout=20)
    return process.returncode, err.decode()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_server_ends_with_a_killed_launching_process(mpm, number):
    process, pid, port, children = launcher(mpm, "threading.Event().wait()")
    assert all(map(alive, [pid, *children]))
    process.send_signal(number)
    all_gone([pid, *children], "the server of a killed process")
    end(process)
    with pytest.raises(ConnectionRefusedError):
        Client(port)


def test_a_server_busy_with_clients_ends_with_its_launching_process_too():
    process, pid, port, children = launcher("prefork", "threading.Event().wait()")
    with Client(port) as kept, Client(port).send(b"GET / HT"):
        assert kept.get("/").status == 200
        process.kill()
        all_gone([pid, *children], "a busy server")
    end(process)


ENDINGS = {
    "end of the program": ("", 0),
    "with block": ("\nwith server: pass\nassert not server.running", 0),
    "exception in a with block": ("\nwith server: raise LookupError('told so')", 1),
    "exception": ("\nraise LookupError('told so')", 1),
    "sys.exit": ("\nsys.exit(3)", 3),
    # No atexit, no finally: as abrupt as a kill.
    "os._exit": ("\nos._exit(4)", 4),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_server_ends_with_the_launching_program(ending):
    then, expected = ENDINGS[ending]
    process, pid, _, children = launcher("event", then)
    status, err = end(process)
    assert status == expected, err
    assert ("told so" in err) == ("exception" in ending)
    all_gone([pid, *children], f"the server after: {ending}", 2.0)


@pytest.mark.parametrize("inside", [True, False], ids=["with block", "no with block"])
def test_a_server_ends_with_ctrl_c_in_the_launching_program(inside):
    wait = "threading.Event().wait()"
    then = f"\nwith server: print('now', flush=True); {wait}" if inside else wait
    process, pid, _, children = launcher("worker", then)
    if inside:
        assert process.stdout.readline() == b"now\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = end(process)
    assert "KeyboardInterrupt" in err
    all_gone([pid, *children], "the server after Ctrl-C", 2.0)


def test_ctrl_c_of_a_notebook_does_not_reach_its_server():
    """A notebook's interrupt stops the cell, not the server that an earlier cell launched."""
    then = """
try:
    print("waiting", flush=True)
    threading.Event().wait()
except KeyboardInterrupt:
    print("interrupted", server.running, flush=True)
    threading.Event().wait()
"""
    process, pid, port, children = launcher("event", then)
    assert process.stdout.readline() == b"waiting\n", (
        "it is past its start, where Ctrl-C would end it"
    )
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.readline() == b"interrupted True\n"
    with Client(port) as client:
        assert client.get("/").status == 200
    assert all(map(alive, [pid, *children]))
    process.kill()
    all_gone([pid, *children], "the server")
    end(process)


def test_two_servers_of_one_process_are_told_apart_and_end_apart():
    with launched("prefork") as first, launched("event") as second:
        assert first.port != second.port
        first.stop()
        assert get(second).status == 200
        assert not set(children_of(os.getpid())) & {first.pid}


# --- A port in use -------------------------------------------------------------------------------


def test_a_second_server_on_a_used_port_fails_cleanly(mpm):
    with launched(mpm) as server:
        result = subprocess.run(
            command("serve", mpm, "--port", str(server.port)),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert result.returncode == 1
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert f"127.0.0.1:{server.port}" in line and "AH00072" in line
        assert get(server).status == 200, "the first goes on"


def test_a_port_is_free_again_as_soon_as_its_server_has_ended():
    with launched("event") as first:
        port = first.port
        with parked(first):
            first.stop()
        with launched("prefork", port=port) as second:
            assert get(second).status == 200


def test_a_foreground_server_has_all_its_processes_in_one_group(mpm):
    """Ctrl-C of a terminal, and a supervisor that kills the group, must reach all of them."""
    with Serve(mpm, "--port", "0", "--document-root", str(site())).ready() as server:
        pids = [server.pid, *children_of(server.pid)]
        assert len(pids) >= 3
        assert {os.getpgid(pid) for pid in pids} == {server.pid}
        assert set(pids) <= set(marked(os.environ["MPMKIT_TEST_MARK"]))


def test_children_with_threads_stay_on_one_cpu_each(mpm):
    ours = os.sched_getaffinity(0)
    with launched(mpm, pool={"StartServers": 2}) as server:
        allowed = [os.sched_getaffinity(pid) for pid in server.processes()]
        if mpm == "prefork":
            assert all(cpus == ours for cpus in allowed)
        else:
            poll_until(
                lambda: all(len(os.sched_getaffinity(pid)) == 1 for pid in server.processes()),
                "the children have chosen their CPUs",
            )
            used = set.union(*(os.sched_getaffinity(pid) for pid in server.processes()))
            assert used <= ours and len(used) == min(2, len(ours))
        assert os.sched_getaffinity(server.pid) == ours, "the parent, and what it forks, is free"
