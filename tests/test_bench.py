"""The bench: what it reads from the clients, how it turns, what it makes of the rounds."""

from __future__ import annotations

import contextlib
import http.client
import shutil
from pathlib import Path

import pytest

from benchmarks import bench
from benchmarks.baseline import KEPT_AT_MOST, Floor
from benchmarks.bench import (
    FLOORS,
    FREE,
    HOLDING,
    OURS,
    WORKS,
    BenchError,
    cells,
    floor_lines,
    order,
    runnable,
    table,
)
from mpmkit.measure import records
from mpmkit.measure.procfs import members
from mpmkit.measure.reference_servers import Httpd, NotInstalled

AB = """\
Concurrency Level:      64
Time taken for tests:   0.500 seconds
Complete requests:      2000
Failed requests:        20
   (Connect: 0, Receive: 0, Length: 20, Exceptions: 0)
Non-2xx responses:      5
Keep-Alive requests:    1998
Requests per second:    4000.00 [#/sec] (mean)
"""
PERCENTILES = "Percentage served,Time in ms\n0,0.1\n50,1.250\n98,3.0\n99,4.500\n100,9.0\n"


def test_ab_counts_only_what_was_answered_well():
    sample = bench.parse_ab(AB, PERCENTILES, cpu=0.475)
    assert (sample.requests, sample.failures) == (1980, 20)
    assert sample.qps == pytest.approx(3960)
    assert (sample.p50_ms, sample.p99_ms) == (1.25, 4.5)
    assert sample.client_cpu == pytest.approx(0.95) and sample.client_bound


def test_ab_without_a_report_is_an_error():
    with pytest.raises(BenchError, match="did not report"):
        bench.parse_ab("apr_socket_recv: Connection refused (111)", PERCENTILES, 0)


def test_wrk_is_read_from_our_line():
    sample = bench.parse_wrk(
        "Running 1s test\nMPMKIT 3000 1500000 1 7 1 4 0\nMPMKIT-P 50 640\n"
        "MPMKIT-P 99 2500\nMPMKIT-P 100 9000\n",
        cpu=0.3,
    )
    assert (sample.requests, sample.failures, sample.seconds) == (2996, 6, 1.5)
    assert sample.qps == pytest.approx(2996 / 1.5)
    assert (sample.p50_ms, sample.p99_ms, sample.client_cpu) == (0.64, 2.5, pytest.approx(0.2))
    assert not sample.client_bound


def test_wrk_without_our_line_is_an_error():
    with pytest.raises(BenchError, match="unable to connect"):
        bench.parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n", 0)


def test_every_server_begins_as_often_as_the_others():
    servers = [OURS, "httpd", "httpd-php", "nginx"]
    turns = [order(servers, WORKS["new"], number) for number in (1, 2, 3, 4)]
    assert turns == [
        [OURS, "httpd", "nginx"],
        ["httpd", "nginx", OURS],
        ["nginx", OURS, "httpd"],
        [OURS, "httpd", "nginx"],
    ]
    assert order(servers, WORKS["script-new"], 2) == ["httpd-php", OURS]


def rows(mine, theirs, *, work="new", failures=0, bound=False):
    for number, (one, other) in enumerate(zip(mine, theirs, strict=True), 1):
        for server, qps in ((OURS, one), ("httpd", other)):
            yield {
                "mpm": "event",
                "work": work,
                "round": number,
                "server": server,
                "qps": qps,
                "p99_ms": 2.0 if server == OURS else 3.0,
                "failures": failures if server == OURS else 0,
                "client_bound": bound and server == OURS,
            }


def test_the_median_of_ratios_is_not_the_ratio_of_medians():
    # The machine was twice as fast in round 2; the servers stood to each other as before.
    (cell,) = cells(rows([130, 325, 140, 135, 138], [100, 250, 100, 100, 100]))
    assert cell.median == pytest.approx(1.35)
    assert (cell.lowest, cell.highest) == (pytest.approx(1.3), pytest.approx(1.4))
    assert cell.target == 1.2 and cell.verdict == "reached, p99 no worse"
    assert (cell.ours_qps, cell.rival_qps) == (138, 100)


def test_a_missed_target_says_by_how_much():
    (cell,) = cells(rows([90] * 5, [100] * 5))
    assert cell.verdict == "missed by 25%, p99 no worse"


def test_a_ratio_that_the_client_limited_is_no_miss():
    (cell,) = cells(rows([90] * 5, [100] * 5, bound=True))
    assert cell.verdict == "open, p99 no worse"


