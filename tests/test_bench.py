"""The bench: its clients, turns and verdicts; what one request costs: CPU time, system calls, pages of memory;
`mpmkit bench`: parts in order, how long they take, recorded only when whole."""

import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
from support.calls import printed_by, refused
from support.loads import run
from support.rows import ARTICLE, BENCH, GENERATORS, MEMORY
from support.servers import MPMS

from benchmarks import article, bench, cost, generators, rates, run_all, touched_pages, versions
from benchmarks.baseline import KEPT_AT_MOST, Baseline
from benchmarks.clients import begun_each_second, parse_ab, parse_wrk, run_client
from benchmarks.ratios import comparisons
from benchmarks.works import BASELINES, FREE, HOLDING, WORKS, BenchError, pages, runnable
from mpmkit.measure import command, competitors, procfs, records, reference_servers
from mpmkit.measure.cpus import OtherWork
from mpmkit.measure.experiment import OURS

AB = """\
Complete requests:      2000
Failed requests:        20
   (Connect: 0, Receive: 0, Length: 20, Exceptions: 0)
Non-2xx responses:      5
Keep-Alive requests:    1998
Requests per second:    4000.00 [#/sec] (mean)
"""
PERCENTILES = "Percentage served,Time in ms\n0,0.1\n50,1.250\n98,3.0\n99,4.500\n100,9.0\n"
WRK = """\
Running 1s test
MPMKIT 3000 1500000 1 7 1 4 0
MPMKIT-P 50 640
MPMKIT-P 99 2500
MPMKIT-P 100 9000
"""


def test_what_ab_wrk_strace_and_smaps_say_is_read():
    ab, wrk = parse_ab(AB, PERCENTILES, cpu=0.475), parse_wrk(WRK, cpu=0.3)
    assert astuple(ab) == pytest.approx((1980, 20, 0.5, 3960.0, 1.25, 4.5, 0.95))
    assert astuple(wrk) == pytest.approx((2996, 6, 1.5, 2996 / 1.5, 0.64, 2.5, 0.2))
    assert ab.client_bound and not wrk.client_bound
    # The requests of each second, from ab's record
    record = "starttime\tseconds\tctime\nx\t100\t1\nx\t102\t1\nx\t100\t1\n"
    assert begun_each_second(record) == [2, 0, 1]
    # The calls in strace's summary, whose fifth column may be empty
    calls = "66.0 0.942 57 16518 5217 futex\n4.9 0.070 8 8492 write\n100.0 1.4 23 25010 5217 total"
    assert cost.calls_of(calls) == {"futex": 16518, "write": 8492}
    # Pages that were touched in mappings that are only read, and in writable ones: data
    parts = (("r-xp", 2, "/usr/bin/python3"), ("rw-p", 33, ""))
    smaps = "0-1 {} 0 fe:00 0 {}\nReferenced: {} kB\n"
    kb = touched_pages.PAGE_KB
    text = "".join(smaps.format(may, name, pages * kb) for may, pages, name in parts)
    assert touched_pages.referenced(text) == (2, 33)


def test_a_client_that_never_ends_is_ended_and_one_that_fails_is_quoted():
    refused(BenchError, "unable to connect", parse_wrk, "unable to connect to 127.0.0.1:1", 0)
    refused(BenchError, r"ended with 2: ls: .*nowhere", run_client, ["ls", "/nowhere"], timeout=5)
    refused(BenchError, "longer than", run_client, ["sleep", "31.4159"], timeout=0.1)
    assert not subprocess.run(["pgrep", "-f", "sleep 31.4159"], capture_output=True).stdout


def test_every_server_begins_as_often_as_the_others():
    servers, both = [OURS, "httpd", "httpd-php", "nginx"], [HOLDING, FREE]
    first = [OURS, "httpd", "nginx"]
    for names, work, number, order in (
        (servers, "new", 1, first), (servers, "new", 2, ["httpd", "nginx", OURS]),
        (servers, "new", 3, ["nginx", OURS, "httpd"]), (servers, "new", 4, first),
        (servers, "script-new", 2, ["httpd-php", OURS]),
        # Event with idle connections is compared with itself; a baseline has one page.
        ([OURS, "httpd", *both], "idle-5000", 1, both), ([OURS, "httpd", *both], "new", 1, [OURS, "httpd"]),
        ([OURS, *BASELINES], "distinct", 1, [OURS, *BASELINES]), ([OURS, *BASELINES], "file-100k", 1, [OURS]),
    ):  # fmt: skip
        assert bench.order(names, WORKS[work], number) == order
    assert runnable([WORKS["new"], WORKS["idle-5000"]], print, "worker") == [WORKS["new"]]
    # Repeated and distinct heads always go together.
    for given, works in {"repeated": ["repeated", "distinct"], "distinct new": ["distinct", "new", "repeated"],
                         "all": [*WORKS]}.items():  # fmt: skip
        assert bench.arguments(["--work", *given.split()]).work == works


