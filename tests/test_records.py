"""Rows on disk: the schema holds on both ways, and nothing that was finished is ever lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rows import BENCH, CAPACITY, DEMAND, GENERATORS, MEMORY, ROW, SWEEP

from docs._tools import columns_doc
from mpmkit.measure import records
from mpmkit.measure.records import COLUMNS, NAMES, RecordError, RecordFile, check, read

HEADER = ",".join(NAMES) + "\n"

ROOT = Path(__file__).resolve().parent.parent


def test_the_row_of_these_tests_has_every_column():
    assert list(check(ROW)) == list(NAMES)


def test_rows_come_back_as_they_were_written(tmp_path):
    file = RecordFile(tmp_path / "rows.csv")
    other = {**ROW, "round": 2, "mpm": None, "keep_alive": True, "mean_ms": None}
    for row in (ROW, other):
        file.append(row)
    assert read(tmp_path / "rows.csv") == [ROW, other]
    RecordFile(tmp_path / "rows.csv").append(ROW)
    assert len(read(tmp_path / "rows.csv")) == 3


TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)


@settings(deadline=None)  # the machine may be busy with servers
@given(TEXT, st.floats(0.001, 1e6), st.integers(0, 10**9), st.booleans())
def test_any_row_survives_the_file(tmp_path_factory, text, number, count, truth):
    path = tmp_path_factory.mktemp("records") / "rows.csv"
    row = {**ROW, "cpu_model": text, "directives": text, "mean_ms": number}
    row |= {"retries": count, "generator_bound": truth}
    RecordFile(path).append(row)
    (back,) = read(path)
    assert back["mean_ms"] == pytest.approx(number, rel=1e-8)
    assert {**back, "mean_ms": number} == row


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"qps": None}, "qps: must not be empty"),
        ({"qps": "fast"}, "qps: must be float"),
        ({"round": 0}, "round: counts from 1"),
        ({"round": True}, "round: must be int"),
        ({"requests": 9}, "failures: 10 of 9"),
        ({"errors": "{}"}, "errors: must be JSON that adds up to failures"),
        ({"errors": "[10]"}, "errors: must be JSON"),
        ({"qps": 400.0}, "qps: 400, but requests, failures and duration_s make 495"),
        ({"generator_cpu": 1.5}, "generator_cpu: must be 0 to 1"),
        ({"generator_wait": 1.5}, "generator_wait: must be 0 to 1"),
        (
            {"generator_starved": True, "generator_bound": True},
            "generator_starved: not what was bound",
        ),
        ({"p9999_ms": 7.0}, "p50_ms to max_ms: must not fall, and are 1.25, 4, 8, 7, 9"),
        ({"mpm": "winnt"}, "mpm: must be one of prefork, worker, event, not winnt"),
        ({"scale": "huge"}, "scale: must be one of smoke"),
        ({"driver": "siege"}, "driver: must be one of locust"),
        ({"method": "BREW"}, "method: must be one of GET"),
        ({"kind": "page"}, "kind: must be one of static"),
        ({"script": "perl"}, "script: must be one of wsgi"),
        ({"started_at": "yesterday"}, "started_at: must be a time like"),
        ({"max_ms": -1.0}, "max_ms: must be a number from 0"),
        ({"load1": float("inf")}, "load1: must be a number from 0"),
        ({"path": "/a\n/b"}, "path: must be one line"),
        ({"kind": ""}, "kind: must not be empty"),
        ({"speed": 3}, "speed: no such column"),
    ],
)
def test_a_row_that_breaks_the_schema_is_refused(tmp_path, changes, said):
    with pytest.raises(RecordError, match=said):
        check({**ROW, **changes})
    file = RecordFile(tmp_path / "rows.csv")
    with pytest.raises(RecordError, match=r"rows\.csv: not written"):
        file.append({**ROW, **changes})
    assert read(tmp_path / "rows.csv") == []


def test_everything_wrong_is_named_at_once():
    row = {**ROW, "qps": None, "users": "many"}
    del row["kernel"]
    with pytest.raises(RecordError) as error:
        check(row)
    named = [part.split(":")[0] for part in str(error.value).split("; ")]
    assert named == ["kernel", "users", "qps"]


# -- files that are not what they should be ------------------------------------------------------


def test_what_a_dead_writer_left_is_dropped_and_the_rest_kept(tmp_path):
    path = tmp_path / "rows.csv"
    RecordFile(path).append(ROW)
    whole = path.read_text()
    for torn in ("2026", "20260101T000000Z-abcdef,qps,demo,mpmkit" + "x" * 9000):
        path.write_text(whole + torn)
        with pytest.warns(UserWarning, match="not complete"):
            assert read(path) == [ROW]
        RecordFile(path)
        assert path.read_text() == whole


def test_a_header_that_was_cut_off_is_written_again(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(HEADER[:20])
    RecordFile(path).append(ROW)
    assert read(path) == [ROW]


@pytest.mark.parametrize("text", ["a,b,c\n1,2,3\n", "hello", HEADER.replace("qps,mean", "mean")])
def test_another_file_is_never_written_into(tmp_path, text):
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(RecordError, match="other columns"):
        RecordFile(path)
    assert path.read_text() == text


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(RecordError, match="there is no folder"):
        RecordFile(tmp_path / "no" / "rows.csv")
    for place in (tmp_path, Path("/dev/full")):
        with pytest.raises(RecordError, match="not a regular file"):
            RecordFile(place)


def test_a_full_disk_leaves_whole_rows(tmp_path):
    """The file may grow to 1,024 bytes only, as if the disk ended there."""
    path = tmp_path / "rows.csv"
    RecordFile(path).append(ROW)
    program = (
        "import resource, signal, sys\n"
        "from mpmkit.measure.records import RecordError, RecordFile, read\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "row = read(sys.argv[1])[0]\n"
        "file = RecordFile(sys.argv[1])\n"
        "size = __import__('os').path.getsize(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))\n"
        "try:\n    file.append(row)\n"
        "except RecordError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
    )
    assert "a row could not be written" in done.stdout, done.stderr
    assert read(path) == [ROW]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace(",495,", ",abc,"), "line 2: qps: must be float"),
        (lambda text: text.replace(",495,", ",400,"), "line 2: qps: 400, but"),
        (lambda text: text.replace("false", "no", 1), "line 2: keep_alive: must be true or false"),
        (lambda text: text + "1,2\n", "line 3: 2 cells instead of"),
        (lambda text: text.partition("\n")[2], "line 1: is not the header of a record file"),
        (lambda text: text.replace('"A ""B"", C"', '"A'), "line"),
        (lambda text: "", "line 1: is not the header of a record file"),
    ],
)
def test_reading_names_file_and_line(tmp_path, change, said):
    path = tmp_path / "rows.csv"
    RecordFile(path).append(ROW)
    path.write_text(change(path.read_text()))
    with pytest.raises(RecordError, match=rf"rows\.csv, {said}"):
        read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(RecordError, match="cannot be read"):
        read(tmp_path / "no.csv")


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "rows.csv"
    RecordFile(path).append(ROW)
    program = (
        "import sys\nfrom mpmkit.measure.records import RecordFile, read\n"
        "row = read(sys.argv[1])[0]\nfile = RecordFile(sys.argv[1])\n"
        "for number in range(40):\n    file.append({**row, 'round': number + 2})\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT) for _ in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(read(path)) == 1 + 3 * 40


def test_a_frame_has_the_schemas_columns_and_types(tmp_path):
    path = tmp_path / "rows.csv"
    RecordFile(path).append({**ROW, "mean_ms": None})
    frame = records.read_frame(path)
    assert list(frame.columns) == list(NAMES)
    assert str(frame["started_at"].dtype).startswith("datetime64")
    assert frame["mean_ms"].isna().all() and frame["qps"].dtype == "float64"
    assert list(records.frame([]).columns) == list(NAMES)


# -- the other tables ----------------------------------------------------------------------------


OTHERS = (MEMORY, SWEEP, GENERATORS, BENCH, DEMAND, CAPACITY)


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row["table"])
def test_every_table_goes_to_disk_and_back(tmp_path, row):
    path = tmp_path / "rows.csv"
    file = RecordFile(path, row["table"])
    file.append(row)
    with pytest.raises(RecordError, match=rf"this file holds {row['table']}, not 'qps'"):
        file.append(ROW)
    with pytest.raises(RecordError, match="has other columns"):
        RecordFile(path)
    assert read(path) == [row]
    assert list(records.read_frame(path).columns) == list(records.names(row["table"]))
    other = tmp_path / "qps.csv"
    RecordFile(other).append(ROW)
    with pytest.raises(RecordError, match="hold rows of different tables"):
        records.read_frame(path, other)


@pytest.mark.parametrize(
    ("row", "change", "said"),
    [
        (MEMORY, {"against": "sleeping"}, "against: must be one of busy, idle"),
        (MEMORY, {"scope": "all"}, "scope: must be one of server, parent, child"),
        (MEMORY, {"held": 11}, "held: 11 of 10"),
        (MEMORY, {"pss_kb": 500}, "pss_kb: must lie between uss_kb and rss_kb"),
        (MEMORY, {"heap_kb": 900}, "pss_kb: 1000, but its parts make 1700"),
        (MEMORY, {"round": 0}, "round: counts from 1"),
        (SWEEP, {"point": "[1]"}, "point: must be a JSON object"),
        (SWEEP, {"qps": 1.0}, "qps: 1, but requests"),
        (GENERATORS, {"steal": 1.5}, "steal: must be 0 to 1"),
        (GENERATORS, {"table": "genes"}, "no table 'genes'; there are qps, memory"),
    ],
)
def test_contradictions_in_a_row(row, change, said):
    with pytest.raises(RecordError, match=said):
        check({**row, **change})


# -- what is shipped -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", records.recorded_names())
def test_every_recorded_run_can_be_read_and_names_its_machine(name):
    import mpmkit

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


# -- what is written about it --------------------------------------------------------------------


def test_the_readme_describes_every_column():
    text = (ROOT / "data" / "README.md").read_text()
    assert columns_doc.markdown() in text, "run: python -m docs._tools.columns_doc"
    assert all(column.doc for column in COLUMNS)


# -- the machine ---------------------------------------------------------------------------------


def test_the_machine_is_described():
    machine = records.machine()
    assert machine.cores >= 1 and machine.python.startswith(f"{sys.version_info.major}.")
    check({**ROW, **machine.row()})
    assert machine.kernel in str(machine) and f"Python {machine.python}" in str(machine)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores", "megabytes"),
    [
        ({}, None, None),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/a/memory.max": "max\n",
            },
            1.5,
            None,
        ),
        # As in a container: our group is mounted as the root, its path is not there.
        (
            {
                "proc/self/cgroup": "0::/docker/123\n",
                "sys/fs/cgroup/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/memory.max": "1073741824\n",
            },
            0.5,
            1024,
        ),
    ],
)
def test_limits_of_the_control_group(tmp_path, files, cores, megabytes):
    root = tree(tmp_path, files)
    assert records.cpu_limit(root) == cores
    assert records.memory_limit_mb(root) == megabytes
