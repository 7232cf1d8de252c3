"""Pages with figures from data/recorded say what the rows say."""

from pathlib import Path

from mpmkit import lab
from mpmkit.measure import records, stats, utilisation
from mpmkit.measure.demand import DemandTable

ROOT = Path(__file__).resolve().parent.parent


def test_which_mpm_has_the_recorded_figures():
    page = (ROOT / "docs" / "WHICH-MPM.md").read_text()
    cliffs = {(row["case"], row["kept"]): row for row in lab.recorded("03-cliffs")}
    cases = [
        ("prefork", 500), ("worker", 500), ("event", 500), ("event", 2000),
        ("event, factor 20", 2000),
    ]  # fmt: skip
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
    counted = lab.recorded("05-counter")
    numbers = (one["counted"] for one in counted.values())
    assert "prefork counted {}, worker {}, event {}".format(*numbers) in page


def test_pages_have_the_recorded_service_demand():
    readme, demand, which = (
        (ROOT / name).read_text() for name in ("README.md", "docs/DEMAND.md", "docs/WHICH-MPM.md")
    )
    rows = {
        name: records.read(records.recorded_folder() / f"demand-{name}.csv")
        for name in ("earlier", "demo", "works")
    }
    table = DemandTable(rows["demo"])
    table.works = ("page",)
    assert table.text().split("\n\n")[1] in readme
    earlier, later = (utilisation.comparisons(rows[name], "page") for name in ("earlier", "demo"))
    words = {pair: (earlier[pair].word, later[pair].word) for pair in later}
    for pair, (word, later_word) in words.items():
        both = f"{_said(earlier[pair], word)} | {_said(later[pair], later_word)}"
        assert f"| {pair} | {both} |" in demand
        assert word == later_word or word == stats.UNDECIDED
    kept = utilisation.comparisons(rows["works"], "keep-alive")
    script = utilisation.comparisons(rows["works"], "script")
    for kind, found in (("script", script), ("keep-alive", kept)):
        for pair, one in found.items():
            assert f"| {kind} | {pair} | {_said(one, one.word)} |" in demand
    for what, found in (("new", later), ("kept", kept)):
        for server in ("httpd", "mpmkit"):
            pairs = (f"{server} {mpm} / {server} prefork" for mpm in ("worker", "event"))
            said = " | ".join(stats.ratio_text(found[pair].ratio) for pair in pairs)
            assert f"| {server}, {what} connections | 1 | {said} |" in which


def _said(one: stats.Decision, word: str) -> str:
    ratio = one.ratio
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) {word}"
