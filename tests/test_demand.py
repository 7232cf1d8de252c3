"""Service demand: the four words by simulation, S = U/X from rows, blocks, CPUs; capacity: its bisection as a
function of what was measured, rejected cells, resumption; a live run of each."""

import itertools
import math
import os
import random
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.calls import printed_by, refused
from support.rows import CAPACITY, DEMAND
from support.rows import demand_rows as rows
from support.waiting import poll_until

import mpmkit
from mpmkit.load.histogram import Histogram
from mpmkit.load.profile import RequestSpec
from mpmkit.measure import capacity, cpus, demand, experiment, procfs, records, stats
from mpmkit.measure.cpus import Placement, Spent
from mpmkit.measure.demand import COUNTED, LENGTH, DemandTable, Turn, whole_blocks
from mpmkit.measure.stats import CHEAPER, DEARER, UNDECIDED, decide

plan = demand.demand_table.__wrapped__
SAME = "the same within 3%"

COSTS_OF = {"prefork": 30.0, "control": 30.0, "worker": 36.0, "event": 36.3}
PAIR = "mpmkit worker / mpmkit prefork"


def demand_flaw(row: dict) -> str:
    return demand.flaw_of(row, 4)


@pytest.mark.parametrize(("low", "high", "word"), [
    (1.04, 1.10, DEARER),
    (1.02, 1.10, UNDECIDED),  # it excludes 1, and may be less than the margin
    (0.98, 1.02, SAME),
    (1.005, 1.025, SAME),  # it excludes 1 as well, and lies within what was called the same
    (0.96, 1.02, UNDECIDED), (0.90, 0.98, UNDECIDED), (0.90, 0.97, CHEAPER),
])  # fmt: skip
def test_a_word_takes_the_whole_interval(low, high, word):
    assert stats.word_of(stats.Interval(math.sqrt(low * high), low, high, 0.95), 0.03) == word


def words(seed: int, blocks: int, factor: float, noise: float, tries: int) -> Counter[str]:
    """What is decided on two servers of which one costs `factor` as much: a block is slow or fast for both
    (10%), and each cell has a noise of its own."""
    source, found = random.Random(seed), Counter[str]()
    for _ in range(tries):
        paces = [source.gauss(0, 0.1) for _ in range(blocks)]
        one, other = (
            {n: cost * math.exp(pace + source.gauss(0, noise)) for n, pace in enumerate(paces)}
            for cost in (30 * factor, 30)
        )
        found[decide(one, other).word] += 1
    return found


@pytest.mark.parametrize("blocks", [2, 6, 12, 30])
def test_false_alarms_stay_below_five_percent_whatever_the_number_of_blocks(blocks):
    """Nor is what differs by more than the margin called the same."""
    for factor, wrong in ((1.0, DEARER), (1.04, SAME)):
        found = words(blocks, blocks, factor, 0.06, 600)
        assert found[wrong] + found[CHEAPER] <= 30


def test_an_open_question_says_how_many_blocks_would_answer_it():
    def decided(times: int) -> stats.Decision:
        return decide(dict(enumerate((0.95, 1.05) * times)), dict.fromkeys(range(2 * times), 1.0))

    few = decided(3)
    assert few.word == UNDECIDED and 1 < few.more < 30
    assert str(few).endswith(f"undecided ({few.more} more blocks would decide)")
    assert decided(math.ceil((few.blocks + few.more) / 2) + 1).word == SAME
    assert "(one block)  undecided (two blocks at least" in str(decide({1: 1.0}, {1: 2.0}))
    edge = decide({1: 1.02, 2: 1.04, 3: 1.03}, dict.fromkeys((1, 2, 3), 1.0))
    assert "(more than 1,000 blocks would be needed)" in str(edge)
    assert decide({1: 1.0}, {2: 1.0}).ratio.high == math.inf, "other blocks are no pairs"
    refused(ValueError, "both sides need one at least", decide, {1: 1.0}, {})


