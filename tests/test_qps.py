"""The article's tables: verdicts as pure functions, the text, the way there with fake servers."""

from __future__ import annotations

import contextlib
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
from misbehaving import Misbehaving
from support.rows import ROW
from support.waiting import poll_until

from mpmkit.config.checks import check
from mpmkit.config.keywords import from_keywords
from mpmkit.load import runner
from mpmkit.measure import competitors, published, qps, records
from mpmkit.measure.comparison import apart, order, verdict
from mpmkit.measure.published import DIRECTIVES, PAGES, Page
from mpmkit.measure.qps import MPMS, SCALES, QpsError, QpsTable, main, plan, qps_table
from mpmkit.measure.stats import turns

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = {"prefork": 9556.0, "worker": 11038.0, "event": 10224.0}

# -- what is published ---------------------------------------------------------------------------


def test_the_published_figures_are_the_articles():
    assert published.published() == {
        "static": PUBLISHED,
        "script": {"prefork": 6094.0, "worker": 7411.0, "event": 7089.0},
    }


def test_a_published_file_that_is_none(tmp_path):
    path = tmp_path / "qps.csv"
    path.write_text("kind,mpm,qps\nstatic,prefork,fast\n")
    with pytest.raises(records.RecordError, match="no published figure"):
        published.published(path)


def test_the_articles_directives_are_accepted_by_our_servers():
    for mpm in MPMS:
        effective, notes = check(mpm, from_keywords(mpm, **DIRECTIVES[mpm]))
        assert not notes
        for name, value in DIRECTIVES[mpm].items():
            assert getattr(effective, name) == value


# -- verdicts ------------------------------------------------------------------------------------

FIGURES = st.lists(st.floats(1, 1e6), min_size=1, max_size=6)
ROUNDS = st.fixed_dictionaries(dict.fromkeys(MPMS, FIGURES))


@settings(deadline=None)  # the machine may be busy with servers
@given(ROUNDS)
def test_a_verdict_says_what_the_medians_say(rounds):
    judged = verdict("static", rounds, PUBLISHED)
    medians = {mpm: statistics.median(values) for mpm, values in rounds.items()}
    assert judged.published_order == ("worker", "event", "prefork")
    assert sorted(judged.measured_order) == sorted(MPMS)
    ordered = [medians[mpm] for mpm in judged.measured_order]
    assert ordered == sorted(ordered, reverse=True)
    assert judged.reproduced == (medians["worker"] > medians["event"] > medians["prefork"])
    assert judged.reproduced == all(pair.agrees for pair in judged.pairs)
    for pair in judged.pairs:
        assert pair.measured == medians[pair.faster] / medians[pair.slower]
        assert pair.published == PUBLISHED[pair.faster] / PUBLISHED[pair.slower] > 1


@settings(deadline=None)  # the machine may be busy with servers
@given(FIGURES, FIGURES)
def test_apart_is_symmetric_and_means_that_every_round_won(one, other):
    result = apart(one, other)
    assert result == apart(other, one)
    if min(len(one), len(other)) < 2:
        assert result is None
    else:
        assert result == (
            all(a > b for a in one for b in other) or all(a < b for a in one for b in other)
        )


@settings(deadline=None)  # the machine may be busy with servers
@given(ROUNDS, st.floats(0.1, 10))
def test_a_faster_machine_changes_no_verdict(rounds, factor):
    medians = [statistics.median(values) for values in rounds.values()]
    if any(0 < abs(a / b - 1) < 1e-9 for a in medians for b in medians):
        return  # so near to a tie that the multiplication may decide it
    scaled = {mpm: [value * factor for value in values] for mpm, values in rounds.items()}
    assert (
        verdict("static", scaled, PUBLISHED).measured_order
        == verdict("static", rounds, PUBLISHED).measured_order
    )


def test_a_tie_is_no_reproduction():
    assert not verdict("static", {mpm: [5.0, 5.0] for mpm in MPMS}, PUBLISHED).reproduced


@pytest.mark.parametrize(
    "rounds",
    [{}, {"event": [1.0]}, {"event": [1.0], "prefork": [0.0]}, {"event": [1.0], "other": [2.0]}],
)
def test_no_verdict_without_two_that_can_be_compared(rounds):
    assert verdict("static", rounds, PUBLISHED) is None


