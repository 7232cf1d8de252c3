"""LogFormat: a line of directives becomes a function that writes the access log's lines (mod_log_config).

    %h %l %u %t "%r" %>s %b          the common format
    %{Referer}i                      with an argument
    %!200,304{Referer}i              only for other statuses than these, else "-"
    %<q %>q                          of the first and of the last of internal redirects

Text from a client is quoted: no client can write its own lines or quotes into a log.
"""

from __future__ import annotations

import os
import re
import time
from _thread import get_native_id
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from mpmkit.config.alias import EnvRule, variables_of
from mpmkit.config.log_format import COMMON, FormatError, Piece, pieces
from mpmkit.http.messages import http_date
from mpmkit.http.target import OwnName, quote_line

if TYPE_CHECKING:
    from mpmkit.http.messages import Request
    from mpmkit.server.connection import Connection

Field = Callable[["Connection", int], str]  # (connection, ns at the end) -> text


@dataclass
class Site:
    """What the formats show of the server: %v, %V, %p, %f, %X and %{Server}o."""

    name: str = ""  # ServerName, with its port if it has one
    canonical: bool = False  # UseCanonicalName
    root: str = ""
    index: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str, str], ...] = ()
    server: str = ""
    variables: tuple[EnvRule, ...] = ()
    most_kept: int = 0  # MaxKeepAliveRequests; 0: no limit

    def __post_init__(self) -> None:
        """own: ServerName; without one, the machine's name. host: its name, as a log has it."""
        self.own = OwnName.of(self.name or os.uname().nodename, self.canonical)
        self.host = quote_line(os.fsencode(self.own.host))

    def place(self, conn: Connection) -> tuple[str, str]:
        """The name and the port that the request of a connection was sent to."""
        return self.own.place(conn.request.get(b"host") if conn.request else None, conn.scheme)

    def shown(self, conn: Connection) -> bytes:
        """That name: the client's bytes, or ServerName's in the encoding of names of files."""
        name = self.place(conn)[0]
        return os.fsencode(name) if name == self.own.host else name.encode("latin-1")

    def filename(self, path: str) -> str:
        """Where a URL path leads."""
        for _, url, target in self.aliases:
            rest = path.removeprefix(url)
            if rest != path and (rest[:1] in ("", "/") or url.endswith("/")):
                return target + rest[target.endswith("/") and rest.startswith("/") :]
        return self.root + path

    def indexed(self, path: str) -> str:
        """The path; that of the first DirectoryIndex there is, where it names a directory."""
        names = self.index if path.endswith("/") else ()
        urls = (name if name.startswith("/") else path + name for name in names)
        return next((url for url in urls if os.path.isfile(self.filename(url))), path)


@lru_cache(maxsize=1)
def _request_time(second: int) -> str:
    """`[22/Nov/2026:20:21:35 +0000]`, made once a second."""
    return time.strftime("[%d/%b/%Y:%H:%M:%S %z]", time.localtime(second))


