"""mod_alias's lines: where a URL path leads, in this site (Alias) or at another URL (Redirect)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from mpmkit.config.patterns import section_pattern
from mpmkit.config.values import NAMES, Words, url_path

STATUSES = {"permanent": 301, "temp": 302, "seeother": 303, "gone": 410}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def expression(text: str) -> re.Pattern[bytes]:
    """A regular expression for the whole URL path. Raises ValueError."""
    return section_pattern("Match", text)  # type: ignore[return-value]  # None is for other kinds


def substituted(target: str, found: re.Match[bytes]) -> str:
    """`$1` is what the first group has matched, `\\$` a dollar sign (httpd's ap_pregsub)."""

    def part(sign: re.Match[str]) -> str:
        if sign[1] is None:
            return sign[2]
        value = found[int(sign[1])] if int(sign[1]) <= found.re.groups else b""
        return (value or b"").decode(NAMES, "surrogateescape")

    return re.sub(r"\$([0-9])|\\(.)", part, target)


def alias(kind: str) -> Callable[[Words], tuple[Words]]:
    """Reads `Alias path file`, or `AliasMatch expression file`."""
    if kind.endswith("Match"):
        return lambda words: ((kind, expression(words[0]) and words[0], words[1]),)
    return lambda words: ((kind, url_path(words[0]), words[1]),)  # and mod_wsgi's options


class Redirection(NamedTuple):
    """One line. The path is None where the section alone decides; the target is "" for a status that is
    no redirect; `pattern` is RedirectMatch's."""

    status: int
    path: str | None
    target: str
    pattern: re.Pattern[bytes] | None = None

    def of(self, path: str) -> str | None:
        """Where a URL path is redirected to, "" where it has only the status, None if it is not."""
        if self.pattern is not None:
            found = self.pattern.search(path.encode(NAMES, "surrogateescape"))
            return None if found is None else substituted(self.target, found)
        if self.path is None:
            return self.target
        rest = path[len(self.path) :]
        if not path.startswith(self.path) or not (self.path.endswith("/") or rest[:1] in ("", "/")):
            return None
        return self.target + rest if self.target else ""


def redirect(status: int = 0, match: bool = False) -> Callable[[Words], tuple[Redirection]]:
    """Reads `Redirect [status] [path] [URL]`; of RedirectPermanent and RedirectTemp the status is given."""

    def parse(words: Words) -> tuple[Redirection]:
        rest, code = list(words), status or 302
        first = rest[0].lower()
        if not status and (first in STATUSES or first.isdigit()):
            code = STATUSES.get(first) or int(first[:4])
            del rest[0]
        if not 300 <= code <= 599:
            raise ValueError(f'takes a status from 300 to 599, not "{words[0]}"')
        target = rest.pop() if code < 400 and rest else ""
        path = rest.pop() if rest else None
        if rest or (code < 400) != bool(target):
            urls = ("no URL with a status that does not redirect", "a URL to redirect to")
            raise ValueError(f"takes [status] [path] and {urls[code < 400]}")
        if match and path is None:  # it would redirect every path
            raise ValueError("takes [status], an expression and a URL")
        if match:
            return (Redirection(code, path, target, expression(path or "")),)
        if target and not target.startswith("/") and not _URL.match(target):
            raise ValueError(f'takes a URL or a path from its first slash, not "{target}"')
        return (Redirection(code, path if path is None else url_path(path), target),)

    return parse