def test_the_processor_time_stands_beside_the_ratio():
    known = [
        {**row, "server_cpu_us": 20.0 + row["round"] if row["server"] == OURS else 50.0}
        for row in rows([130] * 5, [100] * 5)
    ]
    (cell,) = cells(known)
    assert (cell.ours_cpu_us, cell.rival_cpu_us) == (23.0, 50.0)
    head, line = table([cell]).splitlines()
    assert "µs CPU" in head and "23.0 | 50.0" in line


def test_event_with_idle_connections_is_compared_with_itself():
    both = [HOLDING, FREE]
    assert order([OURS, "httpd", *both], WORKS["idle-5000"], 1) == both
    assert order([OURS, "httpd", *both], WORKS["new"], 1) == [OURS, "httpd"]
    found = [
        {**row, "server": {OURS: HOLDING, "httpd": FREE}[row["server"]]}
        for row in rows([95] * 5, [100] * 5, work="idle-5000")
    ]
    (cell,) = cells(found)
    assert (cell.rival, cell.target, cell.verdict) == (FREE, 0.9, "reached")
    assert not any(
        work.held for work in runnable([WORKS["new"], WORKS["idle-5000"]], print, "worker")
    )


def test_few_rounds_make_no_verdict():
    (cell,) = cells(rows([90] * 2, [100] * 2))
    assert cell.verdict == "2 rounds"


def test_works_without_a_target_have_no_verdict():
    (cell,) = cells(rows([90] * 5, [100] * 5, work="unheard-of"))
    assert cell.target is None and cell.verdict == ""


def test_rounds_that_were_interrupted_do_not_count():
    whole = [
        row
        for row in rows([90, 95, 10], [100, 100, 100])
        if not (row["round"] == 3 and row["server"] == "httpd")
    ]
    (cell,) = cells(whole)
    assert (cell.rounds, cell.lowest) == (2, pytest.approx(0.9))


def test_the_table_says_what_must_be_known_beside_a_ratio():
    text = table(cells(rows([90] * 5, [100] * 5, failures=3, bound=True)))
    head, line = text.splitlines()
    assert head.split()[:4] == ["work", "MPM", "beside", "ratio"]
    assert "0.90" in line and "0.90–0.90" in line and "open" in line and "≥ 1.2" in line
    assert "15 failed" in line and "2.0 | 3.0" in line
    assert "client at its limit in 5 of 5 rounds" in line


def test_repeated_and_distinct_heads_always_go_together(capsys):
    assert bench.arguments(["--work", "repeated"]).work == ["repeated", "distinct"]
    assert bench.arguments(["--work", "distinct", "new"]).work == ["distinct", "new", "repeated"]
    assert set(bench.arguments(["--work", "all"]).work) == set(WORKS)


