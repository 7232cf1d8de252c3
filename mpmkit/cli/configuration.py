"""From the source of a configuration to a server: directives, logs, handlers, the control process.

The one place where a configuration, an MPM and the handlers are joined, for `mpmkit serve` and `mpmkit httpd`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mpmkit.config import httpd_conf
from mpmkit.config.checks import check
from mpmkit.config.directives import DirectiveError, Directives, Note, Section, Setting, VirtualHost
from mpmkit.config.settings import Host
from mpmkit.handlers.router import ErrorPages, Router
from mpmkit.handlers.sections import unread
from mpmkit.handlers.static import TYPES, read_types
from mpmkit.handlers.status import Status
from mpmkit.handlers.wsgi import WsgiScripts
from mpmkit.http.fastpath import RequestCache
from mpmkit.server.core import ConnectionFactory, Handler, Service
from mpmkit.server.listen import Listener
from mpmkit.server.log_format import FormatError, compile_format
from mpmkit.server.logs import AccessLog, ErrorLog, close_log, open_log
from mpmkit.server.parent import Parent
from mpmkit.server.prewarm import rehearse

if TYPE_CHECKING:
    from mpmkit.server.hosts import Hosts

COMPILED_IN = "compiled in"  # the "file" of a setting that no line has
ERROR_LOG = ("ErrorLog", "LogLevel", "module_levels")  # what makes a log of its own
SAMPLES = os.path.join(os.path.dirname(os.path.dirname(__file__)), "htdocs")


class StartError(Exception):
    """The server can't be made although its configuration is right."""


