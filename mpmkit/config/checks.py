"""All settings together: from lines to `Directives`, with httpd's corrections and its messages.

    check()  ─┬─ _Reader    each line: which directive, which value, may it stand here
              ├─ _Checker   the numbers that depend on each other
              └─ _resolve   log formats by nickname, files below ServerRoot, which sockets speak TLS

This is pure: it opens nothing and asks the machine nothing (that is `environment.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mpmkit.config import access
from mpmkit.config import hosts as virtual_hosts
from mpmkit.config.directives import COMMON, ROWS, SPECS, Directives, VirtualHost, spec_for
from mpmkit.config.lacking import Lacking
from mpmkit.config.patterns import canonical, section_pattern
from mpmkit.config.settings import (
    CONDITIONS,
    MPMS,
    THREADED,
    DirectiveError,
    Host,
    Note,
    Section,
    Setting,
    Spec,
    sort_problems,
)
from mpmkit.config.unsupported import Foreign, foreign
from mpmkit.config.values import append, module_levels

# What a <Directory>, <Location> or <Files> decides; other directives there are for the whole site or
# nothing (mpmkit: a note says so).
IN_SECTIONS = frozenset({
    "SetHandler", "AddHandler", "Options", "LimitRequestBody", "EnableSendfile", "EnableMMAP",
    "ErrorDocument", "ServerSignature", "AddDefaultCharset", "AddType", "DirectoryIndex", "DirectorySlash",
    "FallbackResource", "FileETag", "ForceType", "Redirect", "RedirectMatch", "RedirectPermanent",
    "RedirectTemp", *(row.name for row in access.ROWS),
})  # fmt: skip

MUTEXES = ("default", "none", "posixsem", "sem", "sysvsem", "fcntl", "flock", "file", "pthread")

# Directives that name a file or a directory: relative ones start from ServerRoot.
FILES = ("DocumentRoot", "PidFile", "ScoreBoardFile", "ErrorLog", "TypesConfig", "SSLCertificateFile",
         "SSLCertificateKeyFile")  # fmt: skip

APPENDED = {row.attribute for row in ROWS if row.merge is append}

RENAMED_AH = {
    ("MaxClients", "prefork"): "AH00188",
    ("MaxClients", "worker"): "AH00324",
    ("MaxClients", "event"): "AH00521",
    **{("MaxRequestsPerChild", mpm): "AH00545" for mpm in MPMS},
}

# httpd's ids of its corrections, for the terminal of the first start.  In the error log of a restart
# a message has the next number, but for "changed", which is only said there.
AH = {
    #                             prefork    worker     event
    "ServerLimit high":          ("AH00175", "AH00300", "AH00497"),
    "ServerLimit low":           ("AH00177", "AH00302", "AH00499"),
    "ServerLimit changed":       ("AH00179", "AH00304", "AH00501"),
    "ThreadLimit high":          ("",        "AH00305", "AH00502"),
    "ThreadLimit low":           ("",        "AH00307", "AH00504"),
    "ThreadLimit changed":       ("",        "AH00309", "AH00506"),
    "ThreadsPerChild high":      ("",        "AH00310", "AH00507"),
    "ThreadsPerChild low":       ("",        "AH00312", "AH00509"),
    "MaxRequestWorkers low":     ("AH00182", "AH00314", "AH00511"),
    "MaxRequestWorkers multiple": ("",       "AH00316", "AH00513"),
    "MaxRequestWorkers high":    ("AH00180", "AH00318", "AH00515"),
    "StartServers low":          ("AH00184", "AH00320", "AH00517"),
    "MinSpareServers low":       ("AH00186", "",        ""),
    "MinSpareThreads low":       ("",        "AH00322", "AH00519"),
}  # fmt: skip


def correction_id(what: str, mpm: str, *, restart: bool) -> str:
    """httpd's id of a message of AH."""
    first = AH[what][MPMS.index(mpm)]
    later = restart and not what.endswith("changed")
    return f"AH{int(first[2:]) + 1:05d}" if later else first


