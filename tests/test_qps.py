"""The article's tables: verdicts as pure functions, the text, the way there with fake servers."""

from __future__ import annotations

import math
import os
import re
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
from mpmkit.measure import competitors, published, records
from mpmkit.measure.comparison import Limits, verdict
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

FIGURES = st.lists(st.floats(1, 1e6), min_size=1, max_size=6).map(
    lambda made: dict(enumerate(made))
)
ROUNDS = st.fixed_dictionaries(dict.fromkeys(MPMS, FIGURES))
SERVERS, GENERATOR, MACHINE = Limits(9, 0, 0), Limits(9, 3, 0), Limits(9, 4, 5)


@QUICK
@given(ROUNDS, st.sampled_from([SERVERS, GENERATOR, MACHINE]))
def test_a_verdict_says_what_the_ratios_within_the_rounds_say(rounds, limits):
    judged = verdict("static", rounds, PUBLISHED, limits)
    assert judged.published_order == ("worker", "event", "prefork")
    for pair in judged.pairs:
        one, other = rounds[pair.faster], rounds[pair.slower]
        each = [one[n] / other[n] for n in one.keys() & other.keys()]
        assert pair.ratio.value == pytest.approx(statistics.geometric_mean(each))
        assert pair.published == PUBLISHED[pair.faster] / PUBLISHED[pair.slower] > 1
        sides = {True: pair.ratio.low > 1, False: pair.ratio.high < 1}
        assert sides.get(pair.came_out, not any(sides.values()))
    answers = {pair.came_out for pair in judged.pairs}
    decided = False if False in answers else None if None in answers else True
    assert judged.came_out is (decided if limits is SERVERS else None)


@pytest.mark.parametrize(
    "rounds",
    [
        {},
        {"event": {1: 1.0}},
        {"event": {1: 1.0}, "prefork": {1: 0.0}},
        {"event": {1: 1.0}, "prefork": {2: 1.0}},
        {"event": {1: 1.0}, "other": {1: 2.0}},
    ],
)
def test_no_verdict_without_two_that_can_be_compared(rounds):
    assert verdict("static", rounds, PUBLISHED) is None


CLEAR = {"worker": [9, 10, 9], "event": [7, 8, 7], "prefork": [5, 6, 5]}
ORDER = "the published order (worker > event > prefork)"


@pytest.mark.parametrize(
    ("rounds", "limits", "said"),
    [
        (CLEAR, SERVERS, f"{ORDER} came out"),
        ({**CLEAR, "prefork": [8, 9, 8.1]}, SERVERS, f"{ORDER} did not come out"),
        (
            {**CLEAR, "prefork": [7, 8, 7.1]},
            SERVERS,
            f"{ORDER}: not decidable, the 95% interval of event / prefork holds 1",
        ),
        (
            {mpm: values[:1] for mpm, values in CLEAR.items()},
            SERVERS,
            f"{ORDER}: not decidable, one round does not show the noise",
        ),
        (CLEAR, GENERATOR, f"{ORDER}: not decidable, the generator was the limit in 3 of 9 cells"),
        (
            CLEAR,
            MACHINE,
            f"{ORDER}: not decidable, the generator was the limit in 4 of 9 cells, "
            "the machine was the limit in 5 of 9 cells",
        ),
    ],
)
def test_what_a_verdict_says(rounds, limits, said):
    judged = verdict(
        "static", {m: dict(enumerate(v)) for m, v in rounds.items()}, PUBLISHED, limits
    )
    assert str(judged) == said
    if rounds is CLEAR:
        pair = "worker / event: published 1.08, measured 1.27 (1.22 to 1.33)"
        assert str(judged.pairs[0]) == pair


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
    static, script, small = full_table(server_cpu_us=41.53).text().split("\n\n")
    lines = static.splitlines()
    assert lines[0] == "requests/s, static page of 45 bytes"
    assert (
        lines[2].split()
        == "MPM published median all rounds published measured µs CPU limit".split()
    )
    assert lines[3].split() == "prefork 9,556 100 90 to 110 1.00 1.00 41.5".split()
    assert lines[4].split() == "worker 11,038 150 140 to 160 1.16 1.50 41.5".split()
    assert lines[5].split() == "event 10,224 120 115 to 125 1.07 1.20 41.5".split()
    assert f"{ORDER}: not decidable, the 95% interval of event / prefork" in lines[6]
    pairs = [
        line for line in lines if line.startswith("  worker / event: published 1.08, measured 1.25")
    ]
    assert len(pairs) == 1 and " to " in pairs[0]
    assert "µs CPU within the rounds: worker / prefork 1.00 (1.00 to 1.00), event / " in static
    assert script.splitlines()[3].split()[1] == "6,094"
    assert "200 clients, a new connection per request" in small and "3 rounds" in small
    assert "measured on" in small and "NOT COMPLETE" not in small
    assert "2.0 s or more" in small


