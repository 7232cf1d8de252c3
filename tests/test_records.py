"""Rows on disk: the schema holds on both ways, and nothing that was finished is ever lost."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rows import GENERATORS, MEMORY, ROW
from support.rows import row as some_row

import mpmkit
from docs._tools import claims, columns_doc
from mpmkit.measure import records
from mpmkit.measure.records import RecordError, RecordFile, check, names, read

HEADER = ",".join(names("qps")) + "\n"
ROOT = Path(__file__).resolve().parent.parent
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)


@pytest.fixture
def path(tmp_path):
    place = tmp_path / "rows.csv"
    RecordFile(place).append(ROW)
    return place


def test_rows_come_back_as_they_were_written(path):
    assert list(check(ROW)) == list(names("qps"))
    other = {**ROW, "round": 2, "mpm": None, "keep_alive": True, "mean_ms": None}
    RecordFile(path).append(other)
    assert read(path) == [ROW, other]
    # A frame has the schema's columns and types.
    frame = records.read_frame(path)
    assert list(frame.columns) == list(records.frame([]).columns) == list(names("qps"))
    assert str(frame["started_at"].dtype).startswith("datetime64")
    assert frame["cpu_limit"].isna().all() and frame["qps"].dtype == "float64"


@given(TEXT, st.floats(0.001, 1e6), st.integers(0, 10**9), st.booleans())
def test_any_row_survives_the_file(tmp_path_factory, text, number, count, truth):
    path = tmp_path_factory.mktemp("records") / "rows.csv"
    row = {**ROW, "cpu_model": text, "directives": text, "mean_ms": number}
    row |= {"retries": count, "generator_bound": truth}
    RecordFile(path).append(row)
    (back,) = read(path)
    assert back["mean_ms"] == pytest.approx(number, rel=1e-8) and {**back, "mean_ms": number} == row


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
    with pytest.raises(RecordError, match=said):
        check({**row, **changes})
    file = RecordFile(tmp_path / "rows.csv", row["table"])
    with pytest.raises(RecordError, match=r"rows\.csv: not written"):
        file.append({**row, **changes})
    assert read(tmp_path / "rows.csv") == []


@pytest.mark.parametrize("table", [name for name in records.TABLES if name != "qps"])
def test_every_table_goes_to_disk_and_back(tmp_path, path, table):
    place, row = tmp_path / "other.csv", some_row(table)
    file = RecordFile(place, table)
    file.append(row)
    with pytest.raises(RecordError, match=rf"this file holds {row['table']}, not 'qps'"):
        file.append(ROW)
    with pytest.raises(RecordError, match="has other columns"):
        RecordFile(place)
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


@pytest.mark.parametrize("text", ["a,b,c\n1,2,3\n", "hello", HEADER.replace("qps,mean", "mean")])
def test_another_file_is_never_written_into(tmp_path, text):
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(RecordError, match="other columns"):
        RecordFile(path)
    assert path.read_text() == text


def test_places_that_cannot_be_written_or_read(tmp_path):
    with pytest.raises(RecordError, match="there is no folder"):
        RecordFile(tmp_path / "no" / "rows.csv")
    for place in (tmp_path, Path("/dev/full")):
        with pytest.raises(RecordError, match="not a regular file"):
            RecordFile(place)
    with pytest.raises(RecordError, match="cannot be read"):
        read(tmp_path / "no.csv")


def test_a_full_disk_leaves_whole_rows(path):
    """The file may grow by 100 bytes only, as if the disk ended there."""
    program = """
import os, resource, signal, sys
from mpmkit.measure.records import RecordError, RecordFile, read
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
row, file, size = read(sys.argv[1])[0], RecordFile(sys.argv[1]), os.path.getsize(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    file.append(row)
except RecordError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=30)
    assert "a row could not be written" in done.stdout, done.stderr
    assert read(path) == [ROW]


def test_writers_at_the_same_time_lose_nothing(path):
    program = """
import sys
from mpmkit.measure.records import RecordFile, read
row, file = read(sys.argv[1])[0], RecordFile(sys.argv[1])
for number in range(40):
    file.append({**row, "round": number + 2})
"""
    command = [sys.executable, "-c", program, str(path)]
    writers = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(read(path)) == 1 + 3 * 40


@pytest.mark.parametrize(("old", "new", "said"), [
    (",495,", ",abc,", "line 2: qps: must be float"), ("false", "no", "line 2: keep_alive: must be true or"),
    (r"\Z", "1,2\n", "line 3: 2 cells instead of"), (r"\A.*\n", "", "line 1: is not the header of a record file"),
    ('"A ""B"", C"', '"A', "line"), (r"(?s).+", "", "line 1: is not the header of a record file"),
])  # fmt: skip
def test_reading_names_file_and_line(path, old, new, said):
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    with pytest.raises(RecordError, match=rf"rows\.csv, {said}"):
        read(path)


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
    far = claims.CLAIMS[0]._replace(expected=(1.0, 35.4, 32.7))
    assert claims.checked(far, records.read(claims.recorded(far)))[1].startswith("OUT  qps-full: ")
    # data/README.md describes every column.
    text = (ROOT / "data" / "README.md").read_text()
    assert columns_doc.markdown() in text, "run: python -m docs._tools.columns_doc"


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
