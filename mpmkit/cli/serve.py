"""`mpmkit serve`: the one place where a configuration, an MPM and the handlers are joined.

    mpmkit serve MPM [-f httpd.conf] [-c 'Directive value']… [--port 0] [--document-root DIR]

In the foreground. One line `ready http://127.0.0.1:PORT` on standard output once clients can
connect; the error log on standard error. Ends with status 0 on TERM or Ctrl-C, when its children
are gone; with 1 and one clear line when it cannot start, before anything is forked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from mpmkit.config import httpd_conf
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS, DirectiveError, Directives, Note, Section, Setting, check
from mpmkit.handlers.errors import ErrorPages
from mpmkit.handlers.router import Router
from mpmkit.handlers.static import FileOptions, StaticFiles, read_types
from mpmkit.handlers.status import Status
from mpmkit.handlers.wsgi import WsgiScripts
from mpmkit.http.messages import server_header
from mpmkit.server.child import Setup
from mpmkit.server.core import Handler, Service, default_error_page
from mpmkit.server.listen import Listener, ListenError, bind, inherit, open_listeners
from mpmkit.server.log_format import Site, compile_format, format_error
from mpmkit.server.logs import AccessLog, BufferedAccessLog, ErrorLog, LogError, open_log
from mpmkit.server.parent import Parent
from mpmkit.server.pidfile import PidFileError
from mpmkit.server.prewarm import rehearse
from mpmkit.server.scoreboard import Scoreboard

SAMPLES = os.path.join(os.path.dirname(os.path.dirname(__file__)), "htdocs")

# What a lab's server has before any file is read; a file or an option may say otherwise.
DEFAULTS = (
    Setting("DocumentRoot", (SAMPLES,)),
    Setting("AddHandler", ("wsgi-script", ".py")),
    Setting("ExtendedStatus", ("On",)),
)
DEFAULT_SECTIONS = (
    Section(
        "Directory",
        SAMPLES,
        (Setting("AddHandler", ("cgi-script", ".cgi")), Setting("Options", ("+ExecCGI",))),
    ),
    Section("Location", "/server-status", (Setting("SetHandler", ("server-status",)),)),
)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="mpmkit serve",
        description="Run one of Apache's request models, in Python, in the foreground.",
    )
    parser.add_argument(
        "mpm", nargs="?", choices=MPMS, help="left out: the file's LoadModule names it"
    )
    parser.add_argument("-f", dest="file", metavar="FILE", help="an httpd.conf")
    parser.add_argument(
        "-c",
        dest="after",
        metavar="'Directive value'",
        action="append",
        default=[],
        help="one more directive",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="listen on 127.0.0.1:N; 0: any free port"
    )
    parser.add_argument("--document-root", metavar="DIR", help="serve DIR instead of the samples")
    parser.add_argument(
        "--tls", action="store_true", help="speak TLS, with a certificate made for this run"
    )
    parser.add_argument(
        "--listen-fd", type=int, metavar="FD", help="an open listening socket to use"
    )
    parser.add_argument(
        "--lifeline", type=int, metavar="FD", help="stop when this pipe's writer is gone"
    )
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Source:
    """What a command line says about where the configuration comes from.

    before, after   lines ahead of the file and behind it; `sections` come ahead, too
    server_root     ServerRoot until the file says otherwise; defines: names, or NAME=value
    document_root   whether DocumentRoot must exist (httpd -T: no)
    """

    file: str | None = None
    mpm: str | None = None
    before: tuple[str | Setting, ...] = ()
    after: tuple[str | Setting, ...] = ()
    sections: tuple[Section, ...] = ()
    defines: tuple[str, ...] = ()
    server_root: str | None = None
    document_root: bool = True


class Configuration:
    """Reads what the command line names, at the start and again at each restart."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.background = False  # what is written to standard error belongs into the error log
        self._listings = False  # mod_autoindex is loaded
        self._parent: Parent | None = None

    def attach(self, parent: Parent) -> None:
        self._parent = parent

    def text(self) -> httpd_conf.Conf:
        """The file as it was written, its mistakes included. Raises DirectiveError without one."""
        source = self.source
        options: dict[str, Any] = {
            "mpm": source.mpm,
            "before": source.before,
            "after": source.after,
            "defines": source.defines,
            "server_root": source.server_root,
            "keep_going": True,
        }
        if source.file is None:
            return httpd_conf.parse("", **options)
        return httpd_conf.read(source.file, **options)

    def settings(self, conf: httpd_conf.Conf) -> list[Setting]:
        """The lines that count."""
        return list(conf.settings)

    def read(self, conf: httpd_conf.Conf | None = None) -> tuple[Directives, tuple[Note, ...]]:
        """The directives, and what the operator should know. Raises DirectiveError."""
        conf = conf or self.text()
        self._listings = any(module.name == "autoindex_module" for module in conf.modules)
        problems = list(conf.problems)
        if conf.mpm is None:
            problems.append(
                DirectiveError(
                    "no MPM: name prefork, worker or event by "
                    "LoadModule mpm_event_module modules/mod_mpm_event.so",
                    ah="AH00534",
                )
            )
            raise DirectiveError.of(problems)
        settings = self.settings(conf)
        problems += httpd_conf.format_problems(settings, format_error)
        running = self._parent.setup.directives if self._parent is not None else None
        directives, notes = check(
            conf.mpm,
            settings,
            [*self.source.sections, *conf.sections],
            running=running,
            problems=problems,
        )
        httpd_conf.check_machine(directives, settings, document_root=self.source.document_root)
        return directives, (*conf.notes, *notes)

    def setup(self) -> Setup:
        """One reading, ready to serve. Raises DirectiveError, LogError."""
        directives, notes = self.read()
        if self._parent is not None and directives.mpm != self._parent.setup.directives.mpm:
            raise DirectiveError(
                "the MPM cannot change at a restart: stop the server and start it again"
            )
        errors = ErrorLog(
            open_log(directives.ErrorLog, "ErrorLog") if directives.ErrorLog else 2,
            directives.LogLevel,
            levels=directives.module_levels,
        )
        if self.background:
            os.dup2(errors.fd, 2)
        access = None
        if directives.CustomLog:
            kind = BufferedAccessLog if directives.BufferedLogs else AccessLog
            access = kind(directives.CustomLog, site(directives))
        handler = self.handler(directives, errors)
        error_page = handler.refusal if isinstance(handler, ErrorPages) else default_error_page
        service = Service(directives, handler, access, errors, error_page)
        return Setup(directives, service, notes)

    def _board(self) -> Scoreboard:
        assert self._parent is not None, "nobody asks for the status before there is a server"
        return self._parent.board

    def handler(self, directives: Directives, errors: ErrorLog | None = None) -> Handler:
        """The handlers that the directives ask for. Raises DirectiveError."""
        errors = errors or ErrorLog()
        root = directives.DocumentRoot
        assert root is not None
        status = Status(self._board, extended=directives.ExtendedStatus, name=directives.ServerName)
        files = StaticFiles(
            root,
            directives.DirectoryIndex,
            _media_types(directives),
            options=FileOptions.of(directives),
        )
        files.charset = directives.AddDefaultCharset
        files.listings = self._listings
        if directives.UseCanonicalName == "On" and directives.ServerName:
            files.canonical = directives.ServerName.encode("latin-1", "replace")
        router = Router(
            directives, files, WsgiScripts(directives, errors), {"server-status": status}, errors
        )
        if not ErrorPages.wanted(directives, errors):
            return router
        known = site(directives)
        name, port = compile_format("%V", known), compile_format("%p", known)
        return ErrorPages(
            directives, router, errors, known, lambda conn: (name(conn, 0), port(conn, 0))
        )


