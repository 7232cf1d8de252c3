"""`mpmkit replay`: what is asked when, and a log that comes out as it went in."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from support.client import get
from support.waiting import poll_until

import mpmkit
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.measure import replay
from mpmkit.measure.trace import Trace

FORMAT = "%{usec}t %D %B %X %k %{remote}p"
GOOD = "0.0,2 0.5,1,0.25 close\n"


def test_a_plan_has_a_line_for_each_connection(tmp_path):
    """With its requests at their times, each so long after the answer before it, and how it ends."""
    size, nan = [0, 1000, 1000, 1 << 40], float("nan")
    how = {"connection": [7, 3, 7, 3], "kept": [1, 1, -1, 0]}
    trace = Trace([0, 2, 2, 4], [0.1, 0.1, 2, nan], size, **how)
    made = replay.plan(trace, 2.0, "/x.php", tmp_path / "plan")
    lines = (tmp_path / "plan").read_text().splitlines()
    first = "0.000000,1,0.000000 1.000000,3,0.903000"
    second = "1.000000,2,0.000000 2.000000,4,0.903000 close"
    assert lines == [first, second]
    sizes = [line["expect_length"] for line in made["mix"]]
    assert sizes[0] == 0 and sizes[1:3] == pytest.approx([1000] * 2, rel=0.05)
    assert made["mix"][3]["path"].startswith("/x.php?bytes=") and "&ms=0" in made["mix"][3]["path"]
    assert LoadProfile(**made).open_loop and made["duration"] == pytest.approx(2.1, abs=0.01)
    with pytest.raises(ProfileError, match="plan: only the open loop has it"):
        LoadProfile(plan="/x", requests=1)
    with pytest.raises(ValueError, match="speed: the log takes 4,000 s at 1; a run at most 3,000"):
        replay.plan(Trace([0, 4000]), 1.0, "/", tmp_path / "plan")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    log = tmp_path_factory.mktemp("logs") / "log"
    with mpmkit.launch("event", CustomLog=[(str(log), FORMAT)], KeepAliveTimeout=20) as server:
        yield server


def test_the_script(samples):
    answers = {"bytes=300&ms=20": (200, 300), "": (200, 0), "bytes=x": 400, "ms=9999999": 400}
    for query, answer in answers.items():
        got = get(samples, f"/replay.py?{query}")
        assert answer in ((got.status, len(got.body)), got.status), query


def test_a_log_is_replayed(samples, tmp_path, capsys):
    stamps = range(1772359200, 1772359200 + 40)
    log = tmp_path / "log"
    log.write_text("".join(f"{s} {20_000 + 1000 * (s % 9)} {100 + s % 7}\n" for s in stamps))
    argv = [str(log), "--log-format", "%{sec}t %D %b", "--against", samples.url, "--json"]
    assert replay.main([*argv, "--speed", "20", "--scale", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["failures"]) == (80, 0) and found["mean_ms"] > 20
    assert 8 < found["qps"] < 48  # 40, unless the machine stands still
    assert replay.main([*argv, "--speed", "0"]) == 2
    assert "speed, scale: must be more than 0" in capsys.readouterr().err
    assert replay.main([*argv[:-2], "http://192.0.2.1"]) == 2


def written(file, connections) -> Trace:
    """A log of connections, each a list of (start, pauses after its requests of 20 ms, whether it is closed)."""
    rows = []
    for port, (at, pauses, closed) in enumerate(connections):
        for k, pause in enumerate(pauses):
            closes = closed and k == len(pauses) - 1
            serial = max(0, k - closes)  # one that closes repeats the number of the one before it
            rows.append((at, f"{1e15 + 1e6 * at:.0f} 20000 100 {'+-'[closes]} {serial} {port}\n"))
            at += 0.02 + pause
    file.write_text("".join(line for _, line in sorted(rows)))
    return Trace.read(file, log_format=FORMAT)


def ends(trace: Trace) -> Counter[tuple[int, bool]]:
    """How many connections had so many requests, and were closed after the last one or not."""
    kept: dict[int, list[int]] = {}
    for number, sign in zip(trace.connection, trace.kept, strict=True):
        kept.setdefault(number, []).append(sign)
    return Counter((len(signs), not signs[-1]) for signs in kept.values())


@pytest.mark.parametrize("processes", [1, 2])
def test_the_servers_log_has_the_connections_of_the_log(samples, tmp_path, capsys, processes):
    chance = random.Random(18)
    trace = written(tmp_path / "log", [
        (chance.uniform(0, 2), [chance.uniform(0.05, 0.4) for _ in range(1 + n % 5)], n % 3 == 0)
        for n in range(40)
    ])  # fmt: skip
    log = Path(samples.directives["CustomLog"][0][0])
    before = log.stat().st_size
    argv = [str(tmp_path / "log"), "--log-format", FORMAT, "--against", samples.url, "--json"]
    assert replay.main([*argv, "--processes", str(processes)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["failures"]) == (len(trace), 0) == (120, 0)
    assert (found["retries"], found["reconnects"]) == (0, 0)
    poll_until(lambda: log.read_bytes()[before:].count(b"\n") == 120)
    (tmp_path / "server").write_bytes(log.read_bytes()[before:])
    assert ends(Trace.read(tmp_path / "server", log_format=FORMAT)) == ends(trace)


def test_what_the_server_closed_earlier_is_counted_and_opened_anew(tmp_path, capsys):
    written(tmp_path / "log", [(0.1 * n, [2.7, 0.1, 0], True) for n in range(5)])
    with mpmkit.launch("worker", KeepAliveTimeout=2) as server:
        argv = [str(tmp_path / "log"), "--log-format", FORMAT, "--against", server.url]
        assert replay.main(argv) == 0
    said = capsys.readouterr()
    assert "15 requests on 5 connections" in said.err
    assert "5 times the server closed a connection that the plan kept" in said.out


def planned(server, file: Path, text: str, **more) -> mpmkit.LoadRun:
    file.write_text(text)
    mix = [{"path": f"/replay.py?bytes=1&ms={ms}", "expect_length": 1} for ms in (0, 600)]
    how = {"arrival": "constant", "rate": 1, "duration": 1, "keep_alive": True, "mix": mix}
    return mpmkit.run_load(server, profile=LoadProfile(plan=str(file), **how, **more))


def test_a_late_answer_moves_what_follows_it(samples, tmp_path):
    """The second request is due at 0.1 s, but 0.5 s after an answer that takes 0.6 s; none is late."""
    run = planned(samples, tmp_path / "plan", "0.0,2 0.1,1,0.5 close\n", users=2)
    assert (run.requests, run.failures, run.connections) == (2, 0, 1)
    assert 1.1 <= run.duration and run.latency_ms(1) < 500
    # What a run does not come to is unsent.
    lines = "0.0,2 0.1,1 0.2,1\n0.3,1 0.4,1\n"
    run = planned(samples, tmp_path / "plan", lines, users=1, time_limit=0.3)
    assert run.errors["unsent"] >= 2 and run.ended.startswith("time limit")


@pytest.mark.parametrize("text, says", [
    ("x,1\n", "line 1: must be SECONDS,LINE"), (GOOD * 3 + "0.5,1 0.6\n", r"line 4: must be .*'0.5,1 0.6"),
    (GOOD + "1,1,nan\n", "line 2: must be"), (GOOD + "\n" + GOOD, "line 2: must be"),
    (GOOD + "0.5,1 close", "line 2: must be"), ("0.5,1\n" + GOOD, "line 2: begins at 0 s, the one above it"),
    (GOOD + "1,1 2,3,0.5\n", "line 2: there is no line 3 of the mix"), ("é" + GOOD, "line 1: must be"),
])  # fmt: skip
def test_a_bad_line_of_a_plan_is_named_before_anything_is_sent(samples, tmp_path, text, says):
    with pytest.raises(ProfileError, match=f"plan: .*plan, {says}"):
        planned(samples, tmp_path / "plan", text)
    with pytest.raises(ProfileError, match=r"plan: .*gone: No such file"):
        due = {"arrival": "constant", "rate": 1, "duration": 1}
        mpmkit.run_load(samples, profile=LoadProfile(plan=str(tmp_path / "gone"), **due))


def test_logged_paths_are_asked_again(tmp_path, capsys):
    """Of a server that has them: any status is good. What is no GET or HEAD of a path is left out."""
    lines = [
        f'10.0.0.{n % 5} - - [17/May/2015:10:05:{n // 8:02} +0000] "{line}" 200 5 20000\n'
        for n, line in enumerate([
            "GET /a.txt HTTP/1.1", "HEAD /b.txt?q=1%20 HTTP/1.1", "GET /none HTTP/1.0", "POST /a HTTP/1.1", "-",
            r"GET /\xff HTTP/1.1", "OPTIONS * HTTP/1.0", "GET http://other/ HTTP/1.1",
        ] * 2)
    ]  # fmt: skip
    log, server_log = tmp_path / "log", tmp_path / "server_log"
    log.write_text("".join(lines))
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x")
    argv = [str(log), "--log-format", "common %D", "--paths", "--speed", "4", "--json", "--against"]
    more = {"document_root": tmp_path, "CustomLog": [(str(server_log), "%r %s")]}
    with mpmkit.launch("worker", **more) as server:
        assert replay.main([*argv, server.url]) == 0
        poll_until(lambda: server_log.read_bytes().count(b"\n") == 6)
    said = capsys.readouterr()
    assert "10 requests are no GET or HEAD of a path: they are not sent" in said.err
    found = json.loads(said.out)
    assert (found["requests"], found["failures"]) == (6, 0)
    seen = Counter(server_log.read_text().splitlines())
    assert seen == {
        "GET /a.txt HTTP/1.1 200": 2, "HEAD /b.txt?q=1%20 HTTP/1.1 200": 2, "GET /none HTTP/1.1 404": 2,
    }  # fmt: skip


@pytest.mark.parametrize("text, form, says", [
    ("1772359200 5\n", "%{sec}t %D", "the log has no request lines; %r is one"),
    ("1772359200 5 POST / HTTP/1.1\n", "%{sec}t %D %r", "no request of the log is a GET or HEAD"),
])  # fmt: skip
def test_logs_without_paths(tmp_path, capsys, text, form, says):
    (tmp_path / "log").write_text(text)
    argv = ["--log-format", form, "--paths", "--against", "http://127.0.0.1:1"]
    assert replay.main([str(tmp_path / "log"), *argv]) == 2
    assert f"paths: {says}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        replay.main(["-", "--script", "/x", *argv])
