"""The load: the profile, the reading of answers, and real runs: what the generator claims is what a server that
misbehaves has counted. The generator runs in a process of its own: nothing here imports locust or gevent."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from misbehaving import Misbehaving
from support.calls import refused
from support.loads import ENVIRON, LOCUST, argv, in_a_network, run, wait_for_load, wait_for_silence
from support.waiting import patience

from mpmkit.load.histogram import Histogram
from mpmkit.load.preflight import Target, target_of
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.load.response import MAX_HEAD, ResponseReader
from mpmkit.load.result import Tick
from mpmkit.load.runner import LoadRun, run_load
from mpmkit.measure import procfs

OPEN = {"arrival": "constant", "rate": 10}
LONG = {"seconds": 3000, "users": 1}
ALONE = f"{LOCUST} --headless --json --loglevel WARNING"

BAD_PROFILE = '--load-profile {"requests":0}'
BAD = {
    "path": ["index.html", "/a b", "/ä", None], "users": [0, 20_001, True, 2.0],
    "duration": [0, float("nan"), 4000], "keep_alive": ["yes", 1.5], "method": ["DELETE"], "body": ["x"],
    "headers": [3, [("Host",)], [("A b", "c")], [("A", "b\r\nc: d")], [("Content-Length", "3")]],
    "processes": [0, 2], "mix": ["all", [{"path": "/", "weight": 0}], [{"path": "/", "size": 3}], [3]],
    "requests_per_connection": [5], "arrival": ["open", "poisson"], "rate": [5], "stages": [[{"users": 3}]],
    "idle_holders": [20_001], "ca_file": [3], "seed": ["x"],
}  # fmt: skip


@pytest.mark.parametrize(("fields", "named"), [
    *(({name: bad}, "rate" if bad == "poisson" else name) for name in BAD for bad in BAD[name]),
    ({"path": "x", "users": 0, "timeout": -1, "requests": None}, "path users timeout requests"),
    ({"mix": [{"path": "/a"}], "path": "/b", "expect_length": 3}, "path expect_length"),
    ({"users": 15_000, "idle_holders": 6_000}, "idle_holders"),
    ({**OPEN, "think_time": 1, "ramp": 2}, "think_time ramp"),
    ({**OPEN, "duration": 3, "stages": [{"seconds": 1, "rate": 5, "users": 3}]},
     "requests duration rate stages"),
    ({"stages": [{"seconds": 1}]}, "requests stages"),
    ({"stages": [LONG, LONG]}, "requests stages"),
    ({"stages": [{"seconds": 1, "users": 2, "line": 1}]}, "requests stages"),
    ({**OPEN, "stages": [{"seconds": 1, "rate": 2, "line": 2}]}, "requests rate stages"),
])  # fmt: skip
def test_bad_fields_are_refused_and_all_named(fields, named):
    with pytest.raises(ProfileError) as error:
        LoadProfile(**{"requests": 10} | fields)
    assert re.findall(r"(?:^|; )([a-z_]+): ", str(error.value)) == named.split()


def test_steps_and_ramps_say_what_is_due_when():
    ramp = {"seconds": 4, "users": 50, "ramp": True}
    steps = LoadProfile(stages=[{"seconds": 2, "users": 10}, ramp])
    assert steps.users == 50 and steps.planned_seconds == 6
    assert [steps.level_at(t) for t in (-1, 1.9, 2, 4, 99)] == [10, 10, 10, 30, 50]
    assert LoadProfile(users=10, requests=1, ramp=10).level_at(5) == 5
    mixed = LoadProfile(mix=[{"path": "/a"}], requests=1, headers=[("A", "b")])
    for profile in (steps, mixed):
        assert LoadProfile.from_json(profile.to_json()) == profile


def test_the_request_is_what_ab_sends_and_keep_alive_is_http_1_1():
    profile = LoadProfile(path="/x", requests=1)
    head = profile.request_bytes("127.0.0.1:80", profile.specs[0], False)
    assert head.startswith(b"GET /x HTTP/1.0\r\nHost: 127.0.0.1:80\r\n")
    assert head.endswith(b"\r\n\r\n") and b"onnection" not in head
    kept = profile.but(headers=(("Host", "a"), ("X", "y")))
    kept = kept.request_bytes("b", profile.specs[0], True)
    assert kept.startswith(b"GET /x HTTP/1.1\r\n")
    assert kept.count(b"Host: ") == 1 and b"\r\nX: y\r\n" in kept
    post = profile.but(method="POST", body="hé")
    post = post.request_bytes("b", post.specs[0], False)
    assert post.endswith(b"Content-Length: 3\r\n\r\nh\xc3\xa9")


NAMED = "MPMKIT_TARGETS", "10.0.0.2, lab.example"


@pytest.mark.parametrize("target", [
    *(("http", host, 8080, True) for host in ("127.0.0.1", "127.8.9.1", "localhost", "::1")),
    ("http", "127.0.0.1", 80, True), ("https", "127.0.0.1", 443, True), ("https", "lab.example", 8443, False),
])  # fmt: skip
def test_loopback_and_hosts_that_are_named_are_accepted(target, monkeypatch):
    monkeypatch.setenv(*NAMED)
    assert target_of(Target(*target).base) == target
    assert target_of("http://127.0.0.1/") == target_of("http://127.0.0.1:80")


@pytest.mark.parametrize(("call", "given", "says"), [
    *((run_load, url, "^target: ") for url in (
        *"http://10.0.0.1:80 http://example.org http://0.0.0.0:80 http://[::2] http://localhost.example.org".split(),
        *"http://127.0.0.1@example.org ftp://127.0.0.1 127.0.0.1:80 http://[ http://x.lab.example".split(),
        "http://example", "http://127.0.0.1:99999", "http://127.0.0.1/index.html", "", None, 8080)),
    (partial(run_load, users=0), "http://192.0.2.1", "^target: .*; users: .*; requests: "),
    (partial(run_load, usres=3), "http://127.0.0.1:1", "usres: no such field"),
    (LoadProfile.from_json, "{", "must be JSON"), (LoadProfile.from_json, "[]", "JSON object"),
    (LoadProfile.from_json, '{"users": 3}', "requests: give"),
    (LoadProfile.from_json, '{"usres": 3, "requests": 1}', "usres: no such field"),
])  # fmt: skip
def test_another_target_and_what_is_no_profile_are_refused_at_once(call, given, says, monkeypatch):
    monkeypatch.setenv(*NAMED)
    refused(ValueError, says, call, given, **{"requests": 1} if call is run_load else {})


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: z\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhello"
TINY = CHUNKED.partition(b"3;")[0] + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
MALFORMED = ("malformed", False, 0)


def saying(field: bytes) -> bytes:
    return OK.replace(b"OK\r\n", b"OK\r\n" + field + b"\r\n")


def read(data: bytes, cuts: tuple[int, ...] = (), **how):
    """Feed `data` cut at the given places, then the end of the connection if it still waits."""
    reader = ResponseReader(**how)
    for start, end in zip((0, *sorted(cuts)), (*sorted(cuts), len(data)), strict=True):
        if data[start:end] and (verdict := reader.feed(data[start:end])) is not None:
            return verdict
    return reader.feed(b"")


@pytest.mark.parametrize(("data", "how", "verdict"), [
    (OK, {"expect_length": 5}, (None, True, 5)), (OK, {"expect_length": 4}, ("length", True, 5)),
    (OK, {"expect_status": 404}, ("status 200", True, 5)), (OK[:-1], {}, ("short", False, 4)),
    (OK + b"!", {}, ("length", False, 6)), (OK.replace(b"1.1", b"1.0"), {}, (None, False, 5)),
    (saying(b"Connection: Close"), {}, (None, False, 5)), (b"", {}, ("closed", False, 0)),
    (CHUNKED, {"expect_length": 5}, (None, True, 5)), (CHUNKED[:-2], {}, ("short", False, 5)),
    (TINY, {}, (None, True, 20_000)), (UNTIL_CLOSE, {}, (None, False, 5)),
    (UNTIL_CLOSE, {"expect_length": 6}, ("length", False, 5)),
    (OK[:-5], {"method": "HEAD"}, (None, True, 0)), (INTERIM + OK, {}, (None, True, 5)),
    (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", {}, ("status 500", True, 0)),
    # What never ends is bounded.
    (b"HTTP/1.1 200 OK\r\nA: " + b"a" * MAX_HEAD, {}, MALFORMED),
    (CHUNKED.partition(b"3;")[0] + b"1" * (MAX_HEAD + 1), {}, MALFORMED),
    (b"ICY 200 OK\r\n\r\n", {}, MALFORMED), (saying(b"no colon"), {}, MALFORMED),
    (saying(b"A: b\n"), {}, MALFORMED), (saying(b"Content-Length: 6"), {}, MALFORMED),
])  # fmt: skip
def test_verdicts(data, how, verdict):
    assert read(data, **how) == verdict


ANY = st.sampled_from([OK, CHUNKED, OK[:-1], INTERIM + OK, UNTIL_CLOSE, b"junk\r\n\r\n"])
CUTS = st.lists(st.integers(0, len(CHUNKED)), max_size=6)


@given(ANY, CUTS, st.binary(max_size=200))
def test_neither_cuts_nor_bytes_break_the_reader(data, cuts, junk):
    assert read(data, tuple(min(cut, len(data)) for cut in cuts)) == read(data)
    kind, keep, length = read(b"HTTP/1.1 200 OK\r\n" + junk)
    assert length <= len(junk) and isinstance(keep, bool)
    assert kind in (None, "length", "short", "malformed")


EITHER = {
    **dict.fromkeys(("/ok", "/chunked", "/dribble"), ""), "/big": "length",
    "/status/404": "status 404", "/long": "length", "/short": "short", "/garbage": "malformed",
}  # fmt: skip
NEW = {"/late-long": "length", "/closes": "closed", "/resets": "reset", "/stall": "timeout",
       "/unclosed": "unclosed"}  # fmt: skip


@pytest.mark.parametrize(("keep_alive", "kinds"), [(True, EITHER), (False, EITHER | NEW)])
def test_each_request_is_sent_once_and_judged(bad, keep_alive, kinds):
    # Few of those that take a time-out, which is longer than a machine stands still.
    weight = {path: 1 if path in ("/stall", "/unclosed") else 4 for path in kinds}
    mix = [{"path": path, "expect_length": 45, "weight": weight[path]} for path in kinds]
    how = {"keep_alive": keep_alive, "processes": 1 if keep_alive else 2, "timeout": 4}
    run = run_load(bad.url, users=16, requests=151, mix=mix, **how)
    version, counts = "1.1" if keep_alive else "1.0", bad.counts()
    came = {path: counts.get(f"GET {path} HTTP/{version}", 0) for path in kinds}
    errors = sum((Counter({kind: came[path]}) for path, kind in kinds.items()), Counter())
    good = errors.pop("")
    assert sum(came.values()) == run.requests == 151 and run.ended == "requests"
    assert keep_alive or counts["connections"] == run.connections == 151
    assert 1 <= len(run.processes_cpu) <= how["processes"]  # one may be too late to get any
    assert run.errors == +errors and run.succeeded == good
    assert run.qps == pytest.approx(good / run.duration) and run.latency_ms(0) > 0


def test_a_kept_connection_that_the_server_ends_is_no_failure(bad):
    # Each connection answers 5 requests, the last with Connection: close: 12 connections at least.
    run = run_load(bad.url, "/keeps/5", users=3, requests=60, keep_alive=True)
    assert (run.failures, run.retries, run.requests) == (0, 0, 60)
    assert run.reconnects >= 60 // 5 - 3 and bad.counts()["connections"] >= 12
    # A close that crosses a request: it is sent once more, and counted.
    run = run_load(bad.url, "/drops/5", users=3, requests=60, keep_alive=True)
    assert (run.failures, run.requests) == (0, 60)
    assert run.retries >= 60 // 5 - 3 and "sent again" in run.summary()


def test_a_warm_up_and_what_is_seen_while_it_runs(bad):
    seen, ticks = [], []
    how = {"users": 6, "duration": 3.5, "warmup_seconds": 0.3, "keep_alive": True}
    calls = {"on_progress": lambda *now: seen.append(now), "on_tick": ticks.append}
    run = run_load(bad.url, "/every/7", **how, **calls)
    assert run.ended == "duration" and 3.4 < run.duration < 20
    assert bad.counts()["GET /every/7 HTTP/1.1"] > run.requests  # the warm-up's are not counted
    assert seen == sorted(seen) and len(seen) >= 2 and seen[-1][0] <= run.requests
    assert len(ticks) >= 2 and all(0 <= tick.begin < tick.end for tick in ticks)
    latencies = Histogram(ns for tick in ticks for ns in tick.values)
    assert 0 < len(latencies) <= run.succeeded
    assert run.latency_ms(0) <= latencies.smallest / 1e6 < run.latency_ms(100)
    failed = sum((tick.failures for tick in ticks), Counter())
    assert 0 < failed.total() <= run.failures and set(failed) == set(run.errors)
    # And afterwards, second by second, and as JSON
    assert [slot.begin for slot in run.seconds][:2] == [0, 1]
    assert sum(slot.requests for slot in run.seconds) == run.requests
    assert sum((slot.errors for slot in run.seconds), Counter()) == run.errors
    assert all(slot.latency_ms(50) > 0 for slot in run.seconds if slot.requests)
    plain = json.loads(run.to_json())
    assert plain["row"]["requests"] == run.requests
    assert sum(count for _, count in plain["histogram"]) == run.succeeded
    assert [slot["errors"] for slot in plain["seconds"]] == [slot.errors for slot in run.seconds]
    # The generator is measured, and the machine.
    assert len(run.processes_cpu) == 1 and 0 <= run.processes_wait[0] <= 1 and run.run_queue >= 0
    assert "ready to run per CPU" in run.summary()


def test_no_process_listens_and_the_time_limit_holds(bad):
    with socket.socket() as taken:  # so that no other process can listen there
        taken.bind(("127.0.0.1", 0))
        run = run_load(f"http://127.0.0.1:{taken.getsockname()[1]}", "/", users=3, requests=12)
    assert run.errors == {"refused": 12} and run.complete
    run = run_load(bad.url, "/stall", users=2, requests=10, timeout=60, time_limit=1)
    assert run.ended == "time limit of 1 s" and run.duration < 20


def test_a_server_that_dies_ends_the_run_with_what_was_measured():
    with Misbehaving() as server:

        def kill(done: int, seconds: float) -> None:
            if done > 100:
                server.die()

        run = run_load(server.url, "/ok", users=4, requests=5_000_000, on_progress=kill)
    assert run.succeeded > 100 and run.errors["refused"]
    assert run.ended.startswith("gave up: no connection") and "ended early" in repr(run)


def test_more_users_than_files_are_refused_with_the_remedy(bad):
    few = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (100, 100))
    done = run(f"mpmkit load {bad.url} --users 200 --requests 200", preexec_fn=few)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "file descriptors are needed and the hard limit is 100" in done.stderr


def test_when_ephemeral_ports_run_out_other_loopback_addresses_help():
    """Where there are 20 ports, 60 users need more than one source address."""
    program = """