def test_what_a_verdict_says():
    clear = verdict("static", {"worker": [9, 10], "event": [7, 8], "prefork": [5, 6]}, PUBLISHED)
    assert clear.reproduced and clear.clear
    assert str(clear) == (
        "the published order came out: worker > event > prefork; "
        "each difference is larger than the noise"
    )
    assert "worker / event: published 1.08, measured 1.27 (larger than the noise)" in map(
        str, clear.pairs
    )
    noisy = verdict("static", {"worker": [5, 10], "event": [7, 12], "prefork": [5, 6]}, PUBLISHED)
    assert not noisy.reproduced and noisy.clear is False
    assert "did not come out: event > worker > prefork; not every difference" in str(noisy)
    once = verdict("static", {"worker": [9], "event": [8]}, PUBLISHED)
    assert once.reproduced and once.clear is None and "does not show the noise" in str(once)
    assert "the noise is not known" in str(once.pairs[0])


@settings(deadline=None)  # the machine may be busy with servers
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1e6)))
def test_order_is_from_the_fastest_down(figures):
    names = order(figures)
    assert sorted(names) == sorted(figures)
    assert [figures[name] for name in names] == sorted(figures.values(), reverse=True)


@settings(deadline=None)  # the machine may be busy with servers
@given(st.lists(st.text(max_size=3), unique=True, min_size=1), st.integers(1, 100))
def test_each_round_measures_everyone_and_begins_with_another(names, number):
    assert sorted(turns(names, number)) == sorted(names)
    firsts = [turns(names, n)[0] for n in range(number, number + len(names))]
    assert sorted(firsts) == sorted(names)


# -- the table -----------------------------------------------------------------------------------


def row(mpm: str, kind: str, number: int, rate: float, **changes):
    answered = round(rate * 2)
    made = {
        **ROW,
        "mpm": mpm,
        "kind": kind,
        "round": number,
        "qps": answered / 2,
        "requests": answered,
        "failures": 0,
        "errors": "{}",
        "duration_s": 2.0,
        "server_cpu_us": None,
        **changes,
    }
    return records.check(made)


def full_table(**changes) -> QpsTable:
    rates = {"prefork": (100, 90, 110), "worker": (150, 160, 140), "event": (120, 125, 115)}
    rows = [
        row(mpm, kind, number + 1, rate, **changes)
        for kind in PAGES
        for mpm, values in rates.items()
        for number, rate in enumerate(values)
    ]
    return QpsTable(rows, published(), planned=len(rows))


def test_the_table_as_text():
    text = full_table().text()
    static, script, small = text.split("\n\n")
    lines = static.splitlines()
    assert lines[0] == "requests/s, static page of 45 bytes"
    assert lines[2].split() == [
        "MPM",
        "published",
        "median",
        "75%",
        "interval",
        "published",
        "measured",
    ]
    assert lines[3].split() == ["prefork", "9,556", "100", "90", "to", "110", "1.00", "1.00"]
    assert lines[4].split() == ["worker", "11,038", "150", "140", "to", "160", "1.16", "1.50"]
    assert lines[5].split() == ["event", "10,224", "120", "115", "to", "125", "1.07", "1.20"]
    assert lines[6].startswith("the published order came out: worker > event > prefork; each")
    assert script.splitlines()[3].split()[1] == "6,094"
    assert "200 clients, a new connection per request" in small and "3 rounds" in small
    assert "measured on" in small and "NOT COMPLETE" not in small


def test_the_table_shows_the_cpu_time_of_a_request_where_it_is_known():
    text = full_table(server_cpu_us=41.53).text()
    assert text.splitlines()[3].split()[-1] == "41.5"
    assert text.count("µs CPU") == 3, "two headings and what it means"
    assert "µs CPU" not in full_table().text()


def test_the_table_says_how_likely_the_order_is_and_whether_the_machine_changed():
    text = full_table().text()
    assert text.count("orders by probability: worker > event > prefork (100%)") == 2
    assert "drift: not known, that takes 5 rounds" in text
    slower = QpsTable([row("event", "static", n, 200 - 20 * n) for n in range(1, 7)], published())
    assert slower.drift.found and "DRIFT: the machine changed" in slower.text()
    assert "95% interval" in slower.text()


