"""Which handler answers a request, and whether it may.

    Alias, ScriptAlias, WSGIScriptAlias     the file of a path: `UrlMapping`
    sections                                what is allowed there, and which handler: sections.py

The decision depends only on the path, so it is made once for each path and cached. Only
if a path does not show which part of it is a script (below a ScriptAlias, or under a SetHandler)
is the file system checked, at each request.

    /site/app.py/users/7          .py is wsgi-script's: the script is /site/app.py, PATH_INFO /users/7
    /cgi-bin/tools/ps/7           ScriptAlias: the first part that is not a directory is the script
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from stat import S_ISDIR
from typing import TYPE_CHECKING, Any

from mpmkit.config.alias import Redirection
from mpmkit.config.directives import Directives, section_values
from mpmkit.config.unsupported import PROGRAM_TYPES, is_backend
from mpmkit.handlers.gateway import CONTROL, Script, redirected
from mpmkit.handlers.sections import MergedConfig, Sections, allowed, forbidden_link
from mpmkit.handlers.static import LINK, StaticFiles, UrlMapping, answered_by, by_extension
from mpmkit.handlers.wsgi import WsgiScripts
from mpmkit.http.fastpath import CONDITIONAL
from mpmkit.http.messages import REASONS, Page, Request, RequestError, Response, page, text
from mpmkit.http.target import quote_line, split_target
from mpmkit.server.connection import Connection
from mpmkit.server.core import Handler, method_of

if TYPE_CHECKING:
    from mpmkit.handlers.gateway import Programs
    from mpmkit.server.logs import ErrorLog

DECISIONS_KEPT = 1024
HTML = b"text/html; charset=iso-8859-1"
DEFAULT = "default"  # ErrorDocument's word for the built-in page
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*:")


class Router:
    """The handler that calls the others. `named` are handlers that SetHandler may name, `files` what
    StaticFiles is given. Raises DirectiveError for a section or a handler that can't be used."""

    def __init__(
        self, d: Directives, log: ErrorLog, named: Mapping[str, Handler], **files: Any
    ) -> None:
        self.directives, self.errors, self._named = d, log, named
        self._trace = d.TraceEnable.lower() != "off"
        self.sections = Sections(d)
        self.files = StaticFiles(self, **files)
        self._root = self.files.mapping
        self.document_root = self._root.root
        aliases = [UrlMapping.of(*alias) for alias in d.aliases]
        # mod_alias comes before mod_wsgi; each in the order of its lines.
        self._aliases = sorted(aliases, key=lambda alias: alias.kind == "WSGIScriptAlias")
        # For each mapping, and for what the sections say there.
        self._static = {(self._root, self.sections.server): self.files}
        self.wsgi = WsgiScripts(d, log)
        self._scripts: dict[str, WsgiScripts | Programs] = {"wsgi-script": self.wsgi}
        self._lacking: set[str] = set()  # handlers that are named and not here: unsupported.py
        self._check_handlers()
        self._decisions: dict[str, Handler] = {}

    def __call__(self, request: Request, conn: Connection) -> Response:
        path = request.path
        decision = self._decisions.get(path)
        if decision is None:
            decision = method_of(self.decide(path))
            if len(self._decisions) >= DECISIONS_KEPT:
                self._decisions.clear()
                self._static = dict(list(self._static.items())[:1])
            self._decisions[path] = decision
        if request.method == "TRACE":
            return self._echo(request)
        return decision(request, conn)

    def decide(self, path: str) -> Handler:
        """The handler of `path`."""
        if path == "*":  # OPTIONS: of the whole server
            return lambda request, conn: Response(200, b"Content-Length: 0\r\n", b"\r\n")
        if away := self._away(self.directives.redirects, path):
            return away
        mapping = self.mapping(path)
        if mapping.kind == "ScriptAlias":
            return self._walking(mapping, path, "cgi-script")
        if mapping.kind == "WSGIScriptAlias":
            if os.path.isdir(mapping.root):
                return self._walking(mapping, path, "wsgi-script")
            return self._running("wsgi-script", mapping, path, len(mapping.prefix))
        config = self.sections.config_for(path, mapping.file(path))
        if config.handler is not None:
            if not is_script(config.handler):
                return self._served(config, mapping, path)
            if not config.by_name:
                return self._walking(mapping, path, config.handler)
        for end in _ends(path, len(mapping.prefix)):
            filename = mapping.file(path[:end])
            here = self.sections.config_for(path, filename)
            handler = here.handler
            if handler is None:
                handler = by_extension(filename, here.values["handlers"])
            elif not here.by_name:
                continue
            if handler in self._lacking:
                return self._guarded(here, self._lacks, path)
            if handler is not None and is_script(handler):
                if end == len(path) or not os.path.isdir(filename):  # it may have a script's name
                    return self._running(handler, mapping, path, end, by_name=True)
        if self._typed:
            kind = self.files.type_of(config.values, mapping.file(path)) or ""
            if kind.lower().startswith(PROGRAM_TYPES):
                return self._guarded(config, self._lacks, path)
        return self._served(config, mapping, path)

    def _away(self, lines: Iterable[Redirection], path: str) -> Handler | None:
        """What answers a path that one of the lines redirects, or gives nothing but a status."""
        for line in lines:
            if (target := line.of(path)) is not None:
                break
        else:
            return None
        status = line.status if line.status in REASONS else 500
        absolute = target.startswith(b"/") or _ABSOLUTE.match(target)
        # What a group of RedirectMatch puts into the query is not escaped, and may be no header line.
        if status < 400 and (CONTROL.search(target) or not absolute):
            status = 500
        if status < 400:
            return partial(self.files.moved, status, target)
        return lambda request, conn: page(status, request.method)

    def _served(self, config: MergedConfig, mapping: UrlMapping, path: str) -> Handler:
        """The handler that is not a script's: one by its name, or that of files."""
        if config.handler in self._lacking:
            return self._guarded(config, self._lacks, path)
        handler = self._named.get(config.handler or "") or self._static.get((mapping, config))
        if handler is None:
            handler = self.files.variant(mapping, config.values)
            self._static[mapping, config] = handler
        return self._guarded(config, handler, path)

    def mapping(self, path: str) -> UrlMapping:
        """The first alias that the path begins with, or the document root."""
        return next((alias.at(path) for alias in self._aliases if alias.holds(path)), self._root)

    def file(self, path: str) -> str:
        """The file that a path leads to."""
        return self.mapping(path).file(path)

    def _guarded(self, config: MergedConfig, handler: Handler, path: str) -> Handler:
        """`handler`, as far as links, Require, LimitRequestBody, redirects and FallbackResource let it answer."""
        access, values = config.access, config.values
        limit, lines = values["LimitRequestBody"], values["redirects"]
        fallback, index = values["FallbackResource"], values["DirectoryIndex"]
        everyone, watched = access.admits_all, self.sections.watched(self.file(path))
        if everyone and limit is None and not (lines or fallback or watched):
            return handler

        def guarded(request: Request, conn: Connection) -> Response:
            if watched and (link := forbidden_link(watched)) is not None:
                return self.refuse(403, LINK.format(link), request, conn, ah="AH00037")
            if not (everyone or access.admits(request, conn)):
                text = f"client denied by server configuration: {self.file(request.path)}"
                return self.refuse(403, text, request, conn, ah="AH01630", module="authz_core")
            if limit is not None and conn.protocol.body:
                conn.protocol.limit_body(request, limit)
            if lines and (away := self._away(lines, request.path)):
                return away(request, conn)
            if fallback and request.path != fallback and self._is_missing(request.path, index):
                if os.path.isfile(self.file(fallback)):
                    return self.decide(fallback)(request.for_path(Request, fallback), conn)
            return handler(request, conn)

        return guarded

    def _lacks(self, request: Request, conn: Connection) -> Response:
        """For a handler that is not here: to send its files as they are might show what they hide."""
        text = f"no such handler exists as is configured for {self.file(request.path)}"
        return self.refuse(403, text, request, conn)

    def refuse(
        self, status: int, text: str, request: Request, conn: Connection, **where: str
    ) -> Response:
        """The page of a refusal, whose reason goes to the error log, with `ah` and `module`."""
        self.errors.write("error", text, client=conn.peer, **where)
        return page(status, request.method)

    def _is_missing(self, path: str, index: Iterable[str]) -> bool:
        """There is no such file; or it is a directory, and none of its `index` files is there."""
        try:
            st = os.stat(self.file(path))
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False
        if not S_ISDIR(st.st_mode) or not path.endswith("/"):
            return False
        urls = [name if name.startswith("/") else path + name for name in index]
        return bool(urls) and not any(os.path.exists(self.file(url)) for url in urls)

    def _running(
        self, handler: str, mapping: UrlMapping, path: str, end: int, by_name: bool = False
    ) -> Handler:
        """A handler for the script at `path[:end]`, with the rest as PATH_INFO."""
        filename, rest = mapping.file(path[:end]), path[end:]
        config = self.sections.config_for(path, filename)
        translated = self.file(rest) if rest else ""
        options = allowed(config.values["Options"])
        may_run = mapping.kind.endswith("ScriptAlias") or "ExecCGI" in options
        place = (path[:end], rest, mapping.root, translated, mapping.prefix, may_run)
        script, run_script = Script(filename, *place), self._scripts_of(handler).run
        # Below a file there is no script, but a backend would look for one further up the path.
        directory = os.path.dirname(filename) if by_name and handler != "wsgi-script" else ""

        def run(request: Request, conn: Connection) -> Response:
            if directory and not os.path.isdir(directory):
                return page(404, request.method)
            return run_script(request, conn, script)

        return self._guarded(config, run, path)

    def _walking(self, mapping: UrlMapping, path: str, handler: str) -> Handler:
        """A handler that asks the file system, at each request, which part of the path is the script."""
        ends = _ends(path, len(mapping.prefix))

        def walk(request: Request, conn: Connection) -> Response:
            here = (end for end in ends if not os.path.isdir(mapping.file(path[:end])))
            return self._running(handler, mapping, path, next(here, len(path)))(request, conn)

        return walk

    def _scripts_of(self, handler: str) -> WsgiScripts | Programs:
        """What runs the scripts of a handler. Most servers never need CGI or FastCGI."""
        if handler not in self._scripts and handler == "cgi-script":
            from mpmkit.handlers.cgi import CgiScripts

            self._scripts[handler] = CgiScripts(self)
        elif handler not in self._scripts:
            from mpmkit.handlers.fastcgi import Backend

            self._scripts[handler] = Backend(self, handler)
        return self._scripts[handler]

    def redirect(
        self, request: Request, conn: Connection, location: str, fields: bytes, environ: dict
    ) -> Response:
        """A script's `Location: /path`: the answer of that path, with the script's header lines."""
        raw = location.encode("latin-1")
        try:
            path, query = split_target("GET", raw.partition(b"#")[0])
        except RequestError as error:
            text = f"{request.path}: its Location '{quote_line(raw)}' is invalid: {error}"
            return self.refuse(500, text, request, conn, module="cgi")
        new = redirected(request, path, query, environ)
        if new is None:
            text = f"{request.path}: more than 10 internal redirects; a script's Location leads back to itself"
            return self.refuse(500, text, request, conn, ah="AH00124")
        answer = answered_by(self, new, conn)
        if type(answer) is Page:  # ErrorDocument may change it: errors.py
            return answer
        return replace(answer, fields=fields + answer.fields, request=answer.request or new)

    def _echo(self, request: Request) -> Response:
        """TRACE (RFC 9110, 9.3.8), or 405 where TraceEnable is off."""
        if not self._trace:
            return page(405, extra=b"Allow: \r\n")
        if request.length != 0:
            raise RequestError(413, "TRACE with a body", ah="AH01595")
        return Response(200, b"", b"Content-Type: message/http\r\n\r\n", [request.head], None)

    def _check_handlers(self) -> None:
        """Which of the handlers that are named exist. What programs and backends need is made before the first
        fork, and shared; but not for the samples alone: `subprocess` costs each child 250 KB."""
        known = ("wsgi-script", "cgi-script", "default-handler", "none", *self._named)
        server, rules = self.sections.server, self.sections.rules
        kinds = [*self.files.types.values(), *server.values["types"].values()]
        for rule in rules:
            kinds += [*rule.values.get("types", {}).values(), rule.values.get("ForceType") or ""]
        self._typed = any(kind.lower().startswith(PROGRAM_TYPES) for kind in kinds)
        names = [*server.values["handlers"].values(), server.handler or "none"]
        used = names + [name for rule in rules if rule.of_a_file for name in rule.handlers]
        for name in names + [name for rule in rules for name in rule.handlers]:
            if is_backend(name):
                self._scripts_of(name)
            elif name.lower() not in known:
                self._lacking.add(name)
        if "cgi-script" in used or any(alias.kind == "ScriptAlias" for alias in self._aliases):
            self._scripts_of("cgi-script")


