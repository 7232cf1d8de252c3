"""Diagrams, timelines and recordings: they show what the tables and the runs say, and nothing else."""

from __future__ import annotations

import math
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from helpers import connection_diagrams, notebook_helpers
from helpers.connection_states import CONNECTION_NAMES, PATHS, TRANSITIONS

import mpmkit
from mpmkit import lab
from mpmkit.lab import diagram, figures, replay, theme
from mpmkit.measure.recording import Event, Recording, Sample, ScoreboardSnapshot
from mpmkit.measure.records import RecordError
from mpmkit.policy.states import LETTERS

NS = "{http://www.w3.org/2000/svg}"


def words(svg: diagram.Svg) -> str:
    tree = ElementTree.fromstring(svg.text)
    return " ".join(node.text or "" for node in tree.iter(f"{NS}text"))


# ---------------------------------------------------------------- diagrams


@pytest.mark.parametrize("dark", ["light", "dark"])
@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_a_path_has_every_phase_of_the_table(mpm, dark):
    svg = connection_diagrams.path(mpm, theme=dark)
    phases = [phase for phase in PATHS[mpm] if "graceful" not in phase.name]
    boxes = ElementTree.fromstring(svg.text).findall(f"{NS}rect[@rx='4']")
    assert len(boxes) == len(phases)
    parked = [box for box in boxes if box.get("stroke-dasharray")]
    assert (
        len(parked) == sum(bool(phase.parked) for phase in phases) == (3 if mpm == "event" else 0)
    )
    for phase in phases:
        assert phase.name.split()[0] in words(svg) and phase.name in svg.alt
    assert ("no thread" in words(svg)) == (mpm == "event")


@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_connection_states_have_every_arrow_of_the_table(mpm):
    svg = connection_diagrams.connection_states(mpm)
    arcs = [
        node
        for node in ElementTree.fromstring(svg.text).iter(f"{NS}path")
        if node.find(f"{NS}title") is not None
    ]
    assert len(arcs) == len({(row.state, row.next, row.who) for row in TRANSITIONS[mpm]})
    told = "".join(arc.find(f"{NS}title").text for arc in arcs)
    for row in TRANSITIONS[mpm]:
        assert row.event in told and CONNECTION_NAMES[row.next].replace("_", " ") in words(svg)
    assert ("listener" in words(svg)) == (mpm == "event")


def test_a_scoreboard_has_a_cell_for_each_worker():
    picture = lab.Picture("noon", 1.0, "event", ((0, "__WK", 7), (3, "R_..", 0)))
    svg = diagram.scoreboard(picture)
    cells = ElementTree.fromstring(svg.text).findall(f"{NS}rect[@width='16']")
    assert len(cells) == 8
    assert [cell.get("fill") for cell in cells[:4]] == [
        theme.letter_colour(letter) for letter in "__WK"
    ]
    assert "slot 3" in words(svg) and "+ 7 without a thread" in words(svg)
    assert "3 waiting for a connection" in svg.alt and "7 connections without a thread" in svg.alt


def test_a_diagram_shows_itself_and_is_kept(tmp_path):
    svg = connection_diagrams.path("event")
    assert svg._repr_svg_() == svg.text and repr(svg) == svg.alt
    assert ElementTree.parse(svg.save(tmp_path / "event.svg")).getroot().tag == f"{NS}svg"


def test_letters_have_colours_that_can_be_told_apart():
    busy = [theme.letter_colour(letter) for letter in "RWKLCGS"]
    assert len(set(busy)) == 7
    assert {theme.letter_colour(letter, "dark") for letter in LETTERS}


# ---------------------------------------------------------------- timelines


def recording(mpm="event", n=5) -> Recording:
    nan = math.nan
    samples = [
        Sample(
            t=float(i),
            processes=i,
            workers=4 * i,
            idle=2 * i,
            busy=2 * i,
            waiting=nan,
            parked=i,
            threads=4 * i,
            reading=0,
            writing=0,
            closing=0,
            without_thread=0,
            generation=0,
            accesses=0,
            qps=nan,
            service_ms=nan,
            pss_mb=10.0,
        )
        for i in range(n)
    ]
    return Recording(
        mpm,
        samples,
        [Event(1.5, "note", "load"), Event(2.0, "forked", "forked 2")],
        [ScoreboardSnapshot("now", 1.0, mpm, ((0, "_W", 1),))],
    )


def test_a_timeline_draws_the_samples_and_marks_what_was_done():
    figure = lab.timeline(recording(), "processes", "connections", title="a run")
    lines = {line.name: list(line.y) for line in figure.data}
    assert lines == {"processes": [0, 1, 2, 3, 4], "kept alive": [0, 1, 2, 3, 4]}
    assert [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1] == [1.5, 1.5]
    assert any(note.text == "load" for note in figure.layout.annotations)
    said = figures.alt_text(figure)
    assert said.startswith("a run. ") and "kept alive: at most 4" in said


def test_several_runs_lie_over_one_another_in_their_colours():
    figure = lab.timeline(
        {"worker": recording("worker"), "event": recording("event")}, "processes", theme="dark"
    )
    assert [(line.name, line.line.color) for line in figure.data] == [
        (mpm, theme.DARK[mpm]) for mpm in ("worker", "event")
    ]
    assert figure.layout.paper_bgcolor == theme.PAPER[True]


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="no strip speed; there are processes"):
        lab.timeline(recording(), "speed")
    with pytest.raises(ValueError, match="without samples"):
        lab.timeline(recording(n=0))


