"""The site: no warning, no dead link, usable in a browser; slides from the executed notebooks."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from nbformat import v4
from support.jupyter import THEIR_WARNINGS, chromium

import mpmkit
from docs._tools import slides
from mpmkit import lab

ROOT = Path(__file__).resolve().parent.parent
REPOSITORY = "https://github.com/example/mpmkit"
HUB = "https://hub.example.org"
NUMBERS = "AH00161 AH00484 AH00485 AH00288 AH00534 AH00513 AH00052 AH10034".split()
OPENED = ("index.html", "notebooks/04-qps-tables.html", "docs/AH00161.html", "docs/API.html")
LOOKED_AT = {  # the themes differ in their colours alone
    "light": "axe.run(document, {resultTypes: ['violations']})",
    "dark": "axe.run(document, {resultTypes: ['violations'], runOnly: ['color-contrast']})",
}


class Page(HTMLParser):
    """Its links, its anchors, and its pictures without a description."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {""}
        self.bare: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found.get("id") or "", found.get("name") or ""}
        self.links += [found[name] for name in ("href", "src") if found.get(name)]
        if tag == "img" and (not found.get("alt") or re.search(r"\.(png|svg)$", found["alt"])):
            self.bare.append(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("sphinx_book_theme", reason="pip install '.[site]'")
    target = tmp_path_factory.mktemp("site")
    environ = {**os.environ, "MPMKIT_REPOSITORY": REPOSITORY, "MPMKIT_HUB": HUB}
    command = [sys.executable, "-m", "docs._tools.site", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_links_anchors_and_pictures(site, pages):
    broken = []
    for path, page in pages.items():
        broken += [f"{path.name}: no description: {picture}" for picture in page.bare]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages[there].anchors if there in pages else {parts.fragment}
            if not there.is_file() or unquote(parts.fragment) not in known:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert len(pages) > 60 and not broken, "\n".join(broken[:30])


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_the_site_has(site, pages):
    books = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert books == {path.stem for path in (site / "notebooks").glob("*.html")}
    assert not [number for number in NUMBERS if not (site / "docs" / f"{number}.html").is_file()]
    public = {f"mpmkit.{name}" for name in mpmkit.__all__} - {"mpmkit.__version__", "mpmkit.lab"}
    public |= {f"mpmkit.lab.{name}" for name in lab.__all__ if name not in ("Crowd", "Picture")}
    assert public <= pages[site / "docs" / "API.html"].anchors
    # One setting gives the addresses of both buttons; they open the notebook, not its executed copy.
    launched = "\n".join(pages[site / "notebooks" / "01-prefork.html"].links)
    binder = "mybinder.org/v2/gh/example/mpmkit/main?urlpath=lab/tree/notebooks/01-prefork.ipynb"
    assert binder in launched and f"{HUB}/hub/user-redirect/git-pull?repo=https" in launched


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.browser
@THEIR_WARNINGS
def test_a_browser_opens_and_searches_it(site, tmp_path):
    axe = ""
    if shutil.which("npm"):
        wanted = "timeout 60 npm install --no-audit --no-fund --prefer-offline --fetch-retries=1 axe-core@4"
        subprocess.run([*wanted.split(), "--prefix", tmp_path], capture_output=True)
        script = tmp_path / "node_modules" / "axe-core" / "axe.min.js"
        axe = script.read_text() if script.exists() else ""
    with chromium() as browser:
        for theme in ("light", "dark"):
            page = browser.new_page(color_scheme=theme, reduced_motion="reduce")
            failed: list[str] = []
            page.on("pageerror", lambda error, failed=failed: failed.append(str(error)))
            for name in OPENED:
                page.goto((site / name).as_uri())
                assert page.locator("article h1").is_visible()
                if axe:
                    page.evaluate(axe)
                    found = page.evaluate(LOOKED_AT[theme])["violations"]
                    grave = [one for one in found if one["impact"] in ("serious", "critical")]
                    assert not grave, (theme, name, grave[0]["id"], grave[0]["nodes"][0]["html"])
            assert not failed
        page.goto((site / "docs" / "HANDOUT.html").as_uri())
        paper = page.pdf(format="A4", scale=0.8)
        assert len(re.findall(rb"/Type\s*/Page[^s]", paper)) == 1, "the hand-out is one page"
        page.goto((site / "tracer.html").as_uri())  # its keys: test_tracer
        page.get_by_text(re.compile(r"step \d+ of")).first.wait_for()
        page.goto((site / "search.html").as_uri() + "?q=AH00484")
        page.wait_for_selector("#search-results a[href*='docs/AH00161.html']")
        # A telephone: nothing is wider than the page.
        page.set_viewport_size({"width": 420, "height": 900})
        page.goto((site / "docs" / "CLAIMS.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
    if not axe:
        pytest.skip("npm is missing or has no network: pages were opened, axe did not look at them")


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
    """Notes are on the slide of their cell, for the speaker alone. A deck can be copied elsewhere."""
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
    rendered = ROOT / "notebooks" / "rendered" / "01-prefork.ipynb"
    path = slides.write(rendered, tmp_path, scripts)
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
