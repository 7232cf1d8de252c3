"""What httpd's configurations contain and mpmkit does not have: directives and containers.

Some of it is read and has no effect; for the rest there is a remedy to name. (Modules: modules.py.)
"""

from __future__ import annotations

from typing import Any

from mpmkit.config.settings import Spec
from mpmkit.config.values import all_words, number, on_off

# ---------------------------------------------------------------------------------------------
# Directives


def _row(name: str, doc: str, *args: int, **row: Any) -> Spec:
    """`args`: the fewest and the most words, if not any number."""
    counts = (args[0], args[-1]) if args else (1, 99)
    return Spec(name=name, doc=doc, args=counts, effect=False, **{"parse": all_words, **row})


# Read, so that real files can be used, and without effect.
WITHOUT_EFFECT = (
    _row("ListenCoresBucketsRatio", "Cores for each bucket of listeners; mpmkit has one bucket",
         1, parse=number, takes="number", source="mpm", low=1, refused=True),
    _row("AllowOverride", "What .htaccess files may change; mpmkit reads none of them",
         where="section"),
    _row("AccessFileName", "Name of .htaccess files; mpmkit reads none of them"),
    _row("SSLHonorCipherOrder", "Whose order of ciphers counts; here the server's",
         1, parse=on_off, source="mod_ssl"),
    _row("SSLPassPhraseDialog", "How the key's pass phrase is asked for", source="mod_ssl"),
    _row("SSLRandomSeed", "Sources of randomness; the kernel's is used", source="mod_ssl"),
    _row("SSLSessionCache", "Sessions kept for resumption; here clients keep theirs in tickets",
         1, source="mod_ssl"),
    _row("SSLSessionCacheTimeout", "Longest life of a kept session", 1, source="mod_ssl"),
    _row("SSLSessionTickets", "Sessions that clients keep; always on",
         1, parse=on_off, source="mod_ssl"),
    _row("Mutex", "Locks between processes; a single listener needs none"),
    _row("CoreDumpDirectory", "Where a crashing child leaves its memory", 1),
    _row("DefaultRuntimeDir", "Where files that live as long as the server go", 1),
    _row("EnableExceptionHook", "Hooks that run in a crashing child", 1, parse=on_off),
    _row("HostnameLookups", "Client names instead of addresses in the log", 1, where="any"),
    _row("AddCharset", "Character sets by extension", where="any"),
    _row("AddEncoding", "Content encodings by extension", where="any"),
    _row("AddLanguage", "Languages by extension", where="any"),
    _row("AddOutputFilter", "Filters by extension", where="any"),
    _row("RemoveType", "Media types that extensions have no more", where="any"),
)  # fmt: skip

# httpd's directives that belong to modules mpmkit does not have, by how their names begin.
FOREIGN = (
    ("SSL", "mod_ssl"), ("Rewrite", "mod_rewrite"), ("Proxy", "mod_proxy"),
    ("Balancer", "mod_proxy_balancer"), ("HeaderName", "mod_autoindex"),
    ("ReadmeName", "mod_autoindex"), ("Index", "mod_autoindex"), ("AddIcon", "mod_autoindex"),
    ("AddAlt", "mod_autoindex"), ("AddDescription", "mod_autoindex"),
    ("DefaultIcon", "mod_autoindex"), ("Header", "mod_headers"), ("RequestHeader", "mod_headers"),
    ("Expires", "mod_expires"), ("Cache", "mod_cache"),
    ("Deflate", "mod_deflate"), ("BrowserMatch", "mod_setenvif"), ("SetEnvIf", "mod_setenvif"),
    ("SetEnv", "mod_env"), ("PassEnv", "mod_env"), ("Redirect", "mod_alias"), ("H2", "mod_http2"),
    ("php_", "mod_php"), ("WSGI", "mod_wsgi"), ("Language", "mod_negotiation"),
    ("ForceLanguage", "mod_negotiation"), ("Dav", "mod_dav"), ("LDAP", "mod_ldap"),
    ("Remove", "mod_mime"),
)  # fmt: skip

# Names from before 2.4 that are still pasted, and what to write today.
REMOVED_IN_2_4 = {
    "acceptmutex": "write Mutex",
    "lockfile": "write Mutex",
    "namevirtualhost": "leave it out",
    "port": "write Listen",
    "bindaddress": "write Listen",
    "servertype": "leave it out",
    "minspareprocesses": "write MinSpareServers",
    "maxthreadsperchild": "write ThreadsPerChild",
}

# ---------------------------------------------------------------------------------------------
# Containers, and what to do about each

CONTAINERS = {
    "virtualhost": "mpmkit serves one site: move its directives out of the <VirtualHost>",
    "iffile": "use <IfDefine> or IncludeOptional instead of <IfFile>",
    "ifversion": "there is no version to compare with: take the <IfVersion> out",
    "ifdirective": "use <IfModule> instead of <IfDirective>",
    "ifsection": "use <IfModule> instead of <IfSection>",
    "proxy": "there is no proxy: take the <Proxy> out",
}
