"""The article's tables: verdicts as pure functions, the text, the way there with fake servers."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.experiments import Launches, printed_by, recorded_row
from support.waiting import poll_until

from benchmarks import python_servers  # noqa: F401  Python's servers are competitors, too
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS
from mpmkit.config.keywords import from_keywords
from mpmkit.load import runner
from mpmkit.measure import ceiling, competitors, published, qps, records
from mpmkit.measure.comparison import order, verdict
from mpmkit.measure.experiment import ExperimentError
from mpmkit.measure.published import DIRECTIVES, PAGES, Page
from mpmkit.measure.qps import main, qps_table
from mpmkit.measure.qps_plan import SCALES, QpsScale, plan
from mpmkit.measure.qps_table import QpsTable
from mpmkit.measure.reference_servers import NotInstalled, ServerFailed

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = {"prefork": 9556.0, "worker": 11038.0, "event": 10224.0}
QUICK = settings(deadline=None)  # the machine may be busy with servers

# -- what is published ---------------------------------------------------------------------------


def test_the_published_figures_are_the_articles(tmp_path):
    script = {"prefork": 6094.0, "worker": 7411.0, "event": 7089.0}
    assert published.figures() == {"static": PUBLISHED, "script": script}
    path = tmp_path / "qps.csv"
    path.write_text("kind,mpm,qps\nstatic,prefork,fast\n")
    with pytest.raises(records.RecordError, match="is not a published figure"):
        published.figures(path)


def test_the_articles_directives_are_accepted_by_our_servers():
    for mpm in MPMS:
        effective, notes = check(mpm, from_keywords(mpm, **DIRECTIVES[mpm]))
        assert not notes
        for name, value in DIRECTIVES[mpm].items():
            assert getattr(effective, name) == value


# -- verdicts ------------------------------------------------------------------------------------

FIGURES = st.lists(st.floats(1, 1e6), min_size=1, max_size=6)
ROUNDS = st.fixed_dictionaries(dict.fromkeys(MPMS, FIGURES))


@QUICK
@given(ROUNDS)
def test_a_verdict_says_what_the_medians_and_the_ratios_say(rounds):
    judged = verdict("static", rounds, PUBLISHED)
    medians = {mpm: statistics.median(values) for mpm, values in rounds.items()}
    assert judged.published_order == ("worker", "event", "prefork")
    assert sorted(judged.measured_order) == sorted(MPMS)
    ordered = [medians[mpm] for mpm in judged.measured_order]
    assert ordered == sorted(ordered, reverse=True)
    assert judged.reproduced == (medians["worker"] > medians["event"] > medians["prefork"])
    for pair in judged.pairs:
        each = [a / b for a, b in zip(rounds[pair.faster], rounds[pair.slower], strict=False)]
        assert pair.measured == pytest.approx(statistics.geometric_mean(each))
        assert pair.published == PUBLISHED[pair.faster] / PUBLISHED[pair.slower] > 1
        outside = pair.ratio.low > 1 or pair.ratio.high < 1
        assert pair.larger_than_noise is (None if len(each) < 2 else outside)


@QUICK
@given(ROUNDS, st.sampled_from([0.125, 0.5, 4.0]))
def test_a_faster_machine_changes_no_verdict(rounds, factor):
    scaled = {mpm: [value * factor for value in values] for mpm, values in rounds.items()}
    one, other = (verdict("static", each, PUBLISHED) for each in (rounds, scaled))
    assert one.measured_order == other.measured_order


@pytest.mark.parametrize(
    "rounds",
    [{}, {"event": [1.0]}, {"event": [1.0], "prefork": [0.0]}, {"event": [1.0], "other": [2.0]}],
)
def test_no_verdict_without_two_that_can_be_compared(rounds):
    assert verdict("static", rounds, PUBLISHED) is None


def test_what_a_verdict_says():
    clear = {"worker": [9, 10, 9], "event": [7, 8, 7], "prefork": [5, 6, 5]}
    judged = verdict("static", clear, PUBLISHED)
    assert judged.reproduced and judged.clear
    assert str(judged) == (
        "the published order came out: worker > event > prefork; "
        "each difference is larger than the noise"
    )
    pair = "worker / event: published 1.08, measured 1.27 (1.22 to 1.33, larger than the noise)"
    assert pair in map(str, judged.pairs)
    noisy = verdict("static", {"worker": [5, 10], "event": [7, 12], "prefork": [5, 6]}, PUBLISHED)
    assert not noisy.reproduced and noisy.clear is False
    assert "did not come out: event > worker > prefork; not every difference" in str(noisy)
    once = verdict("static", {"worker": [9], "event": [8]}, PUBLISHED)
    assert once.reproduced and once.clear is None and "does not show the noise" in str(once)
    assert "(one round: the noise is not known)" in str(once.pairs[0])
    # A tie does not count as agreement.
    assert not verdict("static", {mpm: [5.0, 5.0] for mpm in MPMS}, PUBLISHED).reproduced


@QUICK
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1e6)))
def test_order_is_from_the_fastest_down(figures):
    names = order(figures)
    assert sorted(names) == sorted(figures)
    assert [figures[name] for name in names] == sorted(figures.values(), reverse=True)


# -- the table -----------------------------------------------------------------------------------


def row(mpm: str, kind: str, number: int, rate: float, **changes):
    answered = round(rate * 2)
    load = {"users": 200, "keep_alive": False, "generator_bound": False, "generator_starved": False}
    counts = {"requests": answered, "failures": 0, "errors": "{}", "duration_s": 2.0}
    where = {"mpm": mpm, "kind": kind, "round": number, "server": "mpmkit", "script": None}
    figures = {"qps": answered / 2, "server_cpu_us": None, "steal": 0.0}
    return recorded_row("qps", **{**load, **counts, **where, **figures, **changes})


RATES = {"prefork": (100, 90, 110), "worker": (150, 160, 140), "event": (120, 125, 115)}


def full_table(**changes) -> QpsTable:
    rows = [
        row(mpm, kind, number + 1, rate, **changes)
        for kind in PAGES
        for mpm, values in RATES.items()
        for number, rate in enumerate(values)
    ]
    return QpsTable(rows, published.figures(), planned=len(rows))


def test_the_table_as_text():
    static, script, small = full_table().text().split("\n\n")
    lines = static.splitlines()
    assert lines[0] == "requests/s, static page of 45 bytes"
    assert lines[2].split() == "MPM published median 75% interval published measured".split()
    assert lines[3].split() == "prefork 9,556 100 90 to 110 1.00 1.00".split()
    assert lines[4].split() == "worker 11,038 150 140 to 160 1.16 1.50".split()
    assert lines[5].split() == "event 10,224 120 115 to 125 1.07 1.20".split()
    assert lines[6].startswith("the published order came out: worker > event > prefork; ")
    assert script.splitlines()[3].split()[1] == "6,094"
    assert "200 clients, a new connection per request" in small and "3 rounds" in small
    assert "measured on" in small and "NOT COMPLETE" not in small
    assert "drift: not known, that takes 5 rounds" in small


def test_what_a_reader_must_know_is_in_the_table():
    table = full_table(generator_bound=True)
    failed = {"requests": 203, "failures": 3, "errors": '{"timeout": 3}'}
    table.records[0] = row("prefork", "static", 1, 100, **failed)
    table.planned = 40
    text = table.text()
    assert "3 of 603 requests FAILED; generator-bound in 2 of 3 rounds" in text
    assert "generator-bound in 3 of 3 rounds" in text
    assert "NOT COMPLETE: 18 of 40 cells were measured" in text
    steal = full_table(steal=0.07).text()
    assert "the host took away up to 7% of the processor time" in steal and "µs CPU" not in steal
    starved = full_table(generator_starved=True).text()
    assert "machine-bound in 3 of 3 rounds" in starved and "shares with the servers" in starved
    known = full_table(server_cpu_us=41.53).text()
    assert known.splitlines()[3].split()[-1] == "41.5"
    assert known.count("µs CPU") == 3, "two headings and what it means"
    slower = [row("event", "static", n, 200 - 20 * n) for n in range(1, 7)]
    table = QpsTable(slower, published.figures())
    assert table.drift.found and "DRIFT: the machine changed" in table.text()
    assert "95% interval" in table.text()


def test_an_empty_and_a_one_sided_table():
    empty = QpsTable([], published.figures())
    assert empty.text() == "no row was finished" and empty.order_reproduced is None
    alone = QpsTable([row("event", "static", 1, 10)], published.figures())
    assert "one MPM alone has no order" in alone.text()
    assert alone.order_reproduced is None and alone.verdict("static") is None


def test_the_table_as_frames():
    table = full_table()
    assert len(table.rows) == len(table.to_frame()) == 18 and "qps" in table.rows.columns
    summary = table.summary()
    worker = summary[(summary.kind == "static") & (summary.mpm == "worker")].iloc[0]
    assert (worker["median"], worker["min"], worker["max"], worker["ratio"]) == (150, 140, 160, 1.5)
    assert table.order_reproduced is True and "reproduced" in repr(table)


def test_httpd_stands_in_a_table_of_its_own():
    table = full_table()
    table.records += [row(mpm, "static", 1, 50, server="httpd") for mpm in MPMS]
    assert table.servers == ["mpmkit", "httpd"] and table.order_reproduced is True
    assert "requests/s, static page of 45 bytes, httpd" in table.text()


def test_rows_of_a_way_to_run_the_script_stand_in_a_group_of_their_own():
    table = full_table()
    for mpm, rate in zip(MPMS, (100, 200, 300), strict=True):
        table.records.append(row(mpm, "script", 1, rate, script="cgi"))
    table.records.append(row("prefork", "script", 1, 900, script="mod_php", server="httpd"))
    assert table.kinds == ["static", "script", "cgi", "mod_php"]
    assert table.rounds("cgi") == {"prefork": [100.0], "worker": [200.0], "event": [300.0]}
    assert table.rounds("script")["prefork"] == [100.0, 90.0, 110.0]
    text = table.text()
    assert "requests/s, the same by CGI, a process a request\n" in text
    assert "requests/s, the same in PHP, in process, httpd\n" in text
    assert table.verdict("cgi").published_order == table.verdict("script").published_order
    assert set(table.summary()["kind"]) == {"static", "script", "cgi", "mod_php"}


# -- the plan ------------------------------------------------------------------------------------


def test_sizes_come_from_the_scale_and_the_environment(monkeypatch):
    monkeypatch.delenv("MPMKIT_SCALE", raising=False)
    assert plan().scale == "demo"
    monkeypatch.setenv("MPMKIT_SCALE", "full")
    full = plan()
    assert (full.scale, full.rounds) == ("full", 5)
    profile = full.profiles["static"]
    assert (profile.requests, profile.duration, profile.users) == (200_000, None, 200)
    assert (profile.path, profile.expect_length) == ("/index.html", 45)
    script = full.profiles["script"]
    assert (script.path, script.expect_length) == ("/hello.py", 11)
    by_hand = plan(requests=7, rounds=2, users=3)
    assert (by_hand.scale, by_hand.rounds) == ("custom", 2)
    assert by_hand.profiles["static"].duration is None


def test_the_demo_fits_into_three_minutes():
    """Each cell's bound in time, with a second to start the generator and two to start a server."""
    demo = SCALES["demo"]
    cells = demo.rounds * len(MPMS)
    assert cells * (2 + 2 * (1 + demo.warmup + demo.seconds)) <= 180


