"""All settings together: from lines to `Directives`, with httpd's corrections and its messages.

    check()  ─┬─ _Reader    each line: which directive, which value, is it allowed here
              ├─ _Checker   the numbers that depend on each other
              └─ _resolve   log formats by nickname, files below ServerRoot

This is pure: it opens no file and does not query the machine (cli/configuration.py does).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mpmkit.config import access, directives, unsupported
from mpmkit.config import hosts as virtual_hosts
from mpmkit.config.alias import Redirection, expression
from mpmkit.config.directives import MPMS, ROWS, SPECS, THREADED, Directives, VirtualHost, spec_for
from mpmkit.config.patterns import canonical, section_pattern
from mpmkit.config.settings import CONDITIONS, DirectiveError, Host, Note, Section, Setting, Spec
from mpmkit.config.unsupported import QUIET, REFUSED, RUNNERS, Foreign, foreign
from mpmkit.config.values import BROKEN, COMMON, append, module_levels
from mpmkit.config.values import replace as latest

# Of the directives that name one file or the directory of the site, relative names start from ServerRoot.
FILES = {"DocumentRoot"} | {row.name for row in ROWS if (row.takes, row.merge) == ("file", latest)}
APPENDED = {row.attribute for row in ROWS if row.attribute and row.merge is append}

# httpd's ids of its message that a name is an old one, under each MPM.
RENAMED_AH = {
    "MaxClients": ("AH00188", "AH00324", "AH00521"), "MaxRequestsPerChild": ("AH00545",) * 3,
}  # fmt: skip
EVENT_AH = 197  # what event's numbers are above worker's
SHOWN = 8  # names in one warning
# The flags of a RewriteRule that refuses what it matches: [F], [G], [R=4xx].
FORBIDS = re.compile(r"(?i)(^|,)[ \[]*(f|forbidden|g|gone|r(edirect)?=4..) *(\]|,|$)")


def check(
    mpm: str, settings: Iterable[Setting] = (), sections: Iterable[Section] = (),
    hosts: Sequence[Host] = (), *, running: Directives | None = None,
    problems: Sequence[DirectiveError] = (), strict: bool = False,
) -> tuple[Directives, tuple[Note, ...]]:  # fmt: skip
    """Effective directives for an MPM, and what the operator should know about them. Raises DirectiveError with
    every problem found, and with `problems`, which were found before (`httpd_conf.read`).

    running   at a restart, the running server's directives: ServerLimit and ThreadLimit keep their values, and
              the notes have the ids that httpd uses in the error log
    strict    every directive that mpmkit does not have is a problem"""
    if mpm not in MPMS:
        raise DirectiveError(f"there is no MPM {mpm!r}: use prefork, worker or event", ah="AH00534")
    server = _Reader(mpm, Host((), tuple(settings), tuple(sections)), strict)
    readers = [_Reader(mpm, host, strict, server) for host in hosts]
    if found := [*problems, *(problem for one in (server, *readers) for problem in one.problems)]:
        raise DirectiveError.of(found)
    values = server.values
    for row in ROWS:
        if row.attribute in APPENDED and not values[row.attribute]:
            values[row.attribute] = row.default_for(mpm)
    checker = _Checker(mpm, values, running)
    checker.prefork() if mpm == "prefork" else checker.threads()
    # mpmkit: negatives that httpd stores and then treats as 0 are 0 here.
    checker.at_least("MaxConnectionsPerChild", 0, "is below 0, which prefork treats as never")
    for name in ("Timeout", "GracefulShutdownTimeout", "MaxKeepAliveRequests"):
        checker.at_least(name, 0, "is below 0")
    texts = [f"no effect in mpmkit ({of}): {_names(lines)}" for of, lines in server.ignored.items()]
    notes = [*server.notes, *(Note("", "warn", text) for text in texts), *checker.notes]
    # The protocol applies the largest body of all, so where they differ each applies its own.
    usual = values["LimitRequestBody"]
    own_body = any(one.written.get("LimitRequestBody", usual) != usual for one in readers)
    virtual = []
    for one in readers:
        of_host = directives.laid_over({**values, "ServerAlias": ()}, one.written)
        if "ServerName" not in one.written and "" not in dict(one.places):
            of_host["ServerName"] = one.places[0][0]
        said = _resolve(of_host)  # without a log of its own, what there is to say is the server's
        notes += [*one.notes, *(said if "CustomLog" in one.written else ())]
        of_host |= {"sections": (*server.host.sections, *one.host.sections), "own_body": own_body}
        d = Directives(mpm=mpm, unknown=one.unknown, closed=one.closing, **of_host)
        virtual.append(VirtualHost(one.places, d, one.host.file, one.host.line))
    notes += _resolve(values)
    values["Listen"] = virtual_hosts.tls_sockets(values, virtual)
    values |= {"sections": server.host.sections, "own_body": own_body, "hosts": tuple(virtual)}
    d = Directives(mpm=mpm, unknown=server.unknown, closed=server.closing, **values)
    return d, tuple(notes)


class _Reader:
    """Goes through the lines of the server or of a `host`, collects values, problems and notes."""

    def __init__(self, mpm: str, host: Host, strict: bool, server: _Reader | None = None) -> None:
        """server: the reader of the server's lines, for those of a <VirtualHost>."""
        self.mpm, self.strict, self.in_host = mpm, strict, server is not None
        self.written: dict[str, Any] = {}  # the attributes that a line has set
        self.problems: list[DirectiveError] = []
        self.notes: list[Note] = []
        # Lines without an effect, by module, of the server and its hosts.
        self.ignored: dict[str, list[Setting]] = server.ignored if server else {}
        self.missing: set[str] = set()  # handlers that are named and not here
        self.host = host = host if strict else self.without_programs(host)
        inside = [setting for section in host.sections for setting in section.settings]
        # See Directives: what lacking modules would say about clients, and what closes all of it.
        self.unknown = access.unknown([*host.settings, *inside])
        self.closing = tuple(one for one in host.settings if one.name.lower() in access.CLOSED)
        defaults = {row.attribute: row.default_for(mpm) for row in ROWS if row.attribute}
        self.values = {**defaults, "module_levels": {}, **dict.fromkeys(APPENDED, ())}
        if server is not None:
            self.values = {k: () if k in APPENDED else v for k, v in server.values.items()}
            self.unknown |= server.unknown
            self.closing = server.closing + self.closing
            try:
                self.places = virtual_hosts.addresses(host)
            except DirectiveError as error:
                self.problems.append(error)
        for setting in host.settings:
            self.read(setting)
        for section in host.sections:
            self.section(section)

    def section(self, section: Section) -> None:
        """Check a section's argument and lines: a rule that matches nothing protects nothing."""
        shown = f"<{section.kind} {section.arg}>"
        where = Setting(section.kind, (section.arg,), section.file, section.line)
        before = len(self.problems)
        try:
            if section.kind in CONDITIONS:
                decides = any(map(unsupported.decides, section.settings))
                ends = "what is in it is ignored", "closed: what it is for answers 403"
                self.note(f"{shown} is not evaluated, {ends[decides]}", where)
            else:
                arg = canonical(section.arg) if section.kind == "Directory" else section.arg
                section_pattern(section.kind, arg)
        except ValueError as error:
            self.problems.append(DirectiveError.at(where, f"{shown} {error}"))
        for setting in section.settings:
            self.read(setting, section)
        if len(self.problems) > before:
            return
        lines = [setting for setting in section.settings if setting.name.lower() == "require"]
        try:  # its <RequireAll> and the like make sense together
            access.authorization(lines, self.unknown)
        except ValueError as error:
            self.problems.append(DirectiveError.at(lines[0], f"{shown}: {error}"))

    def read(self, setting: Setting, section: Section | None = None) -> None:
        try:
            row = None if setting.name.lower() in SPECS else foreign(setting.name)
            spec = row or spec_for(setting.name, self.mpm)
            server_alone = isinstance(spec, Spec) and (spec.source == "mpm" or spec.where == "main")
            if self.in_host and server_alone:
                raise ValueError(f"{spec.name} cannot occur within <VirtualHost>: move it out")
            if spec.name == "ServerAlias" and not self.in_host:
                raise ValueError("ServerAlias only used in <VirtualHost>: move it in")
            if section and spec.where in ("server", "main", "connection"):
                raise ValueError(f"{spec.name} is not allowed in a <{section.kind}>: move it out")
            if not section and spec.where == "section":
                where = "belongs in a <Directory>, <Location> or <Files>: move it in"
                raise ValueError(f"{spec.name} {where}")
            if isinstance(spec, Foreign):
                self.lacking(spec, setting)
            else:
                value = spec.read(setting.args)
                access.limited(setting.within)
                self.refuse(spec, setting, value)
                self.handler(setting)
            if why := access.closed_by(setting, self.unknown):  # it cannot be enforced
                line = " ".join((setting.name, *setting.args))
                if self.strict:
                    raise ValueError(f"{line} would admit no client: {why}")
                self.note(f"closed: {line} admits no client, because {why}", setting)
        except ValueError as error:
            self.problems.append(DirectiveError.at(setting, str(error)))
            return
        if isinstance(spec, Spec):
            self.remark(spec, setting, section)
            taken = {spec.attribute: value} if spec.attribute and not section else {}
            if taken and spec.name == "LogLevel":
                taken["module_levels"] = module_levels(setting.args, self.values["module_levels"])
            for name, one in taken.items():
                merge = spec.merge if name == spec.attribute else latest
                self.values[name] = self.written[name] = merge(self.values[name], one)

    def refuse(self, spec: Spec, setting: Setting, value: Any) -> None:
        """Refusals that depend on the MPM or on the lines before. Raises ValueError."""
        if spec.name == "Listen" and value[0].port and value[0] in self.values["Listen"]:
            raise ValueError(f"Listen {setting.args[0]} is given twice: keep one of the two")
        if spec.attribute == "MaxConnectionsPerChild" and value < 0 and self.mpm in THREADED:
            # A threaded child of httpd quits before it has served anything, and is replaced, forever.
            why = f"{self.mpm} children would end before their first connection"
            raise ValueError(f'{spec.name} takes 0 (never) or more, not "{setting.args[0]}": {why}')

    def remark(self, spec: Spec, setting: Setting, section: Section | None) -> None:
        """Notes that concern one line only."""
        if (name := spec.name) in RENAMED_AH:
            ah = RENAMED_AH[name][MPMS.index(self.mpm)]
            self.note(f"{name} is an old name: write {spec.renamed}", setting, ah, "info")
        asked = setting.args if name == "SSLProtocol" else ()
        if old := [one for one in asked if one.lstrip("+").lower() in map(str.lower, BROKEN)]:
            self.note(f"{name}: {' '.join(old)} is broken and not supported", setting)
        if name == "ErrorDocument" and "%{" in setting.args[1]:
            sent = f"{setting.args[1]} is sent unchanged"
            self.note(f"{name}: expressions are not evaluated, {sent}", setting)
        before = self.values["aliases"] if spec.attribute == "aliases" else ()
        for kind, url, _ in before if name != "WSGIScriptAlias" else ():
            pattern = expression(url) if kind.endswith("Match") else None
            if Redirection(0, url, "", pattern).of(setting.args[0]) is not None:
                why = f"will probably never match: an earlier {kind} has it"
                self.note(f"{name} {setting.args[0]} {why}", setting, "AH00671")
                break
        if section and spec.where == "outside":
            remedy = f"move it out of the <{section.kind}>"
            self.note(f"{name} has an effect outside of sections only: {remedy}", setting)
        elif self.in_host and spec.where == "connection":
            why = "applies to the whole server: in a <VirtualHost> it has no effect"
            self.note(f"{name} {why}", setting)

    # ---- what mpmkit does not have: a note, or with `strict` a problem

    def lacking(self, row: Foreign, setting: Setting) -> None:
        """A directive that mpmkit does not have. Raises ValueError if it is refused."""
        fate, words = row.fate_of(setting), " ".join(setting.args)
        if fate == REFUSED or (self.strict and fate != QUIET):
            raise ValueError(row.refusal)
        if row.name == "AllowOverride" and words.lower() != "none":
            self.note(f"AllowOverride {words}: .htaccess files are never read", setting)
        elif fate == QUIET:
            self.note(f"{row.name} has no effect in mpmkit", setting, level="debug")
        elif setting.name.lower() not in access.CLOSED:
            self.ignored.setdefault(row.module, []).append(replace(setting, name=row.name))
            forbids = FORBIDS.search("".join(setting.args[2:3])) or RUNNERS.search(words)
            if row.name == "RewriteRule" and forbids:
                why = "protects nothing: mpmkit does not rewrite, write Require all denied"
                self.note(f"RewriteRule {words} {why}", setting)

    def handler(self, setting: Setting) -> None:
        """A line that may name a handler. Raises ValueError for one that is not here, if that is refused."""
        if not unsupported.lacks_handler(setting) or (name := setting.args[0]) in self.missing:
            return
        why = f"there is no handler {name!r} here"
        if self.strict:
            raise ValueError(f"{why}; use one of {', '.join(unsupported.HANDLERS)}")
        self.missing.add(name)
        self.note_closing(setting, why)

    def without_programs(self, host: Host) -> Host:
        """The lines of a host with a Redirect to the status 403 in place of each that `runs_programs`."""

        def closed(setting: Setting) -> Setting:
            if not unsupported.runs_programs(setting):
                return setting
            self.note_closing(setting, "write SetHandler proxy:fcgi://HOST:PORT in a <FilesMatch>")
            path = () if RUNNERS.search(setting.args[0]) else setting.args[:1]
            name = "RedirectMatch" if path and setting.name[-1] in "hH" else "Redirect"
            return replace(setting, name=name, args=("403", *path))

        parts = [replace(one, settings=tuple(map(closed, one.settings))) for one in host.sections]
        return replace(host, settings=tuple(map(closed, host.settings)), sections=tuple(parts))

    def note_closing(self, setting: Setting, why: str) -> None:
        line = " ".join((setting.name, *setting.args))
        self.note(f"closed: what {line} is for answers 403: {why}", setting)

    def note(self, text: str, setting: Setting, ah: str = "", level: str = "warn") -> None:
        self.notes.append(Note(ah, level, text + setting.place))


