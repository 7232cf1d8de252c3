"""Clients that read slowly, never close, never finish or never come back: what they cost, and that
everybody gets every byte."""

import os
import signal
import time

import pytest
from support.client import Client, Lost, get, half_sent, request
from support.files import BIG
from support.load import Load
from support.servers import launched, one_child, pool, shows, total
from support.waiting import poll_until

pytestmark = pytest.mark.usefixtures("everything_ends")


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
            answer = client.reply()
            assert answer.status == 200
            assert answer.body == BIG
            assert client.get("/").status == 200, "the connection is as good as before"
        shows(server, idle=1 if mpm == "prefork" else 4)


# Worker's thread does what prefork's child does.
@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_a_client_that_takes_nothing_for_timeout_seconds_is_dropped(mpm):
    options = {"Timeout": 1, "EnableSendfile": True, **SMALL_BUFFERS}
    with launched(mpm, pool=one_child(mpm, 4), **options) as server:
        with Client(server, receive_buffer=8192) as client:
            client.send(request("/big.bin"))
            # Under event the counter follows the worker's last W: it alone shows that the client waits.
            waits = lambda: total(server, "write_completion")  # noqa: E731
            poll_until(waits if mpm == "event" else lambda: server.scoreboard().count("W"), "begun")
            # A second for each write that takes nothing, then two of lingering.
            poll_until(lambda: not waits(), "the thread is free", 15)
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
    with launched("event", pool=one_child("event", 4), KeepAliveTimeout=0) as server:
        clients = [Client(server) for _ in range(6)]
        for client in clients:
            assert client.get().closes
            client.ended(8.0)
        shows(server, idle=4)
        poll_until(lambda: total(server, "lingering_close") == 6, "six linger")
        # Those that linger do not count against the limit: there is room for others.
        for _ in range(12):
            assert get(server).status == 200
        for client in clients:
            client.close()
        gone = lambda: total(server, "lingering_close") == total(server, "connections") == 0  # noqa: E731
        poll_until(gone, "and are gone with their clients")


def test_clients_that_come_and_go_without_a_word_leave_nothing_behind(mpm):
    with launched(mpm, directives=["AcceptFilter http none"]) as server:
        before = server.processes()
        for _ in range(50):
            Client(server).close()
        for _ in range(20):
            half_sent(server).close()
        poll_until(lambda: set(str(server.scoreboard())) <= {"_", "\n"}, "everybody idle")
        assert get(server).status == 200
        assert set(before) <= set(server.processes())
        assert "error" not in server.error_log()


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
