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
        "proxy_fcgi version"
    ).split()
}

# A module that mpmkit has, too, and that is there once a LoadModule names it: files ask for it by
# <IfModule> to learn whether the administrator wants it.
OPTIONAL = ("ssl_module",)

MPM_MODULES = {f"mpm_{mpm}_module": mpm for mpm in MPMS}

# The other modules that httpd ships, and mod_php: their LoadModule is accepted, <IfModule> is then true for
# them, and unsupported.py says what becomes of their directives.
ACCEPTED = frozenset(
    f"{name}_module"
    for name in (
        "access_compat actions allowmethods asis auth_basic auth_digest auth_form authn_anon authn_core "
        "authn_dbd authn_dbm authn_file authn_socache authnz_fcgi authnz_ldap authz_dbd authz_dbm "
        "authz_groupfile authz_owner authz_user autoindex brotli bucketeer buffer cache cache_disk "
        "cache_socache case_filter case_filter_in cern_meta charset_lite data dav dav_fs dav_lock dbd deflate "
        "dialup dumpio echo env expires ext_filter file_cache filter headers heartbeat heartmonitor http2 "
        "ident imagemap include info isapi lbmethod_bybusyness lbmethod_byrequests lbmethod_bytraffic "
        "lbmethod_heartbeat ldap log_debug log_forensic lua macro md mime_magic negotiation php php5 php7 "
        "privileges proxy proxy_ajp proxy_balancer proxy_connect proxy_express proxy_fdpass proxy_ftp "
        "proxy_hcheck proxy_html proxy_http proxy_http2 proxy_scgi proxy_uwsgi proxy_wstunnel ratelimit "
        "reflector remoteip request rewrite sed session session_cookie session_crypto session_dbd setenvif "
        "slotmem_plain slotmem_shm socache_dbm socache_dc socache_memcache socache_redis socache_shmcb "
        "speling substitute suexec systemd unique_id userdir usertrack vhost_alias watchdog xml2enc"
    ).split()
)


_FILES = {"ldap_module": "util_ldap.c"}  # the one whose source is not called mod_NAME.c


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
        elif not accepted and name not in BUILT_IN and name not in OPTIONAL:
            names = (*MPM_MODULES, *BUILT_IN, *OPTIONAL)
            known = ", ".join(one.removesuffix("_module") for one in names)
            text = f"LoadModule {name}: no such module here, take the line out; there are {known}"
            raise DirectiveError.at(setting, text)
        self._loaded.setdefault(name, Module(name, file, "accepted" if accepted else "shared"))
        if name.startswith("php"):
            text = "scripts of PHP answer 403: PHP runs as a server of its own, write SetHandler "
            text = f"{name}: {text}proxy:unix:/run/php/php-fpm.sock|fcgi://localhost"
            return Note("", "warn", text + setting.place)
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
        own = {one: _FILES.get(one, f"mod_{one.removesuffix('_module')}.c") for one in self._loaded}
        files = self._static() | {one: own[one] for one in own if one not in MPM_MODULES}
        return name in files or name in files.values()

    def all(self) -> tuple[Module, ...]:
        """Each once: the static ones, then those of LoadModule in their order."""
        static = self._static().items()
        kept = [Module(name, file, "static") for name, file in static if name not in self._loaded]
        return (*kept, *self._loaded.values())

    def _static(self) -> dict[str, str]:
        return BUILT_IN | ({f"mpm_{self.mpm}_module": f"{self.mpm}.c"} if self.mpm else {})
