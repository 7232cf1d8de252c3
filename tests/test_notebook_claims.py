"""What notebooks and pages say and the README's pictures draw is computed from what decides it."""

import re
from pathlib import Path

import pytest
from helpers import article, cliffs, notebook_helpers, sweep_plots, theory
from support.calls import refused

import mpmkit
from benchmarks import ratios, works
from benchmarks.article import findings
from docs._tools import readme_figures
from mpmkit import lab
from mpmkit.lab.plots import alt_text
from mpmkit.measure import published, records, stats, sweep
from mpmkit.measure.demand import DemandTable, comparisons
from mpmkit.measure.qps import QpsTable
from mpmkit.measure.sizing import lines

EDGES = {"prefork": 250, "worker": 400, "event": 1200, "event, factor 20": 8400}
ROOT = Path(__file__).resolve().parent.parent


def test_after_a_crash_a_new_client_is_asked_for_at_once():
    """Not after a pause of the instrument's own, which was 200 ms."""
    single = ("01-prefork-crash", "02-worker-crash", "03-event-crash")
    crashes = {name: lab.recorded(name) for name in single} | lab.recorded("09-crash")
    for name, one in crashes.items():
        assert 0 < one["served_again_s"] < 0.15, name
        assert 1 <= one["lost"] <= one["connections"] and one["lost"] == one["victim_held"]


def test_a_connection_costs_a_slope_not_a_height():
    run = lab.recorded("03-event-holds")
    each = notebook_helpers.kb_a_connection(run, 80, 160)
    height = 1000 * (run.most("pss_mb") - run.samples[0].pss_mb) / 160
    assert 0 <= each < 5 < height, "the first connections also pay for what threads need at first"
    # A memory limit is reached near there: it counts the kernel's memory, too, not files that were there before.
    costs = lines(records.read(lab.replay.place_of("memory-demo.csv")), ("pss_kb",))
    for row in lab.recorded("06-limit"):
        line = costs["mpmkit", row["mpm"], "busy"]
        assert 0.6 < (row["mib"] * 1024 - line.base) / line.slope / row["held"] < 1.4, row["mpm"]
        assert row["killed"] and row["lost"] >= row["held"] and not row["runs"], "the parent went"


def test_connections_are_counted_after_the_newcomer_is_in():
    kept = lab.recorded("09-kept")
    assert kept["event"]["kept"] == 16 and kept["event"]["wait"] < 0.1
    shorter = kept["worker, KeepAliveTimeout 1"]
    assert shorter["kept"] < 16, "the newcomer is in because one of the sixteen was shut out"
    assert kept["worker, KeepAlive Off"]["kept"] == 0
    # The eight finish after two seconds and keep their connections for KeepAliveTimeout, 5 s.
    answer = lab.recorded("09-full")["answer"]
    assert answer["connect_s"] < 0.1 and answer["first_byte_s"] == pytest.approx(7, abs=0.3)


def test_beyond_the_knee_the_wait_grows_with_the_users():
    rows = records.read(lab.replay.place_of("07-users.csv"))
    steps = sweep.SweepTable(rows, ("users",)).summary().set_index("users", drop=False)
    eight, most = steps.loc[8], steps.loc[32]
    assert sweep_plots.turn_ms(most) / sweep_plots.turn_ms(eight) == pytest.approx(4, rel=0.1)
    assert most["p50_ms"] / eight["p50_ms"] < 2.5, "the median knows only those who are let in"
    # Erlang C is within ten per cent of what was measured.
    rows = lab.recorded("08-open")
    service = sum(r["service"] * r["rate"] for r in rows) / sum(r["rate"] for r in rows)
    for row in rows:
        predicted = theory.mean_response(row["rate"], service, 8)
        assert row["response"] == pytest.approx(predicted, rel=0.1)
        assert row["inside"] == pytest.approx(theory.little(row["rate"], row["response"]), rel=0.1)


