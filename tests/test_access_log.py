"""Access logs become traces: formats, files as people have them, broken lines, connections;
`mpmkit replay`: what is asked when, and a log that comes out as it went in."""

import gzip
import io
import itertools
import json
import math
import random
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.calls import printed_by, refused
from support.client import get
from support.files import section, tree, write
from support.servers import assert_quiet
from support.waiting import logged, poll_until

import mpmkit
from mpmkit.config.values import COMMON
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.measure import access_log, replay
from mpmkit.measure.access_log import NICKNAMES, TraceError
from mpmkit.measure.trace import Trace
from mpmkit.server import log_format

AT = "[17/May/2015:10:05:%02d +0000]"
BEGIN = 1431857100.0  # 10:05:00
AGENT = ' "-" "a"'
NOT_UTC = "%{%Y-%m-%d %H:%M:%S}t %D"


def common(second: int, more: str = "", client: int = 1, target: str = "/") -> str:
    return f'10.0.0.{client} - - {AT % second} "GET {target} HTTP/1.1" 200 5{more}\n'


def combined(second: int, more: str = "", client: int = 1) -> str:
    return common(second, f' "-" "Agent/1.0 \\"x\\" (y)"{more}', client)


def read(text: str | bytes, log_format: str = "", **more) -> Trace:
    data = text if isinstance(text, bytes) else text.encode("latin-1")
    return Trace.read(io.BytesIO(data), log_format=log_format, **more)


def test_what_is_written_can_be_read():
    fields = {key.partition("}")[2] or key for key in log_format.FIELDS}
    assert {*fields, *log_format.WITH_TEXT, *log_format.OF_REQUEST} <= set(access_log.PATTERNS)


@pytest.mark.parametrize("text, line, start, seconds, size", [
    ("common", common(3), 3, None, 5), ("combined", combined(3), 3, None, 5),
    ("combined %D", combined(3, " 1500"), 3, 0.0015, 5), ("common %T", common(3, " 2"), 3, 2, 5),
    ("common %{ms}T", common(3, " 12"), 3, 0.012, 5), ("common %{us}T", common(3, " 12"), 3, 12e-6, 5),
    ("common %T %D", common(3, " 1 1200000"), 3, 1.2, 5), ("common %D", common(3, " -"), 3, None, 5),
    ("%h %t %D %b", f"::1 {AT % 3} 7 -\n", 3, 7e-6, 0), ("%t %B %O %I", f"{AT % 3} 5 300 100\n", 3, None, 300),
    ("%{usec}t %D", "1431857103250000 500000\n", 3.25, 0.5, 0), ("%{%s}t %D", "1431857103 5\n", 3, 5e-6, 0),
    ("[%{%d/%b/%Y:%T}t.%{usec_frac}t %{%z}t] %D", "[17/May/2015:10:05:03.250000 +0000] 5\n", 3.25, 5e-6, 0),
    ("%{begin:%FT%T%z}t.%{msec_frac}t", "2015-05-17T12:05:03+0200.125\n", 3.125, None, 0),
    ("%{sec}t.%{msec_frac}t %D", "1431857103.125 5\n", 3.125, 5e-6, 0),
    ("%{begin:msec}t %{end:msec}t", "1431857103000 1431857104500\n", 3, 1.5, 0),
    ("%{end:usec}t %D", "1431857103000000 500000\n", 2.5, 0.5, 0),
    ('%v:%p "%!200,304{Referer}i" %{tid}P %{hextid}P %P %t', f'a:80 "-" 140 7f0a 9 {AT % 3}\n', 3, None, 0),
    ("%u %t", f"two words {AT % 3}\n", 3, None, 0), ("%t\\t%%\\t%D", f"{AT % 3}\t%\t5\n", 3, 5e-6, 0),
    ("common", common(3).replace("\n", "\r\n"), 3, None, 5),
])  # fmt: skip
def test_formats(text, line, start, seconds, size):
    trace = read(line, text)
    got = trace.seconds[0]
    assert trace.begin - BEGIN == pytest.approx(start, abs=1e-5) and trace.size[0] == size
    assert math.isnan(got) if seconds is None else got == pytest.approx(seconds)


