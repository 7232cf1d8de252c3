"""Diagrams, timelines and recordings: they show what the tables and the runs say, and nothing else."""

import math
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from helpers import connection_diagrams, connection_states, notebook_helpers
from support.calls import refused

import mpmkit
from mpmkit import lab
from mpmkit.lab import diagram, plots, replay, theme
from mpmkit.measure.recording import Event, Recording, Sample, ScoreboardSnapshot
from mpmkit.measure.records import RecordError
from mpmkit.policy.connection_trace import STATE_NAMES
from mpmkit.policy.states import LETTERS

NS = "{http://www.w3.org/2000/svg}"


def words(svg: diagram.Svg) -> str:
    return " ".join(node.text or "" for node in ElementTree.fromstring(svg.text).iter(f"{NS}text"))


@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_a_path_has_every_phase_of_the_table_and_states_every_arrow(mpm):
    svg = connection_diagrams.path(mpm)
    phases = [phase for phase in connection_states.PATHS[mpm] if "graceful" not in phase.name]
    boxes = ElementTree.fromstring(svg.text).findall(f"{NS}rect[@rx='4']")
    assert len(boxes) == len(phases)
    parked = sum(bool(phase.parked) for phase in phases)
    assert sum("stroke-dasharray" in box.attrib for box in boxes) == parked
    assert parked == (3 if mpm == "event" else 0) and ("no thread" in words(svg)) == (parked > 0)
    for phase in phases:
        assert phase.name.split()[0] in words(svg) and phase.name in svg.alt
    svg = connection_diagrams.connection_states(mpm)
    arcs = len({(row.state, row.next, row.who) for row in connection_states.TRANSITIONS[mpm]})
    drawn = ElementTree.fromstring(svg.text).findall(f"{NS}circle")
    assert len(drawn) == arcs and f" {arcs}  " in words(svg) and f" {arcs + 1}  " not in words(svg)
    for row in connection_states.TRANSITIONS[mpm]:
        assert row.event in words(svg) and STATE_NAMES[row.next].replace("_", " ") in words(svg)
    assert ("listener" in words(svg)) == (mpm == "event")
    assert svg._repr_svg_() == svg.text and repr(svg) == svg.alt


def test_a_scoreboard_has_a_cell_for_each_worker():
    svg = diagram.scoreboard(lab.Picture("noon", 1.0, "event", ((0, "__WK", 7), (3, "R_..", 0))))
    cells = ElementTree.fromstring(svg.text).findall(f"{NS}rect[@width='16']")
    assert len(cells) == 8
    assert [cell.get("fill") for cell in cells[:4]] == [*map(theme.letter_colour, "__WK")]
    assert "slot 3" in words(svg) and "+ 7 without a thread" in words(svg)
    assert "3 waiting for a connection" in svg.alt and "7 connections without a thread" in svg.alt
    assert len({theme.letter_colour(letter) for letter in "RWKLCGS"}) == 7
    assert {theme.letter_colour(letter, "dark") for letter in LETTERS}


def recording(mpm="event", n=5) -> Recording:
    zero = dict.fromkeys(Sample._fields, 0)
    known = {**zero, "waiting": math.nan, "qps": math.nan, "service_ms": math.nan, "pss_mb": 10.0}
    rising = ({"t": float(i), "processes": i, "threads": 4 * i, "parked": i} for i in range(n))
    events = [Event(1.5, "note", "load"), Event(2.0, "forked", "forked 2")]
    pictures = [ScoreboardSnapshot("now", 1.0, mpm, ((0, "_W", 1),))]
    return Recording(mpm, [Sample(**{**known, **one}) for one in rising], events, pictures)