def rows(mine, theirs, work="new", failures=0, bound=False, names=(OURS, "httpd"), cpu=(None,) * 2):
    for number, pair in enumerate(zip(mine, theirs, strict=True), 1):
        for ours, (server, qps, used) in enumerate(zip(names, pair, cpu, strict=True)):
            row = {**BENCH, "work": work, "round": number, "server": server, "qps": qps}
            row |= {"p99_ms": 3.0 if ours else 2.0, "failures": 0 if ours else failures}
            yield row | {"client_bound": bound and not ours, "server_cpu_us": used}


@pytest.mark.parametrize(("mine", "theirs", "how", "verdict"), [
    # The machine was twice as fast in round 2; the servers' ratio was as before.
    ([130, 325, 140, 135, 138], [100, 250, 100, 100, 100], {}, "reached, p99 no worse"),
    ([90] * 5, [100] * 5, {}, "missed by 25%, p99 no worse"),
    ([90, 160, 70, 110, 100], [100] * 5, {}, "undecided, p99 no worse"),  # the interval holds the target
    ([90] * 5, [100] * 5, {"bound": True}, "open, p99 no worse"), ([90] * 2, [100] * 2, {}, "2 rounds"),
    ([90] * 5, [100] * 5, {"work": "unheard-of"}, ""),
    ([95] * 5, [100] * 5, {"work": "idle-5000", "names": (HOLDING, FREE)}, "reached"),
])  # fmt: skip
def test_verdicts(mine, theirs, how, verdict):
    made = list(rows(mine, theirs, **how))
    (found,) = comparisons(made)
    ratios = sorted(a / b for a, b in zip(mine, theirs, strict=True))
    assert found.median == pytest.approx(statistics.median(ratios)) and found.verdict == verdict
    # Rounds that were interrupted do not count.
    assert comparisons(made[:-1])[0].ratios == found.ratios[:-1]


def test_the_table_says_what_must_be_known_of_a_ratio():
    how = {"failures": 3, "bound": True, "cpu": (23.0, 50.0)}
    made = list(rows([90] * 5, [100] * 5, **how))
    table = bench.BenchTable(made, planned=11)
    head, line, *more = table.text().splitlines()
    assert head.split()[:4] == ["work", "MPM", "versus", "ratio"] and "µs CPU" in head
    said = ("0.90", "0.90–0.90", "open", "≥ 1.2", "15 failed", "2.0 | 3.0", "23.0 | 50.0")
    assert all(words in line for words in said), line
    rest = "".join(more)
    assert line.endswith("client at its limit in 5 of 5 rounds") and "times httpd" not in rest
    assert "NOT COMPLETE: 10 of 11 turns were measured" in rest
    assert table.result(made[0]).endswith("/s  client at its limit")
    # Baselines are compared with httpd.
    made += [{**row, "server": "floor", "qps": 150} for row in made if row["server"] == OURS]
    assert "\nfloor, event, new: 1.50 times httpd (1.50–1.50); mpmkit: 0.90\n" in table.text()
    assert bench.BenchTable([]).text() == "no turn was finished"


@pytest.mark.usefixtures("httpd")
@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_distinct_requests_are_distinct_to_the_server():
    log = 'LogFormat "%U%q %{X-Request}i" heads\nCustomLog heads heads\n'
    with pages() as root, reference_servers.Httpd("event", document_root=root, extra=log) as server:
        url = f"{server.url}/index.html"
        different = bench.run_wrk(url, seconds=1, clients=4, distinct="a1")
        same = bench.run_wrk(url, seconds=1, clients=4)
        log = (server.root / "heads").read_text().splitlines()
    # Distinguished by their text: the last ones of the first run may be logged after its end.
    lines = [line for line in log if line.startswith("/index.html?n=a1") and " a1" in line]
    assert different.requests > 100 and len(lines) == len(set(lines)) >= different.requests
    assert same.requests > 100 and set(log) - set(lines) == {"/index.html -"}


