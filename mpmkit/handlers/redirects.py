"""Redirect and its kin (mod_alias): the answer for a path that leads to another URL."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mpmkit.config.alias import Redirection
from mpmkit.handlers.static import quote_path
from mpmkit.http.messages import REASONS, Request, Response, page
from mpmkit.http.target import OwnName

if TYPE_CHECKING:
    from mpmkit.server.connection import Connection

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def redirection(lines: Iterable[Redirection], path: str) -> tuple[int, str] | None:
    """Status and target of the first line that is for a path."""
    for line in lines:
        if (target := line.of(path)) is not None:
            return line.status, target
    return None


def redirected_away(
    status: int, target: str, request: Request, conn: Connection, own: OwnName
) -> Response:
    """The answer. A path of this site gets this server's name, and a URL without a query the request's."""
    if status >= 400 or status not in REASONS:
        return page(status if status in REASONS else 500, request.method)
    if target.startswith("/"):
        target = own.url(request.get(b"host"), conn.scheme) + target
    elif not _ABSOLUTE.match(target):
        return page(500, request.method)
    url, mark, query = target.partition("?")
    raw = quote_path(url)
    if mark:
        raw += b"?" + query.encode("utf-8", "surrogateescape")
    elif request.query:
        raw += b"?" + request.query
    return page(status, request.method, extra=b"Location: %b\r\n" % raw)