def check(
    mpm: str,
    settings: Iterable[Setting] = (),
    sections: Iterable[Section] = (),
    hosts: Sequence[Host] = (),
    *,
    running: Directives | None = None,
    problems: Sequence[DirectiveError] = (),
    strict: bool = False,
) -> tuple[Directives, tuple[Note, ...]]:
    """Effective directives for an MPM, and what the operator should know about them.

    ``running`` is what the server runs with, when this is a restart: ServerLimit and ThreadLimit
    then stay as they are, and the notes have the ids that httpd uses in the error log.
    ``problems`` were found before (`httpd_conf.read`); they are reported with those found here.
    ``strict`` makes a problem of every directive that mpmkit does not have.

    Raises DirectiveError with every problem found, not only the first.
    """
    if mpm not in MPMS:
        raise DirectiveError(f"there is no MPM {mpm!r}: use prefork, worker or event", ah="AH00534")
    sections, settings = tuple(sections), tuple(settings)
    reader = _Reader(mpm, Lacking(strict))
    sections = reader.read_all(settings, sections)
    readers = [_Reader(mpm, Lacking(strict, reader.lacking), reader, host) for host in hosts]
    of_hosts = [one.read_all(one.host.settings, one.host.sections) for one in readers if one.host]
    found = [*problems, *(problem for one in (reader, *readers) for problem in one.problems)]
    if found:
        raise DirectiveError.of(sort_problems(found))
    values = reader.values
    for row in ROWS:
        if row.attribute and row.merge is append and not values[row.attribute]:
            values[row.attribute] = row.default_for(mpm)
    checker = _Checker(mpm, values, running)
    checker.prefork() if mpm == "prefork" else checker.threads()
    checker.rest()
    notes = [*reader.notes, *reader.lacking.notes(), *checker.notes]
    virtual = []
    for one, host, own in zip(readers, hosts, of_hosts, strict=True):
        of_host = virtual_hosts.over(values, one.written, host)
        notes += [*one.notes, *one.lacking.notes()]
        if "CustomLog" in one.written:
            notes += _resolve_logs(of_host)
        else:
            _resolve_logs(of_host)  # what there is to say is the server's
        _resolve_files(of_host)
        directives = Directives(mpm=mpm, sections=(*sections, *own), **one.access, **of_host)
        places = virtual_hosts.addresses(host)
        virtual.append(VirtualHost(places, directives, host.file, host.line))
    notes += _resolve_logs(values)
    _resolve_files(values)
    _resolve_tls(values, virtual)
    whole = Directives(mpm=mpm, sections=sections, hosts=tuple(virtual), **reader.access, **values)
    return virtual_hosts.with_body_limits(whole), tuple(notes)