def test_the_page_has_what_ab_found_on_httpd():
    case = article.recorded(lab.replay.place_of("article-full.csv"))
    page = (ROOT / "docs" / "MEASURING.md").read_text()
    words = article.steps(case).loc["httpd"].xs("requests/s", level=1)
    out = (words == "came out").all()
    assert out[out].index.tolist() == ["cold, kept"]
    for work, kept in article.TURNS.items():
        rows = [row for row in case.used if (row["server"], row["work"]) == ("httpd", work)]
        found = [one for one in findings(rows) if one.measure == "requests/s"]
        said = " | ".join(f"{one.word}: {re.search(r': (.*?[)])', one.line)[1]}" for one in found)
        assert f"| {'kept' if kept else 'new'} connections, {work[:4]} | {said} |" in page


@pytest.mark.parametrize("case", EDGES)
def test_newcomers_begin_to_wait_where_directives_and_simulator_say(case):
    assert cliffs.predicted(case) == cliffs.simulated(case) == EDGES[case]
    rows = [row for row in lab.recorded("03-cliffs") if row["case"] == case]
    assert len(rows) >= 3
    for row in rows:
        assert (row["wait_ms"] > 1000 * cliffs.LATE) == (row["kept"] > EDGES[case]), row
    said = cliffs.where(case, rows)
    assert f"by the directives from {EDGES[case]:,} on" in said
    assert ("newcomers wait from between" in said) == (rows[-1]["kept"] > EDGES[case])


def test_below_the_cliff_newcomers_wait_for_a_pool_that_grows():
    rows = lab.recorded("03-cliffs")
    (said,) = cliffs.growing(rows)
    assert said.startswith("worker: with 200 kept connections a newcomer waited up to 1.0 s")
    assert "of 175 threads" in said and said.endswith("(7 processes, at last 14)")
    late = [row for row in rows if 300 < row["wait_ms"] < 1000 * cliffs.LATE]
    assert [row["kept"] for row in late] == [200], "each such wait has its sentence"
    assert "full at 1,200" in alt_text(cliffs.cliffs_figure(rows))


def test_browsers_that_think_get_what_the_bound_allows():
    rows = lab.recorded("03-think")
    assert all(row["qps"] <= 1.1 * row["bound"] for row in rows)
    rates = {(row["case"], row["browsers"]): row["qps"] for row in rows}
    most = max(cliffs.BROWSERS)
    assert rates["event, factor 20", most] >= 10 * rates["prefork", most]
    said = alt_text(cliffs.think_figure(rows))
    assert said.count(" of ") >= len(EDGES) * len(cliffs.BROWSERS)


def test_which_mpm_has_the_recorded_figures():
    page = (ROOT / "docs" / "WHICH-MPM.md").read_text()
    cliffs = {(row["case"], row["kept"]): row for row in lab.recorded("03-cliffs")}
    cases = [*((mpm, 500) for mpm in mpmkit.MPMS), ("event", 2000), ("event, factor 20", 2000)]
    for case, clients in cases:
        row = cliffs[case, clients]
        name = case.replace("factor", "AsyncRequestWorkerFactor")
        assert f"| {name} | {clients:,} | {row['held']:,} | {row['wait_ms']:,.0f} |" in page, row
    think = {row["case"]: row for row in lab.recorded("03-think") if row["browsers"] == 1000}
    rates = [f"{think[mpm]['qps']:,.0f}" for mpm in ("prefork", "worker", "event")]
    said = "prefork answered {} per\nsecond, worker {}, event {}".format(*rates)
    assert said in page and f"{think['event']['bound']:.0f} pages per second" in page
    for case, row in lab.recorded("09-crash").items():
        assert f"| {case}{' a child' * ('thread' in case)} | {row['lost']}" in page, case
    numbers = (one["counted"] for one in lab.recorded("05-counter").values())
    assert "prefork counted {}, worker {}, event {}".format(*numbers) in page