def test_the_table_says_what_was_put_in():
    theirs = rows({"prefork": 60.0, "event": 90.0}, server="httpd", seed=2)
    found = demand.comparisons(rows(COSTS_OF) + theirs, "page")
    assert {pair: decision.word for pair, decision in found.items()} == {
        "mpmkit prefork (A/A) / mpmkit prefork": SAME, "mpmkit worker / mpmkit prefork": DEARER,
        "mpmkit event / mpmkit prefork": DEARER, "mpmkit event / mpmkit worker": SAME,
        "httpd event / httpd prefork": DEARER, "mpmkit prefork / httpd prefork": CHEAPER,
        "mpmkit event / httpd event": CHEAPER,
    }  # fmt: skip
    assert found[PAIR].ratio.value == pytest.approx(1.2, rel=0.01)
    table = DemandTable(rows(COSTS_OF), planned=32)
    assert table.measured == 32 and "NOT COMPLETE" not in table.text()


def test_a_row_with_a_flaw_is_shown_and_not_used():
    some = rows(COSTS_OF)
    for row in some:
        if row["mpm"] == "worker" and row["rate"] == 4000:
            row.update(flaw="generator: it used 80% of its CPU", server_u=0.99)
    assert demand.comparisons(some, "page")[PAIR].ratio.value == pytest.approx(1.2, rel=0.01)
    said = DemandTable(some, works=("page", "script")).text()
    for words in ("8 of 96 rows are not used", "script: no row can be used",
                  "8 for generator; the first of them: it used"):  # fmt: skip
        assert words in said
    # A block that was measured again counts once.
    old = rows({"prefork": 30.0, "worker": 99.0}, blocks=2)
    new = rows({"prefork": 30.0, "worker": 36.0})
    again = [{**row, "run_id": "later"} for row in new if row["round"] == 2]
    one = demand.comparisons(old[: len(old) // 2] + again, "page")[PAIR]
    assert one == demand.comparisons(old + again, "page")[PAIR] and one.blocks == 2


def test_r_squared_shows_whether_it_is_a_line_through_the_origin():
    def fit(*us: float) -> float | None:
        return stats.r_squared([[point] * 2 for point in zip((1000.0, 2000.0, 4000.0), us)])  # noqa: B905

    assert fit(0.03, 0.06, 0.12) > 0.9999
    assert fit(0.13, 0.16, 0.22) < 0.5, "a line, but not through the origin"
    assert fit(0.03, 0.12, 0.10) < 0.9 and fit(0.03) is None


@pytest.mark.parametrize(("flaw_of", "changes", "said"), [
    (demand_flaw, {}, ""), (capacity.flaw_of, {}, ""),
    (demand_flaw, {"generator_u": 0.61}, "generator: it used 61% of its CPU, more than 60%, at 1,000 requ"),
    (demand_flaw, {"unsent": 3}, "failed: 0 requests failed, 3 were not sent"),
    (demand_flaw, {"failures": 2}, "failed: 2 requests failed"),
    (demand_flaw, {"seconds": 0.1}, "other work: more than half of its turns were disturbed by it, or "),
    (capacity.flaw_of, {"budget": 0.96}, "other work on the machine: 4% of its CPU time was not generator"),
    (capacity.flaw_of, {"generator_u": 0.9}, "generator: it used 90% of its CPU at 1,000 requests/s; make the"),
])  # fmt: skip
def test_flaws_name_their_cause(flaw_of, changes, said):
    """A row counts only if the server was what was measured."""
    found = flaw_of({**(CAPACITY if flaw_of is capacity.flaw_of else DEMAND), **changes})
    assert found.startswith(said) and bool(found) == bool(said)


@pytest.mark.parametrize(("allowed", "siblings", "where", "said"), [
    ({0, 1}, {0: {0}}, (0, 1), ""), ({0, 1, 2, 3}, {0: {0, 1}}, (0, 2), ""),
    ({2, 5}, {2: {2, 5}}, (2, 5), "CPUs 2 and 5 are SMT siblings"),
    ({4}, {4: {4}}, (4, 4), r"one CPU \(CPU 4\) for generator and server: only the CPU"),
])  # fmt: skip
def test_generator_and_server_get_a_core_each_or_a_note_says_so(allowed, siblings, where, said):
    found = cpus.place(allowed, siblings.__getitem__)
    assert (found.generator, found.server) == where and found.shared == (where[0] == where[1])
    assert len(found.notes) == bool(said) and all(re.match(said, note) for note in found.notes)


def test_a_server_that_does_not_start_leaves_this_thread_where_it_was():
    assert cpus.cpu_list("0-1,4\n") == {0, 1, 4} and cpus.cpu_list("\n") == set()
    before, where = os.sched_getaffinity(0), cpus.here()

    def start() -> Any:
        assert os.sched_getaffinity(0) == {where.server}
        no_server()

    with pytest.raises(RuntimeError, match="no server today"), cpus.pinned(start, where):
        raise AssertionError("not reached")
    assert os.sched_getaffinity(0) == before
    # A looper takes the idle time of its CPU, and ends with it.
    cpu = max(before)
    with cpus.loopers({cpu}) as awake:
        pid = awake[cpu]
        assert os.sched_getaffinity(pid) == {cpu} and os.sched_getscheduler(pid) == os.SCHED_IDLE
        poll_until(lambda: procfs.cpu_ns([pid]) > 5e7, what="50 ms of its CPU", cap=60)
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize(("shared", "busy"), [(False, 0.3), (True, 0.2)])
def test_what_passed_between_two_readings(shared, busy, monkeypatch):
    """One CPU for both: the server's own time counts, not all that the CPU did."""
    reader, readings = cpus.Reader(Placement(int(shared), 1), {1: 7}, [8]), []
    reader._pids, own = [[1], [8]], {1: 5.0, 7: 2.0, 8: 1.0}
    monkeypatch.setattr(procfs, "clock_ns", lambda pid: own[pid] * 1e9)
    for clock, idle, steal in ((100.0, (6.0, 1.8), 1.0), (102.0, (7.8, 2.0), 1.2)):
        times = [SimpleNamespace(idle=one, iowait=0.2, steal=steal) for one in idle]
        monkeypatch.setattr("psutil.cpu_times", lambda percpu, times=times: times)
        monkeypatch.setattr("time.monotonic", lambda now=clock: now)
        readings += reader()
        own |= {1: 5.5, 7: 3.0, 8: 1.4}
    spent = {"server_u": busy, "group_u": 0.2, "generator_u": 0.25, "stolen": 0.1, "seconds": 2.0}
    spent |= {"x": 99.0, "budget": (3.0 + 0.4 + 0.5) / 2 / os.cpu_count()}
    assert readings[1].plus(readings[0], -1).columns(198) == pytest.approx(spent)
    assert Spent().columns(0) == dict.fromkeys(spent, 0)


def test_each_server_has_a_turn_at_each_rate_in_every_cycle_in_random_order():
    made = demand.order_of(3, (100.0, 200.0), 4, "seed")
    cycles = [made[n : n + 6] for n in range(0, len(made), 6)]
    assert {frozenset(cycle) for cycle in cycles} == {frozenset(cycles[0])} and len(set(made)) == 6
    assert len({tuple(cycle) for cycle in cycles}) > 1
    assert made == demand.order_of(3, (100.0, 200.0), 4, "seed")
    settling = demand.uncounted(6)
    assert len(made) == settling + 4 * 6 and settling * LENGTH >= demand.SETTLE


def turns_measured(disturbed: dict[int, tuple[float, float]], failed: int = 0) -> dict[Turn, dict]:
    """Two servers at 1,000 requests/s that cost 100 and 200 µs; turn -> (other work, stolen), in seconds."""
    order = demand.order_of(2, (1000.0,), 5, "1")
    load = demand.profile(order, [RequestSpec("/a", port=1001), RequestSpec("/a", port=1002)], True)
    sampler = demand.Sampler(len(order), cpus.Reader(Placement(0, 1), {}, []))
    busy, stolen, spent, now = 0.0, 0.0, [0.0, 0.0], 0.0
    for number, turn in enumerate(order):
        sampler.readings[number, 0] = [Spent(now, busy, own, 0, stolen) for own in spent]
        more, taken = disturbed.get(number, (0.0, 0.0))
        cost = (1e-4, 2e-4)[turn.server] * 1000 * COUNTED
        now, stolen, busy = now + COUNTED, stolen + taken, busy + cost + more
        spent[turn.server] += cost
        sampler.readings[number, 1] = [Spent(now, busy, own, 0, stolen) for own in spent]
    due = sum(turn.server == 0 for turn in order) * (LENGTH - demand.PAUSE) * 1000
    good = (round(due) - failed, round(due))
    paths = {line.name: Histogram([1] * n) for line, n in zip(load.mix, good, strict=True)}
    run = SimpleNamespace(paths=paths, errors=Counter(), failures=failed)
    return demand.of_turns(order, load, run, sampler, shared=False)


def test_what_a_turn_cost_belongs_to_its_server_and_disturbed_turns_are_left_out():
    one, other = Turn(0, 1000.0), Turn(1, 1000.0)
    found = turns_measured({})
    for turn, cost in ((one, 1e-4), (other, 2e-4)):
        row = found[turn]
        assert row["seconds"] == pytest.approx(5 * COUNTED) and row["requests"] == 500
        assert row["server_u"] / row["x"] == pytest.approx(cost) == row["group_u"] / row["x"]
        assert not row["failures"] and demand.flaw_of({**row, "rate": 1000.0}, 5) == ""
    last = len(demand.order_of(2, (1000.0,), 5, "1")) - 1
    found = turns_measured({last: (0.02, 0.0), last - 1: (0.0, 0.01)})
    assert sorted(row["requests"] for row in found.values()) == [400, 400]
    assert {round(row["server_u"] / row["x"] * 1e6) for row in found.values()} == {100, 200}
    assert demand.flaw_of({**found[one], "rate": 1000.0}, 9).startswith("other work: more")
    failed = turns_measured({}, failed=3)
    # Which of two turns a request between them is of, is not known.
    assert failed[one]["failures"] == 3 and failed[other]["failures"] <= 1


def planned(**changes: Any) -> DemandTable:
    return plan(**{"also": (), "scale": "full", **changes})


def no_server(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no server today")


def test_blocks_are_complete_and_their_order_is_random_and_known():
    def blocks(todo: DemandTable) -> list[list[tuple]]:
        return [[(c.mpm, c.control, c.parts) for c in todo.block(n)] for n in range(1, 21)]

    todo, other = planned(), planned(seed=2)
    orders = blocks(todo)
    servers = [("event", False), ("prefork", False), ("prefork", True), ("worker", False)]
    assert all(sorted(cell[:2] for cell in order) == servers for order in orders)
    assert all(sorted(works) == sorted(demand.WORKS) for order in orders for *_, works in order)
    assert len({order[0][:2] for order in orders}) == 4, "each is first at times"
    assert blocks(planned()) == orders != blocks(other)
    assert planned(blocks=99).design == todo.design != other.design


def a_block(todo: DemandTable, number: int) -> list[dict]:
    made, row = [], {**DEMAND, "design": todo.design, "round": number}
    for cell in todo.block(number):
        row |= {"mpm": cell.mpm, "control": cell.control}
        steps = itertools.product(cell.parts, todo.rates)
        made += [records.check({**row, "work": work, "rate": rate}) for work, rate in steps]
    return made


def test_a_block_that_was_interrupted_is_measured_again(tmp_path, monkeypatch):
    todo = planned(scale="smoke", blocks=8)
    file, half = records.RecordFile(tmp_path / "rows.csv", "demand"), a_block(todo, 7)[:3]
    whole = [row for number in range(1, 7) for row in a_block(todo, number)]
    assert whole_blocks(whole + half, todo) == whole == whole_blocks(whole, todo)
    for row in whole + half:
        file.append(row)
    launch = Mock(side_effect=no_server)
    with pytest.raises(experiment.ExperimentError, match="no server today") as error:
        mpmkit.demand_table(blocks=8, scale="smoke", also=(), launch=launch, out=file.path)
    table = error.value.table
    first = todo.block(7)[0].mpm
    assert [made.args[0] for made in launch.mock_calls] == [first], "from block 7 on"
    assert table.records == whole and table.resumed == 24 and table.planned == 32
    assert "NOT COMPLETE: 24 of 32 loads" in table.text()
    assert records.read(file.path) == whole + half, "and what was measured is kept"


def test_a_rate_beyond_the_generator_ends_the_run_after_its_first_block():
    table = planned(scale="smoke", blocks=2)
    parts = tuple(f"{cell.label} page" for cell in table.cells)
    assert [(one.round, one.parts) for one in table.left()] == [(1, parts), (2, parts)]
    table.records = a_block(table, 1)
    for row in table.records:
        table.must_fit(1)
        row["flaw"] = "generator: it used 97% of its CPU" if row["rate"] == 2500 else None
    said = r"2,500 requests/s are above the generator's limit .* in all 4"
    refused(RuntimeError, said, table.must_fit, 1)


def test_a_run_pins_the_server_and_leaves_whole_rows(tmp_path, capsys, monkeypatch):
    """Its figures are not checked here: other tests run on the same CPUs, which the rows say."""
    seen: set[tuple[str, int]] = set()
    launched = mpmkit.launch

    def launch(mpm: str, **directives: Any) -> Any:
        server = launched(mpm, **directives)
        pids = (server.pid, *server.processes())
        seen.update((mpm, cpu) for pid in pids for cpu in os.sched_getaffinity(pid))
        return server

    monkeypatch.setattr(experiment, "launch", launch)
    monkeypatch.setitem(demand.SCALES, "smoke", (1, 2, (1000.0, 2500.0), ("page",)))
    out, before = tmp_path / "rows.csv", os.sched_getaffinity(0)
    argv = ["--scale", "smoke", "--rates", "100,300", "--without-httpd", "--out", str(out)]
    status, printed, said = printed_by(demand.main, argv, capsys)
    assert status == 0 and os.sched_getaffinity(0) == before, said
    found, where = records.read(out), cpus.here()
    servers = [("event", False), ("prefork", False), ("prefork", True), ("worker", False)]
    loads = sorted((row["mpm"], row["control"], row["rate"]) for row in found)
    assert loads == [(*one, rate) for one in servers for rate in (100.0, 300.0)]
    assert seen == {(mpm, where.server) for mpm in ("prefork", "worker", "event")}
    assert {row["cores"] for row in found} == {len(before)}, "the CPUs of both, not the generator's"
    for row in found:
        assert row["cpus"] == str(where) and row["seconds"] <= 2 * 1.1 * COUNTED
        assert bool(row["failures"] or row["unsent"]) <= bool(row["flaw"]), "it is not used"
        assert 0 <= row["group_u"] < 1.1 and 0 <= row["generator_u"] < 1.1 and row["budget"] < 1.1
    assert "fixed beforehand: margin ±0.03, 1 blocks" in printed and "(about " in said


def test_other_work_is_what_neither_this_process_nor_its_children_did(monkeypatch):
    """1.2 s busy, of which 0.7 and 0.3 were ours, in 1 s on two processors."""
    busy = SimpleNamespace(user=100.0, nice=0.0, system=7.0, steal=5.0)
    mine, childs, clock = [40.0, 0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0, 0.0], [20.0]
    child = SimpleNamespace(cpu_times=lambda: childs)
    me = SimpleNamespace(cpu_times=lambda: mine, children=lambda recursive: [child])
    now = {"psutil.cpu_times": busy, "psutil.Process": me, "os.cpu_count": 2}
    for name, value in now.items():
        monkeypatch.setattr(name, lambda value=value: value)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    others = cpus.OtherWork()
    busy.user, busy.steal, mine[0], childs[0], clock[0] = 101.0, 5.2, 40.7, 9.3, 21.0
    assert others.share() == pytest.approx(0.1)


def bisected(limit: float, first: float, precision: float) -> list[tuple[float, bool]]:
    steps: list[tuple[float, bool]] = []
    while rate := capacity.next_rate(steps, first, precision):
        low, high = capacity.bracket(steps)
        assert low < rate < high
        steps.append((rate, rate <= limit))
    return steps


@given(st.floats(100, 10_000), st.floats(500, 3000), st.floats(0.02, 0.3))
def test_bisection_finds_the_limit(limit, first, precision):
    steps = bisected(limit, first, precision)
    low, high = capacity.bracket(steps)
    assert low <= limit < high and len(steps) <= capacity.MOST_STEPS
    assert high <= low * (1 + precision) * 1.0001 or len(steps) == capacity.MOST_STEPS


@given(st.lists(st.tuples(st.floats(1, 1e5), st.booleans()), max_size=20))
def test_whatever_was_measured_the_next_rate_lies_between_what_is_known(steps):
    """A server near its limit may hold a rate once and not hold a lower one the next time."""
    low, high = capacity.bracket(steps)
    rate = capacity.next_rate(steps, 1000.0, 0.05)
    assert low < high and (rate is None or low < rate < high)
    assert len(steps) < capacity.MOST_STEPS or rate is None


def steps_of(*limits: tuple[str, int, float], **changes: Any) -> list[dict[str, Any]]:
    cells = [(mpm, n, *step) for mpm, n, limit in limits for step in bisected(limit, 1000.0, 0.05)]
    names = ("mpm", "round", "rate", "holds")
    return [{**CAPACITY, **dict(zip(names, cell, strict=True)), **changes} for cell in cells]


def test_the_table_gives_capacities_what_may_be_said_of_them_and_what_was_rejected():
    source = random.Random(1)
    cells = itertools.product(range(1, 9), (("prefork", 2000.0), ("worker", 1500.0)))
    limits = [(mpm, n, limit * source.uniform(0.98, 1.02)) for n, (mpm, limit) in cells]
    table = capacity.CapacityTable(steps_of(*limits), planned=24)
    said, before = table.text(), table.capacities("prefork")
    assert table.measured == 16 and "NOT COMPLETE: 16 of 24 bisections" in said
    assert "worker / prefork, time a request: 1.3" in said and "dearer" in said
    line = next(line for line in said.splitlines() if line.startswith("prefork"))
    assert 1800 < float(line.split()[1].replace(",", "")) < 2050 and line.split()[-1] == "8"
    other = "other work on the machine: 20% of its CPU time was not generator, server or idle"
    table.records += steps_of(("prefork", 1, 500.0), flaw=other)
    assert table.capacities("prefork") == before
    assert f"cells were rejected; last: {other}" in table.text()


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    file = records.RecordFile(tmp_path / "rows.csv", "capacity")
    design = experiment.identity(("prefork",), 50.0, 300.0, 1.0, 0.3)
    for rate, held in itertools.islice(bisected(900.0, 1750.0, 0.3), 2):
        file.append({**CAPACITY, "design": design, "rate": rate, "holds": held})
    how: dict[str, Any] = {"limit_ms": 50, "cost_us": 300, "scale": "smoke", "out": file.path}
    with pytest.raises(experiment.ExperimentError, match="no server today") as error:
        mpmkit.capacity_table(["prefork"], launch=no_server, **how)
    assert len(error.value.table.steps(1, "prefork")) == 2 and len(records.read(file.path)) == 2
    refused(records.RecordError, "another capacity", mpmkit.capacity_table, ["event"], **how)


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
