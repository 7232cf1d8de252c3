"""The error log and the access log, in httpd's formats, and programs that logs are written to.

Each line is one `write` to a file opened for appending: lines of many processes never mix, none is lost.

The pipe to a program (`CustomLog "|rotatelogs …"`) lasts as long as the configuration. The program is the
parent's child: it is started before the first of the server's, and again, on the same pipe, when it ends.
"""

from __future__ import annotations

import os
import re
import signal
import time
from _thread import get_native_id
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from mpmkit.config.directives import Directives, Note
from mpmkit.config.values import LEVELS, TRACES
from mpmkit.http.messages import LOGGED_AS
from mpmkit.http.target import ESCAPES
from mpmkit.server.log_format import FormatError, Line, Site, compile_format

if TYPE_CHECKING:
    from mpmkit.http.messages import RequestError
    from mpmkit.server.connection import Connection

_RANK = {level: i for i, level in enumerate((*LEVELS, *TRACES))}
_UNSAFE = re.compile(r"[^\x20-\x5b\x5d-\x7e]")  # in the error log; quotes are left as they are


def escaped(text: str) -> str:
    """Text as one line of the error log may hold it (httpd's ap_escape_errorlog_item)."""

    def shown(found: re.Match[str]) -> str:
        how = "surrogateescape" if "\udc80" <= (char := found[0]) <= "\udcff" else "surrogatepass"
        hexadecimal = (f"\\x{byte:02x}" for byte in char.encode("utf-8", how))
        return ESCAPES.get(char) or "".join(hexadecimal)

    return _UNSAFE.sub(shown, text)


class LogError(Exception):
    """A log can't be opened, or its format is unknown; the text names the directive and the remedy."""


class PipedLog:
    """`|program arguments`, also with a second `|`; `|$line` is for the shell. Raises ValueError."""

    def __init__(self, log: str) -> None:
        from shlex import split  # here: few servers have such a log

        self.name = log.removeprefix("|").removeprefix("|")
        shell = ["/bin/sh", "-c", self.name[1:]]
        self.argv = shell if self.name.startswith("$") else split(self.name)
        if not self.argv:
            raise ValueError("no program is named")
        self.pid = 0  # while it does not run
        self.reading = -1  # the program's end of the pipe


_pipes: dict[int, PipedLog] = {}  # by the end that is written to
_ended: set[int] = set()  # programs of former configurations, which end by themselves


def not_a_file(path: str, directive: str) -> str:
    """What is wrong with a log that is no file and no program, "" for one that is."""
    if path.startswith("|"):
        try:
            PipedLog(path)
        except ValueError as error:
            return f"{directive} {path}: {error}"
    if not path.startswith("syslog:") and path != "syslog":
        return ""
    return f"{directive} {path}: logs to syslog are not supported; name a file, or a program that sends them"


def open_log(path: str, directive: str) -> int:
    """A descriptor that appends to `path`, or writes to a program (`|…`). Raises LogError."""
    if why := not_a_file(path, directive):
        raise LogError(why)
    try:
        if not path.startswith("|"):
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        pipe = PipedLog(path)
        pipe.reading, fd = os.pipe()
        _pipes[fd] = pipe
        return fd
    except OSError as error:
        ah = "AH00091" if directive == "ErrorLog" else "AH00649"
        where = "name a file in a directory that exists and may be written"
        raise LogError(f"{ah}: {directive} {path}: {error.strerror}; {where}") from None


def close_log(fd: int) -> None:
    """Its program, if it has one, sees the end once no process writes any more. Standard error stays open."""
    if fd != 2:
        os.close(fd)
    if pipe := _pipes.pop(fd, None):
        os.close(pipe.reading)
        _ended.add(pipe.pid)


def start_programs(errors: ErrorLog) -> None:
    """Start those that do not run."""
    for pipe in _pipes.values():
        if not pipe.pid:
            reads = [(os.POSIX_SPAWN_DUP2, pipe.reading, 0)]
            given: Any = {"file_actions": reads, "setsigdef": [signal.SIGPIPE], "setsigmask": []}
            try:
                pipe.pid = os.posix_spawnp(pipe.argv[0], pipe.argv, os.environ, **given)
            except OSError as error:
                text = f"unable to start piped log program '{pipe.name}': {error.strerror}"
                errors.write("error", text, ah="AH00104")