def test_pages_have_the_recorded_service_demand():
    names = ("README.md", "docs/DEMAND.md", "docs/WHICH-MPM.md")
    readme, demand, which = ((ROOT / name).read_text() for name in names)
    files = {name: f"demand-{name}.csv" for name in ("earlier", "demo", "works")}
    rows = {name: records.read(records.recorded_folder() / file) for name, file in files.items()}
    table = DemandTable(rows["demo"])
    table.works = ("page",)
    assert table.text().split("\n\n")[1] in readme
    earlier, later = (comparisons(rows[name], "page") for name in ("earlier", "demo"))
    words = {pair: (earlier[pair].word, later[pair].word) for pair in later}
    for pair, (word, later_word) in words.items():
        both = f"{_said(earlier[pair], word)} | {_said(later[pair], later_word)}"
        assert f"| {pair} | {both} |" in demand
        assert word == later_word or stats.UNDECIDED in (word, later_word)
    for kind in ("script", "keep-alive"):
        kept = comparisons(rows["works"], kind)
        for pair, one in kept.items():
            assert f"| {kind} | {pair} | {_said(one, one.word)} |" in demand
    for what, found in (("new", later), ("kept", kept)):
        for server in ("httpd", "mpmkit"):
            pairs = (f"{server} {mpm} / {server} prefork" for mpm in ("worker", "event"))
            said = " | ".join(stats.ratio_text(found[pair].ratio) for pair in pairs)
            assert f"| {server}, {what} connections | 1 | {said} |" in which


def _said(one: stats.Decision, word: str) -> str:
    ratio = one.ratio
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) {word}"


def cell(work: str, mpm: str, median: float, *, rival: str = "httpd", bound: int = 0):
    more = enumerate((-0.2, 0, 0, 0, 0.3))
    mine = [{"qps": median + apart, "client_bound": number < bound} for number, apart in more]
    return ratios.Comparison(mpm, work, rival, mine, [{"qps": 1.0}] * 5)


def test_each_cell_is_a_marker_and_an_interval():
    new, nginx = cell("new", "prefork", 1.5), cell("new", "event", 0.4, rival="nginx")
    free = cell("idle-5000", "event", 0.95, rival=works.FREE)
    figure = readme_figures.ratios([new, cell("file-10m", "event", 1.1), nginx, free])
    lines, markers = figure.data[::2], figure.data[1::2]
    assert [marker.x[0] for marker in markers] == [1.5, 1.1]
    both = [1.3, 1.5, 1.5, 1.5, 1.8], [0.9, 1.1, 1.1, 1.1, 1.4]
    for line, rounds in zip(lines, both, strict=True):
        ratio = stats.ratio(rounds, [1.0] * 5)
        assert line.x == pytest.approx((ratio.low, ratio.high))
    assert "new connection each prefork 1.50" in alt_text(figure) and "0.40" not in alt_text(figure)
    assert list(figure.layout.yaxis.ticktext) == ["45 B page<br>new connection each", "10 MB file"]
    figure = readme_figures.ratios([new, cell("new", "event", 1.1, bound=3)])
    said = [trace.text[1].strip() for trace in figure.data if trace.mode == "lines+text"]
    assert said == ["prefork 1.50", "event 1.10*"] and "at its limit" in figure.layout.title.text
    refused(ValueError, "mpmkit bench --only bench", readme_figures.ratios, [nginx])


def test_the_pages_have_the_tables_of_what_is_recorded():
    """After a new recording: python -m docs._tools.readme_figures."""
    names = ("qps-full", "qps-demo", "qps-scripts")
    names += ("memory-demo", "memory-314", "bench-demo", "bench-314")
    rows = {name: records.read(records.recorded_folder() / f"{name}.csv") for name in names}
    pages = "README.md", "docs/PERFORMANCE.md"
    readme, performance = ((ROOT / name).read_text() for name in pages)
    tables = QpsTable(rows["qps-full"], published.figures()).text().split("\n\n")[:2]
    tables += [readme_figures.servers_text(rows["qps-demo"], "static")]
    tables += [readme_figures.scripts_text(rows["qps-scripts"])]
    for name in names[3:5]:
        tables += [readme_figures.memory_text(rows[name]).partition("\n\n")[0]]
    for table in tables:
        assert table in readme, table
    for name in names[-2:]:
        assert ratios.table(ratios.comparisons(rows[name])) in performance, name
    refused(ValueError, "no row of cgi", readme_figures.servers_text, rows["qps-demo"], "cgi")