def test_directives_come_from_the_command_line(capsys):
    chosen = bench.arguments(["-c", "KeepAliveTimeout 5", "-c", "MaxKeepAliveRequests  0"])
    assert chosen.directives == {"KeepAliveTimeout": "5", "MaxKeepAliveRequests": "0"}
    with pytest.raises(SystemExit):
        bench.arguments(["-c", "KeepAlive"])
    assert "write a directive and its value" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rounds", "0"],
        ["--requests", "1"],
        ["--seconds", "0"],
        ["--mpm", "threads"],
        ["--work", "lunch"],
    ],
)
def test_senseless_sizes_are_refused(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.arguments(wrong)
    assert ended.value.code == 2


def test_an_unknown_scale_is_named(monkeypatch, capsys):
    monkeypatch.setenv("MPMKIT_SCALE", "huge")
    with pytest.raises(SystemExit):
        bench.arguments([])
    assert "choose smoke, demo, full" in capsys.readouterr().err


def test_the_pages_are_what_the_works_ask_for():
    with bench.pages() as root:
        assert (root / "index.html").stat().st_size == 45
        assert (root / "100k.txt").stat().st_size == 100_000
        assert (root / "10m.txt").stat().st_size == 10_000_000
        assert all((root / work.path[1:]).exists() for work in WORKS.values())
        assert root.stat().st_mode & 0o005 == 0o005


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_distinct_requests_are_distinct_to_the_server():
    with bench.pages() as root:
        try:
            server = Httpd(
                "event",
                document_root=root,
                extra='LogFormat "%U%q %{X-Request}i" heads\nCustomLog heads heads\n',
            )
        except NotInstalled as missing:
            pytest.skip(str(missing))
        with server:
            url = f"{server.url}/index.html"
            different = bench.run_wrk(url, seconds=1, clients=4, distinct="a1")
            same = bench.run_wrk(url, seconds=1, clients=4)
            log = (server.root / "heads").read_text().splitlines()
    # Told apart by what they say: the last ones of the first run may be logged after its end.
    lines = [line for line in log if line.startswith("/index.html?n=a1") and " a1" in line]
    assert different.requests > 100 and len(lines) == len(set(lines)) >= different.requests
    assert same.requests > 100 and set(log) - set(lines) == {"/index.html -"}


# -- the floor ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpm", ["prefork", "worker"])
@pytest.mark.parametrize("bare", FLOORS.values())
def test_a_floor_answers_the_page_and_ends_with_all_its_processes(mpm, bare):
    with bench.pages() as root:
        page = (root / "index.html").read_bytes()
        with Floor(
            mpm, document_root=root, bare=bare, MaxRequestWorkers=6, ThreadsPerChild=3
        ) as floor:
            assert len(members(floor.pid)) == 1 + {"prefork": 6, "worker": 2}[mpm]
            client = http.client.HTTPConnection("127.0.0.1", floor.port, timeout=10)
            for left in range(KEPT_AT_MOST, -1, -1):
                client.request("GET", "/index.html")
                reply = client.getresponse()
                assert (reply.status, reply.read()) == (200, page)
                assert reply.will_close is (left == 0)
            client.close()
            assert bench.ask(floor.url, "/index.html", keep_alive=False).body == page
            assert (floor.root / "access.log").exists() is not bare
            pid = floor.pid
        assert not members(pid)


def test_a_floor_of_event_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no floor of 'event'"):
        Floor("event", document_root=tmp_path)


def test_a_floor_takes_part_in_its_page_only():
    servers = [OURS, "httpd", *FLOORS]
    assert order(servers, WORKS["distinct"], 1) == servers
    assert order(servers, WORKS["file-100k"], 1) == [OURS, "httpd"]
    found = list(rows([90] * 5, [100] * 5))
    found += [{**row, "server": "floor", "qps": 150} for row in found if row["server"] == OURS]
    assert floor_lines(found) == ["floor, event, new: 1.50 times httpd (1.50–1.50); mpmkit: 0.90"]
    assert floor_lines(list(rows([1], [1]))) == []


@pytest.mark.rival
@pytest.mark.skipif(not shutil.which("ab"), reason="ab is not installed")
def test_a_whole_bench_at_the_smallest_size(tmp_path, capsys):
    with bench.pages() as root:
        try:
            Httpd("event", document_root=root)
        except NotInstalled as missing:
            pytest.skip(str(missing))
    out = tmp_path / "rows.csv"
    status = bench.main(
        [
            "--mpm",
            "event",
            "--work",
            "new",
            "keepalive",
            "--rounds",
            "1",
            "--requests",
            "400",
            "--out",
            str(out),
        ]
    )
    printed = capsys.readouterr()
    assert status == 0, printed.err
    written = records.read(out)
    assert {(row["work"], row["server"]) for row in written} >= {
        (work, server) for work in ("new", "keepalive") for server in (OURS, "httpd")
    }
    assert all(float(row["qps"]) > 0 for row in written)
    assert "1 round" in printed.out and "event" in printed.out


def test_what_was_measured_survives_ctrl_c(tmp_path, monkeypatch, capsys):
    def interrupted(mpm, works, *, on_row, **rest):
        for place, row in enumerate(rows([90.0], [100.0]), 1):
            on_row(
                {
                    **row,
                    "place": place,
                    "version": "",
                    "requests": 9,
                    "seconds": 0.1,
                    "p50_ms": 1.0,
                    "client_cpu": 0.5,
                    "server_cpu_us": None,
                }
            )
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "measure", interrupted)
    out = tmp_path / "rows.csv"
    status = bench.main(["--mpm", "event", "--out", str(out)])
    assert status == 130
    assert [row["server"] for row in records.read(out)] == [OURS, "httpd"]
    assert "0.90" in capsys.readouterr().out


def test_a_client_that_never_ends_is_ended():
    with pytest.raises(BenchError, match="longer than"):
        bench.run_client(["sleep", "31.4159"], timeout=0.1)
    assert not any(b"31.4159" in file.read_bytes() for file in command_lines())


def test_a_client_that_fails_is_quoted():
    with pytest.raises(BenchError, match=r"ended with 2: ls: .*nowhere"):
        bench.run_client(["ls", "/nowhere"], timeout=5)


def command_lines():
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            file.read_bytes()
            yield file