class _Reader:
    """Goes through the settings, collects the values, the problems and the notes."""

    def __init__(
        self, mpm: str, lacking: Lacking, server: _Reader | None = None, host: Host | None = None
    ) -> None:
        """server: that of the server, for the reader of a `host`'s lines."""
        self.mpm = mpm
        self.lacking = lacking
        self.host = host
        self.written: dict[str, Any] = {}  # the attributes that a line has set
        # What Directives has of the same names: what modules that are lacking would say about clients,
        # and what closes all of the server or the host.
        self.unknown: frozenset[str] = server.unknown if server else frozenset()
        self.closing: tuple[Setting, ...] = server.closing if server else ()
        self.problems: list[DirectiveError] = []
        self.notes: list[Note] = []
        self.values: dict[str, Any] = {"module_levels": {}}
        if server is not None:
            self.values = {k: () if k in APPENDED else v for k, v in server.values.items()}
        for row in ROWS:
            if row.attribute:
                default = () if row.merge is append else row.default_for(mpm)
                self.values.setdefault(row.attribute, default)

    def read_all(
        self, settings: Sequence[Setting], sections: Sequence[Section]
    ) -> tuple[Section, ...]:
        """All lines; returns the sections as they count."""
        inside = [setting for section in sections for setting in section.settings]
        self.unknown |= access.unknown([*settings, *inside])
        self.closing += tuple(one for one in settings if one.name.lower() in access.CLOSED)
        if self.host:
            try:
                virtual_hosts.addresses(self.host)
            except DirectiveError as error:
                self.problems.append(error)
        for setting in settings:
            self.read(setting)
        for section in sections:
            self.argument(section)
            before = len(self.problems)
            for setting in section.settings:
                self.read(setting, section)
            if len(self.problems) == before:
                self.groups(section)
        return self.lacking.without(sections)

    @property
    def access(self) -> dict[str, Any]:
        return {"unknown": self.unknown, "closed": self.closing}

    def argument(self, section: Section) -> None:
        """What a section is for can be understood: a rule that matches nothing protects nothing."""
        where = Setting(section.kind, (section.arg,), section.file, section.line)
        if section.kind in CONDITIONS:
            decides = not access.DECIDE.isdisjoint(s.name.lower() for s in section.settings)
            end = "closed: what it is for answers 403" if decides else "what is in it is ignored"
            self.note("warn", f"<{section.kind} {section.arg}> is not evaluated, {end}", where)
            return
        try:
            arg = canonical(section.arg) if section.kind == "Directory" else section.arg
            section_pattern(section.kind, arg)
        except ValueError as error:
            text = f"<{section.kind} {section.arg}> {error}"
            self.problems.append(DirectiveError.at(where, text))

    def groups(self, section: Section) -> None:
        """Its <RequireAll> and the like make sense together."""
        lines = [setting for setting in section.settings if setting.name.lower() == "require"]
        try:
            access.authorization(lines, self.unknown)
        except ValueError as error:
            self.problems.append(
                DirectiveError.at(lines[0], f"<{section.kind} {section.arg}>: {error}")
            )

    def read(self, setting: Setting, section: Section | None = None) -> None:
        try:
            row = None if setting.name.lower() in SPECS else foreign(setting.name)
            spec = row or spec_for(setting.name, self.mpm)
            if self.host and isinstance(spec, Spec):
                virtual_hosts.refuse(spec)
            if spec.name == "ServerAlias" and not self.host:
                raise ValueError("ServerAlias only used in <VirtualHost>: move it in")
            if section and spec.where == "server":
                raise ValueError(f"{spec.name} may not stand in a <{section.kind}>: move it out")
            if not section and spec.where == "section":
                raise ValueError(
                    f"{spec.name} must stand in a <Directory>, <Location> or <Files>: move it in"
                )
            if isinstance(spec, Foreign):
                self.lacking.take(spec, setting)
                self.closed(setting)
                return
            value = spec.read(setting.args)
            if self.lacking.strict and (why := access.closed_by(setting, self.unknown)):
                raise ValueError(
                    f"{' '.join((setting.name, *setting.args))} would admit no client: {why}"
                )
            access.limited(setting.within)
            self.refuse(spec, setting, value)
            if spec.name in ("SetHandler", "AddHandler"):
                self.lacking.handler(setting)
        except ValueError as error:
            self.problems.append(DirectiveError.at(setting, str(error)))
            return
        self.remark(spec, setting, section)
        if spec.attribute and not section:
            self.values[spec.attribute] = spec.merge(self.values[spec.attribute], value)
            if spec.name == "LogLevel":
                levels = module_levels(setting.args, self.values["module_levels"])
                self.values["module_levels"] = self.written["module_levels"] = levels
            self.written[spec.attribute] = self.values[spec.attribute]

    def refuse(self, spec: Spec, setting: Setting, value: Any) -> None:
        """Refusals that depend on the MPM or on the lines before. Raises ValueError."""
        words = [word.lower() for word in setting.args]
        if spec.name == "Listen" and value[0].port and value[0] in self.values["Listen"]:
            raise ValueError(f"Listen {setting.args[0]} is there already: keep one of the two")
        if spec.name == "Mutex":
            if words[0].partition(":")[0] not in MUTEXES:
                raise ValueError(f'Mutex knows {", ".join(MUTEXES)}, not "{setting.args[0]}"')
            if self.mpm == "event" and "mpm-accept" in words[1:]:
                raise ValueError("Mutex mpm-accept does not exist under event: take it out")
        if spec.attribute == "MaxConnectionsPerChild" and value < 0 and self.mpm in THREADED:
            # A threaded child of httpd compares with <= 0 at once, quits before it has served
            # anything, and is replaced, forever.  mpmkit: refused.
            raise ValueError(
                f'{spec.name} takes 0 (never) or more, not "{setting.args[0]}": {self.mpm} '
                "children would end before their first connection"
            )

    def remark(self, spec: Spec, setting: Setting, section: Section | None) -> None:
        """Notes that concern one line only."""
        self.closed(setting)
        if spec.renamed:
            ah = RENAMED_AH.get((spec.name, self.mpm), "")
            self.note("info", f"{spec.name} is an old name: write {spec.renamed}", setting, ah)
        if spec.name == "AllowOverride":
            if [word.lower() for word in setting.args] != ["none"]:
                words = " ".join(setting.args)
                self.note("warn", f"AllowOverride {words}: .htaccess files are never read", setting)
        elif not spec.effect and spec.name != "Mutex":
            self.note("debug", f"{spec.name} has no effect in mpmkit", setting)
        if section and spec.effect and spec.name not in IN_SECTIONS:
            text = f"{spec.name} has an effect outside of sections only: move it out of the "
            self.note("warn", f"{text}<{section.kind}>", setting)
        if self.host and not section and spec.name in virtual_hosts.OF_CONNECTIONS:
            text = f"{spec.name} is the server's alone: that of a <VirtualHost> has no effect"
            self.note("warn", text, setting)

    def closed(self, setting: Setting) -> None:
        """Say which line cannot be enforced."""
        if why := access.closed_by(setting, self.unknown):
            line = " ".join((setting.name, *setting.args))
            self.note("warn", f"closed: {line} admits no client, since {why}", setting)

    def note(self, level: str, text: str, setting: Setting, ah: str = "") -> None:
        self.notes.append(Note(ah, level, text + setting.place))


