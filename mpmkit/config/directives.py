# ruff: noqa: RUF009 - directive() and count() return fields
"""The directives: their syntax, their meaning, and their effect on the server.

    Setting("ThreadsPerChild", ("100",), "httpd.conf", 12)      as written
          |  SPECS["threadsperchild"].read                      one line at a time
    100                                                         the value of that line
          |  checks.check()                                     all lines together
    Directives.ThreadsPerChild == 64,  Note("AH00507", ...)     the effective value

The rules are those of Apache httpd 2.4; a comment that starts with "mpmkit:" says where we differ. The order
of lines does not matter, the last one wins. An invalid value (``KeepAlive perhaps``) stops the start with a
`DirectiveError`; a valid number that cannot be obeyed is *corrected*, with a `Note`. A directive of another
MPM is an unknown directive: hence ``<IfModule mpm_event_module>``. As a page: docs/DIRECTIVES.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from mpmkit.config import access, values
from mpmkit.config.alias import EnvRule, Redirection, alias, redirect, setter
from mpmkit.config.settings import MPMS, THREADED, DirectiveError, Note, Section, Setting, Spec
from mpmkit.config.unsupported import foreign
from mpmkit.config.values import COMBINED, COMMON, Words, append, update

__all__ = [
    "MPMS", "SPECS", "THREADED", "DirectiveError", "Directives", "Note", "Section", "Setting", "Spec",
    "section_values", "spec_for",
]  # fmt: skip

SOME = (1, 99)


def directive(parse: Any, default: Any, doc: str, **row: Any) -> Any:
    """An attribute of `Directives`, and the row of the directive that sets it (see `Spec`): of the attribute's
    name unless `name` is given. also: further directives that set it, what differs in their rows."""
    return field(metadata={"parse": parse, "default": default, "doc": doc, **row})


def count(unit: str, default: Any, doc: str, **row: Any) -> Any:
    """One of the numbers that decide how many processes and threads there are."""
    given = {"takes": "number", "unit": unit, "source": "mpm", "low": 1, **row}
    return directive(values.number, default, doc, **given)


def bounded(unit: str, default: Any, doc: str, parse: Any = values.number, **row: Any) -> Any:
    """A number that is refused if it is less than `low`, which is 0 if it is not given."""
    given = {"takes": "number", "unit": unit, "low": 0, "refused": True, **row}
    return directive(parse, default, doc, **given)


def switch(default: Any, doc: str, **row: Any) -> Any:
    return directive(values.on_off, default, doc, takes="On|Off", **row)


def name(takes: str, doc: str, default: str | None = None, **row: Any) -> Any:
    """A text that is kept as it is: the name of a file, a user, the server."""
    return directive(values.text, default, doc, takes=takes, **row)


def per_mpm(prefork: Any, worker: Any, event: Any) -> dict[str, Any]:
    return {"prefork": prefork, "worker": worker, "event": event}


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """What the server will do: the effective value of every directive, defined with the directive's row.

    Seconds are floats, sizes are ints in the unit of the directive, files are absolute if ServerRoot is.
    Make one with `checks.check`; `dataclasses.replace` makes variants but corrects nothing."""

    mpm: str
    # fmt: off
    # Processes and threads (a number of another MPM is 0, or 1 for the threads of prefork)
    StartServers: int = count("processes", per_mpm(5, 3, 3),
        "Children forked at the start, and replaced at once after a graceful restart")
    MinSpareServers: int = count("processes", per_mpm(5, 0, 0), mpms=("prefork",),
        doc="Fork more children when fewer than this are idle")
    MaxSpareServers: int = count("processes", per_mpm(10, 0, 0), mpms=("prefork",), low=None,
        doc="Retire a child when more than this are idle; at least MinSpareServers + 1")
    MinSpareThreads: int = count("threads", per_mpm(0, 75, 75), mpms=THREADED,
        doc="Fork more children when fewer threads than this are idle")
    MaxSpareThreads: int = count("threads", per_mpm(0, 250, 250), mpms=THREADED, low=None,
        doc="Retire a child when more threads than this are idle; at least MinSpareThreads + ThreadsPerChild + 1")
    ThreadsPerChild: int = count("threads", per_mpm(1, 25, 25), mpms=THREADED,
        doc="Worker threads of each child; at most ThreadLimit")
    ThreadLimit: int = count("threads", per_mpm(1, 64, 64), mpms=THREADED,
        high={"worker": 20000, "event": 100000},
        doc="Width of the scoreboard: the maximum of ThreadsPerChild until a stop and start")
    ServerLimit: int = count("processes", per_mpm(256, 16, 16), high=per_mpm(200000, 20000, 20000),
        doc="Height of the scoreboard: the maximum number of processes until a stop and start")
    MaxRequestWorkers: int = count("connections", per_mpm(256, 400, 400),
        "Connections served at the same time; others wait in the listen queue",
        also=({"name": "MaxClients", "renamed": "MaxRequestWorkers", "doc": "Old name of MaxRequestWorkers"},))
    MaxConnectionsPerChild: int = count("connections", 0, "A child ends after this many; 0 is never", low=0,
        also=({"name": "MaxRequestsPerChild", "renamed": "MaxConnectionsPerChild",
               "doc": "Old name of MaxConnectionsPerChild"},))
    AsyncRequestWorkerFactor: float = directive(values.factor, per_mpm(0.0, 0.0, 2.0),
        "Connections beyond its threads that a child takes for each idle thread; only the integer part counts, "
        "and less than 1 counts as 1",
        takes="factor", unit="connections per idle thread", source="mpm", mpms=("event",))
    ThreadStackSize: int = bounded("bytes", 0, "Stack of a worker thread; 0 is the system's; not for prefork",
        values.based_number, source="mpm")
    ImmortalObjects: bool = switch(True,
        "Before the first fork, fix the reference counts of what children use, so that its pages stay "
        "shared; takes effect at the start, on Python 3.12 to 3.15", source="mpmkit")
    GracefulShutdownTimeout: float = directive(values.seconds, 0.0,
        "How long graceful-stop waits for children; 0 is forever", takes="number", unit="s", source="mpm")
    # Listening
    Listen: tuple[values.ListenAddress, ...] = directive(values.listen, (), "Where to listen",
        takes="[address:]port [protocol]", source="mpm", args=(1, 2), merge=append)
    ListenBacklog: int = bounded("connections", 511, "Length of the kernel's queue of waiting connections",
        source="mpm", low=1)
    ListenTCPDeferAccept: int = bounded("s", 30, "Value of TCP_DEFER_ACCEPT where it is used",
        source="mpm", low=1)
    AcceptFilter: dict[str, str] = directive(lambda words: {words[0].lower(): words[1].lower()},
        {"http": "data", "https": "data"},
        "What the kernel waits for before it hands over a connection: data, connect or none",
        where="main", takes="protocol filter", args=(2, 2), merge=update)
    SendBufferSize: int = bounded("bytes", 0, "Kernel's send buffer, from 512; 0 is the system's",
        source="mpm", low=512, or_zero=True)
    ReceiveBufferSize: int = bounded("bytes", 0, "Kernel's receive buffer, from 512; 0 is the system's",
        source="mpm", low=512, or_zero=True)
    # The server and its files
    ServerRoot: str | None = name("directory", "Directory to which relative file names refer",
        httpd="/usr/local/apache2")
    ServerName: str = name("host[:port]", "The server's own name: host[:port]", "", httpd="looked up")
    ServerAlias: Words = directive(values.all_words, (),
        "Other names of a <VirtualHost>; * is any characters, ? is one",
        takes="name ...", args=SOME, merge=append)
    UseCanonicalName: str = directive(values.choice("Off", "On", "DNS"), "Off",
        "The name in redirects and %V: On is ServerName's, Off the client's; DNS is treated as Off",
        takes="On|Off|DNS", where="outside")
    DocumentRoot: str | None = name("directory", "Directory the site is served from", httpd="htdocs")
    PidFile: str | None = name("file", "File with the process id of the parent", source="mpm",
        httpd="logs/httpd.pid")
    ScoreBoardFile: str | None = name("file", source="mpm",
        doc="File for the scoreboard, so that other programs can read it; without it the memory has no name")
    User: str | None = directive(values.user, None, "User the children become, if started as root",
        where="main", takes="name or #id", source="mod_unixd", httpd="#-1")
    Group: str | None = name("name or #id", "Group the children become, if started as root",
        where="main", source="mod_unixd", httpd="#-1")
    ErrorLog: str | None = name("file", "File for the error log; without it, standard error",
        httpd="logs/error_log")
    TraceLog: str | None = name("file", source="mpmkit",
        doc="File for each step of each connection (docs/TRACER.md); takes effect at the start")
    LogLevel: str = directive(values.log_level, "warn", "Least important level that is logged",
        takes="level", args=SOME, where="outside", merge=values.keep_if_none)
    module_levels: dict[str, str]  # those of LogLevel for single modules
    LogFormat: dict[str, str] = directive(lambda words: {"".join(words[1:]): words[0]},
        {"common": COMMON, "combined": COMBINED}, "A format for the access log, and a nickname for it",
        takes="format [nickname]", source="mod_log_config", args=(1, 2), merge=update)
    CustomLog: tuple[Words, ...] = directive(values.custom_log, (),
        "Access log: a file or |program, and a format or nickname", takes="file format [env=[!]variable]",
        source="mod_log_config", args=(2, 3), merge=append,
        also=({"name": "TransferLog", "takes": "file", "args": (1, 1),
               "doc": "Access log in the last LogFormat without a nickname"},))
    ExtendedStatus: bool = switch(False,
        "Keep each worker's request, client and times; LoadModule status_module turns it on", where="main")
    ServerTokens: str = directive(values.choice(
        "Full", "OS", "Minimal", "Minor", "Major", "ProductOnly", min="Minimal", prod="ProductOnly"),
        "Full", "How much the Server header says", where="main", takes="Full|OS|Minimal|Minor|Major|Prod")
    ServerAdmin: str = name("address", "Address of the administrator, for scripts", "")
    # Connections
    Timeout: float = directive(values.seconds, 60.0,
        "Longest wait for one read or write on a connection", where="connection", takes="number", unit="s")
    KeepAlive: bool = switch(True, "Several requests on one connection", where="connection", source="http_core")
    KeepAliveTimeout: float = directive(values.time, 5.0,
        "Longest wait for the next request; 0 is no keep-alive",
        where="connection", takes="time", unit="s", source="http_core")
    MaxKeepAliveRequests: int = directive(values.number, 100, "N allows N + 1 requests; 0 is no limit",
        where="connection", takes="number", unit="requests", source="http_core")
    RequestReadTimeout: dict[str, values.Stage] = directive(values.read_timeout, values.READ_TIMEOUT,
        "Longest time for each stage of a request, and the rate that prolongs it",
        where="connection", takes="stage=init[-max][,MinRate=rate] ...", unit="s, bytes/s",
        source="mod_reqtimeout", args=(0, 99), merge=update)
    LimitRequestLine: int = bounded("bytes", 8190, "Longest request line", where="connection")
    LimitRequestFieldSize: int = bounded("bytes", 8190, "Longest header field", where="connection")
    LimitRequestFields: int = bounded("fields", 100, "Most header fields; 0 is no limit", where="connection")
    LimitRequestBody: int = bounded("bytes", 1 << 30, "Longest body; 0 is no limit",
        values.exact_number, where="any")
    HttpProtocolOptions: Words = directive(
        values.protocol_options, tuple(pair[0] for pair in values.PROTOCOL_OPTIONS),
        "How strictly a request is read: always as with Strict and Require1.0",
        where="connection", takes="Strict|Unsafe Lenient|RegisteredMethods Allow0.9|Require1.0",
        args=(1, 3), merge=values.answer)
    ConnectionFilter: tuple[str, int] | None = directive(values.connection_filter, None,
        "A filter on every connection's socket. LINE_RATE limits it to a number of KiB/s, and is not safe for "
        "event, which then holds a thread for each connection; httpd's closest is RATE_LIMIT, a filter of "
        "responses", where="connection", takes="LINE_RATE KiB/s | None", source="mpmkit", args=(1, 2))
    # TLS
    SSLEngine: bool | None = switch(None, source="mod_ssl", httpd="Off",
        doc="On: TLS on sockets whose Listen says https, or on all if none does. Unset: on those that say https")
    SSLCertificateFile: str | None = name("file", "File with the server's certificate and its chain, in PEM",
        source="mod_ssl")
    SSLCertificateKeyFile: str | None = name("file", "File with the certificate's private key in PEM, "
        "not encrypted; without it, the key is in SSLCertificateFile", source="mod_ssl")
    SSLProtocol: Words = directive(values.tls_versions, values.SPOKEN,
        "Versions of TLS that are accepted: 1.2 and 1.3",
        takes="[+-]all|TLSv1.2|TLSv1.3 ...", source="mod_ssl", args=SOME, httpd="all -SSLv3")
    SSLCipherSuite: str | None = directive(values.ciphers, None,
        "Ciphers for TLS 1.2, as OpenSSL names them; without it, those that Python's ssl module considers safe. "
        "Those for TLSv1.3 are OpenSSL's",
        takes="[SSL|TLSv1.3] ciphers", source="mod_ssl", args=(1, 2), merge=values.keep_if_none, httpd="DEFAULT")
    # Responses
    EnableSendfile: bool = switch(False, "Send files larger than 64 KiB by sendfile, which frees event's threads",
        where="any")
    EnableMMAP: bool = switch(True,
        "Map files of 64 KiB to 4 MiB into memory to send them, where EnableSendfile is Off; a file "
        "stays mapped from its second request on. Off: files are read, for network file systems", where="any")
    FlushMaxThreshold: int = bounded("bytes", 65535, "Pending bytes above which a write blocks",
        values.exact_number, where="connection")
    TraceEnable: str = directive(values.choice("On", "Off", "Extended"), "On",
        "Whether TRACE is answered", takes="On|Off|Extended")
    FileETag: Words = directive(values.file_etag, values.ETAG, "What an ETag is made of",
        takes="[+-]INode|MTime|Size|All|None ...", args=SOME, where="any", merge=values.etag_over,
        over=values.etag_over)
    MaxRanges: int = directive(values.ranges, 200,
        "Most ranges of one request before the whole file is sent; 0 is no ranges",
        takes="none|default|unlimited|number", unit="ranges", where="outside")
    # The site
    DirectoryIndex: Words = directive(lambda words: () if [*map(str.lower, words)] == ["disabled"] else words,
        ("index.html",), "Files tried for a directory",
        takes="file ...", source="mod_dir", args=SOME, where="any", merge=append)
    TypesConfig: str | None = name("file", "Table of media types", source="mod_mime", httpd="conf/mime.types")
    types: dict[str, str] = directive(lambda words: values.by_extension((words[0].lower(), *words[1:])), {},
        "A media type for file name extensions", name="AddType",
        takes="type .ext ...", source="mod_mime", args=(2, 99), where="any", merge=update, over=update)
    AddDefaultCharset: str = directive(
        lambda words: {"off": "", "on": "iso-8859-1"}.get(words[0].lower(), words[0]), "",
        "Character set for text/html and text/plain files without one; On is iso-8859-1",
        takes="On|Off|charset", where="any")
    handlers: dict[str, str] = directive(values.by_extension, {},
        "A handler for file name extensions", name="AddHandler",
        takes="handler .ext ...", source="mod_mime", args=(2, 99), where="any", merge=update, over=update)
    SetHandler: str | None = directive(lambda words: None if words[0].lower() == "none" else words[0], None,
        "The handler for everything here", takes="handler|None", where="any")
    Options: Words = directive(values.options, ("FollowSymLinks",), "What is allowed in a directory",
        takes="[+-]option ...", args=SOME, where="any", merge=values.signed, over=values.signed)
    ErrorDocument: dict[int, str] = directive(values.error_document, {},
        "What is sent instead of an error page",
        takes="status text-or-path", args=(2, 2), where="any", merge=update, over=update)
    DirectorySlash: bool = switch(True,
        "Redirect a directory's path without its last slash", source="mod_dir", where="any")
    FallbackResource: str = directive(
        lambda words: "" if words[0].lower() == "disabled" else values.site_path(words[0]), "",
        "Answers for paths without a file", takes="path|disabled", source="mod_dir", where="any")
    ForceType: str | None = directive(lambda words: None if (kind := words[0].lower()) == "none" else kind,
        None, "The media type of all files here", takes="type|None", where="section")
    aliases: tuple[tuple[str, str, str], ...] = directive(alias("Alias"), (),
        "A URL path served from another place", name="Alias",
        takes="path file", source="mod_alias", args=(2, 2), merge=append, over=values.prepend,
        also=({"name": "AliasMatch", "parse": alias("AliasMatch"), "takes": "expression file",
               "doc": "Like Alias, for URL paths that match a regular expression"},
              {"name": "ScriptAliasMatch", "parse": alias("ScriptAliasMatch"), "takes": "expression file",
               "doc": "Like ScriptAlias, for URL paths that match a regular expression"},
              {"name": "ScriptAlias", "parse": alias("ScriptAlias"), "takes": "path directory",
               "doc": "A URL path whose files are CGI programs"},
              {"name": "WSGIScriptAlias", "parse": alias("WSGIScriptAlias"), "args": (2, 6),
               "takes": "path directory [option=value] ...", "source": "mod_wsgi",
               "doc": "A URL path served by a WSGI application; options are not looked at"}))
    redirects: tuple[Redirection, ...] = directive(redirect(), (),
        "A URL path redirected to another URL, or answered with only a status", name="Redirect",
        takes="[status] [path] [URL]", source="mod_alias", args=(1, 3), where="any", merge=append,
        over=values.prepend,
        also=({"name": "RedirectMatch", "parse": redirect(match=True), "takes": "[status] expression [URL]"},
              {"name": "RedirectPermanent", "parse": redirect(301), "takes": "path URL", "args": (2, 2)},
              {"name": "RedirectTemp", "parse": redirect(302), "takes": "path URL", "args": (2, 2)}))
    variables: tuple[EnvRule, ...] = directive(setter(), (),
        "Variables of a request: for scripts, the access log and its env=", name="SetEnvIf",
        takes="attribute expression [!]variable[=value] ...", source="mod_setenvif", args=(3, 99),
        where="outside", merge=append, over=append,
        also=({"name": "SetEnvIfNoCase", "parse": setter(any_case=True)},
              {"name": "BrowserMatch", "parse": setter("User-Agent"), "args": (2, 99),
               "takes": "expression [!]variable[=value] ..."},
              {"name": "BrowserMatchNoCase", "parse": setter("User-Agent", True), "args": (2, 99),
               "takes": "expression [!]variable[=value] ..."}))
    ProxyTimeout: float = bounded("s", 0.0, "Longest wait for a FastCGI backend; 0 is the value of Timeout",
        values.seconds, source="mod_proxy", httpd="Timeout")
    ProxySet: tuple[tuple[str, dict[str, float]], ...] = directive(values.proxy_set, (),
        "Connections to a FastCGI backend: enablereuse=on keeps them, at most max in each process",
        takes="url key=value ...", source="mod_proxy", args=(2, 9), merge=append, over=values.prepend)
    # fmt: on
    sections: tuple[Section, ...] = ()
    hosts: tuple[VirtualHost, ...] = ()
    closed: tuple[Setting, ...] = ()  # what closes all of it: SSLVerifyClient outside of sections
    unknown: frozenset[str] = frozenset()  # see `access.unknown`
    own_body: bool = False  # LimitRequestBody differs between the hosts

    @property
    def threaded(self) -> bool:
        return self.mpm in THREADED

    @property
    def tls(self) -> bool:
        """Does any listening socket speak TLS? (Then its `Listen` has the protocol "https".)"""
        return any(listen.protocol == "https" for listen in self.Listen)

    @property
    def longest_body(self) -> int:
        """The largest LimitRequestBody, of sections, too: for a request whose section is not known. 0: none."""
        limits = [self.LimitRequestBody, *(host.directives.longest_body for host in self.hosts)]
        lines = [setting for section in self.sections for setting in section.settings]
        read = SPECS["limitrequestbody"].read
        limits += [read(line.args) for line in lines if line.name.lower() == "limitrequestbody"]
        return 0 if 0 in limits else max(limits)

    @property
    def process_limit(self) -> int:
        """How many children of one generation there can be; as in httpd, MaxRequestWorkers may name more."""
        return min(self.MaxRequestWorkers // self.ThreadsPerChild, self.ServerLimit)

    @property
    def async_factor(self) -> int:
        """AsyncRequestWorkerFactor as the admission test uses it: whole, and at least 1."""
        return max(1, int(self.AsyncRequestWorkerFactor))


@dataclass(frozen=True, eq=False, slots=True)
class VirtualHost:
    """A <VirtualHost>: its (address, port), "" and 0 for any; its own lines merged with the server's."""

    addresses: tuple[tuple[str, int], ...]
    directives: Directives
    file: str = ""
    line: int = 0