@pytest.mark.parametrize(("mpm", "bare"), [("prefork", True), ("worker", False)])
def test_a_baseline_answers_the_page_and_ends_with_all_its_processes(mpm, bare):
    how = {"bare": bare, "MaxRequestWorkers": 6, "ThreadsPerChild": 3}
    with pages() as root:
        assert all((root / work.path[1:]).stat().st_mode & 0o004 for work in WORKS.values())
        page = (root / "index.html").read_bytes()
        with Baseline(mpm, document_root=root, **how) as server:
            assert len(procfs.members(server.pid)) == 1 + {"prefork": 6, "worker": 2}[mpm]
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            for left in range(KEPT_AT_MOST, -1, -1):
                client.request("GET", "/index.html")
                reply = client.getresponse()
                assert (reply.status, reply.read()) == (200, page)
                assert reply.will_close is (left == 0)
            client.close()
            assert bench.ask(server.url, "/index.html", keep_alive=False) == page
            assert (server.root / "access.log").exists() is not bare
            pid = server.pid
        assert not procfs.members(pid)
        refused(ValueError, "no baseline of 'event'", Baseline, "event", document_root=root)


def test_the_articles_conclusion_is_taken_apart_by_what_was_measured():
    """(rounds' requests/s of worker, event, prefork; where ab was the limit) -> the verdict on each step."""
    fast = {"worker": (9000.0, 9100.0), "event": (8000.0, 8100.0), "prefork": (8000.0, 8101.0)}
    made = [
        {**ARTICLE, "server": server, "mpm": mpm, "round": number, "qps": qps,
         "client_bound": server == "mpmkit" and mpm == "worker", "curve": f"[1, {number}000]"}
        for server in ("httpd", "mpmkit") for mpm, turns in fast.items()
        for number, qps in enumerate(turns, 1)
    ]  # fmt: skip
    text = article.ArticleTable([*made, {**made[0], "qps": 1.0, "round": 3, "steal": 0.06}]).text()
    theirs, ours = text[: text.index("mpmkit, cold")], text[text.index("mpmkit, cold") :]
    for said, part in (
        (r"\n1 of 13 turns are left out: the host took more than 5%", text), (r"  prefork 1 1,500\n", text),
        (r"worker > event by requests/s: 1.12 \(.*\), came out", theirs),
        (r"event > prefork by requests/s: 1.00 .* not decidable, the interval", theirs),
        (r"  worker > event by requests/s: came out \(cold\)\n", theirs),
        (r"  event > prefork by requests/s: not decidable \(cold\)\n", theirs),
        (r"event / prefork by CPU time of a request: 1.000", theirs), (r"ab was the limit with worker", ours),
    ):  # fmt: skip
        assert re.search(said, part), said
    assert "came out" not in ours


HERE, FIGURE = Path(__file__).parent.parent, r"([\d,.]+)"
# A tool and its arguments; what it prints, with its figures; what they have to be.
TOOLS = [
    (bench, "--mpm event --work new keepalive --rounds 1 --requests 400",
     rf"new +event +httpd +{FIGURE}(?s:.*)\nkeepalive +event +httpd +{FIGURE} .* 1 round",
     lambda *ratios: min(ratios) > 0),
    (article, "--scale smoke --requests 200", "a cold start|are left out", lambda: True),
    (cost, "--mpm worker --also floor --requests 200 --rounds 2 --work new",
     rf"mpmkit +worker +new .*\(.*\)(?:.* accept4 {FIGURE})?.*\nfloor .*\(",
     lambda *accepts: all(0.9 < one < 1.5 for one in accepts)),  # none where strace may not look
    (cost, "--mpm worker --also floor --requests 200 --rounds 2 --clients 2",
     r"mpmkit +worker +keepalive 2 .*\(.*\nfloor .*\(", lambda: True),
    (touched_pages, "--also floor",
     rf"server +program +data +together +KiB\nmpmkit +\d+ +{FIGURE} +{FIGURE} .*\nfloor +\d+ +{FIGURE} ",
     lambda data, both, least: data > least > 20 and 50 < both < 5_000),
    (versions, f"{HERE} {sys.executable}@{HERE} --mpm event --work kept,new --pairs 10 --turn 10",
     rf"event +kept .*\nevent +new +{FIGURE} +\S+ +{FIGURE} +{FIGURE} to {FIGURE}",
     lambda old, ratio, low, high: low <= ratio <= high and old > 0),
    (generators, "--url {url}/ok --users 2 --seconds 1 --rounds 1 --work new",
     rf"\nmpmkit \(Locust\) +{FIGURE}(?s:.*)\nFastHttpUser +{FIGURE}", lambda *qps: min(qps) > 0),
]  # fmt: skip


