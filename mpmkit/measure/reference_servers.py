"""The originals, started beside ours: the real httpd of the same MPM, and nginx.

    with Httpd("event", document_root=pages, ThreadsPerChild=25, MaxRequestWorkers=400) as httpd:
        measure(httpd.url)

Each rival is a program of this machine in its own directory under the system's temporary one, on
a free port of the loopback interface. No root is needed and no service of the machine is touched:
its configuration is never read, its ports, logs and pid files are never used. Directives are
Apache's own, spelled as `mpmkit.launch` takes them, so one dictionary starts both sides.

What keeps a comparison fair is decided here and nowhere else: the modules httpd loads (only those
whose work our servers do too), an access log in the same format with the same buffering, and
which of nginx's settings stand for which directive.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from mpmkit.config.directives import MPMS
from mpmkit.measure.procfs import members

# Where httpd keeps its modules: Debian and Ubuntu, Fedora, Arch and Alpine, a build from source.
MODULE_DIRECTORIES = (
    "/usr/lib/apache2/modules",
    "/usr/lib64/httpd/modules",
    "/usr/lib/httpd/modules",
    "/usr/local/apache2/modules",
    "/opt/homebrew/lib/httpd/modules",
)
# unixd is httpd's own change of user; the rest is what our servers do as well. mod_reqtimeout
# belongs to it: its checks are on the path of every request, as ours are.
MODULES = ("unixd", "log_config", "authz_core", "dir", "mime", "reqtimeout")
LOG_FORMAT = r'"%h %l %u %t \"%r\" %>s %b"'
# The same line in nginx's words; it has no %l, and it counts body bytes as %b does.
NGINX_LOG_FORMAT = (
    "'$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent'"
)
BUFFERED_LOG_BYTES = 4096  # what httpd's BufferedLogs collects (mod_log_config: PIPE_BUF)

READY_WITHIN = 10.0  # seconds from start to the first accepted connection
STOP_WITHIN = 12.0  # seconds from TERM to KILL; httpd itself gives its children 10
PORT_TRIES = 3  # another process may take the free port between our look and the rival's bind

Value = str | int | float | bool | None | Iterable[str]


class NotInstalled(RuntimeError):
    """A program or module that this machine lacks; the message names it and how to get it."""

    def __init__(self, program: str, how: str) -> None:
        super().__init__(f"{program} is not installed; {how}")
        self.program = program
        self.how = how


class RivalFailed(RuntimeError):
    """A rival that is installed but did not start; the message ends with what it said."""


class ProcessGroup:
    """A program of this machine in a directory and a process group of its own, which ends with whoever
    started it, however that ends. Base of `Rival` and of php-fpm.

    Attributes once started: `pid` of its first process, `root` (its directory).
    """

    name = "program"
    stop_within = STOP_WITHIN

    def __init__(self) -> None:
        self.pid = 0
        self.root = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def _is_ready(self) -> bool:
        """Whether *this* program (not another that took its place) accepts connections now."""
        raise NotImplementedError

    def _make_root(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=f"mpmkit-{self.name.replace(' ', '-')}-"))
        self.root.chmod(0o755)  # children under another user read the configuration's neighbours

    def _readable(self, document_root: Path) -> Path:
        """The document root, or, where root's servers hand their children to another user who can't go
        there, the same files in a place where he can."""
        if open_to_rivals(document_root):
            return document_root
        copy = self.root / "document_root"
        shutil.copytree(document_root, copy)
        open_to_all(copy)
        return copy

    def _spawn(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        """Run it in its directory and wait until it is ready. Raises RivalFailed with what it said."""
        with open(self.root / "console", "wb") as console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=self.root,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._guard = guard(self.pid)
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            status = self._process.poll()
            if status is not None:
                raise RivalFailed(f"{self.name} ended with status {status}: {self.error_log()}")
            if self._is_ready():
                return
            time.sleep(0.01)
        raise RivalFailed(
            f"{self.name} did not answer within {READY_WITHIN:g} s: {self.error_log()}"
        )

    def stop(self) -> None:
        """TERM, then KILL after `stop_within` seconds; returns when no process of it is left.
        Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            try:
                process.wait(self.stop_within)
            except subprocess.TimeoutExpired:
                pass
            finally:
                end_group(process.pid)
                process.wait()
        watcher, self._guard = self._guard, None
        if watcher is not None:
            watcher.kill()  # before its pipe closes, so that it has nothing left to do
            watcher.wait()
            assert watcher.stdin is not None
            watcher.stdin.close()
        if self.root != Path():
            shutil.rmtree(self.root, ignore_errors=True)
            self.root = Path()

    def processes(self) -> list[int]:
        """The pids of all its processes, the first one first."""
        return sorted(members(self.pid), key=lambda pid: (pid != self.pid, pid))

    def error_log(self, lines: int = 5) -> str:
        """The last lines of what it printed and logged; its own words."""
        texts = []
        for name in ("console", "error_log"):
            with contextlib.suppress(OSError):
                texts += (self.root / name).read_text(errors="replace").splitlines()
        return "\n".join(texts[-lines:]) or "(it said nothing)"


