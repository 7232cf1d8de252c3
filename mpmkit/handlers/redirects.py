"""Redirects: Redirect and related directives (mod_alias), and a directory without its slash."""

import os
import re
from collections.abc import Iterable

from mpmkit.config.alias import Redirection
from mpmkit.handlers.gateway import CONTROL
from mpmkit.http.messages import REASONS, Request, Response, page
from mpmkit.http.target import OwnName
from mpmkit.server.connection import Connection

_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:")
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/-._~$!&'()*+,;=:@"
_QUOTED = [bytes([byte]) if byte in _PLAIN else b"%%%02x" % byte for byte in range(256)]


def quote_path(path: str) -> bytes:
    """A decoded path as a link may hold it."""
    return b"".join(_QUOTED[byte] for byte in os.fsencode(path))


def redirection(lines: Iterable[Redirection], path: str) -> tuple[int, bytes] | None:
    """Status and target of the first line that is for a path. Escaped is, as by httpd, what a Redirect
    appends to its target; of a RedirectMatch's all but the query and the fragment."""
    for line in lines:
        if (target := line.of(path)) is not None:
            if line.pattern is None:
                size = len(line.target)
                return line.status, os.fsencode(target[:size]) + quote_path(target[size:])
            size = len(re.split("[?#]", target, maxsplit=1)[0])
            return line.status, quote_path(target[:size]) + os.fsencode(target[size:])
    return None


def redirected_away(
    status: int, target: bytes, request: Request, conn: Connection, own: OwnName
) -> Response:
    """The answer for a line's target: a URL, a path of this site, or nothing but the status."""
    if status >= 400 or status not in REASONS:
        return page(status if status in REASONS else 500, request.method)
    # What a group of RedirectMatch puts into the query is not escaped, and may be no header line.
    if CONTROL.search(target) or not (target.startswith(b"/") or _ABSOLUTE.match(target)):
        return page(500, request.method)
    return moved(status, target, request, conn, own)


def moved(status: int, url: bytes, request: Request, conn: Connection, own: OwnName) -> Response:
    """A redirect. A path gets this server's name, and a URL without a query the request's."""
    if url.startswith(b"/"):
        url = own.url(request.get(b"host"), conn.scheme).encode("latin-1", "replace") + url
    if request.query and b"?" not in url:
        url += b"?" + request.query
    return page(status, request.method, extra=b"Location: %b\r\n" % url)
