"""Both servers' verdicts on the same httpd.conf lines: accepted, corrected with which warning, refused.

Each directive that mpmkit knows is written with the values at and beyond its bounds. httpd is asked
by `-t`; ours by the functions that its `-t` calls. Defaults are compared with those that httpd's
documentation states, which are the compiled ones.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, ROWS, DirectiveError, Spec
from mpmkit.config.environment import validate_environment
from mpmkit.config.httpd_conf import Source, read
from mpmkit.config.values import RequestReadTimeout
from mpmkit.measure.reference_servers import find_httpd
from tests.fidelity.cases import Row
from tests.fidelity.server_pair import POOLS, conf_text

# Values to try, by what a directive takes. "" is no value at all.
NUMBERS = ("", "-1", "0", "1", "2", "511", "512", "abc", "12x", "70000", "250000", "1 2")
SWITCHES = ("", "On", "off", "maybe", "On Off")
VALUES: dict[str, tuple[str, ...]] = {
    "number": NUMBERS,
    "factor": ("", "-1", "0", "0.5", "1.5", "2x", "abc", "1 2"),
    "time": ("", "-1", "0", "5", "700ms", "2s", "1min", "1mi", "1h", "5x", "abc", "1 2"),
    "On|Off": SWITCHES,
    "[address:]port [protocol]": ("", "0", "1", "65535", "65536", "abc", "127.0.0.1:8099",
                                  "[::1]:8099", "127.0.0.1", "8099 http", "8099 http x",
                                  "127.0.0.1:"),
    "stage=init[-max][,MinRate=rate] ...": (
        "", "header=20", "header=20-40", "header=20-40,MinRate=500", "header=40-20,MinRate=500",
        "body=20,MinRate=0", "body=-1", "foo=20", "header=x", "handshake=5 header=2",
        "header=20-20,MinRate=1"),
    "level": ("", "warn", "debug", "trace1", "trace8", "trace9", "loud", "core:info",
              "warn core:debug"),
    "time-out": (),
    "Full|OS|Minimal|Minor|Major|Prod": ("", "Full", "OS", "Min", "Minimal", "Minor", "Major",
                                         "Prod", "ProductOnly", "Some"),
    "Off|On|EMail": ("", "On", "Off", "EMail", "maybe"),
    "On|Off|Extended": ("", "on", "off", "extended", "maybe"),
    "none|default|unlimited|number": ("", "none", "default", "unlimited", "0", "1", "-1", "abc"),
    "[+-]INode|MTime|Size|Digest|All|None ...": ("", "All", "None", "MTime Size", "-INode", "Digest",
                                                 "+MTime None", "Colour"),
    "Strict|Unsafe Lenient|RegisteredMethods Allow0.9|Require1.0": (
        "", "Strict", "Unsafe", "LenientMethods", "RegisteredMethods", "Allow0.9", "Require1.0",
        "Strict Allow0.9 LenientMethods", "Loose", "Strict Unsafe"),
    "[+-]option ...": ("", "None", "All", "Indexes", "-Indexes", "+FollowSymLinks -Indexes",
                       "Indexes +FollowSymLinks", "Everything"),
    "protocol filter": ("", "http", "http data", "http none", "http connect", "https data",
                        "http often"),
    "status text-or-path": ("", "404", "404 /missing.html", '404 "gone"', "999 x", "abc x",
                            "404 http://example.com/"),
    "handler .ext ...": ("", "x", "server-status .s", "server-status s"),
    "type .ext ...": ("", "text/x", "text/x .x", "text/x x y"),
    "handler|None": ("", "none", "server-status", "a b"),
    "format [nickname]": ("", '"%h"', '"%h" mine', "a b c"),
    "file [format]": ("", "log", "log common", 'log "%h %t"', "log nickname_never_defined"),
    "path file": ("", "/a", "/a /tmp", "/a /tmp x"),
    "path directory": ("", "/a", "/a /tmp", "/a /tmp x"),
    "name or #id": ("", "www-data", "#33", "nobody_of_that_name", "a b"),
    "directory": ("", "/tmp", "a b"),
    "file": ("", "somewhere", "a b"),
    "file ...": ("", "index.html", "a b c"),
    "host[:port]": ("", "example.com", "example.com:8080", "a b"),
    "": ("",),
}  # fmt: skip
# Beyond the values of its kind: where the bounds of one directive are.
MORE = {
    "ThreadLimit": ("20000", "20001", "100000", "100001"),
    "ServerLimit": ("20000", "20001", "200000", "200001"),
    "MaxRequestWorkers": ("7", "8", "9", "100", "103"),
    "ListenBacklog": ("65536",),
    "LimitRequestBody": ("9223372036854775807", "9223372036854775808", "1k"),
    "ThreadStackSize": ("65536", "8388608"),
    "UseCanonicalName": ("On", "Off", "DNS", "maybe"),
}  # fmt: skip
# Those that take a file or directory with consequences are written with harmless ones only.
INSTEAD = {
    "ServerRoot": ("", "/tmp", "/nowhere/at/all", "a b"),
    "DocumentRoot": ("", "/tmp", "a b"),
    "AddDefaultCharset": ("", "On", "Off", "utf-8"),
    "ServerAdmin": ("", "me@example.com"),
    "ListenCoresBucketsRatio": ("", "-1", "0", "8", "abc"),
}  # fmt: skip
# Addresses as httpd reads them; the second half is refused.
ADDRESSES = (
    "10", "10.", "10.1", "10.1.", "10.1.2", "10.1.2.3", "10.1.2.3.", "10.0.0.0/8", "10.0.0.1/8", "010.1", "10.01",
    "10.0.0.0/255.0.0.0", "10.0.0.0/255.0.255.0", "::1", "::1/128", "2001:db8::/32", "10.0.0.0/08", "10.0.0.0/+8",
    "0", "10 ::1 127.0.0.0/8",
    "10.1.2.3.4", "10..1", ".10", "256.1", "10.256", "10/8", "10.1/16", "10.0.0.0/0", "0.0.0.0/0", "10.0.0.0/33",
    "10.0.0.0/", "10.0.0.0/ff", "10.0.0.0/255", "::1/0", "::/0", "2001:db8::/129", "::ffff:10.1.2.3",
    "::ffff:10.0.0.0/104", "fe80::1%lo", "10.1/255.255.0.0", "2001:db8::/ffff::", "1000000000000000000000", "0/0",
    "a/8", "10 x/8",
)  # fmt: skip
GROUPS = (
    "<RequireAny>\n</RequireAny>", "<RequireAll>\nRequire not ip 10\n</RequireAll>",
    "<RequireAll>\nRequire all granted\nRequire not ip 10\n</RequireAll>",
    "<RequireAll x>\nRequire local\n</RequireAll>",
    "<RequireNone>\nRequire local\n</RequireNone>", "<RequireAny>\nRequire not local\n</RequireAny>",
    "<RequireAll>\nRequire local\n<RequireNone>\nRequire not local\n</RequireNone>\n</RequireAll>",
    "<RequireAll>\nRequire local\n<RequireNone>\nRequire ip 10\n</RequireNone>\n</RequireAll>",
    "<RequireAll>\n<RequireNone>\nRequire ip 10\n</RequireNone>\n</RequireAll>",
    "<Limit GET>\n<Files x>\n</Files>\n</Limit>", "<RequireAny>\n<Files x>\n</Files>\n</RequireAny>",
    "<Limit>\n</Limit>",
    "<Limit GET FOO>\nRequire local\n</Limit>", "<Limit TRACE>\nRequire local\n</Limit>",
    "<Limit get>\nOptions None\n</Limit>",
    "<LimitExcept TRACE>\nRequire local\n</LimitExcept>",
    "<Limit GET>\n<Limit POST>\nRequire local\n</Limit>\n</Limit>",
    "<Limit GET>\n<RequireAny>\nRequire local\n</RequireAny>\n</Limit>", "<Files x>\nRequire local\n</Files>",
    "<RequireAny>\n<Limit GET>\nRequire local\n</Limit>\n</RequireAny>", "<Location />\n</Location>",
)  # fmt: skip
_ORIGINS = ("", "from", "all", "from all", "From ALL", "from env=x", "from env=!x", "from example.org 10.1",
            "from 1e3", *(f"from {one}" for one in ADDRESSES))  # fmt: skip
INSTEAD |= {
    "Require": (
        "", "all granted", "all Granted", "ALL granted", "all", "all maybe", "not all granted", "everybody",
        "local", "local x", "not", "not local", "ip", "ip x", "IP 10.1", "host", "host a.b .c",
        "method",
        "method GET HEAD TRACE", "method FOO", "method get", "env", "env x", "ssl", "ssl x", "expr true",
        *(f"ip {one}" for one in ADDRESSES), *(f"all granted\n{one}" for one in GROUPS),
    ),
    "Order": ("", "allow,deny", "Deny,Allow", "mutual-failure", "allow, deny", "allow"),
    "Allow": _ORIGINS, "Deny": _ORIGINS[:20],
    "Satisfy": ("", "any", "All", "none", "any all"),
    "AllowMethods": ("", "GET", "GET POST", "reset", "reset GET", "FOO", "get", "-GET", "TRACE"),
    "SSLRequireSSL": ("", "On"),
}  # fmt: skip
SAMPLE_ONLY = {"WSGIScriptAlias", "ImmortalObjects"}  # not httpd's own

# Modules that are loaded for their own directives only.
EXTRA_MODULES = ("ssl", "proxy", "access_compat", "allowmethods")

# httpd's compiled defaults, as its documentation states them; by MPM where they differ.
DEFAULTS: dict[str, object] = {
    "StartServers": {"prefork": 5, "worker": 3, "event": 3},
    "MinSpareServers": 5, "MaxSpareServers": 10, "MinSpareThreads": 75, "MaxSpareThreads": 250,
    "ThreadsPerChild": 25, "ThreadLimit": 64,
    "ServerLimit": {"prefork": 256, "worker": 16, "event": 16},
    "MaxRequestWorkers": {"prefork": 256, "worker": 400, "event": 400},
    "MaxConnectionsPerChild": 0, "AsyncRequestWorkerFactor": 2.0, "ThreadStackSize": 0,
    "MaxMemFree": 2048, "GracefulShutdownTimeout": 0.0, "Listen": (), "ListenBacklog": 511,
    "ListenTCPDeferAccept": 30, "AcceptFilter": {"http": "data", "https": "data"},
    "SendBufferSize": 0, "ReceiveBufferSize": 0, "LogLevel": "warn",
    "ServerTokens": "Full", "ServerSignature": "Off", "Timeout": 60.0, "KeepAlive": True,
    "KeepAliveTimeout": 5.0, "MaxKeepAliveRequests": 100,
    "RequestReadTimeout": RequestReadTimeout(),  # header=20-40,MinRate=500 body=20,MinRate=500
    "LimitRequestLine": 8190, "LimitRequestFieldSize": 8190, "LimitRequestFields": 100,
    "LimitRequestBody": 1073741824, "EnableSendfile": False, "EnableMMAP": True,
    "FlushMaxThreshold": 65535, "TraceEnable": "On",
    "FileETag": ("MTime", "Size"), "MaxRanges": 200, "DirectoryIndex": ("index.html",),
    "Options": ("FollowSymLinks",), "ErrorDocument": {}, "AddType": {}, "AddHandler": {},
    "SetHandler": None, "ExtendedStatus": False, "CustomLog": (), "TransferLog": (),
    "HttpProtocolOptions": ("Strict", "LenientMethods", "Allow0.9"),
    "ScoreBoardFile": None, "Alias": (), "ScriptAlias": (),
}  # fmt: skip


def values_for(spec: Spec) -> tuple[str, ...]:
    if spec.name in INSTEAD:
        return INSTEAD[spec.name]
    kind = VALUES.get(spec.takes, ("", "x"))
    return (*kind, *MORE.get(spec.name, ()))


def in_section(spec: Spec, line: str) -> str:
    return f'<Directory "/tmp">\n{line}\n</Directory>' if spec.where == "section" else line


def theirs(file: Path) -> str:
    """httpd's verdict: `ok`, `ok AH00184 …`, or `refused`."""
    done = subprocess.run(
        [find_httpd(), "-t", "-f", str(file)], capture_output=True, text=True, timeout=30
    )
    if done.returncode:
        return "refused"
    return " ".join(["ok", *_ids(done.stdout + done.stderr)])