class Rival(ProcessGroup):
    """A server of another make, for the length of a `with` block.

    Attributes once started: `name` ("httpd event"), `version`, `url` without a trailing slash,
    `port`, `pid` of its control process, `root` (its directory: configuration and logs).
    """

    name = "rival"
    config_name = "server.conf"

    def __init__(
        self,
        *,
        document_root: str | os.PathLike[str],
        access_log: bool = True,
        buffered_logs: bool = False,
    ) -> None:
        super().__init__()
        self.document_root = Path(document_root).resolve()
        self.access_log = access_log
        self.buffered_logs = buffered_logs
        self.port = 0
        self.url = ""
        self._served = self.document_root

    # ------------------------------------------------------------ what each make defines

    def _configuration(self) -> str:
        raise NotImplementedError

    def _command(self, file: Path) -> list[str]:
        raise NotImplementedError

    @property
    def version(self) -> str:
        raise NotImplementedError

    def _environment(self) -> dict[str, str] | None:
        """The environment variables of its processes; None for our own."""
        return None

    def _is_ready(self) -> bool:
        # The pid file says that it holds the port: httpd and nginx write it after the bind.
        pid_file = self.root / "pid"
        if pid_file.exists() and pid_file.stat().st_size:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
        return False

    # ------------------------------------------------------------ start and stop

    def start(self) -> Rival:
        """Start and return once a connection is accepted.

        Raises RivalFailed with the tail of its error log if that takes more than 10 s, and
        FileNotFoundError if there is no such document root.
        """
        if self._process is not None:
            raise RivalFailed(f"{self.name} is already running; stop it first")
        if not self.document_root.is_dir():
            raise FileNotFoundError(f"no document root {self.document_root}")
        for attempt in range(1, PORT_TRIES + 1):
            try:
                self._start_once()
                return self
            except RivalFailed as error:
                taken = "in use" in str(error)
                self.stop()
                if not taken or attempt == PORT_TRIES:
                    raise
            except BaseException:
                self.stop()
                raise
        raise AssertionError("unreachable")

    def _start_once(self) -> None:
        self._make_root()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._served = self._readable(self.document_root)
        file = self.root / self.config_name
        file.write_text(self._configuration())
        self._spawn(self._command(file), self._environment())

    def __enter__(self) -> Rival:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.name} {f'pid {self.pid} at {self.url}' if self._process else 'stopped'}>"