def _rows() -> Iterator[Spec]:
    for one in fields(Directives):
        row = {"name": one.name, "attribute": one.name, **one.metadata}
        for also in ({}, *row.pop("also", ())) if one.metadata else ():
            yield Spec(**{**row, **also})


ROWS = (*_rows(), *access.ROWS)
SPECS: dict[str, Spec] = {row.name.lower(): row for row in ROWS}
OVER = {row.attribute: row.over for row in ROWS}


def spec_for(name: str, mpm: str | None) -> Spec:
    """The row for a name (in any case) under an MPM, or under any (None). Raises ValueError with the remedy."""
    spec = SPECS.get(name.lower())
    if spec is not None and (mpm is None or mpm in spec.mpms):
        return spec
    if spec is not None:
        guard = f"wrap it in <IfModule mpm_{spec.mpms[-1]}_module> or take it out"
        where = f"belongs to {' and '.join(spec.mpms)}, this is {mpm}"
        raise ValueError(f"{spec.name} {where}: {guard}")
    if row := foreign(name):
        raise ValueError(row.refusal)
    from difflib import get_close_matches  # only a mistake pays for it

    known = [row.name.lower() for row in ROWS if mpm is None or mpm in row.mpms]
    for close in get_close_matches(name.lower(), known, n=1, cutoff=0.75):
        raise ValueError(f"{name} is not a directive: did you mean {SPECS[close].name}?")
    raise ValueError(f"{name} is not a directive mpmkit knows: check its spelling or take it out")


def section_values(section: Section) -> dict[str, Any]:
    """What a section that `check` has seen says, by the attribute of `Directives`, or else by directive."""
    found: dict[str, Any] = {}
    for setting in section.settings:
        if (spec := SPECS.get(setting.name.lower())) is None:
            continue  # closed: see `access`
        name, value = spec.attribute or spec.name, spec.read(setting.args)
        found[name] = spec.merge(found[name], value) if name in found else value
    return found


def laid_over(around: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a section or a host upon those around it, by attribute."""
    both = own.keys() & around.keys() & OVER.keys()
    return {**around, **own, **{name: OVER[name](around[name], own[name]) for name in both}}
