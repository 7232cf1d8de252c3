"""All settings together: from lines to `Directives`, with httpd's corrections and its messages.

    check()  ─┬─ _Reader    each line: which directive, which value, is it allowed here
              ├─ _Checker   the numbers that depend on each other
              └─ _resolve   log formats by nickname, files below ServerRoot, which sockets use TLS

This is pure: it opens no file and does not query the machine (see `environment.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from mpmkit.config import access, unsupported
from mpmkit.config import hosts as virtual_hosts
from mpmkit.config.alias import Redirection, expression
from mpmkit.config.directives import MPMS, ROWS, SPECS, THREADED, Directives, VirtualHost, spec_for
from mpmkit.config.log_format import COMMON
from mpmkit.config.patterns import canonical, section_pattern
from mpmkit.config.settings import CONDITIONS, DirectiveError, Host, Note, Section, Setting, Spec
from mpmkit.config.unsupported import Foreign, Lacking, foreign
from mpmkit.config.values import BROKEN, append, module_levels
from mpmkit.config.values import replace as latest

# Of the directives that name one file or the directory of the site, relative names start from ServerRoot.
FILES = {"DocumentRoot"} | {row.name for row in ROWS if (row.takes, row.merge) == ("file", latest)}
APPENDED = {row.attribute for row in ROWS if row.attribute and row.merge is append}

# httpd's ids of its messages, for the terminal of the first start.  In the error log of a restart
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
# Those of a directive's old name.
RENAMED_AH = {
    "MaxClients": ("AH00188", "AH00324", "AH00521"), "MaxRequestsPerChild": ("AH00545",) * 3,
}  # fmt: skip


def correction_id(what: str, mpm: str, *, restart: bool) -> str:
    """httpd's id of a message of AH."""
    first = AH[what][MPMS.index(mpm)]
    return f"AH{int(first[2:]) + 1:05d}" if restart and not what.endswith("changed") else first


def check(
    mpm: str, settings: Iterable[Setting] = (), sections: Iterable[Section] = (),
    hosts: Sequence[Host] = (), *, running: Directives | None = None,
    problems: Sequence[DirectiveError] = (), strict: bool = False,
) -> tuple[Directives, tuple[Note, ...]]:  # fmt: skip
    """Effective directives for an MPM, and what the operator should know about them.

    ``running``: at a restart, the directives of the running server: ServerLimit and ThreadLimit
    then keep their values, and the notes have the ids that httpd uses in the error log.
    ``problems`` were found before (`httpd_conf.read`); they are reported with those found here.
    ``strict`` makes a problem of every directive that mpmkit does not have.

    Raises DirectiveError with every problem found, not only the first."""
    if mpm not in MPMS:
        raise DirectiveError(f"there is no MPM {mpm!r}: use prefork, worker or event", ah="AH00534")
    server = _Reader(mpm, Host((), tuple(settings), tuple(sections)), Lacking(strict))
    readers = [_Reader(mpm, host, Lacking(strict, server.lacking), server) for host in hosts]
    if found := [*problems, *(problem for one in (server, *readers) for problem in one.problems)]:
        raise DirectiveError.of(found)
    values = server.values
    for row in ROWS:
        if row.attribute in APPENDED and not values[row.attribute]:
            values[row.attribute] = row.default_for(mpm)
    checker = _Checker(mpm, values, running)
    checker.prefork() if mpm == "prefork" else checker.threads()
    checker.rest()
    notes = [*server.notes, *server.lacking.notes(), *checker.notes]
    # The protocol applies the largest body of all, so where they differ each applies its own.
    usual = values["LimitRequestBody"]
    own_body = any(one.written.get("LimitRequestBody", usual) != usual for one in readers)
    virtual = []
    for one in readers:
        of_host = virtual_hosts.over(values, one.written, one.host)
        said = _resolve(of_host)  # without a log of its own, what there is to say is the server's
        notes += [*one.notes, *one.lacking.notes(), *(said if "CustomLog" in one.written else ())]
        d = one.directives(of_host, own_body, (*server.host.sections, *one.host.sections))
        places = virtual_hosts.addresses(one.host)
        virtual.append(VirtualHost(places, d, one.host.file, one.host.line))
    notes += _resolve(values)
    _resolve_tls(values, virtual)
    directives = server.directives(values, own_body, server.host.sections)
    return replace(directives, hosts=tuple(virtual)), tuple(notes)


