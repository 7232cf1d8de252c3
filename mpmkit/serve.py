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
from importlib import import_module
from typing import NoReturn

from mpmkit import httpd_conf
from mpmkit.core import Service
from mpmkit.directives import MPMS, DirectiveError, Directives, Note, Section, Setting, check
from mpmkit.handlers.router import Router
from mpmkit.handlers.static import StaticFiles
from mpmkit.handlers.status import Status
from mpmkit.handlers.wsgi import WsgiScripts
from mpmkit.listen import Listener, ListenError, bind, inherit, open_listeners
from mpmkit.logs import AccessLog, ErrorLog, LogError, open_log
from mpmkit.parent import Parent, Setup
from mpmkit.rehearsal import rehearse

SAMPLES = os.path.join(os.path.dirname(__file__), "htdocs")

# What a lab's server has before any file is read; a file or an option may say otherwise.
DEFAULTS = (
    Setting("DocumentRoot", (SAMPLES,)),
    Setting("AddHandler", ("wsgi-script", ".py")),
    Setting("ExtendedStatus", ("On",)),
)
DEFAULT_SECTIONS = (
    Section("Location", "/server-status", (Setting("SetHandler", ("server-status",)),)),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(1, f"mpmkit: {message}; mpmkit serve --help says more\n")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
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


class Configuration:
    """Reads what the command line names, at the start and again at each restart.

    home    where to make a certificate (--tls), or None
    """

    def __init__(self, args: argparse.Namespace, home: str | None = None) -> None:
        self._args = args
        self._certificate = _certificate(home) if home is not None else ()
        self._parent: Parent | None = None
        self.port: int | None = args.port
        self.free: list[
            Listener
        ] = []  # a free port, bound before anything is read: it has a number then
        if args.port is not None and not 0 <= args.port <= 65535:
            raise DirectiveError(f"--port {args.port}: a port is 0..65535 (0: any free one)")
        if args.port == 0 and args.listen_fd is None:
            self.free = [bind("127.0.0.1", 0)]
            self.port = self.free[0].getsockname()[1]

    def attach(self, parent: Parent) -> None:
        self._parent = parent

    def read(self) -> tuple[Directives, tuple[Note, ...]]:
        """The directives, and what the operator should know. Raises DirectiveError."""
        args = self._args
        after: list[str | Setting] = [*self._certificate, *args.after]
        if args.document_root is not None:
            after.append(Setting("DocumentRoot", (os.path.abspath(args.document_root),)))
        if args.file is not None:
            conf = httpd_conf.read(args.file, mpm=args.mpm, before=DEFAULTS, after=after)
        else:
            conf = httpd_conf.parse("", mpm=args.mpm, before=DEFAULTS, after=after)
        if conf.mpm is None:
            raise DirectiveError(
                "no MPM: name prefork, worker or event, or give a file with LoadModule mpm_…"
            )
        settings = list(conf.settings)
        if self.port is not None:
            settings = [s for s in settings if s.name.lower() != "listen"]
            settings.append(Setting("Listen", (f"127.0.0.1:{self.port}",)))
        elif not any(s.name.lower() == "listen" for s in settings):
            settings.append(Setting("Listen", ("127.0.0.1:8080",)))
        running = self._parent.setup.directives if self._parent is not None else None
        directives, notes = check(
            conf.mpm, settings, [*DEFAULT_SECTIONS, *conf.sections], running=running
        )
        httpd_conf.check_machine(directives, settings)
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
        )
        access = AccessLog(directives.CustomLog) if directives.CustomLog else None
        return Setup(
            directives, Service(directives, self.handler(directives, errors), access, errors), notes
        )

    def handler(self, directives: Directives, errors: ErrorLog) -> Router:
        """The handlers that the directives ask for."""
        root = directives.DocumentRoot
        assert root is not None
        status = Status(
            lambda: self._parent.board,
            extended=directives.ExtendedStatus,
            name=directives.ServerName,
        )
        return Router(
            directives,
            StaticFiles(root, directives.DirectoryIndex, directives.types),
            WsgiScripts(root, directives.mpm, errors, directives.ServerName or "localhost"),
            {"server-status": status},
        )


def _certificate(home: str) -> tuple[Setting, ...]:
    """What --tls stands for. Raises CertificateError."""
    from mpmkit.certificate import self_signed

    certificate, key = self_signed(home)
    print(f"mpmkit: clients have to trust {certificate}", file=sys.stderr)
    return (
        Setting("SSLEngine", ("On",)),
        Setting("SSLCertificateFile", (certificate,)),
        Setting("SSLCertificateKeyFile", (key,)),
    )


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

    from mpmkit.certificate import CertificateError

    with TemporaryDirectory(prefix="mpmkit-") as home:
        try:
            return serve(args, home)
        except CertificateError as error:
            print(f"mpmkit: {error}", file=sys.stderr)
            return 1


def serve(args: argparse.Namespace, home: str | None = None) -> int:
    """`main`, with a place for what exists as long as the server."""
    try:
        configuration = Configuration(args, home)
        setup = configuration.setup()
        if args.listen_fd is not None:
            listeners: list[Listener] = [inherit(args.listen_fd, setup.directives)]
        else:
            listeners = open_listeners(setup.directives, configuration.free)
    except (DirectiveError, ListenError, LogError, OSError) as error:
        for line in str(error).splitlines():
            print(f"mpmkit: {line}", file=sys.stderr)
        return 1
    for note in setup.notes:
        if setup.service.errors.enabled(note.level):
            print(f"mpmkit: {note}", file=sys.stderr)
    mpm = import_module(f"mpmkit.mpm.{setup.directives.mpm}")
    try:
        parent = mpm.parent(
            setup, configuration.setup, listeners, ready=ready, lifeline=args.lifeline,
            inherited=args.listen_fd is not None,
        )  # fmt: skip
    except (OSError, MemoryError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "there is not enough memory"
        print(
            f"mpmkit: AH00004: the scoreboard cannot be made: {why}; see ScoreBoardFile, and "
            "ServerLimit and ThreadLimit for its size",
            file=sys.stderr,
        )
        return 1
    configuration.attach(parent)
    rehearse(setup.directives, configuration.handler, SAMPLES)
    return parent.run()
