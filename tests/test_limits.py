"""What a load will run into, and how crowded the machine is: values in, sentences out."""

from __future__ import annotations

import math

from mpmkit.load.preflight import Forecast, Pressure, System, connections, forecast, system
from mpmkit.load.profile import LoadProfile
from mpmkit.load.target import Target
from mpmkit.measure.procfs import MachineTimes, machine_times

HERE = Target("http", "127.0.0.1", 80, True)
THERE = Target("http", "10.0.0.2", 80, False)
ROOMY = System(files=1024, files_hard=100_000)


def said(
    profile: LoadProfile, target: Target = HERE, limits: System = ROOMY, driver: str = "locust"
) -> Forecast:
    return forecast(profile, target, limits, driver)


def test_files():
    tight = System(files=100, files_hard=1000)
    (problem,) = said(LoadProfile(users=2000, requests=9), limits=tight).problems
    assert "2,128 open files are needed and 1,000 are allowed" in problem
    assert "processes=3" in problem
    assert not said(LoadProfile(users=2000, requests=9, processes=3), limits=tight).problems
    # ab and wrk live with the soft limit, which Locust's processes raise.
    (problem,) = said(LoadProfile(users=50, requests=99), limits=tight, driver="ab").problems
    assert "100 are allowed" in problem and "ulimit -n 178" in problem
    assert said(LoadProfile(users=9, idle_holders=900, requests=9), limits=tight).problems


def test_the_articles_200_000_connections_are_explained():
    notes = said(LoadProfile(users=200, requests=200_000)).notes
    assert "200,000 new connections, 28,232 ports: the server closes each first" in notes[0]
    assert "127.0.0.2" in notes[1]
    notes = said(LoadProfile(users=200, requests=200_000), THERE).notes
    assert "470 connections a second" in notes[1] and "tcp_tw_reuse is 1" in notes[1]
    assert not said(LoadProfile(users=200, requests=200_000, keep_alive=True)).notes
    assert not said(LoadProfile(users=200, requests=2_000)).notes


def test_more_connections_at_once_than_ports():
    few = System(files=100_000, files_hard=100_000, ports=(40_000, 40_099))
    profile = LoadProfile(users=1_000, requests=5_000, keep_alive=True)
    notes = said(profile, limits=few).notes
    assert "from 10 addresses, 127.0.0.1 on" in notes[0]
    for target, driver in (
        (THERE, "locust"),
        (HERE, "ab"),
        (Target("http", "::1", 80, True), "locust"),
    ):
        (problem,) = said(profile, target, few, driver).problems
        assert "40000 to 40099 are 100" in problem and "ip_local_port_range" in problem
    assert "127.0.0.1 with driver locust" in said(profile, HERE, few, "ab").problems[0]


def test_queues():
    limits = System(files=1024, files_hard=100_000, backlog=128)
    notes = " ".join(said(LoadProfile(users=200, requests=5_000), limits=limits).notes)
    assert "somaxconn is 128" in notes


def test_how_many_connections():
    assert connections(LoadProfile(users=5, requests=100)) == 100
    assert connections(LoadProfile(users=5, requests=100, keep_alive=True)) == 5
    assert (
        connections(LoadProfile(users=5, requests=100, keep_alive=True, requests_per_connection=4))
        == 25
    )
    assert connections(LoadProfile(users=10, requests=100, keep_alive=0.5)) == 55
    assert connections(LoadProfile(users=5, duration=3)) is None
    assert connections(LoadProfile(users=5, duration=3, arrival="poisson", rate=50)) == 150


def test_this_machine_is_read(tmp_path):
    here = system()
    assert 0 < here.files <= here.files_hard and here.port_count > 0
    assert system(str(tmp_path)).ports == (32_768, 60_999)


STAT = "cpu  100 0 50 800 0 0 0 {steal} 7 7\ncpu0 1 2 3 4 5 6 7 8\nprocs_running {running}\n"


def test_the_run_queue_and_the_stolen_time():
    crowd = Pressure(cores=2)
    for steal, running in ((0, 5), (25, 3), (50, 1)):
        crowd.sample(machine_times(STAT.format(steal=steal, running=running)))
    # Our own reading of the file is one of those running.
    assert crowd.run_queue == (4 + 2 + 0) / 3 / 2 and crowd.steal == 1.0
    assert math.isnan(Pressure().run_queue) and math.isnan(Pressure().steal)
    assert machine_times("nothing") == MachineTimes(0, 0, 0)
    Pressure().sample()  # this machine's
