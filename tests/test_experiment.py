"""The frame of experiments: rows are kept whatever happens, competitors cost their own rows, runs go on; and
sweeps: the grid is checked whole, finished points stay, the same call goes on."""

import inspect
import io
import json
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass, field
from unittest.mock import Mock

import pytest
from support import servers
from support.calls import printed_by, refused
from support.experiments import Launches
from support.rows import ROW, SWEEP

import mpmkit
from benchmarks import article, bench, cost, generators, run_all, versions
from mpmkit.load import profile, runner
from mpmkit.measure import capacity, command, demand, experiment, memory, qps, records, sweep
from mpmkit.measure.experiment import Bar, Cell, ExperimentError, Interrupted, Progress, Table
from mpmkit.measure.records import RecordError, RecordFile
from mpmkit.measure.sweep import SweepTable, plan

SERVERS = [Cell(1, "mpmkit", "prefork"), Cell(1, "httpd", "prefork"), Cell(1, "nginx", "")]


@dataclass
class Measuring:
    """A way to measure cells: what happens at which cell (from 1), and which servers were stopped."""

    events: dict[int, BaseException] = field(default_factory=dict)
    began: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def __call__(self, cell, report):
        self.began.append(f"{cell.label} {cell.round}")
        try:
            report(cell.label, 0.5)
            if len(self.began) in self.events:
                raise self.events[len(self.began)]
            yield [{**ROW, "server": cell.server, "mpm": cell.mpm or None, "round": cell.round}]
        finally:
            self.stopped.append(f"{cell.label} {cell.round}")


def cells(rounds=2, servers=SERVERS):
    return experiment.in_rounds(servers, range(1, rounds + 1))


def run(cells, measuring, table, *, file=None, **how):
    """The cells, measured in that way; the rows go into the file."""
    table.measure = measuring
    table.keep_in(file and file.path)
    return table.each(cells, **how)


def test_rows_are_on_disk_and_progress_says_how_far_it_is(tmp_path):
    file, seen = RecordFile(tmp_path / "rows.csv"), []

    def on_progress(now):
        seen.append((now, len(records.read(file.path))))

    measuring = Measuring()
    table = run(cells(), measuring, Table([], planned=6), file=file, on_progress=on_progress)
    assert measuring.began == measuring.stopped and len(measuring.began) == 6
    assert measuring.began[2:4] == ["nginx 1", "mpmkit prefork 2"]
    assert records.read(file.path) == table.records and table.measured == 6
    assert [on_disk for now, on_disk in seen if now.row] == [1, 2, 3, 4, 5, 6]
    shares, last = [now.share for now, _ in seen], seen[-1][0]
    assert shares == sorted(shares) and shares[0] == pytest.approx(0.5 / 6) and shares[-1] == 1
    assert last.left == 0 and last.row == table.records[-1]
    assert str(last) == f"[6/6] nginx: {last.row['qps']:,.0f} requests/s"


@pytest.mark.parametrize(("event", "said"), [
    (KeyboardInterrupt(), "interrupted"), (RuntimeError("port 80:\n taken"), "port 80: taken"),
    (runner.LoadError("it died"), "it died"), (KeyError("oops"), "'oops'"),
    (RecordError("a full disk"), "a full disk"),
])  # fmt: skip
def test_what_ends_a_run_carries_the_table(tmp_path, event, said):
    file, measuring = RecordFile(tmp_path / "rows.csv"), Measuring({5: event})
    # The fifth cell is httpd's: a generator that dies, a bug or a full disk is not its fault alone.
    many = cells(5, SERVERS[:1]) if type(event) is RuntimeError else cells()
    closed = []

    def held():
        try:
            yield from many
        finally:
            closed.append(True)

    with pytest.raises(Interrupted if said == "interrupted" else ExperimentError) as error:
        run(held(), measuring, Table([], planned=len(many)), file=file)
    assert str(error.value) == said and error.value.table.measured == 4 and closed
    assert records.read(file.path) == error.value.table.records
    assert measuring.began == measuring.stopped