class Httpd(Rival):
    """The real Apache httpd with one MPM.

    `directives` are Apache's, as `mpmkit.launch` takes them: numbers, strings, True for On,
    a list for a directive that is repeated; None leaves one out. With `php` the machine's mod_php
    runs `*.php` in process (prefork only, as mod_php demands); with `fcgi`, a SetHandler's
    `proxy:…`, php-fpm does. With `cgi`, `*.cgi` are programs (mod_cgi under prefork, else
    mod_cgid, as Debian has it). `modules` come on top of the basic ones, by short name
    (`modules=["status"]`). `buffered_logs` is httpd's BufferedLogs.
    Raises NotInstalled if httpd, the MPM or a module is missing, ValueError for an unknown MPM.
    """

    def __init__(
        self,
        mpm: str,
        *,
        document_root: str | os.PathLike[str],
        php: bool = False,
        fcgi: str = "",
        cgi: bool = False,
        modules: Iterable[str] = (),
        access_log: bool = True,
        buffered_logs: bool = False,
        extra: str = "",
        **directives: Value,
    ) -> None:
        super().__init__(
            document_root=document_root, access_log=access_log, buffered_logs=buffered_logs
        )
        if mpm not in MPMS:
            raise ValueError(f"no MPM {mpm!r}; choose prefork, worker or event")
        if php and mpm != "prefork":
            raise ValueError("mod_php runs under prefork only; use php-fpm beside worker and event")
        self.mpm = mpm
        self.name = f"httpd {mpm}" + (" php" if php else "")
        self.directives = directives
        self.extra = extra
        self._binary = find_httpd()
        if fcgi:
            modules = (*modules, "proxy", "proxy_fcgi")
        if cgi:
            modules = (*modules, "cgi" if mpm == "prefork" else "cgid")
        self._loads = load_lines(self._binary, (f"mpm_{mpm}", *MODULES, *modules))
        if php:
            self._loads.append(php_load_line(self._binary))
        self._php = php
        self._fcgi = fcgi
        self._cgi = cgi

    @property
    def version(self) -> str:
        """As it tells: `Apache/2.4.62 (Debian)`."""
        told = subprocess.run([self._binary, "-v"], capture_output=True, text=True).stdout
        found = re.search(r"Server version: (.+)", told)
        return found[1].strip() if found else "unknown"

    def _command(self, file: Path) -> list[str]:
        return [self._binary, "-d", str(self.root), "-f", str(file), "-D", "FOREGROUND"]

    def _configuration(self) -> str:
        lines = [
            f'ServerRoot "{self.root}"',
            f'DefaultRuntimeDir "{self.root}"',
            'PidFile "pid"',
            f"Listen 127.0.0.1:{self.port}",
            "ServerName 127.0.0.1",
            *self._loads,
            *user_lines(),
            'ErrorLog "error_log"',
            "LogLevel warn",
            'TypesConfig "mime.types"',
            f'DocumentRoot "{self._served}"',
            "DirectoryIndex index.html",
            # As in every distribution's file; without it httpd looks for a .htaccess in each
            # directory from / downwards, at every request, which ours never does.
            "<Directory />",
            "    AllowOverride None",
            "</Directory>",
            f'<Directory "{self._served}">',
            "    Require all granted",
            *(["    Options +ExecCGI"] if self._cgi else []),
            "</Directory>",
        ]
        (self.root / "mime.types").write_text("text/html html htm\ntext/plain txt\n")
        if self.access_log:
            lines += [f"LogFormat {LOG_FORMAT} common", 'CustomLog "access_log" common']
            if self.buffered_logs:
                lines.append("BufferedLogs On")
        if self._php:
            lines += [
                r'<FilesMatch "\.php$">',
                "    SetHandler application/x-httpd-php",
                "</FilesMatch>",
            ]
        if self._fcgi:
            lines += [
                f'<Proxy "{self._fcgi.rpartition("|")[2]}" enablereuse=on>',
                "</Proxy>",
                r'<FilesMatch "\.php$">',
                f'    SetHandler "{self._fcgi}"',
                "</FilesMatch>",
            ]
        if self._cgi:
            lines.append("AddHandler cgi-script .cgi")
            if self.mpm != "prefork":
                lines.append('ScriptSock "cgisock"')
        lines += directive_lines(self.directives)
        return "\n".join(lines) + "\n" + self.extra


