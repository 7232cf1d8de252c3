"""Pools that grow, shrink and fill up, second by second; who waits for a worker, and what slow clients cost."""

import itertools
import os
import resource
import signal
import time
from contextlib import ExitStack, suppress

import pytest
from support.client import FINISH, Client, Lost, asked, at_once, get, half_sent, parked, request
from support.files import BIG, Gate
from support.load import Load
from support.servers import THREADED, launched, one_child, pool, shows, total
from support.waiting import alive, patience, poll_until

from mpmkit.measure.procfs import stat

pytestmark = pytest.mark.usefixtures("everything_ends")


def born(pid: int) -> float:
    """When the kernel started it, in seconds since boot: a test that was held up reads the same."""
    return int(stat(pid)[19]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_a_pool_grows_by_1_2_4_8_children_a_second_apart(mpm):
    expected, spare = [1, 2, 4, 8, 16, 32], (50, 120)
    if mpm == "prefork":
        expected, spare = [*expected, 64], (45, 70)
    with launched(mpm, pool=pool(mpm, 1, 80, threads=2, spare=spare), ServerLimit=80) as server:
        poll_until(lambda: len(server.processes()) == expected[-1], "all are there", 30.0)
        births = sorted(born(pid) for pid in server.processes())
        passes = [births[low:high] for low, high in itertools.pairwise([0, *expected])]
        # All of a pass at once, the next pass a second later; the machine may stand still once or twice.
        within = [b - a for each in passes for a, b in itertools.pairwise(each)]
        assert sum(gap > patience(0.9) for gap in within) <= 2, passes
        for before, after in itertools.pairwise(passes):
            assert 0.9 < after[0] - before[-1] < patience(6), passes
        # Enough: within its bounds a pool is left alone.
        level = server.processes()
        # Two passes of idle maintenance go by while a client is idle for so long.
        with Client(server) as client:
            client.silent(2.2)
            assert client.get().status == 200
        assert level == server.processes()


@pytest.mark.slow
def test_a_pool_shrinks_by_one_child_a_second(mpm):
    first, last = (10, 5) if mpm == "prefork" else (7, 3)
    shrinks = pool(mpm, first, 20, threads=2, spare=(1, 5 if mpm == "prefork" else 6))
    began = time.monotonic()
    with launched(mpm, pool=shrinks, ServerLimit=20, access_log=True) as server:
        # Not the scoreboard's number: the parent notices up to a second later who has gone.
        children = server.processes()

        def shrunk() -> bool:
            dead = first - sum(map(alive, children))
            assert dead <= (time.monotonic() - began) / 0.9, "one a second; its end may be late"
            return dead == first - last

        poll_until(shrunk, "the pool is small", 30)
        assert sum(map(alive, children)) == last
        # httpd's prefork opens a dummy connection for each; ours needs none.
        assert server.access_log() == ""
        assert get(server).status == 200


def test_a_full_server_says_so_once_and_the_next_client_waits_its_turn(mpm):
    workers, start, most = (3, 2, 3) if mpm == "prefork" else (4, 1, 6)
    ah = {"prefork": "AH00161", "worker": "AH00286", "event": "AH00484"}[mpm]
    with launched(mpm, pool=pool(mpm, start, workers, threads=2, spare=(1, most))) as server:
        holding = [half_sent(server) for _ in range(workers)]
        # The pool has to grow for the last of them, so this takes a pass or two.
        shows(server, R=workers)
        with Client(server) as extra:
            extra.send(request(close=True))
            poll_until(lambda: f"{ah}: " in server.error_log(), "it says that it is full")
            extra.silent(1.2)  # and says it in no later pass
            for client in (holding[0], extra, *holding[1:]):
                assert client.ask(b"" if client is extra else FINISH).status == 200
                client.close()
        # Full a second time: httpd reports it once in the life of a parent.
        holding = [half_sent(server) for _ in range(workers)]
        shows(server, R=workers)
        with Client(server) as extra:
            extra.send(request(close=True)).silent(1.2)
        assert server.error_log().count(f"{ah}: ") == 1
        assert len(server.processes()) == (workers if mpm == "prefork" else 2)


@pytest.mark.parametrize("mpm", THREADED)
def test_a_client_is_not_left_to_a_busy_child_while_another_is_idle(mpm):
    with launched(mpm, pool=pool(mpm, 2, 4, threads=2, spare=(1, 10))) as server:
        gates: list[Gate] = []
        while "WW" not in server.scoreboard().letters.values():
            gates.append(Gate())
            Client(server).send(request(gates[-1].path))
            poll_until(lambda: server.scoreboard().count("W") == len(gates), "one more script")
        # Three of four threads at most are busy. No client may have to wait for them.
        for _ in range(20):
            assert get(server).status == 200
        for gate in gates:
            gate.open()


@pytest.mark.parametrize("mpm", THREADED)
def test_a_script_delays_nothing_of_what_came_at_the_same_moment(mpm):
    """Event's listener calls one worker for all of it."""
    gate = Gate()
    with launched(mpm, pool=one_child(mpm, threads=6)) as server:
        kept = [parked(server) for _ in range(3)]
        (child,) = server.processes()
        os.kill(child, signal.SIGSTOP)
        clients = [*kept, *(Client(server) for _ in range(3))]
        for number, client in enumerate(clients):
            client.send(request("/file.txt" if number in (2, 5) else gate.path))
        os.kill(child, signal.SIGCONT)
        assert [clients[number].reply().status for number in (2, 5)] == [200, 200]
        gate.open()


# Of children that crash here.
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def test_a_crashed_child_is_logged_and_replaced_at_once_by_worker_and_event(mpm):
    with launched(mpm, pool=pool(mpm, 4, 12, threads=2, spare=(2, 9))) as server:
        before = server.processes()
        os.kill(before[0], signal.SIGSEGV)
        poll_until(lambda: "AH00052" in server.error_log(), "a line about the crash")
        assert f"{before[0]}" in server.error_log() and "SIGSEGV" in server.error_log()
        # Three of prefork's four are left, and two spare ones are wanted: no child is missing.
        left = len(before) - (mpm == "prefork")
        poll_until(lambda: len(set(server.processes()) - {before[0]}) == left, "the others")
        assert get(server).status == 200
        assert server.error_log().count("AH00052") == 1


@pytest.mark.parametrize("mpm", THREADED)
def test_children_that_crash_in_series_are_reported_and_not_replaced_at_once(mpm):
    with launched(mpm, pool=pool(mpm, 5, 5, spare=(1, 10))) as server:
        before = server.processes()
        os.kill(server.pid, signal.SIGSTOP)  # so that it learns of all deaths at the same time
        for pid in before[:4]:
            os.kill(pid, signal.SIGSEGV)
        # On a busy machine the last of them may die seconds later, which is another series.
        poll_until(lambda: not any(map(alive, before[:4])), "four have died")
        os.kill(server.pid, signal.SIGCONT)
        ah = {"worker": "AH10393", "event": "AH10392"}[mpm]
        poll_until(lambda: f"{ah}: " in server.error_log(), "a warning")
        poll_until(lambda: server.error_log().count("AH00052") == 4, "four are reported")
        poll_until(lambda: len(server.processes()) == 3, "two of four are replaced")
        assert get(server).status == 200


@pytest.mark.slow
def test_parked_clients_stay_while_half_sent_heads_take_the_workers():
    """Event, four threads, fourteen clients in the middle of a head: parked ones stay, until KeepAliveTimeout,
    and who speaks is answered as soon as a worker is idle. (httpd gives them up.) With two parked all threads
    may read, with six only two: then 8 < 4 + 2 * 2 is no longer true."""

    def case(number: int) -> None:
        clients, readers = ((2, 4), (6, 2))[number]
        with launched("event", pool=one_child("event", 4), KeepAliveTimeout=8) as server:
            waiting = []
            for _ in range(clients):
                shows(server, idle=4)
                since = time.monotonic()
                waiting.append(parked(server))
            busy = [half_sent(server) for _ in range(14)]
            shows(server, R=readers)
            for client in waiting:
                client.silent(0.1)
            waiting[0].send(request("/"))
            for client in busy:
                assert client.ask(FINISH).status == 200
                client.close()
            assert waiting[0].reply().status == 200
            for client in waiting[1:]:
                client.ended(12.0)
            # On a busy machine later than that, never before.
            assert time.monotonic() - since > 6.5
            assert get(server).status == 200

    at_once(case, 2)


def test_a_client_does_not_wait_for_a_killed_child_while_another_is_idle():
    """The kernel wakes one child for a connection: always the same one, as long as it is idle. It is
    killed before it can run: it shares a CPU with us, and only gets it when we sleep (SCHED_IDLE).
    On a busy machine we may be put to sleep ourselves; then there was nothing to see this time."""
    here = os.sched_getaffinity(0)
    with launched("prefork", pool=pool("prefork", 3, 8, spare=(1, 6))) as server:
        shows(server, idle=3)
        woken = int(get(server, "/pid.py").body)
        shows(server, idle=3)
        try:
            for pid in (0, woken):
                os.sched_setaffinity(pid, {min(here)})
            os.sched_setscheduler(woken, os.SCHED_IDLE, os.sched_param(0))
            client = asked(server, "/pid.py", close=True)
            os.kill(woken, signal.SIGKILL)
        finally:
            os.sched_setaffinity(0, here)
        began, answer = time.monotonic(), None
        with suppress(Lost):  # it was quick enough to accept: that request is lost with it
            answer = client.reply()
        if answer and int(answer.body) != woken:  # or it was quick enough to answer
            # The parent learns of the death within a second, and looks.
            assert time.monotonic() - began < patience(5)
            poll_until(lambda: len(server.processes()) == 2, "none is missing: no child is forked")


SMALL_BUFFERS = {"SendBufferSize": 16384}  # or the kernel would take half of the file at once


@pytest.mark.parametrize("sendfile", [False, True], ids=["sendfile off", "sendfile on"])
def test_who_holds_a_worker_while_a_client_does_not_read(mpm, sendfile):
    with launched(mpm, pool=one_child(mpm, 4), EnableSendfile=sendfile, **SMALL_BUFFERS) as server:
        with Client(server, receive_buffer=8192) as client:
            client.send(request("/big.bin"))
            if mpm == "event" and sendfile:
                poll_until(lambda: total(server, "write_completion") == 1, "write completion")
                shows(server, idle=4)
                # The threads serve others meanwhile, all of them at the same time.
                with Load(server, "/", clients=4, requests=10) as load:
                    load.join()
                assert load.failures == [], server.error_log()
                assert total(server, "write_completion") == 1
            else:
                # The thread does not come back.
                shows(server, W=1)
                began = time.monotonic()
                while time.monotonic() - began < 0.5:
                    assert server.scoreboard().count("W") == 1
            # And then the client reads on, and gets every byte in its place.
            assert client.reply().body == BIG
            assert client.get("/").status == 200, "the connection is as good as before"
        shows(server, idle=1 if mpm == "prefork" else 4)


# Worker's thread does what prefork's child does.
@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_a_client_that_takes_nothing_for_timeout_seconds_is_dropped(mpm):
    options = {"Timeout": 1, "EnableSendfile": True, "access_log": True, **SMALL_BUFFERS}
    with launched(mpm, pool=one_child(mpm, 4), **options) as server:
        with Client(server, receive_buffer=8192) as client:
            client.send(request("/big.bin"))
            # After a second without room prefork logs the request, event lingers.
            lingers = lambda: total(server, "lingering_close")  # noqa: E731
            poll_until(lingers if mpm == "event" else server.access_log, "it is dropped", 15)
            shows(server, idle=1 if mpm == "prefork" else 4)
            with pytest.raises((Lost, TimeoutError)):
                client.reply()


@pytest.mark.parametrize("mpm", ["prefork", "worker"])
def test_a_client_that_never_closes_holds_a_worker_for_two_seconds(mpm):
    with launched(mpm, pool=one_child(mpm), KeepAlive=False) as server, Client(server) as client:
        began = time.monotonic()
        assert client.get().closes
        client.ended(8.0)

        def lingers() -> bool:  # unless the machine stood still meanwhile
            return server.scoreboard().count("C") == 1 or time.monotonic() - began > 2

        poll_until(lingers, "the server's side closes first")
        shows(server, idle=1)
        assert time.monotonic() - began > 1.9


def test_a_client_that_never_closes_holds_a_socket_of_events_but_no_thread():
    given = {"pool": one_child("event", 4), "KeepAliveTimeout": 0}
    with launched("event", **given) as server, ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(Client(server))
            assert client.get().closes
            client.ended(8.0)
        shows(server, idle=4)
        poll_until(lambda: total(server, "lingering_close") == 6, "six linger")
        # Those that linger do not count against the limit: there is room for others.
        assert [get(server).status for _ in range(12)] == [200] * 12
        stack.close()
        gone = lambda: total(server, "lingering_close") == total(server, "connections") == 0  # noqa: E731
        poll_until(gone, "and are gone with their clients")


def test_a_stopped_child_delays_nobody_else(mpm):
    with launched(mpm, pool=pool(mpm, 3, 6, threads=2)) as server:
        victim = server.processes()[0]
        os.kill(victim, signal.SIGSTOP)
        try:
            # The kernel may wake the stopped one for a connection or two, which then wait for it.
            with Load(server, clients=3, requests=30, retry=True) as load:
                load.join()
            assert len(load.answers) == 90
        finally:
            os.kill(victim, signal.SIGCONT)
        assert "gave up" not in load.failures