class Configuration:
    """Reads a configuration at the start and again at each restart."""

    def __init__(
        self, source: httpd_conf.Source, sections: Iterable[Section] = (), *,
        document_root: bool = True, strict: bool = False,
    ) -> None:  # fmt: skip
        """sections: before the file's. document_root: must it exist? strict: refuse what mpmkit lacks."""
        self.source, self.sections = source, tuple(sections)
        self.document_root, self.strict = document_root, strict
        self.background = False  # output to standard error belongs in the error log
        self._autoindex = False  # mod_autoindex is loaded
        self._parent: Any = None  # a Parent, once there is one
        self._scripts: list[WsgiScripts] = []  # of this reading: one for each host

    def settings(self, conf: httpd_conf.Conf) -> list[Setting]:
        """The lines that count."""
        return conf.settings

    def read(self, conf: httpd_conf.Conf | None = None) -> tuple[Directives, tuple[Note, ...]]:
        """The directives, and what the operator should know. Raises DirectiveError."""
        conf = conf or httpd_conf.read(self.source)
        self._autoindex = "autoindex_module" in conf.modules.loaded
        if conf.mpm is None:
            remedy = "LoadModule mpm_event_module modules/mod_mpm_event.so"
            text = f"no MPM: name prefork, worker or event by {remedy}"
            raise DirectiveError.of([*conf.problems, DirectiveError(text, ah="AH00534")])
        settings = self.settings(conf)
        sections = [*self.sections, *conf.sections]
        directives, notes = check(
            conf.mpm, settings, sections, conf.hosts, running=getattr(self._parent, "directives", None),
            problems=[*conf.problems, *_format_problems(settings, conf.hosts)], strict=self.strict,
        )  # fmt: skip
        missing = validate_environment(directives, settings, conf.hosts, self.document_root)
        return directives, (*conf.notes, *notes, *missing, *_unread(directives, settings))

    def service(self) -> Service:
        """One reading, ready to serve. Raises DirectiveError, LogError."""
        directives, notes = self.read()
        if self._parent is not None and directives.mpm != self._parent.directives.mpm:
            why = "the MPM cannot change at a restart: stop the server and start it again"
            raise DirectiveError(why)
        with ExitStack() as logs:  # which are closed, should the rest fail
            self._scripts = []
            handler, access, errors = main = self._site(directives, logs)
            for note in notes:
                # At a restart, the parent logs all of them.
                if self._parent is None and directives.ErrorLog and "closed: " in note.text:
                    errors.note(note, "authz_core")
            hosts = self._hosts(directives, main, logs)
            if hosts is not None:
                text = "Could not resolve host name {} -- ignoring!"
                unknown = (Note("AH00547", "error", text.format(one)) for one in hosts.unknown)
                notes = (*notes, *unknown)
            service = Service(directives, hosts or handler, hosts or access, errors, hosts, notes)
            service.logs = logs.pop_all()
        if self.background:
            os.dup2(errors.fd, 2)
        for scripts in self._scripts:
            scripts.service = service
        return service

    def _site(
        self, d: Directives, logs: ExitStack | None, server: Directives | None = None, errors: Any = None
    ) -> tuple[Handler, AccessLog | None, ErrorLog]:  # fmt: skip
        """Handler and logs of the server, or of a host. `logs` closes them; None: they are not opened."""
        own = any(getattr(d, one) != getattr(server, one, None) for one in ERROR_LOG)
        if logs is not None and own:
            fd = open_log(d.ErrorLog, "ErrorLog") if d.ErrorLog else 2
            logs.callback(close_log, fd)
            errors = ErrorLog(fd, d.LogLevel, levels=d.module_levels)
        errors = errors or ErrorLog()
        access = AccessLog(d, logs) if d.CustomLog and logs is not None else None
        return self.handler(d, errors), access, errors

    def _hosts(self, d: Directives, main: tuple, logs: ExitStack | None) -> Hosts | None:
        """What chooses one of the virtual hosts, if there are any. main: the server's `_site`."""
        if not d.hosts:
            return None
        from mpmkit.server.hosts import Hosts, HostService

        made = ((host, self._site(host.directives, logs, d, main[2])) for host in d.hosts)
        sites = [HostService(host, *parts) for host, parts in made]
        return Hosts(HostService(VirtualHost((), d), *main), sites)

    def handler(self, d: Directives, errors: ErrorLog) -> Handler:
        """The handlers that the directives ask for, hosts aside. Raises DirectiveError."""
        status = Status(lambda: self._parent.board, extended=d.ExtendedStatus, name=d.ServerName)
        try:
            types = read_types(d.TypesConfig) if d.TypesConfig else TYPES
        except OSError as error:
            why = f"{error.strerror}: name a table of media types, such as /etc/mime.types"
            text = f"TypesConfig {d.TypesConfig}: {why}"
            raise DirectiveError(text, directive="TypesConfig", ah="AH01597") from None
        router = Router(d, errors, {"server-status": status}, types=types, listings=self._autoindex)
        self._scripts.append(router.wsgi)
        return ErrorPages(router) if ErrorPages.wanted(d, errors) else router

    def try_out(self, directives: Directives, *, tls: bool) -> None:
        """Make the handlers, and with `tls` the contexts, of what was read. Raises DirectiveError."""
        hosts = self._hosts(directives, self._site(directives, None), None)
        if tls:
            ConnectionFactory(directives, RequestCache(directives), hosts)

    def parent(self, service: Service, listeners: Sequence[Listener], **options: Any) -> Parent:
        """The control process of the MPM that the service names, ready to run. Raises StartError, LogError."""
        mpm = service.directives.mpm
        child_class = getattr(import_module(f"mpmkit.mpm.{mpm}"), f"{mpm.capitalize()}Child")
        try:
            self._parent = Parent(child_class, service, self.service, listeners, **options)
        except (OSError, MemoryError, OverflowError) as error:
            why = getattr(error, "strerror", None) or "there is not enough memory"
            if getattr(error, "errno", 0) == errno.ELOOP:
                why = "it is a symbolic link, and another user's could lead anywhere"
            board = " ".join(filter(None, ("the scoreboard", service.directives.ScoreBoardFile)))
            see = "see ScoreBoardFile, and ServerLimit and ThreadLimit for its size"
            raise StartError(f"AH00004: {board} cannot be made: {why}; {see}") from None
        rehearse(service.directives, self.handler, SAMPLES, child_class)
        self._scripts.clear()
        if service.directives.TraceLog:
            from mpmkit.server import trace  # changes classes: not imported without need

            trace.begin(service.directives)
        return self._parent


