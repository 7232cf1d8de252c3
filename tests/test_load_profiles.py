"""Mixes, pauses, the open loop, stages, background clients and TLS, done for real; the command; when requests
are due; and load from a master and its workers, Locust's own means, on loopback as over a network."""

import contextlib
import itertools
import json
import math
import os
import resource
import shutil
import signal
import statistics
import subprocess
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from misbehaving import Misbehaving
from support.calls import refused
from support.loads import ENVIRON, LOCUST, argv, in_a_network, run, wait_for_load
from support.servers import free_ports
from support.waiting import poll_until

import mpmkit
from mpmkit.load.histogram import LIMIT, Histogram, pack, unpack
from mpmkit.load.profile import LoadProfile, ProfileError, arrivals
from mpmkit.load.result import Tick
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.server.home import self_signed


def test_a_mix_is_sent_by_weight_and_connections_are_kept_for_so_many_requests(bad):
    good = {"path": "/ok", "weight": 3, "expect_length": 45}
    mix = [good, {"path": "/status/404", "weight": 1, "expect_status": 404}]
    how = {"users": 4, "requests": 400, "keep_alive": True, "requests_per_connection": 10}
    run = run_load(bad.url, mix=mix, **how)
    counts = bad.counts()
    ok, missing = counts["GET /ok HTTP/1.1"], counts["GET /status/404 HTTP/1.1"]
    assert (run.requests, run.failures, ok + missing) == (400, 0, 400)
    assert 230 < ok < 360  # 300 expected, standard deviation 9
    by_path = {path: len(found) for path, found in run.paths.items()}
    assert by_path == {"/ok": ok, "/status/404": missing} and "/status/404: " in run.summary()
    assert (run.reconnects, run.retries) == (0, 0)
    assert 40 <= counts["connections"] == run.connections <= 44
    shown = [run.row()[name] for name in ("path", "keep_alive")]
    assert shown == ["a mix of 2: /ok ...", True] and "keep-alive" in run.summary()


@pytest.mark.parametrize("think", ["constant", "exponential"])
def test_users_think_and_a_server_that_closes_meanwhile_fails_nothing(bad, think):
    how = {"users": 4, "requests": 48, "keep_alive": True, "think_time": 0.1, "think": think}
    run = run_load(bad.url, "/drops/3", **how)
    assert (1.0 if think == "constant" else 0.5) <= run.duration < 20  # eleven pauses of each
    assert (run.requests, run.failures) == (48, 0) and run.retries > 0


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
    how = {"duration": 3, "arrival": "constant", "rate": 2_000, "keep_alive": True}
    run = run_load(bad.url, "/chunked", users=1, **how)
    assert run.requests == pytest.approx(6_000, abs=5)
    sent = run.succeeded
    assert run.errors == {"unsent": run.requests - sent} and 0 < sent < 3_000
    # The last one sent had waited for nearly a second, though its own answer took milliseconds.
    assert run.latency_ms(100) > 500 and run.late > 0.9 * sent
    assert "sent more than 1 ms after they were due" in run.summary()


def test_steps_of_users(bad):
    stages = [{"seconds": 1.2, "users": 2}, {"seconds": 1.2, "users": 16}]

    def steady() -> LoadRun | None:
        """A run, unless the machine stood still in it: each user asks nearly ten times a second."""
        run = run_load(bad.url, "/ok", keep_alive=True, think_time=0.1, stages=stages)
        first, second = run.stages
        assert (first.load, second.load, run.users, run.ended) == (2, 16, 16, "duration")
        return run if 2 < first.qps < 25 and second.qps > 2 * first.qps else None

    run = poll_until(steady, "a run in time", 30)
    assert "1.2 to 2.4 s, 16 users" in run.summary() and run.failures == 0


