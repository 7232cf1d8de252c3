"""The course and the reference as a site of static pages.

    python -m docs._tools.site [build/site]        make site

Sphinx builds one folder, so the texts are staged in build/site-sources with the layout of the
repository: links between texts, notebooks and files stay as they are written. Executed copies take the
place of the notebooks, and each section of docs/ERRORS.md becomes a page. Every warning is an error.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docs._tools import tracer_page

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "build" / "site-sources"
# What texts link to and readers download; not pages.
FOLDERS = ("data", "mpmkit", "benchmarks", "tests", "docs/img", "docs/_tools")
FILES = ("Makefile", "pyproject.toml", "environment.yml",
         "CITATION.cff", "LICENSE")  # fmt: skip
# The executed copies are where the notebooks are; a folder is not a page.
MOVED = {
    "notebooks/rendered/": "notebooks/",
    "notebooks/rendered)": "notebooks/00-start-here.ipynb)",
    "notebooks/exercises)": "notebooks/exercises/e1-pools.ipynb)",
}
# The tracer's page needs no kernel; it is written next to the pages, and shown where its text has a picture.
PICTURE = re.compile(r"!\[[^]]*\]\(img/tracer\.png\)")
TRACER = (
    '<iframe src="../tracer.html" title="The tracer" width="100%" height="680"></iframe>'
    '\n\n<p><a href="../tracer.html">The tracer in its own window</a></p>'
)
# No column of contents: the tracer needs the width, and the first page has no sections.
WIDE = "---\nhtml_theme.sidebar_secondary.remove: true\n---\n"
REDIRECT = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{0}</title>'
    '<meta http-equiv="refresh" content="0; url={1}"><link rel="canonical" href="{1}">'
    '<p><a href="{1}">{0}</a></p></html>\n'
)


def stage(target: Path) -> None:
    """Write the sources of the site into a new folder `target`."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "docs").mkdir(parents=True)
    for name in FOLDERS:  # copies, since Sphinx looks where a link leads
        ignore = shutil.ignore_patterns("__pycache__", "runs", "fidelity")
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, target)
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for written, shown in MOVED.items():
            text = text.replace(written, shown)
        text = re.sub(r"ERRORS\.md#(ah\d{5})[^)]*\)", lambda link: f"{link[1].upper()}.md)", text)
        if page.name == "index.md":  # the first page of the site
            text = re.sub(r"\]\((?!\.\./|https?:|#)", "](docs/", text).replace("](../", "](")
            page = ROOT / page.name
        if page.name == "TRACER.md":
            text = PICTURE.sub(TRACER, text)
        wide = page.name in ("index.md", "TRACER.md")
        (target / page.relative_to(ROOT)).write_text(WIDE * wide + text, encoding="utf-8")
    (target / "docs" / "API.md").write_text(api(), encoding="utf-8")
    for name, text in error_pages(
        (ROOT / "docs" / "ERRORS.md").read_text(encoding="utf-8")
    ).items():
        (target / "docs" / f"{name}.md").write_text(text, encoding="utf-8")
    notebooks(target / "notebooks")


# ---------------------------------------------------------------- notebooks


def notebooks(target: Path) -> None:
    """The executed copies and the exercises, with a description at each picture."""
    import nbformat

    (target / "exercises").mkdir(parents=True)
    for source in sorted((ROOT / "notebooks" / "rendered").glob("*.ipynb")):
        book = nbformat.read(source, as_version=4)
        heading = ""
        for cell in book.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace("](../exercises/", "](exercises/")
                cell.source = cell.source.replace("](../../", "](../")
                heading = words(cell.source) or heading
            elif alt := next(
                filter(None, (description(one) for one in cell.get("outputs", ()))), ""
            ):
                cell.metadata["mystnb"] = {"image": {"alt": alt or heading}}
            elif any("image/png" in one.get("data", ()) for one in cell.get("outputs", ())):
                cell.metadata["mystnb"] = {"image": {"alt": f"Figure: {heading}"}}
        nbformat.write(book, target / source.name)
    for source in sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb")):
        shutil.copy(source, target / "exercises")


