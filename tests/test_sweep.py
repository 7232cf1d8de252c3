"""Sweeps: the grid is checked whole, finished points stay, the same call goes on."""

import json
import signal
import subprocess
import sys

import pytest
from support.experiments import Launches
from support.rows import SWEEP
from support.servers import environment

from mpmkit.load.profile import LoadProfile
from mpmkit.measure import records
from mpmkit.measure.experiment import ExperimentError
from mpmkit.measure.records import RecordError
from mpmkit.measure.sweep import SweepTable, plan, sweep, value_of

LOAD = LoadProfile(path="/ok", users=2, requests=30)
GRID = {"ThreadsPerChild": [5, 10], "users": [1, 3]}


def test_points_are_the_product_of_the_grid():
    todo = plan(("worker", "event"), GRID, LOAD, directives={"Timeout": 7}, rounds=2)
    values = [f"ThreadsPerChild={t} users={u}" for t in (5, 10) for u in (1, 3)]
    points = [f"{mpm} {one}" for mpm in ("worker", "event") for one in values]
    assert list(map(str, todo.cells)) == points
    cell = todo.cells[3]
    assert (cell.directives["ThreadsPerChild"], cell.directives["Timeout"]) == (10, 7)
    assert cell.directives["KeepAlive"] is False and cell.directives["MaxRequestWorkers"] == 400
    assert (cell.profile.users, cell.profile.path) == (3, "/ok")
    assert plan("event", {"threadsperchild": [5]}, LOAD).names == ("ThreadsPerChild",)
    assert sum(map(todo.takes, todo.left())) == pytest.approx(2 * 8 * (2.5 + 5))


def test_one_sweep_is_told_from_another_but_not_by_its_rounds():
    first = plan("event", GRID, LOAD).design
    assert plan("event", GRID, LOAD, rounds=5).design == first
    for mpm, grid, load, more in (
        ("worker", GRID, LOAD, {}), ("event", GRID, LOAD.but(users=9), {}),
        ("event", {**GRID, "users": [1, 2]}, LOAD, {}), ("event", GRID, LOAD, {"directives": {"Timeout": 7}}),
    ):  # fmt: skip
        assert plan(mpm, grid, load, **more).design != first


@pytest.mark.parametrize(("grid", "said"), [
    ({}, "grid: give names"), ({"users": 5}, "users: give a list of values, not 5"),
    ({"users": "567"}, "users: give a list of values"), ({"users": []}, "users: has no value"),
    ({"users": [5, 5]}, "users: has a value twice"),
    ({"users": [[5]]}, r"users: \[5\] is not a text, number or truth value"),
    ({"ThreadsPerChild": [5], "threadsperchild": [6]}, "threadsperchild: is in the grid twice"),
    ({"users": range(1, 20_000)}, "19,999 points are more than 10,000"),
    ({"MinSpareServers": [5]}, "MinSpareServers"), ({"KeepAlive": ["perhaps"]}, "KeepAlive"),
    ({"ThreadsPerChild": ["many"]}, "ThreadsPerChild takes a number, not 'many'"),
    ({"ThreadsPerChild": ["100"]}, "the server would use ThreadsPerChild 64"),
    ({"users": list(range(-20, 0))}, "and 10 more problems"),
])  # fmt: skip
def test_impossible_grids(grid, said):
    with pytest.raises(ValueError, match=said):
        plan("event", grid, LOAD)


def test_all_mistakes_are_reported_each_once():
    threads = ["many", 100, 5]
    grid = {"users": [0, *range(1, 20)], "ThreadsPerChild": threads, "ThreadsPerChlid": [5]}
    with pytest.raises(ValueError) as error:
        plan(("event", "winnt"), grid, LOAD, directives={"Nonsense": 1}, rounds=0)
    lines, many = str(error.value).splitlines(), "event users=0 ThreadsPerChild=many, and "
    for start, said in (
        ("mpm: ", "'winnt' is not one of"), ("rounds: ", "must be"),
        ("ThreadsPerChlid", "did you mean ThreadsPerChild?"), (f"{many}2 more: ", "users: must be a whole"),
        (f"{many}59 more: ", "Nonsense is not a"), (f"{many}19 more: ", "takes a number"),
        ("event users=0 ThreadsPerChild=100, and 19 more: ", "would use"),
    ):  # fmt: skip
        found = [line for line in lines if line.startswith(start) and said in line]
        assert len(found) == 1, (said, lines)
    assert len(lines) == 7


def test_values_on_the_command_line():
    values = {"5": 5, "0.5": 0.5, "On": True, "off": False, "500ms": "500ms"}
    found = {text: value_of(text) for text in values}
    assert found == values and list(map(type, found.values())) == list(map(type, values.values()))


