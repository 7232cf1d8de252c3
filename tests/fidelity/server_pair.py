"""A pair of servers: the real httpd and ours, started from the same httpd.conf, and asked the same.

    with Pair("event", pages, "KeepAliveTimeout 2") as pair:
        rows = pair.rows("http", [("a case", lambda server: what it does), ...])

Each has a directory of its own, and a copy of the file in it; the copies differ in two lines, the
directory and the port. Everything else is the same text, which is the point.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mpmkit.measure.procfs import members
from mpmkit.measure.reference_servers import ReferenceServer, find_httpd, load_lines, user_lines
from tests.fidelity.cases import Row

T = TypeVar("T")
Case = tuple[str, Callable[["Side"], object]]  # a name, and what is done to each server

MPMKIT = [sys.executable, "-m", "mpmkit", "httpd"]  # what answers to httpd on the command line
MODULES = "unixd log_config logio authz_core authz_host dir mime alias reqtimeout status".split()


def pools(prefork: str, threaded: str) -> dict[str, str]:
    """MPM -> directives of its pool, written as `Name value, Name value`."""
    lines = {"prefork": prefork, "worker": threaded, "event": threaded}
    return {mpm: text.replace(", ", "\n") for mpm, text in lines.items()}


# Pools with a little room to grow and to shrink, for tests that are about something else.
POOLS = pools(
    "StartServers 4, MinSpareServers 3, MaxSpareServers 12, MaxRequestWorkers 16",
    "StartServers 2, ThreadsPerChild 8, MinSpareThreads 4, MaxSpareThreads 40, MaxRequestWorkers 32",
)

CONF = """\
ServerRoot "{root}"
Listen 127.0.0.1:{port}
{loads}
DefaultRuntimeDir .
PidFile pid
ServerName lab.example
ErrorLog error_log
LogLevel info
LogFormat "%P %>s %X %k" lab
CustomLog access_log lab
TypesConfig mime.types
DocumentRoot "{pages}"
DirectoryIndex index.html
<Directory "{pages}">
    Require all granted
</Directory>
<Location "/server-status">
    SetHandler server-status
</Location>
{pool}
{extra}
"""


def conf_text(
    mpm: str, root: Path, port: int, pages: Path, pool: str, extra: str, modules: Iterable[str] = ()
) -> str:
    """The file that both are started with."""
    loads = load_lines(find_httpd(), (f"mpm_{mpm}", *MODULES, *modules))
    text = CONF.format(
        root=root, port=port, pages=pages, pool=pool, extra=extra, loads="\n".join((*loads, *user_lines())),
    )  # fmt: skip
    return text.replace("@port@", str(port))


class Side(ReferenceServer):
    """One of the two: `program` is httpd or ours."""

    def __init__(
        self, program: Sequence[str], mpm: str, pages: Path, extra: str, pool: str | None,
        modules: Iterable[str],
    ) -> None:  # fmt: skip
        super().__init__(document_root=pages)
        self.name = "mpmkit" if program is MPMKIT else "httpd"
        self.program, self.mpm, self.extra, self.modules = list(program), mpm, extra, modules
        self.pool = POOLS[mpm] if pool is None else pool
        self.clients: list[socket.socket] = []  # closed before it is stopped

    def _configuration(self) -> str:
        (self.root / "mime.types").write_text("text/html html htm\ntext/plain txt\n")
        return conf_text(
            self.mpm, self.root, self.port, self.document_root, self.pool, self.extra, self.modules
        )

    def _command(self, file: Path) -> list[str]:
        return [*self.program, "-d", str(self.root), "-f", str(file), "-D", "FOREGROUND"]

    def _is_ready(self) -> bool:
        return "resuming normal operations" in self.log() and super()._is_ready()

    @property
    def conf(self) -> Path:
        return self.root / "server.conf"

    def children(self) -> list[int]:
        """The pids of its children, from /proc."""
        return [pid for pid in members(self.pid) if pid != self.pid]

    def log(self) -> str:
        """Everything it has written to its error log, and to the terminal before."""
        return self._text("console") + self._text("error_log")

    def access_lines(self) -> list[str]:
        return self.lines("access_log")

    def lines(self, log: str) -> list[str]:
        """Of one of its logs."""
        return self._text(log).splitlines()

    def _text(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self.root / name).read_text(errors="replace")
        return ""

    def auto(self) -> dict[str, str]:
        """`?auto` as a dict, keys in their order."""
        with urllib.request.urlopen(f"{self.url}/server-status?auto", timeout=10) as reply:
            lines = reply.read().decode("latin-1").splitlines()
        return {key: value for key, _, value in (line.partition(":") for line in lines[1:])}

    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process is not None else None


class Pair:
    """Both, for the length of a `with` block. Raises NotInstalled where there is no httpd."""

    def __init__(
        self, mpm: str, pages: str | os.PathLike[str], extra: str = "", *,
        pool: str | None = None, modules: Iterable[str] = (),
    ) -> None:  # fmt: skip
        common = mpm, Path(pages), extra, pool, tuple(modules)
        self.sides = (Side([find_httpd()], *common), Side(MPMKIT, *common))

    def __enter__(self) -> Pair:
        try:
            for side in self.sides:
                side.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for side in self.sides:
            for client in side.clients:
                client.close()
        self.both(Side.stop)

    def both(self, what: Callable[[Side], T]) -> list[T]:
        """What httpd and what ours does, asked at the same time."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(what, self.sides))

    def rows(self, area: str, cases: Iterable[Case], at_once: int = 4) -> list[Row]:
        """A line of the comparison for each case: httpd is asked first, then ours."""

        def row(case: Case) -> Row:
            name, what = case
            return Row(area, name, *(str(what(side)) for side in self.sides))

        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(row, cases))
