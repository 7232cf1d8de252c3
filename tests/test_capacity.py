"""Capacity: the bisection as a function of what was measured, rejected cells, resumption, one live run."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.experiments import printed_by
from support.rows import CAPACITY

import mpmkit
from mpmkit.measure import capacity, experiment, records
from mpmkit.measure.capacity import CapacityTable, bracket, flaw_of, next_rate
from mpmkit.measure.experiment import ExperimentError


def bisected(limit: float, first: float, precision: float) -> list[tuple[float, bool]]:
    steps: list[tuple[float, bool]] = []
    while rate := next_rate(steps, first, precision):
        steps.append((rate, rate <= limit))
    return steps


@given(st.floats(100, 10_000), st.floats(500, 3000), st.floats(0.02, 0.3))
def test_bisection_finds_the_limit(limit, first, precision):
    steps = bisected(limit, first, precision)
    low, high = bracket(steps)
    assert low <= limit < high and len(steps) <= capacity.MOST_STEPS
    assert high <= low * (1 + precision) * 1.0001 or len(steps) == capacity.MOST_STEPS


@given(st.lists(st.tuples(st.floats(1, 1e5), st.booleans()), max_size=20))
def test_whatever_was_measured_the_next_rate_lies_between_what_is_known(steps):
    """A server near its limit may hold a rate once and not hold a lower one the next time."""
    low, high = bracket(steps)
    rate = next_rate(steps, 1000.0, 0.05)
    assert low < high and (rate is None or low < rate < high)
    assert len(steps) < capacity.MOST_STEPS or rate is None


def rows(*limits: tuple[str, int, float], **changes: Any) -> list[dict[str, Any]]:
    cells = [(mpm, n, *step) for mpm, n, limit in limits for step in bisected(limit, 1000.0, 0.05)]
    names = ("mpm", "round", "rate", "holds")
    return [{**CAPACITY, **dict(zip(names, cell, strict=True)), **changes} for cell in cells]


def test_the_table_gives_capacities_what_may_be_said_of_them_and_what_was_rejected():
    source = random.Random(1)
    cells = itertools.product(range(1, 9), (("prefork", 2000.0), ("worker", 1500.0)))
    limits = [(mpm, n, limit * source.uniform(0.98, 1.02)) for n, (mpm, limit) in cells]
    table = CapacityTable(rows(*limits), planned=24)
    said, before = table.text(), table.capacities("prefork")
    assert table.measured == 16 and "NOT COMPLETE: 16 of 24 bisections" in said
    assert "worker / prefork, time a request: 1.3" in said and "dearer" in said
    line = next(line for line in said.splitlines() if line.startswith("prefork"))
    assert 1800 < float(line.split()[1].replace(",", "")) < 2050 and line.split()[-1] == "8"
    other = "other work on the machine: 20% of its CPU time was not generator, server or idle"
    table.records += rows(("prefork", 1, 500.0), flaw=other)
    assert table.capacities("prefork") == before
    assert f"cells were rejected; last: {other}" in table.text()


@pytest.mark.parametrize(("changes", "said"), [
    ({}, ""),
    ({"budget": 0.96}, "other work on the machine: 4% of its CPU time was not generator"),
    ({"generator_u": 0.9}, "generator: it used 90% of its CPU at 1,000 requests/s; make the"),
])  # fmt: skip
def test_a_cell_counts_only_if_the_server_was_what_was_measured(changes, said):
    found = flaw_of({**CAPACITY, **changes})
    assert found.startswith(said) and bool(found) == bool(said)


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    file = records.RecordFile(tmp_path / "rows.csv", "capacity")
    design = experiment.identity(("prefork",), 50.0, 300.0, 1.0, 0.3)
    for rate, held in itertools.islice(bisected(900.0, 1750.0, 0.3), 2):
        file.append({**CAPACITY, "design": design, "rate": rate, "holds": held})

    def launch(mpm: str, **directives: Any) -> Any:
        raise RuntimeError("no server today")

    how: dict[str, Any] = {"limit_ms": 50, "cost_us": 300, "scale": "smoke", "out": file.path}
    with pytest.raises(ExperimentError, match="no server today") as error:
        mpmkit.capacity_table(["prefork"], launch=launch, **how)
    assert len(error.value.table.steps(1, "prefork")) == 2 and len(records.read(file.path)) == 2
    with pytest.raises(records.RecordError, match="holds another capacity"):
        mpmkit.capacity_table(["event"], launch=launch, **how)


def test_a_run_measures_or_says_that_other_work_was_on_the_machine(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(capacity.SCALES, "smoke", (1, 0.5, 0.8))
    out = tmp_path / "rows.csv"
    argv = ["--scale", "smoke", "--mpm", "event", "--cost", "2000", "--out", str(out)]
    status, printed, said = printed_by(capacity.main, argv, capsys)
    found = records.read(out)
    used = [row for row in found if not row["flaw"]]
    for row in found:
        assert row["limit_ms"] == 50 and row["cost_us"] == 2000 and row["requests"] > 0
        assert bool(row["flaw"]) == (row["budget"] < 0.97 or row["generator_u"] > 0.8)
        assert not row["holds"] or (row["p99_ms"] <= 50 and not row["unsent"] + row["failures"])
    if status == 0:
        assert 0 < max(row["rate"] for row in used if row["holds"]) < 600 and "event" in printed
    else:
        assert status == 1 and "3 cells in a row were rejected: " in said
        assert f"{len(found) - len(used)} of {len(found)} cells were rejected" in printed
