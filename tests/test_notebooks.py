"""Every notebook runs unattended, top to bottom, at the smoke scale, and leaves nothing running."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import v4
from support.books import NOTEBOOKS as FOLDER
from support.books import texts
from support.calls import refused
from support.servers import MPMS

from docs._tools import render
from mpmkit.lab import replay
from mpmkit.measure import records

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
BY_NAME = pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
EXERCISES = sorted((FOLDER / "exercises").glob("**/*.ipynb"))


@pytest.fixture
def surroundings(everything_ends, monkeypatch):
    """Smoke scale; and nothing that a notebook starts is left."""
    # The kernel starts elsewhere and must find this checkout, installed or not.
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'notebooks'}")
    monkeypatch.setenv("MPMKIT_SCALE", "smoke")
    for name in ("MPMKIT_THEME", "MPMKIT_PROGRESS", "MPMKIT_RECORD"):
        monkeypatch.delenv(name, raising=False)


def codes(book) -> list[Any]:
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


# Cells of the tests' own: one before the notebook's, for what takes seconds there, and one after them.
SHORT = "from mpmkit.measure import qps\nqps.SCALES['smoke'] = qps.QpsScale(None, {}, 0.1, 1)"
BEFORE = {
    "04-qps-tables": SHORT.format(0.6), "05-scripts": SHORT.format(1.0),  # CGI takes longer
    "06-memory": "from mpmkit.measure import procfs\nprocfs.STEADY = 0.8",
}  # fmt: skip
AFTER = {
    # Only connections that are idle leave the workers alone; crawlers do, once they are denied.
    "12-clinic-crowds": """
assert [(row["kind"], row["W"], row["status"]) for row in holders] == [
    ("idle connections", 0, 200), ("long polls", 8, None), ("streams", 8, None)]
none, twice, denied = swarm
assert none["wait"] > 2 * crowds.PAGE and twice["wait"] < none["wait"]
assert denied["wait"] < none["wait"] / 1.5 and {*denied["statuses"]} == {200}
"""
}
REPLAYED = "class"  # cells of other notebooks (test_lessons), which measure it here


@pytest.mark.timeout(240)
@BY_NAME
def test_notebook_runs_through(source, tmp_path, surroundings, monkeypatch):
    """In a copy, where ../data/runs is not the checkout's. Asked to replay, it says so at each experiment."""
    replays = source.stem == REPLAYED
    monkeypatch.setenv("MPMKIT_REPLAY", "1" if replays else "0")
    book = nbformat.read(source, as_version=4)
    before, after = (v4.new_code_cell(own.get(source.stem, "")) for own in (BEFORE, AFTER))
    book.cells = [before, *book.cells, after]
    (copy := tmp_path / "notebooks" / source.name).parent.mkdir()
    nbformat.write(book, copy)
    book = render.execute(copy, timeout=120)
    cells = [cell for cell in codes(book) if cell.source]
    assert cells and all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    streams = [output for output in outputs if output.output_type == "stream"]
    warned = [output.text for output in streams if output.name == "stderr"]
    assert not warned, "\n".join(warned)
    assert "widgets" not in book.metadata, "widget state is stored: megabytes that no reader sees"
    if replays:
        said = "\n".join(output.text for output in streams)
        calls = sum(code.count("measured_or_recorded(") for code in texts(source, "code"))
        assert said.count("RECORDED") >= calls > 0 and "MPMKIT_REPLAY=1" in said
    if source.stem == "04-qps-tables":
        (file,) = (tmp_path / "data" / "runs").glob("qps-*.csv")
        rows = [row for row in records.read(file) if row["server"] == "mpmkit"]
        wanted = set(itertools.product(("static", "script"), MPMS))
        assert {(row["kind"], row["mpm"]) for row in rows} == wanted
        text = "\n".join(map(str, outputs))
        assert all(f"{row['qps']:,.0f}" in text for row in rows), "its figures are on the page"
        assert "11,038" in text and "the published order" in text


def test_every_experiment_of_a_notebook_has_its_recording():
    code = "\n".join("\n".join(texts(source, "code")) for source in NOTEBOOKS)
    found = re.findall(r'measured_or_recorded\(\s*f?"([^"]+)"', code)
    assert len(found) > 10
    for name in {name.replace("{mpm}", mpm) for name in found for mpm in ("worker", "event")}:
        place = replay.place_of(name)
        assert place.is_file(), f"no recording {place.name}: run it with MPMKIT_RECORD=1"
        if place.suffix == ".json":
            replay.load(place)


