"""Twins: the real httpd and ours, started from the same httpd.conf.

    with Twins("event", pages, "KeepAliveTimeout 2") as twins:
        twins.httpd.port, twins.mpmkit.port

Each has a directory of its own, and a copy of the file in it; the copies differ in two lines, the
directory and the port. Everything else is the same text, which is the point.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpmkit.measure.procfs import members
from mpmkit.measure.reference_servers import Rival, find_httpd, load_lines, user_lines

MODULES = (
    "unixd",
    "log_config",
    "authz_core",
    "authz_host",
    "dir",
    "mime",
    "alias",
    "reqtimeout",
    "status",
)

# Pools with a little room to grow and to shrink, for tests that are about something else.
POOLS = {
    "prefork": "StartServers 4\nMinSpareServers 3\nMaxSpareServers 12\nMaxRequestWorkers 16",
    "worker": "StartServers 2\nThreadsPerChild 8\nMinSpareThreads 4\nMaxSpareThreads 40\n"
              "MaxRequestWorkers 32",
    "event": "StartServers 2\nThreadsPerChild 8\nMinSpareThreads 4\nMaxSpareThreads 40\n"
             "MaxRequestWorkers 32",
}  # fmt: skip

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


MPMKIT = [sys.executable, "-m", "mpmkit", "httpd"]  # what is httpd's twin on the command line


def has_httpd_command() -> bool:
    from mpmkit.__main__ import COMMANDS

    return "httpd" in COMMANDS


class Twin(Rival):
    """One of the two."""

    def __init__(self, mpm: str, pages: Path, extra: str = "", pool: str | None = None) -> None:
        super().__init__(document_root=pages)
        self.mpm = mpm
        self.pool = POOLS[mpm] if pool is None else pool
        self.extra = extra

    def _configuration(self) -> str:
        (self.root / "mime.types").write_text("text/html html htm\ntext/plain txt\n")
        return conf_text(self.mpm, self.root, self.port, self._served, self.pool, self.extra)

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


class Original(Twin):
    """The real httpd."""

    name = "httpd"

    def _command(self, file: Path) -> list[str]:
        return [find_httpd(), "-d", str(self.root), "-f", str(file), "-D", "FOREGROUND"]


class Ours(Twin):
    """mpmkit."""

    name = "mpmkit"

    def _command(self, file: Path) -> list[str]:
        if not has_httpd_command():
            return [sys.executable, "-m", "mpmkit", "serve", "-f", str(file)]
        return [*MPMKIT, "-d", str(self.root), "-f", str(file), "-D", "FOREGROUND"]


class Twins:
    """Both, for the length of a `with` block. Raises NotInstalled where there is no httpd."""

    def __init__(
        self, mpm: str, pages: str | os.PathLike[str], extra: str = "", *, pool: str | None = None
    ) -> None:
        self.mpm = mpm
        self.httpd = Original(mpm, Path(pages), extra, pool)
        self.mpmkit = Ours(mpm, Path(pages), extra, pool)

    def __enter__(self) -> Twins:
        try:
            self.httpd.start()
            self.mpmkit.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Twin.stop, (self.httpd, self.mpmkit)))

    def __iter__(self):
        return iter((self.httpd, self.mpmkit))
