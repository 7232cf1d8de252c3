"""Which handler answers a request, and whether it may: what the sections of httpd.conf say.

    Alias, ScriptAlias,         where a path leads: a file below DocumentRoot, or elsewhere
    WSGIScriptAlias
    <Directory>  by the file's directory, shortest first        Require      may the client have it?
    <Files>      by the file's name                             SetHandler   who answers
    <Location>   by the URL's path                              AddHandler   who answers, by extension
                                                                Options      may it be run?

Later sections override earlier ones, and the kinds come in this order, as in httpd. What they
decide depends on the path alone, so it is decided once for each path and remembered. Only where a
path can't tell which part of it is a script's (below a ScriptAlias, or under a SetHandler) the file
system is asked, at each request.

    /site/app.py/users/7          .py is wsgi-script's: the script is /site/app.py, PATH_INFO /users/7
    /cgi-bin/tools/ps/7           ScriptAlias: the first part that is no directory is the script
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any, NamedTuple

from mpmkit.config.directives import DirectiveError, Directives, Section, section_values
from mpmkit.handlers.gateway import Script, redirected
from mpmkit.handlers.static import StaticFiles
from mpmkit.handlers.wsgi import WsgiScripts
from mpmkit.http.messages import Request, RequestError, Response, page

if TYPE_CHECKING:
    from mpmkit.handlers.cgi import CgiScripts
    from mpmkit.handlers.fastcgi import FastCgi
    from mpmkit.server.connection import Connection
    from mpmkit.server.logs import ErrorLog

Handler = Callable[[Request, "Connection"], Response]

DECISIONS_KEPT = 1024
ORDER = ("Directory", "DirectoryMatch", "Files", "FilesMatch", "Location", "LocationMatch")
# What `Options All` means: everything but MultiViews.
ALL_OPTIONS = frozenset(
    {"Indexes", "Includes", "IncludesNOEXEC", "FollowSymLinks", "SymLinksIfOwnerMatch", "ExecCGI"}
)


class Rule:
    """One section: which paths it is for, and what it says about them."""

    def __init__(self, section: Section) -> None:
        self.kind = section.kind
        self.arg = section.arg
        self.values = section_values(section)
        self.written = bool(section.file)  # by somebody, in a file; not one of our own defaults
        self.options = [s.args for s in section.settings if s.name.lower() == "options"]
        if self.kind.endswith("Match"):
            try:
                self._pattern = re.compile(self.arg)
            except re.error as error:
                raise DirectiveError(
                    f"<{self.kind} {self.arg}>: not a regular expression: {error}",
                    directive=self.kind,
                    file=section.file,
                    line=section.line,
                ) from None

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


class Said(NamedTuple):
    """What all sections together say about a path and its file.

    handler     SetHandler's, None without one; `by_name`: a <Files> section said it
    by_extension, options, require      AddHandler's, Options', Require's
    body        LimitRequestBody's; None where no section at all has one: then the protocol knows it
    sendfile, mmap      EnableSendfile's, EnableMMAP's
    documents, signature                ErrorDocument's, by status, and ServerSignature's
    """

    handler: str | None
    by_name: bool
    by_extension: Mapping[str, str]
    options: frozenset[str]
    require: tuple[str, ...]
    body: int | None
    sendfile: bool
    mmap: bool
    documents: Mapping[int, str]
    signature: str


class Place(NamedTuple):
    """A part of the site: the URL paths below `prefix` are the files below `root`."""

    kind: str  # DocumentRoot, Alias, ScriptAlias or WSGIScriptAlias
    prefix: str
    root: str

    def holds(self, path: str) -> bool:
        """Does `path` begin with whole segments of the prefix?"""
        if not path.startswith(self.prefix):
            return False
        return path[len(self.prefix) :][:1] in ("", "/") or self.prefix.endswith("/")

    def file(self, path: str) -> str:
        rest = path[len(self.prefix) :]
        if self.prefix.endswith("/") and not self.root.endswith("/"):
            rest = "/" + rest
        return self.root + rest

    def limit(self) -> str:
        """The directory that a file of this place may not lead out of."""
        return os.path.realpath(
            self.root if os.path.isdir(self.root) else os.path.dirname(self.root)
        )


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
        errors: ErrorLog,
    ) -> None:
        self._directives = directives
        self._errors = errors
        self._scripts = scripts
        self._named = named
        self._trace = directives.TraceEnable.lower() != "off"
        self._by_extension = dict(directives.handlers)
        self._default = directives.SetHandler
        self._options = merge_options(frozenset(), [directives.Options])
        self._root = Place("DocumentRoot", "", files.root)
        places = [Place(*alias) for alias in directives.aliases]
        # mod_alias looks before mod_wsgi does; each in the order of its lines.
        self._places = [
            *(place for place in places if place.kind != "WSGIScriptAlias"),
            *(place for place in places if place.kind == "WSGIScriptAlias"),
        ]
        self._limits = {place: place.limit() for place in (self._root, *self._places)}
        files.handler_of, files.errors = self.decide, errors
        self._files = files
        # For each place, and for what the sections say about it of sendfile and mmap.
        self._static = {(self._root, files.options.sendfile, files.options.mmap): files}
        rules = [Rule(section) for section in directives.sections]
        limits = any("LimitRequestBody" in rule.values for rule in rules)
        self._body = directives.LimitRequestBody if limits else None
        self._rules = sorted(rules, key=lambda rule: (ORDER.index(rule.kind), _depth(rule)))
        # A child has SCHED_BATCH, and with threads one CPU; its programs not: asked before any child is.
        self._cpus, self._policy = os.sched_getaffinity(0), os.sched_getscheduler(0)
        self._cgi: CgiScripts | None = None
        self._fastcgi: FastCgi | None = None
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

    # -- deciding -----------------------------------------------------------------------------

    def decide(self, path: str) -> Handler:
        """Who answers for `path`."""
        if path == "*":
            return _whole_server
        place = self.place(path)
        if place.kind == "ScriptAlias":
            return self._walking(place, path, "cgi-script", aliased=True)
        if place.kind == "WSGIScriptAlias":
            if os.path.isdir(place.root):
                return self._walking(place, path, "wsgi-script")
            rest = place.file(path)[len(place.root) :]
            name = path[: len(path) - len(rest)] if rest else path
            return self._running("wsgi-script", place, path, place.root, name, rest)
        said = self.said(path, place.file(path))
        if said.handler is not None:
            if said.handler in self._named:
                return self._guarded(said, self._named[said.handler])
            if is_script(said.handler) and not said.by_name:
                return self._walking(place, path, said.handler)
            if not is_script(said.handler):
                return self._guarded(said, self._files_of(place, said))
        for end in _ends(path, len(place.prefix)):
            filename = place.file(path[:end])
            here = self.said(path, filename)
            handler = here.handler
            if handler is None:
                handler = _by_extension(here.by_extension, filename)
            elif not here.by_name:
                continue
            if handler is None or not is_script(handler):
                continue
            if end < len(path) and os.path.isdir(filename):
                continue  # a directory with a script's name
            return self._running(handler, place, path, filename, path[:end], path[end:])
        return self._guarded(said, self._files_of(place, said))

    def place(self, path: str) -> Place:
        """The first alias that the path begins with, or the document root."""
        for place in self._places:
            if place.holds(path):
                return place
        return self._root

    def said(self, path: str, filename: str = "") -> Said:
        """What the sections say about a URL path and the file that it leads to (without `filename`:
        asked of `place`)."""
        filename = filename or self.place(path).file(path)
        require: tuple[str, ...] = ("all", "granted")
        handler, by_name = self._default, False
        by_extension: Mapping[str, str] = self._by_extension
        options, body = self._options, self._body
        sendfile, mmap = self._files.options.sendfile, self._files.options.mmap
        documents: Mapping[int, str] = self._directives.ErrorDocument
        signature = self._directives.ServerSignature
        for rule in self._rules:
            if rule.is_for(path, filename):
                body = rule.values.get("LimitRequestBody", body)
                sendfile = rule.values.get("EnableSendfile", sendfile)
                mmap = rule.values.get("EnableMMAP", mmap)
                require = rule.values.get("Require", require)
                signature = rule.values.get("ServerSignature", signature)
                if "ErrorDocument" in rule.values:
                    documents = {**documents, **rule.values["ErrorDocument"]}
                if "SetHandler" in rule.values:
                    handler = rule.values["SetHandler"]
                    by_name = rule.kind.startswith("Files")
                if "AddHandler" in rule.values:
                    by_extension = {**by_extension, **rule.values["AddHandler"]}
                if rule.options:
                    options = merge_options(options, rule.options)
        if handler is not None and handler.lower() == "none":
            handler = None
        return Said(
            handler,
            by_name,
            by_extension,
            options,
            require,
            body,
            sendfile,
            mmap,
            documents,
            signature,
        )

    def _files_of(self, place: Place, said: Said) -> StaticFiles:
        key = (place, said.sendfile, said.mmap)
        static = self._static.get(key)
        if static is None:
            files = self._files
            static = self._static[key] = StaticFiles(
                place.root,
                files.index,
                files.types,
                prefix=place.prefix,
                options=files.options._replace(sendfile=said.sendfile, mmap=said.mmap),
            )
            static.handler_of, static.errors = files.handler_of, files.errors
            static.canonical, static.charset = files.canonical, files.charset
            static.listings = files.listings
        return static

    def _guarded(self, said: Said, handler: Handler) -> Handler:
        """`handler` for those whom Require lets in, and for bodies that LimitRequestBody allows."""
        if (limit := said.body) is not None:
            inner = handler

            def handler(request: Request, conn: Connection) -> Response:
                if conn.protocol.in_body:
                    conn.protocol.limit_body(request, limit)
                return inner(request, conn)

        if said.require == ("all", "denied"):
            return self._denied
        if said.require == ("local",):
            return lambda request, conn: (handler if _is_local(conn) else self._denied)(
                request, conn
            )
        return handler

    def _denied(self, request: Request, conn: Connection) -> Response:
        self._errors.write(
            "error",
            f"Require keeps this client from {self.place(request.path).file(request.path)}",
            ah="AH01630",
            module="authz_core",
            client=conn.peer,
        )
        return page(403, request.method)

    # -- scripts ------------------------------------------------------------------------------

    def _running(
        self,
        handler: str,
        place: Place,
        path: str,
        filename: str,
        name: str,
        path_info: str,
        aliased: bool = False,
    ) -> Handler:
        """A handler for one script and one PATH_INFO."""
        said = self.said(path, filename)
        script = Script(
            filename,
            name,
            path_info,
            self._limits[place],
            self._translated(path_info) if path_info else "",
            place.prefix,
        )
        if handler == "wsgi-script":
            run = self._scripts.run
            return self._guarded(said, lambda request, conn: run(request, conn, script))
        if handler == "cgi-script":
            allowed = aliased or "ExecCGI" in said.options
            cgi = self._cgi_scripts()
            return self._guarded(
                said, lambda request, conn: cgi.run(request, conn, script, allowed)
            )
        backend = self._fast_cgi().backend(handler)
        return self._guarded(said, lambda request, conn: backend.run(request, conn, script))

    def _walking(self, place: Place, path: str, handler: str, aliased: bool = False) -> Handler:
        """A handler that asks the file system, at each request, which part of the path is the script."""

        def walk(request: Request, conn: Connection) -> Response:
            end = len(path)
            for end in _ends(path, len(place.prefix)):
                try:
                    if not S_ISDIR(os.stat(place.file(path[:end])).st_mode):
                        break
                except (OSError, ValueError):
                    break
            run = self._running(
                handler, place, path, place.file(path[:end]), path[:end], path[end:], aliased
            )
            return run(request, conn)

        return walk

    def _translated(self, path_info: str) -> str:
        return self.place(path_info).file(path_info)

    def _cgi_scripts(self) -> CgiScripts:
        if self._cgi is None:
            from mpmkit.handlers.cgi import CgiScripts  # here: most servers never run a program

            self._cgi = CgiScripts(
                self._directives,
                self._errors,
                self._root.root,
                self.redirect,
                self._cpus,
                self._policy,
            )
        return self._cgi

    def _fast_cgi(self) -> FastCgi:
        if self._fastcgi is None:
            from mpmkit.handlers.fastcgi import FastCgi

            self._fastcgi = FastCgi(self._directives, self._errors, self._root.root, self.redirect)
        return self._fastcgi

    def redirect(
        self, request: Request, conn: Connection, location: str, fields: bytes, told: dict[str, Any]
    ) -> Response:
        """A script's `Location: /path`: the answer of that path, with the script's header lines."""
        from mpmkit.http.protocol import split_target

        try:
            path, query = split_target("GET", location.encode("latin-1"))
        except RequestError as error:
            self._errors.write(
                "error",
                f"{request.path}: its Location {location!r} leads nowhere: {error}",
                module="cgi",
                client=conn.peer,
            )
            return page(500, request.method)
        new = redirected(request, path, query, told)
        if new is None:
            self._errors.write(
                "error",
                f"{request.path}: more than 10 internal redirects; a script's Location leads "
                "back to itself",
                ah="AH00124",
                client=conn.peer,
            )
            return page(500, request.method)
        response = self(new, conn)
        return Response(
            response.status,
            fields + response.fields,
            response.after,
            response.body,
            response.length,
            response.close,
            response.reason,
        )

    # -- the rest -----------------------------------------------------------------------------

    def _echo(self, request: Request) -> Response:
        """TRACE (RFC 9110, 9.3.8), or 405 where TraceEnable is off."""
        if not self._trace:
            return page(405, extra=b"Allow: \r\n")
        if request.length != 0:
            raise RequestError(413, "TRACE with a body", ah="AH01595")
        return Response(200, b"", b"Content-Type: message/http\r\n\r\n", [request.head], None)

    def _check_handlers(self) -> None:
        """Every handler that is named exists.

        What programs and backends need is made now, before any child is, so that children share it; but
        not for the samples alone: `subprocess` costs each child a quarter of a megabyte.
        """
        known = ("wsgi-script", "cgi-script", "default-handler", "none", *self._named)
        names = list(self._by_extension.values()) + ([self._default] if self._default else [])
        for rule in self._rules:
            names += [rule.values["SetHandler"]] if rule.values.get("SetHandler") else []
            names += list(rule.values.get("AddHandler", {}).values())
        for name in names:
            if name.startswith("proxy:"):
                self._fast_cgi().backend(name)
            elif name.lower() not in known:
                raise DirectiveError(
                    f"there is no handler {name!r} here; use one of {', '.join(known)}, or "
                    "proxy:unix:/path/to/socket|fcgi://localhost",
                    directive="SetHandler",
                )
        meant = [*self._by_extension.values(), self._default]
        for rule in self._rules:
            if rule.written:
                meant += [
                    rule.values.get("SetHandler"),
                    *rule.values.get("AddHandler", {}).values(),
                ]
        if "cgi-script" in meant or any(place.kind == "ScriptAlias" for place in self._places):
            self._cgi_scripts()


def is_script(handler: str) -> bool:
    """Does this handler run what a file holds, instead of sending it?"""
    return handler in ("wsgi-script", "cgi-script") or handler.startswith("proxy:")


def merge_options(options: frozenset[str], lines: Iterable[tuple[str, ...]]) -> frozenset[str]:
    """Options lines upon others: with signs they add and take away, without they replace."""
    for words in lines:
        if not words[0].startswith(("+", "-")):
            options = frozenset()
        for word in words:
            bare = word.lstrip("+-")
            named = (
                ALL_OPTIONS
                if bare.lower() == "all"
                else frozenset(
                    ()
                    if bare.lower() == "none"
                    else (
                        one for one in (*ALL_OPTIONS, "MultiViews") if one.lower() == bare.lower()
                    )
                )
            )
            options = options - named if word.startswith("-") else options | named
    return options


def _ends(path: str, start: int) -> Iterator[int]:
    """Where the segments of a path end: from `start`, an alias's own end, to the whole of it."""
    if start and path[start : start + 1] == "/":
        yield start
    at = path.find("/", start + 1)
    while 0 <= at < len(path) - 1:
        yield at
        at = path.find("/", at + 1)
    if at == len(path) - 1 > start:
        yield at
    yield len(path)


def _by_extension(handlers: Mapping[str, str], filename: str) -> str | None:
    """AddHandler's handler for a file name; of several, the one that was written first."""
    return next((name for ext, name in handlers.items() if filename.endswith(ext)), None)


def _depth(rule: Rule) -> int:
    """Shorter directories first; sections of the other kinds stay in the file's order."""
    return rule.arg.rstrip("/").count("/") if rule.kind == "Directory" else 0


def _is_local(conn: Connection) -> bool:
    """Require local: the client is this machine."""
    address = conn.peer[0]
    return address.startswith("127.") or address == "::1" or address == conn.local[0]


def _whole_server(request: Request, conn: Connection) -> Response:
    """`OPTIONS *`."""
    return Response(200, b"Content-Length: 0\r\n", b"\r\n")
