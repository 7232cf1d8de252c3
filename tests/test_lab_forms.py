"""The control room's forms, and the sweep panel's form, run and grid, without a browser; the recorded grids."""

import json
import shutil
from functools import partial

import pytest
from support.calls import refused
from support.files import tree
from support.waiting import alive, poll_until

from mpmkit import lab
from mpmkit.config.directives import MPMS, SPECS, DirectiveError
from mpmkit.lab.forms import BROWSERS, MIX, NAMES, PAGES, ROWS, DirectiveForm, LoadForm
from mpmkit.lab.sweep import AXES, LEFT_OUT, METRICS, SweepForm, SweepGrid, SweepRun
from mpmkit.load.profile import LoadProfile, ProfileError
from mpmkit.measure import records


def fields(form: LoadForm | DirectiveForm) -> dict:
    return {field.name: field for field in form.fields()}


def load_form(**values) -> LoadForm:
    form = LoadForm()
    for name, value in values.items():
        form.set(name, value)
    return form


def test_the_form_is_a_load_and_keeps_what_does_not_apply():
    form = LoadForm()
    profile = form.profile(60)
    assert (profile.users, profile.path, profile.duration) == (50, "/index.html", 60)
    assert not profile.keep_alive and form.summary() == "" and form.browsers() == (0, 60)
    assert not any(field.hints or field.value for field in form.fields())
    form = load_form(think_time="2", requests_per_connection="7")
    each = "requests_per_connection"
    for name, value, shown, hidden, sent in (
        ("arrival", "constant", "rate", "think_time", {"arrival": "constant", "rate": 500, "think_time": 0}),
        ("arrival", "closed", "think_time", "rate", {"think_time": 2}),
        ("keep_alive", False, "think_time", each, {"keep_alive": False, each: None}),
        ("keep_alive", True, each, "rate", {"keep_alive": True, each: 7}),
    ):  # fmt: skip
        form.set(name, value)
        assert shown in fields(form) and hidden not in fields(form)
        assert sent.items() <= vars(form.profile(10)).items()


@pytest.mark.parametrize("name", ROWS)
def test_each_field_is_one_of_the_profile_with_bounds_that_it_takes(name):
    row = ROWS[name]
    ours = name.startswith("weight /") or row.group == BROWSERS
    assert row.help and row.label and (ours or name in LoadProfile.__dataclass_fields__)
    needs = {"rate": {"arrival": "poisson"}, "requests_per_connection": {"keep_alive": True}}
    for value in () if row.kind in ("switch", "choice") else (row.low, row.reach, row.high):
        assert row.low <= value <= row.high
        form = load_form(**needs.get(name, {"path": MIX} if name.startswith("weight") else {}))
        form.set(name, f"{value:g}" if value < 1000 else f"{value:.0f}")
        form.profile(10), form.browsers()
        assert not fields(form)[name].hints


@pytest.mark.parametrize(("name", "value", "said"), [
    ("users", "many", "a whole number from 1 to 500, not 'many'"), ("keep_alive", "120", "True or False"),
    ("arrival", "sometimes", "one of closed, constant, poisson"), ("path", "index.html", "must be one of"),
    ("timeout", "nan", "0.05 to 600 s"), ("browsers", "2001", "0 to 2,000"),
])  # fmt: skip
def test_what_cannot_be_is_kept_shown_at_its_field_and_refused(name, value, said):
    form = load_form(**{name: value})
    field = fields(form)[name]
    assert field.value == value and field.refused and said in field.hints[0]
    assert not any(other.hints for other in form.fields() if other.name != name)
    made = form.browsers if field.group == BROWSERS else partial(form.profile, 10)
    refused(ValueError, f"^{name}: ", made)
    form.set(name, None)
    assert not fields(form)[name].hints