def test_cells_are_interleaved():
    first = ("prefork", "worker", "event")
    rounds = [first, ("worker", "event", "prefork"), ("event", "prefork", "worker")]
    found = [(cell.round, cell.mpm) for cell in plan(scale="smoke", rounds=3).cells()]
    assert found == [(n, mpm) for n, mpms in enumerate(rounds, 1) for mpm in mpms]
    todo = plan(scale="smoke", mpms=("event",), beside=("httpd", "uvicorn"), rounds=2)
    both, static = ("static", "script"), ("static",)
    ours, httpd, uvicorn = (
        ("mpmkit", "event", both),
        ("httpd", "event", static),
        ("uvicorn", "", both),
    )
    found = [(cell.server, cell.mpm, cell.kinds) for cell in todo.cells()]
    assert found == [ours, httpd, uvicorn, httpd, uvicorn, ours]
    assert {cell.stands_for for cell in todo.cells()} == {"event"}
    scripts = plan(("script",), ("event",), scale="smoke", rounds=1, beside=("all",))
    names = ["mpmkit", "gunicorn-gthread", "uvicorn", "waitress"]
    assert [cell.server for cell in scripts.cells()] == names


def test_the_script_table_has_a_group_for_each_way():
    where = {"kinds": ("script",), "mpms": ("prefork", "event"), "beside": ("httpd",)}
    todo = plan(**where, scripts=("all",), rounds=1)
    assert todo.kinds == ("script", "cgi", "php-fpm", "mod_php")
    found = {}
    for cell in todo.cells():
        found.setdefault((cell.server, cell.mpm), []).append(cell.kinds)
    # Programs and php-fpm have servers of their own, so that they disturb no other page.
    assert found == {
        ("mpmkit", "prefork"): [("script",), ("cgi",), ("php-fpm",)],
        ("mpmkit", "event"): [("script",), ("cgi",), ("php-fpm",)],
        ("httpd", "prefork"): [("cgi",), ("php-fpm",), ("mod_php",)],
        ("httpd", "event"): [("cgi",), ("php-fpm",)],
    }
    assert todo.profiles["cgi"].path == "/hello.cgi"
    assert plan(kinds=PAGES, scripts=("cgi",), rounds=1).kinds == ("static", "cgi")


