"""Rows on disk; what rounds allow to say; two files of rows compared."""

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.calls import printed_by, refused
from support.rows import BENCH, CAPACITY, DEMAND, GENERATORS, MEMORY, ROW, SWEEP, demand_rows
from support.rows import row as some_row

import mpmkit
from docs._tools import claims, columns_doc
from mpmkit.measure import compare, records, stats
from mpmkit.measure.records import RecordError, RecordFile, check, names, read

HEADER = ",".join(names("qps")) + "\n"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def path(tmp_path):
    place = tmp_path / "rows.csv"
    RecordFile(place).append(ROW)
    return place


def test_rows_come_back_as_they_were_written(path):
    assert list(check(ROW)) == list(names("qps"))
    other = {**ROW, "round": 2, "mpm": None, "keep_alive": True, "mean_ms": None, "retries": 10**9}
    other |= {"directives": "日\u2028'\\\" #,;=", "qps": 123456.789}
    RecordFile(path).append(other)
    assert read(path) == [ROW, other]
    # A frame has the schema's columns and types.
    frame = records.read_frame(path)
    assert list(frame.columns) == list(records.frame([]).columns) == list(names("qps"))
    assert str(frame["started_at"].dtype).startswith("datetime64")
    assert frame["cpu_limit"].isna().all() and frame["qps"].dtype == "float64"


@pytest.mark.parametrize(("row", "changes", "said"), [
    (ROW, {"qps": None}, "qps: must not be empty"), (ROW, {"kind": ""}, "kind: must not be empty"),
    (ROW, {"qps": "fast"}, "qps: must be float"), (ROW, {"round": True}, "round: must be int"),
    (ROW, {"round": 0}, "round: counts from 1"),
    (ROW, {"generator_wait": 1.5}, "generator_wait: must be 0 to 1"),
    (ROW, {"mpm": "winnt"}, "mpm: must be one of prefork, worker, event, not winnt"),
    (ROW, {"scale": "huge"}, "scale: must be one of smoke"),
    (ROW, {"max_ms": -1.0}, "max_ms: must be a number from 0"),
    (ROW, {"load1": float("inf")}, "load1: must be a number from 0"),
    (ROW, {"path": "/a\n/b"}, "path: must be one line"),
    (ROW, {"speed": 3}, "speed: no such column"),
    (ROW, {"qps": None, "users": "many", "speed": 1}, "speed: .*; users: .*; qps: "),
    (MEMORY, {"scope": "all"}, "scope: must be one of server, parent, child"),
    (GENERATORS, {"table": "genes"}, "no table 'genes'; there are qps, memory"),
])  # fmt: skip
def test_a_row_that_breaks_the_schema_is_refused(tmp_path, row, changes, said):
    refused(RecordError, said, check, {**row, **changes})
    file = RecordFile(tmp_path / "rows.csv", row["table"])
    refused(RecordError, r"rows\.csv: not written", file.append, {**row, **changes})
    assert read(tmp_path / "rows.csv") == []


@pytest.mark.parametrize("table", [name for name in records.TABLES if name != "qps"])
def test_every_table_goes_to_disk_and_back(tmp_path, path, table):
    place, row = tmp_path / "other.csv", some_row(table)
    file = RecordFile(place, table)
    file.append(row)
    refused(RecordError, rf"this file holds {row['table']}, not 'qps'", file.append, ROW)
    refused(RecordError, "has other columns", RecordFile, place)
    assert read(place) == [row]
    assert list(records.read_frame(place).columns) == list(names(row["table"]))


def test_what_a_dead_writer_left_is_dropped_and_the_rest_kept(path):
    whole = path.read_text()
    for torn in ("2026", "20260101T000000Z-abcdef,qps,demo,mpmkit" + "x" * 9000):
        path.write_text(whole + torn)
        with pytest.warns(UserWarning, match="not complete"):
            assert read(path) == [ROW]
        RecordFile(path)
        assert path.read_text() == whole
    path.write_text(HEADER[:20])  # of the header itself
    RecordFile(path).append(ROW)
    assert read(path) == [ROW]


def test_places_that_cannot_be_written_or_read(tmp_path):
    for text in ("a,b,c\n1,2,3\n", "hello", HEADER.replace("qps,mean", "mean")):
        (path := tmp_path / "other.csv").write_text(text)
        refused(RecordError, "other columns", RecordFile, path)
        assert path.read_text() == text, "another file is never written into"
    refused(RecordError, "there is no folder", RecordFile, tmp_path / "no" / "rows.csv")
    for place in (tmp_path, Path("/dev/full")):
        refused(RecordError, "not a regular file", RecordFile, place)
    refused(RecordError, "cannot be read", read, tmp_path / "no.csv")


def writer(path: Path, program: str) -> subprocess.Popen:
    """A program with a `file` of rows, and the `row` that is in it."""
    begin = "import os, resource, signal, sys\nfrom mpmkit.measure.records import RecordError, RecordFile, read\n"
    begin += "row, file = read(sys.argv[1])[0], RecordFile(sys.argv[1])\n"
    pipes = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen([sys.executable, "-c", begin + program, str(path)], **pipes)


def test_a_full_disk_leaves_whole_rows(path):
    with writer(path, """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = os.path.getsize(sys.argv[1]) + 100
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    file.append(row)
except RecordError as error:
    print(error)
""") as done:  # fmt: skip
        assert "a row could not be written" in done.communicate(timeout=30)[0]
    assert read(path) == [ROW]


def test_writers_at_the_same_time_lose_nothing(path):
    program = "for number in range(40):\n    file.append({**row, 'round': number + 2})"
    for one in [writer(path, program) for _ in range(3)]:
        one.communicate(timeout=60)
        assert one.returncode == 0
    assert len(read(path)) == 1 + 3 * 40