def test_rows_near_the_generators_ceiling_are_bound_by_it(launched, monkeypatch):
    from mpmkit.measure import ceiling

    monkeypatch.setattr(ceiling, "ceiling", lambda profile, driver: 1.0)
    how = {
        "mpms": ("event",),
        "kinds": ("static",),
        "users": 2,
        "scale": "smoke",
        "rounds": 1,
        "requests": 30,
        "launch": launched,
    }
    table = qps_table(**how, ceiling=True)
    assert table.records[0]["generator_bound"] and "the generator's ceiling: 1 requests/s" in (
        table.text()
    )

    def missing(profile, driver):
        raise qps.NotInstalled("nginx", "install it")

    monkeypatch.setattr(ceiling, "ceiling", missing)
    table = qps_table(**how, ceiling=True)
    assert (
        table.ceiling is None
        and "without the generator's ceiling: nginx is not installed" in (table.left_out[0])
    )


def test_what_a_reader_must_know_is_in_the_table():
    table = full_table(generator_bound=True)
    table.records[0] = row(
        "prefork", "static", 1, 100, requests=203, failures=3, errors='{"timeout": 3}'
    )
    table.planned = 40
    text = table.text()
    assert "3 of 603 requests FAILED; generator-bound in 2 of 3 rounds" in text
    assert "generator-bound in 3 of 3 rounds" in text
    assert "NOT COMPLETE: 18 of 40 cells were measured" in text
    steal = full_table(steal=0.07).text()
    assert "the host took away up to 7% of the processor time" in steal


def test_an_empty_and_a_one_sided_table():
    assert QpsTable([], published()).text() == "no row was finished"
    assert QpsTable([], published()).order_reproduced is None
    alone = QpsTable([row("event", "static", 1, 10)], published())
    assert "one MPM alone has no order" in alone.text()
    assert alone.order_reproduced is None and alone.verdict("static") is None


def test_the_table_as_frames():
    table = full_table()
    assert len(table.rows) == len(table.to_frame()) == 18 and "qps" in table.rows.columns
    summary = table.summary()
    worker = summary[(summary.kind == "static") & (summary.mpm == "worker")].iloc[0]
    assert (worker["median"], worker["min"], worker["max"], worker["ratio"]) == (150, 140, 160, 1.5)
    assert table.order_reproduced is True and "reproduced" in repr(table)


def test_a_rival_stands_in_a_table_of_its_own():
    table = full_table()
    table.records += [row(mpm, "static", 1, 50, server="httpd") for mpm in MPMS]
    assert table.servers == ["mpmkit", "httpd"]
    assert "requests/s, static page of 45 bytes, httpd" in table.text()
    assert table.order_reproduced is True


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
    todo = plan(scale="smoke", rounds=3)
    assert [(number, mpm) for number, _, mpm, _ in todo.cells()] == [
        (1, "prefork"),
        (1, "worker"),
        (1, "event"),
        (2, "worker"),
        (2, "event"),
        (2, "prefork"),
        (3, "event"),
        (3, "prefork"),
        (3, "worker"),
    ]
    beside = plan(scale="smoke", mpms=("event",), beside=("httpd", "uvicorn"), rounds=2)
    assert beside.cells() == [
        (1, "mpmkit", "event", ("static", "script")),
        (1, "httpd", "event", ("static",)),
        (1, "uvicorn", "", ("static", "script")),
        (2, "httpd", "event", ("static",)),
        (2, "uvicorn", "", ("static", "script")),
        (2, "mpmkit", "event", ("static", "script")),
    ]
    assert beside.contestant("uvicorn", "", ("static",)).stands_for == "event"
    assert beside.contestant("mpmkit", "event", ("static",)) is None
    scripts = plan(("script",), ("event",), scale="smoke", rounds=1, beside=("all",))
    assert [name for _, name, *_ in scripts.cells()] == [
        "mpmkit",
        "gunicorn-gthread",
        "uvicorn",
        "waitress",
    ]