def test_a_sweep_in_rounds_and_the_same_call_measures_only_what_is_new(tmp_path):
    path, seen, launched = tmp_path / "rows.csv", [], Launches()
    grid = {"ThreadsPerChild": [5, 10], "users": [3]}
    how = {"out": path, "launch": launched}
    sweep("event", grid, LOAD, **how)
    assert len(launched.made) == 2
    again = sweep("event", grid, LOAD, **how)
    assert len(launched.made) == 2 and again.resumed == len(again.records) == 2
    table = sweep("event", grid, LOAD, rounds=2, on_progress=seen.append, **how)
    rows = records.read(path)
    assert [row["point"] for row in rows] == [row["point"] for row in table.records]
    assert len(rows) == table.planned == 4 and [row["users"] for row in rows] == [3] * 4
    cells = plan("event", grid, LOAD, rounds=2).left()
    threads = [cell.values["ThreadsPerChild"] for cell in cells]
    assert sorted(threads[:2]) == sorted(threads[2:]) == [5, 10]
    assert [made[1]["ThreadsPerChild"] for made in launched.made] == threads
    assert list(table.to_frame()["ThreadsPerChild"]) == threads
    summary = table.summary()
    assert list(summary["ThreadsPerChild"]) == [5, 10] and list(summary["rounds"]) == [2] * 2
    text = table.text()
    head = "mpm ThreadsPerChild users requests/s p50 ms p99 ms"
    assert text.splitlines()[0].split() == head.split()
    assert "p99 needs 1,000 requests a round" in text and f"rows in {path}" in text
    assert seen[-1].share == 1 and seen[-1].left == pytest.approx(0)
    assert seen[-1].row == table.records[-1]
    assert f"[4/4] round 2, event ThreadsPerChild={threads[-1]} users=3: " in str(seen[-1])
    with pytest.raises(RecordError, match="holds another sweep"):
        sweep("event", {"users": [1, 3]}, LOAD, **how)
    assert len(launched.made) == 4


def test_a_server_that_dies_ends_the_sweep():
    grid, launched = {"users": [1, 2]}, Launches(lambda number: number == 2)
    with pytest.raises(ExperimentError) as error:
        sweep("event", grid, LOAD, launch=launched)
    said, second = str(error.value), plan("event", grid, LOAD).left()[1]
    assert f"{second}: " in said and "is gone" in said and "the roof is on fire" in said
    assert "NOT COMPLETE: 1 of 2 points" in error.value.table.text()


def test_a_point_without_a_good_answer_is_a_result():
    table = sweep("event", {"expect_length": [45, 44]}, LOAD, launch=Launches())
    assert [point["failures"] for point in table.points()] == [30, 0]
    assert "30 FAILED" in table.text()


def test_nothing_is_said_of_the_best_where_the_server_was_not_the_limit():
    users = {n: {"point": json.dumps({"users": n}), "mpm": "event", "users": n} for n in (10, 2, 1)}
    long = {"requests": 5_000, "failures": 0, "errors": "{}", "duration_s": 2.0, "qps": 2500.0}
    tails = {"p99_ms": 1900.0, "p999_ms": 1950.0, "p9999_ms": 1960.0, "max_ms": 1999.0}
    free = {"generator_bound": False, "generator_starved": False}
    rows = [{**SWEEP, **one, **long, **free, **tails} for one in users.values()]
    assert SweepTable([], ("users",)).text() == "no point was finished"
    table = SweepTable(rows, ("users",))
    assert list(table.summary()["users"]) == [1, 2, 10] and table.summary()["p99_cut"].all()
    assert "most requests/s under event: 2,500" in table.text() and "≥ 1,900.0" in table.text()
    table.records[0]["generator_bound"] = True
    text = table.text()
    assert "most requests/s" not in text and "little more" not in text
    assert "not decidable: generator or machine was the limit in 1 of 3 points" in text


def test_ctrl_c_and_on_with_real_servers(tmp_path):
    path = tmp_path / "rows.csv"
    grid = "event ThreadsPerChild=5,10 --users 4 --duration 0.4 --warmup 0.1"
    command = [sys.executable, "-m", "mpmkit", "sweep", *grid.split(), "--out", str(path)]
    how = {"text": True, "cwd": tmp_path, "env": environment()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, **how) as process:
        for line in process.stderr:
            if "[1/2]" in line:
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "interrupted; the same command resumes" in err
    assert "NOT COMPLETE: 1 of 2 points" in out
    done = subprocess.run(command, capture_output=True, timeout=60, **how)
    assert done.returncode == 0 and "1 of 2 points are of an earlier run" in done.stdout
    rows = records.read(path)
    assert sorted(json.loads(row["point"])["ThreadsPerChild"] for row in rows) == [5, 10]
    assert all(row["failures"] == 0 and row["qps"] > 0 for row in rows)
