"""Slides from the executed notebooks: where each cell goes, and a deck in a browser without network."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbformat import v4
from support.jupyter import THEIR_WARNINGS, chromium

from docs._tools import slides

RENDERED = Path(__file__).resolve().parent.parent / "notebooks" / "rendered"


def cell(kind: str, source: str, **metadata) -> dict:
    return {"cell_type": kind, "source": source, "metadata": metadata, "outputs": []}


@pytest.mark.parametrize("given, place", [
    (cell("markdown", "## A heading\n\ntext"), "slide"),
    (cell("markdown", "A sentence. # no heading"), "subslide"),
    (cell("code", "import time\nfrom mpmkit import lab"), "skip"),
    (cell("code", "import time\ntime.sleep(1)"), "-"),
    (cell("markdown", "# A heading", slideshow={"slide_type": "notes"}), "notes"),
])  # fmt: skip
def test_a_cell_has_its_place(given, place):
    assert slides.slide_type(given) == place


@pytest.mark.parametrize("begins", [{}, {"slideshow": {"slide_type": "subslide"}}])
@pytest.mark.parametrize(("more", "place"), [(0, "-"), (1, "subslide")])
def test_the_code_of_a_figure_is_hidden_and_much_code_above_has_a_slide(more, place, begins):
    figure = cell("code", "plot()")
    above = cell("code", "\n".join(["x = 1"] * (slides.ROOM + more)), **begins)
    figure["outputs"] = [{"data": {"image/png": "iVBORw0K"}}]
    above["outputs"] = [{"output_type": "stream", "text": "1"}]
    slides.mark({"cells": [cell("markdown", "# Heading"), above, figure]})
    assert figure["metadata"]["tags"] == ["hide-input"] and "tags" not in above["metadata"]
    assert figure["metadata"]["slideshow"]["slide_type"] == place


def test_notes_become_speaker_notes_and_pictures_are_within(tmp_path):
    """Notes are in the metadata, and on the slide of their cell, where reveal.js shows them to the speaker
    alone. A deck can be copied elsewhere."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    book = v4.new_notebook(cells=[
        v4.new_markdown_cell("# Heading", metadata={"notes": "Ask first.\nPlan B."}),
        v4.new_code_cell("1 + 1"), v4.new_markdown_cell("# Next\n\n![A](a.png)"),
    ])  # fmt: skip
    nbformat.write(book, tmp_path / "talk.ipynb")
    page = slides.write(tmp_path / "talk.ipynb", tmp_path, {}).read_text()
    aside = '<aside class="notes">'
    assert page.count(aside) == 1 and page.index("Heading") < page.index(aside) < page.index("Next")
    noted, rest = page.split(aside)[1].split("</aside>", 1)
    assert "<li>Ask first.</li>" in noted and "<li>Plan B.</li>" in noted
    assert "Ask first" not in rest and "notes.js" in rest
    assert 'src="data:image/png;base64,iVBORw==' in rest and "a.png" not in page


def test_what_is_missing_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert slides.fetch(tmp_path) == {}
    assert "need the network" in capsys.readouterr().err
    assert slides.main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "no notebook" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.timeout(150)
@THEIR_WARNINGS
def test_a_deck_shows_without_a_network(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("no npm here, which fetches reveal.js")
    scripts = slides.fetch(tmp_path)
    if not scripts:
        pytest.skip("npm could not fetch reveal.js: no network")
    path = slides.write(RENDERED / "01-prefork.ipynb", tmp_path, scripts)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.route("http*://**", lambda route: route.abort())
        page.goto(path.as_uri())
        shown = "section.present:not(.stack)"
        page.wait_for_selector(f"{shown} h1")
        assert "a process for each connection" in page.locator(f"{shown} h1").inner_text()
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"{shown} h2")
        assert "The pool breathes" in page.locator(f"{shown} h2").inner_text()
        # No line of code is cut off at the right, on any slide.
        cut = page.evaluate(
            "[...document.querySelectorAll('section pre')].filter("
            "pre => pre.scrollWidth > pre.clientWidth + 1).map(pre => pre.innerText)"
        )
        assert not cut, cut[0]
        assert asked and not [url for url in asked if not url.startswith(("file:", "data:"))]
