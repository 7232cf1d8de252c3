"""Mixes, pauses, the open loop, stages, background clients and TLS, done for real; and the command."""

import json
import os
import resource
import shutil
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from misbehaving import Misbehaving
from support.loads import run
from support.waiting import poll_until

import mpmkit
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.result import Tick
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.server.home import self_signed


def test_a_mix_is_sent_by_weight_and_each_path_has_its_latencies(bad):
    good = {"path": "/ok", "weight": 3, "expect_length": 45}
    mix = [good, {"path": "/status/404", "weight": 1, "expect_status": 404}]
    run = run_load(bad.url, users=4, requests=400, mix=mix)
    counts = bad.counts()
    ok, missing = counts["GET /ok HTTP/1.0"], counts["GET /status/404 HTTP/1.0"]
    assert (run.requests, run.failures, ok + missing) == (400, 0, 400)
    assert 230 < ok < 360  # 300 expected, standard deviation 9
    by_path = {path: len(found) for path, found in run.paths.items()}
    assert by_path == {"/ok": ok, "/status/404": missing}
    assert "/status/404: " in run.summary() and run.row()["path"] == "a mix of 2: /ok ..."


def test_connections_are_kept_for_so_many_requests(bad):
    how = {"users": 3, "requests": 300, "keep_alive": True, "requests_per_connection": 10}
    run = run_load(bad.url, "/ok", **how)
    counts = bad.counts()
    assert counts["GET /ok HTTP/1.1"] == 300
    assert (run.failures, run.reconnects, run.retries) == (0, 0, 0)
    assert 30 <= counts["connections"] == run.connections <= 33
    assert run.row()["keep_alive"] is True and "keep-alive" in run.summary()


@pytest.mark.parametrize("think", ["constant", "exponential"])
def test_users_think_and_a_server_that_closes_meanwhile_fails_nothing(bad, think):
    how = {"users": 4, "duration": 1.2, "keep_alive": True, "think_time": 0.1, "think": think}
    run = run_load(bad.url, "/drops/3", **how)
    # At most: a machine that stands still for a moment makes fewer of them.
    assert 8 <= run.requests <= (52 if think == "constant" else 100)
    assert run.failures == 0 and run.retries > 0


def test_the_open_loop_keeps_its_rate_and_counts_from_the_due_time(bad):
    constant = {"arrival": "constant", "rate": 200, "keep_alive": True, "warmup_seconds": 0.5}

    def steady() -> LoadRun | None:
        """A run, unless the machine stood still in it."""
        run = run_load(bad.url, "/ok", users=20, requests=160, **constant)
        assert run.requests == len(run.lag) == 160 and run.failures == 0 and run.duration > 0.7
        assert bad.counts()["GET /ok HTTP/1.1"] == pytest.approx(260, abs=4)
        return run if run.lag.percentile(50) < 20e6 else None

    assert "constant arrivals, 200/s" in poll_until(steady, "a run in time", 30).summary()
    poisson = run_load(bad.url, "/ok", users=20, requests=200, arrival="poisson", rate=400)
    assert poisson.requests == 200 and 0.3 < poisson.duration < 20


def test_what_waited_is_not_excused_and_what_was_never_sent_is_counted(bad):
    """One user, answers that take the server a moment, ten times as many due as it can send."""
    how = {"duration": 1, "arrival": "constant", "rate": 2_000, "keep_alive": True}
    run = run_load(bad.url, "/chunked", users=1, **how)
    assert run.requests == pytest.approx(2_000, abs=5)
    sent = run.succeeded
    assert run.errors == {"unsent": run.requests - sent} and 0 < sent < 1_000
    # The last one sent had waited for nearly a second, though its own answer took milliseconds.
    assert run.latency_ms(100) > 500 and run.late > 0.9 * sent
    assert "sent more than 1 ms after they were due" in run.summary()


def test_steps_of_users_and_of_rates(bad):
    stages = [{"seconds": 1.2, "users": 2}, {"seconds": 1.2, "users": 16}]
    run = run_load(bad.url, "/ok", keep_alive=True, think_time=0.1, stages=stages)
    first, second = run.stages
    assert (first.load, second.load, run.users, run.ended) == (2, 16, 16, "duration")
    assert 2 < first.qps < 25  # two users, 100 ms and an answer each
    # Eight times as many: a machine that stands still may halve it.
    assert second.qps > 2 * first.qps
    assert "1.2 to 2.4 s, 16 users" in run.summary() and run.failures == 0
    stages = [{"seconds": 0.6, "rate": 50}, {"seconds": 0.6, "rate": 150, "ramp": True}]
    how = {"users": 10, "arrival": "constant", "keep_alive": True}
    run = run_load(bad.url, "/ok", **how, stages=stages)
    assert run.requests == pytest.approx(90, abs=2)


def test_stages_send_to_several_ports_in_turn_and_keep_the_connections(bad):
    with mpmkit.launch("event", KeepAlive=True, MaxKeepAliveRequests=0) as other:
        port = urlsplit(other.url).port
        mix = [{"path": "/ok"}, {"path": "/index.html", "port": port}]
        stages = [{"seconds": 0.25, "rate": 60, "line": 1 + n % 2} for n in range(6)]
        # So many users that a busy machine has one free for each request that is due.
        how = {"users": 20, "arrival": "constant", "keep_alive": True}
        run = run_load(bad.url, mix=mix, stages=stages, **how)
    assert run.failures == 0 and set(run.paths) == {"/ok", f":{port}/index.html"}
    assert [len(found) for found in run.paths.values()] == pytest.approx([45, 45], abs=3)
    assert run.connections <= 2 * 20 and bad.counts()["connections"] <= 20


