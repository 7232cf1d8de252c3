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
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from mpmkit.config.alias import variables_of
from mpmkit.config.directives import Directives
from mpmkit.config.values import COMMON, FormatError, Piece, pieces
from mpmkit.http.messages import http_date, server_header
from mpmkit.http.target import OwnName, quote_line

if TYPE_CHECKING:
    from mpmkit.http.messages import Request
    from mpmkit.server.connection import Connection

Field = Callable[["Connection", int, "Site"], str]  # (connection, ns at the end, server) -> text
Line = Callable[["Connection", int], str]


class Site:
    """What the formats show of the server. own: ServerName, or else the machine's name; host: it in a log."""

    def __init__(self, d: Directives) -> None:
        self.directives = d
        self.own = OwnName.of(d.ServerName or os.uname().nodename, d.UseCanonicalName == "On")
        self.host = quote_line(os.fsencode(self.own.host))
        self.server = server_header(d.ServerTokens)

    def place(self, conn: Connection) -> tuple[str, str]:
        """The name and the port that the request of a connection was sent to."""
        return self.own.place(conn.request.get(b"host") if conn.request else None, conn.scheme)

    def shown(self, conn: Connection) -> bytes:
        """That name: the client's bytes, or ServerName's in the encoding of names of files."""
        name = self.place(conn)[0]
        return os.fsencode(name) if name == self.own.host else name.encode("latin-1")

    def filename(self, path: str) -> str:
        for _, url, target in self.directives.aliases:
            rest = path.removeprefix(url)
            if rest != path and (rest[:1] in ("", "/") or url.endswith("/")):
                return target + rest[target.endswith("/") and rest.startswith("/") :]
        return f"{self.directives.DocumentRoot}{path}"

    def indexed(self, path: str) -> str:
        """The path; that of the first DirectoryIndex there is, where it names a directory."""
        names = self.directives.DirectoryIndex if path.endswith("/") else ()
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