@pytest.mark.parametrize("name", sorted(NICKNAMES))
def test_a_format_is_recognised_by_its_lines(name):
    more, before = (" 1 2" if name == "combinedio" else ""), ("h:80 " if "vhost" in name else "")
    line = before + (common(1) if name == "common" else combined(1, more))
    for broken_first in ("", "\0\0\0\n"):
        assert NICKNAMES[name] in read(broken_first + line * 200).notes[0]


@pytest.mark.parametrize("text, form, says", [
    ("", "", "no line"), ("", "common", "no whole line"), ("x\n" * 50, "", "no known format"),
    (combined(1, " 15"), "", "'combined %D' if it is in microseconds, 'combined %T' if in seconds"),
    (common(1) * 50 + combined(1) * 50, "", r"(?s)50 of 100 .*'combined': the log has two.*line 51:.*line 55:"),
    (combined(1, " 15") * 3, "combined", r"(?s)3 of 3 lines.*look like log_format='combined %D'\..*line 1:"),
    ("a b c\n" * 3, "common", "give its LogFormat"), (common(1), "%h %D", "no time of the request"),
    (common(1), "%{%H:%M}t", "no time of the request"), (common(1), "%é %t", "unknown"),
    (common(1), "%t %", "cut short"), (common(1), "%{%Q}t", "cannot be read"),
    (common(1).replace("17/May", "32/May"), "common", "(?s)1 of 1 lines.*line 1: .*32/May"),
    (common(1)[:-1], "common", "no whole line"), ("9" * 400 + " 5\n", "%{usec}t %D", "1 of 1 lines"),
])  # fmt: skip
def test_what_cannot_be_read_is_said(text, form, says):
    refused(TraceError, says, read, text, form)


@pytest.mark.parametrize("text, form, count, note", [
    (common(1) * 199 + "\0\0\0\n", "common", 199, r"(?s)1 \(.*line 200\)..*line 200: '.x00.x00.x00'"),
    ("".join(common(1) * 200 + "x" * n + "\n" for n in (1, 2, 119, 4)), "common", 800,
     r"(?s)out: 4 \(.*line 201; .*line 804\)..*line 402: 'xx'\n.*line 603: 'x{59} \.\.\. x{59}'\n.*804: 'x{4}'"),
    (common(1) * 999 + common(1).replace("17/May", "32/May") * 7, "common", 999,
     r"(?s)left out: 7 \(.*line 1000; .*line 1004, \.\.\.\)..*line 1004: .*32/May"),
    # Blocks without a backslash have a faster pattern: broken lines must not swallow their neighbours.
    *((f'{common(1, AGENT) * 300}{line}{common(1, AGENT) * 200}', "combined", 500, "left out: 1") for line in (
        common(1, ' "- "a"'), "x\n", common(1), common(1)[:20] + "\n")),
    (common(1) + common(2)[:30], "common", 1, "still being written"),
    (common(1) + common(2, target="/" + "x" * 1_000_000), "common", 2, "2 lines"),
    (common(1) * 200 + "x" * (5 << 20) + "\n" + common(2), "common", 201, "left out: 1"),
    (common(10, " 5") + common(1, " 5"), "common %D", 2, "clock goes back by 9 s"),
    ("2015-10-25 01:59:59 5\n2015-10-25 01:00:00 5\n", NOT_UTC, 2, "back by 3,599 s.*end of summer time"),
    ("2015-10-25 01:59:59 5\n", NOT_UTC, 1, "no zone and are taken as UTC"),
    ("[25/Oct/2015:02:59:59 +0200] 5\n[25/Oct/2015:02:00:01 +0100] 5\n", "%t %D", 2, "2 lines"),
    (common(1, " 90000000") + common(2, " 1"), "common %D", 2, "took 90 s, longer than the .* s in which"),
    (common(1), "common", 1, "no durations: add %D"),
    (common(1, " 5"), "common %D", 1, "spread evenly"),
    (f"1431857103000000 5 {'9' * 30} {'9' * 30}\n", "%{usec}t %D %k %b", 1, "1 lines"),
])  # fmt: skip
def test_odd_logs_are_read_and_said(text, form, count, note):
    trace = read(text, form)
    assert len(trace) == count
    assert re.search(note, "\n".join((*trace.notes, *trace.broken))), trace.notes
    texts = [line.split(": ", 1)[1] for line in trace.broken]
    assert not any(text in note for text in texts for note in trace.notes), "the CSV has the notes"
    if "+0200" in text:
        assert trace.start[1] == 2.0 and not any("clock" in one for one in trace.notes)


