"""The servers that can be measured in the same rounds as mpmkit's, and what each is compared with: FORMS.

A checkout's benchmarks add nginx and Python's servers. A competitor is started with the directives of the MPM of
ours that it is compared with. The page is the same file for all, the script the same application.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.measure.experiment import Cell, Launch
from mpmkit.measure.phpfpm import MOST_CHILDREN, PhpFpm
from mpmkit.measure.reference_servers import Httpd

SAMPLE_SITE = Path(__file__).resolve().parents[1] / "htdocs"
STATIC = ("static",)


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
    return partial(launch, directives=("AddHandler cgi-script .cgi",))


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


_httpd = partial(Httpd, document_root=SAMPLE_SITE)


def _httpd_php_fpm(mpm: str, **directives: Any) -> AbstractContextManager[Any]:
    _httpd(mpm, fcgi="proxy:fcgi://localhost")  # is all of it installed?
    start = _with_php_fpm(lambda mpm, fpm, **given: _httpd(mpm, fcgi=fpm.handler, **given))
    return start(mpm, **directives)


# name -> its forms: (name in tables, the MPMs it can stand for, the nearest first, its pages, start).
# A form is measured once, with the first of its MPMs that was asked for; a way to run a script only if asked for.
FORMS: dict[str, tuple[tuple[str, tuple[str, ...], tuple[str, ...], Launch], ...]] = {
    "httpd": (
        *(("httpd", (mpm,), STATIC, _httpd) for mpm in MPMS),
        *(("httpd", (mpm,), ("cgi",), partial(_httpd, cgi=True)) for mpm in MPMS),
        *(("httpd", (mpm,), ("php-fpm",), _httpd_php_fpm) for mpm in MPMS),
        ("httpd", ("prefork",), ("mod_php",), partial(_httpd, php=True)),
    )
}


def of(names: Iterable[str], mpms: Iterable[str] = MPMS, kinds: Iterable[str] = ()) -> list[Cell]:
    """The servers of these names for these MPMs, as cells with all their pages; installed or not. Raises
    KeyError for another name. `kinds`: with cgi, php-fpm and mod_php among them, httpd's ways to run a
    script, too."""
    asked, wanted = tuple(mpms), {*STATIC, *kinds}
    found = []
    for name in dict.fromkeys(names):
        for server, nearest, pages, start in FORMS[name]:
            mine = [mpm for mpm in nearest if mpm in asked]
            if mine and wanted.intersection(pages):
                own = mine[0] if server == "httpd" else ""
                found.append(Cell(1, server, own, parts=pages, stands_for=mine[0], start=start))
    return found
