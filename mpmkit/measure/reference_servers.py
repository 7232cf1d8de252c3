"""Servers of another make next to mpmkit's, and the reference: the real httpd with the same MPM.

    with Httpd("event", document_root=pages, ThreadsPerChild=25, MaxRequestWorkers=400) as httpd:
        measure(httpd.url)

Each is an installed program in its own directory and process group, and ends with the process that started it,
however that ends. It needs no root and uses no configuration, port, log or pid file of the machine's services.
Directives are Apache's own, spelled as `mpmkit.launch` takes them.

To be comparable, httpd loads only modules whose work mpmkit's servers do, too, and writes an access log in the
same format with the same buffering.
"""

import glob
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from mpmkit.config.directives import MPMS
from mpmkit.config.keywords import from_keywords
from mpmkit.measure.procfs import members, text_of

READY_WITHIN = 10.0  # seconds from start to the first accepted connection
GONE_WITHIN = 10.0  # seconds from KILL until no process is left
PORT_TRIES = 3  # another process may take the free port between our look and the program's bind
# A shell that ends the process group it is given when this process dies, however: only we hold the pipe.
GUARD = "exec >/dev/null 2>&1; read pid; read _; kill -TERM -$pid && sleep 3 && kill -KILL -$pid"
# Where httpd keeps its modules: Debian and Ubuntu, Fedora, Arch and Alpine, a build from source.
MODULE_PLACES = ("lib/apache2", "lib64/httpd", "lib/httpd", "local/apache2")
# unixd is httpd's own change of user; the rest is what our servers do as well.
MODULES = ("unixd", "log_config", "authz_core", "dir", "mime", "reqtimeout")


class NotInstalled(RuntimeError):
    """A program or module that this machine lacks; the message names it and how to get it."""

    def __init__(self, program: str, how: str) -> None:
        super().__init__(f"{program} is not installed; {how}")


class ServerFailed(RuntimeError):
    """A server that is installed but did not start or end; the message ends with its own words."""


