"""The reference server for mpmkit's: the real httpd with the same MPM.

    with Httpd("event", document_root=pages, ThreadsPerChild=25, MaxRequestWorkers=400) as httpd:
        measure(httpd.url)

Directives are Apache's own, spelled as `mpmkit.launch` takes them, so one dictionary starts both sides.

To be comparable, httpd loads only modules whose work mpmkit's servers do, too, and writes an
access log in the same format with the same buffering.
"""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mpmkit.config.directives import MPMS
from mpmkit.config.keywords import from_keywords
from mpmkit.measure.process_group import NotInstalled as NotInstalled
from mpmkit.measure.process_group import ProcessGroup, free_port, output, unprivileged_user
from mpmkit.measure.process_group import ServerFailed as ServerFailed
from mpmkit.measure.process_group import find_program as find_program

# Where httpd keeps its modules: Debian and Ubuntu, Fedora, Arch and Alpine, a build from source.
MODULE_DIRECTORIES = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
    "/usr/local/apache2/modules",
)
# unixd is httpd's own change of user; the rest is what our servers do as well. mod_reqtimeout
# belongs to it: its checks are on the path of every request, as ours are.
MODULES = ("unixd", "log_config", "authz_core", "dir", "mime", "reqtimeout")
LOG_FORMAT = r'"%h %l %u %t \"%r\" %>s %b"'
NEWLINE = "\n"


class ReferenceServer(ProcessGroup):
    """A server of another make, for the length of a `with` block. Attributes once started: `name` ("httpd
    event"), `version`, `url` without a trailing slash, `port`, `pid` of its control process, `root` (its
    directory: configuration and logs)."""

    name = "server"

    def __init__(
        self,
        *,
        document_root: str | os.PathLike[str],
        access_log: bool = True,
        buffered_logs: bool = False,
        **directives: Any,
    ) -> None:
        super().__init__(document_root)
        self.access_log = access_log
        self.buffered_logs = buffered_logs
        self.directives = directives
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def _spawn(self) -> None:
        self.port = free_port()
        super()._spawn()