class _Reader:
    """Goes through the lines of the server or of a `host`, collects values, problems and notes."""

    def __init__(
        self, mpm: str, host: Host, lacking: Lacking, server: _Reader | None = None
    ) -> None:
        """server: the reader of the server's lines, for those of a <VirtualHost>."""
        self.mpm = mpm
        self.host = host = lacking.without_programs(host)
        self.lacking = lacking
        self.in_host = server is not None
        self.written: dict[str, Any] = {}  # the attributes that a line has set
        self.problems: list[DirectiveError] = []
        self.notes: list[Note] = []
        inside = [setting for section in host.sections for setting in section.settings]
        # What Directives has of the same names: what modules that are lacking would say about clients,
        # and what closes all of the server or the host.
        self.unknown = access.unknown([*host.settings, *inside])
        self.closing = tuple(one for one in host.settings if one.name.lower() in access.CLOSED)
        defaults = {row.attribute: row.default_for(mpm) for row in ROWS if row.attribute}
        self.values = {**defaults, "module_levels": {}, **dict.fromkeys(APPENDED, ())}
        if server is not None:
            self.values = {k: () if k in APPENDED else v for k, v in server.values.items()}
            self.unknown |= server.unknown
            self.closing = server.closing + self.closing
            try:
                virtual_hosts.addresses(host)
            except DirectiveError as error:
                self.problems.append(error)
        for setting in host.settings:
            self.read(setting)
        for section in host.sections:
            self.section(section)

    def directives(
        self, values: dict[str, Any], own_body: bool, sections: tuple[Section, ...]
    ) -> Directives:
        own: Any = {"sections": sections, "unknown": self.unknown, "closed": self.closing}
        return Directives(mpm=self.mpm, own_body=own_body, **values, **own)

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
                self.lacking.take(spec, setting)
            else:
                value = spec.read(setting.args)
                access.limited(setting.within)
                self.refuse(spec, setting, value)
                self.lacking.handler(setting)
            if why := access.closed_by(setting, self.unknown):  # it cannot be enforced
                line = " ".join((setting.name, *setting.args))
                if self.lacking.strict:
                    raise ValueError(f"{line} would admit no client: {why}")
                self.note(f"closed: {line} admits no client, because {why}", setting)
        except ValueError as error:
            self.problems.append(DirectiveError.at(setting, str(error)))
            return
        if isinstance(spec, Spec):
            self.remark(spec, setting, section)
            if spec.attribute and not section:
                self.take(spec, setting, value)

    def take(self, spec: Spec, setting: Setting, value: Any) -> None:
        values = self.values
        values[spec.attribute] = spec.merge(values[spec.attribute], value)
        if spec.name == "LogLevel":
            levels = module_levels(setting.args, values["module_levels"])
            values["module_levels"] = self.written["module_levels"] = levels
        self.written[spec.attribute] = values[spec.attribute]

    def refuse(self, spec: Spec, setting: Setting, value: Any) -> None:
        """Refusals that depend on the MPM or on the lines before. Raises ValueError."""
        if spec.name == "Listen" and value[0].port and value[0] in self.values["Listen"]:
            raise ValueError(f"Listen {setting.args[0]} is given twice: keep one of the two")
        if spec.attribute == "MaxConnectionsPerChild" and value < 0 and self.mpm in THREADED:
            # A threaded child of httpd compares with <= 0 at once, quits before it has served
            # anything, and is replaced, forever.  mpmkit: refused.
            why = f"{self.mpm} children would end before their first connection"
            raise ValueError(f'{spec.name} takes 0 (never) or more, not "{setting.args[0]}": {why}')

    def remark(self, spec: Spec, setting: Setting, section: Section | None) -> None:
        """Notes that concern one line only."""
        name = spec.name
        if spec.renamed:
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

    def note(self, text: str, setting: Setting, ah: str = "", level: str = "warn") -> None:
        self.notes.append(Note(ah, level, text + setting.place))