@pytest.mark.parametrize("bound", ["generator_bound", "generator_starved"])
def test_a_table_of_limited_rows_says_nothing_of_an_order(bound):
    table = full_table(**{bound: True})
    table.records += [row(m, "static", n, 50 + n, **{bound: True}) for m in MPMS for n in (4, 5, 6)]
    text, who = (
        table.text(),
        {"generator_bound": "generator", "generator_starved": "machine"}[bound],
    )
    assert f"the published order (worker > event > prefork): not decidable, the {who} was" in text
    assert f"{who} 6/6" in text and f"{who} 3/3" in text and "lower bounds" in text
    assert not re.search(r"did not come out|came out|probab|by chance|larger than", text)
    without_order = text.replace(ORDER, "")
    assert " > " not in without_order and "worker / event: published" not in text
    assert "not decidable" in repr(table)
    # One limited row is enough: its server might have been the fastest.
    table = full_table()
    table.records[0][bound] = True
    assert table.verdict("static").came_out is None and f"{who} 1/3" in table.text()


def test_the_recorded_ratio_is_taken_within_the_rounds():
    rows = records.read(records.recorded_folder() / "qps-full.csv")
    table = QpsTable(rows, published.figures())
    summary = table.summary().set_index(["kind", "mpm"])
    each = [
        table.rounds("script")["event"][n] / qps
        for n, qps in table.rounds("script")["prefork"].items()
    ]
    script = summary.loc["script", "event"]
    assert script["ratio"] == pytest.approx(statistics.geometric_mean(each))
    assert script["ratio"] == pytest.approx(1.0, abs=0.015)
    assert script["median"] / summary.loc["script", "prefork"]["median"] < 0.97  # the wrong one
    assert max(map(len, table.text().splitlines())) <= 100


def test_what_a_reader_must_know_is_in_the_table():
    table = full_table(generator_bound=True)
    failed = {"requests": 203, "failures": 3, "errors": '{"timeout": 3}'}
    table.records[0] = row("prefork", "static", 1, 100, **failed)
    table.planned = 40
    text = table.text()
    assert "mpmkit prefork: 3 of 603 requests FAILED" in text and "generator 2/3" in text
    assert "NOT COMPLETE: 18 of 40 cells were measured" in text
    unknown = full_table(steal=0.07).text()
    assert "the host took away up to 7% of the processor time" in unknown
    assert "µs CPU is not known of 18 of 18 cells" in unknown
    many = [row("event", "static", number, 100) for number in range(1, 7)]
    assert "95% interval" in QpsTable(many, published.figures()).text()


def test_an_empty_and_a_one_sided_table():
    empty = QpsTable([], published.figures())
    assert empty.text() == "no row was finished" and repr(empty) == "<QpsTable 0 rows; empty>"
    alone = QpsTable([row("event", "static", 1, 10)], published.figures())
    assert "one MPM alone has no order" in alone.text() and alone.verdict("static") is None
    assert len(alone.to_frame()) == 1 and math.isnan(alone.summary()["ratio"][0])


def test_each_server_and_way_to_run_the_script_has_a_table_of_its_own():
    table = full_table()
    for mpm, rate in zip(MPMS, (100, 200, 300), strict=True):
        table.records.append(row(mpm, "script", 1, rate, script="cgi"))
    table.records.append(row("prefork", "script", 1, 900, script="mod_php", server="httpd"))
    table.records += [row(mpm, "static", 1, 50, server="httpd") for mpm in MPMS]
    assert table.servers == ["mpmkit", "httpd"]
    assert table.kinds == ["static", "script", "cgi", "mod_php"]
    cgi = {mpm: list(values.values()) for mpm, values in table.rounds("cgi").items()}
    assert cgi == {"prefork": [100.0], "worker": [200.0], "event": [300.0]}
    assert list(table.rounds("script")["prefork"].values()) == [100.0, 90.0, 110.0]
    text = table.text()
    assert "requests/s, static page of 45 bytes, httpd" in text
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
    # wrk stops by time only, and looks at no body.


def test_the_demo_fits_into_three_minutes_and_its_cells_last():
    """Each cell's bound in time, with a second to start the generator and two to start a server."""
    demo, full = SCALES["demo"], SCALES["full"]
    cells = demo.rounds * len(MPMS)
    assert cells * (2 + 2 * (1 + demo.warmup + demo.seconds)) <= 180
    assert demo.requests is None and demo.seconds >= 3 and full.least >= 8