def test_a_competitor_that_fails_costs_no_other_row():
    measuring = Measuring({2: RuntimeError("did not\nstart"), 7: RuntimeError("gone")})
    said, table = [], Table([], planned=9)
    run(cells(3), measuring, table, say=said.append)
    assert said == [
        "without httpd prefork from round 1 on (0 rows of it are kept): did not start",
        "without nginx from round 3 on (2 rows of it are kept): gone",
    ]
    assert [row["server"] for row in table.records].count("mpmkit") == 3
    assert table.broken == {"httpd prefork", "nginx"}
    assert table.planned == table.measured == 5 and table.footer()[1:] == said == table.left_out


def test_a_run_goes_on_with_the_rows_of_its_file(tmp_path):
    file = RecordFile(tmp_path / "rows.csv")
    rows = run(cells(1), Measuring(), Table([], planned=3), file=file).records
    file.append({**rows[0], "python": "3.9.1", "round": 9})
    table = Table([], planned=6, design=rows[0]["scale"])
    table.design_column = "scale"
    table.keep_in(file.path)
    assert table.resumed == table.measured == 4 and table.records[:3] == rows
    assert any("of another python: " in note and "3.9.1" in note for note in table.footer())
    seen, table.measure = [], Measuring()
    table.each(cells(1)[:2], on_progress=seen.append)
    assert table.measured == 6 and seen[0].share > 4 / 6 and seen[-1].share == 1
    table.design = "smoke"
    refused(RecordError, "holds another qps", table.keep_in, file.path)


def test_a_row_has_the_machine_and_what_happened_meanwhile(monkeypatch):
    looks = [(100, 0, 50, 800, 50, 0, 0, 10, 9, 0), (150, 0, 60, 820, 50, 0, 0, 30, 99, 0)]
    monkeypatch.setattr("psutil.cpu_times", lambda: looks[0] if len(looks) < 2 else looks.pop(0))
    frame = {"run_id": "r", "scale": "smoke", "round": 3, "server": "nginx", "mpm": None}
    own = {*frame, "steal", "load1", "directives", *vars(records.machine())}
    columns = {name: value for name, value in ROW.items() if name not in own}
    rows = []
    cell = Cell(3, "nginx", "", directives={"A": 1, "B": "x"})
    for _ in range(2):
        rows.append(Table([], run_id="r", scale="smoke").conditions(cell)(**columns))
    assert {name: rows[0][name] for name in frame} == frame and rows[0]["cores"] >= 1
    assert rows[0]["directives"] == "A=1 B=x"
    # Of what has passed; not known where nothing has.
    assert [row["steal"] for row in rows] == [pytest.approx(0.2), None]


@pytest.mark.parametrize(("event", "status", "out", "err"), [
    (None, 0, "3 rows", ""),
    (KeyboardInterrupt(), 130, "2 rows", "mpmkit: interrupted; go on"),
    (RuntimeError("broke"), 1, "2 rows", "mpmkit: broke; go on"),
])  # fmt: skip
def test_exit_statuses_of_a_run(capsys, monkeypatch, event, status, out, err):
    measuring = Measuring({3: event} if event else {})
    monkeypatch.setattr(Table, "text", lambda table: f"{table.measured} rows")
    monkeypatch.setattr(Table, "again", "; go on")

    def measure(bar):
        return run(cells(3, SERVERS[:1]), measuring, Table([], planned=3), on_progress=bar)

    assert command.execute(measure)[0] == status
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == f"{out}\n" and "\n".join(lines[int(out[0]) :]) == err
    assert all(line.startswith("[") for line in lines[: int(out[0])])
    # Before anything starts
    errors = {ValueError("bad\nline"): 2, RecordError("no file"): 1, KeyboardInterrupt(): 130}
    for error, status in errors.items():
        assert command.execute(Mock(side_effect=error)) == (status, None)
        said = capsys.readouterr()
        assert not said.out and all(line.startswith("mpmkit: ") for line in said.err.splitlines())


