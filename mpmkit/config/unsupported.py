"""Directives of httpd that mpmkit does not have, and all modules of httpd.

A directive of httpd that mpmkit does not have is, by what it decides,

    quiet     mpmkit does it anyway or need not do it: no effect, a message of level debug
    ignored   appearance, speed, headers, where a URL leads: no effect, one warning per module
    closed    access control: its section answers 403, and a warning says why
    refused   an error, like a name that httpd does not know: the line would have to be obeyed

httpd_directives.txt is the table; it is read at the first such directive: other servers do not carry it.
"""

import re
from functools import cache
from operator import eq, ge, gt, le, lt
from typing import NamedTuple

from mpmkit.config import access
from mpmkit.config.settings import MPMS, DirectiveError, Note, Setting
from mpmkit.config.values import Words

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


# -- modules: which of them mpmkit is, which a LoadModule may name, which MPM it chooses; httpd's version

HTTPD_VERSION = (2, 4, 71)  # of the httpd that mpmkit is compared with
_COMPARE = {"=": eq, "==": eq, ">": gt, ">=": ge, "<": lt, "<=": le}

# Modules whose directives or effects mpmkit has itself: always there, LoadModule or not.
_OURS = (
    "log_config logio unixd authz_core authz_host dir mime alias status reqtimeout cgi cgid wsgi "
    "proxy_fcgi version"
)
BUILT_IN = {"core_module": "core.c", "so_module": "mod_so.c", "http_module": "http_core.c"}
BUILT_IN |= {f"{name}_module": f"mod_{name}.c" for name in _OURS.split()}
# Of mpmkit, too, but only if a LoadModule names it: by <IfModule> files learn whether it is wanted.
OPTIONAL = ("ssl_module",)
MPM_MODULES = {f"mpm_{mpm}_module": mpm for mpm in MPMS}

# The LoadModule of any other module of httpd, and of mod_php, is accepted; <IfModule> is then true for it.
# The table has those with directives, and these have none that it knows.
WITHOUT_DIRECTIVES = frozenset((
    "access_compat asis authz_owner authz_user bucketeer data isapi lbmethod_bybusyness "
    "lbmethod_byrequests lbmethod_bytraffic lbmethod_heartbeat php5 php7 privileges proxy_ajp proxy_balancer "
    "proxy_fdpass proxy_http proxy_http2 proxy_uwsgi ratelimit slotmem_plain slotmem_shm socache_dbm socache_dc "
    "socache_shmcb systemd unique_id"
).split())  # fmt: skip

_FILES = {"ldap_module": "util_ldap.c"}  # the one whose source is not called mod_NAME.c


class Modules:
    """The modules of one reading of a configuration."""

    def __init__(self, mpm: str | None) -> None:
        self.mpm = mpm  # the MPM that <IfModule> is true for
        self.loaded_mpm: str | None = None  # the one that a LoadModule named
        self.loaded: list[str] = []  # what LoadModule lines named, each once

    @property
    def static(self) -> dict[str, str]:
        """Those that are built in, with their source files."""
        return BUILT_IN | ({f"mpm_{self.mpm}_module": f"{self.mpm}.c"} if self.mpm else {})

    def load(self, setting: Setting) -> list[Note]:
        """Obey a LoadModule. Raises ValueError."""
        name = setting.args[0]
        if asked := MPM_MODULES.get(name):
            had = self.loaded_mpm or self.mpm or asked
            if had != asked:
                source = "is loaded already" if self.loaded_mpm else "was asked for"
                text = f"{had} {source}, and there is one MPM: keep one of them"
                raise DirectiveError.at(setting, f"LoadModule {name}: {text}", "AH00534")
            self.loaded_mpm = self.mpm = asked
        own = (*MPM_MODULES, *BUILT_IN, *OPTIONAL)
        short, accepted = name.removesuffix("_module"), name not in own
        if accepted and (short == name or short not in WITHOUT_DIRECTIVES | lacking_modules()):
            known = ", ".join(one.removesuffix("_module") for one in own)
            why = f"no such module here, take the line out; there are {known}"
            raise ValueError(f"LoadModule {name}: {why}")
        if name in self.loaded:
            text = f"module {name} is already loaded, skipping{setting.place}"
            return [Note("AH01574", "warn", text)]
        self.loaded.append(name)
        if name.startswith("php"):
            text = "scripts of PHP answer 403: PHP runs as a server of its own, write SetHandler "
            text = f"{name}: {text}proxy:unix:/run/php/php-fpm.sock|fcgi://localhost"
            return [Note("", "warn", text + setting.place)]
        text = f"{name} is accepted, though mpmkit has no such module"
        return [Note("", "debug", text)] * accepted

    def has(self, name: str) -> bool:
        """By identifier (dir_module) or by source file (mod_dir.c), as <IfModule> takes both."""
        loaded = [one for one in self.loaded if one not in MPM_MODULES]
        named = {one: _FILES.get(one, f"mod_{one.removesuffix('_module')}.c") for one in loaded}
        files = named | self.static
        return name in files or name in files.values()


def version_holds(words: Words) -> bool:
    """<IfVersion [[!]op] 2.4.6>, also ~ and /.../, for HTTPD_VERSION; a part left out is 0. Raises ValueError."""
    *signs, wanted = words or ("",)
    sign = " ".join(signs) or "="
    compare = sign.removeprefix("!")
    slashes = re.fullmatch("/(.+)/", wanted) if compare in ("=", "==") else None
    try:
        if slashes or compare == "~":
            pattern = slashes[1] if slashes else wanted
            found = re.search(pattern, ".".join(map(str, HTTPD_VERSION))) is not None
        elif compare not in _COMPARE:
            known = f'{" ".join(_COMPARE)} and ~, each also after a "!"'
            raise ValueError(f'knows {known}, not "{sign}"')
        elif not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,2}", wanted):
            raise ValueError(f'takes a version such as 2.4 or 2.4.6, not "{wanted}"')
        else:
            numbers = [int(number) for number in wanted.split(".")]
            found = _COMPARE[compare](HTTPD_VERSION, (*numbers, 0, 0)[:3])
    except (ValueError, re.error) as error:
        raise ValueError(f"<IfVersion> {error}") from None
    return found != sign.startswith("!")
