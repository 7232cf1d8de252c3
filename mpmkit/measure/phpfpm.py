"""A private php-fpm, on a Unix socket in a temporary directory.

    with PhpFpm(children=25) as fpm:
        mpmkit.launch("event", directives=fpm.directives())      SetHandler "proxy:unix:…|fcgi://localhost"

`pm = static` with as many children as the server has workers: each of them can hold a connection. It runs as
www-data when root starts it.
"""

import glob
from pathlib import Path
from typing import Any

from mpmkit.measure.reference_servers import ReferenceServer, find_program, unprivileged_user

URL = "fcgi://localhost"
MOST_CHILDREN = 512  # processes; each takes some MB


def find_php_fpm() -> str:
    """The newest php-fpm here: Debian's carry a version in their name. Raises NotInstalled."""
    places = glob.glob("/usr/sbin/php-fpm[0-9]*") + glob.glob("/usr/local/sbin/php-fpm[0-9]*")
    found = sorted((Path(path).name for path in places), reverse=True)
    how = "apt install php-fpm, or: conda install -c conda-forge php"
    return find_program((*found, "php-fpm"), "php-fpm", how)


class PhpFpm(ReferenceServer):
    """php-fpm with `children` workers, for the length of a `with` block.

    how: what `ReferenceServer` takes. `address` is the path of its socket. Raises NotInstalled where it is
    missing, ValueError for a number of children that makes no sense.
    """

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