def test_several_files_in_any_order_compressed_or_not_and_empty_ones(tmp_path):
    packed = gzip.compress((common(1) + common(2)).encode())
    files = {"access.log": common(40) + common(50), "access.log.1": packed, "access.log.2": ""}
    trace = Trace.read(sorted(tree(tmp_path, files).iterdir()))
    assert list(trace.start) == [0, 1, 39, 49] and trace.begin == BEGIN + 1
    write(tmp_path / "cut.gz", gzip.compress(common(1).encode() * 999)[:60])
    bad = {"cut.gz": "damaged or cut short", "none": "No such file", ".": "directory"}
    for name, says in bad.items():
        refused(TraceError, says, Trace.read, tmp_path / name, log_format="common")


def test_the_format_and_keep_alive_timeout_come_from_an_httpd_conf(tmp_path):
    quoted = COMMON.replace('"', r"\"")
    host = section("VirtualHost *:80", "CustomLog logs/access.log timed")
    text = f'LogFormat "{quoted} %D" timed\nKeepAliveTimeout 1\nCustomLog logs/other.log "%t"\n{host}\n'
    conf = write(tmp_path / "httpd.conf", text)
    log = write(tmp_path / "access.log.1", common(1, " 500000") + common(4, " 5"))
    trace = Trace.read(log, conf=conf)
    assert trace.seconds[0] == 0.5 and len(set(trace.connection)) == 2
    conf.write_text(text.replace("Timeout 1", "Timeout 1mi"))
    assert len(set(Trace.read(log, conf=conf).connection)) == 1
    for bad, says in (("<IfModule\n", "conf: .*:1: the"), ("Listen 80\n", "no CustomLog")):
        conf.write_text(bad)
        refused(TraceError, says, Trace.read, log, conf=conf)
    trace = Trace.read(log, conf=conf, log_format="common %D")
    assert trace.seconds[0] == 0.5, "a given format needs no CustomLog"


