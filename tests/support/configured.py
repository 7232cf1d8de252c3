"""Directives without a server: from names and values, or from the lines of a file."""

from textwrap import dedent
from typing import Any

from mpmkit.config.checks import check
from mpmkit.config.directives import Directives, Note
from mpmkit.config.httpd_conf import Source, read
from mpmkit.config.keywords import from_keywords


def directives(mpm: str = "event", **named: Any) -> Directives:
    """Checked, as a server is given them. Port 8080 unless `Listen` says another."""
    return check(mpm, from_keywords(mpm, **{"Listen": "8080", **named}))[0]


def checked(
    text: str, mpm: str = "event", strict: bool = False
) -> tuple[Directives, tuple[Note, ...]]:
    """The text of a file `f`, with its hosts and sections; its mistakes are raised as DirectiveError."""
    conf = read(Source("f", dedent(text), mpm=mpm), {})
    settings = conf.settings, conf.sections, conf.hosts
    return check(mpm, *settings, problems=conf.problems, strict=strict)