def _names(lines: list[Setting]) -> str:
    """`AddIcon, IndexOptions and 3 more (52 lines, the first httpd.conf:12)`"""
    names = list({line.name.lower(): line.name for line in lines}.values())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    count = f"{len(lines)} lines, the first " if len(lines) > 1 else ""
    return ", ".join(names[:SHOWN]) + more + lines[0].place.replace("(", f"({count}", 1)


class _Checker:
    """The numbers that depend on each other, and the steps that make them agree."""

    def __init__(self, mpm: str, values: dict[str, Any], running: Directives | None) -> None:
        self.mpm, self.values, self.running = mpm, values, running
        self.notes: list[Note] = []

    def note(self, text: str, ah: int) -> None:
        """ah: of httpd's message under prefork or worker (at a restart, the next), 0 where httpd is silent."""
        # mpmkit: what httpd changes silently is a debug note here.
        number = ah + (EVENT_AH if self.mpm == "event" else 0) + (self.running is not None)
        note = Note(f"AH{number:05d}", "warn", text) if ah else Note("", "debug", text)
        self.notes.append(note)

    def correct(self, name: str, to: int, why: str, ah: int = 0) -> None:
        if (value := self.values[name]) != to:
            self.note(f"{name} {value} {why}: {to} is used", ah)
            self.values[name] = to

    def at_least(self, name: str, least: int, why: str = "is below 1", ah: int = 0) -> None:
        self.correct(name, max(self.values[name], least), why, ah)

    def at_most(self, name: str, most: int, why: str, ah: int = 0) -> None:
        self.correct(name, min(self.values[name], most), why, ah)

    def limit(self, name: str, ah: int) -> int:
        """ServerLimit and ThreadLimit: within what is compiled in, and fixed by the first start."""
        high: Any = SPECS[name.lower()].high_for(self.mpm)
        self.at_most(name, high, f"is above the compiled limit of {high}", ah)
        self.at_least(name, 1, ah=ah + 2)
        if self.running:
            first = getattr(self.running, name)
            why = f"differs from the {first} of the first start, a restart cannot change it"
            self.correct(name, first, why, ah + 3)
        return self.values[name]

    def prefork(self) -> None:
        v, most = self.values, self.limit("ServerLimit", 175)
        self.at_most("MaxRequestWorkers", most, f"is above the ServerLimit of {most}", 180)
        for name, ah in ("MaxRequestWorkers", 182), ("StartServers", 184), ("MinSpareServers", 186):
            self.at_least(name, 1, ah=ah)
        # from here on httpd says nothing
        self.at_least("MaxSpareServers", v["MinSpareServers"] + 1, "is not above MinSpareServers")
        self.at_most("StartServers", v["MaxRequestWorkers"], "is above MaxRequestWorkers")

    def threads(self) -> None:
        v, limit, most = self.values, self.limit("ServerLimit", 300), self.limit("ThreadLimit", 305)
        self.at_most("ThreadsPerChild", most, f"is above the ThreadLimit of {most}", 310)
        self.at_least("ThreadsPerChild", 1, ah=312)
        threads = v["ThreadsPerChild"]
        why = f"is below the ThreadsPerChild of {threads}, the threads of one child"
        self.at_least("MaxRequestWorkers", threads, why, 314)
        processes = v["MaxRequestWorkers"] // threads
        why = f"is not a multiple of the ThreadsPerChild of {threads}"
        self.at_most("MaxRequestWorkers", processes * threads, why, 316)
        if processes > limit:
            # The limit on processes is obeyed, the variable keeps its value: Directives has both.
            asked = f"MaxRequestWorkers {v['MaxRequestWorkers']} needs {processes} processes"
            served = f"the ServerLimit of {limit}: {limit * threads} connections are served"
            self.note(f"{asked}, above {served}", 318)
            processes = limit
        self.at_least("StartServers", 1, ah=320)
        self.at_least("MinSpareThreads", 1, ah=322)
        # from here on httpd says nothing
        why = "is below MinSpareThreads + ThreadsPerChild + 1"
        self.at_least("MaxSpareThreads", v["MinSpareThreads"] + threads + 1, why)
        why = f"is above the {processes} processes that MaxRequestWorkers allows"
        self.at_most("StartServers", processes, why)


def _resolve(values: dict[str, Any]) -> list[Note]:
    """CustomLog's nicknames become formats, of later lines, too; relative names of files get their ServerRoot."""
    root = values["ServerRoot"]

    def resolve(name: str | None) -> str | None:
        below = root and name and not name.startswith(("/", "|", "syslog:")) and name != "syslog"
        return f"{root.rstrip('/')}/{name}" if below else name

    notes, logs = [], []
    for file, name, *condition in values["CustomLog"]:
        layout = values["LogFormat"].get(name, name) or COMMON
        if "%" not in layout:
            why = f'no LogFormat has the nickname "{layout}", every line will be that word'
            notes.append(Note("", "warn", f"CustomLog {file}: {why}"))
        if condition and condition[0].lower().startswith("expr="):
            why = f"expressions are not evaluated, every request is logged: {condition.pop()}"
            notes.append(Note("", "warn", f"CustomLog {file}: {why}"))
        logs.append((resolve(file), layout, *condition))
    values["CustomLog"] = tuple(logs)
    values["aliases"] = tuple((kind, url, resolve(to)) for kind, url, to in values["aliases"])
    values |= {key: resolve(values[key]) for key in FILES}
    return notes
