"""`mpmkit serve`: a server for the lab, with samples, a status page and a port.

    mpmkit serve MPM [-f httpd.conf] [-c 'Directive value']… [--port 0] [--document-root DIR]

In the foreground. One line `ready http://127.0.0.1:PORT` on standard output once clients can connect; the error
log on standard error. Ends with status 0 on TERM or Ctrl-C, when its children are gone; with 1 and one clear
line when it cannot start, before anything is forked; with 2 for a wrong command line.
"""

import argparse
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress

from mpmkit.cli.configuration import SAMPLES, Configuration, StartError
from mpmkit.config.arguments import Parser
from mpmkit.config.directives import MPMS, DirectiveError, Section, Setting
from mpmkit.config.httpd_conf import Conf, Source
from mpmkit.config.keywords import from_keywords
from mpmkit.server import home
from mpmkit.server.home import PidFileError
from mpmkit.server.listen import Listener, ListenError, bind, open_listeners
from mpmkit.server.logs import LogError

# What a lab's server has before any file is read; a file or an option may say otherwise.
DEFAULTS = (
    Setting("DocumentRoot", (SAMPLES,)),
    Setting("AddHandler", ("wsgi-script", ".py")),
    Setting("Options", ("+ExecCGI",)),
    Setting("ExtendedStatus", ("On",)),
)
DEFAULT_SECTIONS = (
    Section("Directory", SAMPLES, (Setting("AddHandler", ("cgi-script", ".cgi")),)),
    # For clients on this machine: a file may have a public Listen.
    Section("Location", "/server-status",
            (Setting("SetHandler", ("server-status",)), Setting("Require", ("local",)))),
)  # fmt: skip


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    does = "Run one of Apache's request models, in Python, in the foreground."
    parser = Parser(prog="mpmkit serve", description=does)
    add = parser.add_argument
    add("mpm", nargs="?", choices=MPMS, help="default: the MPM of the file's LoadModule")
    add("-f", dest="file", metavar="FILE", help="an httpd.conf")
    add("-c", dest="after", metavar="'Directive value'", action="append", help="one more directive")
    add("--port", type=int, metavar="N", help="listen on 127.0.0.1:N; 0: any free port")
    add("--document-root", metavar="DIR", help="serve DIR instead of the samples")
    add("--tls", action="store_true", help="use TLS, with a certificate made for this run")
    add("--lifeline", type=int, metavar="FD", help="stop when this pipe's writer is gone")
    add("--home", metavar="DIR", help="remove this folder if --lifeline ended the server")
    return parser.parse_args(argv)


class LabConfiguration(Configuration):
    """That of `mpmkit serve`. folder: where to make a certificate (--tls), or None."""

    def __init__(self, args: argparse.Namespace, folder: str | None = None) -> None:
        after: list[str | Setting] = list(args.after or ())
        if folder is not None:
            certificate, key = home.self_signed(folder)
            if args.home is None:  # else a launcher names it
                print(f"mpmkit: clients have to trust {certificate}", file=sys.stderr)
            files = {"SSLCertificateFile": certificate, "SSLCertificateKeyFile": key}
            after = [*from_keywords(None, SSLEngine=True, **files), *after]
        if args.document_root is not None:
            after.append(Setting("DocumentRoot", (os.path.abspath(args.document_root),)))
        given = {"text": ""} if args.file is None else {"file": args.file}
        source = Source(mpm=args.mpm, before=DEFAULTS, after=tuple(after), **given)
        super().__init__(source, DEFAULT_SECTIONS)
        self.port: int | None = args.port
        # a free port, bound before anything is read: it has a number then
        self.free: list[Listener] = []
        if args.port is not None and not 0 <= args.port <= 65535:
            raise DirectiveError(f"--port {args.port}: a port is 0..65535 (0: any free one)")
        if args.port == 0:
            self.free = [bind("127.0.0.1", 0)]
            self.port = self.free[0].getsockname()[1]

    def settings(self, conf: Conf) -> list[Setting]:
        """--port stands above the file's Listen; without either it is 8080."""
        others = [s for s in conf.settings if s.name.lower() != "listen"]
        if self.port is None and len(others) < len(conf.settings):
            return conf.settings
        port = 8080 if self.port is None else self.port
        return [*others, Setting("Listen", (f"127.0.0.1:{port}",))]


def ready(url: str) -> None:
    """The one line that says that clients can connect."""
    with suppress(OSError):  # no one reads it
        os.write(1, f"ready {url}\n".encode())


def main(argv: Sequence[str]) -> int:
    """Run a server until a signal ends it; returns the exit status."""
    args = arguments(argv)
    # A place for what exists as long as the server: the launcher's, or for a certificate one of its own.
    folder = home.make() if args.tls and args.home is None else args.home
    try:
        if folder is not None:
            home.hold(folder)
        configuration = LabConfiguration(args, folder if args.tls else None)
        service = configuration.service()
        listeners = open_listeners(service.directives, configuration.free)
        for note in service.notes:
            if service.errors.enabled(note.level):
                print(f"mpmkit: {note}", file=sys.stderr)
        parent = configuration.parent(service, listeners, ready=ready, lifeline=args.lifeline)
        parent.write_pid_file()
    except (DirectiveError, ListenError, LogError, PidFileError, StartError, OSError) as error:
        for line in str(error).splitlines():
            print(f"mpmkit: {line}", file=sys.stderr)
        return 1
    else:
        return parent.run()
    finally:
        left = args.lifeline is not None and select.select([args.lifeline], [], [], 0)[0]
        # Its owner is gone, or is this process.
        if folder is not None and (left or args.home is None):
            from shutil import rmtree

            rmtree(folder, ignore_errors=True)