def ours(text: str) -> str:
    """Our verdict on the same text, in the same words."""
    try:
        conf = read(Source(text=text))
        assert conf.mpm is not None
        directives, notes = check(conf.mpm, conf.settings, conf.sections, problems=conf.problems)
        validate_environment(directives, conf.settings)
    except DirectiveError:
        return "refused"
    said = [note for note in (*conf.notes, *notes) if note.level in ("warn", "error")]
    return " ".join(["ok", *_ids(" ".join(str(note) for note in said))])


def _ids(text: str) -> list[str]:
    return re.findall(r"AH\d{5}", text)


def cases(only: Iterable[str] = ()) -> list[tuple[Spec, str, str]]:
    """(directive, value, MPM): an MPM's own directives under each MPM, the others under event."""
    wanted = {name.lower() for name in only}
    return [
        (spec, value, mpm)
        for spec in ROWS
        if spec.name not in SAMPLE_ONLY and (not wanted or spec.name.lower() in wanted)
        for value in values_for(spec)
        for mpm in (MPMS if spec.source == "mpm" else ("event",))
    ]


def rows(pages: Path, only: Iterable[str] = ()) -> list[Row]:
    """One row a directive: how many values were tried, and those on which the two disagree."""
    tried = cases(only)
    with tempfile.TemporaryDirectory(prefix="mpmkit-conf-") as where:
        root = Path(where)
        (root / "mime.types").write_text("text/plain txt\n")

        def judge(number_and_case) -> tuple[str, str]:
            number, (spec, value, mpm) = number_and_case
            line = in_section(spec, f"{spec.name} {value}".rstrip())
            more = [name] if (name := spec.source.removeprefix("mod_")) in EXTRA_MODULES else []
            more += ["ssl"] if value.startswith("ssl") else []
            text = conf_text(mpm, root, 8097, pages, POOLS[mpm], line, more)
            file = root / f"{number}.conf"
            file.write_text(text)
            return theirs(file), ours(text)

        with ThreadPoolExecutor(4) as pool:
            verdicts = list(pool.map(judge, enumerate(tried)))
    found: dict[str, list[tuple[str, str, str]]] = {}
    for (spec, value, mpm), (a, b) in zip(tried, verdicts, strict=True):
        where_ = f" ({mpm})" if spec.source == "mpm" else ""
        found.setdefault(spec.name, []).append((f"`{value or '(none)'}`{where_}", a, b))
    result = []
    for name, verdicts_ in found.items():
        different = [(value, a, b) for value, a, b in verdicts_ if a != b]
        count = f"{len(verdicts_)} lines"
        result.append(
            Row(
                "directive",
                name,
                "; ".join([count, *(f"{value}: {a}" for value, a, _ in different)]),
                "; ".join([count, *(f"{value}: {b}" for value, _, b in different)]),
            )
        )
    return result


def default_rows() -> list[Row]:
    """Our defaults and those of httpd's documentation."""
    result = []
    for spec in ROWS:
        if spec.name not in DEFAULTS:
            continue
        stated = DEFAULTS[spec.name]
        for mpm in spec.mpms if spec.per_mpm else spec.mpms[:1]:
            theirs_ = stated[mpm] if spec.per_mpm and isinstance(stated, dict) else stated
            suffix = f" ({mpm})" if spec.per_mpm and len(spec.mpms) > 1 else ""
            result.append(
                Row("default", spec.name + suffix, _text(theirs_), _text(spec.default_for(mpm)))
            )
    return result


def _text(value: object) -> str:
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return "On" if value else "Off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {word}" for key, word in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
