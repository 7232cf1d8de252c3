"""`mpmkit advise`: what a log demands, what is proposed for it, and what it refuses to say."""

import contextlib
import gzip
import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from support.calls import printed_by, refused
from support.configured import checked as configured_by
from support.files import tree
from support.rows import trace
from support.waiting import all_gone, patience, poll_until

from mpmkit.config import checks, directives, keywords
from mpmkit.measure import advise_command, parallel, procfs, reference_servers
from mpmkit.measure.advise import Cost, advise, demand, grown
from mpmkit.measure.advise_command import block, configured, main, recorded_costs, running_cost
from mpmkit.measure.sizing import Line
from mpmkit.measure.trace import Trace

FLAT = Cost(Line(1000, 100, 90, 110, 5, 100), "counted by hand", None, True)


def day(number: int = 3000, span: float = 4000.0) -> Trace:
    """Connections of four requests over a bit more than an hour, with a burst of ten seconds in it."""
    chance, requests = random.Random(1), []
    for connection in range(number // 4):
        at = chance.uniform(0, span) if connection % 4 else span / 2 + chance.uniform(0, 10)
        for _ in range(4):
            long = chance.expovariate(5)
            requests.append((at, long, connection))
            at += long + chance.expovariate(1)
    return trace(*requests, kept=1)


def given(mpm: str, **more):
    return checks.check(mpm, keywords.from_keywords(mpm, **more))[0]


ALL = {mpm: given(mpm) for mpm in directives.MPMS}
PREFORK = {"prefork": ALL["prefork"]}


def test_demand_counted_by_hand():
    requests = trace((0.2, 1.0, 1), (0.5, 4.0, 2), (1.5, 0.1, 1), (1.5, 0.1, 3), kept=1)
    assert list(demand(requests, 0)) == [2, 3]
    assert list(demand(requests, 0, 3.0)) == [2, 4]
    # Kept for 5 s: connection 1 holds its worker from 0.2 on.
    assert list(demand(requests, 5)) == [2, 3]
    assert list(demand(trace((0.2, 0.1, 1), (4.1, 0.1, 2)), 0)) == [1, 0, 0, 0, 1]


def test_growth_copies_whole_connections():
    before = trace(*((10.0 * c + n, 0.5, c) for c in range(4) for n in range(3)), kept=1)
    for growth, connections in {1.5: 6, 2: 8, 0.5: 2, 1: 4}.items():
        after = grown(before, growth)
        assert len(after) == 3 * connections and len(set(after.connection)) == connections
        assert list(after.think_times()) == pytest.approx([0.5] * 2 * connections)
        assert after.span <= before.span + 1


@pytest.mark.parametrize("mpm", directives.MPMS)
def test_a_proposal_lets_hardly_anything_wait_and_httpd_takes_it_as_it_is(mpm):
    threads = {} if mpm == "prefork" else {"ThreadsPerChild": 5}
    tight = given(mpm, MaxRequestWorkers=25, **threads)
    advice = advise({mpm: tight}, day(), {mpm: FLAT}, writer=mpm)
    before, after = advice.cases
    assert (before.kind, after.kind) == ("given", "proposed")
    assert before.run.waited > 0.03 > 0.002 > after.run.waited and before.run.binds
    assert after.directives.ThreadsPerChild == tight.ThreadsPerChild
    workers = after.run.peak_processes * after.directives.ThreadsPerChild
    assert after.memory == pytest.approx([1000 + each * workers for each in (90, 100, 110)])
    assert "ran into the limit" in " ".join(advice.notes) or mpm == "event"
    # What is pasted means what was simulated, and httpd has nothing to correct in it.
    pasted, notes = configured_by(block(after), mpm, strict=True)
    assert not notes
    assert replace(after.directives, KeepAliveTimeout=pasted.KeepAliveTimeout) == pasted
    lines = block(after).splitlines()[1:-1]
    assert all(line.strip().startswith("#") for line in lines[::2])


def test_memory_limits_what_is_proposed():
    ram = 512 << 20  # half of it is kept back
    dear = Cost(Line(50_000, 5_000, 4_000, 6_000, 5, 100), "counted by hand")
    advice = advise(PREFORK, day(), {"prefork": dear}, ram=ram)
    proposed = advice.cases[1]
    assert proposed.directives.MaxRequestWorkers == (256 * 1024 - 50_000) // 6_000
    assert "256 MiB have room for no more" in proposed.reasons["MaxRequestWorkers"]
    assert proposed.memory[2] <= 256 * 1024 and "MaxRequestWorkers" in proposed.run.binds
    assert "more than 1%" in advice.verdict() and advice.room == 256 << 20


def test_verdict_compares_what_can_be_compared():
    both = {mpm: ALL[mpm] for mpm in ("prefork", "event")}
    costs = {"prefork": replace(FLAT, workers=Line(1000, 300, 290, 310, 5, 100)), "event": FLAT}
    assert "Under event" in advise(both, day(), costs).verdict()
    costs["event"] = replace(FLAT, measured=False)
    assert "does not decide" in advise(both, day(), costs).verdict()
    refused(ValueError, "growth: must be more than 0", advise, both, day(), costs, growth=-1)
    says = r"no request is left at growth 1e-05, of 3,000"
    refused(ValueError, says, advise, both, day(), costs, growth=1e-5)


def test_memory_is_that_of_the_second_in_which_it_is_most():
    """Kept connections and processes need not be most at the same time."""
    cost = replace(recorded_costs()["event"], kept=Line(0, 10_000, 10_000, 10_000, 5, 100))
    case = advise({"event": ALL["event"]}, day(400), {"event": cost}).cases[0]
    series, memory = case.run.series, case.memory_over_time()
    assert case.memory[1] == max(memory) and len(memory) == len(series["t"])
    assert case.memory[1] <= cost.at(case.run.peak_processes * 25, max(series["kept"]))[1]


def test_durations_and_starts_that_cannot_be():
    """Negative, as after the clock went back, infinite, of centuries: missing. A few are left out."""
    start, bad, costs = list(range(400)), (-3600.0, math.inf, 1e12, math.nan), {"prefork": FLAT}
    requests = Trace(start, [*bad, *[0.1] * 396])
    assert "3 durations are negative or longer than 100 days" in requests.notes[0]
    assert [s == s for s in requests.seconds[:5]] == [False] * 4 + [True]
    advice = advise(PREFORK, requests, costs)
    said = "4 requests have no duration and are left out"
    assert len(advice.trace) == 396 and said in " ".join(advice.notes)
    assert advice.cases[0].run.waited == 0
    assert json.dumps(advise_command.data(advice), allow_nan=False)
    few = Trace(start[:300], [*bad, *[0.1] * 296])
    refused(ValueError, r"4 of 300 .*add %D", advise, PREFORK, few, costs)
    for starts in ([-1.0, 2.0], [math.nan], [0.0, math.inf]):
        refused(ValueError, "from 0 on, sorted", Trace, starts)
    # One line of 1970, before the clock was set: a pass a second for 56 years would not end.
    says = "its requests are 20,486 days apart, 100 at most"
    for seconds in ([0.1, 0.1], None):
        refused(ValueError, says, advise, PREFORK, Trace([0, 1.77e9], seconds), costs)


@pytest.mark.parametrize("mpm", directives.MPMS)
def test_recorded_lines(mpm):
    """docs/WHICH-MPM.md has the slopes; page tables come on top, some 50 KiB for a process."""
    cost = recorded_costs()[mpm]
    low, middle, high = cost.at(100, 1000)
    assert low < middle < high and not cost.measured and (cost.kept is not None) == (mpm == "event")
    assert 200 < cost.workers.slope < 300 if mpm == "prefork" else 50 < cost.workers.slope < 100
    assert math.isnan(replace(cost, workers=Line(1, 2, -math.inf, math.inf, 2, 9)).at(5, 0)[0])


def test_processes_of_their_own_say_the_same():
    costs, shares = dict.fromkeys(ALL, FLAT), []
    how = {"calls": parallel.in_processes, "on_progress": lambda *now: shares.append(now)}
    alone, both = advise(ALL, day(400), costs), advise(ALL, day(400), costs, **how)
    for one, other in zip(alone.cases, both.cases, strict=True):
        assert block(one) == block(other) and one.memory == other.memory
        assert one.run.waits == other.run.waits and one.run.series == other.run.series
    assert shares[-1][0] == 1 and " as " in shares[-1][1]
    refused(ValueError, r"1 of 2 .*add %D", advise, ALL, Trace([0, 1], [1, math.nan]), costs, **how)

    def kill(*_: object) -> None:
        for pid in procfs.children(os.getpid()):
            if "measure.parallel" in procfs.text_of(f"/proc/{pid}/cmdline"):
                os.kill(pid, signal.SIGKILL)

    how["on_progress"] = kill
    refused(ChildProcessError, "ended with status -9", advise, ALL, day(4000), costs, **how)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_command(site, end):
    """Its processes simulate, when the command gets Ctrl-C, or is killed and can't end them."""
    code = "import sys; from mpmkit.measure import advise_command as one; one.PARALLEL = 0; sys.exit(one.main())"
    argv = ["--log", str(site / "log"), "--log-format", SHORT, "--growth", "100"]
    with subprocess.Popen([sys.executable, "-c", code, *argv]) as command:
        found = poll_until(lambda: procfs.children(command.pid), what="processes that simulate")
        command.send_signal(end)
        assert command.wait(patience()) == (130 if end == signal.SIGINT else -end)
        all_gone(found, "its processes")


SHORT = "%h %t %D %X %k"
CONF = f"""
LoadModule mpm_worker_module x.so
LoadModule third_party_module y.so
KeepAliveTimeout 3
<IfModule mpm_worker_module>
ThreadsPerChild 10
MaxRequestWorkers 20
</IfModule>
LogFormat "{SHORT}" short
CustomLog log short
"""


@pytest.fixture
def site(tmp_path):
    """An httpd.conf, and the log of a bit more than an hour."""
    requests, lines = day(400), []
    for start, seconds, connection in zip(
        requests.start, requests.seconds, requests.connection, strict=True
    ):
        at, client = time.gmtime(1772359200 + start), f"10.0.{connection // 200}.{connection % 200}"
        stamp = time.strftime("[%d/%b/%Y:%H:%M:%S +0000]", at)
        lines.append(f"{client} {stamp} {seconds * 1e6:.0f} + 0\n")
    return tree(tmp_path, {"log": "".join(lines), "httpd.conf": CONF})


def test_the_command(site, capsys, monkeypatch):
    argv = ["-f", str(site / "httpd.conf"), "--log", str(site / "log"), "--growth", "1.5"]
    page = site / "r.html"
    status, out, _ = printed_by(main, [*argv, "--memory", "4GiB", "--html", str(page)], capsys)
    assert status == 0 and out.count("<IfModule mpm_") == 3 and "Growth 1.5" in out
    assert "ran into the limit: all 20 workers" in out and "3.20 are for the server" in out
    html = page.read_text()
    assert html.count("<svg") == 12 and "MaxRequestWorkers" in html
    assert "http" not in html.replace("httpd", "")
    # What is wider than the window scrolls by keyboard; both colour schemes.
    assert html.count("tabindex='0'") == html.count("role='region' aria-label=") == 4
    assert "prefers-color-scheme:dark" in html and html.count("scope='row'") == 6
    status, out, _ = printed_by(main, [*argv, "--json"], capsys)
    found = json.loads(out)["cases"]
    cases = [(mpm, kind) for mpm in directives.MPMS for kind in ("given", "proposed")]
    assert status == 0 and [(case["mpm"], case["kind"]) for case in found] == cases
    case, given = found[2], found[2]["directives"]
    assert (given["MaxRequestWorkers"], given["KeepAliveTimeout"], case["peak_busy"]) == (20, 3, 20)
    assert case["waited"] > 0 and case["binds"]
    # Standard input, compressed
    packed = gzip.compress((site / "log").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(packed))))
    status, out, _ = printed_by(main, ["--log", "-", "--log-format", SHORT], capsys)
    assert status == 0 and out.count("<IfModule mpm_") == 3