def test_a_mix_by_weight_and_background_clients():
    form = load_form(path=MIX)
    weights = {path: weight for path, _, weight in PAGES if weight}
    assert {spec.path: spec.weight for spec in form.profile(10).mix} == weights
    for path, _, _ in PAGES:
        form.set(f"weight {path}", 0)
    refused(ValueError, "no page of the mix has a weight", form.profile, 10)
    form = load_form(path="/slow.py", idle_holders="20")
    assert form.profile(10).idle_holders == 20 and form.summary() == "Idle holders 20"
    refused(ProfileError, "no such field, it has users", form.set, "speed", 9)


@pytest.mark.parametrize("mpm", MPMS)
def test_the_fields_are_those_of_the_mpm_with_the_tables_bounds(mpm):
    found = fields(DirectiveForm(mpm))
    assert set(found) == {name for name in NAMES if mpm in SPECS[name.lower()].mpms}
    for name, one in found.items():
        spec = SPECS[name.lower()]
        assert (one.high, one.unit, one.help) == (spec.high_for(mpm), spec.unit, spec.doc)
        assert not one.hints and one.value == "" and one.low < one.reach
    assert found["StartServers"].default == {"prefork": "5"}.get(mpm, "3")


@pytest.mark.parametrize(("name", "word", "hints"), [
    ("ThreadsPerChild", "100", ("AH00507: ThreadsPerChild 100 is above the ThreadLimit of 64: 64 is used",)),
    ("Timeout", "1m", ('"1m" is not a whole number: httpd reads 1',)),
    ("ThreadsPerChild", "few", ('"few" is not a whole number: httpd reads 0', "AH00509: ")),
    *(("Timeout", good, ()) for good in ("60", " 7 ", "-0", "+3", None)),
])  # fmt: skip
def test_what_httpd_corrects_or_reads_otherwise_is_shown(name, word, hints):
    form = DirectiveForm("event", MaxRequestWorkers=64)
    form.set(name, word)
    one = fields(form)[name]
    assert one.value == (word or "").strip() and not one.refused
    assert len(one.hints) == len(hints) and all(map(str.startswith, one.hints, hints))


def test_a_word_that_cannot_be_read_is_refused():
    form = DirectiveForm("worker")
    form.set("KeepAliveTimeout", "soon")
    form.set("ThreadsPerChild", 100)
    one, other = (fields(form)[name] for name in ("KeepAliveTimeout", "ThreadsPerChild"))
    assert "takes a time" in one.hints[0] and one.refused
    assert "ThreadLimit" in other.hints[0] and not other.refused, "next to the refused one, too"
    refused(DirectiveError, "KeepAliveTimeout", form.checked)
    refused(DirectiveError, "no directive 'Speed'", form.set, "Speed", 9)
    refused(DirectiveError, "no MPM 'threads'", DirectiveForm, "threads")
    form = DirectiveForm("event", ThreadsPerChild=8)  # it waits until an MPM is chosen that has it
    form.choose("prefork")
    assert form.words() == {} and not form.checked()[1]
    form.choose("worker")
    assert form.words() == {"ThreadsPerChild": "8"}


FEW = {"axis": "users", "low": 2, "high": 4, "steps": 2, "seconds": 0.5, "warmup": 0.5}
RECORDED = sorted(records.recorded_folder().glob("sweep-*.csv"))


@pytest.fixture
def sweep(tmp_path):
    """Starts a sweep of a form: its rows go to rows.csv; what `seen` gets is called with the run."""
    pages = tree(tmp_path / "pages", {"index.html": "a page"})
    return lambda form, seen=lambda run: None: SweepRun(form, tmp_path / "rows.csv", pages, seen)