def test_each_round_measures_all_in_random_order_that_the_seed_gives():
    todo = plan(scale="smoke", rounds=30)
    cells = todo.cells("a")
    rounds = [tuple(c.mpm for c in cells if c.round == n) for n in range(1, 31)]
    assert all(sorted(one) == sorted(MPMS) for one in rounds) and len(set(rounds)) == 6
    assert {c.kinds for c in cells} == {("static", "script"), ("script", "static")}
    key = [(c.round, c.mpm, c.kinds) for c in cells]
    assert key == [(c.round, c.mpm, c.kinds) for c in todo.cells("a")]
    assert key != [(c.round, c.mpm, c.kinds) for c in todo.cells("b")]
    todo = plan(scale="smoke", mpms=("event",), also=("httpd", "uvicorn"), rounds=2)
    both, static = ("script", "static"), ("static",)
    ours, httpd = ("mpmkit", "event", both), ("httpd", "event", static)
    found = [(c.server, c.mpm, tuple(sorted(c.kinds))) for c in todo.cells("a")]
    assert sorted(found) == sorted([ours, httpd, ("uvicorn", "", both)] * 2)
    assert {cell.stands_for for cell in todo.cells("a")} == {"event"}
    scripts = plan(("script",), ("event",), scale="smoke", rounds=1, also=("all",))
    peers = competitors.of(competitors.names(), ("event",))
    names = ["mpmkit", *(one.server for one in peers if "script" in one.kinds)]
    assert sorted(cell.server for cell in scripts.cells("a")) == sorted(names)


def test_the_script_table_has_a_group_for_each_way():
    where = {"kinds": ("script",), "mpms": ("prefork", "event"), "also": ("httpd",)}
    todo = plan(**where, scripts=("all",), rounds=1)
    assert todo.kinds == ("script", "cgi", "php-fpm", "mod_php")
    found = {}
    for cell in todo.cells("a"):
        found.setdefault((cell.server, cell.mpm), set()).add(cell.kinds)
    # Programs and php-fpm have servers of their own, so that they disturb no other page.
    assert found == {
        ("mpmkit", "prefork"): {("script",), ("cgi",), ("php-fpm",)},
        ("mpmkit", "event"): {("script",), ("cgi",), ("php-fpm",)},
        ("httpd", "prefork"): {("cgi",), ("php-fpm",), ("mod_php",)},
        ("httpd", "event"): {("cgi",), ("php-fpm",)},
    }
    assert todo.profiles["cgi"].path == "/hello.cgi"
    assert plan(kinds=PAGES, scripts=("cgi",), rounds=1).kinds == ("static", "cgi")


def test_bad_arguments_are_refused_all_at_once(monkeypatch):
    monkeypatch.setenv("MPMKIT_SCALE", "huge")
    with pytest.raises(ValueError) as error:
        plan(kinds=("php",), mpms=("mpm_event",), scripts=("ruby",), rounds=0)
    parts = [part.split(":")[0] for part in str(error.value).split("; ")]
    assert parts == ["kind", "mpm", "script", "MPMKIT_SCALE", "rounds"]
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
        ("--also iis", "also: 'iis' is not one of httpd"),
        ("--target-precision 5%", "unrecognized arguments: --target-precision"),
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
    # The rows hold the seed of their order; a server measures both pages and is stopped.
    todo = plan(scale="smoke", mpms=("event", "prefork"))
    order = [(c.round, c.mpm, kind) for c in todo.cells(rows[0]["run_id"]) for kind in c.kinds]
    assert [(r["round"], r["mpm"], r["kind"]) for r in rows] == order and len(order) == 8
    assert all(r["requests"] == 60 and r["failures"] == 0 and r["users"] == 4 for r in rows)
    assert len({r["run_id"] for r in rows}) == 1 and launched.stopped == 4
    assert ("prefork", {**DIRECTIVES["prefork"], "KeepAlive": False}) in launched.made
    assert {"MaxRequestWorkers=250" in r["directives"] for r in rows if r["mpm"] == "prefork"} == {
        True
    }
    assert "requests/s, static page of 45 bytes" in out and f"rows in {path}" in out
    assert err.count("requests/s") == 8 and "[8/8] round 2, mpmkit " in err


def test_keep_alive_and_progress(launched):
    told = []
    how = {"kinds": ("script",), "keep_alive": True, "rounds": 1, "requests": 30}
    table = small(launched, **how, on_progress=told.append)
    assert launched.made[0][1]["KeepAlive"] is True
    (only,) = table.records
    assert only["keep_alive"] and only["scale"] == "custom" and only["reconnects"] > 0
    assert told[0].share == 0 and told[-1].share == 1 and told[-1].row == only