def site(directives: Directives) -> Site:
    """What the access log's formats may tell of the server."""
    return Site(
        directives.ServerName,
        directives.UseCanonicalName == "On",
        directives.DocumentRoot or "",
        directives.DirectoryIndex,
        directives.aliases,
        server_header(directives.ServerTokens),
    )


def _media_types(directives: Directives) -> dict[str, str]:
    """TypesConfig's and AddType's. Raises DirectiveError."""
    if directives.TypesConfig is None:
        return directives.types
    try:
        return read_types(directives.TypesConfig) | directives.types
    except OSError as error:
        raise DirectiveError(
            f"TypesConfig {directives.TypesConfig}: {error.strerror}: name a table of media types, "
            "such as /etc/mime.types",
            directive="TypesConfig",
            ah="AH01597",
        ) from None


class LabConfiguration(Configuration):
    """That of `mpmkit serve`: the samples, a status page, and a port from the command line.

    home    where to make a certificate (--tls), or None
    """

    def __init__(self, args: argparse.Namespace, home: str | None = None) -> None:
        certificate = _certificate(home) if home is not None else ()
        after: list[str | Setting] = [*certificate, *args.after]
        if args.document_root is not None:
            after.append(Setting("DocumentRoot", (os.path.abspath(args.document_root),)))
        super().__init__(Source(args.file, args.mpm, DEFAULTS, tuple(after), DEFAULT_SECTIONS))
        self.port: int | None = args.port
        self.free: list[
            Listener
        ] = []  # a free port, bound before anything is read: it has a number then
        if args.port is not None and not 0 <= args.port <= 65535:
            raise DirectiveError(f"--port {args.port}: a port is 0..65535 (0: any free one)")
        if args.port == 0 and args.listen_fd is None:
            self.free = [bind("127.0.0.1", 0)]
            self.port = self.free[0].getsockname()[1]

    def settings(self, conf: httpd_conf.Conf) -> list[Setting]:
        """--port stands above the file's Listen; without either it is 8080."""
        settings = list(conf.settings)
        if self.port is not None:
            settings = [s for s in settings if s.name.lower() != "listen"]
            settings.append(Setting("Listen", (f"127.0.0.1:{self.port}",)))
        elif not any(s.name.lower() == "listen" for s in settings):
            settings.append(Setting("Listen", ("127.0.0.1:8080",)))
        return settings


