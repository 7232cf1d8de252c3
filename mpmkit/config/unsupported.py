"""Directives of httpd that mpmkit does not have.

A directive of httpd that mpmkit does not have is, by what it decides,

    quiet     mpmkit does it anyway or need not do it: no effect, a message of level debug
    ignored   appearance, speed, headers, where a URL leads: no effect, one warning per module
    closed    access control: its section answers 403, and a warning says why
    refused   an error, like a name that httpd does not know: the line would have to be obeyed

httpd_directives.txt is the table: a line for each class and module. It is read at the first
such directive, so that other servers' children do not carry it. (Modules: modules.py.)
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from mpmkit.config import access
from mpmkit.config.settings import Host, Note, Setting

TABLE = f"{__file__.rpartition('/')[0]}/httpd_directives.txt"
QUIET, IGNORED, CLOSED, REFUSED = FATES = ("quiet", "ignored", "closed", "refused")
HANDLERS = ("wsgi-script", "cgi-script", "default-handler", "none", "server-status")
RUNNERS = re.compile("(fcgi|scgi|uwsgi|ajp)://")
PROGRAM_TYPES = "application/x-httpd-"  # so begin media types that are handlers: mod_php's
DEFAULTS = {"mergeslashes": "on", "stricthostcheck": "off"}  # of refused directives
SHOWN = 8  # names in one warning


class Foreign(NamedTuple):
    """A directive, or a container such as "<Proxy>", that httpd has and mpmkit does not."""

    name: str
    module: str
    fate: str  # one of FATES
    where: str  # "section", "server" or "any", as `Spec.where`

    def fate_of(self, setting: Setting) -> str:
        """What becomes of a line: `AuthType None` restricts nothing, and a default has not to be obeyed."""
        default = "none" if self.fate == CLOSED else DEFAULTS.get(self.name.lower())
        return IGNORED if " ".join(setting.args).lower() == default else self.fate

    @property
    def refusal(self) -> str:
        what = "container" if self.name.startswith("<") else "directive"
        return f"{self.name} is a {what} of {self.module} that mpmkit does not have: take it out"


def is_backend(handler: str) -> bool:
    """Whether a handler is a backend, and its address does not name a protocol other than FastCGI."""
    other = re.match(r"(?i)proxy:(unix:[^|]*\|)?+(?!fcgi:|unix:)\w+:/", handler)
    return handler.startswith("proxy:") and other is None


def lacks_handler(setting: Setting) -> bool:
    """Does a line name a handler that is not here?"""
    name, word = setting.name.lower(), "".join(setting.args[:1]).lower()
    if name in ("addtype", "forcetype"):
        return word.startswith(PROGRAM_TYPES)
    return name in ("sethandler", "addhandler") and not (word in HANDLERS or is_backend(word))


def runs_programs(setting: Setting) -> bool:
    """Is it a ProxyPass to what runs programs? Without it, these would be sent as they are."""
    proxies = setting.name.lower() in ("proxypass", "proxypassmatch")
    return proxies and bool(RUNNERS.search(" ".join(setting.args)))


def closes(setting: Setting) -> bool:
    """Does the scope of a line answer 403 because its handler is missing?"""
    return lacks_handler(setting) or runs_programs(setting)


def decides(setting: Setting) -> bool:
    """Within an <If>, which is not evaluated, such a line closes the section: it says who may have what."""
    name, first = setting.name.lower(), "".join(setting.args[:1]).lower()
    refuses = name in ("redirect", "redirectmatch") and re.match("gone$|[45]", first)
    return name in access.DECIDE or closes(setting) or bool(refuses)


def foreign(name: str) -> Foreign | None:
    """The row of a name, in any case."""
    return _table().get(name.lower())


def lacking_modules() -> set[str]:
    """The modules of all rows."""
    return {row.module.removeprefix("mod_") for row in _table().values()}


@cache
def _table() -> dict[str, Foreign]:
    where = {"@": "section", "-": "server"}
    rows = {}
    with open(TABLE, encoding="ascii") as file:
        for fate, module, *names in (line.split() for line in file if not line.startswith("#")):
            owner = "core" if module == "core:" else f"mod_{module[:-1]}"
            for word in names:
                name = word.rstrip("@-")
                shown = f"{name}>" if name.startswith("<") else name
                rows[name.lower()] = Foreign(shown, owner, fate, where.get(word[-1], "any"))
    return rows


class Lacking:
    """The lines of one configuration that mpmkit does not have, of the server or of one host.

    strict: each is refused. server: a host's server, which says what is ignored for both."""

    def __init__(self, strict: bool = False, server: Lacking | None = None) -> None:
        self.strict = strict
        self._own = server is None
        self._ignored: dict[str, list[Setting]] = server._ignored if server else {}  # by module
        self._handlers: set[str] = set()
        self._notes: list[Note] = []

    def take(self, row: Foreign, setting: Setting) -> None:
        """One line of a directive that mpmkit does not have. Raises ValueError if it is refused."""
        fate = row.fate_of(setting)
        if fate == REFUSED or (self.strict and fate != QUIET):
            raise ValueError(row.refusal)
        words = " ".join(setting.args)
        if row.name == "AllowOverride" and words.lower() != "none":
            self._note(f"AllowOverride {words}: .htaccess files are never read", setting)
        elif fate == QUIET:
            self._note(f"{row.name} has no effect in mpmkit", setting, "debug")
        elif setting.name.lower() not in access.CLOSED:
            self._ignored.setdefault(row.module, []).append(replace(setting, name=row.name))
            if row.name == "RewriteRule" and (_forbids(setting) or RUNNERS.search(words)):
                why = "protects nothing: mpmkit does not rewrite, write Require all denied"
                self._note(f"RewriteRule {words} {why}", setting)

    def handler(self, setting: Setting) -> None:
        """A line that may name a handler. Raises ValueError for one that is not here, if that is refused."""
        if not lacks_handler(setting) or (name := setting.args[0]) in self._handlers:
            return
        why = f"there is no handler {name!r} here"
        if self.strict:
            raise ValueError(f"{why}; use one of {', '.join(HANDLERS)}")
        self._handlers.add(name)
        self._closes(setting, why)

    def without_programs(self, host: Host) -> Host:
        """The lines of a host with a Redirect to the status 403 in place of each that `runs_programs`."""
        if self.strict:
            return host

        def closed(setting: Setting) -> Setting:
            if not runs_programs(setting):
                return setting
            self._closes(setting, "write SetHandler proxy:fcgi://HOST:PORT in a <FilesMatch>")
            path = () if RUNNERS.search(setting.args[0]) else setting.args[:1]
            name = "RedirectMatch" if path and setting.name[-1] in "hH" else "Redirect"
            return replace(setting, name=name, args=("403", *path))

        parts = [replace(one, settings=tuple(map(closed, one.settings))) for one in host.sections]
        return replace(host, settings=tuple(map(closed, host.settings)), sections=tuple(parts))

    def _closes(self, setting: Setting, why: str) -> None:
        line = " ".join((setting.name, *setting.args))
        self._note(f"closed: what {line} is for answers 403: {why}", setting)

    def _note(self, text: str, setting: Setting, level: str = "warn") -> None:
        self._notes.append(Note("", level, text + setting.place))

    def notes(self) -> list[Note]:
        """A warning for each module, and what single lines have given rise to."""
        modules = self._ignored.items() if self._own else ()
        texts = [f"no effect in mpmkit ({module}): {_names(lines)}" for module, lines in modules]
        return [*(Note("", "warn", text) for text in texts), *self._notes]


def _forbids(setting: Setting) -> bool:
    """A RewriteRule with the flag F, G or R=4xx: what it matches is refused."""
    flags = "".join(setting.args[2:3]).strip("[]").lower().split(",")
    return any(re.fullmatch(r" *(f|forbidden|g|gone|r(edirect)?=4..) *", flag) for flag in flags)


def _names(lines: list[Setting]) -> str:
    """`AddIcon, IndexOptions and 3 more (52 lines, the first httpd.conf:12)`"""
    names = list({line.name.lower(): line.name for line in lines}.values())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    count = f"{len(lines)} lines, the first " if len(lines) > 1 else ""
    return ", ".join(names[:SHOWN]) + more + lines[0].place.replace("(", f"({count}", 1)
