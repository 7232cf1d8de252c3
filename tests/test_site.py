"""The site: built without a warning, every link and anchor leads somewhere, and a browser can use it."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support.jupyter import THEIR_WARNINGS, chromium

import mpmkit
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
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not find_spec("sphinx_book_theme"), reason="pip install '.[site]'"),
]


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
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "docs._tools.site", str(target)],
        cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "MPMKIT_REPOSITORY": REPOSITORY, "MPMKIT_HUB": HUB},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


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


@pytest.mark.browser
@THEIR_WARNINGS
def test_a_browser_opens_and_searches_it(site, tmp_path):
    axe = ""
    if shutil.which("npm"):
        wanted = "npm install --silent --no-audit --no-fund --prefer-offline --fetch-retries=1 axe-core@4"
        subprocess.run([*wanted.split(), "--prefix", tmp_path], capture_output=True, timeout=60)
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