def test_bad_arguments_are_refused_all_at_once(monkeypatch):
    monkeypatch.setenv("MPMKIT_SCALE", "huge")
    with pytest.raises(ValueError) as error:
        plan(kinds=("php",), mpms=("mpm_event",), scripts=("ruby",), rounds=0)
    parts = [part.split(":")[0] for part in str(error.value).split("; ")]
    assert parts == ["kind", "mpm", "script", "MPMKIT_SCALE", "rounds"]
    with pytest.raises(ValueError, match=r"target_precision: .*; max_rounds: an interval takes 6"):
        plan(scale="smoke", target_precision=0.6, max_rounds=5)
    with pytest.raises(ValueError, match=r"users: .*; processes: "):
        plan(users=0, processes=0, scale="smoke")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--rounds 0", "rounds: must be a whole number"),
        ("--rounds x", "argument --rounds: invalid int value"),
        ("--kind php", "argument --kind: invalid choice"),
        ("--mpm winnt,event", "mpm: 'winnt' is not one of prefork, worker, event"),
        ("--mpm ,", "mpm: give at least one"),
        ("--users 0", "users: must be a whole number"),
        ("--requests -1", "requests: must be a whole number"),
        ("--scale big", "scale: 'big' is not one of smoke, demo, full"),
        ("--beside iis", "beside: 'iis' is not one of httpd"),
        ("--processes 300", "processes: must be a whole number"),
        ("--target-precision tight", "must be a share like 5%"),
        ("--target-precision 90%", "target_precision: must be 0.001 to 0.5"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_command_lines_are_one_line_and_exit_2(capsys, argv, said, monkeypatch):
    monkeypatch.delenv("MPMKIT_SCALE", raising=False)
    status, out, err = printed_by(main, argv.split(), capsys)
    assert status == 2 and out == ""
    assert err.startswith("mpmkit: ") and said in err and len(err.splitlines()) == 1


# -- measuring, with servers that are not ours ---------------------------------------------------


@pytest.fixture
def launched(monkeypatch):
    """Launches of fake servers; the pages become those of the fake server."""
    static = Page("static", "/ok", 45, "static page of 45 bytes")
    pages = {"static": static, "script": Page("script", "/keeps/3", 45, "script")}
    monkeypatch.setattr(published, "PAGES", pages)
    monkeypatch.setitem(SCALES, "smoke", QpsScale(60, 2.0, 0.05, 2))
    return Launches()


def small(launched, **how):
    """A table of one MPM and page at the smoke scale."""
    shape = {"mpms": ("event",), "kinds": ("static",), "users": 2, "scale": "smoke"}
    return qps_table(**{**shape, "launch": launched, **how})


def test_a_whole_measurement(launched, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    argv = f"--scale smoke --users 4 --kind both --mpm event,prefork --out {path}".split()
    status, out, err = printed_by(lambda argv: main(argv, launch=launched), argv, capsys)
    assert status == 0, err
    rows = records.read(path)
    # Round 1 begins with prefork, round 2 with event; a server measures both pages and is stopped.
    order = [(1, "prefork"), (1, "event"), (2, "event"), (2, "prefork")]
    assert [(r["round"], r["mpm"], r["kind"]) for r in rows] == [
        (*turn, kind) for turn in order for kind in ("static", "script")
    ]
    assert all(r["requests"] == 60 and r["failures"] == 0 and r["users"] == 4 for r in rows)
    assert len({r["run_id"] for r in rows}) == 1 and launched.stopped == 4
    assert launched.made[0] == ("prefork", {**DIRECTIVES["prefork"], "KeepAlive": False})
    assert "MaxRequestWorkers=250" in rows[0]["directives"]
    assert "requests/s, static page of 45 bytes" in out and f"rows in {path}" in out
    assert err.count("requests/s") == 8 and "[8/8] round 2, mpmkit prefork, script" in err


def test_keep_alive_and_progress(launched):
    told = []
    how = {"kinds": ("script",), "keep_alive": True, "rounds": 1, "requests": 30}
    table = small(launched, **how, on_progress=told.append)
    assert launched.made[0][1]["KeepAlive"] is True
    (only,) = table.records
    assert only["keep_alive"] and only["scale"] == "custom" and only["reconnects"] > 0
    assert told[0].share == 0 and told[-1].share == 1 and told[-1].row == only


def test_rows_near_the_generators_ceiling_are_bound_by_it(launched, monkeypatch):
    monkeypatch.setattr(ceiling, "ceiling", lambda profile: 1.0)
    table = small(launched, rounds=1, requests=30, ceiling=True)
    assert table.records[0]["generator_bound"]
    assert "the generator's ceiling: 1 requests/s" in table.text()

    def missing(profile):
        raise NotInstalled("nginx", "install it")

    monkeypatch.setattr(ceiling, "ceiling", missing)
    table = small(launched, rounds=1, requests=30, ceiling=True)
    assert table.ceiling is None
    assert "without the generator's ceiling: nginx is not installed" in table.left_out[0]


def test_rounds_go_on_until_the_target_or_the_last_one(launched, monkeypatch):
    rates = iter([100, 60, 140, 100, 100, 100, 100, 100, 100])

    def measured(server, *, profile, on_progress, ceiling):
        rate = next(rates)
        return runner.LoadRun(server.url, profile, rate, Counter(), 1.0)

    monkeypatch.setattr(qps, "run_load", measured)
    table = small(launched, rounds=2, target_precision=0.05)
    # Six rounds are the least. One far below and one far above: from 9 on the interval leaves out one
    # round at either end.
    assert len(table.records) == table.planned == 9
    assert "target precision 5.0%: reached, the widest is mpmkit event, static" in table.text()
    rates = iter([50, 150] * 10)
    table = small(launched, rounds=2, target_precision=0.05, max_rounds=7)
    assert len(table.records) == 7
    assert "target precision 5.0%: NOT REACHED after 7 rounds" in table.text()


def test_a_server_that_dies_ends_the_run_and_keeps_the_rows(launched, tmp_path):
    path = tmp_path / "rows.csv"
    launched.dies = lambda number: number == 2
    with pytest.raises(ExperimentError) as error:
        small(launched, mpms=MPMS, rounds=1, out=path)
    text = str(error.value)
    assert "mpmkit worker, static: " in text and "refused" in text
    assert "the server (process " in text and "is gone" in text
    assert "its error log ends: [mpm:emerg] AH99999: the roof is on fire" in text
    assert [r["mpm"] for r in records.read(path)] == ["prefork"]
    assert error.value.table.measured == 1


def test_what_fails_before_the_load_is_one_line(capsys, tmp_path, monkeypatch):
    def launch(mpm, **directives):
        raise RuntimeError("port 80:\n permission denied")

    argv = ["--scale", "smoke", "--out", str(tmp_path / "rows.csv")]
    assert main(argv, launch=launch) == 1
    assert capsys.readouterr().err == "mpmkit: port 80: permission denied\n"
    assert main(["--scale", "smoke", "--out", str(tmp_path / "no" / "x.csv")], launch=launch) == 1
    assert "there is no folder" in capsys.readouterr().err
    monkeypatch.setattr(competitors, "php_fpm_missing", lambda: "without php-fpm: apt install it")
    assert main(["--kind", "script", "--script", "php-fpm", *argv]) == 2
    assert capsys.readouterr().err == "mpmkit: without php-fpm: apt install it\n"


def test_failed_requests_are_kept_and_shown(launched, monkeypatch):
    pages = [
        Page("static", path, length, "page") for path, length in (("/every/3", 45), ("/ok", 44))
    ]
    monkeypatch.setattr(published, "PAGES", {"static": pages[0]})
    table = small(launched, rounds=1, requests=30)
    assert table.records[0]["failures"] > 0 and "requests FAILED" in table.text()
    monkeypatch.setattr(published, "PAGES", {"static": pages[1]})
    with pytest.raises(ExperimentError, match=r"no good answer; 0 of 30 .* well \(30 length\)"):
        small(launched, rounds=1, requests=30)


def competitors_are(monkeypatch, **starts):
    """The competitors become these: name -> how to start one."""
    forms = {name: ((name, ("event",), ("static",), start),) for name, start in starts.items()}
    monkeypatch.setattr(competitors, "names", lambda: tuple(starts))
    monkeypatch.setattr(competitors, "FORMS", forms)


def test_competitors_in_the_same_rounds(launched, monkeypatch, tmp_path):
    competitors_are(monkeypatch, uvicorn=launched)
    path = tmp_path / "rows.csv"
    table = small(launched, rounds=2, beside=("all",), out=path)
    assert [(r["server"], r["mpm"], r["round"]) for r in records.read(path)] == [
        ("mpmkit", "event", 1),
        ("uvicorn", None, 1),
        ("uvicorn", None, 2),
        ("mpmkit", "event", 2),
    ]
    assert launched.made[0] == launched.made[1]  # both with event's directives
    (line,) = table.others().to_dict("records")
    assert (line["server"], line["stands_for"], line["rounds"]) == ("uvicorn", "event", 2)
    mine = statistics.median(table.rounds("static")["event"])
    assert line["ratio"] == pytest.approx(line["median"] / mine)
    assert "static page of 45 bytes, other servers\nserver " in table.text()
    assert table.left_out == [] and "uvicorn" in repr(table.servers)


def test_a_competitor_that_is_missing_or_fails_is_named(launched, monkeypatch):
    def missing(mpm, **directives):
        raise NotInstalled("the foo server", "apt install foo")

    starts = []

    def fails_later(mpm, **directives):
        starts.append(mpm)  # once to see whether it is there, then in each round
        if len(starts) > 2:
            raise ServerFailed("bar ended with status 3: address in use")
        return launched(mpm, **directives)

    competitors_are(monkeypatch, foo=missing, bar=fails_later, baz=Launches(lambda number: True))
    said = []
    table = small(launched, rounds=3, beside=("foo", "bar", "baz"), say=said.append)
    assert said == table.left_out and len(said) == 3
    assert said[0] == "without foo: the foo server is not installed; apt install foo"
    assert said[1].startswith("without baz from round 1 on (0 rows of it are kept): baz, static: ")
    assert "is gone" in said[1] and said[2] == (
        "without bar from round 2 on (1 rows of it are kept): "
        "bar ended with status 3: address in use"
    )
    ours = [("mpmkit", 1), ("bar", 1), ("mpmkit", 2), ("mpmkit", 3)]
    assert [(r["server"], r["round"]) for r in table.records] == ours
    assert table.planned == 4 and "NOT COMPLETE" not in table.text()
    assert all(sentence in table.text() for sentence in said)


CTRL_C = """
import contextlib, sys
sys.path[:0] = [{root!r}, {tests!r}]
from misbehaving import Misbehaving
from mpmkit.measure import published, qps, qps_plan
published.PAGES = {{"static": published.Page("static", "/ok", 45, "static page")}}
@contextlib.contextmanager
def launch(mpm, **directives):
    with Misbehaving() as server:
        print(mpm, server.url, file=sys.stderr, flush=True)
        yield server
qps_plan.SCALES["smoke"] = qps_plan.QpsScale(10_000_000, 2.0, 0.1, 1)
sys.exit(qps.main(["--kind", "static", "--scale", "smoke", "--users", "4", "--out", sys.argv[1]],
                  launch=launch))
"""


def test_ctrl_c_ends_at_once_and_keeps_finished_rows(tmp_path):
    path = tmp_path / "rows.csv"
    program = CTRL_C.format(root=str(ROOT), tests=str(ROOT / "tests"))
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        # worker's server is there: prefork's row is finished, worker's load begins
        line = next(line for line in process.stderr if line.startswith("worker"))
        counts = line.split()[1] + "/-/counts"
        poll_until(lambda: b"/ok" in urllib.request.urlopen(counts, timeout=5).read(), "a load", 20)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        took = time.monotonic() - asked
    assert process.returncode == 130 and "mpmkit: interrupted" in err
    assert took < 5  # a fraction of a second, unless the machine stands still
    assert [r["mpm"] for r in records.read(path)] == ["prefork"]
    assert "NOT COMPLETE: 1 of 3 cells were measured" in out


# -- our servers ---------------------------------------------------------------------------------


def test_the_real_servers_answer_every_request(tmp_path):
    path = tmp_path / "rows.csv"
    table = qps_table(users=20, requests=300, rounds=1, scale="smoke", out=path)
    rows = records.read(path)
    assert [(r["mpm"], r["kind"]) for r in rows] == [(m, k) for m in MPMS for k in PAGES]
    assert all((r["requests"], r["failures"]) == (300, 0) for r in rows)
    assert table.order_reproduced is not None and len(table.text().split("\n\n")) == 3


@pytest.mark.rival
@pytest.mark.slow
def test_every_way_answers_every_request(tmp_path):
    """Ours and the real httpd's, as far as they are here: one small cell each under event."""
    how = {"requests": 60, "users": 4, "rounds": 1, "scripts": ("all",), "beside": ("httpd",)}
    table = qps_table(("script",), ("event",), **how, out=tmp_path / "rows.csv")
    rows = {(r["server"], r["script"]): r for r in table.records}
    assert {("mpmkit", "wsgi"), ("mpmkit", "cgi")} <= set(rows)
    left = " ".join(table.left_out)
    assert ("mpmkit", "php-fpm") in rows or "php-fpm" in left
    assert ("httpd", "cgi") in rows or "httpd" in left
    assert all(r["failures"] == 0 and r["requests"] == 60 for r in rows.values())
