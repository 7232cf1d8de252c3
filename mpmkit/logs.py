"""The error log and the access log, in httpd's formats.

Each line is one `write` to a file opened for appending, so that lines of many processes never mix
and nothing is lost when a process is killed.
"""

from __future__ import annotations

import os
import time
from _thread import get_native_id
from collections.abc import Callable
from typing import TYPE_CHECKING

from mpmkit.directives import Note
from mpmkit.http.protocol import quote_line

if TYPE_CHECKING:
    from mpmkit.connection import Connection

LEVELS = ("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug") + tuple(
    f"trace{i}" for i in range(1, 9)
)
_RANK = {level: i for i, level in enumerate(LEVELS)}
_NOTICE = _RANK["notice"]

COMMON = '%h %l %u %t "%r" %>s %b'


class LogError(Exception):
    """A log can't be opened, or its format is unknown; the text names the directive and the mend."""


def open_log(path: str, directive: str) -> int:
    """A descriptor that appends to `path`. Raises LogError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LogError(
            f"{directive} {path}: {error.strerror}; name a file in a directory that exists and may be written"
        ) from None


class ErrorLog:
    """`[ctime.µs] [module:level] [pid P:tid T] AHnnnnn: text`, to a file or standard error.

    `level` is the LogLevel directive's; notices are always written, as httpd's are.
    """

    def __init__(self, fd: int = 2, level: str = "warn", module: str = "core") -> None:
        self.fd = fd
        self._level = _RANK[level]
        self._module = module

    def enabled(self, level: str) -> bool:
        return _RANK[level] <= self._level or level == "notice"

    def write(
        self, level: str, text: str, *, ah: str = "", module: str = "", client: tuple | None = None
    ) -> None:
        """One line, if the level is enabled. Never raises: a full disk must not end a server."""
        if not self.enabled(level):
            return
        now = time.time()
        stamp = time.strftime(
            f"%a %b %d %H:%M:%S.{int(now % 1 * 1_000_000):06d} %Y", time.localtime(now)
        )
        who = f"[client {client[0]}:{client[1]}] " if client else ""
        code = f"{ah}: " if ah else ""
        where = f"[{module or self._module}:{level}] [pid {os.getpid()}:tid {get_native_id()}] "
        for line in text.splitlines() or [""]:
            try:
                os.write(
                    self.fd,
                    f"[{stamp}] {where}{who}{code}{line}\n".encode("utf-8", "backslashreplace"),
                )
            except OSError:
                pass

    def note(self, note: Note, module: str = "") -> None:
        self.write(note.level, note.text, ah=note.ah, module=module)

    def info(self, text: str, client: tuple | None = None) -> None:
        if _RANK["info"] <= self._level:
            self.write("info", text, client=client)

    def exception(self, text: str, client: tuple | None = None) -> None:
        """A script's exception, the one being handled, with its traceback."""
        import traceback  # here: it is rarely needed, and every child would carry it

        trace = traceback.format_exc()
        self.write("error", f"{text}\n{trace}", module="wsgi", client=client)

    def failure(self, text: str, error: BaseException | None) -> None:
        """An error of the server's own."""
        import traceback

        trace = "".join(traceback.format_exception(error))
        self.write("alert", f"{text}\n{trace}")


# -- access log -------------------------------------------------------------------------------------

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class _RequestTime:
    """`[22/Nov/2026:20:21:35 +0000]`, made once a second."""

    def __init__(self) -> None:
        self._made: tuple[int, str] = (0, "")

    def __call__(self, second: int) -> str:
        made = self._made
        if made[0] == second:
            return made[1]
        t = time.localtime(second)
        offset = t.tm_gmtoff // 60
        sign, offset = ("-", -offset) if offset < 0 else ("+", offset)
        text = (
            f"[{t.tm_mday:02d}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} "
            f"{sign}{offset // 60:02d}{offset % 60:02d}]"
        )
        self._made = (second, text)
        return text


_request_time = _RequestTime()


def _line(conn: Connection) -> str:
    if conn.request is not None:
        return conn.request.log_line
    return quote_line(conn.protocol.line) or "-"


def _path(conn: Connection) -> str:
    return quote_line(os.fsencode(conn.request.path)) if conn.request is not None else "-"


