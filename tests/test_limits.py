"""What a load will run into, and how crowded the machine is: values in, sentences out."""

from __future__ import annotations

import math

from mpmkit.load.preflight import Forecast, Pressure, System, forecast, system
from mpmkit.load.profile import LoadProfile
from mpmkit.load.target import Target
from mpmkit.measure.procfs import MachineTimes, machine_times

HERE = Target("http", "127.0.0.1", 80, True)
THERE = Target("http", "10.0.0.2", 80, False)
ROOMY = System(files=100_000)


def said(profile: LoadProfile, target: Target = HERE, limits: System = ROOMY) -> Forecast:
    return forecast(profile, target, limits)


def test_files():
    tight = System(files=1000)
    (problem,) = said(LoadProfile(users=2000, requests=9), limits=tight).problems
    assert problem.startswith(
        "users: 2,128 file descriptors are needed and the hard limit is 1,000"
    )
    assert problem.endswith("or give more processes")
    assert not said(LoadProfile(users=2000, requests=9, processes=3), limits=tight).problems
    assert said(LoadProfile(users=9, idle_holders=900, requests=9), limits=tight).problems


def test_the_articles_200_000_connections():
    many = LoadProfile(users=200, requests=200_000)
    (note,) = said(many, THERE).notes
    assert "28,232 ports allow 470 new ones a second" in note and "tcp_tw_reuse is 1" in note
    for profile, target in (
        (many, HERE),  # the users go on from 127.0.0.2
        (many.but(keep_alive=True), THERE),
        (many.but(requests=2_000), THERE),
    ):
        assert not said(profile, target).notes


def test_more_connections_at_once_than_ports():
    few = System(files=100_000, ports=(40_000, 40_099))
    profile = LoadProfile(users=1_000, requests=5_000, keep_alive=True)
    assert said(profile, limits=few) == ((), ())
    for target in (THERE, Target("http", "::1", 80, True)):
        (problem,) = said(profile, target, few).problems
        assert "40000 to 40099 are 100" in problem and "ip_local_port_range" in problem
        assert ("or the target 127.0.0.1" in problem) is target.loopback


def test_queues():
    limits = System(files=100_000, backlog=128)
    notes = " ".join(said(LoadProfile(users=200, requests=5_000), limits=limits).notes)
    assert "somaxconn is 128" in notes


def test_this_machine_is_read(tmp_path):
    here = system()
    assert here.files > 0 and here.ports[0] < here.ports[1] and here.backlog > 0
    assert system(str(tmp_path)) == System(here.files)


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
