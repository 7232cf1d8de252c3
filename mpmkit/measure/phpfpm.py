"""A php-fpm of one's own: on a Unix socket in a temporary directory.

    with PhpFpm(children=25) as fpm:
        mpmkit.launch("event", directives=fpm.directives())      SetHandler "proxy:unix:…|fcgi://localhost"

`pm = static` with as many children as the server has workers: each of them can hold a connection. It runs as
www-data when root starts it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import socket
from pathlib import Path

from mpmkit.measure.process_group import ProcessGroup, find_program, output, unprivileged_user

URL = "fcgi://localhost"
MOST_CHILDREN = 512  # processes; each takes some MB


def find_php_fpm() -> str:
    """The newest php-fpm here: Debian's carry a version in their name. Raises NotInstalled."""
    found = [Path(path).name for path in glob.glob("/usr/sbin/php-fpm[0-9]*")]
    found += [Path(path).name for path in glob.glob("/usr/local/sbin/php-fpm[0-9]*")]
    found.sort(key=lambda name: [int(part) for part in re.findall(r"\d+", name)], reverse=True)
    how = "apt install php-fpm, or: conda install -c conda-forge php"
    return find_program((*found, "php-fpm"), "php-fpm", how)


class PhpFpm(ProcessGroup):
    """php-fpm with `children` workers, for the length of a `with` block.

    Attributes once started: `socket` (its path), `pid`, `root` (its directory), `document_root`: the
    one that was given, or a copy of it where its children, another user's, may not read it.
    Raises NotInstalled where it is missing, ValueError for a number of children that makes no sense.
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
        self.document_root = self._given = Path(document_root) if document_root else None
        self._binary = find_php_fpm()

    @property
    def version(self) -> str:
        """As it reports it: `PHP 8.2.36`."""
        return " ".join(output(self._binary, "-v").split()[:2]) or "unknown"

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

    def _prepare(self) -> list[str]:
        if self._given is not None:
            self.document_root = self._readable(self._given.resolve())
        file = self.root / "fpm.conf"
        file.write_text(self._configuration())
        # -n: the machine's php.ini and its extensions would differ from place to place
        return [self._binary, "-n", "-F", "-y", str(file), "-p", str(self.root)]

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
