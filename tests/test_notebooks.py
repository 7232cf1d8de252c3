"""Every notebook runs unattended, top to bottom, at the smoke scale, and leaves nothing running."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
from support.waiting import poll_until

from docs._tools import render

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MARK = "MPMKIT_TEST_MARK"


@pytest.fixture(scope="module")
def marked():
    """A word in the environment of everything these tests start, to find what they leave behind."""
    word = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, word)
        # The kernel starts elsewhere and must find this checkout, installed or not.
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'notebooks'}")
        patch.setenv("MPMKIT_SCALE", "smoke")
        patch.setenv("MPMKIT_REPLAY", "0")  # measure, however small the machine
        for name in ("MPMKIT_THEME", "MPMKIT_PROGRESS", "MPMKIT_RECORD"):
            patch.delenv(name, raising=False)
        yield word


def left_over(word: str) -> dict[int, str]:
    """Processes that carry the mark and are not this one: pid -> command line."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={word}".encode() in (place / "environ").read_bytes():
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                found[int(place.name)] = command
    found.pop(os.getpid(), None)
    return found


def wait_for_nothing(word: str, seconds: float = 10) -> dict[int, str]:
    """What is left once everything had time to end."""
    with contextlib.suppress(AssertionError):
        poll_until(lambda: not left_over(word), cap=seconds)
    return left_over(word)


@pytest.fixture(scope="module")
def executed(tmp_path_factory, marked):
    """Runs a notebook, once for all tests: (the notebook after its run, the folder it lay in).

    It runs in a copy, where ../data/runs is not the checkout's.
    """
    done: dict[Path, tuple[Any, Path]] = {}

    def run(source: Path) -> tuple[Any, Path]:
        if source not in done:
            place = tmp_path_factory.mktemp(source.stem) / "notebooks"
            place.mkdir()
            done[source] = render.execute(Path(shutil.copy(source, place)), timeout=120), place
        return done[source]

    return run


@pytest.mark.timeout(240)
@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_through(source, executed, marked):
    book, _ = executed(source)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert cells and all(cell.execution_count for cell in cells)
    warned = [
        output.text
        for cell in cells
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not warned, "\n".join(warned)
    assert "widgets" not in book.metadata, "widget state is stored: megabytes nobody can see"
    left = wait_for_nothing(marked)
    assert not left, f"still running: {left}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["04-qps-tables"])
def test_the_qps_notebook_keeps_its_rows(name, executed):
    from mpmkit.measure import records

    book, place = executed(ROOT / "notebooks" / f"{name}.ipynb")
    (file,) = (place.parent / "data" / "runs").glob("qps-*.csv")
    rows = records.read(file)
    ours = {(row["kind"], row["mpm"]) for row in rows if row["server"] == "mpmkit"}
    assert ours == {
        (kind, mpm) for kind in ("static", "script") for mpm in ("prefork", "worker", "event")
    }
    text = "\n".join(
        str(output) for cell in book.cells if cell.cell_type == "code" for output in cell.outputs
    )
    for row in rows:
        assert f"{row['qps']:,.0f}" in text, f"{row['mpm']} {row['kind']} is not shown"
    assert "11,038" in text and "the published order" in text


def outputs(book) -> str:
    return "\n".join(
        output.text
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream"
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["04-qps-tables"])
def test_a_notebook_replays_when_asked_and_says_so(name, tmp_path, marked, monkeypatch):
    monkeypatch.setenv("MPMKIT_REPLAY", "1")
    source = shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path)
    text = outputs(render.execute(Path(source), timeout=60))
    calls = sum(
        "".join(cell["source"]).count("measured_or_recorded(")
        for cell in json.loads(Path(source).read_text())["cells"]
    )
    assert text.count("RECORDED") == calls > 0
    assert "MPMKIT_REPLAY=1" in text


