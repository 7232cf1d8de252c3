"""Which servers can stand beside ours, what each of them stands for, and whether this machine has it.

| --beside | as | stands for | pages |
|---|---|---|---|
| httpd | httpd prefork, worker, event | the same MPM | static, cgi, php-fpm; prefork: mod_php |
| nginx | nginx | event | static |

"Stands for" says whose directives a rival is started with, and which of ours it is compared with;
`reference_servers.py` says which of its settings each directive becomes. The page is the same
file for all, the script the same application.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.measure.phpfpm import MOST_CHILDREN, find_php_fpm, with_php_fpm
from mpmkit.measure.reference_servers import Httpd, Nginx, NotInstalled, ServerFailed

Start = Callable[..., AbstractContextManager[Any]]
"""``start(mpm, **directives)``: a context manager with a `.url`."""

PAGES_OF_OURS = Path(__file__).resolve().parents[1] / "htdocs"
STATIC, BOTH = ("static",), ("static", "script")


@dataclass(frozen=True)
class Contestant:
    """One server beside ours.

    server: its name in tables and records. mpm: prefork, worker or event if it has these, else "".
    stands_for: the MPM of ours that is nearest. kinds: which pages it has. start: starts it.
    """

    server: str
    mpm: str
    stands_for: str
    kinds: tuple[str, ...]
    start: Start


def _httpd(mpm: str, **directives: Any) -> Httpd:
    return Httpd(mpm, document_root=PAGES_OF_OURS, **directives)


def _httpd_cgi(mpm: str, **directives: Any) -> Httpd:
    return Httpd(mpm, document_root=PAGES_OF_OURS, cgi=True, **directives)


def _httpd_mod_php(mpm: str, **directives: Any) -> Httpd:
    return Httpd(mpm, document_root=PAGES_OF_OURS, php=True, **directives)


def _httpd_php_fpm(mpm: str, **directives: Any) -> AbstractContextManager[Any]:
    Httpd(
        mpm, document_root=PAGES_OF_OURS, fcgi="proxy:fcgi://localhost"
    )  # is all of it installed?
    return with_php_fpm(
        lambda fpm: Httpd(mpm, document_root=PAGES_OF_OURS, fcgi=fpm.handler, **directives),
        document_root=PAGES_OF_OURS,
        children=workers(directives),
    )


def ours(way: str, launch: Start) -> Start:
    """`launch` for a server of ours that runs programs ("cgi"), or has a php-fpm beside it with a child
    for each of its workers ("php-fpm")."""
    if way == "cgi":
        # Said, not left to the samples' own section: then the parent loads what starts programs.
        return lambda mpm, **directives: launch(
            mpm, directives=("AddHandler cgi-script .cgi",), **directives
        )

    def start(mpm: str, **directives: Any) -> AbstractContextManager[Any]:
        return with_php_fpm(
            lambda fpm: launch(
                mpm, document_root=fpm.document_root, directives=fpm.directives(), **directives
            ),
            document_root=PAGES_OF_OURS,
            children=workers(directives),
        )

    return start


def workers(directives: Mapping[str, Any]) -> int:
    return min(MOST_CHILDREN, int(directives.get("MaxRequestWorkers", 400)))


def php_fpm_missing() -> str:
    """A sentence on what is missing, "" when php-fpm is here."""
    try:
        find_php_fpm()
    except NotInstalled as error:
        return f"without php-fpm: {error}"
    return ""


def _nginx(mpm: str, **directives: Any) -> Nginx:
    return Nginx(document_root=PAGES_OF_OURS, **directives)


# name -> its forms: (name in tables, the MPMs it can stand for, the nearest first, kinds, start).
# A form is measured once, beside the first of its MPMs that was asked for.
FORMS: dict[str, tuple[tuple[str, tuple[str, ...], tuple[str, ...], Start], ...]] = {
    "nginx": (("nginx", ("event", "worker", "prefork"), STATIC, _nginx),)
}


def names() -> tuple[str, ...]:
    """What can be asked for. A checkout's benchmarks add Python's servers to FORMS."""
    return ("httpd", *FORMS)


# The real httpd's ways to run a script, each with a server of its own.
_HTTPD_SCRIPTS: dict[str, tuple[tuple[str, ...], Start]] = {
    "cgi": (MPMS, _httpd_cgi),
    "php-fpm": (MPMS, _httpd_php_fpm),
    "mod_php": (("prefork",), _httpd_mod_php),
}


def contestants(
    names: Iterable[str], mpms: Iterable[str] = MPMS, kinds: Iterable[str] = ()
) -> list[Contestant]:
    """The servers that stand beside `mpms`; installed or not. Raises KeyError for another name.

    `kinds`: with those of cgi, php-fpm and mod_php among them, httpd's ways to run a script, too."""
    mpms = tuple(mpms)
    found = []
    for name in dict.fromkeys(names):
        if name == "httpd":
            found += [Contestant("httpd", mpm, mpm, STATIC, _httpd) for mpm in mpms]
            found += [
                Contestant("httpd", mpm, mpm, (kind,), start)
                for kind, (own, start) in _HTTPD_SCRIPTS.items()
                if kind in kinds
                for mpm in mpms
                if mpm in own
            ]
            continue
        for server, nearest, kinds, start in FORMS[name]:
            mine = [mpm for mpm in nearest if mpm in mpms]
            if mine:
                found.append(Contestant(server, "", mine[0], kinds, start))
    return found


def installed(wanted: Iterable[Contestant]) -> tuple[list[Contestant], list[str]]:
    """Those whose programs are here, and a sentence on each of the others: what it lacks and how
    to get that. Starts none of them."""
    here, missing = [], []
    for contestant in wanted:
        try:
            contestant.start(contestant.stands_for)
        except (NotInstalled, ServerFailed) as error:
            what = "" if "static" in contestant.kinds else f"'s {contestant.kinds[0]}"
            missing.append(f"without {contestant.server}{what}: {error}")
        else:
            here.append(contestant)
    return here, list(dict.fromkeys(missing))
