"""What becomes of the lines of one configuration that mpmkit does not have: ignored, closed, refused.

`unsupported.foreign` has the class of each directive. Here its lines are collected while `checks` reads
them: one warning a module for what is ignored, and a `Require all denied` for each section that is closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mpmkit.config.directives import SPECS
from mpmkit.config.settings import Note, Section, Setting
from mpmkit.config.unsupported import CLOSED, REFUSED, Foreign

HANDLERS = ("wsgi-script", "cgi-script", "default-handler", "none", "server-status")
SHOWN = 8  # names in one warning
DENIED = ("all", "denied")


class Lacking:
    """The lines of one reading. strict: each is refused."""

    def __init__(self, strict: bool = False) -> None:
        self._strict = strict
        self._ignored: dict[str, list[Setting]] = {}  # by module
        self._closed: dict[Section | None, list[Setting]] = {}  # by section; None: the server
        self._handlers: dict[str, Setting] = {}
        self._forbidding: list[Setting] = []

    def take(self, row: Foreign, setting: Setting, section: Section | None) -> None:
        """One line of a directive that mpmkit does not have. Raises ValueError if it is refused."""
        fate = row.fate_of(setting)
        if self._strict or fate == REFUSED:
            what = "container" if row.name.startswith("<") else "directive"
            raise ValueError(
                f"{row.name} is a {what} of {row.module} that mpmkit does not have: take it out"
            )
        if fate == CLOSED:
            self._closed.setdefault(section, []).append(replace(setting, name=row.name))
        else:
            self._ignored.setdefault(row.module, []).append(replace(setting, name=row.name))
            if row.name == "RewriteRule" and _forbids(setting):
                self._forbidding.append(setting)

    def handler(self, setting: Setting) -> None:
        """A SetHandler or AddHandler. Raises ValueError for one that is not here, if that is refused."""
        name = setting.args[0]
        if name.lower() in HANDLERS or name.lower().startswith("proxy:"):
            return
        if self._strict:
            raise ValueError(f"there is no handler {name!r} here; use one of {', '.join(HANDLERS)}")
        self._handlers.setdefault(name, setting)

    def closing(self, sections: Iterable[Section]) -> tuple[Section, ...]:
        """The sections, with a `Require all denied` in those that have to be closed, and with one for
        all of the server where a line outside of sections asks for it."""
        found = [
            replace(section, settings=_denied(section.settings, self._closed.get(section)))
            for section in sections
        ]
        if None in self._closed:
            found.append(Section("Location", "/", _denied((), self._closed[None])))
        return tuple(found)

    def notes(self) -> list[Note]:
        """A warning for each module, each closed section, each handler that is not here."""
        texts = [
            f"{module} is not here: no effect have {_names(lines)}"
            for module, lines in self._ignored.items()
        ]
        for section, lines in self._closed.items():
            where = f"<{section.kind} {section.arg}>" if section else "the whole server"
            why = f"mpmkit cannot decide who may enter by {_names(lines)}"
            texts.append(f"{where} answers 403: {why}")
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
    """A RewriteRule with the flag F or G: what it matches is 403 or 410."""
    flags = setting.args[2].strip("[]").upper().split(",") if len(setting.args) > 2 else []
    return any(flag.strip() in ("F", "G", "FORBIDDEN", "GONE") for flag in flags)


def _denied(settings: Iterable[Setting], why: list[Setting] | None) -> tuple[Setting, ...]:
    """A section's settings as far as mpmkit has them; closed, if there is a reason why."""
    kept = tuple(setting for setting in settings if setting.name.lower() in SPECS)
    if why is None:
        return kept
    others = [setting for setting in kept if setting.name.lower() != "require"]
    return (*others, replace(why[0], name="Require", args=DENIED))


def _names(lines: list[Setting]) -> str:
    """`AddIcon, IndexOptions and 3 more (52 lines, the first httpd.conf:12)`"""
    names = list({line.name.lower(): line.name for line in lines}.values())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    count = f"{len(lines)} lines, the first " if len(lines) > 1 else ""
    place = lines[0].place.replace("(", f"({count}", 1)
    return ", ".join(names[:SHOWN]) + more + place