@pytest.mark.rival
@pytest.mark.parametrize(
    "tool, line, prints, good", TOOLS, ids=[tool.__name__ for tool, *_ in TOOLS]
)
def test_a_tool_at_its_smallest_size(
    tool, line, prints, good, bad, tmp_path, capsys, monkeypatch, request
):
    if tool in (bench, article, cost) and not shutil.which("ab"):
        pytest.skip("needs ab: apt install apache2-utils")
    if tool in (bench, article):
        request.getfixturevalue("httpd")
    worker = [one for one in competitors.of(["httpd"]) if one.mpm == "worker"]
    monkeypatch.setattr(competitors, "of", lambda names: worker)
    out, before = tmp_path / "rows.csv", os.sched_getaffinity(0)
    keeps = ["--out", str(out)] if tool in (bench, article, generators) else []
    argv = [*line.format(url=bad.url).split(), *keeps]
    status, printed, said = printed_by(tool.main, argv, capsys)
    assert status == 0 and "FAILED" not in printed and os.sched_getaffinity(0) == before, said
    found = re.search(prints, printed)
    assert found, printed
    assert good(*(float(one.replace(",", "")) for one in found.groups() if one)), printed
    for row in records.read(out) if keeps else []:
        assert row["qps"] > 0 and row["scale"] in ("custom", "demo")
        assert tool is not article or sum(json.loads(row["curve"])) > 0
    if tool is article:
        made = {(row["server"], row["mpm"], row["work"]) for row in records.read(out)}
        servers = [(OURS, mpm) for mpm in MPMS] + [("httpd", "worker")]
        assert made == {(*one, work) for one in servers for work in article.TURNS}


