"""What rounds allow to say: ratios, knees and noise, as functions of values; and two files of rows compared."""

import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.experiments import printed_by
from support.rows import BENCH, CAPACITY, DEMAND, MEMORY, ROW, SWEEP, demand_rows

from mpmkit.measure import compare, records, stats
from mpmkit.measure.stats import CHEAPER, DEARER, UNDECIDED

SAME = "the same within 3%"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.unlink(missing_ok=True)
    file = records.RecordFile(path, rows[0]["table"])
    for row in rows:
        file.append(row)
    return path


def a_run(seed: int, factor: float = 1.0, blocks: int = 10, **changes: Any) -> list[dict[str, Any]]:
    """Worker costs `factor` as much as usual."""
    costs = {"prefork": 30.0, "worker": 36.0 * factor}
    return demand_rows(costs, blocks, seed, noise=0.02, pace=0.0, **changes)


@pytest.mark.parametrize("factor, blocks, status, word", [
    (1.0, 30, 0, SAME), (1.1, 10, 1, DEARER), (0.9, 10, 0, CHEAPER), (1.03, 10, 0, UNDECIDED),
])  # fmt: skip
def test_the_exit_status_says_what_is_dearer(tmp_path, capsys, factor, blocks, status, word):
    a = write(tmp_path / "a.csv", a_run(1, blocks=blocks))
    b = write(tmp_path / "b.csv", a_run(2, factor, blocks, kernel="6.2"))
    xml = tmp_path / "junit.xml"
    found, printed, said = printed_by(compare.main, [str(a), str(b), "--junit", str(xml)], capsys)
    worker = next(line for line in printed.splitlines() if line.startswith("mpmkit worker"))
    assert found == status and word in worker and "unpaired" not in printed
    assert said == "mpmkit: two machines: kernel is 6.1, then 6.2\n"
    suite = ElementTree.parse(xml).getroot()
    case = next(one for one in suite if one.get("name") == "mpmkit worker page")
    kind = {DEARER: "failure", UNDECIDED: "skipped"}.get(word, "system-out")
    assert suite.get("tests") == "2" and suite.get("failures") == str(int(word == DEARER))
    assert case[0].tag == kind and word in (case[0].get("message") or case[0].text)


def test_the_margin_is_the_readers_and_other_rounds_are_compared_unpaired(tmp_path, capsys):
    files = [str(write(tmp_path / f"{n}.csv", a_run(n, 1 + n / 10))) for n in (0, 1)]
    for margin, status in (("20%", 0), ("0.02", 1), ("nothing", 2)):
        assert printed_by(compare.main, [*files, "--margin", margin], capsys)[0] == status
    late = [{**row, "round": row["round"] + 20} for row in a_run(2, 1.2, 6)]
    files[1] = str(write(tmp_path / "late.csv", late))
    status, printed, _ = printed_by(compare.main, files, capsys)
    assert status == 1 and "unpaired" in printed


def rounds(row: dict[str, Any], column: str, *values: float, **changes: Any) -> list[dict]:
    return [{**row, "round": n, column: value, **changes} for n, value in enumerate(values, 1)]


@pytest.mark.parametrize(("row", "column", "name", "dearer"), [
    (ROW, "server_cpu_us", "mpmkit event static", 1.2),
    (BENCH, "server_cpu_us", "mpmkit event new", 1.2),
    (SWEEP, "qps", 'mpmkit event {"ThreadsPerChild": 5}', 1 / 1.2),
])  # fmt: skip
def test_each_table_has_its_cost(row, column, name, dearer):
    values = (40.0, 41.0, 40.5, 40.2)
    a = compare.costs(rounds(row, column, *values))
    b = compare.costs(rounds(row, column, *(dearer * value for value in values)))
    assert compare.compare(a, b)[name].word == DEARER and list(a) == [name]


def test_what_only_one_file_has_is_named(tmp_path, capsys):
    a = write(tmp_path / "a.csv", a_run(1))
    theirs = [row for row in a_run(2) if row["mpm"] == "worker"]
    theirs += [{**row, "server": f"rival{n}"} for n in range(6) for row in theirs]
    b = write(tmp_path / "b.csv", theirs)
    status, _, said = printed_by(compare.main, [str(a), str(b)], capsys)
    rivals = ", ".join(f"rival{n} worker page" for n in range(4))
    ours, theirs = f"only in {a}: mpmkit prefork page", f"only in {b}: {rivals} and 2 more"
    assert status == 0 and said == f"mpmkit: {ours}\nmpmkit: {theirs}\n"