def validate_environment(
    d: Directives, settings: Iterable[Setting] = (), hosts: Iterable[Host] = (), document_root: bool = True,
) -> list[Note]:  # fmt: skip
    """httpd's checks of the machine before it starts: do the directories, user and group exist? `settings` have
    the lines, for messages; `document_root` False: no question for that one (httpd -T), as where no line names
    it. Returns notes for a <VirtualHost> that lacks one. Raises DirectiveError with every problem."""
    import grp
    import pwd

    written = {setting.name.lower(): setting for setting in settings}
    problems = []

    def wrong(name: str, text: str, ah: str = "AH00526") -> None:
        setting = written.get(name.lower(), Setting(name))
        problems.append(DirectiveError.at(setting, f"{name} {text}", ah))

    core = written.get("coredumpdirectory", Setting("")).args
    folders = [("ServerRoot", d.ServerRoot)]
    folders += [("CoreDumpDirectory", os.path.join(d.ServerRoot or "", path)) for path in core]
    if document_root and written.get("documentroot", Setting("")).file != COMPILED_IN:
        folders.insert(1, ("DocumentRoot", d.DocumentRoot))
    for name, path in folders:
        if path is not None and not os.path.isdir(path):
            wrong(name, f"{path} is not a directory that can be read: create it or name another")
    for name in ("SSLCertificateFile", "SSLCertificateKeyFile"):
        if (path := getattr(d, name)) is not None and not os.path.isfile(path):
            wrong(name, f"{path}: No such file or directory: name a file in PEM that can be read")
    for name, find, ah in (("User", pwd.getpwnam, "AH00543"), ("Group", grp.getgrnam, "AH00544")):
        who = getattr(d, name)
        try:
            # "#1000" is a number and needs no name on this machine
            number = 1 if who is None else int(who[1:]) if who.startswith("#") else find(who)[2]
        except (KeyError, ValueError):
            number = -1
        if not 0 <= number < (1 << 32) - 1:  # -1 is no one's
            wrong(name, f"{who} does not exist on this machine: name one that does", ah)
        elif name == "User" and number == 0:
            wrong(name, f"{who} is root by another name: name an ordinary user")
    if problems:
        raise DirectiveError.of(problems)
    notes = []
    for host, virtual in zip(hosts, d.hosts, strict=True) if document_root else ():
        root = virtual.directives.DocumentRoot or ""
        lines = [line for line in host.settings if line.name.lower() == "documentroot"]
        text = f"DocumentRoot [{root}] does not exist"
        missing = lines if not os.path.isdir(root) else []
        notes += [Note("AH00112", "warn", text + line.place) for line in missing]
    return notes


def _unread(directives: Directives, settings: Iterable[Setting]) -> list[Note]:
    """A warning that names the .htaccess files."""
    named = [setting.args for setting in settings if setting.name.lower() == "accessfilename"]
    sites = (directives, *(host.directives for host in directives.hosts))
    names = named[-1] if named else (".htaccess",)
    found = list(dict.fromkeys(file for site in sites for file in unread(site, names)))
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    text = f"not read, and what they restrict is open: {', '.join(found[:5])}{more}"
    return [Note("", "warn", text)] if found else []


def _format_problems(settings: Iterable[Setting], hosts: Iterable[Host]) -> list[DirectiveError]:
    """Formats of access logs that can't be used; a word without a per cent sign is a nickname."""
    problems = []
    for setting in (*settings, *(setting for host in hosts for setting in host.settings)):
        words = {"logformat": setting.args[:1], "customlog": setting.args[1:2]}
        for text in words.get(setting.name.lower(), ()):
            try:
                compile_format(text if "%" in text else "")
            except FormatError as error:
                problems.append(DirectiveError.at(setting, f"{setting.name}: {error}"))
    return problems