def _time(argument: str) -> Field:
    """%{format}t: strftime, or one of _CLOCKS; `begin:` (when it came) or `end:` (now) before it."""
    at_end = argument.startswith("end:")
    layout = argument.removeprefix("begin:").removeprefix("end:") or "[%d/%b/%Y:%H:%M:%S %z]"
    clock = _CLOCKS.get(layout, lambda ns: time.strftime(layout, time.localtime(ns // 10**9)))
    return lambda conn, now, site: clock(now if at_end else conn.started)


def _line(conn: Connection) -> str:
    if conn.request is not None:
        return conn.request.log_line
    return quote_line(conn.protocol.line) or "-"


def _last(conn: Connection) -> Request | None:
    """Of internal redirects the last."""
    return (conn.response and conn.response.request) or conn.request


def _header(key: bytes, conn: Connection, now: int, site: Site) -> str:
    found = conn.request.get(key) if conn.request is not None else None
    return "-" if found is None else quote_line(found)


def _cookie(key: bytes, conn: Connection, now: int, site: Site) -> str:
    cookies = conn.request.get(b"cookie") if conn.request is not None else None
    pairs = (one.strip().partition(b"=") for one in (cookies or b"").split(b";"))
    return next((quote_line(found) for name, equals, found in pairs if equals and name == key), "-")


def _variable(name: str, conn: Connection, now: int, site: Site) -> str:
    """%{NAME}e: of SetEnvIf and BrowserMatch, or of the server's environment."""
    found = variables_of(site.directives.variables, _last(conn), conn).get(name)
    return os.environ.get(name, "-") if found is None else quote_line(os.fsencode(found))


def _answered(key: bytes, conn: Connection, now: int, site: Site) -> str:
    """%{NAME}o: a header of the response. Those that the connection writes come from its state."""
    if key == b"date":
        return http_date(conn.started // 1_000_000_000)
    if key == b"server":
        return site.server
    if key == b"connection":
        asks = conn.request is not None and conn.request.asks_keep_alive
        return "close" if not conn.keep_alive else "Keep-Alive" if asks else "-"
    sent = conn.response
    head = sent.fields + sent.after if sent is not None else b""
    found = re.search(rb"(?im)^%b: *([^\r\n]*)\r?$" % re.escape(key), head)
    return quote_line(found[1]) if found else "-"


def _local(index: int, conn: Connection) -> str:
    """The server's address or port of this connection, "-" once it is closed."""
    try:
        return str(conn.local[index])
    except OSError:
        return "-"


def _kept(conn: Connection, site: Site) -> int:
    """As httpd's ap_set_keepalive counts: responses after which the connection was kept, so the last request
    repeats a number; but for the one after MaxKeepAliveRequests, before which %X is - already."""
    repeats = not conn.keep_alive and conn.kept != site.directives.MaxKeepAliveRequests
    return max(0, conn.kept - repeats)


def _connection_after(conn: Connection, site: Site) -> str:
    """%X: it ended before the client had the response, goes on, or ends."""
    if conn.unsent:
        return "X"
    last = conn.kept + 1 == site.directives.MaxKeepAliveRequests
    return "+" if conn.keep_alive and not last else "-"


# %LETTER, and %{word}LETTER with one of a few words.
FIELDS: dict[str, Field] = {
    "h": lambda conn, now, site: conn.peer[0],
    "a": lambda conn, now, site: conn.peer[0],
    "A": lambda conn, now, site: _local(0, conn),
    "l": lambda conn, now, site: "-",
    "u": lambda conn, now, site: "-",
    "t": lambda conn, now, site: _request_time(conn.started // 1_000_000_000),
    "r": lambda conn, now, site: _line(conn),
    "s": lambda conn, now, site: str(conn.status),
    "b": lambda conn, now, site: str(conn.body_sent or "-"),
    "B": lambda conn, now, site: str(conn.body_sent),
    "I": lambda conn, now, site: str(conn.received),
    "O": lambda conn, now, site: str(conn.sent - conn.unsent),
    "S": lambda conn, now, site: str(conn.received + conn.sent - conn.unsent),
    "D": lambda conn, now, site: str((now - conn.started) // 1000),
    "T": lambda conn, now, site: str((now - conn.started) // 1_000_000_000),
    "{ms}T": lambda conn, now, site: str((now - conn.started) // 1_000_000),
    "P": lambda conn, now, site: str(os.getpid()),
    "{tid}P": lambda conn, now, site: str(get_native_id()),
    "{hextid}P": lambda conn, now, site: f"{get_native_id():x}",
    "H": lambda conn, now, site: conn.request.log_line.split(" ")[-1] if conn.request else "-",
    "v": lambda conn, now, site: site.host,
    "V": lambda conn, now, site: quote_line(site.shown(conn)),
    "p": lambda conn, now, site: site.place(conn)[1],
    "{local}p": lambda conn, now, site: _local(1, conn),
    "{remote}p": lambda conn, now, site: str(conn.peer[1]),
    "X": lambda conn, now, site: _connection_after(conn, site),
    "k": lambda conn, now, site: str(_kept(conn, site)),
    "%": lambda conn, now, site: "%",
}
_SAME = {"{c}a": "a", "{c}h": "h", "{canonical}p": "p", "{pid}P": "P", "{s}T": "T", "{us}T": "D"}
# L and R, the request's number in the error log and the handler's name, are not known here.
FIELDS |= {key: FIELDS[same] for key, same in (_SAME | dict.fromkeys("LR", "u")).items()}
# Of the request. Of internal redirects these show the last, but %U the first; `<` and `>` choose.
OF_REQUEST: dict[str, Callable[[Request, Site], str]] = {
    "f": lambda request, site: quote_line(os.fsencode(site.filename(site.indexed(request.path)))),
    "m": lambda request, site: request.method,
    "q": lambda request, site: quote_line(b"?" + request.query) if request.query else "",
    "U": lambda request, site: quote_line(os.fsencode(site.indexed(request.path))),
}
# %{text}LETTER, with any.
WITH_TEXT: dict[str, Callable[[str], Field]] = {
    "i": lambda text: partial(_header, text.lower().encode("latin-1", "replace")),
    "C": lambda text: partial(_cookie, text.encode("latin-1", "replace")),
    "o": lambda text: partial(_answered, text.lower().encode("latin-1", "replace")),
    "e": lambda text: partial(_variable, text),
    "t": _time,
    # Variables of mod_ssl, notes of modules, trailers: not known here.
    **dict.fromkeys(("x", "c", "n", "L", "^ti", "^to"), lambda text: FIELDS["u"]),
}


def compile_format(text: str, site: Any = None, condition: str = "") -> Line:
    """A function that makes a LogFormat's line, "" for requests without the variable that the condition names,
    or, after a `!`, with it. site: a Site; None will do to check a format. Raises FormatError."""
    if condition:
        line, name = compile_format(text, site), condition.removeprefix("!")

        def some(conn: Connection, now: int) -> str:
            found = variables_of(site.directives.variables, conn.request, conn)
            return line(conn, now) if (name in found) == (name == condition) else ""

        return some
    if text == COMMON + "\n":
        return _common
    parts = [_only_for(piece, _part(piece)) for piece in pieces(text)]
    return lambda conn, now: "".join([part(conn, now, site) for part in parts])


def _part(piece: Piece) -> Field:
    argument, letter = piece.argument, piece.letter
    if not letter:
        return lambda conn, now, site: piece.text
    if argument is None and (text := OF_REQUEST.get(letter)):
        last = ">" in piece.text or ("<" not in piece.text and letter != "U")

        def of_request(conn: Connection, now: int, site: Site) -> str:
            request = _last(conn) if last else conn.request
            return text(request, site) if request is not None else "" if letter == "q" else "-"

        return of_request
    if argument is not None and letter in WITH_TEXT:
        return WITH_TEXT[letter](argument)
    if found := FIELDS.get(letter if argument is None else f"{{{argument}}}{letter}"):
        return found
    words = [key[1:-2] for key in FIELDS if key.endswith(f"}}{letter}")]
    if argument is not None and words:
        raise FormatError(f"{piece.text!r}: use one of {', '.join(words)}")
    known = " %".join([*FIELDS, *OF_REQUEST, *(f"{{...}}{one}" for one in WITH_TEXT)])
    raise FormatError(f"{piece.text!r} is unknown; known are %{known}")


def _only_for(piece: Piece, part: Field) -> Field:
    """`%400,501…` and `%!200,304…`: for these statuses only, or for all others."""
    if not piece.condition:
        return part
    if not re.fullmatch(r"!?[1-5]\d\d(,[1-5]\d\d)*", piece.condition):
        why = "a condition is a list of statuses, such as %!200,304..."
        raise FormatError(f"{piece.text!r}: {why}")
    only = not piece.condition.startswith("!")
    statuses = frozenset(map(int, piece.condition.removeprefix("!").split(",")))
    return lambda conn, now, site: (
        part(conn, now, site) if (conn.status in statuses) == only else "-"
    )


def _common(conn: Connection, now: int) -> str:
    """A line in the common format, as most servers write it: the same text as the table gives, faster."""
    request = conn.request
    line = request.log_line if request is not None else _line(conn)
    when = _request_time(conn.started // 1_000_000_000)
    return f'{conn.peer[0]} - - {when} "{line}" {conn.status} {conn.body_sent or "-"}\n'