def test_every_experiment_of_a_notebook_has_its_recording():
    from mpmkit.lab import replay

    found = []
    for source in NOTEBOOKS:
        for cell in json.loads(source.read_text())["cells"]:
            found += re.findall(r'measured_or_recorded\(\s*f?"([^"]+)"', "".join(cell["source"]))
    assert len(found) > 10
    for name in found:
        for filled in (
            [name.replace("{mpm}", mpm) for mpm in ("worker", "event")]
            if "{mpm}" in name
            else [name]
        ):
            place = replay.place_of(filled)
            assert place.is_file(), f"no recording {place.name}: run it with MPMKIT_RECORD=1"
            if place.suffix == ".json":
                replay.load(place)


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_executed_copy_is_of_this_notebook_and_of_no_place(source):
    copy = json.loads((source.parent / "rendered" / source.name).read_text())
    codes = [
        ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
        for book in (json.loads(source.read_text()), copy)
    ]
    assert codes[0] == codes[1], "run make notebooks"
    # What a figure has inside is no text.
    said = json.dumps(
        [
            {kind: data for kind, data in output.get("data", output).items() if kind != "image/png"}
            for cell in copy["cells"]
            for output in cell.get("outputs", [])
        ]
    )
    assert not re.findall(r"/(?:tmp|home|root|work)/[\w./-]*", said)
    assert len(json.dumps(copy)) < 1_000_000, "GitHub shows no notebook as large"


@pytest.mark.timeout(60)
def test_the_mark_finds_a_server(marked):
    import mpmkit

    with mpmkit.launch("event") as server:
        assert server.pid in left_over(marked)
    assert not wait_for_nothing(marked)


BROKEN = """{"cells": [{"cell_type": "code", "id": "a", "execution_count": null, "metadata": {},
"outputs": [], "source": ["import mpmkit\\n", "server = mpmkit.launch('event')\\n", "1/0"]}],
"metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}}, "nbformat": 4,
"nbformat_minor": 5}"""


@pytest.mark.timeout(120)
def test_a_notebook_that_fails_is_named_and_leaves_no_server(tmp_path, marked):
    source = tmp_path / "broken.ipynb"
    source.write_text(BROKEN)
    with pytest.raises(render.RenderError, match=r"broken.ipynb: (.|\n)*ZeroDivisionError"):
        render.execute(source, timeout=60)
    left = wait_for_nothing(marked)
    assert not left, f"still running: {left}"


@pytest.mark.timeout(120)
def test_a_killed_kernel_takes_its_server_along(tmp_path, marked):
    source = tmp_path / "killed.ipynb"
    source.write_text(BROKEN.replace("1/0", "import os, signal; os.kill(os.getpid(), 9)"))
    with pytest.raises(render.RenderError, match=r"killed.ipynb: .*[Kk]ernel died"):
        render.execute(source, timeout=60)
    left = wait_for_nothing(marked)
    assert not left, f"still running: {left}"


def test_live_outputs_are_stripped_from_copies():
    import nbformat

    view, plot = render.LIVE
    cell = nbformat.v4.new_code_cell(
        "x",
        outputs=[
            nbformat.v4.new_output(
                "display_data", data={view: {}, "text/plain": "FloatProgress()"}
            ),
            nbformat.v4.new_output("display_data", data={plot: {}, "image/png": "iVBORw0K"}),
            nbformat.v4.new_output("stream", text="kept\n"),
        ],
    )
    book = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"big": "state"}})
    render.strip_live_outputs(book)
    assert [output.get("data", output.get("text")) for output in cell.outputs] == [
        {"image/png": "iVBORw0K"},
        "kept\n",
    ]
    assert "widgets" not in book.metadata


def test_links_of_a_deeper_copy_lead_to_the_same_places():
    import nbformat

    text = "[code](../mpmkit/mpm/event.py) ![x](../docs/img/a.png) [next](02-worker.ipynb) (../no)"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    assert render.deepen_links(book).cells[0].source == (
        "[code](../../mpmkit/mpm/event.py) ![x](../../docs/img/a.png) [next](02-worker.ipynb) (../no)"
    )


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(source):
    texts = [
        "".join(cell["source"])
        for cell in json.loads(source.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    ]
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", "\n".join(texts)):
        assert target.startswith("http") or (source.parent / target).exists(), target


def test_rendering_nothing_says_so(tmp_path, capsys):
    assert render.main([str(tmp_path), str(tmp_path / "out"), "--only", "99"]) == 1
    assert "no notebook 99*.ipynb" in capsys.readouterr().err
