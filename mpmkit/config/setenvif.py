"""mod_setenvif's lines: variables of a request, set by what its client sent.

SetEnvIf Request_URI "\\.gif$" !text image=$0        BrowserMatch ^Mozilla netscape
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from mpmkit.config.alias import expression, substituted
from mpmkit.config.values import Words

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
        compiled = expression(("(?i)" if any_case else "") + pattern)
        # A pattern that is a plain text: httpd puts no groups in.
        plain = not any_case and not _MEANS_SOMETHING.search(pattern)
        read: list[tuple[str, str | None]] = []
        for word in variables:
            variable, _, value = word.partition("=")
            value = re.sub(r"[\\$]", lambda found: "\\" + found[0], value) if plain else value
            read.append((word[1:], None) if word.startswith("!") else (variable, value or "1"))
        return (EnvRule(name.lower(), compiled, tuple(read)),)

    return parse