def test_stages_send_to_several_ports_in_turn_and_keep_the_connections(bad):
    with mpmkit.launch("event", KeepAlive=True, MaxKeepAliveRequests=0) as other:
        port = urlsplit(other.url).port
        mix = [{"path": "/ok"}, {"path": "/index.html", "port": port}]
        stages = [{"seconds": 0.25, "rate": 60, "line": 1 + n % 2} for n in range(6)]
        stages.append({"seconds": 3, "rate": 0.01})  # time for what is late
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
        how = {"users": 4, "requests": 60, "ca_file": os.path.relpath(mine)}
        for keep_alive in (False, True):
            run = run_load(server.url, mix=mix, keep_alive=keep_alive, **how)
            assert (run.requests, run.failures) == (60, 0)
            assert server.counts()["connections"] == run.connections
        run = run_load(server.url, "/ok", users=2, requests=10, ca_file=other)
        assert run.errors == {"certificate": 10}
        plain = run_load(bad.url.replace("http", "https"), "/ok", requests=2, timeout=1)
        assert plain.failures == 2, "a port without TLS"
        for words, more in {
            "ca_file: .*No such file": {"ca_file": str(tmp_path / "none")},
            "idle_holders: hold connections without TLS": {"idle_holders": 1},
        }.items():
            refused(ProfileError, words, run_load, server.url, requests=10, **more)


def test_a_full_disk_loses_nothing(bad):
    # A file that would grow beyond 3,000 bytes cannot be written, as on a disk that is full.
    small = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (3_000, 3_000))
    line = f"mpmkit load {bad.url}/ok --users 2 --requests 1000 --json"
    done = run(line, {"PYTHONDONTWRITEBYTECODE": "1"}, preexec_fn=small)
    row = json.loads(done.stdout)
    assert (row["ended"], row["requests"], row["failures"]) == ("requests", 1000, 0)
    assert 0 < row["p50_ms"] <= row["p999_ms"] <= row["max_ms"]