class _Checker:
    """The numbers that depend on each other, and the steps that make them agree."""

    def __init__(self, mpm: str, values: dict[str, Any], running: Directives | None) -> None:
        self.mpm = mpm
        self.values = values
        self.running = running
        self.notes: list[Note] = []

    def correct(self, name: str, to: int, why: str, what: str = "") -> None:
        """Change a value and say so; `what` is the key in AH, "" where httpd is silent."""
        text = f"{name} {self.values[name]} {why}: {to} is used"
        self.values[name] = to
        # mpmkit: what httpd changes without a word is a debug note here.
        self.note(what, text) if what else self.notes.append(Note("", "debug", text))

    def note(self, what: str, text: str) -> None:
        ah = correction_id(what, self.mpm, restart=self.running is not None)
        self.notes.append(Note(ah, "warn", text))

    def limit(self, name: str) -> None:
        """ServerLimit and ThreadLimit: within what is compiled in, and fixed by the first start."""
        v = self.values
        high = SPECS[name.lower()].high_for(self.mpm)
        assert high is not None
        if v[name] > high:
            self.correct(name, high, f"is above the compiled limit of {high}", f"{name} high")
        self.at_least_one(name)
        first = getattr(self.running, name) if self.running else v[name]
        if v[name] != first:
            why = f"differs from the {first} of the first start, a restart cannot change it"
            self.correct(name, first, why, f"{name} changed")

    def at_least_one(self, name: str) -> None:
        if self.values[name] < 1:
            self.correct(name, 1, "is below 1", f"{name} low")

    def at_most(self, name: str, other: str) -> None:
        most = self.values[other]
        if self.values[name] > most:
            self.correct(name, most, f"is above the {other} of {most}", f"{name} high")

    def prefork(self) -> None:
        v = self.values
        self.limit("ServerLimit")
        self.at_most("MaxRequestWorkers", "ServerLimit")
        for name in ("MaxRequestWorkers", "StartServers", "MinSpareServers"):
            self.at_least_one(name)
        # from here on httpd says nothing
        least = v["MinSpareServers"] + 1
        if v["MaxSpareServers"] < least:
            self.correct("MaxSpareServers", least, "is not above MinSpareServers")
        if v["StartServers"] > v["MaxRequestWorkers"]:
            self.correct("StartServers", v["MaxRequestWorkers"], "is above MaxRequestWorkers")

    def threads(self) -> None:
        v = self.values
        self.limit("ServerLimit")
        self.limit("ThreadLimit")
        self.at_most("ThreadsPerChild", "ThreadLimit")
        self.at_least_one("ThreadsPerChild")
        threads = v["ThreadsPerChild"]
        if v["MaxRequestWorkers"] < threads:
            why = f"is below the ThreadsPerChild of {threads}, the threads of one child"
            self.correct("MaxRequestWorkers", threads, why, "MaxRequestWorkers low")
        processes, rest = divmod(v["MaxRequestWorkers"], threads)
        if rest:
            why = f"is not a multiple of the ThreadsPerChild of {threads}"
            what = "MaxRequestWorkers multiple"
            self.correct("MaxRequestWorkers", processes * threads, why, what)
        if processes > v["ServerLimit"]:
            # The limit on processes is obeyed, the variable keeps its value: Directives has both.
            self.note(
                "MaxRequestWorkers high",
                f"MaxRequestWorkers {v['MaxRequestWorkers']} needs {processes} processes, above "
                f"the ServerLimit of {v['ServerLimit']}: {v['ServerLimit'] * threads} connections "
                "are served",
            )
            processes = v["ServerLimit"]
        self.at_least_one("StartServers")
        self.at_least_one("MinSpareThreads")
        # from here on httpd says nothing
        least = v["MinSpareThreads"] + threads + 1
        if v["MaxSpareThreads"] < least:
            why = "is below MinSpareThreads + ThreadsPerChild + 1"
            self.correct("MaxSpareThreads", least, why)
        if v["StartServers"] > processes:
            why = f"is above the {processes} processes that MaxRequestWorkers allows"
            self.correct("StartServers", processes, why)

    def rest(self) -> None:
        """mpmkit: negatives that httpd stores and then treats as 0 are 0 here."""
        if self.values["MaxConnectionsPerChild"] < 0:
            self.correct("MaxConnectionsPerChild", 0, "is below 0, which prefork takes for never")
        for name in ("Timeout", "GracefulShutdownTimeout", "MaxKeepAliveRequests"):
            if self.values[name] < 0:
                self.correct(name, type(self.values[name])(0), "is below 0")