@pytest.mark.parametrize(("choice", "values"), [
    ({"axis": "users", "low": 10, "high": 50, "steps": 5}, [10, 20, 30, 40, 50]),
    ({"axis": "think_time", "low": 0, "high": 1, "steps": 3}, [0, 0.5, 1]),
    ({"axis": "users", "low": 7, "high": 3, "steps": 4}, [7]),
    ({"axis": "users", "low": 1, "high": 3, "steps": 9}, [1, 2, 3]),
    # What httpd would round down to multiples of ThreadsPerChild, the form rounds itself.
    ({"axis": "MaxRequestWorkers", "low": 30, "high": 200, "steps": 3}, [25, 125, 200]),
    ({"axis": "MaxRequestWorkers", "low": 30, "high": 40, "steps": 2, "mpms": ("prefork",)}, [30, 40]),
])  # fmt: skip
def test_the_values_of_an_axis(choice, values):
    assert SweepForm(**choice).values() == values


@pytest.mark.parametrize("axis", AXES)
def test_every_axis_has_a_sweep_as_it_opens(axis):
    form = SweepForm()
    form.turn_to(axis)
    plan = form.plan()
    assert plan.names == (axis,) and plan.cells
    assert {point.mpm for point in plan.cells} == set(form.taking())
    left = {value for value, (what, _) in form.remarks().items() if what == LEFT_OUT}
    assert {point.values[axis] for point in plan.cells} == set(form.values()) - left
    assert any(row.hints for row in form.fields()) == bool(form.remarks())


def test_what_httpd_would_correct_is_said_at_its_field(tmp_path):
    panel = lab.sweep_panel("worker", "prefork", axis="ThreadsPerChild", low=50, folder=tmp_path)

    def said(**typed) -> dict[str, str]:
        for name, text in typed.items():
            panel.controls[name]._box.value = text
        found = {name: one._hints.value for name, one in panel.controls.items() if one._hints.value}
        assert not any(text in panel.hints.value for text in found.values())
        return found

    assert said(high="100", steps="2") == {
        "high": "100 is left out: worker: AH00310: ThreadsPerChild 100 is above the ThreadLimit of 64: 64 is used"
    }
    assert "50: 1 points" in panel.hints.value and "prefork has no Thread" in panel.hints.value
    corrected, left = said(steps="11")["steps"].split("<br>")
    measured = "55 and 1 more are measured with a correction: worker: AH00316: Max"
    assert corrected.startswith(measured)
    assert left.startswith("65 and 6 more are left out: ") and not panel.button.disabled
    assert said(low="99").keys() == {"low", "high"} and panel.button.disabled
    assert "must be" in said(low="many")["low"]
    panel.close()
    form = SweepForm(low=1, high=4, steps=4, directives={"StartServers": 400})
    (marked,) = (row for row in form.fields() if row.hints)
    assert marked.name == "low" and "1 and 3 more" in marked.hints[0], "of all values"
    form = SweepForm(["prefork"], "ThreadsPerChild")
    refused(ValueError, "choose an MPM that has ThreadsPerChild", form.plan)


def test_the_form_takes_what_is_typed_and_refuses_the_rest():
    form = SweepForm()
    for name, text in (("steps", "4"), ("seconds", "0.5"), ("path", "/slow.py")):
        form.put(name, text)
    profile = form.profile()
    assert (len(form.values()), profile.duration, profile.path) == (4, 0.5, "/slow.py")
    for name, text in (("steps", "99"), ("steps", "many"), ("users", "0"), ("path", "/none")):
        form.put(name, text)
        (wrong,) = (row for row in form.fields() if row.refused)
        assert wrong.name == name and "must be" in wrong.hints[0]
        refused(ValueError, f"{name}: must be", form.plan)
        form.put(name, None)
    assert "idle_holders" not in [row.name for row in form.fields()], "the axis has its own row"
    refused(ValueError, "axis: must be one of", SweepForm, axis="KeepAlive")
    refused(DirectiveError, "no MPM 'perchild'", SweepForm, mpms=("perchild",))


