"""Watching a server and a crowd of clients: what is seen is what is there."""

from __future__ import annotations

import math
import os
import socket
import time

import pytest
from servers import poll_until, serving

import mpmkit
from mpmkit.lab import watcher
from mpmkit.lab.clients import KeepAliveClients
from mpmkit.lab.watcher import Event, Recording, Sample, watch

POOL = {
    "prefork": {"StartServers": 2, "MinSpareServers": 2, "MaxSpareServers": 5,
                "ServerLimit": 16, "MaxRequestWorkers": 16},
    "worker": {"StartServers": 1, "ThreadsPerChild": 4, "MinSpareThreads": 4, "MaxSpareThreads": 12,
               "ServerLimit": 4, "MaxRequestWorkers": 16},
}  # fmt: skip
POOL["event"] = POOL["worker"]


@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_a_crowd_that_holds_connections_is_seen(mpm):
    with serving(mpm, **POOL[mpm], KeepAliveTimeout=30) as server:
        with watch(server, every=0.1) as seen, KeepAliveClients(server.url, 0) as crowd:
            assert (seen.last.keep_alive, seen.last.queue) == (0, 0)
            crowd.resize(6)
            poll_until(lambda: seen.last.keep_alive == 6, what=lambda: str(seen.last))
            poll_until(lambda: crowd.counts() == {"asking": 0, "thinking": 6, "away": 0})
            last = seen.last
            assert last.parked == (6 if mpm == "event" else 0)
            assert last.busy == (0 if mpm == "event" else 6)
            assert len(crowd.take()) == 6 and crowd.answered == 6 and not crowd.lost
            crowd.resize(1)
            poll_until(lambda: seen.last.keep_alive == 1, what=lambda: str(seen.last))
        recording = seen.recording()
    assert recording.most("accesses") == 6 and recording.most("pss_mb") > 1
    assert sum(recording.forks()) >= POOL[mpm]["StartServers"]
    again = Recording.from_json(recording.to_json())
    assert again.mpm == mpm and again.column("keep_alive") == recording.column("keep_alive")
    assert list(seen.to_frame().columns) == list(Sample._fields)


def test_those_who_wait_are_in_the_listen_queue():
    full = {
        "StartServers": 1,
        "ThreadsPerChild": 2,
        "MinSpareThreads": 1,
        "MaxSpareThreads": 4,
        "ServerLimit": 1,
        "MaxRequestWorkers": 2,
        "KeepAliveTimeout": 30,
    }
    server = mpmkit.launch("worker", **full)
    with server, watch(server, every=0.1) as seen, KeepAliveClients(server.url, 5) as crowd:
        poll_until(
            lambda: seen.last.busy == 2 and seen.last.queue >= 2, what=lambda: str(seen.last)
        )
        assert crowd.counts()["asking"] == 3
        assert crowd.longest_wait() > 0
        poll_until(lambda: "AH00286" in seen.story(), what=seen.story)


def test_a_client_whose_connection_is_ended_comes_back():
    with serving("event", KeepAliveTimeout=0.2) as server, KeepAliveClients(server.url, 2) as crowd:
        poll_until(lambda: crowd.answered >= 6, what=lambda: str(crowd.answered))
        assert not crowd.lost


def test_a_probe_keeps_nothing():
    with serving("worker") as server, KeepAliveClients(server.url, 1, think=0.05, keep=False) as probe:
        poll_until(lambda: probe.answered >= 3)
        assert all(0 < seconds < 5 for seconds in probe.take())
        assert server.scoreboard().count("K") == 0


def test_losses_are_counted_by_kind():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with KeepAliveClients(f"http://127.0.0.1:{nobody.getsockname()[1]}", 1) as crowd:
            poll_until(lambda: crowd.lost["refused"] >= 1)
        assert set(crowd.lost) == {"refused"}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"url": "http://192.0.2.1:80"}, "loopback"),
        ({"count": 5000}, "0 to 2000"),
        ({"think": 0}, "0.05 to 3600"),
    ],
)
def test_a_crowd_refuses_what_it_cannot_do(how, said):
    with pytest.raises(ValueError, match=said):
        KeepAliveClients(**{"url": "http://127.0.0.1:9", **how})


def test_the_watch_ends_with_the_server():
    ended = []
    server = mpmkit.launch("event")
    with watch(server, every=0.05, on_end=lambda: ended.append(1)) as seen:
        os.kill(server.pid, 9)
        poll_until(lambda: ended)
        assert len(seen.samples) >= 1
    server.stop()
    with pytest.raises(ValueError, match="every"):
        watch(server, every=0.001)


def test_the_queue_is_read_from_the_kernel(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        port = listener.getsockname()[1]
        assert watcher.listen_queue(port) == watcher.listen_queue_by_proc(port) == 0
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        assert watcher.listen_queue(port) == watcher.listen_queue_by_proc(port) == 3
        for client in clients:
            client.close()
    assert math.isnan(watcher.listen_queue(port))
    assert math.isnan(watcher.listen_queue_by_proc(1, [str(tmp_path / "missing")]))


def test_without_sock_diag_the_queue_is_read_from_proc(monkeypatch):
    def refused(family, port):
        raise PermissionError("no netlink here")

    monkeypatch.setattr(watcher, "_listeners", refused)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        with socket.create_connection(listener.getsockname()):
            assert watcher.listen_queue(listener.getsockname()[1]) == 1


def test_memory_of_nobody_is_unknown():
    assert watcher.pss_mb([os.getpid()]) > 1
    assert math.isnan(watcher.pss_mb([2**22 + 1]))


def test_log_lines_are_those_an_operator_should_see():
    text = (
        "[Tue] [mpm_event:error] [pid 1:tid 1] AH00484: reached\n"
        "[Tue] [core:debug] [pid 1:tid 1] chatter\nTraceback\n"
    )
    assert watcher.log_lines(text) == ["AH00484: reached"]


def test_forks_within_one_second_are_one_burst():
    events = [
        (0.0, "forked 5 children"),
        (1.1, "forked a child"),
        (2.1, "forked 2 children"),
        (2.4, "forked 2 children"),
        (3.2, "forked 8 children"),
    ]
    recording = Recording("prefork", (), tuple(Event(t, "forked", text) for t, text in events))
    assert recording.forks() == [5, 1, 4, 8]
    assert math.isnan(recording.most("qps"))


def test_a_recording_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no recording"):
        Recording.from_json({"mpm": "event", "fields": ["t"], "samples": [[1, 2]], "events": []})


def test_watching_costs_little():
    """A look takes about a millisecond of the watcher's own time; this fails only if it takes 30."""
    with mpmkit.launch("prefork") as server:
        seen = watch(server)
        began = time.thread_time()
        for _ in range(20):
            seen.look()
        assert (time.thread_time() - began) / 20 < 0.03