@pytest.mark.parametrize(("old", "new", "said"), [
    (",495,", ",abc,", "line 2: qps: must be float"), ("false", "no", "line 2: keep_alive: must be true or"),
    (r"\Z", "1,2\n", "line 3: 2 cells instead of"), (r"\A.*\n", "", "line 1: is not the header of a record file"),
    ('"A ""B"", C"', '"A', "line"), (r"(?s).+", "", "line 1: is not the header of a record file"),
])  # fmt: skip
def test_reading_names_file_and_line(path, old, new, said):
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    refused(RecordError, rf"rows\.csv, {said}", read, path)


@pytest.mark.parametrize("name", sorted(f.stem for f in records.recorded_folder().glob("*.csv")))
def test_every_recorded_run_can_be_read_and_names_its_machine(name):
    frame = mpmkit.recorded(name)
    assert len(frame) and frame["cores"].min() >= 1 and frame["commit"].notna().all()
    assert frame.attrs["recorded"] == name
    text = (ROOT / "data" / "README.md").read_text()
    assert f"`recorded/{name}.csv`" in text, "say in data/README.md what it is"


def test_the_largest_recorded_run_of_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "recorded_folder", lambda: tmp_path)
    for name, scale in (("qps-other", "custom"), ("qps-demo", "demo"), ("qps-full", "full")):
        RecordFile(tmp_path / f"{name}.csv").append({**ROW, "scale": scale})
        assert records.recorded("qps")["scale"].to_list() == [scale]
    with pytest.raises(RecordError, match="no recorded run 'memory'; there are qps-demo, qps-full"):
        records.recorded("memory")


def test_every_claim_holds_on_the_shipped_rows():
    """The figures of README and PERFORMANCE.md; after a new recording, docs/_tools/claims.py says which."""
    found = [claims.checked(one, records.read(claims.recorded(one))) for one in claims.CLAIMS]
    assert all(inside for inside, _ in found), "\n".join(line for _, line in found)
    assert claims.PAGE.read_text() == claims.markdown(), "run: python -m docs._tools.claims --write"
    # data/README.md describes every column.
    assert columns_doc.wrong(columns_doc.PAGE.read_text()) == []


@pytest.mark.parametrize(("group", "files", "limits"), [
    ("", {}, (None, None)),
    ("a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/memory.max": "max"},
     (1.5, None)),
    # As in a container: our group is mounted as the root, its path is not there.
    ("docker/123", {"cpu.max": "50000 100000", "memory.max": "1073741824"}, (0.5, 1024)),
])  # fmt: skip
def test_limits_of_the_control_group(tmp_path, group, files, limits):
    places = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": f"0::/{group}", **places}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert records.group_limits(tmp_path) == limits


SAME = "the same within 3%"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.unlink(missing_ok=True)
    file = records.RecordFile(path, rows[0]["table"] if rows else "demand")
    for row in rows:
        file.append(row)
    return path


def a_run(seed: int, factor: float = 1.0, blocks: int = 10, **changes: Any) -> list[dict[str, Any]]:
    """Worker costs `factor` as much as usual."""
    costs = {"prefork": 30.0, "worker": 36.0 * factor}
    return demand_rows(costs, blocks, seed, noise=0.02, pace=0.0, **changes)


@pytest.mark.parametrize("factor, blocks, status, word", [
    (1.0, 30, 0, SAME), (1.1, 10, 1, stats.DEARER), (0.9, 10, 0, stats.CHEAPER), (1.03, 10, 0, stats.UNDECIDED),
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
    kind = {stats.DEARER: "failure", stats.UNDECIDED: "skipped"}.get(word, "system-out")
    assert suite.get("tests") == "2" and suite.get("failures") == str(int(word == stats.DEARER))
    assert case[0].tag == kind and word in (case[0].get("message") or case[0].text)


def test_the_margin_is_the_readers_and_other_rounds_are_compared_unpaired(tmp_path, capsys):
    late = [{**row, "round": row["round"] + 20} for row in a_run(2, 1.2, 6)]
    runs = enumerate((a_run(0), a_run(1, 1.1), late))
    a, b, c = (str(write(tmp_path / f"{number}.csv", rows)) for number, rows in runs)
    for margin, status in (("20%", 0), ("0.02", 1), ("nothing", 2)):
        assert printed_by(compare.main, [a, b, "--margin", margin], capsys)[0] == status
    status, printed, _ = printed_by(compare.main, [a, c], capsys)
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
    assert stats.decide(b[name], a[name]).word == stats.DEARER and list(a) == [name]


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
    if rows is not None:
        write(b, rows)
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


def test_the_points_of_students_t():
    points = [stats.t_quantile(freedom) for freedom in range(200)]
    assert points == sorted(points, reverse=True) and points[0] == math.inf
    assert (points[1], points[10], points[30]) == (12.706, 2.228, 2.042)
    assert (points[60], points[120]) == pytest.approx((2.000, 1.980), abs=0.002)
    # One round shows no noise.
    once = stats.ratio([3.0], [2.0])
    assert (once.value, once.level, once.excludes(1.0)) == (1.5, 0.0, False)
    for bad in (([], [1]), ([1], [0])):
        refused(ValueError, "a ratio needs", stats.ratio, *bad)
    # Rounds that only one has are no pair.
    found = stats.paired({1: 2.0, 2: 9.0, 4: 8.0}, {4: 2.0, 1: 1.0, 3: 7.0})
    assert found.value == pytest.approx(math.sqrt(2 * 4)) and found.level == 0.95