class Growing:
    """A log of so many lines, made while it is read: 50 a second, of 300 clients."""

    name = "growing"

    def __init__(self, lines: int) -> None:
        self.lines = (
            f'10.0.1.{n % 300} - - [17/May/2015:10:{n // 3000 % 60:02}:{n // 50 % 60:02} +0000] "GET /{n % 999} '
            f'HTTP/1.1" 200 {n % 5000} "-" "Agent/{n % 7}" {n % 90_000}\n'
            for n in range(lines)
        )

    def read(self, size: int) -> bytes:
        return "".join(itertools.islice(self.lines, size // 120)).encode()


def test_memory_does_not_grow_with_the_lines_but_by_the_columns_of_a_trace(monkeypatch):
    monkeypatch.setattr(access_log, "BLOCK", 1 << 14)
    used = []
    for count in (2000, 8000):
        tracemalloc.start()
        assert len(Trace.read(Growing(count), log_format="combined %D")) == count
        used.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert used[1] < used[0] + 6000 * 160


CONNECTIONS = (  # second, client, %D in µs, %X, %k -> connection
    (1.0, 1, 200_000, "+", 0, 0), (1.0, 1, 100_000, "+", 0, 1), (1.1, 2, 1000, "-", 0, 2),
    (1.5, 1, 9000, "+", 1, 0),
    (2.0, 2, 1000, "+", 0, 3), (3.0, 1, 9000, "-", 1, 0), (4.0, 1, 9000, "+", 7, 4), (40.0, 1, 9000, "+", 0, 5),
    # After MaxKeepAliveRequests one more may come; times may be wrong by a millisecond.
    (41.0, 3, 9000, "-", 4, 6), (42.0, 3, 9000, "-", 5, 6),
    (43.0, 4, 1_000_500, "+", 0, 7), (44.0, 4, 9000, "+", 1, 7),
)  # fmt: skip


def test_connections_come_from_k_or_are_inferred_from_client_and_pause(monkeypatch):
    monkeypatch.setattr("mpmkit.measure.trace.PURGE", 3)

    def seen(columns: int) -> Trace:
        lines = (
            f"{int((s + BEGIN) * 1e6)} 10.0.0.{c} {d} {x} {k}" for s, c, d, x, k, _ in CONNECTIONS
        )
        text = "".join(" ".join(line.split()[:columns]) + "\n" for line in lines)
        return read(text, " ".join("%{usec}t %h %D %X %k".split()[:columns]))

    whole, signs, alone = seen(5), seen(4), seen(3)
    assert list(whole.connection) == [row[-1] for row in CONNECTIONS]
    assert list(whole.kept) == [1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1]
    assert list(whole.client) == [0, 0, 1, 0, 1, 0, 0, 0, 2, 2, 3, 3]
    assert "2 requests go on with one that began before the log" in whole.notes[1]
    assert [round(gap, 3) for gap in whole.think_times()] == [0.3, 1.491, 0.991, 0]
    assert list(signs.connection) == [0, 1, 2, 0, 3, 0, 1, 4, 5, 6, 7, 7], "last answered first"
    assert list(alone.connection) == [0, 1, 2, 0, 2, 0, 0, 3, 4, 4, 5, 5]
    assert set(alone.kept) == {-1, 1}
    assert "without %k the error of that is not known" in alone.notes[1]


def test_a_trace_is_kept_as_csv_and_has_nothing_personal(tmp_path):
    text = "".join(combined(second, f" {second}00", client=second) for second in range(1, 9))
    last = common(9, ' "-" "b" 5', target="/a.php?q=1").replace("5 ", "- ")
    trace, file = read(text + last, "combined %D"), tmp_path / "trace.csv"
    trace.to_csv(file)
    again = Trace.from_csv(file)
    assert (again.begin, again.notes) == (trace.begin, trace.notes)
    for name in ("start", "seconds", "size", "client", "kept", "connection"):
        theirs, ours = (list(getattr(one, name)) for one in (trace, again))
        assert ours == pytest.approx(theirs, abs=1e-6), name
    assert trace.size[-1] == 0 and trace.timed
    written = file.read_text()
    assert not any(word in written for word in ("10.0.0", "Agent/1", ".php"))
    for bad, says in ((written.encode() + b"1,2,x\n", r"trace.csv, line \d+: is not a request: '1,2,x"),
                      (b"\xff\0", "is not a trace")):  # fmt: skip
        file.write_bytes(bad)
        refused(TraceError, says, Trace.from_csv, file)
    refused(TraceError, "sorted", Trace, start=[2, 1])
    refused(TraceError, "has 2 entries", Trace, start=[1], size=[1, 2])


FORMAT = "%{usec}t %D %B %X %k %{remote}p"
GOOD = "0.0,2 0.5,1,0.25 close\n"


def test_a_plan_has_a_line_for_each_connection(tmp_path):
    how = {"connection": [7, 3, 7, 3], "kept": [1, 1, -1, 0]}
    trace = Trace([0, 2, 2, 4], [0.1, 0.1, 2, math.nan], [0, 1000, 1000, 1 << 40], **how)
    made = replay.plan(trace, 2.0, "/x.php", tmp_path / "plan")
    assert (tmp_path / "plan").read_text().splitlines() == [
        "0.000000,1,0.000000 1.000000,3,0.903000", "1.000000,2,0.000000 2.000000,4,0.903000 close",
    ]  # fmt: skip
    sizes = [line["expect_length"] for line in made["mix"]]
    assert sizes[:3] == pytest.approx([0, 1000, 1000], rel=0.05)
    assert made["mix"][3]["path"].startswith("/x.php?bytes=") and "&ms=0" in made["mix"][3]["path"]
    assert LoadProfile(**made).open_loop and made["duration"] == pytest.approx(2.1, abs=0.01)
    refused(ProfileError, "plan: only the open loop has it", LoadProfile, plan="/x", requests=1)
    says = "speed: the log takes 4,000 s at 1; a run at most 3,000"
    refused(ValueError, says, replay.plan, Trace([0, 4000]), 1.0, "/", tmp_path / "plan")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    log = tmp_path_factory.mktemp("logs") / "log"
    with mpmkit.launch("event", CustomLog=[(str(log), FORMAT)], KeepAliveTimeout=20) as server:
        yield server


def replayed(capsys, log: Path, form: str, against, *more: str) -> tuple[Any, str]:
    """The figures of the command, or its status if it fails; what it says on standard error."""
    argv = ["--log-format", form, "--against", getattr(against, "url", against), "--json", *more]
    status, out, err = printed_by(replay.main, [str(log), *argv], capsys)
    return status or json.loads(out), err


def test_the_script(samples):
    answers = {"bytes=300&ms=20": (200, 300), "": (200, 0), "bytes=x": 400, "ms=9999999": 400}
    for query, answer in answers.items():
        got = get(samples, f"/replay.py?{query}")
        assert answer in ((got.status, len(got.body)), got.status), query


def test_a_log_is_replayed(samples, tmp_path, capsys):
    stamps = range(1772359200, 1772359200 + 40)
    lines = [f"{s} {20_000 + 1000 * (s % 9)} {100 + s % 7}\n" for s in stamps]
    log, form = write(tmp_path / "log", "".join(lines)), "%{sec}t %D %b"
    found, _ = replayed(capsys, log, form, samples, "--speed", "20", "--scale", "2")
    assert (found["requests"], found["failures"]) == (80, 0) and found["mean_ms"] > 20
    assert 8 < found["qps"] < 48  # 40, unless the machine stands still
    for against, more, says in (
        (samples, ["--speed", "0"], "speed, scale: must be more than 0"), ("http://192.0.2.1", [], "loopback"),
        (samples, ["--paths"], "paths: the log has no request lines; %r is one"),
        (samples, ["--script", "/x", "--paths"], "not allowed with argument"),
    ):  # fmt: skip
        status, said = replayed(capsys, log, form, against, *more)
        assert status == 2 and says in said
    posts = write(tmp_path / "posts", "1772359200 5 POST / HTTP/1.1\n")
    said = replayed(capsys, posts, "%{sec}t %D %r", samples, "--paths")
    assert said[0] == 2 and "paths: no request of the log is a GET or HEAD" in said[1]


def written(file, connections) -> Trace:
    """A log of connections, each (start, pauses after its requests of 20 ms, whether it is closed)."""
    rows = []
    for port, (at, pauses, closed) in enumerate(connections):
        for k, pause in enumerate(pauses):
            closes = closed and k == len(pauses) - 1
            serial = max(0, k - closes)  # one that closes repeats the number of the one before it
            rows.append((at, f"{1e15 + 1e6 * at:.0f} 20000 100 {'+-'[closes]} {serial} {port}\n"))
            at += 0.02 + pause
    return Trace.read(write(file, "".join(line for _, line in sorted(rows))), log_format=FORMAT)


def ends(trace: Trace) -> Counter[tuple[int, bool]]:
    """How many connections had so many requests, and were closed after the last one or not."""
    kept: dict[int, list[int]] = {}
    for number, sign in zip(trace.connection, trace.kept, strict=True):
        kept.setdefault(number, []).append(sign)
    return Counter((len(signs), not signs[-1]) for signs in kept.values())


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_servers_log_has_the_connections_of_the_log(samples, tmp_path, capsys, processes):
    chance = random.Random(18)
    trace = written(tmp_path / "log", [
        (chance.uniform(0, 2), [chance.uniform(0.05, 0.4) for _ in range(1 + n % 5)], n % 3 == 0)
        for n in range(40)
    ])  # fmt: skip
    log = Path(samples.directives["CustomLog"][0][0])
    assert_quiet(samples)  # the lines of the tests before are written
    before = log.stat().st_size
    found, _ = replayed(capsys, tmp_path / "log", FORMAT, samples, "--processes", processes)
    figures = {"requests": 120, "failures": 0, "retries": 0, "reconnects": 0}
    assert {name: found[name] for name in figures} == figures
    assert ends(trace) == Counter((1 + n % 5, n % 3 == 0) for n in range(40))
    poll_until(lambda: log.read_bytes()[before:].count(b"\n") == 120)
    served = write(tmp_path / "server", log.read_bytes()[before:])
    assert ends(Trace.read(served, log_format=FORMAT)) == ends(trace)


def test_what_the_server_closed_earlier_is_counted_and_opened_anew(tmp_path, capsys):
    written(tmp_path / "log", [(0.1 * n, [2.7, 0.1, 0], True) for n in range(5)])
    with mpmkit.launch("worker", KeepAliveTimeout=2) as server:
        argv = [str(tmp_path / "log"), "--log-format", FORMAT, "--against", server.url]
        runs = (printed_by(replay.main, argv, capsys) for _ in range(9))
        said = "\n5 times the server closed a connection that the plan kept"
        status, _, err = next(run for run in runs if said in run[1])  # one without a standstill
    assert status == 0 and "15 requests on 5 connections" in err


def planned(server, file: Path, text: str | None, **more) -> mpmkit.LoadRun:
    if text is not None:
        file.write_text(text)
    mix = [{"path": f"/replay.py?bytes=1&ms={ms}", "expect_length": 1} for ms in (0, 600)]
    how = {"arrival": "constant", "rate": 1, "duration": 1, "keep_alive": True, "mix": mix}
    return mpmkit.run_load(server, profile=LoadProfile(plan=str(file), **how, **more))


def test_a_late_answer_moves_what_follows_it(samples, tmp_path):
    """The second request is due at 0.1 s, but 0.5 s after an answer that takes 0.6 s; none is late."""
    how = samples, tmp_path / "plan", "0.0,2 0.1,1,0.5 close\n"
    runs = (planned(*how, users=2) for _ in range(9))  # the machine may stand still in one
    run = next(run for run in runs if run.latency_ms(1) < 500)
    assert (run.requests, run.failures, run.connections) == (2, 0, 1) and 1.1 <= run.duration
    # What a run does not come to is unsent.
    lines = "0.0,2 0.1,1 0.2,1\n0.3,1 0.4,1\n"
    run = planned(samples, tmp_path / "plan", lines, users=1, time_limit=0.3)
    assert run.errors["unsent"] >= 2 and run.ended.startswith("time limit")


@pytest.mark.parametrize("text, says", [
    ("x,1\n", "line 1: must be SECONDS,LINE"), (GOOD * 3 + "0.5,1 0.6\n", r"line 4: must be .*'0.5,1 0.6"),
    (GOOD + "1,1,nan\n", "line 2: must be"), (GOOD + "\n" + GOOD, "line 2: must be"),
    (GOOD + "0.5,1 close", "line 2: must be"), ("0.5,1\n" + GOOD, "line 2: begins at 0 s, the one above it"),
    (GOOD + "1,1 2,3,0.5\n", "line 2: there is no line 3 of the mix"), ("é" + GOOD, "line 1: must be"),
    (None, "No such file"),
])  # fmt: skip
def test_a_bad_line_of_a_plan_is_named_before_anything_is_sent(samples, tmp_path, text, says):
    refused(ProfileError, f"plan: .*plan[,:] {says}", planned, samples, tmp_path / "plan", text)


def test_logged_paths_are_asked_again(tmp_path, capsys):
    """Of a server that has them: any status is good. What is no GET or HEAD of a path is left out."""
    requests = (
        "GET /a.txt HTTP/1.1", "HEAD /b.txt?q=1%20 HTTP/1.1", "GET /none HTTP/1.0", "POST /a HTTP/1.1", "-",
        r"GET /\xff HTTP/1.1", "OPTIONS * HTTP/1.0", "GET http://other/ HTTP/1.1",
    )  # fmt: skip
    lines = [
        f'10.0.0.{n % 5} - - [17/May/2015:10:05:{n // 8:02} +0000] "{line}" 200 5 20000\n'
        for n, line in enumerate(requests * 2)
    ]
    tree(tmp_path, {"log": "".join(lines), "a.txt": "x", "b.txt": "x"})
    log = tmp_path / "server_log"
    with mpmkit.launch("worker", document_root=tmp_path, CustomLog=[(str(log), "%r %s")]) as server:
        more = server, "--paths", "--speed", "4"
        found, said = replayed(capsys, tmp_path / "log", "common %D", *more)
        seen = Counter(logged(log, 6))
    assert "10 requests are no GET or HEAD of a path: they are not sent" in said
    assert (found["requests"], found["failures"]) == (6, 0)
    assert seen == {
        "GET /a.txt HTTP/1.1 200": 2, "HEAD /b.txt?q=1%20 HTTP/1.1 200": 2, "GET /none HTTP/1.1 404": 2,
    }  # fmt: skip
