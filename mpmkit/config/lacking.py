"""What becomes of the lines of one configuration that mpmkit does not have: ignored or refused.

`unsupported.foreign` has the class of each directive. Here its lines are collected while `checks` reads
them: one warning a module for what is ignored. What is closed stays in its section: access.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from mpmkit.config import access
from mpmkit.config.directives import SPECS
from mpmkit.config.settings import Note, Section, Setting
from mpmkit.config.unsupported import CLOSED, REFUSED, Foreign, foreign

HANDLERS = ("wsgi-script", "cgi-script", "default-handler", "none", "server-status")
SHOWN = 8  # names in one warning


class Lacking:
    """The lines of the server or of one host. strict: each is refused. server: a host's server, which
    says what is ignored for both."""

    def __init__(self, strict: bool = False, server: Lacking | None = None) -> None:
        self.strict = strict
        self._own = server is None
        self._ignored: dict[str, list[Setting]] = server._ignored if server else {}  # by module
        self._handlers: dict[str, Setting] = {}
        self._forbidding: list[Setting] = []

    def take(self, row: Foreign, setting: Setting) -> None:
        """One line of a directive that mpmkit does not have. Raises ValueError if it is refused."""
        fate = row.fate_of(setting)
        if self.strict or fate == REFUSED:
            what = "container" if row.name.startswith("<") else "directive"
            raise ValueError(
                f"{row.name} is a {what} of {row.module} that mpmkit does not have: take it out"
            )
        if setting.name.lower() not in access.CLOSED:
            self._ignored.setdefault(row.module, []).append(replace(setting, name=row.name))
            if row.name == "RewriteRule" and _forbids(setting):
                self._forbidding.append(setting)

    def handler(self, setting: Setting) -> None:
        """A SetHandler or AddHandler. Raises ValueError for one that is not here, if that is refused."""
        name = setting.args[0]
        if name.lower() in HANDLERS or name.lower().startswith("proxy:"):
            return
        if self.strict:
            raise ValueError(f"there is no handler {name!r} here; use one of {', '.join(HANDLERS)}")
        self._handlers.setdefault(name, setting)

    def without(self, sections: Iterable[Section]) -> tuple[Section, ...]:
        """The sections with what mpmkit has, and what closes them."""
        return tuple(
            replace(section, settings=tuple(s for s in section.settings if _counts(s.name)))
            for section in sections
        )

    def notes(self) -> list[Note]:
        """A warning for each module and each handler that is not here."""
        texts = [
            f"{module} is not here: no effect have {_names(lines)}"
            for module, lines in self._ignored.items()
            if self._own
        ]
        for name, setting in self._handlers.items():
            why = f"answers 403: there is no handler {name!r} here"
            texts.append(
                f"what {setting.name} {' '.join(setting.args)} is for {why}{setting.place}"
            )
        for setting in self._forbidding:
            why = "protects nothing: mpmkit does not rewrite, write Require all denied"
            texts.append(f"RewriteRule {' '.join(setting.args)} {why}{setting.place}")
        return [Note("", "warn", text) for text in texts]


def _forbids(setting: Setting) -> bool:
    """A RewriteRule with the flag F, G or R=4xx: what it matches is refused."""
    flags = setting.args[2].strip("[]").lower().split(",") if len(setting.args) > 2 else []
    return any(re.fullmatch(r" *(f|forbidden|g|gone|r(edirect)?=4..) *", flag) for flag in flags)


def _counts(name: str) -> bool:
    return name.lower() in SPECS or ((row := foreign(name)) is not None and row.fate == CLOSED)


def _names(lines: list[Setting]) -> str:
    """`AddIcon, IndexOptions and 3 more (52 lines, the first httpd.conf:12)`"""
    names = list({line.name.lower(): line.name for line in lines}.values())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    count = f"{len(lines)} lines, the first " if len(lines) > 1 else ""
    place = lines[0].place.replace("(", f"({count}", 1)
    return ", ".join(names[:SHOWN]) + more + place
