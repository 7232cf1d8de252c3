"""TERM, INT, HUP, USR1 and WINCH: which clients are served on, which are cut, what the log says."""

import itertools
import os
import signal
import time

import pytest
from support.client import FINISH, Client, Lost, asked, get, half_sent, parked, refused, request
from support.files import Gate, site, write
from support.load import Load
from support.servers import FULL, Serve, generation, launched, pool, shows
from support.waiting import alive, all_gone, children_of, patience, poll_until

LOGGED = {
    mpm: dict(zip(("running", "TERM", "WINCH", "USR1", "HUP"), numbers, strict=True))
    for mpm, numbers in (("prefork", (163, 169, 170, 171, 173)), ("worker", (292, 295, 296, 297, 298)),
                         ("event", (489, 491, 492, 493, 494)))
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("everything_ends")


def logged(server, mpm: str, what: str) -> int:
    """How many lines of the error log have the message's number."""
    return server.error_log().count(f"] AH00{LOGGED[mpm][what]}: ")


def leaving(server, children: set[int]) -> bool:
    """These children know that they are to leave. (Prefork's look at the generation.)"""
    rows = server.scoreboard().snapshot.processes
    return all(row.quiescing or len(row.states) == 1 for row in rows if row.pid in children)


def graceful(server) -> set[int]:
    """Restart gracefully, until the old children know that they are to leave; their pids."""
    old = set(server.processes())
    server.graceful()
    poll_until(lambda: generation(server) == 1 and leaving(server, old), "a new generation")
    return old


def exit_status(server, within: float = 10.0) -> int:
    return server._process.wait(patience(within))


def test_term_cuts_everybody_and_exits_0_when_the_children_are_gone(mpm):
    """Also a script in one long call of C code, in which no Python signal handler runs."""
    with launched(mpm) as server:
        children = children_of(server.pid)
        clients = [parked(server), half_sent(server), asked(server, "/busy.py")]
        poll_until(lambda: server.scoreboard().count("W"), "the script")
        began = time.monotonic()
        server.signal("TERM")
        assert exit_status(server) == 0
        # Event's children, too: httpd's hold out for nine seconds with a half-sent request.
        assert time.monotonic() - began < patience(6.0)
        assert not any(map(alive, children)), "the parent goes last"
        for client in clients:
            client.ended(1.0)
        assert refused(server.port)
        assert logged(server, mpm, "running") == logged(server, mpm, "TERM") == 1
        assert "AH00045" not in server.error_log()


def test_ctrl_c_in_a_terminal_ends_everything_in_a_moment(mpm):
    with Serve(mpm, "--port", "0", "--document-root", str(site())).ready() as server:
        asked(server, Gate().path)
        parked(server)
        half_sent(server)
        # The script is under way when a second client is served after it.
        assert get(server).status == 200
        pids = [server.pid, *children_of(server.pid)]
        for _ in range(2):  # twice is as good as once; a terminal signals the whole group
            os.killpg(server.pid, signal.SIGINT)
        assert server.finish(6.0) == 0
        assert not any(map(alive, pids))
        assert "Traceback" not in server.err
        assert server.out.count(b"\n") == 1


def conf_file(tmp_path, *lines: str):
    text = "\n".join([f'DocumentRoot "{site()}"', *lines, ""])
    return write(tmp_path / "httpd.conf", text)


@pytest.mark.parametrize("name", ["HUP", "USR1"])
def test_a_restart_reads_the_file_again_in_a_new_generation(mpm, name, tmp_path):
    """HUP restarts the count, USR1 does not."""
    conf = conf_file(tmp_path, "MaxKeepAliveRequests 50", "ExtendedStatus On")
    with launched(mpm, conf=conf, document_root=None) as server:
        before = set(server.processes())
        with Client(server) as client:
            assert "max=50" in client.get("/", "Connection: keep-alive")["Keep-Alive"]
        poll_until(lambda: server.scoreboard().accesses == 1, "a request counted")
        started = server.scoreboard().snapshot.restart_time
        conf_file(tmp_path, "MaxKeepAliveRequests 70", "ExtendedStatus On")
        server.signal(name)
        poll_until(lambda: generation(server) == 1, "a new generation")
        poll_until(lambda: logged(server, mpm, "running") == 2, "running again")
        assert logged(server, mpm, name) == 1
        board = server.scoreboard()
        assert board.accesses == (0 if name == "HUP" else 1)
        assert (board.snapshot.restart_time > started) == (name == "HUP")
        poll_until(lambda: not before & set(server.processes()), "the old children gone")
        poll_until(lambda: len(server.processes()) >= 2, "new children")
        with Client(server) as client:
            assert "max=70" in client.get("/", "Connection: keep-alive")["Keep-Alive"]
        assert {row.generation for row in server.scoreboard().snapshot.processes if row.pid} == {1}


def test_hup_cuts_connections_but_keeps_the_port(mpm):
    with launched(mpm, KeepAliveTimeout=30) as server:
        old = children_of(server.pid)
        clients = [parked(server), half_sent(server)]
        # A refused connection shows among the failures by its name; cut ones are asked again.
        with Load(server, clients=2, retry=True) as load:
            load.wait_for(10)
            server.restart()
            for client in clients:
                client.ended(5.0)
            all_gone(old, "the old generation")
            load.wait_for(50)
        assert not [text for text in load.failures if "Refused" in text or "gave up" in text]
        assert {status for status, _ in load.answers} == {200}


# What a child of the old generation finishes: (letter, the clients before, what they send after).
FINISHED = {
    "a slow script": ("W", lambda server, gate: asked(server, gate.path), b""),
    "half a head": ("R", lambda server, gate: Client(server).send(HALF), b"\r\n"),
    "the next request": ("K", lambda server, gate: parked(server), request("/pid.py")),
}
HALF = request("/pid.py")[:-2]


@pytest.mark.parametrize("what", FINISHED)
def test_the_old_generation_finishes(mpm, what):
    """And keeps no connection. Prefork shows G for a busy child of the old generation."""
    if mpm == "event" and what == "the next request":
        pytest.skip("event closes parked connections at once")
    gate = Gate()
    letter, begin, rest = FINISHED[what]
    with launched(mpm, KeepAliveTimeout=30) as server:
        with begin(server, gate) as client:
            poll_until(lambda: server.scoreboard().count(letter), what)
            old = graceful(server)
            poll_until(lambda: len(old & set(server.processes())) == 1, "idle old children gone")
            assert get(server, "/pid.py").body.decode() not in map(str, old), "the new one serves"
            if mpm == "prefork":
                shows(server, G=1)
            gate.open()
            reply = client.send(rest).reply()
            assert reply.status == 200 and int(reply.body) in old
            assert reply.closes, "an old child keeps no connection"
            client.ended(3.0)
        poll_until(lambda: not old & set(server.processes()), "the last old child gone")
        assert not server.scoreboard().count("G")


def test_event_closes_parked_connections_at_once_and_answers_who_asks_again():
    """Who asks without a break, all through the restart, learns once that an answer is the last."""
    with launched("event", MaxKeepAliveRequests=0) as server, parked(server) as client:
        idle = [parked(server) for _ in range(5)]
        old, answer, before = set(server.processes()), None, time.monotonic()
        server.graceful()
        while answer is None or not answer.closes:
            since = time.monotonic()
            try:
                answer = client.get("/pid.py")
            except Lost:  # the machine stood still, and it did not ask again at once
                assert time.monotonic() - before > 0.3
                break
            assert answer.status == 200 and int(answer.body) in old
            before = since
        else:
            client.ended(3.0)
        for one in idle:
            one.ended(8.0)
        poll_until(lambda: not old & set(server.processes()), "the old generation gone")


def test_a_graceful_stop_refuses_new_clients_and_finishes_running_requests(mpm):
    """Also while every worker is busy, with a copy of the listening socket."""
    gate = Gate()
    start = 2 if mpm == "prefork" else 1
    with launched(mpm, pool=pool(mpm, start, 2, threads=2)) as server:
        with asked(server, gate.path) as slow, half_sent(server) as half:
            shows(server, W=1, R=1)
            server.signal("WINCH")
            poll_until(lambda: logged(server, mpm, "WINCH") == 1, "the log line")
            poll_until(lambda: refused(server.port), "new clients refused", 2.0)
            assert server.running
            poll_until(lambda: leaving(server, set(server.processes())), "the children know")
            gate.open()
            for reply in (half.send(FINISH).reply(), slow.reply()):
                assert reply.status == 200 and reply.closes
        assert exit_status(server) == 0
        errors = [line for line in server.error_log().splitlines() if ":error]" in line]
        assert all(map(FULL.search, errors))


def test_a_graceful_stop_ends_at_once_with_its_timeout_or_by_term(mpm):
    with launched(mpm, KeepAliveTimeout=60 if mpm == "event" else 2) as server:
        began = time.monotonic()
        with parked(server) as client:  # event does not wait for it
            server.signal("graceful-stop")
            client.ended(8.0)
            assert mpm == "event" or time.monotonic() - began > 1.9
        assert exit_status(server) == 0
        assert "AH00045" not in server.error_log()
    with launched(mpm, GracefulShutdownTimeout=1) as server, half_sent(server) as never:
        poll_until(lambda: server.scoreboard().count("R"), "a worker reads")
        began = time.monotonic()
        server.signal("WINCH")
        assert exit_status(server) == 0
        assert time.monotonic() - began > 0.9
        never.ended(1.0)
    with launched(mpm) as server, half_sent(server):
        poll_until(lambda: server.scoreboard().count("R"), "a worker reads")
        server.signal("WINCH")
        poll_until(lambda: logged(server, mpm, "WINCH") == 1, "the log line")
        server.signal("TERM")
        assert exit_status(server, 6.0) == 0


def test_signals_for_the_parent_do_nothing_to_a_child(mpm):
    """HUP, USR1, WINCH and INT sent to a child by mistake, or by the terminal."""
    with launched(mpm) as server:
        before = server.processes()
        for pid, name in itertools.product(before, ("HUP", "USR1", "WINCH", "INT")):
            os.kill(pid, signal.Signals[f"SIG{name}"])
        assert [get(server).status for _ in range(10)] == [200] * 10
        assert set(before) <= set(server.processes()) and all(map(alive, before))
