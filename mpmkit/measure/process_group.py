"""An installed program in its own directory and process group: it starts, is ready, and ends
with the process that started it, however that ends. Base of the reference servers and of php-fpm.

It needs no root and touches no service of the machine: their configuration is never read, their ports,
logs and pid files are never used.
"""

import contextlib
import grp
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from mpmkit.measure.procfs import members, text_of

READY_WITHIN = 10.0  # seconds from start to the first accepted connection
STOP_WITHIN = 12.0  # seconds from TERM to KILL; httpd itself gives its children 10
GONE_WITHIN = 10.0  # seconds from KILL until no process is left
PORT_TRIES = 3  # another process may take the free port between our look and the program's bind


class NotInstalled(RuntimeError):
    """A program or module that this machine lacks; the message names it and how to get it."""

    def __init__(self, program: str, how: str) -> None:
        super().__init__(f"{program} is not installed; {how}")


class ServerFailed(RuntimeError):
    """A server that is installed but did not start or end; the message ends with its own words."""


class ProcessGroup:
    """A program for the length of a `with` block.

    Attributes once started: `pid` of its first process, `root` (its directory: configuration, pid, logs). A
    program defines `_command`, its command line with the configuration `file`, and `_configuration`, what that
    holds; `address` that it listens at (a path, or host and port); `_environment`, None for our own.
    """

    name = "program"
    config_name = "server.conf"
    stop_within = STOP_WITHIN

    def __init__(self, document_root: str | os.PathLike[str] | None = None) -> None:
        self.pid = 0
        self.root = self._served = Path()
        self._asked_for = None if document_root is None else Path(document_root).resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str | tuple[str, int]:
        raise NotImplementedError

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
        with contextlib.suppress(OSError), socket.socket(family) as probe:
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
                self.root = Path(tempfile.mkdtemp(prefix=f"mpmkit-{self.name.replace(' ', '-')}-"))
                self.root.chmod(0o755)  # children under another user read what lies there
                if self._asked_for is not None:
                    self._served = self._readable(self._asked_for)
                self._spawn()
                break
            except BaseException as error:
                self.stop()
                if not (left and isinstance(error, ServerFailed) and "in use" in str(error)):
                    raise
        return self

    def _spawn(self) -> None:
        """Run it in its directory and wait until it is ready. Raises ServerFailed with its words."""
        file = self.root / self.config_name
        file.write_text(self._configuration())
        with open(self.root / "console", "wb") as console:
            pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": console, "stderr": console}
            place: Any = {"cwd": self.root, "env": self._environment(), "start_new_session": True}
            self._process = subprocess.Popen(self._command(file), **pipes, **place)
        self.pid = self._process.pid
        self._guard = guard(self.pid)
        deadline = time.monotonic() + READY_WITHIN
        while (status := self._process.poll()) is None and time.monotonic() < deadline:
            if self._is_ready():
                return
            time.sleep(0.01)
        late = f"did not answer within {READY_WITHIN:g} s"
        why = late if status is None else f"ended with status {status}"
        raise ServerFailed(f"{self.name} {why}: {self.error_log()}")

    def stop(self) -> None:
        """TERM, then KILL after `stop_within` seconds; returns when no process of it is left. Twice does
        nothing. Raises ServerFailed if a process outlives KILL."""
        process, self._process = self._process, None
        guarding, self._guard = self._guard, None
        root, self.root = self.root, Path()
        with contextlib.ExitStack() as then:  # all of it, whatever fails; the last line first
            if root != Path():
                then.callback(shutil.rmtree, root, ignore_errors=True)
            if guarding is not None:
                then.enter_context(guarding)  # closes its pipe and waits
                then.callback(guarding.kill)  # before its pipe closes, so that it does nothing
            if process is not None:
                then.callback(end_group, process.pid)
                then.callback(process.wait)
                then.callback(process.kill)
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.stop_within)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def processes(self) -> list[int]:
        """The pids of all its processes, the first one first."""
        return sorted(members(self.pid), key=lambda pid: (pid != self.pid, pid))

    def error_log(self, lines: int = 5) -> str:
        """The last lines of what it printed and logged; its own words."""
        texts = [text_of(self.root / name) for name in ("console", "error_log")]
        said = [line for text in texts for line in text.splitlines()]
        return "\n".join(said[-lines:]) or "(it said nothing)"

    def _readable(self, root: Path) -> Path:
        """The document root, or, where the children of root's server are of a user who may not enter it,
        a copy of it that they may read."""
        path = (root, *root.parents)
        if os.geteuid() != 0 or all(place.stat().st_mode & 0o001 for place in path):
            return root
        copy = self.root / "document_root"
        shutil.copytree(root, copy)
        for place in (copy, *copy.rglob("*")):
            runs = place.is_dir() or place.stat().st_mode & 0o100
            place.chmod(0o755 if runs else 0o644)
        return copy


def find_program(names: Iterable[str], program: str, how: str) -> str:
    """The path of the first of `names` that is there; /usr/sbin is searched too. Raises NotInstalled."""
    more = ("/usr/sbin", "/usr/local/sbin", "/usr/local/apache2/bin", "/sbin")
    path = os.pathsep.join((os.environ.get("PATH", ""), *more))
    for found in (shutil.which(name, path=path) for name in names):
        if found:
            return found
    raise NotInstalled(program, how)


def output(*command: str) -> str:
    """What a program prints, to both its outputs."""
    to, also = subprocess.PIPE, subprocess.STDOUT
    return subprocess.run(command, stdout=to, stderr=also, text=True, check=False).stdout


def unprivileged_user() -> tuple[str, str] | None:
    """User and group for a server that root starts; None if we are not root. Raises ServerFailed where no such
    user exists."""
    if os.geteuid() != 0:
        return None
    for name in ("www-data", "apache", "http", "nobody"):
        with contextlib.suppress(KeyError):
            return name, grp.getgrgid(pwd.getpwnam(name).pw_gid).gr_name
    raise ServerFailed("root needs a user www-data or nobody to run a server; run as another user")


def free_port() -> int:
    """A loopback port that no process listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def guard(pid: int) -> subprocess.Popen[bytes]:
    """A shell that ends the process group of `pid` if this process dies, however it dies: it waits on a pipe that
    only we hold, and a SIGKILLed notebook kernel closes it too."""
    script = "read _; kill -TERM -$1 2>/dev/null && sleep 3 && kill -KILL -$1 2>/dev/null"
    none = subprocess.DEVNULL
    command = ["/bin/sh", "-c", script, "mpmkit-guard", str(pid)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": none, "stderr": none}
    return subprocess.Popen(command, **pipes, start_new_session=True)


def end_group(group: int) -> None:
    """KILL what is left of a process group and wait until it is gone. Raises ServerFailed if it is not."""
    deadline = time.monotonic() + GONE_WITHIN
    while left := members(group):
        if time.monotonic() > deadline:
            raise ServerFailed(f"processes {left} outlive SIGKILL")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        time.sleep(0.01)
