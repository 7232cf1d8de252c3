"""Slides from the executed notebooks: where each cell goes, and a deck in a browser without network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from docs._tools import slides
from docs._tools.render import find_browser

RENDERED = Path(__file__).resolve().parent.parent / "notebooks" / "rendered"


def cell(kind: str, source: str, **metadata) -> dict:
    return {"cell_type": kind, "source": source, "metadata": metadata, "outputs": []}


@pytest.mark.parametrize(
    "given, place",
    [
        (cell("markdown", "## A heading\n\ntext"), "slide"),
        (cell("markdown", "A sentence. # no heading"), "subslide"),
        (cell("code", "import time\nfrom mpmkit import lab"), "skip"),
        (cell("code", "import time\ntime.sleep(1)"), "-"),
        (cell("code", "%matplotlib inline"), "-"),
        (cell("code", ""), "-"),
        (cell("markdown", "# A heading", slideshow={"slide_type": "notes"}), "notes"),
    ],
)
def test_a_cell_has_its_place(given, place):
    assert slides.slide_type(given) == place


def test_the_code_of_a_figure_is_hidden_and_other_code_is_not():
    figure, text = cell("code", "plot()"), cell("code", "print(1)")
    figure["outputs"] = [{"data": {"image/png": "iVBORw0K"}}]
    text["outputs"] = [{"output_type": "stream", "text": "1"}]
    slides.mark({"cells": [figure, text]})
    assert figure["metadata"]["tags"] == ["hide-input"] and "tags" not in text["metadata"]


def test_a_figure_under_much_code_gets_a_slide_of_its_own():
    def place_after(lines: int) -> str:
        figure = cell("code", "plot()")
        figure["outputs"] = [{"data": {"image/png": "iVBORw0K"}}]
        book = slides.mark(
            {
                "cells": [
                    cell("markdown", "# Heading"),
                    cell("code", "\n".join(["x = 1"] * lines)),
                    figure,
                ]
            }
        )
        return book["cells"][-1]["metadata"]["slideshow"]["slide_type"]

    assert (place_after(slides.ROOM), place_after(slides.ROOM + 1)) == ("-", "subslide")


def test_without_npm_the_slides_need_the_network_and_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(slides.shutil, "which", lambda _: None)
    assert slides.fetch(tmp_path) == {}
    assert "need the network" in capsys.readouterr().err


def test_no_notebook_says_so(tmp_path, capsys):
    assert slides.main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "no notebook" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.timeout(150)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_deck_shows_without_a_network(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium here; apt install chromium, or set BROWSER_PATH")
    if shutil.which("npm") is None:
        pytest.skip("no npm here, which fetches reveal.js")
    scripts = slides.fetch(tmp_path)
    if not scripts:
        pytest.skip("npm could not fetch reveal.js: no network")
    path = slides.write(RENDERED / "01-prefork.ipynb", tmp_path, scripts)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_page(viewport={"width": 1280, "height": 720})
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
        chromium.close()
