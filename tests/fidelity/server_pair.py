"""A pair of servers: the real httpd and ours, started from the same httpd.conf, and asked the same.

    with Pair("event", pages, "KeepAliveTimeout 2") as pair:
        rows.append(pair.row("http", "a case", lambda server: what it does))

Each has a directory of its own, and a copy of the file in it; the copies differ in two lines, the
directory and the port. Everything else is the same text, which is the point.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mpmkit.measure.procfs import members
from mpmkit.measure.reference_servers import ReferenceServer, find_httpd, load_lines, user_lines
from tests.fidelity.cases import Row

T = TypeVar("T")

MODULES = "unixd log_config authz_core authz_host dir mime alias reqtimeout status".split()


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
{user}
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
    return CONF.format(
        root=root,
        port=port,
        pages=pages,
        pool=pool,
        extra=extra,
        loads="\n".join(loads),
        user="\n".join(user_lines()),
    )


MPMKIT = [sys.executable, "-m", "mpmkit", "httpd"]  # what answers to httpd on the command line


class Side(ReferenceServer):
    """One of the two."""

    def __init__(self, mpm: str, pages: Path, extra: str = "", pool: str | None = None) -> None:
        super().__init__(document_root=pages)
        self.mpm = mpm
        self.pool = POOLS[mpm] if pool is None else pool
        self.extra = extra

    def _configuration(self) -> str:
        (self.root / "mime.types").write_text("text/html html htm\ntext/plain txt\n")
        extra = self.extra.replace("@port@", str(self.port))
        return conf_text(self.mpm, self.root, self.port, self._served, self.pool, extra)

    @property
    def conf(self) -> Path:
        return self.root / "server.conf"

    def children(self) -> list[int]:
        """The pids of its children, from /proc."""
        return [pid for pid in members(self.pid) if pid != self.pid]

    def log(self) -> str:
        """Everything it has written to its error log, and to the terminal before."""
        texts = []
        for name in ("console", "error_log"):
            with contextlib.suppress(OSError):
                texts.append((self.root / name).read_text(errors="replace"))
        return "".join(texts)

    def access_lines(self) -> list[str]:
        with contextlib.suppress(OSError):
            return (self.root / "access_log").read_text(errors="replace").splitlines()
        return []

    def auto(self) -> dict[str, str]:
        """`?auto` as a dict, keys in their order."""
        with urllib.request.urlopen(f"{self.url}/server-status?auto", timeout=10) as reply:
            lines = reply.read().decode("latin-1").splitlines()
        return {key: value for key, _, value in (line.partition(":") for line in lines[1:])}

    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process is not None else None

    def _is_ready(self) -> bool:
        if "resuming normal operations" in self.log():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
        return False


class Original(Side):
    """The real httpd."""

    name = "httpd"

    def _command(self, file: Path) -> list[str]:
        return [find_httpd(), "-d", str(self.root), "-f", str(file), "-D", "FOREGROUND"]


class Ours(Side):
    """mpmkit."""

    name = "mpmkit"

    def _command(self, file: Path) -> list[str]:
        return [*MPMKIT, "-d", str(self.root), "-f", str(file), "-D", "FOREGROUND"]


class Pair:
    """Both, for the length of a `with` block. Raises NotInstalled where there is no httpd."""

    def __init__(
        self, mpm: str, pages: str | os.PathLike[str], extra: str = "", *, pool: str | None = None
    ) -> None:
        self.sides: tuple[Side, Side] = (
            Original(mpm, Path(pages), extra, pool),
            Ours(mpm, Path(pages), extra, pool),
        )

    def __enter__(self) -> Pair:
        try:
            for side in self.sides:
                side.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.both(Side.stop)

    def both(self, what: Callable[[Side], T]) -> list[T]:
        """What httpd and what ours does, asked at the same time."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(what, self.sides))

    def row(self, area: str, case: str, what: Callable[[Side], object]) -> Row:
        """The line of the comparison for one case: httpd is asked first, then ours."""
        return Row(area, case, *(str(what(side)) for side in self.sides))