def is_script(handler: str) -> bool:
    """Does this handler run what a file holds, instead of sending it?"""
    return handler in ("wsgi-script", "cgi-script") or is_backend(handler)


def _ends(path: str, start: int) -> list[int]:
    """Where the segments of a path end: from `start`, an alias's own end, to the whole of it."""
    return [at for at in range(start or 1, len(path)) if path[at] == "/"] + [len(path)]


class ErrorPages:
    """The handler around `router`, only if the configuration, or a section of it, needs it: ErrorDocument, and a
    line of the log at LogLevel info. Only pages made by `messages.page` are changed, no script's answer.

    ErrorDocument 404 "Not here."           a text
    ErrorDocument 404 /errors/404.html      a path of this site; the status stays 404
    ErrorDocument 404 https://other/x       another place: 302
    ErrorDocument 404 default               the built-in page"""

    def __init__(self, router: Router) -> None:
        self._router, self._errors = router, router.errors

    @staticmethod
    def wanted(d: Directives, errors: ErrorLog) -> bool:
        """Whether the configuration needs this handler."""
        said = any("ErrorDocument" in section_values(section) for section in d.sections)
        return bool(d.ErrorDocument) or said or errors.enabled("info")

    def __call__(self, request: Request, conn: Connection) -> Response:
        try:
            response = self._router(request, conn)
        except RequestError:
            raise
        except BaseException:  # as core.process_request, but a path may be ErrorDocument's
            self._errors.exception(f"the handler of {request.path} failed", client=conn.peer)
            response = page(500, request.method)
        if type(response) is not Page:
            return response
        request = response.request or request
        if response.status == 404:
            # Without a path: http/target.py, split_target.
            ah, why = "AH00026", f"%2F or %00 in the path: {request.log_line}"
            if request.path:
                ah, why = "AH00128", f"File does not exist: {self._router.file(request.path)}"
            self._errors.write("info", why, ah=ah, client=conn.peer)
        return self._changed(response, request, conn)

    def refusal(self, status: int, conn: Connection, method: str = "GET") -> Response:
        """The page for a request that was refused before any handler: it may have a text, no redirect."""
        document = self._router.directives.ErrorDocument.get(status, DEFAULT)
        if document.lower() in (DEFAULT, "") or _elsewhere(document):
            return page(status, method, what=conn.hint)
        return _text(page(status, method), document, method)

    def _changed(self, response: Page, request: Request, conn: Connection) -> Response:
        config = self._router.sections.config_for(request.path, self._router.file(request.path))
        target = config.values["ErrorDocument"].get(response.status, DEFAULT)
        if target.lower() == DEFAULT:
            return response
        if not _elsewhere(target):
            return _text(response, target, request.method)
        if not target.startswith("/"):
            location = b"Location: %b\r\n" % target.encode("latin-1", "replace")
            return page(302, request.method, extra=location)
        path, _, query = target.partition("?")
        raw = query.encode("latin-1", "replace")
        before = {"REQUEST_METHOD": request.method}
        new = redirected(request, path, raw, before, status=response.status)
        failed = 500  # it leads back to itself
        if new is not None:
            # The client's conditions were about the resource that it requested.
            new.headers = tuple(field for field in new.headers if field[0] not in CONDITIONAL)
            new.conditional = False
            document = self._router(new, conn)
            if type(document) is not Page:
                own: Any = {"status": response.status, "fields": response.extra + document.fields}
                own |= {"close": response.close or document.close, "reason": None}
                return replace(document, request=document.request or new, **own)
            failed = document.status
        what = f"ErrorDocument {target}: {failed} {REASONS[failed]}"
        return page(response.status, request.method, extra=response.extra, what=what)


def _elsewhere(target: str) -> bool:
    """Whether an ErrorDocument is a path or a URL, not a text."""
    return target.startswith("/") or "://" in target.partition(" ")[0]


def _text(response: Page, document: str, method: str) -> Response:
    """`response` with the text of an ErrorDocument."""
    body = document.encode("latin-1", "xmlcharrefreplace")
    answer = text(response.status, body, HTML, method, response.extra)
    answer.close = response.close
    return answer
