"""The article's tables: verdicts as pure functions, the text, the way there with fake servers."""

import math
import re

import pytest
from support.calls import printed_by, refused
from support.experiments import Launches
from support.experiments import qps_row as row
from support.experiments import qps_table as made

from benchmarks import python_servers  # noqa: F401  Python's servers are competitors, too
from mpmkit.config import checks, keywords
from mpmkit.config.directives import MPMS
from mpmkit.measure import competitors, published, records, reference_servers, stats
from mpmkit.measure.experiment import ExperimentError, in_rounds
from mpmkit.measure.published import DIRECTIVES, PAGES, Page
from mpmkit.measure.qps import SCALES, QpsScale, QpsTable, main, qps_table, what_decides

plan = qps_table.__wrapped__
PUBLISHED = {"prefork": 9556.0, "worker": 11038.0, "event": 10224.0}
SERVERS, GENERATOR, MACHINE = stats.Limits(9, 0, 0), stats.Limits(9, 3, 0), stats.Limits(9, 4, 5)
CLEAR = {"worker": [9, 10, 9], "event": [7, 8, 7], "prefork": [5, 6, 5]}
ORDER = "the published order (worker > event > prefork)"


def test_the_published_figures_are_the_articles_and_its_directives_are_accepted():
    script = {"prefork": 6094.0, "worker": 7411.0, "event": 7089.0}
    assert published.figures() == {"static": PUBLISHED, "script": script}
    for mpm in MPMS:
        effective, notes = checks.check(mpm, keywords.from_keywords(mpm, **DIRECTIVES[mpm]))
        assert not notes
        for name, value in DIRECTIVES[mpm].items():
            assert getattr(effective, name) == value


@pytest.mark.parametrize(("rounds", "limits", "said"), [
    (CLEAR, SERVERS, " came out"),
    ({**CLEAR, "prefork": [8, 9, 8.1]}, SERVERS, " did not come out"),
    ({**CLEAR, "prefork": [7, 8, 7.1]}, SERVERS,
     ": not decidable, the 95% interval of event / prefork holds 1"),
    ({mpm: values[:1] for mpm, values in CLEAR.items()}, SERVERS,
     ": not decidable, one round does not show the noise"),
    (CLEAR, GENERATOR, ": not decidable, the generator was the limit in 3 of 9 cells"),
    (CLEAR, MACHINE, ": not decidable, the generator was the limit in 4 of 9 cells, "
     "the machine was the limit in 5 of 9 cells"),
    # No verdict without two that can be compared.
    *((rounds, SERVERS, None) for rounds in (
        {}, {"event": [1.0]}, {"event": [1.0], "prefork": [0.0]}, {"event": [1.0], "prefork": [None, 1.0]},
        {"event": [1.0], "other": [2.0]})),
])  # fmt: skip
def test_what_a_verdict_says(rounds, limits, said):
    known = lambda each: {number: rate for number, rate in enumerate(each) if rate is not None}  # noqa: E731
    judged = stats.verdict({mpm: known(each) for mpm, each in rounds.items()}, PUBLISHED, limits)
    assert (str(judged) if judged else None) == (said and ORDER + said)
    if said == " came out":
        pair = "worker / event: published 1.08, measured 1.27 (1.22 to 1.33)"
        assert str(judged.pairs[0]) == pair


RATES = {"prefork": (100, 90, 110), "worker": (150, 160, 140), "event": (120, 125, 115)}


@pytest.mark.parametrize("bound", ["generator_bound", "generator_starved"])
def test_a_table_of_limited_rows_says_nothing_of_an_order(bound):
    table = made(RATES, **{bound: True})
    table.records += [row(m, "static", n, 50 + n, **{bound: True}) for m in MPMS for n in (4, 5, 6)]
    text, who = table.text(), {"generator_bound": "generator"}.get(bound, "machine")
    assert f"the published order (worker > event > prefork): not decidable, the {who} was" in text
    assert f"{who} 6/6" in text and f"{who} 3/3" in text and "lower bounds" in text
    assert not re.search(r"did not come out|came out|probab|by chance|larger than", text)
    assert " > " not in text.replace(ORDER, "") and "worker / event: published" not in text
    # One limited row is enough: its server might have been the fastest.
    table = made(RATES)
    table.records[0][bound] = True
    assert table.verdict("static").came_out is None and f"{who} 1/3" in table.text()


def test_what_a_reader_must_know_is_in_the_table():
    assert QpsTable([], published.figures()).text() == "no cell was finished"
    alone = QpsTable([row("event", "static", 1, 10)], published.figures())
    assert "one MPM alone has no order" in alone.text() and alone.verdict("static") is None
    assert len(alone.to_frame()) == 1 and math.isnan(alone.summary()["ratio"][0])
    table = made(RATES, generator_bound=True)
    failed = {"requests": 203, "failures": 3, "errors": '{"timeout": 3}'}
    table.records[0] = row("prefork", "static", 1, 100, **failed)
    table.planned = 40
    text = table.text()
    assert "mpmkit prefork: 3 of 603 requests FAILED" in text and "generator 2/3" in text
    assert "NOT COMPLETE: 18 of 40 cells were measured" in text
    unknown = made(RATES, steal=0.07).text()
    assert "the host took up to 7% of the CPU time" in unknown
    assert "µs CPU is unknown in 18 of 18 cells" in unknown