@BY_NAME
def test_an_executed_copy_is_of_this_notebook_and_describes_its_pictures(source):
    place = source.parent / "rendered" / source.name
    assert texts(source, "code") == texts(place, "code"), "run make notebooks"
    copy = json.loads(place.read_text())
    # What a figure has inside is no text.
    outputs = [output for cell in codes(copy) for output in cell["outputs"]]
    said = json.dumps([{**output.get("data", output), "image/png": ""} for output in outputs])
    assert not re.findall(r"/(?:tmp|home|root|work)/[\w./-]*", said)
    assert len(json.dumps(copy)) < 1_000_000, "GitHub shows no notebook as large"
    assert texts(place, "markdown")[-1].startswith("*Executed on 20"), "when, where, how busy"
    for output in outputs:
        if "image/png" in output.get("data", {}):
            assert output["metadata"]["image/png"]["alt"], "a picture without a description"


@pytest.mark.parametrize("path", [*NOTEBOOKS, *EXERCISES], ids=lambda path: path.stem)
def test_links_and_pictures_are_below_the_root_that_lab_serves(path):
    """`make lab` serves the repository, as Binder does: nothing above it is reached, and 00 is in front."""
    started = "--ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00"
    assert started in (ROOT / "Makefile").read_text()
    for place in filter(Path.exists, (path, path.parent / "rendered" / path.name)):
        text = "\n".join(texts(place, "markdown"))
        found = re.findall(r"\]\(([^)\s]+)[^)]*\)", text)
        found += re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
        local = [one.partition("#") for one in found if not one.startswith("http")]
        for target, _, heading in local:
            file = (place.parent / target).resolve() if target else place
            assert file.is_relative_to(ROOT) and file.exists(), f"{place.name}: {target}"
            if heading:
                words = {re.sub(r"[^\w -]", "", line.strip("# ")).lower().replace(" ", "-")
                         for line in file.read_text().splitlines() if line.startswith("#")}  # fmt: skip
                assert heading.lower() in words, f"{place.name}: {target}#{heading}"


@pytest.mark.timeout(120)
def test_a_notebook_that_fails_is_named_and_leaves_no_server(tmp_path, surroundings):
    source = tmp_path / "broken.ipynb"
    launch = "import mpmkit, os\nserver = mpmkit.launch('event')\n"
    for last, says in (
        ("1/0", r"broken.ipynb: (.|\n)*ZeroDivisionError"),
        ("os.kill(os.getpid(), 9)", r"broken.ipynb: .*[Kk]ernel died"),
    ):
        nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(launch + last)]), source)
        refused(render.RenderError, says, render.execute, source, timeout=60)


def test_live_outputs_are_stripped_and_links_deepened_in_copies(tmp_path, capsys):
    view, plot = render.LIVE
    live = ({view: {}, "text/plain": "FloatProgress()"}, {plot: {}, "image/png": "iVBORw0K"})
    outputs = [v4.new_output("display_data", data=data) for data in live]
    cell = v4.new_code_cell("x", outputs=[*outputs, v4.new_output("stream", text="kept\n")])
    text = "[code](../mpmkit/mpm/event.py) ![x](../docs/img/a.png) [next](02-worker.ipynb) (../no)"
    cells = [cell, v4.new_markdown_cell(text)]
    book = v4.new_notebook(cells=cells, metadata={"widgets": {"big": "state"}})
    render.deepen_links(render.strip_live_outputs(book))
    kept = [output.get("data", output.get("text")) for output in cell.outputs]
    assert kept == [{"image/png": "iVBORw0K"}, "kept\n"] and "widgets" not in book.metadata
    deeper = "[code](../../mpmkit/mpm/event.py) ![x](../../docs/img/a.png) [next](02-worker.ipynb) (../no)"
    assert book.cells[1].source == deeper
    assert render.main([str(tmp_path), str(tmp_path / "out"), "--only", "99"]) == 1
    assert "no notebook 99*.ipynb" in capsys.readouterr().err