class ReferenceServer:
    """A server of another make, for the length of a `with` block. `given` are its directives. Attributes once
    started: `pid` of its first process, `root` (its directory: configuration, pid, logs), `port`, `url` without
    a trailing slash, `document_root`: the one that was given, or a copy that its children may read. A program
    defines `name` ("httpd event"), `version`, `_command`, its command line with the configuration `file`, and
    `_configuration`, what that holds; `address` that it listens at (a path, or host and port); `_environment`,
    None for our own."""

    name = "server"
    config_name = "server.conf"
    stop_within = 12.0  # seconds from TERM to KILL; httpd itself gives its children 10

    def __init__(
        self, *, document_root: str | os.PathLike[str] | None = None, access_log: bool = True,
        buffered_logs: bool = False, **given: Any,
    ) -> None:  # fmt: skip
        self.access_log, self.buffered_logs, self.given = access_log, buffered_logs, given
        self.pid = self.port = 0
        self.root = self.document_root = Path()
        self._asked_for = Path(document_root).resolve() if document_root else None
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()  # what lasts as long as it runs

    @property
    def address(self) -> str | tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _command(self, file: Path) -> list[str]:
        raise NotImplementedError

    def _configuration(self) -> str:
        return ""

    def _environment(self) -> dict[str, str] | None:
        return None

    def _is_ready(self) -> bool:
        """Whether *this* program, not another that took its place, accepts connections now."""
        # The pid file says that it has the address: programs write it after the bind.
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        with suppress(OSError), socket.socket(family) as probe:
            if (self.root / "pid").stat().st_size:
                probe.settimeout(1)
                probe.connect(self.address)
                return True
        return False

    def start(self) -> Self:
        """Start and return once a connection is accepted. Raises ServerFailed with the tail of its error log if
        that takes more than 10 s, FileNotFoundError if there is no such document root."""
        if self._process is not None:
            raise ServerFailed(f"{self.name} is already running; stop it first")
        if self._asked_for is not None and not self._asked_for.is_dir():
            raise FileNotFoundError(f"no document root {self._asked_for}")
        for left in reversed(range(PORT_TRIES)):
            try:
                with ExitStack() as held:
                    self._spawn(held)
                    self._held = held.pop_all()
                break
            except ServerFailed as error:
                if not left or "in use" not in str(error):
                    raise
        return self

    def _spawn(self, held: ExitStack) -> None:
        """Run it in a directory of its own and wait until it is ready; `held` ends it, and removes that. Raises
        ServerFailed with its words."""
        prefix = f"mpmkit-{self.name.replace(' ', '-')}-"
        place = TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        self.root, self.port = Path(held.enter_context(place)), free_port()
        self.root.chmod(0o755)  # children under another user read what lies there
        if self._asked_for is not None:
            self.document_root = self._readable(self._asked_for)
        file = self.root / self.config_name
        file.write_text(self._configuration())
        shell: Any = {"stdin": subprocess.PIPE, "bufsize": 0, "start_new_session": True}
        guard: Any = held.enter_context(subprocess.Popen(["/bin/sh", "-c", GUARD], **shell))
        held.callback(guard.kill)  # before its pipe closes, so that it does nothing
        with open(self.root / "console", "wb") as console:
            pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": console, "stderr": console}
            how: Any = {"cwd": self.root, "env": self._environment(), "start_new_session": True}
            process = self._process = subprocess.Popen(self._command(file), **pipes, **how)
        held.callback(self._end, process)
        self.pid = process.pid
        guard.stdin.write(b"%d\n" % self.pid)
        deadline = time.monotonic() + READY_WITHIN
        while (status := process.poll()) is None and time.monotonic() < deadline:
            if self._is_ready():
                return
            time.sleep(0.01)
        late = f"did not answer within {READY_WITHIN:g} s"
        why = late if status is None else f"ended with status {status}"
        raise ServerFailed(f"{self.name} {why}: {self.error_log()}")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """TERM, then KILL for all of its group that is left."""
        self._process = None
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.stop_within)
        process.kill()
        process.wait()
        deadline = time.monotonic() + GONE_WITHIN
        while left := members(process.pid):
            if time.monotonic() > deadline:
                raise ServerFailed(f"processes {left} outlive SIGKILL")
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.01)

    def stop(self) -> None:
        """TERM, then KILL after `stop_within` seconds; returns when no process of it is left. Twice does
        nothing. Raises ServerFailed if a process outlives KILL."""
        self._held.close()
        self.root = Path()

    __enter__ = start

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def processes(self) -> list[int]:
        """The pids of all its processes, the first one first."""
        return members(self.pid)

    def error_log(self, lines: int = 5) -> str:
        """The last lines of what it printed and logged; its own words."""
        texts = [text_of(self.root / name) for name in ("console", "error_log")]
        said = [line for text in texts for line in text.splitlines()]
        return "\n".join(said[-lines:]) or "(it said nothing)"

    def _readable(self, root: Path) -> Path:
        """The document root, or, where the children of root's server are of a user who may not enter it, a copy
        of it that they may read."""
        path = (root, *root.parents)
        if os.geteuid() != 0 or all(place.stat().st_mode & 0o001 for place in path):
            return root
        copy = self.root / "document_root"
        shutil.copytree(root, copy)
        for place in (copy, *copy.rglob("*")):
            runs = place.is_dir() or place.stat().st_mode & 0o100
            place.chmod(0o755 if runs else 0o644)
        return copy