def test_each_server_and_way_to_run_the_script_has_a_table_of_its_own():
    table = made(RATES)
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


def test_sizes_come_from_the_scale_and_the_environment(monkeypatch):
    monkeypatch.delenv("MPMKIT_SCALE", raising=False)
    assert plan().scale == "demo"
    monkeypatch.setenv("MPMKIT_SCALE", "full")
    full = plan()
    assert (full.scale, full.repeats) == ("full", 5)
    static, script = full.profiles["static"], full.profiles["script"]
    assert (static.requests, static.duration, static.users) == (200_000, None, 200)
    pages = [(one.path, one.expect_length) for one in (static, script)]
    assert pages == [("/index.html", 45), ("/hello.py", 11)]
    assert SCALES["demo"].seconds >= 3 and full.least >= 8, "cells last"
    by_hand = plan(requests=7, rounds=2, users=3)
    assert (by_hand.scale, by_hand.repeats) == ("custom", 2)
    assert by_hand.profiles["static"].duration is None


def test_competitors_have_the_pages_that_they_can_serve_and_each_way_its_group():
    cells = plan(scale="smoke", mpms=("event",), also=("httpd", "uvicorn")).cells
    both = ("static", "script")
    wanted = [("mpmkit", "event", both), ("httpd", "event", ("static",)), ("uvicorn", "", both)]
    assert [(c.server, c.mpm, c.parts) for c in cells] == wanted
    assert {cell.stands_for for cell in cells} == {"event"}
    cells = plan(("script",), ("event",), scale="smoke", also=("all",)).cells
    peers = competitors.of(competitors.FORMS, ("event",))
    names = ["mpmkit", *(one.server for one in peers if "script" in one.parts)]
    assert sorted(cell.server for cell in cells) == sorted(names)
    todo = plan(("script",), ("prefork", "event"), also=("httpd",), scripts=("all",), rounds=1)
    assert list(todo.profiles) == ["script", "cgi", "php-fpm", "mod_php"]
    found = {}
    for cell in todo.cells:
        found.setdefault((cell.server, cell.mpm), set()).add(cell.parts)
    # Programs and php-fpm have servers of their own, so that they disturb no other page.
    theirs = {("cgi",), ("php-fpm",)}
    ours = theirs | {("script",)}
    assert found == {("mpmkit", "prefork"): ours, ("mpmkit", "event"): ours,
                     ("httpd", "prefork"): theirs | {("mod_php",)}, ("httpd", "event"): theirs}  # fmt: skip
    assert todo.profiles["cgi"].path == "/hello.cgi"
    assert list(plan(kinds=PAGES, scripts=("cgi",), rounds=1).profiles) == ["static", "cgi"]


@pytest.fixture
def launched(monkeypatch):
    """Launches of fake servers; the pages become those of the fake server."""
    static = Page("static", "/ok", 45, "static page of 45 bytes")
    pages = {"static": static, "script": Page("script", "/keeps/3", 45, "script")}
    monkeypatch.setattr(published, "PAGES", pages)
    monkeypatch.setitem(SCALES, "smoke", QpsScale(60, 60.0, 0.05, 1))
    return Launches()


def small(launched, **how):
    shape = {"mpms": ("event",), "kinds": ("static",), "users": 2, "scale": "smoke"}
    return qps_table(**{**shape, "launch": launched, **how})