@pytest.mark.parametrize(("program", "argv", "said"), [
    (qps, "--mpm x --script y --rounds 0 --scale z", "mpm: .*; script: .*; scale: .*; rounds: "),
    (qps, "--also iis", "also: 'iis' is not one of httpd"),
    (memory, "--against asleep", "against: 'asleep' is not one of busy, idle"),
    (memory, "--busy 0,x", "must be numbers like 0,50,100"),
    (memory, "--busy 0,500", "busy: 500 requests can't be busy under prefork with Max"),
    (memory, "--idle -1", "idle: must be a whole number from 0 to 20,000"),
    (memory, "--idle ,", "idle: give at least one level"),
    (memory, "--document-root /no/such", "document_root: there is no folder /no/such"),
    (memory, "-c ThreadsPerChild", "write a directive and its value"),
    (memory, "--mpm prefork -c 'ThreadsPerChild 5'", "directives: "),
    (memory, "--reserve 1GiB", "reserve: it is a part of --ram; give both"),
    (sweep, "event users", "must be NAME=VALUE,VALUE, not 'users'"),
    (sweep, "event users=1 users=2", "a name is in the grid twice"),
    (sweep, "event users=1 --path x", "path: must begin"),
    (demand, "--work pages --rates 0 --blocks 0 --margin 50.1%", "work: .*; blocks: .*; rates: .*; margin: "),
    (capacity, "--limit 0 --cost -1", "limit_ms: must be 1 to 10,000, not 0.*; cost_us: must be"),
    (bench, "--rounds 0", "rounds: must be a whole number from 1"),
    (bench, "--requests 1", "--requests from 5"), (bench, "--seconds 0", "--seconds over 0"),
    (bench, "--scale huge", "scale: 'huge' is not one of smoke, demo, full"),
    (cost, "--requests 5", "--requests 5: give 100 to 1,000,000"),
    (cost, "--clients 4 0", "--clients 0: give numbers from 1 to 100"),
    (cost, "--rounds 0", "--rounds 0: give 1 at least"),
    (article, "--requests 5", "requests: must be 200 to 5,000,000"),
    (versions, "/srv /tmp", "/srv: has no folder mpmkit; /tmp: has"),
    (generators, "--seconds 0.5", "seconds"), (generators, "--url http://192.0.2.1/", "loopback"),
    (runner, "http://127.0.0.1:1 --profile /nowhere.json", "profile: /nowhere.json: "),
    (runner, "http://192.0.2.1/ --users 0", "users: must be a whole number"),
    (runner, "http://127.0.0.1:1 --rate 5", "rate: only the open loop has it"),
    (run_all, "--only tea", "argument --only: invalid choice: 'tea'"),
])  # fmt: skip
def test_bad_command_lines_are_refused_at_once(capsys, monkeypatch, program, argv, said):
    monkeypatch.setattr(Table, "each", None)
    monkeypatch.setenv("MPMKIT_SCALE", "smoke")
    status, out, err = printed_by(program.main, shlex.split(argv), capsys)
    assert status == 2 and out == "" and re.search(said, err), err
    assert all(line.startswith("mpmkit: ") for line in err.splitlines())


@pytest.mark.parametrize("program", [qps, memory, sweep, demand, capacity])
def test_each_option_says_what_it_is(capsys, program):
    _, out, _ = printed_by(program.main, ["--help"], capsys)
    options = re.findall(r"(?m)^  -.*\n(?=  -|\n|\Z)", out)  # those on one line
    assert "--out FILE.csv" in out and options
    assert all(re.search(r"\S  +\S", one) for one in options)


@pytest.mark.parametrize("name", "qps_table demand_table capacity_table memory_table sweep".split())
def test_what_is_asked_can_be_checked_without_measuring(name, tmp_path, monkeypatch):
    one, said = getattr(mpmkit, name), []
    asked = ("all", {"users": [1]}, profile.LoadProfile(requests=1)) if name == "sweep" else ()
    assert list(inspect.signature(one).parameters)[-3:] == ["out", "on_progress", "say"]
    cells = one.__wrapped__(*asked).left()
    monkeypatch.setattr(Table, "each", lambda table, left, *_: left)
    left = one(*asked, out=tmp_path / "rows.csv", say=said.append)
    assert len(left) == len(cells) > 0 and len(said) == (name in ("memory_table", "sweep"))