def program_ended(pid: int, errors: ErrorLog) -> bool:
    """Was this process one of the programs? One that was not to end is started again."""
    for pipe in _pipes.values():
        if pipe.pid == pid:
            pipe.pid = 0
            text = f"piped log program '{pipe.name}' failed unexpectedly"
            errors.write("error", text, ah="AH00106")
            start_programs(errors)
            return True
    known = pid in _ended
    _ended.discard(pid)
    return known


class ErrorLog:
    """`[ctime.µs] [module:level] [pid P:tid T] AHnnnnn: text`, to a file or standard error. level: LogLevel's,
    `levels` those of single modules (`LogLevel warn ssl:info`); notices are always written, as httpd's are."""

    def __init__(self, fd: int = 2, level: str = "warn", levels: Mapping[str, str] = {}) -> None:
        self.fd = fd
        self._level = _RANK[level]
        self._levels = {name: _RANK[one] for name, one in levels.items()}

    def enabled(self, level: str, module: str = "core") -> bool:
        return _RANK[level] <= self._levels.get(module, self._level) or level == "notice"

    def write(
        self, level: str, text: str, *, ah: str = "", module: str = "core", client: tuple = ()
    ) -> None:
        """One line, whatever the text holds, if the level is enabled. Never raises, not for a full disk."""
        if not self.enabled(level, module):
            return
        now = time.time()
        layout = f"%a %b %d %H:%M:%S.{int(now % 1 * 1_000_000):06d} %Y"
        stamp = time.strftime(layout, time.localtime(now))
        who = f"[client {client[0]}:{client[1]}] " if client else ""
        code = f"{ah}: " if ah else ""
        where = f"[{module}:{level}] [pid {os.getpid()}:tid {get_native_id()}] "
        with suppress(OSError):
            os.write(self.fd, f"[{stamp}] {where}{who}{code}{escaped(text)}\n".encode())

    def write_lines(self, level: str, text: str, **where: Any) -> None:
        """Text of several lines, such as a traceback: each line by `write`."""
        for line in text.splitlines():
            self.write(level, line, **where)

    def note(self, note: Note, module: str = "core") -> None:
        self.write(note.level, note.text, ah=note.ah, module=module)

    def refused(self, error: RequestError, client: tuple) -> None:
        """A refused request, at the level that httpd logs it at: mostly debug."""
        module, level = LOGGED_AS.get(error.ah, ("core", "debug"))
        self.write(level, str(error), ah=error.ah, module=module, client=client)

    def exception(
        self, text: str, client: tuple = (), level: str = "error", module: str = "wsgi"
    ) -> None:
        """The exception that is being handled, a script's or the server's own, with its traceback."""
        import traceback  # here: it is rarely needed, and every child would carry it

        self.write(level, text, module=module, client=client)
        try:
            trace = traceback.format_exc()
        except BaseException as error:  # an application's exception is a program, too
            trace = f"its traceback cannot be written: {type(error).__name__}"
        self.write_lines(level, trace, module=module, client=client)


class AccessLog:
    """CustomLog's files, which `logs` closes, and formats. Raises LogError if one of them can't be used."""

    def __init__(self, directives: Directives, logs: ExitStack) -> None:
        site = Site(directives)
        self._logs: list[tuple[int, Line]] = []
        for path, text, *condition in directives.CustomLog:
            try:
                line = compile_format(text + "\n", site, *condition)
            except FormatError as error:
                raise LogError(f"LogFormat: {error}") from None
            fd = open_log(path, "CustomLog")
            logs.callback(close_log, fd)
            self._logs.append((fd, line))

    def log(self, conn: Connection, now: int) -> None:
        """One line about the request that `conn` has just answered; `now` is in ns."""
        for fd, line in self._logs:
            try:
                os.write(fd, line(conn, now).encode("utf-8", "surrogateescape"))
            except OSError:
                pass  # a full disk costs log lines, not service
