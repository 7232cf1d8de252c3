"""What a request's path or fields set off: mod_alias's lines and mod_setenvif's.

Alias, ScriptAlias …    the file of a URL path             Redirect …    another URL, or a status
SetEnvIf Request_URI "\\.gif$" !text image=$0              BrowserMatch ^Mozilla netscape
                        variables, for scripts, `%{…}e` and `CustomLog … env=`
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mpmkit.config.patterns import section_pattern
from mpmkit.config.values import NAMES, Words, encoded, url_path

STATUSES = {"permanent": 301, "temp": 302, "seeother": 303, "gone": 410}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NOT_IN_A_PATH = re.compile(rb"[^A-Za-z0-9/._~$!&'()*+,;=:@-]")
_MEANS_SOMETHING = re.compile(r"[\^.\[$()|*+?{\\]")


def quote_path(path: str) -> bytes:
    """A decoded path as a link may hold it."""
    return _NOT_IN_A_PATH.sub(lambda found: b"%%%02x" % ord(found[0]), encoded(path))


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
    """One line. path: None where the section alone decides; target: "" for a status that is no redirect."""

    status: int
    path: str | None
    target: str
    pattern: re.Pattern[bytes] | None = None  # RedirectMatch's

    def of(self, path: str) -> bytes | None:
        """Where a URL path is redirected to, b"" where it has only the status, None if it is not. As by httpd,
        what is appended to a target is escaped; of a RedirectMatch's all but the query and the fragment."""
        if self.pattern is not None:
            if (found := self.pattern.search(encoded(path))) is None:
                return None
            target = substituted(self.target, found)
            size = len(re.split("[?#]", target, maxsplit=1)[0])
            return quote_path(target[:size]) + encoded(target[size:])
        if self.path is None:
            return encoded(self.target)
        rest = path[len(self.path) :]
        if not path.startswith(self.path) or not (self.path.endswith("/") or rest[:1] in ("", "/")):
            return None
        return encoded(self.target) + quote_path(rest) if self.target else b""


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


class EnvRule(NamedTuple):
    """One line: where `pattern` matches the attribute, each variable is set, or taken away (None)."""

    attribute: str
    pattern: re.Pattern[bytes]
    variables: tuple[tuple[str, str | None], ...]


def setter(attribute: str = "", any_case: bool = False) -> Callable[[Words], tuple[EnvRule]]:
    """Reads `[attribute] expression [!]variable[=value] …`."""

    def parse(words: Words) -> tuple[EnvRule]:
        name, pattern, *variables = (attribute, *words) if attribute else words
        compiled = expression("(?i)" * any_case + pattern)
        # A pattern that is a plain text: httpd puts no groups in.
        plain = not any_case and not _MEANS_SOMETHING.search(pattern)
        read: list[tuple[str, str | None]] = []
        for word in variables:
            variable, _, value = word.partition("=")
            value = re.sub(r"([\\$])", r"\\\1", value) if plain else value
            read.append((word[1:], None) if word.startswith("!") else (variable, value or "1"))
        return (EnvRule(name.lower(), compiled, tuple(read)),)

    return parse


_ATTRIBUTES: dict[str, Callable[[Any, Any], str]] = {  # of a request and its connection
    "remote_addr": lambda request, conn: conn.peer[0],
    "remote_host": lambda request, conn: conn.peer[0],
    "server_addr": lambda request, conn: conn.local[0],
    "request_method": lambda request, conn: request.method,
    "request_protocol": lambda request, conn: "HTTP/{}.{}".format(*request.version),
    "request_uri": lambda request, conn: request.path,
}


def variables_of(rules: Iterable[EnvRule], request: Any, conn: Any) -> dict[str, str]:
    """What the lines set for a request, if there is one, each line after the one before."""
    found: dict[str, str] = {}
    for rule in rules if request is not None else ():
        if special := _ATTRIBUTES.get(rule.attribute):
            value = encoded(special(request, conn))
        else:
            value = request.get(rule.attribute.encode("latin-1", "replace")) or b""
            same = [text for name, text in found.items() if name.lower() == rule.attribute]
            value = value or encoded("".join(same[:1]))
        matched = rule.pattern.search(value)
        for name, text in rule.variables if matched else ():
            found.pop(name, None)
            if matched and text is not None:
                found[name] = substituted(text, matched)
    return found