@pytest.mark.parametrize(("answered", "name", "steps", "knee"), [
    ([100, 195, 380, 420], "users", (10, 20, 40, 80), "40 users"),
    ([100, 195, 380, 700], "users", (10, 20, 40, 80), None),
    # The same server met with larger steps: what paid does not depend on them.
    ([100, 420, 770], "users", (1, 8, 64), "8 users"),
    ([100, 199, 250], "rate", (100, 200, 400), "200 requests/s due"),
    # One that falls again; a level one, one that bends upwards, two points.
    ([10, 40, 41, 20], "users", (1, 2, 3, 4), "2 users"), ([5, 5, 5, 5], "users", (1, 2, 3, 4), None),
    ([1, 1, 1, 9], "users", (1, 2, 3, 4), None), ([1, 2], "users", (1, 2), None),
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
    assert done.returncode == 0 or "unsent" in done.stdout, "a machine may stand still"
    assert "0.2 to 0.4 s, 200 requests/s due" in done.stdout


STAGE = st.builds(dict, seconds=st.floats(0.1, 50), rate=st.floats(0.01, 1e5), ramp=st.booleans())
WAYS = st.sampled_from(["constant", "poisson"])
VALUES = st.lists(st.integers(0, 10**13), max_size=200)


def due(until: float, *where: int, **fields) -> list[float]:
    profile = LoadProfile(**{"arrival": "constant", "users": 5, **fields})
    return list(itertools.takewhile(lambda t: t < until, arrivals(profile, *where)))


@given(st.floats(1, 1e4), st.integers(1, 8))
def test_generators_take_turns_and_make_one_schedule(rate, of):
    profile = LoadProfile(arrival="constant", rate=rate, duration=1, users=9)
    alone = itertools.islice(arrivals(profile), 40)
    each = (itertools.islice(arrivals(profile, index, of), 40) for index in range(of))
    assert sorted(itertools.chain.from_iterable(each))[:40] == pytest.approx(list(alone))


def test_poisson_is_random_repeatable_and_has_its_mean_and_its_spread():
    how = {"rate": 200, "duration": 1, "arrival": "poisson"}
    found = due(100, **how, seed=1)
    assert found == due(100, **how, seed=1) != due(100, **how, seed=2)
    assert len(found) == pytest.approx(20_000, rel=0.03)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    # Exponential: the standard deviation is the mean.
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    assert len(due(100, 0, 2, **how) + due(100, 1, 2, **how)) == pytest.approx(20_000, rel=0.03)
    # Each run without a seed is a draw of its own: 200 are due, give or take 14; over 200 runs, 1.
    runs = [len(due(1, **how)) for _ in range(200)]
    assert statistics.mean(runs) == pytest.approx(200, abs=7)
    assert statistics.stdev(runs) == pytest.approx(200**0.5, rel=0.4)


def test_steps_and_ramps_keep_their_areas():
    rising = {"seconds": 4, "rate": 300, "ramp": True}
    stages = [{"seconds": 2, "rate": 100}, rising, {"seconds": 1, "rate": 50}]
    found = due(6.9999, stages=stages, warmup_seconds=3)
    # The warm-up runs at the first rate; the ramp goes from 100 to 300.
    for (a, b), count in {(-3, 0): 300, (0, 2): 200, (2, 6): 800, (6, 7): 50, (2, 4): 300}.items():
        assert sum(a < t <= b for t in found) == pytest.approx(count, abs=2)
    from_nothing = due(10, stages=[{"seconds": 10, "rate": 100, "ramp": True}])
    assert len(from_nothing) == pytest.approx(500, abs=1)
    falling = [{"seconds": 5, "rate": 100}, {"seconds": 5, "rate": 0.01, "ramp": True}]
    assert len(due(10, stages=falling)) == pytest.approx(750, abs=2)


@given(st.lists(STAGE, min_size=1, max_size=5), st.floats(0, 10), WAYS)
def test_times_never_go_back(stages, warm, arrival):
    profile = LoadProfile(stages=stages, warmup_seconds=warm, arrival=arrival)
    found = list(itertools.islice(arrivals(profile), 300))
    assert found == sorted(found) and found[0] >= -warm


@given(st.lists(VALUES, max_size=4), st.sampled_from([0.0, 50.0, 99.9, 100.0]) | st.floats(0, 100))
def test_percentiles_are_those_of_the_values_and_parts_add_up(parts, percent):
    values = sorted(itertools.chain(*parts))
    added, whole = Histogram(), Histogram(values)
    for part in parts:
        added.record(unpack(pack(part)))
    assert vars(added) == vars(whole) and len(added) == len(values)
    assert sum(count for _, count in whole.to_json()) == len(whole)
    found = whole.percentile(percent)
    if values:
        exact = values[max(1, math.ceil(percent * len(values) / 100 - 1e-9)) - 1]
        assert abs(found - exact) <= exact / 1024 and values[0] <= found <= values[-1]
    else:
        assert math.isnan(whole.mean) and math.isnan(found)


def test_what_is_no_latency_is_refused():
    for bad in (-1, LIMIT):
        refused(ValueError, "0 ns to 146 years", Histogram, [bad])
    refused(ValueError, "0 to 100", Histogram([1]).percentile, 101)


def locust(options: str) -> subprocess.Popen[str]:
    to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": ENVIRON}
    return subprocess.Popen(argv(f"{LOCUST} --only-summary {options}"), process_group=0, **to)


@contextlib.contextmanager
def fleet(url: str, folder: Path, **fields: Any) -> Iterator[tuple[list, Callable[[], dict]]]:
    """Two workers, and what their master has measured when it ends; all are gone at the end."""
    (port,) = free_ports(1)
    (folder / "profile.json").write_text(LoadProfile(keep_alive=True, **fields).to_json())
    out = folder / "run.json"
    bind = f"--expect-workers 2 --master-bind-host 127.0.0.1 --master-bind-port {port}"
    files = f"--load-profile @{folder / 'profile.json'} --load-results {out}"
    master = locust(f"--headless --master {bind} --host {url} {files}")
    worker = f"--headless --worker --master-host 127.0.0.1 --master-port {port}"
    workers = [locust(worker) for _ in range(2)]

    def result() -> dict:
        said, _ = master.communicate(timeout=60)
        assert out.exists(), said
        return json.loads(out.read_text())

    try:
        yield workers, result
    finally:
        for process in (*workers, master):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_two_workers_share_one_rate_and_the_master_adds_it_up(bad, tmp_path):
    stages = [{"seconds": 1, "rate": 100}, {"seconds": 1, "rate": 200}]
    fields = {"users": 10, "arrival": "constant", "idle_holders": 4, "expect_length": 45}
    with fleet(bad.url, tmp_path, path="/ok", stages=stages, **fields) as (_, result):
        run = result()
    counts, row = bad.counts(), run["row"]
    assert row["requests"] == pytest.approx(300, abs=3) and row["ended"] == "duration"
    assert set(json.loads(row["errors"])) <= {"unsent"}
    good = row["requests"] - row["failures"]
    # The idle holders asked once each.
    assert run["background"]["idle opened"] == run["background"]["idle answered"] == 4
    assert counts["GET /ok HTTP/1.1"] == good + 4
    assert sum(count for _, count in run["histogram"]) == good
    assert sum(count for slot in run["seconds"] for _, count in slot["histogram"]) == good
    assert [slot["load"] for slot in run["stages"]] == [100, 200]
    assert 0 < row["p50_ms"] <= row["p9999_ms"] and row["qps"] > 0


def test_a_killed_worker_ends_nothing_and_is_reported(bad, tmp_path):
    mix = [{"path": "/ok"}, {"path": "/ok", "method": "HEAD"}]
    fields = {"users": 4, "duration": 6, "think_time": 0.01, "mix": mix}
    with fleet(bad.url, tmp_path, **fields) as (workers, result):
        wait_for_load(bad, "GET /ok HTTP/1.1", requests=200)  # both have sent a report by then
        os.killpg(workers[0].pid, signal.SIGKILL)
        run = result()
    assert run["row"]["ended"].endswith("; what they did last is lost")
    good = sum(count for _, count in run["histogram"])
    assert sum(count for _, count in run["paths"]["/ok"]) == good > 100  # the dead one's, too


def test_locusts_own_page_starts_the_load_as_often_as_one_likes(bad):
    (port,) = free_ports(1)
    profile = '{"path":"/ok","requests":60,"keep_alive":true}'
    options = f"--web-host 127.0.0.1 --web-port {port} --load-profile {profile}"
    form = urllib.parse.urlencode({"user_count": 3, "spawn_rate": 3, "host": bad.url}).encode()

    def asked(path: str, data: bytes | None = None) -> dict:
        """The page, asked as its own buttons do; {} before it is there."""
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=10) as page:
                return json.load(page)
        return {}

    def done() -> bool:
        """The page still says "stopped" when it has just been asked to start."""
        nonlocal came
        came += bad.counts().get("GET /ok HTTP/1.1", 0)
        return came >= 60 and asked("/stats/requests").get("state") == "stopped"

    with locust(options) as process:
        try:
            for _ in range(2):
                came = 0
                poll_until(lambda: asked("/swarm", form), "the page", 20)
                poll_until(done, "60 requests and the end", 20)
                seen = asked("/stats/requests")["stats"][0]
                assert (came, seen["name"], seen["num_requests"]) == (60, "/ok", 60)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            said, _ = process.communicate(timeout=20)
    assert said.count("60 good answers") == 2


def test_a_load_goes_to_another_host_only_if_it_is_named():
    program = """
import http.server, os, threading
from mpmkit.load.runner import run_load
server = http.server.ThreadingHTTPServer(("10.77.0.1", 0), http.server.SimpleHTTPRequestHandler)
server.RequestHandlerClass.log_message = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
how = {"users": 4, "requests": 60, "processes": 2}
url = f"http://10.77.0.1:{server.server_port}"
try:
    run_load(url, **how)
except ValueError as error:
    print("name as yours in MPMKIT_TARGETS" in str(error))
os.environ["MPMKIT_TARGETS"] = "10.77.0.1"
run = run_load(url, **how)
print(run.requests, run.failures)
"""
    assert in_a_network("ip addr add 10.77.0.1/24 dev lo", program).split() == ["True", "60", "0"]