def test_a_timeline_draws_the_samples_and_marks_what_was_done(monkeypatch):
    figure = lab.timeline(recording(), "processes", "connections", title="a run")
    lines = {line.name: list(line.y) for line in figure.data}
    assert lines == {"processes": [0, 1, 2, 3, 4], "kept alive": [0, 1, 2, 3, 4]}
    assert [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1] == [1.5, 1.5]
    assert any(note.text == "load" for note in figure.layout.annotations)
    said = plots.alt_text(figure)
    assert said.startswith("a run. ") and "kept alive: at most 4" in said
    refused(ValueError, "no strip speed; there are processes", lab.timeline, recording(), "speed")
    refused(ValueError, "without samples", lab.timeline, recording(n=0))
    # Several runs lie over one another, in their colours.
    monkeypatch.setenv("MPMKIT_THEME", "dark")
    runs = {mpm: recording(mpm) for mpm in ("worker", "event")}
    figure = lab.timeline(runs, "processes")
    drawn = [(line.name, line.line.color) for line in figure.data]
    assert drawn == [(mpm, theme.DARK[mpm]) for mpm in runs]
    assert figure.layout.paper_bgcolor == theme.PAPER[True]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    for name in ("MPMKIT_REPLAY", "MPMKIT_RECORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(replay, "recorded_folder", lambda: tmp_path)
    monkeypatch.setattr(replay.OtherWork, "share", lambda self: 0.04)
    return tmp_path


def test_what_was_recorded_comes_back_and_says_so(shelf, monkeypatch, capsys):
    def measured():
        return {"run": recording(), "waits": [0.5, math.inf], "none": None, "text": "é"}

    monkeypatch.setenv("MPMKIT_REPLAY", "1")
    words = r"no recording demo\.json; set MPMKIT_REPLAY=0"
    refused(RecordError, words, lab.measured_or_recorded, "demo", measured)
    (shelf / "demo.json").write_text('{"value": 1}')
    refused(RecordError, "demo.json is not", lab.measured_or_recorded, "demo", measured)
    monkeypatch.setenv("MPMKIT_RECORD", "1")
    monkeypatch.setenv("MPMKIT_REPLAY", "0")
    first = lab.measured_or_recorded("demo", measured)
    assert "RECORDED" not in capsys.readouterr().out
    monkeypatch.setenv("MPMKIT_REPLAY", "1")
    again = lab.measured_or_recorded("demo", lambda: pytest.fail("it was measured"))
    ours, theirs = again.pop("run"), first.pop("run")
    assert again == first and ours.column("processes") == theirs.column("processes")
    assert ours.snapshot("now") == theirs.snapshot("now") and math.isnan(ours.samples[0].qps)
    said = capsys.readouterr().out
    assert said.startswith("RECORDED on 20") and "MPMKIT_REPLAY=1" in said
    assert "cores, 4.0% of them busy with other work" in said
    # A file of another kind, by a reader of its own
    (shelf / "rows.csv").write_text("1\n")
    read = lab.measured_or_recorded("rows.csv", lambda: "", read=lambda path: path.read_text())
    assert read == "1\n" and "rows.csv" in capsys.readouterr().out


def test_a_machine_with_other_work_records_nothing_nor_what_cannot_be(shelf, monkeypatch, capsys):
    for value in ({1: "a number as key"}, {"it": object()}):
        refused(TypeError, "recorded", replay.record, "demo", lambda value=value: value)
    assert not list(shelf.iterdir())
    replay.record("demo", lambda: "quiet")
    monkeypatch.setattr(replay.OtherWork, "share", lambda self: 0.06)
    assert replay.record("demo", lambda: "disturbed") == "disturbed"
    assert lab.recorded("demo") == "quiet"
    assert "NOT recorded: other work took 6%" in capsys.readouterr().out


@pytest.mark.parametrize(("limits", "why"), [
    ({}, ""), ({"cpu_limit": 1.0}, "gives 1 cores, and 2 are needed"),
    ({"memory_limit_mb": 256}, "gives 256 MB of memory, and 400 are needed"),
])  # fmt: skip
def test_a_machine_that_is_too_small_replays(shelf, monkeypatch, limits, why):
    here = {"cores": 4, "cpu_limit": None, "memory_mb": 8000, "memory_limit_mb": None, **limits}
    monkeypatch.setattr(replay, "machine", lambda: SimpleNamespace(**here))
    said = replay.why_recorded(cores=2)
    assert why in said and bool(said) == bool(why)
    monkeypatch.setenv("MPMKIT_REPLAY", "0")
    assert replay.why_recorded(cores=2) == ""


@pytest.mark.parametrize("mpm", ["prefork", "event"])
def test_a_crash_loses_what_the_process_held(mpm):
    pool = {} if mpm == "prefork" else {"ThreadsPerChild": 4, "MinSpareThreads": 1}
    with mpmkit.launch(mpm, StartServers=2, KeepAliveTimeout=30, **pool) as server:
        fell = notebook_helpers.crash(server, 4)
    assert fell["lost"] == fell["victim_held"] >= 1 and "SIGSEGV" in fell["log"]
    assert mpm != "prefork" or fell["lost"] == 1
