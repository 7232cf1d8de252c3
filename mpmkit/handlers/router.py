"""Which handler answers a request, and whether it may: what the sections of httpd.conf say.

    <Directory>  by the file's directory, shortest first        Require      may the client have it?
    <Files>      by the file's name                             SetHandler   who answers
    <Location>   by the URL's path                              AddHandler   who answers, by extension

Later sections override earlier ones, and the kinds come in this order, as in httpd. What they
decide depends on the path alone, so it is decided once for each path and remembered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from mpmkit.directives import DirectiveError, Directives, Section, section_values
from mpmkit.handlers.static import StaticFiles
from mpmkit.handlers.wsgi import WsgiScripts
from mpmkit.http.messages import Request, Response, page

if TYPE_CHECKING:
    from mpmkit.connection import Connection

Handler = Callable[[Request, "Connection"], Response]

DECISIONS_KEPT = 1024
ORDER = ("Directory", "DirectoryMatch", "Files", "FilesMatch", "Location", "LocationMatch")


class Rule:
    """One section: which paths it is for, and what it says about them."""

    def __init__(self, section: Section) -> None:
        self.kind = section.kind
        self.arg = section.arg
        self.values = section_values(section)
        if self.kind.endswith("Match"):
            try:
                self._pattern = re.compile(self.arg)
            except re.error as error:
                raise DirectiveError(
                    f"<{self.kind} {self.arg}>: not a regular expression: {error}",
                    directive=self.kind, file=section.file, line=section.line,
                ) from None  # fmt: skip

    def is_for(self, path: str, filename: str) -> bool:
        match self.kind:
            case "Location":
                return path == self.arg or path.startswith(self.arg.rstrip("/") + "/")
            case "Directory":
                return filename == self.arg.rstrip("/") or filename.startswith(
                    self.arg.rstrip("/") + "/"
                )
            case "Files":
                return fnmatch(os.path.basename(filename), self.arg)
            case "LocationMatch":
                return self._pattern.search(path) is not None
            case "FilesMatch":
                return self._pattern.search(os.path.basename(filename)) is not None
            case _:
                return self._pattern.search(os.path.dirname(filename)) is not None


class Router:
    """The handler that calls the others. `named` are handlers that SetHandler may name.

    Raises DirectiveError for a section or a handler that can't be used.
    """

    def __init__(
        self,
        directives: Directives,
        files: StaticFiles,
        scripts: WsgiScripts,
        named: Mapping[str, Handler],
    ) -> None:
        self._files = files
        files.handler_of = self.decide
        self._scripts = scripts
        self._named = named
        self._trace = directives.TraceEnable.lower() != "off"
        self._by_extension = dict(directives.handlers)
        self._default = directives.SetHandler
        rules = [Rule(section) for section in directives.sections]
        self._rules = sorted(rules, key=lambda rule: (ORDER.index(rule.kind), _depth(rule)))
        self._check_handlers()
        self._decisions: dict[str, Handler] = {}

    def __call__(self, request: Request, conn: Connection) -> Response:
        path = request.path
        decision = self._decisions.get(path)
        if decision is None:
            decision = self.decide(path)
            if len(self._decisions) >= DECISIONS_KEPT:
                self._decisions.clear()
            self._decisions[path] = decision
        if request.method == "TRACE":
            return self._echo(request)
        return decision(request, conn)

    def decide(self, path: str) -> Handler:
        """Who answers for `path`."""
        if path == "*":
            return _whole_server
        filename = self._files.root + path
        require: tuple[str, ...] = ("all", "granted")
        set_handler = self._default
        by_extension = self._by_extension
        for rule in self._rules:
            if rule.is_for(path, filename):
                require = rule.values.get("Require", require)
                set_handler = rule.values.get("SetHandler", set_handler)
                if "AddHandler" in rule.values:
                    by_extension = {**by_extension, **rule.values["AddHandler"]}
        handler = self._handler(path, set_handler, by_extension)
        if require == ("all", "denied"):
            return _denied
        if require == ("local",):
            return lambda request, conn: (handler if _is_local(conn) else _denied)(request, conn)
        return handler

    def _handler(
        self, path: str, set_handler: str | None, by_extension: Mapping[str, str]
    ) -> Handler:
        if set_handler is not None and set_handler.lower() != "none":
            if set_handler == "wsgi-script":
                return self._script(path, path, "")
            if set_handler in self._named:
                return self._named[set_handler]
            return self._files
        for extension, name in by_extension.items():
            if name == "wsgi-script":
                # The script is the first segment with that extension; the rest is its PATH_INFO.
                at = path.find(extension)
                while at >= 0:
                    end = at + len(extension)
                    if end == len(path) or path[end] == "/":
                        return self._script(path, path[:end], path[end:])
                    at = path.find(extension, end)
        return self._files

    def _script(self, path: str, name: str, path_info: str) -> Handler:
        run = self._scripts.run
        return lambda request, conn: run(request, conn, name, path_info)

    def _echo(self, request: Request) -> Response:
        """TRACE (RFC 9110, 9.3.8), or 405 where TraceEnable is off."""
        if not self._trace:
            return page(405, extra=b"Allow: \r\n")
        return Response(200, b"", b"Content-Type: message/http\r\n\r\n", [request.head], None)

    def _check_handlers(self) -> None:
        known = ("wsgi-script", "default-handler", "none", *self._named)
        names = list(self._by_extension.values()) + ([self._default] if self._default else [])
        for rule in self._rules:
            names += [rule.values["SetHandler"]] if rule.values.get("SetHandler") else []
            names += list(rule.values.get("AddHandler", {}).values())
        for name in names:
            if name.lower() not in known:
                raise DirectiveError(
                    f"there is no handler {name!r} here; use one of {', '.join(known)}",
                    directive="SetHandler",
                )


def _depth(rule: Rule) -> int:
    """Shorter directories first; sections of the other kinds stay in the file's order."""
    return rule.arg.rstrip("/").count("/") if rule.kind == "Directory" else 0


def _is_local(conn: Connection) -> bool:
    """Require local: the client is this machine."""
    address = conn.peer[0]
    return address.startswith("127.") or address == "::1" or address == conn.sock.getsockname()[0]


def _denied(request: Request, conn: Connection) -> Response:
    return page(403, request.method)


def _whole_server(request: Request, conn: Connection) -> Response:
    """`OPTIONS *`."""
    return Response(200, b"Content-Length: 0\r\n", b"\r\n")