def test_a_whole_measurement(launched, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    argv = f"--scale smoke --users 4 --kind both --mpm event,prefork --out {path}".split()
    status, out, err = printed_by(lambda argv: main(argv, launch=launched), argv, capsys)
    assert status == 0, err
    rows = records.read(path)
    # The rows hold the seed of their order; a server measures both pages and is stopped.
    cells = in_rounds(plan(scale="smoke", mpms=("event", "prefork")).cells, [1], rows[0]["run_id"])
    order = [(c.mpm, kind) for c in cells for kind in c.parts]
    assert [(r["mpm"], r["kind"]) for r in rows] == order and len(order) == 4
    assert all(r["requests"] == 60 and r["failures"] == 0 and r["users"] == 4 for r in rows)
    assert len({r["run_id"] for r in rows}) == 1 and launched.stopped == 2
    assert ("prefork", {**DIRECTIVES["prefork"], "KeepAlive": False}) in launched.made
    assert all("MaxRequestWorkers=250" in r["directives"] for r in rows if r["mpm"] == "prefork")
    assert "requests/s, static page of 45 bytes" in out and f"rows in {path}" in out
    assert err.count("requests/s") == 4 and "[4/4] round 1, mpmkit " in err


def test_keep_alive_and_a_cell_that_its_requests_end_too_soon(launched, monkeypatch):
    table = small(launched, kinds=("script",), keep_alive=True, rounds=1, requests=30)
    (only,) = table.records
    assert launched.made[0][1]["KeepAlive"] is True
    assert only["keep_alive"] and only["scale"] == "custom" and only["reconnects"] > 0
    monkeypatch.setitem(SCALES, "full", QpsScale(10, None, 0.05, 1, least=0.3))
    (only,) = small(launched, scale="full").records
    assert only["duration_s"] >= 0.3 and only["requests"] > 10


def test_a_missing_program_of_a_way_to_run_the_script_is_one_line(capsys, monkeypatch):
    missing = reference_servers.NotInstalled("php-fpm", "apt install it")
    monkeypatch.setattr(competitors, "PhpFpm", lambda **_: (_ for _ in ()).throw(missing))
    assert main(["--kind", "script", "--script", "php-fpm", "--scale", "smoke"]) == 2
    said = "mpmkit: without php-fpm: php-fpm is not installed; apt install it\n"
    assert capsys.readouterr().err == said


def test_failed_requests_are_kept_and_shown(launched, monkeypatch):
    pages = {"static": Page("static", "/every/3", 45, "page")}
    monkeypatch.setattr(published, "PAGES", pages)
    table = small(launched, rounds=1, requests=30)
    assert table.records[0]["failures"] > 0 and "requests FAILED" in table.text()
    pages["static"] = Page("static", "/ok", 44, "page")
    said = r"no good answer; 0 of 30 .* well \(30 length\)"
    refused(ExperimentError, said, small, launched, rounds=1, requests=30)


def test_competitors_in_the_same_rounds_and_those_that_are_missing(launched, monkeypatch, tmp_path):
    def missing(mpm, **directives):
        raise reference_servers.NotInstalled("the foo server", "apt install foo")

    starts = {"uvicorn": launched, "foo": missing, "baz": Launches(lambda number: True)}
    forms = {name: ((name, ("event",), ("static",), start),) for name, start in starts.items()}
    monkeypatch.setattr(competitors, "FORMS", forms)
    path, said = tmp_path / "rows.csv", []
    table = small(launched, rounds=2, also=("all",), out=path, say=said.append)
    assert said == table.left_out and len(said) == 2
    assert said[0] == "without foo: the foo server is not installed; apt install foo"
    why = "without baz from round 1 on (0 rows of it are kept): baz, static: "
    assert said[1].startswith(why) and "is gone" in said[1] and "roof is on fire" in said[1]
    found = [(r["server"], r["mpm"], r["round"]) for r in records.read(path)]
    wanted = [(*who, n) for who in (("mpmkit", "event"), ("uvicorn", None)) for n in (1, 2)]
    assert sorted(found, key=str) == sorted(wanted, key=str)
    assert launched.made[0] == launched.made[1]  # both with event's directives
    text = table.text()
    assert table.planned == 4 and "NOT COMPLETE" not in text
    assert all(sentence in text for sentence in said)
    others = text.partition("static page of 45 bytes, other servers\n")[2].splitlines()
    assert [line.split()[0] for line in others[1:3]] == ["server", "uvicorn"]
    assert set(table.summary()["server"]) == {"mpmkit"}


@pytest.mark.rival
@pytest.mark.slow
def test_every_way_answers_every_request(tmp_path):
    """Ours and the real httpd's, as far as they are here: one small cell each under event."""
    how = {"requests": 60, "users": 4, "rounds": 1, "scale": "smoke"}
    how |= {"scripts": ("all",), "also": ("httpd",)}
    table = qps_table(PAGES, ("event",), **how, out=tmp_path / "rows.csv")
    rows = {(r["server"], r["script"]): r for r in table.records}
    assert {("mpmkit", None), ("mpmkit", "wsgi"), ("mpmkit", "cgi")} <= set(rows)
    left = " ".join(table.left_out)
    assert ("mpmkit", "php-fpm") in rows or "php-fpm" in left
    assert ("httpd", "cgi") in rows or "httpd" in left
    assert all(r["failures"] == 0 and r["requests"] == 60 for r in rows.values())


def test_the_recorded_demand_says_what_decides(monkeypatch, tmp_path):
    head, ours, httpd = what_decides()
    assert head.startswith("what decides between the MPMs, recorded on 20")
    assert "mpmkit demand" in head
    pairs = r"(\w+ / \w+ [\d.]+ \([\d.]+ to [\d.]+\) \w[^,]*(, )?){3}"
    for line, server in ((ours, "mpmkit"), (httpd, "httpd")):
        assert re.fullmatch(f"{server}: {pairs}", line), line
    monkeypatch.setattr(records, "recorded_folder", lambda: tmp_path)
    assert what_decides() == []