from misbehaving import Misbehaving
from mpmkit.load.runner import run_load
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40019")
with Misbehaving() as server:
    run = run_load(server.url, "/ok", users=60, requests=300, keep_alive=True)
    print(run.requests, run.failures)
"""
    assert in_a_network("true", program).split() == ["300", "0"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_keeps_what_was_measured_and_no_end_of_the_parent_leaves_a_load(bad, how):
    line = f"mpmkit load {bad.url}/ok --users 4 --duration 60 --json --processes 2"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv(line), env=ENVIRON, **pipes) as process:
        wait_for_load(bad, requests=4_000)  # a second: each generator process has sent a report
        asked = time.monotonic()
        process.send_signal(how)
        out, err = process.communicate(timeout=30)
    assert time.monotonic() - asked < patience(20)  # much less, unless the machine stands still
    if how == signal.SIGINT:
        assert process.returncode == 130 and err == "mpmkit: interrupted\n"
        row = json.loads(out)
        assert row["ended"] == "interrupted" and row["requests"] > 10 and row["failures"] == 0
    wait_for_silence(bad)


@pytest.mark.parametrize("broken", [True, False])
def test_a_broken_callback_and_a_generator_that_dies_end_the_load(bad, broken):
    def on_progress(done: int, seconds: float) -> None:
        if broken:
            raise RuntimeError("no widget")
        # The only child of this process that leads a session of its own.
        for child in procfs.children(os.getpid()):
            if os.getsid(child) == child:
                os.kill(child, signal.SIGKILL)

    how = {"users": 2, "duration": 30, "on_progress": on_progress}
    if broken:
        refused(RuntimeError, "no widget", run_load, bad.url, "/ok", **how)
    else:
        run = run_load(bad.url, "/ok", **how)
        assert run.ended.startswith("1 of 1 generator processes died (") and run.succeeded
    wait_for_silence(bad)


def test_the_locustfile_runs_alone_and_feeds_locusts_statistics(bad):
    profile = '{"path": "/every/10", "requests": 40}'
    done = run(f"{ALONE} --host {bad.url} -u 4 -r 4", {"MPMKIT_LOAD_PROFILE": profile})
    (entry,) = json.loads(done.stdout)
    assert bad.counts()["GET /every/10 HTTP/1.0"] == 40
    assert (entry["name"], entry["num_requests"], entry["num_failures"]) == ("/every/10", 40, 4)
    assert sum(entry["response_times"].values()) == 40 and entry["total_content_length"] == 36 * 45
    assert done.returncode == 1  # as Locust does when there were failures
    # Alone, too, it refuses other hosts and bad profiles.
    for more, said in ("--host http://192.0.2.1:80", "loopback"), (BAD_PROFILE, "requests: must"):
        done = run(f"{ALONE} --host {bad.url} {more}")
        assert done.returncode == 2 and said in done.stderr


def made(errors: Counter[str] | None = None, **fields) -> LoadRun:
    ticks = (Tick(0, 2, errors or Counter(), [1_000_000] * 4),)
    return LoadRun("http://127.0.0.1:1", LoadProfile(requests=10), 2.0, ticks, **fields)


def test_a_generator_at_its_limit_is_shown():
    idle, busy = made(processes_cpu=(0.5, 0.7)), made(processes_cpu=(0.5, 0.95))
    assert not idle.generator_bound and idle.generator_cpu == pytest.approx(0.6)
    assert busy.generator_bound and "it was the bottleneck" in busy.summary()
    starved = made(processes_cpu=(0.5,), processes_wait=(0.45,))
    assert starved.generator_starved and "the machine is the limit" in starved.summary()
    # Failures count as requests, and not as speed.
    run = made(Counter({"status 500": 6}))
    assert (run.failures, run.succeeded, run.qps) == (6, 4, 2.0)
    assert "6 of 10 requests failed: 6 status 500" in run.summary()
    row = run.row()
    assert (row["qps"], row["p50_ms"], row["driver"]) == (2.0, 1.0, "locust")
