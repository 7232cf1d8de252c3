"""What httpd's configurations contain and mpmkit does not have.

    WITHOUT_EFFECT      directives that are read as httpd reads them, and then not used
    foreign("AddIcon")  of all others, those that httpd has: the module, and what becomes of a line

A foreign directive is, by what it decides,

    ignored   looks, speed, headers, where a URL leads: no effect, one warning a module
    closed    who may see what: the section that it is in answers 403, and a warning says why
    refused   an error, as of a name that httpd does not know: the line would have to be obeyed

httpd_directives.txt is the table: a line for each class and module. It is read when the first
foreign directive is met, so that no other server's children carry it. (Modules: modules.py.)
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from mpmkit.config.settings import Setting, Spec
from mpmkit.config.values import all_words, number, on_off

TABLE = f"{__file__.rpartition('/')[0]}/httpd_directives.txt"
IGNORED, CLOSED, REFUSED = FATES = ("ignored", "closed", "refused")


class Foreign(NamedTuple):
    """A directive, or a container such as "<Proxy>", that httpd has and mpmkit does not."""

    name: str
    module: str
    fate: str  # one of FATES
    where: str  # "section", "server" or "any", as `Spec.where`

    def fate_of(self, setting: Setting) -> str:
        """What becomes of a line: `AuthType None` and `SSLVerifyClient none` restrict nothing."""
        harmless = [word.lower() for word in setting.args] == ["none"]
        return IGNORED if harmless and self.fate == CLOSED else self.fate


def foreign(name: str) -> Foreign | None:
    """The row of a name, in any case."""
    return _table().get(name.lower())


@cache
def _table() -> dict[str, Foreign]:
    where = {"@": "section", "-": "server"}
    rows = {}
    with open(TABLE, encoding="ascii") as file:
        for line in file:
            if line.startswith("#"):
                continue
            fate, module, *names = line.split()
            for word in names:
                name = word.rstrip("@-")
                owner = f"mod_{module[:-1]}" if module != "core:" else "core"
                shown = f"{name}>" if name.startswith("<") else name
                rows[name.lower()] = Foreign(shown, owner, fate, where.get(word[-1], "any"))
    return rows


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
    _row("AddCharset", "Character sets by extension", where="any", source="mod_mime"),
    _row("AddEncoding", "Content encodings by extension", where="any", source="mod_mime"),
    _row("AddLanguage", "Languages by extension", where="any", source="mod_mime"),
    _row("AddOutputFilter", "Filters by extension", where="any", source="mod_mime"),
    _row("RemoveType", "Media types that extensions have no more", where="any", source="mod_mime"),
)  # fmt: skip

# Names from before 2.4 that are still pasted, and what to write today.
REMOVED_IN_2_4 = {
    "acceptmutex": "write Mutex",
    "lockfile": "write Mutex",
    "port": "write Listen",
    "bindaddress": "write Listen",
    "servertype": "leave it out",
    "minspareprocesses": "write MinSpareServers",
    "maxthreadsperchild": "write ThreadsPerChild",
}