@pytest.fixture
def place(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "recorded"
    folder.mkdir(parents=True)
    monkeypatch.setattr(records, "recorded_folder", lambda: folder)
    monkeypatch.setattr(OtherWork, "share", lambda self: 0.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPMKIT_SCALE", raising=False)
    return folder


def parts(monkeypatch, **runs):
    """The parts become these: name -> what `run` does."""
    takes = dict.fromkeys(command.SCALE_NAMES, 61.0)
    made = {name: run_all.Part(name, f"the {name}", takes, run) for name, run in runs.items()}
    monkeypatch.setattr(run_all, "PARTS", made)


def writes(row, asked=None, error=None):
    def run(scale, also, path):
        records.RecordFile(path, row["table"]).append(row)
        if error:
            raise error
        if asked is not None:
            asked.append((scale, also))
        return 0

    return run


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_parts_run_in_order_and_whole_ones_are_recorded(place, monkeypatch, capsys):
    asked = []
    parts(monkeypatch, generators=writes(GENERATORS, asked), memory=writes(MEMORY, asked))
    assert run_all.main(["--record", "--scale", "smoke"]) == 0
    out, err = capsys.readouterr()
    assert out.split("== ")[1:] == ["the generators\n\n\n", "the memory\n\n"]
    assert "scale smoke, about 2 min: generators 61 s, memory 61 s" in err
    assert names(place) == ["generators-smoke.csv", "memory-smoke.csv"]
    assert records.recorded("memory")["held"].to_list() == [MEMORY["held"]]
    # Competitors and the scale are handed on.
    for scale, also in (("demo", "none"), ("full", "httpd,nginx")):
        monkeypatch.setenv("MPMKIT_SCALE", scale)
        run_all.main(["--also", also, "--only", "memory"])
    every = ("smoke", tuple(competitors.FORMS))
    assert asked == [every, every, ("demo", ()), ("full", ("httpd", "nginx"))]


def test_what_is_not_whole_replaces_no_record_and_keeps_its_rows(place, monkeypatch, capsys):
    (place / "memory-demo.csv").write_text("as it was")
    full = writes(GENERATORS, error=records.RecordError("disk full"))
    stopped = writes(MEMORY, error=KeyboardInterrupt())
    parts(monkeypatch, generators=full, memory=stopped, bench=writes(GENERATORS))
    assert run_all.main(["--record"]) == 130
    out, err = capsys.readouterr()
    assert "mpmkit: disk full" in err and "== the memory" in out and "== the bench" not in out
    assert err.count("not whole, so not recorded") == 2
    runs = place.parent / "runs"
    assert [name.split("-")[0] for name in names(runs)] == ["generators", "memory"]
    assert all(len(records.read(file)) == 1 for file in runs.iterdir())
    # Whole, but not alone
    monkeypatch.setattr(OtherWork, "share", lambda self: 0.06)
    assert run_all.main(["--record", "--only", "generators", "bench"]) == 1, "the worst of both"
    assert "other work took 6% of this machine meanwhile" in capsys.readouterr().err
    assert names(place) == ["memory-demo.csv"]
    assert (place / "memory-demo.csv").read_text() == "as it was"


def test_python_peers_are_judged_by_the_fastest_of_them_within_the_rounds():
    def row(server, mpm, number, qps, kind="static", bound=False, cpu=None):
        who = {"server": server, "mpm": mpm, "round": number, "kind": kind, "script": None}
        return {**who, "qps": qps, "generator_bound": bound, "server_cpu_us": cpu}

    made = [
        row("mpmkit", "event", 1, 300.0), row("mpmkit", "event", 2, 150.0), row("nginx", None, 1, 900.0),
        *(row("gunicorn-sync", None, number, 60.0) for number in (1, 2)),
        *(row("uvicorn", None, number, 300.0 - 100 * number) for number in (1, 2)),
        row("mpmkit", "event", 1, 5.0, "script"),
    ]  # fmt: skip
    said = "static, event: 1.50 times the fastest Python peer, uvicorn "
    assert run_all.peer_verdicts(made) == [said + "(95%: 1.50 to 1.50; target 2, missed by 25%)"]
    assert run_all.peer_verdicts(made[:2]) == []
    made[1]["qps"] = 300.0
    (line,) = run_all.peer_verdicts(made)
    assert line.endswith("; target 2, reached)")
    # What the generator could not ask for, ours could not show.
    made = [row("mpmkit", "event", 1, 300.0, bound=True, cpu=20.0)]
    made.append(row("uvicorn", None, 1, 200.0, cpu=50.0))
    limit = "open: the generator was at its limit in 1 of 1 rounds)"
    by_cpu = "; 2.50 times by CPU time (20.0 and 50.0 µs a request)"
    assert run_all.peer_verdicts(made) == [f"{said}(one round; target 2, {limit}{by_cpu}"]


def test_the_table_of_generators_has_medians_and_ratios():
    def sample(qps: float, cpu: float, failures: int = 0) -> bench.ClientReport:
        return bench.ClientReport(0, failures, 1.0, qps, 1.0, 2.0, cpu)

    ours = [sample(9000, 0.9), sample(11000, 1.0), sample(10000, 0.8, 2)]
    others = {"FastHttpUser": [sample(1000, 0.5)], "ab": [sample(20000, 1.0)]}
    line = generators.table("work", {"mpmkit (Locust)": ours, **others}).splitlines()[2]
    figures = "10,000 9,000 to 11,000 90% 11,000 10.00 0.50 5.50 2 FAILED"
    assert line.split()[2:] == figures.split()


def test_the_command_is_there():
    done = run("mpmkit bench --estimate --scale smoke")
    assert done.returncode == 0 and "scale smoke, about" in done.stderr


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_the_same_work_is_measured_by_its_own_time(monkeypatch, capsys):
    given = os.sched_getaffinity(0)
    few = {"RATES": (1_000,), "PAUSES": (0.0, 1.0), "SECONDS": 0.1, "COPIES": 5, "ROUNDS": 1}
    for name, value in few.items():
        monkeypatch.setattr(rates, name, value)
    assert rates.main() == (len(given) < 2) and os.sched_getaffinity(0) == given
    if len(given) > 1:
        found = re.findall(r"(?m)^([\d,]+) +([\d.]+) ", capsys.readouterr().out)
        assert [key for key, _ in found] == ["1,000", "0", "1"]
        assert all(0 < float(us) < 1_000 for _, us in found)