def test_rows_are_kept_in_the_checkout_or_where_out_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "runs").mkdir(parents=True)
    parser = command.parser("x", memory.memory_table, "directive mpm")
    checkout = records.recorded_folder().with_name("runs")
    assert command.out_of(parser.parse_args([]), "a") == checkout / "a.csv"
    assert str(command.out_of(parser.parse_args(["--out", "b.csv"]), "a")) == "b.csv"
    # An installed package: not even a data/runs in the current folder makes it write.
    monkeypatch.setattr(command, "__file__", str(tmp_path / "lib" / "mpmkit" / "measure" / "x.py"))
    assert command.out_of(parser.parse_args([]), "a") is None
    assert "keeps no rows" in " ".join(parser.format_help().split())
    argv = ["-c", "Timeout 5", "--directive", "KeepAlive  On", "--mpm", "a,b", "--mpm", "c"]
    asked = vars(parser.parse_args([*argv, "--out", "b.csv"]))
    given = [("Timeout", "5"), ("KeepAlive", "On")]
    assert asked == {"directives": given, "mpms": ["a", "b", "c"], "out": "b.csv"}


def test_progress_is_a_bar_on_a_terminal_and_else_a_line_a_figure(monkeypatch, capsys):
    def shown(left: float) -> None:
        bar = Bar()
        bar(Progress(0, 2, "a", 0.25, 9.0))
        bar(Progress(1, 2, "a", 0.5, left, ROW, "5 requests/s"))
        bar.close()

    shown(100.0)
    assert capsys.readouterr().err == "[1/2] a: 5 requests/s (about 2 min left)\n"
    assert (experiment.duration(89), experiment.duration(91)) == ("89 s", "2 min")
    pytest.importorskip("tqdm")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    shown(0.0)
    assert " 25%|" in terminal.getvalue() and "[1/2] a: 5 requests/s" in terminal.getvalue()


LOAD = profile.LoadProfile(path="/ok", users=2, requests=30)
GRID = {"ThreadsPerChild": [5, 10], "users": [1, 3]}


def test_points_are_the_product_of_the_grid():
    todo = plan(("worker", "event"), GRID, LOAD, directives={"Timeout": 7}, rounds=2)
    values = [f"ThreadsPerChild={t} users={u}" for t in (5, 10) for u in (1, 3)]
    points = [f"{mpm} {one}" for mpm in ("worker", "event") for one in values]
    assert list(map(str, todo.cells)) == points
    cell = todo.cells[3]
    given = {"ThreadsPerChild": 10, "Timeout": 7, "KeepAlive": False, "MaxRequestWorkers": 400}
    assert cell.directives.items() >= given.items()
    assert (cell.profile.users, cell.profile.path) == (3, "/ok")
    assert plan("event", {"threadsperchild": [5]}, LOAD).names == ("ThreadsPerChild",)
    assert sum(cell.seconds for cell in todo.left()) == pytest.approx(2 * 8 * (2.5 + 5))
    # Another sweep has another design, but not by its rounds.
    first, fewer = plan("event", GRID, LOAD).design, {**GRID, "users": [1, 2]}
    assert plan("event", GRID, LOAD, rounds=5).design == first
    timeout = plan("event", GRID, LOAD, directives={"Timeout": 7})
    others = plan("worker", GRID, LOAD), plan("event", GRID, LOAD.but(users=9)), timeout
    assert first not in [one.design for one in (*others, plan("event", fewer, LOAD))]


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
    refused(ValueError, said, plan, "event", grid, LOAD)


def test_all_mistakes_are_reported_each_once():
    threads = ["many", 100, 5]
    grid = {"users": [0, *range(1, 20)], "ThreadsPerChild": threads, "ThreadsPerChlid": [5]}
    with pytest.raises(ValueError) as error:
        plan(("event", "winnt"), grid, LOAD, directives={"Nonsense": 1}, rounds=0)
    many, pattern = "event users=0 ThreadsPerChild=", [
        "mpm: .*'winnt' is not one of", "rounds: .*must be", "ThreadsPerChlid.*did you mean ThreadsPerChild?",
        "{}many, and 2 more: .*users: must be a whole", "{}many, and 59 more: .*Nonsense is not a",
        "{}many, and 19 more: .*takes a number", "{}100, and 19 more: .*would use",
    ]  # fmt: skip
    lines = str(error.value).splitlines()
    found = [[line for line in lines if re.match(one.format(many), line)] for one in pattern]
    assert sorted(found) == sorted([line] for line in lines), lines


def test_values_on_the_command_line():
    values = {"5": 5, "0.5": 0.5, "On": True, "off": False, "500ms": "500ms"}
    assert repr({text: sweep.value_of(text) for text in values}) == repr(values)