class Nginx(Rival):
    """nginx with the settings closest to the same Apache directives.

    | directive | here |
    |---|---|
    | KeepAlive, KeepAliveTimeout, MaxKeepAliveRequests | keepalive_timeout, keepalive_requests |
    | Timeout | send_timeout, client_header_timeout, client_body_timeout |
    | ListenBacklog | listen … backlog= |
    | EnableSendfile | sendfile |
    | MaxRequestWorkers | worker_connections of each of `workers` processes, never below 1024 |

    `workers` is nginx's worker_processes: one a core if not given, which is its own advice.
    A directive without a counterpart (StartServers, the spares …) changes nothing.
    `tuned` is for who measures generators and wants nginx to be no brake: what it can be told to do
    faster, it is told. It keeps files open, takes all waiting connections at once, hears of a
    connection when its request is there (TCP_DEFER_ACCEPT, as httpd's AcceptFilter has it by default),
    and one worker alone stays on the last core.
    Raises NotInstalled if there is no nginx.
    """

    def __init__(
        self,
        *,
        document_root: str | os.PathLike[str],
        workers: int | None = None,
        access_log: bool = True,
        buffered_logs: bool = False,
        tuned: bool = False,
        **directives: Value,
    ) -> None:
        super().__init__(
            document_root=document_root, access_log=access_log, buffered_logs=buffered_logs
        )
        self.name = "nginx"
        self.tuned = tuned
        self.workers = workers or len(os.sched_getaffinity(0))
        self.directives = directives
        self._binary = find_program(
            ("nginx",), "nginx", "apt install nginx-light, or: conda install -c conda-forge nginx"
        )

    @property
    def version(self) -> str:
        """As it tells: `nginx/1.22.1`."""
        told = subprocess.run([self._binary, "-v"], capture_output=True, text=True).stderr
        return told.strip().removeprefix("nginx version: ") or "unknown"

    def _command(self, file: Path) -> list[str]:
        # -e: some builds open a log under /var before they have read the configuration.
        return [
            self._binary,
            "-p",
            str(self.root),
            "-c",
            str(file),
            "-e",
            str(self.root / "error_log"),
        ]

    def _configuration(self) -> str:
        given = {name.lower(): value for name, value in self.directives.items()}

        def seconds(name: str, default: str) -> str:
            value = given.get(name.lower())
            return default if value is None else nginx_seconds(value)

        on = str(given.get("keepalive", True)).lower() not in {"false", "off"}
        served = int(str(given.get("maxkeepaliverequests", 100)))
        # httpd lets N + 1 responses through (its N counts the further ones); 0 is no limit.
        requests = served + 1 if served else 1_000_000_000
        connections = max(1024, int(str(given.get("maxrequestworkers", 1024))))
        sends_files = str(given.get("enablesendfile", False)).lower() in {"true", "on"}
        timeout = seconds("Timeout", "60s")
        log = "access_log off"
        if self.access_log:
            buffer = f" buffer={BUFFERED_LOG_BYTES}" if self.buffered_logs else ""
            log = f"log_format common {NGINX_LOG_FORMAT};\n    access_log access_log common{buffer}"
        user = unprivileged_user() if os.geteuid() == 0 else None
        affinity = events = files = deferred = ""
        if self.tuned:
            cores = os.sched_getaffinity(0)
            if self.workers == 1 < len(cores):
                affinity = f"worker_cpu_affinity {1 << max(cores):b};"
            events, deferred = " multi_accept on;", " deferred"
            files = "open_file_cache max=100 inactive=1h; open_file_cache_valid 1h;"
        return f"""\
{f"user {user[0]} {user[1]};" if user else ""}
daemon off;
worker_processes {self.workers};
{affinity}
pid pid;
error_log error_log warn;
events {{ worker_connections {connections};{events} }}
http {{
    types {{ text/html html htm; text/plain txt; }}
    default_type application/octet-stream;
    {log};
    {files}
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    sendfile {"on" if sends_files else "off"};
    keepalive_timeout {seconds("KeepAliveTimeout", "5s") if on else "0"};
    keepalive_requests {requests};
    send_timeout {timeout};
    client_header_timeout {timeout};
    client_body_timeout {timeout};
    server {{
        listen 127.0.0.1:{self.port} backlog={given.get("listenbacklog", 511)}{deferred};
        root "{self._served}";
        index index.html;
    }}
}}
"""


# ---------------------------------------------------------------- finding programs and modules


def find_program(names: Iterable[str], program: str, how: str) -> str:
    """The path of the first of `names` that is there; /usr/sbin is searched too.

    Raises NotInstalled.
    """
    path = os.pathsep.join(
        (
            os.environ.get("PATH", ""),
            "/usr/sbin",
            "/usr/local/sbin",
            "/usr/local/apache2/bin",
            "/sbin",
        )
    )
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    raise NotInstalled(program, how)


def find_httpd() -> str:
    """Path of the httpd binary, called apache2 on Debian. Raises NotInstalled."""
    return find_program(
        ("apache2", "httpd"),
        "Apache httpd (apache2 or httpd)",
        "apt install apache2-bin, or dnf install httpd",
    )


def module_directory(binary: str) -> Path:
    """Where this httpd's modules lie: under the root it was built with, or a known place.

    Raises NotInstalled if none of them holds any.
    """
    built = re.search(
        r'HTTPD_ROOT="([^"]+)"',
        subprocess.run([binary, "-V"], capture_output=True, text=True).stdout,
    )
    places = [f"{built[1]}/modules"] if built else []
    for place in (*places, *MODULE_DIRECTORIES):
        if glob.glob(f"{place}/mod_*.so"):
            return Path(place)
    raise NotInstalled("the modules of Apache httpd", "apt install apache2-bin")


def load_lines(binary: str, modules: Iterable[str]) -> list[str]:
    """LoadModule lines for those short names that are not compiled into the binary.

    Raises NotInstalled for a module that is in neither place.
    """
    told = subprocess.run([binary, "-l"], capture_output=True, text=True).stdout
    static = set(re.findall(r"(?:mod_)?(\w+)\.c", told))
    lines = []
    for name in dict.fromkeys(modules):
        # An MPM compiled in is listed by its own name (prefork.c), and no other can be loaded.
        if name in static or name.removeprefix("mpm_") in static:
            continue
        file = module_directory(binary) / f"mod_{name}.so"
        if not file.exists():
            raise NotInstalled(
                f"httpd's module {name}",
                f"it should be {file}: apt install "
                "apache2-bin, or build httpd with --enable-mpms-shared=all",
            )
        lines.append(f'LoadModule {name}_module "{file}"')
    return lines