def test_idle_holders_stay_and_come_back(bad):
    how = {"users": 2, "requests": 200, "keep_alive": True, "think_time": 0.01}
    run = run_load(bad.url, "/ok", **how, idle_holders=10)
    counts = bad.counts()
    assert (run.requests, run.failures) == (200, 0)
    assert run.background["idle opened"] == run.background["idle answered"] == 10
    assert counts["GET /ok HTTP/1.1"] == 210 and "background: 10 idle answered" in run.summary()
    how = {"duration": 0.7, "keep_alive": True, "think_time": 0.1, "idle_holders": 3}
    assert run_load(bad.url, "/drops/1", **how).background["idle closed"] >= 3


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
def test_tls(bad, tmp_path, tmp_path_factory):
    (mine, key), (other, _) = (self_signed(str(tmp_path_factory.mktemp("tls"))) for _ in range(2))
    (both := tmp_path / "both.pem").write_text(Path(mine).read_text() + Path(key).read_text())
    with Misbehaving(str(both)) as server:
        mix = [{"path": "/ok", "expect_length": 45}, {"path": "/big", "expect_length": 1_000_000}]
        for keep_alive in (False, True):
            how = {"users": 4, "requests": 60, "keep_alive": keep_alive}
            how["ca_file"] = os.path.relpath(mine)
            run = run_load(server.url, mix=mix, **how)
            assert (run.requests, run.failures) == (60, 0)
            assert server.counts()["connections"] == run.connections
        refused = run_load(server.url, "/ok", users=2, requests=10, ca_file=other)
        assert refused.errors == {"certificate": 10}
        with pytest.raises(ProfileError, match=r"ca_file: .*No such file"):
            run_load(server.url, "/ok", requests=10, ca_file=str(tmp_path / "none"))
        plain = run_load(bad.url.replace("http", "https"), "/ok", requests=2, timeout=1)
        assert plain.failures == 2, "a port without TLS"
        with pytest.raises(ProfileError, match="idle_holders: hold connections without TLS"):
            run_load(server.url, "/ok", requests=10, idle_holders=1)


def test_a_full_disk_loses_nothing(bad):
    def small_files() -> None:
        # A file that would grow beyond 3,000 bytes cannot be written, as on a disk that is full.
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))

    line = f"mpmkit load {bad.url}/ok --users 2 --requests 1000 --json"
    done = run(line, {"PYTHONDONTWRITEBYTECODE": "1"}, preexec_fn=small_files)
    row = json.loads(done.stdout)
    assert (done.returncode, row["ended"]) == (0, "requests")
    assert (row["requests"], row["failures"]) == (1000, 0)
    assert 0 < row["p50_ms"] <= row["p999_ms"] <= row["max_ms"]


def test_the_run_second_by_second_and_as_json(bad):
    run = run_load(bad.url, "/every/7", users=3, duration=2.2, keep_alive=True, think_time=0.005)
    assert [slot.begin for slot in run.seconds][:3] == [0, 1, 2]
    assert sum(slot.requests for slot in run.seconds) == run.requests
    assert sum((slot.errors for slot in run.seconds), Counter()) == run.errors
    assert all(slot.latency_ms(50) > 0 for slot in run.seconds)
    plain = json.loads(run.to_json())
    assert plain["row"]["requests"] == run.requests
    assert sum(count for _, count in plain["histogram"]) == run.succeeded
    assert [slot["errors"] for slot in plain["seconds"]] == [slot.errors for slot in run.seconds]
    # The generator is measured, and the machine.
    assert len(run.processes_cpu) == len(run.processes_wait) == 1
    assert 0 <= run.processes_wait[0] <= 1 and run.run_queue >= 0
    assert "ready to run per CPU" in run.summary()


@pytest.mark.parametrize(("answered", "name", "steps", "knee"), [
    ([100, 195, 380, 420], "users", (10, 20, 40, 80), "40 users"),
    ([100, 195, 380, 700], "users", (10, 20, 40, 80), None),
    # The same server met with larger steps: what paid does not depend on them.
    ([100, 420, 770], "users", (1, 8, 64), "8 users"),
    ([100, 199, 250], "rate", (100, 200, 400), "200 requests/s due"),
])  # fmt: skip
def test_the_knee_is_where_more_load_stops_to_pay(answered, name, steps, knee):
    """A run whose stages of a second each had so many good answers."""
    stages = [{"seconds": 1, name: n} for n in steps]
    how = {"arrival": "poisson", "users": 9} if name == "rate" else {}
    profile = LoadProfile(stages=stages, **how)
    ticks = (Tick(n, n + 1, Counter(), [1_000_000] * good) for n, good in enumerate(answered))
    run = LoadRun("x", profile, float(len(steps)), tuple(ticks))
    assert (run.knee is None) is (knee is None)
    assert knee is None or f"the knee is at {knee}" in run.summary()


def test_the_command(bad, tmp_path):
    out, profile = tmp_path / "run.json", tmp_path / "profile.json"
    profile.write_text(LoadProfile(path="/ok", users=2, requests=9, keep_alive=True).to_json())
    how = f"--profile {profile} --users 3 --requests 30 --keep-alive --seconds --out {out}"
    done = run(f"mpmkit load {bad.url}/ok/?a=b {how}")
    assert done.returncode == 0 and "GET /ok/?a=b, 3 users, keep-alive" in done.stdout
    assert bad.counts()["GET /ok/?a=b HTTP/1.1"] == 30
    assert json.loads(out.read_text())["row"]["requests"] == 30
    steps = "--steps 100,200 --step-seconds 0.2 --arrival poisson --users 50"
    done = run(f"mpmkit load {bad.url}/ok {steps}")
    assert done.returncode == 0 and "0.2 to 0.4 s, 200 requests/s due" in done.stdout