def _resolve_logs(values: dict[str, Any]) -> list[Note]:
    """CustomLog's nicknames become formats; a LogFormat may come after its CustomLog."""
    notes = []
    logs = []
    for file, name, *condition in values["CustomLog"]:
        layout = values["LogFormat"].get(name, name) or COMMON
        if "%" not in layout:
            why = f'no LogFormat has the nickname "{layout}", every line will be that word'
            notes.append(Note("", "warn", f"CustomLog {file}: {why}"))
        logs.append((file, layout, *condition))
    values["CustomLog"] = tuple(logs)
    return notes


def _resolve_files(values: dict[str, Any]) -> None:
    """Relative names start from ServerRoot; without a ServerRoot they stay as they are."""
    root = values["ServerRoot"]
    if not root:
        return

    def resolve(name: str) -> str:
        if name.startswith(("/", "|", "syslog:")) or name == "syslog":
            return name
        return f"{root.rstrip('/')}/{name}"

    for key in FILES:
        if values[key]:
            values[key] = resolve(values[key])
    values["CustomLog"] = tuple((resolve(file), *rest) for file, *rest in values["CustomLog"])
    values["aliases"] = tuple((kind, url, resolve(to)) for kind, url, to in values["aliases"])


def _resolve_tls(values: dict[str, Any], hosts: Sequence[VirtualHost]) -> None:
    """Which listening sockets speak TLS: afterwards just those whose protocol is "https"."""
    engine, listen = values["SSLEngine"], values["Listen"]
    everywhere = engine and not any(one.protocol == "https" for one in listen)
    resolved = []
    for one in listen:
        tls = virtual_hosts.speaks_tls(hosts, one.address, one.port, one.protocol)
        if tls is None:
            tls = everywhere or (engine is not False and one.protocol == "https")
        resolved.append(replace(one, protocol="https" if tls else "http"))
    values["Listen"] = tuple(resolved)
