"""The servers that can be measured in the same rounds as mpmkit's, what each is compared with, and php-fpm.

    with PhpFpm(children=25) as fpm:
        mpmkit.launch("event", directives=fpm.directives())      AddHandler "proxy:unix:…|fcgi://localhost" .php

A checkout's benchmarks add nginx and Python's servers. A competitor is started with the directives of the MPM of
ours that it is compared with. The page is the same file for all, the script the same application.
"""

import contextlib
import glob
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.measure.experiment import Cell, Launch
from mpmkit.measure.reference_servers import Httpd, ReferenceServer, find_program, unprivileged_user

SAMPLE_SITE = Path(__file__).resolve().parents[1] / "htdocs"
STATIC = ("static",)
URL = "fcgi://localhost"
MOST_CHILDREN = 512  # processes of php-fpm; each takes some MB


def find_php_fpm() -> str:
    """The newest php-fpm here: Debian's carry a version in their name. Raises NotInstalled."""
    places = glob.glob("/usr/sbin/php-fpm[0-9]*") + glob.glob("/usr/local/sbin/php-fpm[0-9]*")
    found = sorted((Path(path).name for path in places), reverse=True)
    how = "apt install php-fpm, or: conda install -c conda-forge php"
    return find_program((*found, "php-fpm"), "php-fpm", how)


class PhpFpm(ReferenceServer):
    """php-fpm with `children` workers (`pm = static`: each of the server's workers can hold one), for the length
    of a `with` block. how: what `ReferenceServer` takes. `address`: the path of its socket. Raises NotInstalled
    where it is missing, ValueError for a bad number of children."""

    name = "php-fpm"
    stop_within = 5.0

    def __init__(self, *, children: int = 5, **how: Any) -> None:
        if not 1 <= children <= MOST_CHILDREN:
            raise ValueError(f"children: must be from 1 to {MOST_CHILDREN}, not {children}")
        super().__init__(**how)
        self.children = children
        self._binary = find_php_fpm()

    @property
    def address(self) -> str:
        return str(self.root / "fpm.sock")

    @property
    def handler(self) -> str:
        """What SetHandler takes."""
        return f"proxy:unix:{self.address}|{URL}"

    def directives(self) -> tuple[str, ...]:
        """Directive lines that have it run every .php file."""
        # Reused, as there is a child for each of the server's workers.
        return f'AddHandler "{self.handler}" .php', f"ProxySet {URL} enablereuse=on"

    def _command(self, file: Path) -> list[str]:
        # -n: the machine's php.ini and its extensions would differ from place to place
        return [self._binary, "-n", "-F", "-y", str(file), "-p", str(self.root)]

    def _configuration(self) -> str:
        user = unprivileged_user()
        who = f"user = {user[0]}\ngroup = {user[1]}\nlisten.mode = 0666\n" if user else ""
        return f"""\
[global]
pid = {self.root}/pid
error_log = {self.root}/error_log
log_level = warning
daemonize = no
[lab]
listen = {self.address}
listen.backlog = 511
{who}pm = static
pm.max_children = {self.children}
catch_workers_output = yes
decorate_workers_output = no
"""


@contextlib.contextmanager
def _with(fpm: PhpFpm, make: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    with fpm, make() as server:
        yield server


def _fpm_for(directives: dict[str, Any]) -> PhpFpm:
    """With a child for each of the server's workers. Raises NotInstalled at once, not in a `with` statement."""
    workers = min(MOST_CHILDREN, int(directives.get("MaxRequestWorkers", 400)))
    return PhpFpm(document_root=SAMPLE_SITE, children=workers)


def ours(way: str, launch: Launch) -> Launch:
    """`launch` for a server of ours that runs programs ("cgi"), or starts and ends with a php-fpm ("php-fpm")."""
    # As a directive, not by the samples' own section: then the parent loads what starts programs.
    if way != "php-fpm":
        return partial(launch, directives=("AddHandler cgi-script .cgi",))

    def start(mpm: str, **given: Any) -> AbstractContextManager[Any]:
        fpm = _fpm_for(given)
        return _with(fpm, lambda: launch(
            mpm, document_root=fpm.document_root, directives=fpm.directives(), **given
        ))  # fmt: skip

    return start


_httpd = partial(Httpd, document_root=SAMPLE_SITE)


def _httpd_php_fpm(mpm: str, **given: Any) -> AbstractContextManager[Any]:
    _httpd(mpm, fcgi="proxy:fcgi://localhost")  # is all of it installed?
    fpm = _fpm_for(given)
    return _with(fpm, lambda: _httpd(mpm, fcgi=fpm.handler, **given))


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
