"""What a client gets in place of an answer: ErrorDocument, ServerSignature, and a line at LogLevel info.

    ErrorDocument 404 "Not here."           a text
    ErrorDocument 404 /errors/404.html      a path of this site; the status stays 404
    ErrorDocument 404 https://other/x       another place: 302
    ErrorDocument 404 default               the page that there is without one

A <Directory>, <Location> or <Files> may say otherwise for its own.

It stands around the other handlers, and only where the configuration asks for something: a server
without these directives has nothing of it on its way. Only pages that `messages.page` made are changed;
what a script answers, with whatever status, is the script's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mpmkit.config.directives import Directives, section_values
from mpmkit.handlers.gateway import redirected
from mpmkit.http.messages import REASONS, Page, Request, Response, page

if TYPE_CHECKING:
    from mpmkit.handlers.router import Router
    from mpmkit.server.connection import Connection
    from mpmkit.server.log_format import Site
    from mpmkit.server.logs import ErrorLog

TEXT = b"Content-Type: text/html; charset=iso-8859-1\r\n\r\n"


class ErrorPages:
    """The handler around `router`. `place` tells the server's name and port as the client knows them."""

    def __init__(
        self,
        directives: Directives,
        router: Router,
        errors: ErrorLog,
        site: Site,
        place: Callable[[Connection], tuple[str, str]],
    ) -> None:
        self._router = router
        self._errors = errors
        self._documents = directives.ErrorDocument
        self._signature = directives.ServerSignature
        self._admin = directives.ServerAdmin
        self._site = site
        self._place = place

    @staticmethod
    def wanted(directives: Directives, errors: ErrorLog) -> bool:
        """Whether there is anything to do."""
        said = [section_values(section) for section in directives.sections]
        return bool(
            directives.ErrorDocument
            or directives.ServerSignature != "Off"
            or any("ErrorDocument" in values or "ServerSignature" in values for values in said)
            or errors.enabled("info")
        )

    def __call__(self, request: Request, conn: Connection) -> Response:
        response = self._router(request, conn)
        if type(response) is not Page:
            return response
        if response.status == 404:
            if request.path:
                ah, text = "AH00128", f"File does not exist: {self._site.filename(request.path)}"
            else:  # http/protocol.py, split_target
                ah, text = "AH00026", f"%2F or %00 in the path: {request.log_line}"
            self._errors.write("info", text, ah=ah, client=conn.peer)
        return self._changed(response, request, conn)

    def refusal(self, status: int, conn: Connection, method: str = "GET") -> Response:
        """The page for a request that never came to a handler: a text and a signature, no redirect."""
        text = _document_for(status, self._documents) or ""
        if text and not _elsewhere(text):
            return _text(page(status, method), text, method)
        return page(status, method, signature=self._line(self._signature, conn))

    def _line(self, signature: str, conn: Connection) -> bytes:
        """ServerSignature's line below a page, b"" if it is Off."""
        if signature == "Off":
            return b""
        name, port = self._place(conn)
        name = _escape(name)
        if signature == "EMail" and self._admin:
            name = f'<a href="mailto:{_escape(self._admin)}">{name}</a>'
        line = (
            f"<hr>\n<address>{_escape(self._site.server)} Server at {name} Port {port}</address>\n"
        )
        return line.encode("latin-1", "xmlcharrefreplace")

    def _changed(self, response: Page, request: Request, conn: Connection) -> Response:
        said = self._router.said(request.path)
        target = _document_for(response.status, said.documents)
        why = ""
        if target is not None and not _elsewhere(target):
            return _text(response, target, request.method)
        if target is not None and not target.startswith("/"):
            extra = b"Location: %b\r\n" % target.encode("latin-1", "replace")
            return page(
                302, request.method, extra=extra, signature=self._line(said.signature, conn)
            )
        if target is not None:
            document = self._document(target, response, request, conn)
            if type(document) is not Page and document is not None:
                return Response(
                    response.status,
                    response.extra + document.fields,
                    document.after,
                    document.body,
                    document.length,
                    response.close or document.close,
                )
            status = document.status if document is not None else 500
            why = f"ErrorDocument {target}: {status} {REASONS[status]}"
        elif said.signature == "Off":
            return response
        return page(
            response.status,
            request.method,
            extra=response.extra,
            what=why or response.what,
            signature=self._line(said.signature, conn),
        )

    def _document(
        self, target: str, response: Page, request: Request, conn: Connection
    ) -> Response | None:
        """The answer of the path that ErrorDocument names; None if it leads back to itself."""
        path, _, query = target.partition("?")
        new = redirected(
            request, path, query.encode("latin-1", "replace"), {}, status=response.status
        )
        if new is None:
            return None
        # The client's conditions were about what it asked for.
        new.headers = tuple(
            field
            for field in new.headers
            if not field[0].startswith(b"if-") and field[0] != b"range"
        )
        new.conditional = False
        return self._router(new, conn)


def _document_for(status: int, documents: Mapping[int, str]) -> str | None:
    """What ErrorDocument says, None for `default`, too."""
    target = documents.get(status)
    return None if target is None or target.lower() == "default" else target


def _elsewhere(target: str) -> bool:
    """Whether an ErrorDocument is a path or a URL, and no text."""
    return target.startswith("/") or "://" in target.partition(" ")[0]


def _text(response: Response, text: str, method: str) -> Response:
    extra = response.extra if isinstance(response, Page) else b""
    body = text.encode("latin-1", "xmlcharrefreplace")
    fields = extra + b"Content-Length: %d\r\n" % len(body)
    if method == "HEAD":
        return Response(response.status, fields, TEXT, b"", 0, response.close)
    return Response(response.status, fields, TEXT, body, len(body), response.close)


def _escape(text: str) -> str:
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, entity)
    return text