class Httpd(ReferenceServer):
    """The real Apache httpd with one MPM. `given` are directives, as `mpmkit.launch` takes them, and what
    `ReferenceServer` takes. With `php` the machine's mod_php runs `*.php` in process (prefork only, as mod_php
    demands); with `fcgi`, a SetHandler's `proxy:…`, php-fpm does. With `cgi`, `*.cgi` are programs (mod_cgi
    under prefork, else mod_cgid, as Debian has it). `modules` come on top of the basic ones, by short name:
    `modules=["status"]`. `extra` ends its configuration. Raises NotInstalled if httpd, the MPM or a module is
    missing, ValueError for an unknown MPM or directive."""

    def __init__(
        self, mpm: str, *, php: bool = False, fcgi: str = "", cgi: bool = False, modules: Iterable[str] = (),
        extra: str = "", **given: Any,
    ) -> None:  # fmt: skip
        super().__init__(**given)
        if mpm not in MPMS:
            raise ValueError(f"no MPM {mpm!r}; choose prefork, worker or event")
        if php and mpm != "prefork":
            raise ValueError("mod_php runs under prefork only; use php-fpm with worker and event")
        self.mpm, self.name = mpm, f"httpd {mpm}" + " php" * php
        self._binary, needs, lines = find_httpd(), [f"mpm_{mpm}", *MODULES, *modules], list[str]()
        if cgi:
            needs.append("cgi" if mpm == "prefork" else "cgid")
            lines += ["AddHandler cgi-script .cgi"] + ['ScriptSock "cgisock"'] * (mpm != "prefork")
        if handler := "application/x-httpd-php" if php else fcgi:
            lines += ['<FilesMatch "\\.php$">', f'SetHandler "{handler}"', "</FilesMatch>"]
        if fcgi:
            needs += ["proxy", "proxy_fcgi"]
            lines += [f'<Proxy "{fcgi.rpartition("|")[2]}" enablereuse=on>', "</Proxy>"]
        self.extra, self._settings = "\n".join([*lines, extra]), from_keywords(None, **self.given)
        self._loads = load_lines(self._binary, needs)
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
        log = [r'LogFormat "%h %l %u %t \"%r\" %>s %b" common', 'CustomLog "access_log" common']
        settings = (log + ["BufferedLogs On"] * self.buffered_logs) * self.access_log
        settings += [f"{one.name} {' '.join(one.args)}" for one in self._settings]
        lines = "\n".join((*self._loads, *user_lines(), *settings))
        # Without AllowOverride None, which is in every distribution's file, httpd looks for a .htaccess
        # in each directory from / downwards, at every request, which ours never does.
        return f"""\
ServerRoot "{self.root}"
DefaultRuntimeDir "{self.root}"
PidFile "pid"
Listen 127.0.0.1:{self.port}
ServerName 127.0.0.1
{lines}
ErrorLog "error_log"
LogLevel warn
TypesConfig "mime.types"
DocumentRoot "{self.document_root}"
DirectoryIndex index.html
<Directory />
    AllowOverride None
</Directory>
<Directory "{self.document_root}">
    Require all granted
    Options +ExecCGI
</Directory>
{self.extra}"""


def find_httpd() -> str:
    """Path of httpd, called apache2 on Debian. Raises NotInstalled."""
    how = "apt install apache2-bin, or dnf install httpd"
    return find_program(("apache2", "httpd"), "Apache httpd (apache2 or httpd)", how)


def module_directory(binary: str) -> Path:
    """Where this httpd's modules lie: under the root it was built with, or a known place. Raises NotInstalled."""
    built = re.search(r'HTTPD_ROOT="([^"]+)"', output(binary, "-V"))
    roots = [built[1]] if built else []
    for root in (*roots, *(f"/usr/{place}" for place in MODULE_PLACES)):
        if glob.glob(f"{root}/modules/mod_*.so"):
            return Path(root, "modules")
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


def find_program(names: Iterable[str], program: str, how: str) -> str:
    """The path of the first of `names` that is there; /usr/sbin is searched too. Raises NotInstalled."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/usr/local/apache2/bin:/sbin"
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise NotInstalled(program, how)


def output(*command: str) -> str:
    """What a program prints, to both its outputs."""
    how: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(command, check=False, **how).stdout


def unprivileged_user() -> tuple[str, str] | None:
    """User and group for a server that root starts; None if we are not root. Raises ServerFailed where no such
    user exists."""
    if os.geteuid() != 0:
        return None
    for name in ("www-data", "apache", "http", "nobody"):
        with suppress(KeyError):
            return name, grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
    raise ServerFailed("root needs a user www-data or nobody to run a server; run as another user")


def free_port() -> int:
    """A loopback port that no process listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
