"""Configured error pages: ErrorDocument, and a line of the log at LogLevel info.

    ErrorDocument 404 "Not here."           a text
    ErrorDocument 404 /errors/404.html      a path of this site; the status stays 404
    ErrorDocument 404 https://other/x       another place: 302
    ErrorDocument 404 default               the built-in page

The handler wraps the router only if the configuration, or a section of it, needs it. Only pages made by
`messages.page` are changed; a script's answer, of any status, stays unchanged.
"""

from mpmkit.config.directives import Directives, section_values
from mpmkit.handlers.gateway import redirected
from mpmkit.handlers.router import Router
from mpmkit.http.fastpath import CONDITIONAL
from mpmkit.http.messages import REASONS, Page, Request, RequestError, Response, page, text
from mpmkit.server.connection import Connection, Disconnected
from mpmkit.server.logs import ErrorLog

HTML = b"text/html; charset=iso-8859-1"
DEFAULT = "default"  # the word for the built-in page


class ErrorPages:
    """The handler around `router`."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._errors, self._directives = router.errors, router.directives

    @staticmethod
    def wanted(d: Directives, errors: ErrorLog) -> bool:
        """Whether the configuration needs this handler."""
        said = any("ErrorDocument" in section_values(section) for section in d.sections)
        return bool(d.ErrorDocument) or said or errors.enabled("info")

    def __call__(self, request: Request, conn: Connection) -> Response:
        try:
            response = self._router(request, conn)
        except (RequestError, Disconnected):
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
        document = self._directives.ErrorDocument.get(status, DEFAULT)
        if document.lower() in (DEFAULT, "") or _elsewhere(document):
            return page(status, method, what=conn.hint)
        return _text(page(status, method), document, method)

    def _changed(self, response: Page, request: Request, conn: Connection) -> Response:
        documents = self._router.config_for(request.path).values["ErrorDocument"]
        target = documents.get(response.status, DEFAULT)
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
                fields = response.extra + document.fields
                more = (response.close or document.close, None, document.request or new)
                body = (document.after, document.body, document.length)
                return Response(response.status, fields, *body, *more)
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
