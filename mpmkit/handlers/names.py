"""Names of files: the file of a URL path, the meaning of extensions, and the targets of links.

A name keeps its symbolic links: sections are written for names, and a link that is swapped
while the server runs (`current` → `releases/2`) leads to the new files at once. So nothing here is
cached.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple, Self, TypeVar

from mpmkit.config.alias import expression, substituted

T = TypeVar("T")


def tidy(name: str) -> str:
    """An absolute name without `//`, `/./` and `/../`, as rules have it; a slash at its end stays."""
    whole = os.path.abspath(name).replace("//", "/")  # POSIX leaves two at the beginning
    return whole + "/" if name.endswith("/") and whole != "/" else whole


def within(path: str, prefix: str) -> bool:
    """Does `path` begin with whole segments of the prefix?"""
    rest = path[len(prefix) : len(prefix) + 1]
    return path.startswith(prefix) and (rest in ("", "/") or prefix[-1:] in ("", "/"))


def joined(root: str, rest: str) -> str:
    """The file below `root` that the rest of a URL path leads to. Only a doubled slash is taken out: as by
    httpd, `Alias /a/ /srv/b` makes /a/x to /srv/bx."""
    return root + (rest[1:] if root.endswith("/") and rest.startswith("/") else rest)


class UrlMapping(NamedTuple):
    """A part of the site: the URL paths below `prefix` are the files below `root`. With a `pattern`
    (AliasMatch): the paths that it matches are what `root` becomes with its groups."""

    kind: str  # DocumentRoot, Alias, ScriptAlias or WSGIScriptAlias
    prefix: str
    root: str
    pattern: re.Pattern[bytes] | None = None

    @classmethod
    def of(cls, kind: str, path: str, root: str) -> Self:
        """That of a line."""
        if kind.endswith("Match"):
            return cls(kind.removesuffix("Match"), "", root, expression(path))
        return cls(kind, path, tidy(root))

    def holds(self, path: str) -> bool:
        """Does `path` begin with the prefix, or match the pattern?"""
        if self.pattern is not None:
            return self.pattern.search(os.fsencode(path)) is not None
        return within(path, self.prefix)

    def file(self, path: str) -> str:
        """The file that a path of this mapping leads to."""
        return joined(self.root, path[len(self.prefix) :])

    def at(self, path: str) -> Self:
        """For one path: a pattern is the Alias that does the same to this path."""
        if self.pattern is None:
            return self
        found = self.pattern.search(os.fsencode(path))
        name = tidy(substituted(self.root, found) if found else "")
        alike = len(os.path.commonprefix((path[::-1], name[::-1])))  # noqa: RUF071 - up to any character
        prefix, root = path[: len(path) - alike], name[: len(name) - alike] or "/"
        return self._replace(prefix=prefix, root=root, pattern=None)


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
    return real != filename and not within(real, os.path.realpath(root).rstrip("/"))


def dangling(filename: str) -> str:
    """The link in a missing file's path that leads nowhere, "" if there is no such link."""
    while not os.path.lexists(filename):
        filename = os.path.dirname(filename)
    return "" if os.path.exists(filename) else filename
