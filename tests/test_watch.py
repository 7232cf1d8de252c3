"""Recording a running server: ours by its scoreboard, a real httpd by its status page; and that what is
recorded and what is simulated lie on one another."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from support.client import Client
from support.servers import SMALL, serving
from support.waiting import poll_until

import mpmkit
from mpmkit.config.directives import MPMS
from mpmkit.measure.reference_servers import Httpd, NotInstalled, find_httpd
from mpmkit.measure.watch import Recording, Sample, listen_queue, watch
from mpmkit.policy.simulator import COLUMNS, Second, simulate

try:
    WHY_NOT = "" if find_httpd() else "no httpd"
except NotInstalled as error:
    WHY_NOT = str(error)


def settled(server) -> None:
    """All first children are up and idle."""
    threads = SMALL[server.mpm].get("ThreadsPerChild", 1)
    poll_until(lambda: server.scoreboard().counts.idle == 2 * threads, what="all idle")


def test_a_recording_has_the_columns_of_a_simulation_first():
    assert Second._fields[:2] == COLUMNS[:2]
    assert set(COLUMNS) <= set(Second._fields)
    assert Sample._fields[: len(COLUMNS)] == COLUMNS


def test_who_is_busy_idle_parked_and_waiting(server, mpm):
    settled(server)
    workers = server.scoreboard().counts.idle
    with Client(server) as half, Client(server) as parked:
        half.send(b"GET /file.txt HTTP/1.1\r\nHost: x\r\n")
        parked.get()
        poll_until(lambda: server.scoreboard().count("R") == 1)
        poll_until(lambda: watch(server, 0)[0].parked == 1, what="one parked")
        for target in (server, server.url, SimpleNamespace(url=server.url, pid=server.pid)):
            sample = watch(target, 0)[0]
            assert sample.parked == 1, target
            assert sample.busy == (1 if mpm == "event" else 2), target
            assert sample.workers is not None and sample.workers >= workers, target
            assert sample.idle == sample.workers - sample.busy, target
            # Nobody can tell how many processes a worker has from its status page alone.
            told = sample.processes == len(server.processes())
            assert told or (
                isinstance(target, str) and mpm == "worker" and sample.processes is None
            )
        half.send(b"\r\n")
        assert half.reply().status == 200


def test_a_block_is_recorded_and_requests_are_counted(server):
    with watch(server, every=0.05) as run:
        with Client(server) as client:
            for _ in range(20):
                client.get()
        poll_until(lambda: len(run) >= 3)
        poll_until(lambda: run[-1].accesses - run[0].accesses >= 19, what="the requests")
    times = run.column("t")
    assert times == sorted(times) and times[0] < 0.05
    length = len(run)
    assert repr(run) == f"<Recording of mpmkit {server.mpm}: {length} samples, one each 0.05 s>"
    assert list(run[:2]) == run.samples[:2] and len(list(run)) == length


def test_seconds_are_counted_from_the_first_look(server):
    run = watch(server, 0.4, every=0.1)
    assert len(run) == 5
    assert run[-1].t >= 0.4


def test_clients_that_nobody_accepts_are_waiting():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(16)
        port = sock.getsockname()[1]
        assert listen_queue(port) == 0
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        try:
            assert poll_until(lambda: listen_queue(port)) == 3
        finally:
            for client in clients:
                client.close()


def test_to_frame(server):
    pandas = pytest.importorskip("pandas")
    measured = watch(server, 0).to_frame().assign(who="measured")
    simulated = (
        simulate(server.mpm, seconds=2, **SMALL[server.mpm]).to_frame().assign(who="simulated")
    )
    both = pandas.concat([simulated, measured])
    assert both[[*COLUMNS, "who"]].notna().all().all()
    assert both["who"].tolist() == ["simulated"] * 3 + ["measured"]


@pytest.mark.parametrize("wrong", [{"every": 0}, {"every": -1}, {"seconds": -1}])
def test_wrong_numbers_are_errors(wrong):
    with pytest.raises(ValueError):
        watch("http://127.0.0.1:1", **wrong)


@pytest.mark.parametrize("url", ["nowhere", "ftp://example.com", "http://"])
def test_wrong_urls_are_errors(url):
    with pytest.raises(ValueError, match="not the URL"):
        watch(url, 1)


def test_a_page_that_is_no_status_page_is_an_error(server):
    with pytest.raises(OSError, match="not a status page"):
        watch(server.url + "/file.txt", 0)


def test_a_stopped_server_is_an_error_and_one_that_stops_meanwhile_is_not(mpm, document_root):
    with serving(mpm, document_root=document_root) as server, watch(server, every=0.02) as run:
        poll_until(lambda: run)
        server.stop()
        poll_until(lambda: run[-1].processes is None, what="a sample without numbers")
    with pytest.raises(mpmkit.LaunchError):
        watch(server, 0)


@pytest.mark.slow
def test_simulated_and_measured_growth_are_the_same():
    """The three MPMs at the same time: children a second apart, 1, 2, 4, 8."""
    pools = {
        "prefork": {
            "StartServers": 1,
            "MinSpareServers": 6,
            "MaxSpareServers": 20,
            "MaxRequestWorkers": 20,
        },
        "worker": {
            "StartServers": 1,
            "ThreadsPerChild": 2,
            "MinSpareThreads": 12,
            "MaxSpareThreads": 40,
            "MaxRequestWorkers": 40,
            "ServerLimit": 20,
        },
        "event": {
            "StartServers": 1,
            "ThreadsPerChild": 2,
            "MinSpareThreads": 12,
            "MaxSpareThreads": 40,
            "MaxRequestWorkers": 40,
            "ServerLimit": 20,
        },
    }

    def grow(mpm: str) -> Recording:
        with mpmkit.launch(mpm, **pools[mpm]) as server, watch(server, every=0.1) as run:
            poll_until(lambda: run[-1].processes == 8, cap=20, what="8 children")
        return run

    with ThreadPoolExecutor(3) as pool:
        runs = dict(zip(pools, pool.map(grow, pools), strict=True))
    for mpm, run in runs.items():
        simulated = simulate(mpm, seconds=4, **pools[mpm]).column("processes")
        assert simulated == [1, 2, 4, 8, 8]
        # From two to eight it takes two passes, a second apart, however rarely we came to look.
        counts = [n for n in run.column("processes") if n is not None]
        assert counts == sorted(counts) and counts[-1] == 8
        small = [sample.t for sample in run if sample.processes in (1, 2)]
        assert small, counts
        assert next(sample.t for sample in run if sample.processes == 8) - small[-1] > 0.9


# --- A real httpd --------------------------------------------------------------------------------


@pytest.mark.rival
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is an httpd")
@pytest.mark.parametrize("mpm", MPMS)
def test_a_real_httpd_is_recorded_in_the_same_columns(mpm, document_root):
    status = '<Location "/server-status">\nSetHandler server-status\n</Location>\n'
    with Httpd(
        mpm, document_root=document_root, modules=["status"], extra=status, **SMALL[mpm]
    ) as httpd:
        with Client(httpd) as parked:
            parked.get()
            run = watch(httpd, 0.2, every=0.1)
            assert run.source == f"Apache {mpm}"
            sample = run[-1]
            workers = 2 * SMALL[mpm].get("ThreadsPerChild", 1)
            assert sample.processes == 2 or mpm == "prefork"
            assert sample.workers >= workers - 1
            # Event's own counter lags behind: httpd publishes it when a time-out is due.
            assert sample.parked == (0 if mpm == "event" else 1)
            assert sample.busy == (0 if mpm == "event" else 1)