def test_a_cell_that_its_requests_end_too_soon_is_measured_again(launched, monkeypatch):
    monkeypatch.setitem(SCALES, "full", QpsScale(10, None, 0.05, 2, least=0.4))
    table = small(launched, scale="full")
    asked, lasted = ([row[name] for row in table.records] for name in ("requests", "duration_s"))
    assert len(asked) == 2 and min(lasted) >= 0.4 and max(asked) > 10


def test_a_server_that_dies_ends_the_run_and_keeps_the_rows(launched, tmp_path):
    path = tmp_path / "rows.csv"
    launched.dies = lambda number: number == 2
    with pytest.raises(ExperimentError) as error:
        small(launched, mpms=MPMS, rounds=1, out=path)
    text, (first, second) = str(error.value), [mpm for mpm, _ in launched.made]
    assert f"mpmkit {second}, static: " in text and "refused" in text
    assert "the server (process " in text and "is gone" in text
    assert "its error log ends: [mpm:emerg] AH99999: the roof is on fire" in text
    assert [r["mpm"] for r in records.read(path)] == [first]
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
    table = small(launched, rounds=2, also=("all",), out=path)
    found = Counter((r["server"], r["mpm"], r["round"]) for r in records.read(path))
    servers = (("mpmkit", "event"), ("uvicorn", None))
    assert found == Counter((*server, number) for server in servers for number in (1, 2))
    assert launched.made[0] == launched.made[1]  # both with event's directives
    mine, theirs = table.rounds("static")["event"], table.rounds("static", "uvicorn")[""]
    ratio = statistics.geometric_mean(theirs[number] / mine[number] for number in mine)
    assert "static page of 45 bytes, other servers\nserver " in table.text()
    assert f"{ratio:.2f} event" in table.text() and set(table.summary()["server"]) == {"mpmkit"}
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
    table = small(launched, rounds=3, also=("foo", "bar", "baz"), say=said.append)
    assert said == table.left_out and len(said) == 3
    assert said[0] == "without foo: the foo server is not installed; apt install foo"
    assert said[1].startswith("without baz from round 1 on (0 rows of it are kept): baz, static: ")
    assert "is gone" in said[1] and said[2] == (
        "without bar from round 2 on (1 rows of it are kept): "
        "bar ended with status 3: address in use"
    )
    ours = [("bar", 1), ("mpmkit", 1), ("mpmkit", 2), ("mpmkit", 3)]
    assert sorted((r["server"], r["round"]) for r in table.records) == ours
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
        # The second server is there: the first one's row is finished, the second load begins.
        servers = (line.split() for line in process.stderr if line.startswith(MPMS))
        (first, _), (_, url) = next(servers), next(servers)
        counts = url + "/-/counts"
        poll_until(lambda: b"/ok" in urllib.request.urlopen(counts, timeout=5).read(), "a load", 20)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        took = time.monotonic() - asked
    assert process.returncode == 130 and "mpmkit: interrupted" in err
    assert took < 5  # a fraction of a second, unless the machine stands still
    assert [r["mpm"] for r in records.read(path)] == [first]
    assert "NOT COMPLETE: 1 of 3 cells were measured" in out


# -- our servers ---------------------------------------------------------------------------------


def test_the_real_servers_answer_every_request(tmp_path):
    path = tmp_path / "rows.csv"
    table = qps_table(users=20, requests=300, rounds=1, scale="smoke", out=path)
    rows = records.read(path)
    found = {(r["mpm"], r["kind"]) for r in rows}
    assert found == {(m, k) for m in MPMS for k in PAGES} and len(rows) == 6
    assert all((r["requests"], r["failures"]) == (300, 0) for r in rows)
    assert table.verdict("static").pairs and len(table.text().split("\n\n")) == 3


@pytest.mark.rival
@pytest.mark.slow
def test_every_way_answers_every_request(tmp_path):
    """Ours and the real httpd's, as far as they are here: one small cell each under event."""
    how = {"requests": 60, "users": 4, "rounds": 1, "scripts": ("all",), "also": ("httpd",)}
    table = qps_table(("script",), ("event",), **how, out=tmp_path / "rows.csv")
    rows = {(r["server"], r["script"]): r for r in table.records}
    assert {("mpmkit", "wsgi"), ("mpmkit", "cgi")} <= set(rows)
    left = " ".join(table.left_out)
    assert ("mpmkit", "php-fpm") in rows or "php-fpm" in left
    assert ("httpd", "cgi") in rows or "httpd" in left
    assert all(r["failures"] == 0 and r["requests"] == 60 for r in rows.values())