# The numeric forms of %{...}t, of a time in ns.
_CLOCKS: dict[str, Callable[[int], str]] = {
    "sec": lambda ns: str(ns // 1_000_000_000),
    "msec": lambda ns: str(ns // 1_000_000),
    "usec": lambda ns: str(ns // 1000),
    "msec_frac": lambda ns: f"{ns // 1_000_000 % 1000:03d}",
    "usec_frac": lambda ns: f"{ns // 1000 % 1_000_000:06d}",
}


def _time(argument: str, site: Site) -> Field:
    """%{format}t: strftime, or one of _CLOCKS; `begin:` (when it came) or `end:` (now) before it."""
    at_end = argument.startswith("end:")
    layout = argument.removeprefix("begin:").removeprefix("end:") or "[%d/%b/%Y:%H:%M:%S %z]"
    clock = _CLOCKS.get(layout) or (
        lambda ns: time.strftime(layout, time.localtime(ns // 1_000_000_000))
    )
    return lambda conn, now: clock(now if at_end else conn.started)


def _line(conn: Connection) -> str:
    if conn.request is not None:
        return conn.request.log_line
    return quote_line(conn.protocol.line) or "-"


def _last(conn: Connection) -> Request | None:
    """Of internal redirects the last, where the response is kept (`wants_response`)."""
    return getattr(getattr(conn, "response", None), "request", None) or conn.request


def _header(key: bytes, conn: Connection, now: int) -> str:
    found = conn.request.get(key) if conn.request is not None else None
    return "-" if found is None else quote_line(found)


def _cookie(key: bytes, conn: Connection, now: int) -> str:
    cookies = conn.request.get(b"cookie") if conn.request is not None else None
    for one in (cookies or b"").split(b";"):
        name, equals, found = one.strip().partition(b"=")
        if equals and name == key:
            return quote_line(found)
    return "-"


def _variable(name: str, site: Site, conn: Connection, now: int) -> str:
    """%{NAME}e: of SetEnvIf and BrowserMatch, or of the server's environment."""
    found = variables_of(site.variables, _last(conn), conn).get(name)
    return os.environ.get(name, "-") if found is None else quote_line(os.fsencode(found))


def _answered(name: str, lines: re.Pattern[bytes], site: Site, conn: Connection, now: int) -> str:
    """%{NAME}o: a header of the response. Those that the connection writes come from its state."""
    if name == "date":
        return http_date(conn.started // 1_000_000_000)
    if name == "server":
        return site.server
    if name == "connection":
        asks = conn.request is not None and conn.request.asks_keep_alive
        return "close" if not conn.keep_alive else "Keep-Alive" if asks else "-"
    response = getattr(conn, "response", None)
    found = lines.search(response.fields + response.after) if response is not None else None
    return quote_line(found[1]) if found else "-"


def _header_of_response(argument: str, site: Site) -> Field:
    name = re.escape(argument.encode("latin-1", "replace"))
    lines = re.compile(rb"(?im)^%b: *([^\r\n]*)\r?$" % name)
    return partial(_answered, argument.lower(), lines, site)


def _local(index: int, conn: Connection, now: int) -> str:
    """The server's address or port of this connection, "-" once it is closed."""
    try:
        return str(conn.local[index])
    except OSError:
        return "-"


def _received(conn: Connection) -> int:
    return getattr(conn.recv, "count", 0)


FIELDS: dict[str, Field] = {
    "h": lambda conn, now: conn.peer[0],
    "a": lambda conn, now: conn.peer[0],
    "A": partial(_local, 0),
    "l": lambda conn, now: "-",
    "u": lambda conn, now: "-",
    "t": lambda conn, now: _request_time(conn.started // 1_000_000_000),
    "r": lambda conn, now: _line(conn),
    "s": lambda conn, now: str(conn.status),
    "b": lambda conn, now: str(conn.body_sent or "-"),
    "B": lambda conn, now: str(conn.body_sent),
    "I": lambda conn, now: str(_received(conn)),
    "O": lambda conn, now: str(conn.sent),
    "S": lambda conn, now: str(_received(conn) + conn.sent),
    "D": lambda conn, now: str((now - conn.started) // 1000),
    "T": lambda conn, now: str((now - conn.started) // 1_000_000_000),
    "P": lambda conn, now: str(os.getpid()),
    "H": lambda conn, now: (
        quote_line(conn.request.line.rpartition(b" ")[2]) if conn.request is not None else "-"
    ),
    "%": lambda conn, now: "%",
    # What is not known here: the handler's name, the request's number in the error log.
    **dict.fromkeys("LR", lambda conn, now: "-"),
}
# Of the request. Of internal redirects these show the last, but %U the first; `<` and `>` choose.
OF_REQUEST: dict[str, Callable[[Request, Site], str]] = {
    "f": lambda request, site: quote_line(os.fsencode(site.filename(site.indexed(request.path)))),
    "m": lambda request, site: request.method,
    "q": lambda request, site: quote_line(b"?" + request.query) if request.query else "",
    "U": lambda request, site: quote_line(os.fsencode(site.indexed(request.path))),
}
# Of the server. As httpd's ap_set_keepalive counts: responses after which the connection was kept, so the
# last request repeats a number; but for the one after MaxKeepAliveRequests, before which %X is - already.
OF_SITE: dict[str, Callable[[Site], Field]] = {
    "v": lambda site: lambda conn, now: site.host,
    "V": lambda site: lambda conn, now: quote_line(site.shown(conn)),
    "p": lambda site: lambda conn, now: site.place(conn)[1],
    "X": lambda site: (
        lambda conn, now: "+" if conn.keep_alive and conn.kept + 1 != site.most_kept else "-"
    ),
    "k": lambda site: (
        lambda conn, now: str(
            max(0, conn.kept - (not conn.keep_alive and conn.kept != site.most_kept))
        )
    ),
}
# %{word}LETTER, with one of a few words.
CHOICES: dict[str, dict[str, Field]] = {
    "a": {"c": FIELDS["a"]},
    "h": {"c": FIELDS["h"]},
    "p": {"local": partial(_local, 1), "remote": lambda conn, now: str(conn.peer[1])},
    "P": {"pid": FIELDS["P"], "tid": lambda conn, now: str(get_native_id()),
          "hextid": lambda conn, now: f"{get_native_id():x}"},
    "T": {"s": FIELDS["T"], "ms": lambda conn, now: str((now - conn.started) // 1_000_000),
          "us": FIELDS["D"]},
}  # fmt: skip
# %{text}LETTER, with any.
WITH_TEXT: dict[str, Callable[[str, Site], Field]] = {
    "i": lambda argument, site: partial(_header, argument.lower().encode("latin-1", "replace")),
    "C": lambda argument, site: partial(_cookie, argument.encode("latin-1", "replace")),
    "o": _header_of_response,
    "e": lambda argument, site: partial(_variable, argument, site),
    "t": _time,
    # Variables of mod_ssl, notes of modules, trailers: not known here.
    **dict.fromkeys(("x", "c", "n", "L", "^ti", "^to"), lambda argument, site: FIELDS["u"]),
}


def compile_format(text: str, site: Site | None = None, condition: str = "") -> Field:
    """A function that makes a LogFormat's line, "" for requests that do not fulfil the condition: they have a
    variable, or, with `!` before its name, have it not. Raises FormatError."""
    site = site or Site()
    if condition:
        line, name = compile_format(text, site), condition.removeprefix("!")

        def some(conn: Connection, now: int) -> str:
            found = variables_of(site.variables, conn.request, conn)
            return line(conn, now) if (name in found) == (name == condition) else ""

        return some
    if text == COMMON + "\n":
        return _common
    parts: list[Field] = []
    for piece in pieces(text):
        if not piece.letter:
            literal = piece.text
            parts.append(lambda conn, now, literal=literal: literal)  # type: ignore[misc]
        else:
            parts.append(_only_for(piece.condition, _part(piece, site), piece.text))
    return lambda conn, now: "".join([part(conn, now) for part in parts])


def _part(piece: Piece, site: Site) -> Field:
    argument, letter = piece.argument, piece.letter
    if argument is None and (text := OF_REQUEST.get(letter)):
        last, none = _shows_last(piece), "" if letter == "q" else "-"

        def of_request(conn: Connection, now: int) -> str:
            request = _last(conn) if last else conn.request
            return text(request, site) if request is not None else none

        return of_request
    if argument is None or (letter, argument) == ("p", "canonical"):
        if letter in FIELDS:
            return FIELDS[letter]
        if letter in OF_SITE:
            return OF_SITE[letter](site)
    elif letter in WITH_TEXT:
        return WITH_TEXT[letter](argument, site)
    elif letter in CHOICES:
        if argument in CHOICES[letter]:
            return CHOICES[letter][argument]
        raise FormatError(f"{piece.text!r}: use one of {', '.join(CHOICES[letter])}")
    texts = (f"{{...}}{one}" for one in (*WITH_TEXT, *CHOICES))
    known = " %".join([*FIELDS, *OF_REQUEST, *OF_SITE, *texts])
    raise FormatError(f"{piece.text!r} is unknown; known are %{known}")


def _only_for(condition: str, part: Field, directive: str) -> Field:
    """`%400,501…` and `%!200,304…`: for these statuses only, or for all others."""
    if not condition:
        return part
    others = condition.startswith("!")
    words = condition.removeprefix("!").split(",")
    if not all(re.fullmatch(r"[1-5]\d\d", word) for word in words):
        raise FormatError(f"{directive!r}: a condition is a list of statuses, such as %!200,304...")
    statuses = frozenset(map(int, words))
    return lambda conn, now: part(conn, now) if (conn.status in statuses) != others else "-"


def wants_received(text: str) -> bool:
    """Whether a format needs the number of bytes received."""
    return any(one.letter in ("I", "S") and one.argument is None for one in pieces(text))


def wants_response(text: str) -> bool:
    """Whether a format needs the response: a header of it, or the last of internal redirects."""
    return any(
        one.letter in ("o", "e") or (one.letter in OF_REQUEST and _shows_last(one))
        for one in pieces(text)
    )


def _shows_last(piece: Piece) -> bool:
    return ">" in piece.text or ("<" not in piece.text and piece.letter != "U")


def format_error(text: str) -> str:
    """What is wrong with a format, "" for a valid one."""
    try:
        compile_format(text)
    except FormatError as error:
        return str(error)
    return ""


def _common(conn: Connection, now: int) -> str:
    """A line in the common format, as most servers write it: the same text as the table gives, faster."""
    request = conn.request
    line = request.log_line if request is not None else _line(conn)
    when = _request_time(conn.started // 1_000_000_000)
    return f'{conn.peer[0]} - - {when} "{line}" {conn.status} {conn.body_sent or "-"}\n'