class _Checker:
    """The numbers that depend on each other, and the steps that make them agree."""

    def __init__(self, mpm: str, values: dict[str, Any], running: Directives | None) -> None:
        self.mpm, self.values, self.running = mpm, values, running
        self.notes: list[Note] = []

    def correct(self, name: str, to: int, why: str, what: str = "") -> None:
        """Change a value and say so; `what` is the key in AH, "" where httpd is silent."""
        self.note(what, f"{name} {self.values[name]} {why}: {to} is used")
        self.values[name] = to

    def note(self, what: str, text: str) -> None:
        ah = what and correction_id(what, self.mpm, restart=self.running is not None)
        # mpmkit: what httpd changes silently is a debug note here.
        self.notes.append(Note(ah, "warn" if what else "debug", text))

    def at_least(self, name: str, least: int, why: str, what: str = "") -> None:
        if self.values[name] < least:
            self.correct(name, least, why, what)

    def at_most(self, name: str, most: int, why: str, what: str = "") -> None:
        if self.values[name] > most:
            self.correct(name, most, why, what)

    def positive(self, *names: str) -> None:
        for name in names:
            self.at_least(name, 1, "is below 1", f"{name} low")

    def limit(self, name: str) -> None:
        """ServerLimit and ThreadLimit: within what is compiled in, and fixed by the first start."""
        high: Any = SPECS[name.lower()].high_for(self.mpm)
        self.at_most(name, high, f"is above the compiled limit of {high}", f"{name} high")
        self.positive(name)
        if self.running and (first := getattr(self.running, name)) != self.values[name]:
            why = f"differs from the {first} of the first start, a restart cannot change it"
            self.correct(name, first, why, f"{name} changed")

    def prefork(self) -> None:
        v = self.values
        self.limit("ServerLimit")
        most = v["ServerLimit"]
        why = f"is above the ServerLimit of {most}"
        self.at_most("MaxRequestWorkers", most, why, "MaxRequestWorkers high")
        self.positive("MaxRequestWorkers", "StartServers", "MinSpareServers")
        # from here on httpd says nothing
        self.at_least("MaxSpareServers", v["MinSpareServers"] + 1, "is not above MinSpareServers")
        self.at_most("StartServers", v["MaxRequestWorkers"], "is above MaxRequestWorkers")

    def threads(self) -> None:
        v = self.values
        self.limit("ServerLimit")
        self.limit("ThreadLimit")
        most = v["ThreadLimit"]
        why = f"is above the ThreadLimit of {most}"
        self.at_most("ThreadsPerChild", most, why, "ThreadsPerChild high")
        self.positive("ThreadsPerChild")
        threads, limit = v["ThreadsPerChild"], v["ServerLimit"]
        why = f"is below the ThreadsPerChild of {threads}, the threads of one child"
        self.at_least("MaxRequestWorkers", threads, why, "MaxRequestWorkers low")
        processes = v["MaxRequestWorkers"] // threads
        why = f"is not a multiple of the ThreadsPerChild of {threads}"
        self.at_most("MaxRequestWorkers", processes * threads, why, "MaxRequestWorkers multiple")
        if processes > limit:
            # The limit on processes is obeyed, the variable keeps its value: Directives has both.
            asked = f"MaxRequestWorkers {v['MaxRequestWorkers']} needs {processes} processes"
            served = f"the ServerLimit of {limit}: {limit * threads} connections are served"
            self.note("MaxRequestWorkers high", f"{asked}, above {served}")
            processes = limit
        self.positive("StartServers", "MinSpareThreads")
        # from here on httpd says nothing
        least = v["MinSpareThreads"] + threads + 1
        why = "is below MinSpareThreads + ThreadsPerChild + 1"
        self.at_least("MaxSpareThreads", least, why)
        why = f"is above the {processes} processes that MaxRequestWorkers allows"
        self.at_most("StartServers", processes, why)

    def rest(self) -> None:
        """mpmkit: negatives that httpd stores and then treats as 0 are 0 here."""
        self.at_least("MaxConnectionsPerChild", 0, "is below 0, which prefork treats as never")
        for name in ("Timeout", "GracefulShutdownTimeout", "MaxKeepAliveRequests"):
            self.at_least(name, 0, "is below 0")


def _resolve(values: dict[str, Any]) -> list[Note]:
    """CustomLog's nicknames become formats; a LogFormat may come after its CustomLog. Relative names of
    files start from ServerRoot; without a ServerRoot they stay as they are."""
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


def _resolve_tls(values: dict[str, Any], hosts: Sequence[VirtualHost]) -> None:
    """Which listening sockets speak TLS: afterwards just those whose protocol is "https"."""
    engine, listen = values["SSLEngine"], values["Listen"]
    everywhere = engine and not any(one.protocol == "https" for one in listen)
    files = [values["SSLCertificateFile"], *(host.directives.SSLCertificateFile for host in hosts)]
    resolved = []
    for one in listen:
        # Debian's file has 443 before there is a site for it: that is HTTP, as by httpd.
        protocol = one.protocol if engine or any(files) or one.port != 443 else "http"
        if (tls := virtual_hosts.speaks_tls(hosts, one.address, one.port, protocol)) is None:
            tls = everywhere or (engine is not False and protocol == "https")
        resolved.append(replace(one, protocol="https" if tls else "http"))
    values["Listen"] = tuple(resolved)
