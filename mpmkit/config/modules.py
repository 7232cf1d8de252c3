"""httpd's modules: which of them mpmkit is, which a LoadModule may name, which MPM it chooses; its version."""

import re
from operator import eq, ge, gt, le, lt

from mpmkit.config.settings import MPMS, DirectiveError, Note, Setting
from mpmkit.config.unsupported import lacking_modules
from mpmkit.config.values import Words

HTTPD_VERSION = (2, 4, 71)  # of the httpd that mpmkit is compared with
_COMPARE = {"=": eq, "==": eq, ">": gt, ">=": ge, "<": lt, "<=": le}

# Modules whose directives or effects mpmkit has itself, with httpd's names for their sources: always
# there, LoadModule or not.
BUILT_IN = {"core_module": "core.c", "so_module": "mod_so.c", "http_module": "http_core.c"} | {
    f"{name}_module": f"mod_{name}.c"
    for name in (
        "log_config logio unixd authz_core authz_host dir mime alias status reqtimeout cgi cgid wsgi "
        "proxy_fcgi version"
    ).split()
}

# A module that mpmkit has, too, and that is there once a LoadModule names it: files ask for it by
# <IfModule> to learn whether the administrator wants it.
OPTIONAL = ("ssl_module",)

MPM_MODULES = {f"mpm_{mpm}_module": mpm for mpm in MPMS}

# The LoadModule of any other module of httpd, and of mod_php, is accepted; <IfModule> is then true for it.
# unsupported.py has those with directives, and these have none that it knows.
WITHOUT_DIRECTIVES = frozenset((
    "access_compat asis authz_owner authz_user bucketeer data isapi lbmethod_bybusyness "
    "lbmethod_byrequests lbmethod_bytraffic lbmethod_heartbeat php5 php7 privileges proxy_ajp proxy_balancer "
    "proxy_fdpass proxy_http proxy_http2 proxy_uwsgi ratelimit slotmem_plain slotmem_shm socache_dbm socache_dc "
    "socache_shmcb systemd unique_id"
).split())  # fmt: skip

_FILES = {"ldap_module": "util_ldap.c"}  # the one whose source is not called mod_NAME.c


class Modules:
    """The modules of one reading of a configuration.

    mpm      the MPM that <IfModule> is true for; loaded_mpm: the one a LoadModule named
    loaded   the names of LoadModule lines, each once"""

    def __init__(self, mpm: str | None) -> None:
        self.mpm = mpm
        self.loaded_mpm: str | None = None
        self.loaded: list[str] = []

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
    """<IfVersion [[!]op] 2.4.6>, also ~ and /.../: mod_version's comparison with HTTPD_VERSION; what a version
    leaves out is 0. Raises ValueError."""
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