def _certificate(home: str) -> tuple[Setting, ...]:
    """What --tls stands for. Raises CertificateError."""
    from mpmkit.server.certificate import self_signed

    certificate, key = self_signed(home)
    print(f"mpmkit: clients have to trust {certificate}", file=sys.stderr)
    return (
        Setting("SSLEngine", ("On",)),
        Setting("SSLCertificateFile", (certificate,)),
        Setting("SSLCertificateKeyFile", (key,)),
    )


class StartError(Exception):
    """The server can't be made although its configuration is right."""


def make_parent(
    configuration: Configuration, setup: Setup, listeners: Sequence[Listener], **options: Any
) -> Parent:
    """The control process of the MPM that the setup names, ready to run. Raises StartError."""
    mpm = setup.directives.mpm
    child_class = getattr(import_module(f"mpmkit.mpm.{mpm}"), f"{mpm.capitalize()}Child")
    try:
        parent = Parent(child_class, setup, configuration.setup, listeners, **options)
    except (OSError, MemoryError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "there is not enough memory"
        raise StartError(
            f"AH00004: the scoreboard cannot be made: {why}; see ScoreBoardFile, and "
            "ServerLimit and ThreadLimit for its size"
        ) from None
    configuration.attach(parent)
    rehearse(setup.directives, configuration.handler, SAMPLES, child_class)
    return parent


def ready(url: str) -> None:
    """The one line that tells whoever started us that clients can connect."""
    try:
        os.write(1, f"ready {url}\n".encode())
    except OSError:
        pass  # nobody reads it


def main(argv: Sequence[str]) -> int:
    """Run a server until a signal ends it; returns the exit status."""
    args = arguments(argv)
    if not args.tls:
        return serve(args)
    from tempfile import TemporaryDirectory

    from mpmkit.server.certificate import CertificateError

    with TemporaryDirectory(prefix="mpmkit-") as home:
        try:
            return serve(args, home)
        except CertificateError as error:
            print(f"mpmkit: {error}", file=sys.stderr)
            return 1


def serve(args: argparse.Namespace, home: str | None = None) -> int:
    """`main`, with a place for what exists as long as the server."""
    try:
        configuration = LabConfiguration(args, home)
        setup = configuration.setup()
        if args.listen_fd is not None:
            listeners: list[Listener] = [inherit(args.listen_fd, setup.directives)]
        else:
            listeners = open_listeners(setup.directives, configuration.free)
        for note in setup.notes:
            if setup.service.errors.enabled(note.level):
                print(f"mpmkit: {note}", file=sys.stderr)
        parent = make_parent(
            configuration,
            setup,
            listeners,
            ready=ready,
            lifeline=args.lifeline,
            inherited=args.listen_fd is not None,
        )
        parent.write_pid_file()
    except (DirectiveError, ListenError, LogError, PidFileError, StartError, OSError) as error:
        for line in str(error).splitlines():
            print(f"mpmkit: {line}", file=sys.stderr)
        return 1
    return parent.run()
