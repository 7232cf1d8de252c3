"""httpd's modules: which of them mpmkit is, which a LoadModule may name, and which MPM it chooses."""

from __future__ import annotations

from dataclasses import dataclass

from mpmkit.config.settings import MPMS, DirectiveError, Note, Setting

# Modules whose directives or effects mpmkit has itself, with httpd's names for their sources: always
# there, LoadModule or not.
BUILT_IN = {"core_module": "core.c", "so_module": "mod_so.c", "http_module": "http_core.c"} | {
    f"{name}_module": f"mod_{name}.c"
    for name in (
        "log_config logio unixd authz_core authz_host dir mime alias status reqtimeout cgi cgid wsgi "
        "proxy_fcgi"
    ).split()
}

# Modules that mpmkit has, too, and that are there once a LoadModule names them: files ask for them
# by <IfModule> to learn whether the administrator wants them.
OPTIONAL = {"ssl_module": "mod_ssl.c"}

MPM_MODULES = {f"mpm_{mpm}_module": mpm for mpm in MPMS}

# Modules that real files load and that mpmkit can do without.  The line is accepted, but the
# module is not there: <IfModule> is false for it and its directives are unknown.
ACCEPTED = frozenset(
    f"{name}_module"
    for name in (
        "access_compat actions allowmethods auth_basic authn_core authn_file authz_groupfile "
        "authz_user autoindex cache deflate env expires ext_filter filter headers http2 include info "
        "mime_magic negotiation proxy_http proxy remoteip request rewrite setenvif slotmem_shm "
        "socache_shmcb unique_id userdir version vhost_alias watchdog"
    ).split()
)

# Modules that are often looked for here, and what to do instead.
INSTEAD = {
    f"php{version}_module": "PHP runs as a server of its own: take the line out and write "
    "SetHandler proxy:unix:/run/php/php-fpm.sock|fcgi://localhost"
    for version in ("", "5", "7")
}


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the configuration: ``how`` is "static", "shared" (LoadModule) or "accepted"."""

    name: str
    file: str
    how: str


class Modules:
    """The modules of one reading of a configuration. ``mpm`` is the one <IfModule> is true for."""

    def __init__(self, mpm: str | None) -> None:
        self.mpm = mpm
        self.loaded_mpm: str | None = None  # the one a LoadModule named
        self._loaded: dict[str, Module] = {}

    def load(self, setting: Setting) -> Note | None:
        """Obey a LoadModule. Raises DirectiveError."""
        name, file = setting.args
        accepted = name in ACCEPTED
        if name in MPM_MODULES:
            self._choose_mpm(MPM_MODULES[name], setting)
        elif name in INSTEAD:
            raise DirectiveError.at(setting, f"LoadModule {name}: {INSTEAD[name]}")
        elif not accepted and name not in BUILT_IN and name not in OPTIONAL:
            names = (*MPM_MODULES, *BUILT_IN, *OPTIONAL)
            known = ", ".join(one.removesuffix("_module") for one in names)
            text = f"LoadModule {name}: no such module here, take the line out; there are {known}"
            raise DirectiveError.at(setting, text)
        self._loaded.setdefault(name, Module(name, file, "accepted" if accepted else "shared"))
        text = f"{name} is accepted, though mpmkit has no such module"
        return Note("", "debug", text) if accepted else None

    def _choose_mpm(self, asked: str, setting: Setting) -> None:
        had = self.loaded_mpm or self.mpm
        if had and had != asked:
            source = "is loaded already" if self.loaded_mpm else "was asked for"
            text = f"{had} {source}, and there is one MPM: keep one of them"
            raise DirectiveError.at(setting, f"LoadModule {setting.args[0]}: {text}", "AH00534")
        self.loaded_mpm = self.mpm = asked

    def loaded(self, name: str) -> bool:
        """Did a LoadModule name it?"""
        return name in self._loaded

    def has(self, name: str) -> bool:
        """By identifier (dir_module) or by source file (mod_dir.c), as <IfModule> takes both."""
        files = self._static() | {one: OPTIONAL[one] for one in OPTIONAL if one in self._loaded}
        return name in files or name in files.values()

    def all(self) -> tuple[Module, ...]:
        """Each once: the static ones, then those of LoadModule in their order."""
        static = self._static().items()
        kept = [Module(name, file, "static") for name, file in static if name not in self._loaded]
        return (*kept, *self._loaded.values())

    def _static(self) -> dict[str, str]:
        return BUILT_IN | ({f"mpm_{self.mpm}_module": f"{self.mpm}.c"} if self.mpm else {})