class Httpd(ReferenceServer):
    """The real Apache httpd with one MPM.

    `given` are directives, as `mpmkit.launch` takes them, and what `ReferenceServer` takes. With `php`
    the machine's mod_php runs `*.php` in process (prefork only, as mod_php demands); with `fcgi`, a
    SetHandler's `proxy:…`, php-fpm does. With `cgi`, `*.cgi` are programs (mod_cgi under prefork, else
    mod_cgid, as Debian has it). `modules` come on top of the basic ones, by short name
    (`modules=["status"]`). `buffered_logs` is httpd's BufferedLogs; `extra` is text for the end of its
    configuration. Raises NotInstalled if httpd, the MPM or a module is missing, ValueError for an
    unknown MPM or directive.
    """

    def __init__(
        self,
        mpm: str,
        *,
        php: bool = False,
        fcgi: str = "",
        cgi: bool = False,
        modules: Iterable[str] = (),
        extra: str = "",
        **given: Any,
    ) -> None:
        super().__init__(**given)
        if mpm not in MPMS:
            raise ValueError(f"no MPM {mpm!r}; choose prefork, worker or event")
        if php and mpm != "prefork":
            raise ValueError("mod_php runs under prefork only; use php-fpm with worker and event")
        self.mpm = mpm
        self.name = f"httpd {mpm}" + (" php" if php else "")
        self._binary = find_httpd()
        if fcgi:
            modules = (*modules, "proxy", "proxy_fcgi")
            extra = f'<Proxy "{fcgi.rpartition("|")[2]}" enablereuse=on>\n</Proxy>\n{extra}'
        if handler := "application/x-httpd-php" if php else fcgi:
            extra = f'<FilesMatch "\\.php$">\nSetHandler "{handler}"\n</FilesMatch>\n{extra}'
        if cgi:
            modules = (*modules, "cgi" if mpm == "prefork" else "cgid")
            socket_line = "" if mpm == "prefork" else 'ScriptSock "cgisock"\n'
            extra = f"AddHandler cgi-script .cgi\n{socket_line}{extra}"
        self.extra, self._settings = extra, from_keywords(None, **self.directives)
        self._options = "Options +ExecCGI" if cgi else ""
        self._loads = load_lines(self._binary, (f"mpm_{mpm}", *MODULES, *modules))
        if php:
            files = glob.glob(f"{module_directory(self._binary)}/libphp*.so")
            if not files:
                raise NotInstalled("mod_php", "apt install libapache2-mod-php")
            self._loads.append(f'LoadModule php_module "{max(files)}"')  # the newest

    @property
    def version(self) -> str:
        """As it reports it: `Apache/2.4.62 (Debian)`."""
        found = re.search(r"Server version: (.+)", output(self._binary, "-v"))
        return found[1].strip() if found else "unknown"

    def _command(self, file: Path) -> list[str]:
        return [self._binary, "-d", str(self.root), "-f", str(file), "-D", "FOREGROUND"]

    def _configuration(self) -> str:
        (self.root / "mime.types").write_text("text/html html htm\ntext/plain txt\n")
        log = [f"LogFormat {LOG_FORMAT} common", 'CustomLog "access_log" common']
        log += ["BufferedLogs On"] * self.buffered_logs
        # Without AllowOverride None, which is in every distribution's file, httpd looks for a .htaccess
        # in each directory from / downwards, at every request, which ours never does.
        return f"""\
ServerRoot "{self.root}"
DefaultRuntimeDir "{self.root}"
PidFile "pid"
Listen 127.0.0.1:{self.port}
ServerName 127.0.0.1
{NEWLINE.join((*self._loads, *user_lines()))}
ErrorLog "error_log"
LogLevel warn
TypesConfig "mime.types"
DocumentRoot "{self._served}"
DirectoryIndex index.html
<Directory />
    AllowOverride None
</Directory>
<Directory "{self._served}">
    Require all granted
    {self._options}
</Directory>
{NEWLINE.join(log if self.access_log else ())}
{NEWLINE.join(f"{one.name} {' '.join(one.args)}" for one in self._settings)}
{self.extra}"""


def find_httpd() -> str:
    """Path of httpd, called apache2 on Debian. Raises NotInstalled."""
    how = "apt install apache2-bin, or dnf install httpd"
    return find_program(("apache2", "httpd"), "Apache httpd (apache2 or httpd)", how)


def module_directory(binary: str) -> Path:
    """Where this httpd's modules lie: under the root it was built with, or a known place. Raises NotInstalled."""
    built = re.search(r'HTTPD_ROOT="([^"]+)"', output(binary, "-V"))
    places = [f"{built[1]}/modules"] if built else []
    for place in (*places, *MODULE_DIRECTORIES):
        if glob.glob(f"{place}/mod_*.so"):
            return Path(place)
    raise NotInstalled("the modules of Apache httpd", "apt install apache2-bin")


def load_lines(binary: str, modules: Iterable[str]) -> list[str]:
    """LoadModule lines for those short names that are not compiled in. Raises NotInstalled for a missing one."""
    static = set(re.findall(r"(?:mod_)?(\w+)\.c", output(binary, "-l")))
    lines = []
    for name in dict.fromkeys(modules):
        # An MPM compiled in is listed by its own name (prefork.c), and no other can be loaded.
        if name in static or name.removeprefix("mpm_") in static:
            continue
        file = module_directory(binary) / f"mod_{name}.so"
        if not file.exists():
            how = "apt install apache2-bin, or build httpd with --enable-mpms-shared=all"
            raise NotInstalled(f"httpd's module {name}", f"it should be {file}: {how}")
        lines.append(f'LoadModule {name}_module "{file}"')
    return lines


def user_lines() -> list[str]:
    """httpd refuses to serve as root; without root it must not try to change user."""
    who = unprivileged_user()
    return [f"User {who[0]}", f"Group {who[1]}"] if who else []
