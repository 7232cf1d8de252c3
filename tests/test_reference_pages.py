"""Pages with figures from data/recorded say what the rows say."""

from pathlib import Path

from mpmkit import lab

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