@pytest.mark.parametrize(("rows", "said"), [
    (None, "b.csv: cannot be read"), ([], "b.csv: is empty; it has no row to compare"),
    ([ROW], "a.csv holds demand, {b} holds qps; both must be of one table"),
    ([CAPACITY], "a.csv holds demand, {b} holds capacity"),
    ([{**DEMAND, "work": "script"}], "have nothing in common to compare; only in"),
    ([{**DEMAND, "flaw": "failed: all"}], "have nothing in common to compare"),
])  # fmt: skip
def test_bad_input_is_named_and_ends_with_2(tmp_path, capsys, rows, said):
    a, b = write(tmp_path / "a.csv", a_run(1)), tmp_path / "b.csv"
    if rows:
        write(b, rows)
    elif rows is not None:
        records.RecordFile(b, "demand")
    status, printed, errors = printed_by(compare.main, [str(a), str(b)], capsys)
    assert status == 2 and not printed and said.format(b=b) in errors


def test_tables_without_a_cost_and_a_full_disk(tmp_path, capsys):
    a = str(write(tmp_path / "a.csv", [CAPACITY]))
    status, _, said = printed_by(compare.main, [a, a], capsys)
    assert status == 2 and "rows of capacity have no cost; compare demand, qps" in said
    b = str(write(tmp_path / "b.csv", a_run(1)))
    status, printed, said = printed_by(compare.main, [b, b, "--junit", "/dev/full"], capsys)
    assert status == 2 and "No space left on device" in said and "mpmkit worker page" in printed
    # What the generator limited is not compared.
    assert compare.costs(rounds(SWEEP, "qps", 50.0, generator_bound=True)) == {}
    assert compare.costs(rounds(MEMORY, "level", 10, scope="child")) == {}


def test_a_slow_minute_that_meets_all_is_no_difference():
    one = [100, 50, 100, 60, 100, 70, 100]
    other = [value * 0.9 for value in one]
    paired = stats.ratio(one, other)
    assert paired.low == pytest.approx(paired.high) == pytest.approx(1 / 0.9)
    assert paired.excludes(1.0)
    assert min(one) < max(other)  # though their ranges overlap
    for bad in (([], [1]), ([1], [0])):
        with pytest.raises(ValueError, match="a ratio needs"):
            stats.ratio(*bad)


def test_the_points_of_students_t():
    points = [stats.t_quantile(freedom) for freedom in range(200)]
    assert points == sorted(points, reverse=True) and points[0] == math.inf
    assert (points[1], points[10], points[30]) == (12.706, 2.228, 2.042)
    assert (points[60], points[120]) == pytest.approx((2.000, 1.980), abs=0.002)
    # One round shows no noise.
    once = stats.ratio([3.0], [2.0])
    assert (once.value, once.level, once.excludes(1.0)) == (1.5, 0.0, False)
    # Rounds that only one has are no pair.
    found = stats.paired({1: 2.0, 2: 9.0, 4: 8.0}, {4: 2.0, 1: 1.0, 3: 7.0})
    assert found.value == pytest.approx(math.sqrt(2 * 4)) and found.level == 0.95


def test_what_has_a_knee():
    """Not a straight line, a level one, one that bends upwards, nor two points; one that falls again."""
    lines = (
        [10, 20, 30, 40],
        [5, 5, 5, 5],
        [1, 1, 1, 9],
        [1, 2],
        [10, 40, 41, 20],
        [3, 6, 9, 10, 11],
    )
    found = [(stats.knee(range(1, len(ys) + 1), ys), ys) for ys in lines]
    assert [knee for knee, _ in found] == [None] * 4 + [2, 3]
    assert stats.knee([5, 4, 3, 2, 1], lines[-1][::-1]) == 3, "in any order"


def test_each_round_measures_all_in_an_order_that_is_random_by_its_seed():
    blocks = [stats.turns(range(8), number, seed="a1") for number in range(1, 30)]
    assert all(sorted(block) == list(range(8)) for block in blocks)
    assert len({tuple(block) for block in blocks}) > 20
    assert blocks == [stats.turns(range(8), number, seed="a1") for number in range(1, 30)]
    assert blocks[0] != stats.turns(range(8), 1, seed="a2")


def test_noise_is_the_standard_deviation_of_logarithms():
    source = random.Random(3)
    few, many = ([math.exp(source.gauss(5, 0.05)) for _ in range(count)] for count in (40, 4000))
    # Unlike the range over the median, it does not grow with the number of rounds.
    assert stats.noise(few) == pytest.approx(0.05, rel=0.3)
    assert stats.noise(many) == pytest.approx(0.05, rel=0.05)
    assert math.isnan(stats.noise([5.0])) and math.isnan(stats.noise([0, 0, 1]))


@pytest.mark.parametrize("p99, requests, value, cut", [
    (12.0, 999, math.nan, False), (12.0, 1000, 12.0, False), (1810.0, 1000, 1810.0, True),
    (None, 5000, math.nan, False),
])  # fmt: skip
def test_a_99th_percentile_takes_1000_requests_and_a_run_that_is_longer(p99, requests, value, cut):
    row = {"p99_ms": p99, "requests": requests, "duration_s": 2.0}
    assert stats.p99(row) == (pytest.approx(value, nan_ok=True), cut)