def test_a_sweep_in_rounds_and_the_same_call_measures_only_what_is_new(tmp_path):
    path, launched = tmp_path / "rows.csv", Launches()
    grid = {"ThreadsPerChild": [5, 10], "users": [3]}
    how = {"out": path, "launch": launched}
    sweep.sweep("event", grid, LOAD, **how)
    assert sweep.sweep("event", grid, LOAD, **how).resumed == len(launched.made) == 2
    table = sweep.sweep("event", grid, LOAD, rounds=2, **how)
    rows = records.read(path)
    assert [row["point"] for row in rows] == [row["point"] for row in table.records]
    assert len(rows) == table.planned == 4 and [row["users"] for row in rows] == [3] * 4
    cells = plan("event", grid, LOAD, rounds=2).left()
    threads = [cell.values["ThreadsPerChild"] for cell in cells]
    assert sorted(threads[:2]) == sorted(threads[2:]) == [5, 10]
    assert [made[1]["ThreadsPerChild"] for made in launched.made] == threads
    assert list(table.to_frame()["ThreadsPerChild"]) == threads
    summary, text = table.summary(), table.text()
    assert list(summary["ThreadsPerChild"]) == [5, 10] and list(summary["rounds"]) == [2] * 2
    assert text.split()[:4] == "mpm ThreadsPerChild users requests/s".split()
    assert "p99 needs 1,000 requests a round" in text and f"rows in {path}" in text


def test_a_server_that_dies_ends_the_sweep_and_a_point_without_a_good_answer_is_a_result():
    grid, launched = {"users": [1, 2]}, Launches(lambda number: number == 2)
    said = f"(?s){plan('event', grid, LOAD).left()[1]}: .*is gone.*the roof is on fire"
    refused(ExperimentError, said, sweep.sweep, "event", grid, LOAD, launch=launched)
    table = sweep.sweep("event", {"expect_length": [45, 44]}, LOAD, launch=Launches())
    assert [point["failures"] for point in table.points()] == [30, 0]
    assert "30 FAILED" in table.text()


def test_nothing_is_said_of_the_best_where_the_server_was_not_the_limit():
    figures = {
        "requests": 5_000, "failures": 0, "errors": "{}", "duration_s": 2.0, "qps": 2500.0, "p99_ms": 1900.0,
        "p999_ms": 1950.0, "p9999_ms": 1960.0, "max_ms": 1999.0, "generator_bound": False,
        "generator_starved": False, "mpm": "event",
    }  # fmt: skip
    rows = [{**SWEEP, **figures, "point": json.dumps({"users": n}), "users": n} for n in (10, 2, 1)]
    assert SweepTable([], ("users",)).text() == "no point was finished"
    table = SweepTable(rows, ("users",))
    assert list(table.summary()["users"]) == [1, 2, 10] and table.summary()["p99_cut"].all()
    assert "most requests/s under event: 2,500" in table.text() and "≥ 1,900.0" in table.text()
    table.records[0]["generator_bound"] = True
    text = table.text()
    assert "most requests/s" not in text and "little more" not in text
    assert "not decidable: generator or machine was the limit in 1 of 3 points" in text


def test_ctrl_c_and_on_with_real_servers(tmp_path):
    path, grid = tmp_path / "rows.csv", "sweep event ThreadsPerChild=5,10 --users 4 --duration 4"
    argv = servers.command(*grid.split(), "--warmup", "0.1", "--out", str(path))
    how = {"text": True, "cwd": tmp_path, "env": servers.environment(), "stdout": subprocess.PIPE}
    with subprocess.Popen(argv, stderr=subprocess.PIPE, **how) as process:
        next(line for line in process.stderr if "[1/2]" in line)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=servers.patience(20))
    assert process.returncode == 130 and "interrupted; the same command resumes" in err
    assert "NOT COMPLETE: 1 of 2 points" in out
    done = subprocess.run(argv, timeout=60, **how)
    assert done.returncode == 0 and "1 of 2 points are of an earlier run" in done.stdout
    rows = records.read(path)
    assert sorted(json.loads(row["point"])["ThreadsPerChild"] for row in rows) == [5, 10]
    assert all(row["failures"] == 0 and row["qps"] > 0 for row in rows)
