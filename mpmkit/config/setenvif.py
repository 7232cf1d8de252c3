"""mod_setenvif's lines: variables of a request, set by what its client sent, for scripts, `%{…}e` and
`CustomLog … env=`.

SetEnvIf Request_URI "\\.gif$" !text image=$0        BrowserMatch ^Mozilla netscape
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mpmkit.config.alias import expression, substituted
from mpmkit.config.values import NAMES, Words

_MEANS_SOMETHING = re.compile(r"[\^.\[$()|*+?{\\]")


class EnvRule(NamedTuple):
    """One line: where `pattern` matches the attribute, each variable is set, or taken away (None)."""

    attribute: str
    pattern: re.Pattern[bytes]
    variables: tuple[tuple[str, str | None], ...]

    def apply(self, value: bytes, variables: dict[str, str]) -> None:
        """The variables after the rule, for a request whose attribute has `value`."""
        if found := self.pattern.search(value):
            for name, text in self.variables:
                variables.pop(name, None)
                if text is not None:
                    variables[name] = substituted(text, found)


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
            value = special(request, conn).encode(NAMES, "surrogateescape")
        else:
            value = request.get(rule.attribute.encode("latin-1", "replace")) or b""
            same = [text for name, text in found.items() if name.lower() == rule.attribute]
            value = value or "".join(same[:1]).encode(NAMES, "surrogateescape")
        rule.apply(value, found)
    return found