def description(output: Any) -> str:
    """What a picture shows, in words: plotly's figures have it in the metadata, drawings as plain text."""
    data = output.get("data", {})
    if "image/svg+xml" in data:
        return str(data.get("text/plain", ""))
    return str(output.get("metadata", {}).get("image/png", {}).get("alt", ""))


def words(markdown: str) -> str:
    """A cell's text in one line, without marks, 250 characters at most."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`#|]", r"\1", markdown)
    text = " ".join(text.split())
    return text if len(text) <= 250 else text[:250].rsplit(" ", 1)[0] + " …"


# ---------------------------------------------------------------- pages that are made


def error_pages(text: str) -> dict[str, str]:
    """name -> text: a page for each section of ERRORS.md, named by its first number, and the page of all."""
    output = re.compile(r"(```\n\n)```\n(.*?```)", re.DOTALL)  # its lines are long, and wrap
    text = output.sub(r"\1```{code-block} none\n:class: log\n\n\2", text)
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    setup = "\nExamples in Python begin with [these lines](ERRORS.md).\n"
    pages = {one[:7]: f"# {one.rstrip()}\n" + setup * ("```python" in one) for one in sections}
    head = re.sub(r"\(#(ah\d{5})[^)]*\)", lambda link: f"({link[1].upper()}.md)", head)
    pages["ERRORS"] = "\n".join([head, "```{toctree}", ":hidden:", "", *pages, "```", ""])
    return pages


def api() -> str:
    """The reference: every public name of mpmkit and mpmkit.lab, by autodoc."""
    import mpmkit
    from mpmkit import lab

    lines = ["# Python reference", ""]
    for module, title in ((mpmkit, "mpmkit"), (lab, "mpmkit.lab")):
        lines += [f"## {title}", "", "```{eval-rst}", f".. currentmodule:: {title}", ""]
        seen: list[object] = []
        for name in module.__all__:
            value = getattr(module, name)
            if (
                name == "__version__"
                or inspect.ismodule(value)
                or any(value is one for one in seen)
            ):
                continue  # a version, a module, an old name of something that is listed
            seen.append(value)
            if inspect.isclass(value):
                lines += [f".. autoclass:: {name}", "   :members:", ""]
            else:
                lines += [f".. auto{'function' if callable(value) else 'data'}:: {name}", ""]
        lines += ["```", ""]
    return "\n".join(lines)


def redirects(site: Path) -> None:
    """A page for each further number of a section: AH00484 leads to the page of AH00161."""
    for title in re.findall(
        r"^## (AH.*)$", (ROOT / "docs" / "ERRORS.md").read_text(), re.MULTILINE
    ):
        first, *others = re.findall(r"AH\d{5}", title)
        for number in others:
            page = site / "docs" / f"{number}.html"
            page.write_text(REDIRECT.format(title, f"{first}.html"), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Build the site into the folder that is given; 1 if Sphinx is missing or warns."""
    given = list(sys.argv[1:] if argv is None else argv)
    target = Path(given[0] if given else ROOT / "build" / "site").resolve()
    missing = [name for name in ("sphinx", "myst_nb", "sphinx_book_theme") if not find_spec(name)]
    if missing:
        print(f"mpmkit: no {', '.join(missing)} here; pip install '.[site]'", file=sys.stderr)
        return 1
    stage(STAGE)
    options = ["-W", "--keep-going", "-q", "-j", "auto", "-E", "-c", str(ROOT / "docs")]
    folders = ["-d", str(STAGE.with_name("site-doctrees")), str(STAGE), str(target)]
    command = [sys.executable, "-m", "sphinx", *options, *folders]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
    if done.returncode == 0:
        redirects(target)
        tracer_page.main([str(target / "tracer.html")])
        print(f"{target / 'index.html'}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