def _header(name: str) -> Callable[[Connection, int], str]:
    key = name.lower().encode("latin-1")

    def value(conn: Connection, now: int) -> str:
        found = conn.request.get(key) if conn.request is not None else None
        return "-" if found is None else quote_line(found)

    return value


# Each directive of a LogFormat: (connection, ns at the end) -> text.
FIELDS: dict[str, Callable[[Connection, int], str]] = {
    "%h": lambda conn, now: conn.peer[0],
    "%a": lambda conn, now: conn.peer[0],
    "%l": lambda conn, now: "-",
    "%u": lambda conn, now: "-",
    "%t": lambda conn, now: _request_time(conn.started // 1_000_000_000),
    "%r": lambda conn, now: _line(conn),
    "%s": lambda conn, now: str(conn.status),
    "%>s": lambda conn, now: str(conn.status),
    "%b": lambda conn, now: str(conn.body_sent or "-"),
    "%B": lambda conn, now: str(conn.body_sent),
    "%O": lambda conn, now: str(conn.sent),
    "%D": lambda conn, now: str((now - conn.started) // 1000),
    "%T": lambda conn, now: str((now - conn.started) // 1_000_000_000),
    "%X": lambda conn, now: "+" if conn.keep_alive else "-",
    "%k": lambda conn, now: str(conn.kept),
    "%P": lambda conn, now: str(os.getpid()),
    "%{pid}P": lambda conn, now: str(os.getpid()),
    "%{tid}P": lambda conn, now: str(get_native_id()),
    "%m": lambda conn, now: conn.request.method if conn.request is not None else "-",
    "%U": lambda conn, now: _path(conn),
    "%%": lambda conn, now: "%",
}


def compile_format(text: str) -> Callable[[Connection, int], str]:
    """A function that makes a LogFormat's line. Raises LogError for a directive it doesn't know."""
    if text == COMMON:
        return _common
    parts: list[Callable[[Connection, int], str]] = []
    at = 0
    while at < len(text):
        percent = text.find("%", at)
        if percent < 0:
            percent = len(text)
        if percent > at:
            literal = text[at:percent]
            parts.append(lambda conn, now, literal=literal: literal)  # type: ignore[misc]
            at = percent
            continue
        end = at + 1
        if text[end : end + 1] == ">":
            end += 1
        if text[end : end + 1] == "{":
            end = text.find("}", end) + 1 or len(text)
        directive = text[at : end + 1]
        if directive.startswith("%{") and directive.endswith("}i"):
            parts.append(_header(directive[2:-2]))
        elif directive in FIELDS:
            parts.append(FIELDS[directive])
        else:
            raise LogError(
                f"LogFormat: {directive!r} is not known here; known are {' '.join(FIELDS)} %{{NAME}}i"
            )
        at = end + 1
    return lambda conn, now: "".join([part(conn, now) for part in parts])


def check_format(text: str) -> str:
    """What is wrong with a LogFormat, "" if nothing is."""
    try:
        compile_format(text)
    except LogError as error:
        return str(error).removeprefix("LogFormat: ")
    return ""


def _common(conn: Connection, now: int) -> str:
    """The common log format, as most servers write it: the same text as the table gives, faster."""
    request = conn.request
    line = request.log_line if request is not None else _line(conn)
    when = _request_time(conn.started // 1_000_000_000)
    return f'{conn.peer[0]} - - {when} "{line}" {conn.status} {conn.body_sent or "-"}'


class AccessLog:
    """The CustomLog directives of a server: files, each with its format.

    Raises LogError when a file can't be opened or a format is unknown.
    """

    def __init__(self, logs: tuple[tuple[str, str], ...]) -> None:
        self._logs = [(open_log(path, "CustomLog"), compile_format(text)) for path, text in logs]

    def log(self, conn: Connection, now: int) -> None:
        """One line about the request that `conn` has just answered; `now` is in ns."""
        for fd, line in self._logs:
            try:
                os.write(fd, (line(conn, now) + "\n").encode("utf-8", "surrogateescape"))
            except OSError:
                pass  # a full disk costs log lines, not service

    def close(self) -> None:
        for fd, _ in self._logs:
            os.close(fd)
