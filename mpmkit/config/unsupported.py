"""Directives of httpd that mpmkit does not have.

A directive of httpd that mpmkit does not have is, by what it decides,

    quiet     mpmkit does it anyway or need not do it: no effect, a message of level debug
    ignored   appearance, speed, headers, where a URL leads: no effect, one warning per module
    closed    access control: its section answers 403, and a warning says why
    refused   an error, like a name that httpd does not know: the line would have to be obeyed

httpd_directives.txt is the table: a line for each class and module. It is read at the first
such directive, so that other servers' children do not carry it. (Modules: modules.py.)
"""

import re
from functools import cache
from typing import NamedTuple

from mpmkit.config import access
from mpmkit.config.settings import Setting

TABLE = f"{__file__.rpartition('/')[0]}/httpd_directives.txt"
QUIET, IGNORED, CLOSED, REFUSED = FATES = ("quiet", "ignored", "closed", "refused")
HANDLERS = ("wsgi-script", "cgi-script", "default-handler", "none", "server-status")
RUNNERS = re.compile("(fcgi|scgi|uwsgi|ajp)://")
PROGRAM_TYPES = "application/x-httpd-"  # so begin media types that are handlers: mod_php's
DEFAULTS = {"mergeslashes": "on", "stricthostcheck": "off"}  # of refused directives


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
