"""Which servers can be measured in the same rounds as ours, what each of them is compared with, and
whether this machine has it.

| --also | as | compared with | pages |
|---|---|---|---|
| httpd | httpd prefork, worker, event | the same MPM | static, cgi, php-fpm; prefork: mod_php |
| nginx | nginx | event | static |

A checkout's benchmarks add Python's servers. A competitor is started with the directives of the MPM of
ours that it is compared with; `reference_servers.py` says which of its settings each directive becomes.
The page is the same file for all, the script the same application.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.measure.experiment import Launch
from mpmkit.measure.phpfpm import MOST_CHILDREN, PhpFpm, find_php_fpm
from mpmkit.measure.reference_servers import Httpd, Nginx, NotInstalled, ServerFailed

SAMPLE_SITE = Path(__file__).resolve().parents[1] / "htdocs"
STATIC = ("static",)


@dataclass(frozen=True)
class Competitor:
    """One server to compare with ours.

    server: its name in tables and records. mpm: prefork, worker or event if it has these, else "".
    stands_for: the MPM of ours that is nearest. kinds: which pages it has. start: starts it.
    """

    server: str
    mpm: str
    stands_for: str
    kinds: tuple[str, ...]
    start: Launch


def ours(way: str, launch: Launch) -> Launch:
    """`launch` for a server of ours that runs programs ("cgi"), or has a php-fpm with a child for each of
    its workers ("php-fpm")."""
    if way == "php-fpm":
        return _with_php_fpm(
            lambda mpm, fpm, **given: launch(
                mpm, document_root=fpm.document_root, directives=fpm.directives(), **given
            )
        )
    # As a directive, not by the samples' own section: then the parent loads what starts programs.
    lines = ("AddHandler cgi-script .cgi",)
    return lambda mpm, **directives: launch(mpm, directives=lines, **directives)


def _with_php_fpm(make: Callable[..., AbstractContextManager[Any]]) -> Launch:
    """``make(mpm, fpm, **directives)`` with a php-fpm that has a child for each worker of the server. Both
    start and end together."""

    def launch(mpm: str, **directives: Any) -> AbstractContextManager[Any]:
        workers = min(MOST_CHILDREN, int(directives.get("MaxRequestWorkers", 400)))
        # Raises NotInstalled at once, as httpd's constructor does, not in the `with` statement.
        fpm = PhpFpm(document_root=SAMPLE_SITE, children=workers)

        @contextlib.contextmanager
        def both() -> Iterator[Any]:
            with fpm, make(mpm, fpm, **directives) as server:
                yield server

        return both()

    return launch


def _httpd_php_fpm(mpm: str, **directives: Any) -> AbstractContextManager[Any]:
    Httpd(mpm, document_root=SAMPLE_SITE, fcgi="proxy:fcgi://localhost")  # is all of it installed?
    start = _with_php_fpm(
        lambda mpm, fpm, **given: Httpd(mpm, document_root=SAMPLE_SITE, fcgi=fpm.handler, **given)
    )
    return start(mpm, **directives)


def php_fpm_missing() -> str:
    """A sentence on what is missing, "" when php-fpm is here."""
    try:
        find_php_fpm()
    except NotInstalled as error:
        return f"without php-fpm: {error}"
    return ""


_httpd = partial(Httpd, document_root=SAMPLE_SITE)

# name -> its forms: (name in tables, the MPMs it can stand for, the nearest first, its pages, start).
# A form is measured once, with the first of its MPMs that was asked for; a way to run a script only if asked for.
FORMS: dict[str, tuple[tuple[str, tuple[str, ...], tuple[str, ...], Launch], ...]] = {
    "httpd": (
        *(("httpd", (mpm,), STATIC, _httpd) for mpm in MPMS),
        *(("httpd", (mpm,), ("cgi",), partial(_httpd, cgi=True)) for mpm in MPMS),
        *(("httpd", (mpm,), ("php-fpm",), _httpd_php_fpm) for mpm in MPMS),
        ("httpd", ("prefork",), ("mod_php",), partial(_httpd, php=True)),
    ),
    "nginx": (
        (
            "nginx",
            ("event", "worker", "prefork"),
            STATIC,
            lambda mpm, **given: Nginx(document_root=SAMPLE_SITE, **given),
        ),
    ),
}


def names() -> tuple[str, ...]:
    """What can be asked for. A checkout's benchmarks add Python's servers to FORMS."""
    return tuple(FORMS)


def of(
    names: Iterable[str], mpms: Iterable[str] = MPMS, kinds: Iterable[str] = ()
) -> list[Competitor]:
    """The servers of these names for these MPMs; installed or not. Raises KeyError for another name.

    `kinds`: with cgi, php-fpm and mod_php among them, httpd's ways to run a script, too."""
    asked, wanted = tuple(mpms), {*STATIC, *kinds}
    found = []
    for name in dict.fromkeys(names):
        for server, nearest, pages, start in FORMS[name]:
            mine = [mpm for mpm in nearest if mpm in asked]
            if mine and wanted.intersection(pages):
                own = mine[0] if server == "httpd" else ""
                found.append(Competitor(server, own, mine[0], pages, start))
    return found


def installed(wanted: Iterable[Competitor]) -> tuple[list[Competitor], list[str]]:
    """Those whose programs are here, and a sentence on each of the others: what it lacks and how
    to get that. Starts none of them."""
    here, missing = [], []
    for one in wanted:
        try:
            one.start(one.stands_for)
        except (NotInstalled, ServerFailed) as error:
            what = "" if "static" in one.kinds else f"'s {one.kinds[0]}"
            missing.append(f"without {one.server}{what}: {error}")
        else:
            here.append(one)
    return here, list(dict.fromkeys(missing))