def test_what_a_log_does_not_say_is_not_guessed(site, capsys):
    plain = '1.1.1.1 - - [01/Mar/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 5\n' * 30
    short = "".join(f"1.1.1.{n} [01/Mar/2026:10:00:0{n} +0000] 90000\n" for n in range(9))
    for text, form, status, says in (
        (plain, "common", 1, ("%D %X %k", "30 requests in the busiest second", "keep 3.0 workers busy")),
        (short, "%h %t %D", 0, ("covers 8 s", "Which MPM wrote the log is not known", "IfModule")),
    ):  # fmt: skip
        (site / "log").write_text(text)
        argv = ["--log", str(site / "log"), *["--log-format", form] * (form != "common")]
        found, out, _ = printed_by(main, argv, capsys)
        assert found == status and all(one in out for one in says), out
        assert ("IfModule" in out) is (status == 0)


@pytest.mark.parametrize("argv, says", [
    (["--log", "{}/nothing"], "nothing: cannot be read"),
    (["--log", "{}/log", "--log-format", SHORT, "--pid", "1"], "pid: give -f, too"),
    *((["--log", "{}/log", "-f", "{}/" + conf], says) for conf, says in (
        ("nothing.conf", "nothing.conf"), ("bad.conf", "bad.conf:1: .*httpd -t -f"),
        ("odd.conf", "odd.conf:1: KeepAliveTimeout takes a time"),
        ("typo.conf", "typo.conf:1: .*did you mean MaxRequestWorkers"))),
    *((["--log", "{}/log", "-f", "{}/httpd.conf", *more], says) for *more, says in (
        ("--pid", str(os.getpid()), "not httpd; the PidFile"), ("--pid", "99999999", "does not run"),
        ("--memory", "4 apples", "must be a size like 4GiB"), ("--growth", "nan", "growth: must be more than 0"),
        ("--status", "http://127.0.0.1:1", "http://127.0.0.1:1/.*refused"),
        ("--status", "http://me:p@127.0.0.1:1", "http://127.0.0.1:1/"))),
])  # fmt: skip
def test_errors_name_the_thing(site, capsys, argv, says):
    (site / "bad.conf").write_text("<IfModule mpm_worker_module>\n")
    (site / "odd.conf").write_text("KeepAliveTimeout -5\n")
    (site / "typo.conf").write_text("MaxRequestWorkerz 5\nSecRuleEngine On\n")
    status, _, err = printed_by(main, [word.format(site) for word in argv], capsys)
    assert status == 2 and re.search(f"mpmkit: .*{says}", err)