# ---------------------------------------------------------------- recordings


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    for name in ("MPMKIT_REPLAY", "MPMKIT_RECORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(replay, "recorded_folder", lambda: tmp_path)
    return tmp_path


def measured():
    return {"run": recording(), "waits": [0.5, math.inf], "none": None, "text": "é"}


def test_what_was_recorded_comes_back_and_says_so(shelf, monkeypatch, capsys):
    monkeypatch.setenv("MPMKIT_RECORD", "1")
    monkeypatch.setenv("MPMKIT_REPLAY", "0")
    first = lab.measured_or_recorded("demo", measured)
    assert "RECORDED" not in capsys.readouterr().out
    assert lab.recorded("demo")["waits"] == first["waits"]
    monkeypatch.setenv("MPMKIT_REPLAY", "1")
    again = lab.measured_or_recorded("demo", lambda: pytest.fail("it was measured"))
    assert again["waits"] == first["waits"] and again["none"] is None and again["text"] == "é"
    assert again["run"].column("processes") == first["run"].column("processes")
    assert again["run"].snapshot("now") == first["run"].snapshot("now")
    assert math.isnan(again["run"].samples[0].qps)
    said = capsys.readouterr().out
    assert said.startswith("RECORDED on 20") and "MPMKIT_REPLAY=1" in said and "cores" in said


def test_without_a_recording_the_mend_is_named(shelf, monkeypatch):
    monkeypatch.setenv("MPMKIT_REPLAY", "1")
    with pytest.raises(RecordError, match=r"no recording demo\.json; set MPMKIT_REPLAY=0"):
        lab.measured_or_recorded("demo", measured)
    (shelf / "demo.json").write_text('{"value": 1}')
    with pytest.raises(RecordError, match=r"demo.json is not a recording"):
        lab.measured_or_recorded("demo", measured)


@pytest.mark.parametrize(
    ("here", "why"),
    [
        ({"cores": 4, "cpu_limit": None, "memory_mb": 8000, "memory_limit_mb": None}, ""),
        (
            {"cores": 4, "cpu_limit": 1.0, "memory_mb": 8000, "memory_limit_mb": None},
            "gives 1 cores, and 2 are needed",
        ),
        (
            {"cores": 2, "cpu_limit": None, "memory_mb": 8000, "memory_limit_mb": 256},
            "gives 256 MB of memory, and 400 are needed",
        ),
    ],
)
def test_a_machine_that_is_too_small_replays(shelf, monkeypatch, here, why):
    monkeypatch.setattr(replay, "machine", lambda: SimpleNamespace(**here))
    said = replay.why_recorded(cores=2)
    assert why in said and bool(said) == bool(why)
    monkeypatch.setenv("MPMKIT_REPLAY", "0")
    assert replay.why_recorded(cores=2) == ""


def test_what_cannot_be_recorded_is_refused(shelf):
    for value in ({1: "a number as key"}, {"it": object()}):
        with pytest.raises(TypeError, match="recorded"):
            replay.keep("demo", value)
    assert not list(shelf.iterdir())


def test_a_recording_of_another_kind_is_read_by_who_knows_it(shelf, monkeypatch, capsys):
    (shelf / "rows.csv").write_text("1\n")
    monkeypatch.setenv("MPMKIT_REPLAY", "1")
    read = lab.measured_or_recorded("rows.csv", lambda: "", read=lambda path: path.read_text())
    assert read == "1\n" and "rows.csv" in capsys.readouterr().out


# ---------------------------------------------------------------- scenes


def test_source_is_the_text_that_runs():
    text = notebook_helpers.source("mpm/worker.py", "listener_thread")
    assert text.startswith("def listener_thread(self)") and "wait_for_idler" in text
    with pytest.raises(KeyError, match="no function"):
        notebook_helpers.source("mpm/worker.py", "read_minds")


@pytest.mark.parametrize("mpm", mpmkit.MPMS)
def test_a_crash_loses_what_the_process_held(mpm):
    pool = {} if mpm == "prefork" else {"ThreadsPerChild": 4, "MinSpareThreads": 1}
    with mpmkit.launch(mpm, StartServers=2, KeepAliveTimeout=30, **pool) as server:
        fell = notebook_helpers.crash(server, 4)
    assert fell["lost"] == fell["victim_held"] >= 1
    assert "SIGSEGV" in fell["log"]
    assert mpm != "prefork" or fell["lost"] == 1


def test_threads_are_counted_from_outside():
    with mpmkit.launch("worker", StartServers=1, ThreadsPerChild=3, MinSpareThreads=1) as server:
        with lab.watch(server) as seen:
            seen.until(lambda sample: sample.idle == 3)
        (child,) = server.processes()
        assert len(notebook_helpers.threads_of(child)) == 3 + 2
        assert notebook_helpers.alive(child)
        with pytest.raises(TimeoutError, match="the last sample"):
            seen.until(lambda sample: sample.idle == 99, 0.1)
    assert not notebook_helpers.alive(child)
