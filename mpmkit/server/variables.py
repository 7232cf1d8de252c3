"""The variables that SetEnvIf and BrowserMatch give a request: for scripts, `%{…}e` and `CustomLog … env=`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mpmkit.config.setenvif import EnvRule

if TYPE_CHECKING:
    from mpmkit.http.messages import Request
    from mpmkit.server.connection import Connection

_ATTRIBUTES: dict[str, Callable[[Request, Connection], str]] = {
    "remote_addr": lambda request, conn: conn.peer[0],
    "remote_host": lambda request, conn: conn.peer[0],
    "server_addr": lambda request, conn: conn.local[0],
    "request_method": lambda request, conn: request.method,
    "request_protocol": lambda request, conn: "HTTP/{}.{}".format(*request.version),
    "request_uri": lambda request, conn: request.path,
}


def variables_of(
    rules: Iterable[EnvRule], request: Request | None, conn: Connection
) -> dict[str, str]:
    """Those that the lines set for a request, each line after the one before."""
    found: dict[str, str] = {}
    if request is None:
        return found
    for rule in rules:
        if special := _ATTRIBUTES.get(rule.attribute):
            value = os.fsencode(special(request, conn))
        else:
            value = request.get(rule.attribute.encode("latin-1", "replace")) or b""
            same = [text for name, text in found.items() if name.lower() == rule.attribute]
            value = value or os.fsencode("".join(same[:1]))
        rule.apply(value, found)
    return found
