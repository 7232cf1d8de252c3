"""Names of files: where a URL path leads, what a name's extensions say, and what its links lead to.

A name keeps the symbolic links that are in it: sections are written for names, and a link that is swapped
while the server runs (`current` → `releases/2`) leads to the new files at once. So nothing here is
remembered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def joined(root: str, rest: str) -> str:
    """The file below `root` that the rest of a URL path leads to. Only a doubled slash is taken out: as by
    httpd, `Alias /a/ /srv/b` makes /a/x to /srv/bx."""
    return root + (rest[1:] if root.endswith("/") and rest.startswith("/") else rest)


def by_extension(table: Mapping[str, T], filename: str) -> T | None:
    """What `table` has for a file name's extensions, in any case: of several, the last that it knows
    (mod_mime: `page.html.en` is text/html, `a.cgi.bak` a program)."""
    if not table:
        return None
    _, *extensions = os.path.basename(filename).lstrip(".").lower().split(".")
    return next((table["." + ext] for ext in reversed(extensions) if "." + ext in table), None)


def leads_out(filename: str, root: str) -> bool:
    """A symbolic link in a file's name leads out of `root`, whose own links are followed."""
    real = os.path.realpath(filename)
    if real == filename:
        return False
    limit = os.path.realpath(root).rstrip("/")
    return real != limit and not real.startswith(limit + "/")


def dangling(filename: str) -> str:
    """The link in a missing file's path that leads nowhere, "" if there is no such link."""
    while not os.path.lexists(filename):
        filename = os.path.dirname(filename)
    return "" if os.path.exists(filename) else filename