def test_a_sweep_observes_each_point_and_keeps_its_rows(tmp_path, sweep):
    seen: list[int] = []
    form = SweepForm(("event",), **FEW, idle_holders=3)
    run = sweep(form, lambda run: seen.append(len(run.rows)))
    poll_until(lambda: not run.running, cap=60)
    assert run.text.startswith("done: 2 points") and sorted(set(seen)) == [0, 1, 2]
    rows = records.read(tmp_path / "rows.csv")
    assert sorted(row["point"] for row in rows) == ['{"users": 2}', '{"users": 4}']
    for row in rows:
        assert row["newcomers"] > 0 and 0 < row["wait_p50_ms"] <= row["wait_p99_ms"]
        assert row["unanswered"] < row["newcomers"] and row["pss_mb"] > 5 and row["children"] >= 3
    grid = SweepGrid(rows)
    board = grid.board("event", 4)
    assert sum(parked for _, _, parked in board.rows) >= 3, "the kept connections are on it"
    assert [x for x, *_ in grid.line("event", "qps")] == [2, 4]


def test_stop_ends_the_server_and_keeps_the_finished_points(tmp_path, sweep):
    run = sweep(SweepForm(("worker",), **{**FEW, "steps": 9, "high": 90}))
    server = poll_until(lambda: run.rows and run._server, cap=60)
    run.stop()
    assert not run.running and not alive(server.pid) and run.text.startswith("stopped: ")
    kept = [row["point"] for row in records.read(tmp_path / "rows.csv")]
    assert kept == [row["point"] for row in run.rows] and 0 < len(kept) < 9


def test_a_full_server_gives_lower_bounds_of_waits(sweep):
    """Two workers, both held: a newcomer's wait has no end while the load runs."""
    form = SweepForm(
        ("prefork",), axis="idle_holders", low=2, high=2, steps=1, users=1, seconds=1, warmup=1,
        directives={"MaxRequestWorkers": 2, "StartServers": 2},
    )  # fmt: skip
    run = sweep(form)
    poll_until(lambda: not run.running, cap=60)
    (row,) = run.rows
    assert row["unanswered"] > 0 and row["wait_p99_ms"] >= 1000, run.text
    ((_, _, bound),) = SweepGrid(run.rows).line("prefork", "wait_p99_ms")
    assert bound and "new clients still waiting" in SweepGrid(run.rows).describe("prefork", 2)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_grid_can_be_moved_through(path):
    grid = SweepGrid(rows := records.read(path))
    two_names = {**rows[0], "point": json.dumps({"users": 1, "think_time": 2})}
    refused(ValueError, "over one name", SweepGrid, [two_names])
    assert grid.mpms == list(MPMS) and len(grid.values) >= 5
    for mpm in grid.mpms:
        assert all(len(grid.line(mpm, metric)) == len(grid.values) for metric in METRICS)
        for value in grid.values:
            assert grid.board(mpm, value).rows and grid.describe(mpm, value)["processes"]
    if path.stem != "sweep-kept-connections":
        return
    # MaxRequestWorkers 50: prefork and worker take 50 connections, event 2 children x 75.
    for mpm, full in (("prefork", 50), ("worker", 50), ("event", 150)):
        waits = {x: ms for x, ms, _ in grid.line(mpm, "wait_p99_ms")}
        assert all((ms > 1000) == (x >= full) for x, ms in waits.items()), (mpm, waits)


def test_the_panel_scrubs_without_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("MPMKIT_REPLAY", "1")
    shutil.copy(RECORDED[0], tmp_path / "sweep-panel-mine.csv")
    panel = lab.sweep_panel(folder=tmp_path)
    assert panel.mode.value == "Recorded" and panel.running is None
    panel.files.value = dict(panel.files.options)["panel-mine"]
    assert "measured on" in panel.state.value
    seen = set()
    for value in panel.grid.values:
        panel.slider.value = value
        assert list(panel.figure().data[1].x) == [value]
        assert panel.boards.value.count("<svg") == 3
        seen.add(panel.figures.value)
    assert len(seen) == len(panel.grid.values)
    panel.page.dark = True
    assert panel.figure().layout.paper_bgcolor == "#16181C"
    panel.close()