def test_bad_arguments_are_refused_all_at_once(monkeypatch):
    monkeypatch.setenv("MPMKIT_SCALE", "huge")
    with pytest.raises(ValueError) as error:
        plan(kinds=("php",), mpms=("mpm_event",), rounds=0, driver="curl")
    assert [part.split(":")[0] for part in str(error.value).split("; ")] == [
        "kind",
        "mpm",
        "MPMKIT_SCALE",
        "driver",
        "rounds",
    ]
    with pytest.raises(ValueError, match=r"target_precision: .*; max_rounds: an interval takes 6"):
        plan(scale="smoke", target_precision=0.6, max_rounds=5)
    with pytest.raises(ValueError, match=r"users: .*; processes: "):
        plan(users=0, processes=0, scale="smoke")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--rounds", "0"], "rounds: must be a whole number"),
        (["--rounds", "x"], "argument --rounds: invalid int value"),
        (["--kind", "php"], "argument --kind: invalid choice"),
        (["--mpm", "winnt,event"], "mpm: 'winnt' is none of prefork, worker, event"),
        (["--mpm", ","], "mpm: give at least one"),
        (["--users", "0"], "users: must be a whole number"),
        (["--requests", "-1"], "requests: must be a whole number"),
        (["--scale", "big"], "scale: 'big' is none of smoke, demo, full"),
        (["--beside", "iis"], "beside: 'iis' is none of httpd"),
        (["--driver", "curl"], "driver: 'curl' is none of locust, ab, wrk"),
        (["--target-precision", "tight"], "must be a share like 5%"),
        (["--target-precision", "90%"], "target_precision: must be 0.001 to 0.5"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_command_lines_are_one_line_and_exit_2(capsys, argv, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MPMKIT_SCALE", raising=False)
    try:
        status = main(argv, launch=None)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    assert err.startswith("mpmkit: ") and said in err and len(err.splitlines()) == 1


def test_a_bad_file_is_refused_before_anything_starts(capsys, tmp_path):
    def never(mpm, **directives):
        raise AssertionError("a server was started")

    assert main(["--scale", "smoke", "--out", str(tmp_path / "no" / "x.csv")], launch=never) == 1
    assert "there is no folder" in capsys.readouterr().err


# -- measuring, with servers that are none -------------------------------------------------------


class FakeServer:
    """What `qps` needs of a server: a url, a pid, an error log."""

    def __init__(self, misbehaving: Misbehaving) -> None:
        self.url, self.pid = misbehaving.url, misbehaving.process.pid
        self.misbehaving = misbehaving

    def error_log(self) -> str:
        return "[mpm:notice] AH00163: ready\n[mpm:emerg] AH99999: the roof is on fire\n"


@pytest.fixture
def launched(monkeypatch):
    """Launches that were made, as (mpm, directives); the pages become those of the fake server."""
    made = []

    @contextlib.contextmanager
    def launch(mpm, **directives):
        made.append((mpm, directives))
        with Misbehaving() as server:
            yield FakeServer(server)
        made.append((mpm, "stopped"))

    launch.made = made
    monkeypatch.setattr(
        published,
        "PAGES",
        {
            "static": Page("static", "/ok", 45, "static page of 45 bytes"),
            "script": Page("script", "/keeps/3", 45, "script"),
        },
    )
    monkeypatch.setitem(SCALES, "smoke", qps.Scale(60, 2.0, 0.05, 2))
    return launch


def test_a_whole_measurement(launched, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    status = main(
        [
            "--scale",
            "smoke",
            "--users",
            "4",
            "--kind",
            "both",
            "--mpm",
            "event,prefork",
            "--out",
            str(path),
        ],
        launch=launched,
    )
    out, err = capsys.readouterr()
    assert status == 0, err
    rows = records.read(path)
    # Round 1 begins with prefork, round 2 with event; a server measures both pages and is stopped.
    assert [(r["round"], r["mpm"], r["kind"]) for r in rows] == [
        (1, "prefork", "static"),
        (1, "prefork", "script"),
        (1, "event", "static"),
        (1, "event", "script"),
        (2, "event", "static"),
        (2, "event", "script"),
        (2, "prefork", "static"),
        (2, "prefork", "script"),
    ]
    assert all(r["requests"] == 60 and r["failures"] == 0 and r["users"] == 4 for r in rows)
    assert len({r["run_id"] for r in rows}) == 1
    assert [what for _, what in launched.made[1::2]] == ["stopped"] * 4
    assert launched.made[0] == ("prefork", {**DIRECTIVES["prefork"], "KeepAlive": False})
    assert "MaxRequestWorkers=250" in rows[0]["directives"]
    assert "requests/s, static page of 45 bytes" in out and f"rows in {path}" in out
    assert err.count("requests/s") == 8 and "[8/8] round 2, mpmkit prefork, script" in err


def test_keep_alive_and_progress(launched):
    told = []
    table = qps_table(
        ("script",),
        ("worker",),
        users=2,
        keep_alive=True,
        rounds=1,
        requests=30,
        scale="smoke",
        on_progress=told.append,
        launch=launched,
    )
    assert launched.made[0][1]["KeepAlive"] is True
    (only,) = table.records
    assert only["keep_alive"] and only["scale"] == "custom" and only["reconnects"] > 0
    assert told[0].share == 0 and told[-1].share == 1 and told[-1].row == only
    assert len(table.rows) == 1


def test_rounds_go_on_until_the_target_or_the_last_one(launched, monkeypatch):
    rates = iter([100, 60, 140, 100, 100, 100, 100, 100, 100])

    def measured(server, *, profile, driver, on_progress, ceiling):
        rate = next(rates)
        return runner.LoadRun(driver, server.url, profile, rate, Counter(), 1.0)

    monkeypatch.setattr(qps, "run_load", measured)
    how = {
        "mpms": ("event",),
        "kinds": ("static",),
        "users": 2,
        "scale": "smoke",
        "rounds": 2,
        "launch": launched,
    }
    table = qps_table(**how, target_precision=0.05)
    # Six rounds are the least. One far below and one far above: from 9 on the interval leaves out one
    # round at either end.
    assert len(table.records) == table.planned == 9
    assert "target precision 5.0%: reached, the widest is mpmkit event, static" in table.text()
    rates = iter([50, 150] * 10)
    table = qps_table(**how, target_precision=0.05, max_rounds=7)
    assert len(table.records) == 7 and "target precision 5.0%: NOT REACHED after 7 rounds" in (
        table.text()
    )


def test_a_server_that_dies_ends_the_run_and_keeps_the_rows(launched, tmp_path):
    path = tmp_path / "rows.csv"

    @contextlib.contextmanager
    def launch(mpm, **directives):
        with launched(mpm, **directives) as server:
            if mpm == "worker":
                server.misbehaving.die()
                server.misbehaving.process.wait()
            yield server

    with pytest.raises(QpsError) as error:
        qps_table(("static",), MPMS, users=3, rounds=1, scale="smoke", out=path, launch=launch)
    text = str(error.value)
    assert "mpmkit worker, static: " in text and "refused" in text
    assert "the server (process " in text and "is gone" in text
    assert "its error log ends: [mpm:emerg] AH99999: the roof is on fire" in text
    assert (
        [r["mpm"] for r in records.read(path)]
        == ["prefork"]
        == [r["mpm"] for r in error.value.table.records]
    )


def test_a_server_that_does_not_start_is_one_line(launched, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def launch(mpm, **directives):
        raise RuntimeError("port 80:\n permission denied")

    assert main(["--scale", "smoke"], launch=launch) == 1
    assert capsys.readouterr().err == "mpmkit: port 80: permission denied\n"


def test_failed_requests_are_kept_and_shown(launched, monkeypatch):
    monkeypatch.setattr(
        published, "PAGES", {"static": Page("static", "/every/3", 45, "static page")}
    )
    table = qps_table(
        ("static",), ("event",), users=2, rounds=1, requests=30, scale="smoke", launch=launched
    )
    assert table.records[0]["failures"] > 0 and "requests FAILED" in table.text()
    monkeypatch.setattr(published, "PAGES", {"static": Page("static", "/ok", 44, "static page")})
    with pytest.raises(QpsError, match=r"no good answer; 0 of 30 .* well \(30 length\)"):
        qps_table(
            ("static",), ("event",), users=2, rounds=1, requests=30, scale="smoke", launch=launched
        )


CTRL_C = """
import contextlib, sys
sys.path[:0] = [{root!r}, {tests!r}]
from misbehaving import Misbehaving
from mpmkit.measure import qps
from mpmkit.measure import published
published.PAGES = {{"static": published.Page("static", "/ok", 45, "static page")}}
@contextlib.contextmanager
def launch(mpm, **directives):
    with Misbehaving() as server:
        print(mpm, server.url, file=sys.stderr, flush=True)
        yield server
qps.SCALES["smoke"] = qps.Scale(10_000_000, 2.0, 0.1, 1)
sys.exit(qps.main(["--kind", "static", "--scale", "smoke", "--users", "4", "--out", sys.argv[1]],
                  launch=launch))
"""


def beside_fakes(monkeypatch, **starts):
    """The rivals become these: name -> how to start one."""

    monkeypatch.setattr(competitors, "names", lambda: tuple(starts))
    monkeypatch.setattr(
        competitors,
        "FORMS",
        {name: ((name, ("event",), ("static",), start),) for name, start in starts.items()},
    )


def test_rivals_in_the_same_rounds(launched, monkeypatch, tmp_path):
    beside_fakes(monkeypatch, uvicorn=launched)
    table = qps_table(
        ("static",),
        ("event",),
        users=2,
        rounds=2,
        scale="smoke",
        beside=("all",),
        out=tmp_path / "rows.csv",
        launch=launched,
    )
    assert [(r["server"], r["mpm"], r["round"]) for r in records.read(tmp_path / "rows.csv")] == [
        ("mpmkit", "event", 1),
        ("uvicorn", None, 1),
        ("uvicorn", None, 2),
        ("mpmkit", "event", 2),
    ]
    assert launched.made[0] == launched.made[2]  # both with event's directives
    (line,) = table.others().to_dict("records")
    assert (line["server"], line["stands_for"], line["rounds"]) == ("uvicorn", "event", 2)
    assert line["ratio"] == pytest.approx(
        line["median"] / statistics.median(table.rounds("static")["event"])
    )
    assert "static page of 45 bytes, other servers\nserver " in table.text()
    assert table.left_out == [] and "uvicorn" in repr(table.servers)


def test_a_rival_that_is_missing_or_fails_is_named_and_costs_no_other_row(
    launched, monkeypatch, tmp_path
):
    from mpmkit.measure.reference_servers import NotInstalled, ServerFailed

    def missing(mpm, **directives):
        raise NotInstalled("the foo server", "apt install foo")

    starts = []

    @contextlib.contextmanager
    def fails_later(mpm, **directives):
        starts.append(mpm)
        if len(starts) > 1:
            raise ServerFailed("bar ended with status 3: address in use")
        with launched(mpm, **directives) as server:
            yield server

    @contextlib.contextmanager
    def dies(mpm, **directives):
        with launched(mpm, **directives) as server:
            server.misbehaving.die()
            server.misbehaving.process.wait()
            yield server

    beside_fakes(monkeypatch, foo=missing, bar=fails_later, baz=dies)
    said = []
    table = qps_table(
        ("static",),
        ("event",),
        users=2,
        rounds=3,
        scale="smoke",
        beside=("foo", "bar", "baz"),
        launch=launched,
        say=said.append,
    )
    assert said == table.left_out and len(said) == 3
    assert said[0] == "without foo: the foo server is not installed; apt install foo"
    assert said[1].startswith("without baz from round 1 on (0 rows of it are kept): baz, static: ")
    assert "is gone" in said[1]
    assert said[2] == (
        "without bar from round 2 on (1 rows of it are kept): "
        "bar ended with status 3: address in use"
    )
    assert [(r["server"], r["round"]) for r in table.records] == [
        ("mpmkit", 1),
        ("bar", 1),
        ("mpmkit", 2),
        ("mpmkit", 3),
    ]
    assert table.planned == 4 and "NOT COMPLETE" not in table.text()
    assert all(sentence in table.text() for sentence in said)


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
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("worker"):  # prefork's row is finished, worker's load begins
                break
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


# -- the generators beside each other ------------------------------------------------------------


def test_the_generator_table():
    from benchmarks.generators import Sample, table

    text = table(
        "work",
        {
            "mpmkit (Locust)": [Sample(9000, 0.9, 0), Sample(11000, 1.0, 0), Sample(10000, 0.8, 2)],
            "FastHttpUser": [Sample(1000, 1.0, 0)],
            "ab": [Sample(20000, 1.0, 0)],
            "wrk": [],
        },
    )
    title, head, ours, *others = text.splitlines()
    assert (title, head.split()[0]) == ("work", "requests/s")
    assert ours == (
        "mpmkit (Locust)        10,000    9,000 to 11,000   90%    11,000"
        "           10.00   0.50       11.00  2 FAILED"
    )
    assert len(others) == 2


# -- our servers ---------------------------------------------------------------------------------


def test_the_real_servers_answer_every_request(tmp_path):
    path = tmp_path / "rows.csv"
    table = qps_table(users=20, requests=300, rounds=1, scale="smoke", out=path)
    rows = records.read(path)
    assert [(r["mpm"], r["kind"]) for r in rows] == [(m, k) for m in MPMS for k in PAGES]
    assert all((r["requests"], r["failures"]) == (300, 0) for r in rows)
    assert table.order_reproduced is not None and len(table.text().split("\n\n")) == 3


# -- ways to run a script -------------------------------------------------------------------------


def test_the_script_table_has_a_group_for_each_way():
    todo = plan(
        kinds=("script",), mpms=("prefork", "event"), scripts=("all",), beside=("httpd",), rounds=1
    )
    assert todo.kinds == ("script", "cgi", "php-fpm", "mod_php")
    found = {(server, mpm): [] for _, server, mpm, _ in todo.cells()}
    for _, server, mpm, kinds in todo.cells():
        found[server, mpm].append(kinds)
        who = todo.contestant(server, mpm, kinds)
        assert (who is None) is (server == "mpmkit") and (who is None or who.kinds == kinds)
    # Programs and php-fpm have servers of their own, so that they disturb no other page.
    assert found == {
        ("mpmkit", "prefork"): [("script",), ("cgi",), ("php-fpm",)],
        ("mpmkit", "event"): [("script",), ("cgi",), ("php-fpm",)],
        ("httpd", "prefork"): [("cgi",), ("php-fpm",), ("mod_php",)],
        ("httpd", "event"): [("cgi",), ("php-fpm",)],
    }
    assert todo.profiles["cgi"].path == "/hello.cgi"
    only = plan(kinds=("static", "script"), scripts=("cgi",), rounds=1)
    assert only.kinds == ("static", "cgi")
    with pytest.raises(ValueError, match="script: 'ruby' is none of wsgi, cgi, php-fpm"):
        plan(scripts=("ruby",))


def test_rows_of_a_way_stand_in_a_group_of_their_own():
    table = full_table()
    table.records += [
        row(mpm, "script", 1, rate, script="cgi")
        for mpm, rate in zip(MPMS, (100, 200, 300), strict=True)
    ]
    table.records.append(row("prefork", "script", 1, 900, script="mod_php", server="httpd"))
    assert table.kinds == ["static", "script", "cgi", "mod_php"]
    assert table.rounds("cgi") == {"prefork": [100.0], "worker": [200.0], "event": [300.0]}
    assert table.rounds("script")["prefork"] == [100.0, 90.0, 110.0]
    text = table.text()
    assert "requests/s, the same by CGI, a process a request\n" in text
    assert "requests/s, the same in PHP, in process, httpd\n" in text
    assert table.verdict("cgi").published_order == table.verdict("script").published_order
    assert set(table.summary()["kind"]) == {"static", "script", "cgi", "mod_php"}


def test_without_php_fpm_a_clear_line(monkeypatch, capsys, launched):
    monkeypatch.setattr(competitors, "php_fpm_missing", lambda: "without php-fpm: apt install it")
    assert main(["--kind", "script", "--script", "php-fpm", "--scale", "smoke"]) == 2
    assert capsys.readouterr().err == "mpmkit: without php-fpm: apt install it\n"


@pytest.mark.rival
@pytest.mark.slow
def test_every_way_answers_every_request(tmp_path):
    """Ours and the real httpd's, as far as they are here: one small cell each under event."""
    table = qps_table(
        ("script",),
        ("event",),
        requests=60,
        users=4,
        rounds=1,
        scripts=("all",),
        beside=("httpd",),
        out=tmp_path / "rows.csv",
        driver="locust",
    )
    rows = {(r["server"], r["script"]): r for r in table.records}
    assert {("mpmkit", "wsgi"), ("mpmkit", "cgi")} <= set(rows)
    left = " ".join(table.left_out)
    assert ("mpmkit", "php-fpm") in rows or "php-fpm" in left
    assert ("httpd", "cgi") in rows or "httpd" in left
    assert all(r["failures"] == 0 and r["requests"] == 60 for r in rows.values())