def php_load_line(binary: str) -> str:
    """LoadModule for the newest mod_php of this machine. Raises NotInstalled."""
    files = glob.glob(f"{module_directory(binary)}/libphp*.so")
    if not files:
        raise NotInstalled("mod_php", "apt install libapache2-mod-php")
    newest = max(files, key=lambda file: [int(n) for n in re.findall(r"\d+", Path(file).name)])
    # PHP 7 called its symbol php7_module; since 8 it is php_module again.
    major = re.search(r"libphp(\d+)", newest)
    symbol = "php7_module" if major and major[1] == "7" else "php_module"
    return f'LoadModule {symbol} "{newest}"'


# ---------------------------------------------------------------- directives as text


def directive_lines(directives: Mapping[str, Value]) -> list[str]:
    """Keyword arguments as httpd.conf has them: True is On, a list is one line an item."""
    lines = []
    for name, value in directives.items():
        if value is None:
            continue
        values = [value] if isinstance(value, str | int | float) else list(value)
        lines += [f"{name} {directive_value(name, item)}" for item in values]
    return lines


def directive_value(name: str, value: str | int | float) -> str:
    if isinstance(value, bool):
        return "On" if value else "Off"
    if isinstance(value, float) and not value.is_integer():
        # Only KeepAliveTimeout takes a fraction of a second, and as a whole number of ms.
        return f"{round(value * 1000)}ms" if name.lower() == "keepalivetimeout" else f"{value:g}"
    return str(int(value)) if isinstance(value, float) else str(value)


def nginx_seconds(value: object) -> str:
    """An Apache duration in nginx's spelling: 5, "5", "5s", "500ms", 0.5 -> 500ms, "2min" -> 2m."""
    text = str(value).strip().lower()
    number = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text)
    if not number:
        raise ValueError(f"{value!r} is not a duration; write seconds, 500ms, 2min or 1h")
    amount, unit = float(number[1]), number[2]
    scale = (
        1
        if unit.startswith("ms")
        else 60_000
        if unit.startswith("mi")
        else (3_600_000 if unit.startswith("h") else 1000)
    )
    return f"{round(amount * scale)}ms"


# ---------------------------------------------------------------- the system around them


def unprivileged_user() -> tuple[str, str]:
    """User and group for a server that root starts. Raises RivalFailed if there is none."""
    import grp

    for name in ("www-data", "apache", "http", "nobody"):
        with contextlib.suppress(KeyError):
            return name, grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
    raise RivalFailed(
        "root can't run a server as itself and there is no user www-data or nobody; "
        "run as an ordinary user"
    )


def user_lines() -> list[str]:
    """httpd refuses to serve as root; without root it must not try to change user."""
    if os.geteuid() != 0:
        return []
    user, group = unprivileged_user()
    return [f"User {user}", f"Group {group}"]


def open_to_all(directory: Path) -> None:
    """Everybody may read what is below, and run what is a program."""
    for place in (directory, *directory.rglob("*")):
        runs = place.is_dir() or place.stat().st_mode & 0o100
        place.chmod(0o755 if runs else 0o644)


def open_to_rivals(directory: Path) -> bool:
    """Whether the rival's user may enter the document root and every directory above it."""
    if os.geteuid() != 0:
        return True  # it runs as ourselves
    user = pwd.getpwnam(unprivileged_user()[0])
    for place in (directory, *directory.parents):
        state = place.stat()
        bit = 0o100 if state.st_uid == user.pw_uid else 0o010 if state.st_gid == user.pw_gid else 1
        if not state.st_mode & bit:
            return False
    return True


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def guard(pid: int) -> subprocess.Popen[bytes]:
    """A shell that ends the process group of `pid` if this process dies, however it dies.

    It waits on a pipe that only we hold; a SIGKILLed notebook kernel closes it too.
    """
    script = "read _; kill -TERM -$1 2>/dev/null && sleep 3 && kill -KILL -$1 2>/dev/null"
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "mpmkit-guard", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end_group(group: int, within: float = 10.0) -> None:
    """KILL what is left of a process group and wait until it is gone. Raises RivalFailed if it is not."""
    deadline = time.monotonic() + within
    while left := members(group):
        if time.monotonic() > deadline:
            raise RivalFailed(f"processes {left} outlive SIGKILL")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        time.sleep(0.01)
