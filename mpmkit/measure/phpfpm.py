"""A php-fpm of one's own, beside the machine's: on a unix socket in a temporary directory.

    with PhpFpm(children=25) as fpm:
        mpmkit.launch("event", directives=fpm.directives())      SetHandler "proxy:unix:…|fcgi://localhost"

`pm = static` with as many children as the server has workers, so that each of them can hold a
connection. It runs as an unprivileged process tree (as www-data when root starts it) and ends with
whoever launched it, however that ends. No service of the machine is touched.
"""

from __future__ import annotations

import contextlib
import glob
import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mpmkit.measure.reference_servers import (
    NotInstalled,
    ProcessGroup,
    RivalFailed,
    find_program,
    unprivileged_user,
)

URL = "fcgi://localhost"
MOST_CHILDREN = 512  # processes; each takes some MB


def find_php_fpm() -> str:
    """The newest php-fpm here: Debian's carry a version in their name. Raises NotInstalled."""
    names = [
        Path(path).name
        for place in ("/usr/sbin", "/usr/local/sbin")
        for path in glob.glob(f"{place}/php-fpm[0-9]*")
    ]
    newest = sorted(names, key=lambda name: [int(n) for n in name[7:].split(".") if n.isdigit()])
    return find_program(
        (*reversed(newest), "php-fpm"),
        "php-fpm",
        "apt install php-fpm, or: conda install -c conda-forge php",
    )


class PhpFpm(ProcessGroup):
    """php-fpm with `children` workers, for the length of a `with` block.

    Attributes once started: `socket` (its path), `pid`, `root` (its directory), `document_root`: the
    one that was given, or a copy of it where its children, another user's, may not read it.
    Raises NotInstalled if there is none, ValueError for a number of children that makes no sense.
    """

    name = "php-fpm"
    stop_within = 5.0

    def __init__(
        self, *, children: int = 5, document_root: str | os.PathLike[str] | None = None
    ) -> None:
        if not 1 <= children <= MOST_CHILDREN:
            raise ValueError(f"children: must be from 1 to {MOST_CHILDREN}, not {children}")
        super().__init__()
        self.children = children
        self.document_root = Path(document_root) if document_root is not None else None
        self._asked_root = self.document_root
        self._binary = find_php_fpm()

    @property
    def version(self) -> str:
        """As it tells: `PHP 8.2.36`."""
        told = subprocess.run([self._binary, "-v"], capture_output=True, text=True).stdout
        return " ".join(told.split()[:2]) or "unknown"

    @property
    def socket(self) -> Path:
        return self.root / "fpm.sock"

    @property
    def handler(self) -> str:
        """What SetHandler takes."""
        return f"proxy:unix:{self.socket}|{URL}"

    def directives(self) -> tuple[str, ...]:
        """Directive lines that have it run every .php file."""
        return (
            f'AddHandler "{self.handler}" .php',
            f"ProxySet {URL} enablereuse=on",  # there is a child for each of the server's workers
        )

    def start(self) -> PhpFpm:
        """Start, and return once it accepts. Raises RivalFailed with what it said."""
        self._make_root()
        try:
            if self._asked_root is not None:
                self.document_root = self._readable(self._asked_root.resolve())
            file = self.root / "fpm.conf"
            file.write_text(self._configuration())
            # -n: the machine's php.ini and its extensions would differ from place to place
            self._spawn([self._binary, "-n", "-F", "-y", str(file), "-p", str(self.root)])
        except BaseException:
            self.stop()
            raise
        return self

    def _configuration(self) -> str:
        who = ""
        if os.geteuid() == 0:
            user, group = unprivileged_user()
            os.chown(self.root, -1, 0)
            who = f"user = {user}\ngroup = {group}\nlisten.mode = 0666\n"
        return f"""\
[global]
error_log = {self.root}/error_log
log_level = warning
daemonize = no
[lab]
listen = {self.socket}
listen.backlog = 511
{who}pm = static
pm.max_children = {self.children}
catch_workers_output = yes
decorate_workers_output = no
"""

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(self.socket))
            return True
        return False

    def __enter__(self) -> PhpFpm:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<php-fpm {f'pid {self.pid} at {self.socket}' if self._process else 'stopped'}>"


class WithPhpFpm:
    """A server and a php-fpm for it: `make(fpm)` gives the server's context manager. Both start and end
    together; the `with` block has the server. Raises NotInstalled when there is no php-fpm."""

    def __init__(
        self,
        make: Callable[[PhpFpm], AbstractContextManager[Any]],
        *,
        children: int,
        document_root: str | os.PathLike[str],
    ) -> None:
        self._make = make
        self._fpm = PhpFpm(children=children, document_root=document_root)
        self._server: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Any:
        self._fpm.start()
        try:
            self._server = self._make(self._fpm)
            return self._server.__enter__()
        except BaseException:
            self._fpm.stop()
            raise

    def __exit__(self, *exc: Any) -> None:
        try:
            assert self._server is not None
            self._server.__exit__(*exc)
        finally:
            self._fpm.stop()


__all__ = ["NotInstalled", "PhpFpm", "RivalFailed", "WithPhpFpm", "find_php_fpm"]