def test_status_page_of_another_mpm(site, server, mpm, capsys):
    argv = ["--log", str(site / "log"), "-f", str(site / "httpd.conf"), "--status", server.url]
    status, out, err = printed_by(main, argv, capsys)
    assert status == (0 if mpm == "worker" else 2)
    assert "ran into the limit" in out or f"runs {mpm}, but" in err


def test_a_conf_under_each_mpm(tmp_path):
    file = tmp_path / "httpd.conf"
    file.write_text("MaxClients 30\nMinSpareServers 3\nLoadModule mpm_prefork_module x.so\n")
    assert configured(str(file), None)[0] == "prefork"
    found = {mpm: configured(str(file), mpm)[1] for mpm in directives.MPMS}
    assert [d.MaxRequestWorkers for d in found.values()] == [30, 25, 25]  # of whole children
    assert found["prefork"].MinSpareServers == 3
    assert configured(None, None) == ("", None, [])


@pytest.mark.skipif(not shutil.which("apache2"), reason="the real httpd is not installed")
@pytest.mark.parametrize("mpm", directives.MPMS)
def test_memory_of_a_running_httpd(mpm, tmp_path):
    (tmp_path / "index.html").write_text("x")
    threads = 1 if mpm == "prefork" else 5
    more = {} if mpm == "prefork" else {"ThreadsPerChild": threads, "MaxRequestWorkers": 20}
    with reference_servers.Httpd(mpm, document_root=tmp_path, StartServers=3, **more) as httpd:

        def whole() -> Cost | None:
            """Once all three children are there, each with its threads."""
            with contextlib.suppress(ValueError):
                cost = running_cost(httpd.pid, threads, None)
                return cost if cost.workers.points == 3 else None
            return None

        cost = poll_until(whole, what="three children")
        low, middle, high = cost.at(cost.workers.most, 0)
        assert cost.measured and 500 < low <= middle <= high < 60_000
        says = f"child of httpd; give its parent, {httpd.pid}"
        refused(ValueError, says, running_cost, procfs.children(httpd.pid)[0], 1, None)
