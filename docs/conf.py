"""Sphinx's settings for the site: `make site` stages the sources, then builds them with this file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mpmkit import __version__

# Where the project can be fetched from: the one setting that launch buttons and source links need.
# Empty: the pages have none of them. A hub with nbgitpuller, for a class, is the second.
REPOSITORY = os.environ.get("MPMKIT_REPOSITORY", "")
HUB = os.environ.get("MPMKIT_HUB", "")

project, author, version = "mpmkit", "The mpmkit authors", __version__
project_copyright = "The mpmkit authors, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "index"
include_patterns = ["*.md", "docs/*.md", "notebooks/**.ipynb", "data/README.md",
                    "mpmkit/README.md", "mpmkit/mpm/README.md"]  # fmt: skip

# The notebooks are executed copies (make notebooks). Nothing is executed here.
nb_execution_mode = "off"
nb_merge_streams = True
myst_heading_anchors = 4  # as on GitHub
myst_enable_extensions = ["deflist", "dollarmath", "substitution"]
myst_disable_syntax = ["footnote_ref"]  # [^/] is a pattern of httpd's, in tables
myst_links_external_new_tab = False
suppress_warnings = ["mystnb.unknown_mime_type"]  # widgets: the copies have pictures in their place
highlight_language = "none"
default_role = "code"  # docstrings mark names with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
pygments_style = "a11y-high-contrast-light"

launch = (
    "The rocket at the top of a notebook's page opens it on Binder, without an installation."
    if REPOSITORY
    else "`make lab` opens the notebooks on your machine."
)
ITEM = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?::|  +) *(?=\S)")


def listed(lines: list[str]) -> list[str]:
    """A docstring as reST: its rows of `name: text` or `name   text` become a list."""
    out: list[str] = []
    within = False
    for line in lines:
        item = ITEM.match(line) if within or not (out and out[-1].strip()) else None
        if item:
            names = ", ".join(f"``{name}``" for name in item[1].split(", "))
            line = f"* {names}: {line[item.end() :]}"
        elif within and line.startswith(" "):
            line = f"  {line.strip()}"
        elif within and line:
            out.append("")
        within = bool(item) or (within and line.startswith("  "))
        out.append(line)
    return out


def setup(app: object) -> None:
    """Docstrings are plain text with rows; Sphinx reads reST."""

    def process(
        _app: object, _what: str, _name: str, _value: object, _options: object, lines: list[str]
    ) -> None:
        lines[:] = listed(lines)

    app.connect("autodoc-process-docstring", process)


myst_substitutions = {"launch": launch, "version": __version__}

html_theme = "sphinx_book_theme"
html_title = "mpmkit"
html_baseurl = os.environ.get("MPMKIT_SITE", "")
html_static_path = [str(Path(__file__).with_name(name)) for name in ("site.css", "site.js")]
html_css_files, html_js_files = ["site.css"], ["site.js"]
html_show_sourcelink = False
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": bool(REPOSITORY),
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": False,
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "launch_buttons": {
        "notebook_interface": "jupyterlab",
        "binderhub_url": "https://mybinder.org" if REPOSITORY else "",
        "jupyterhub_url": HUB if REPOSITORY else "",
    },
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
