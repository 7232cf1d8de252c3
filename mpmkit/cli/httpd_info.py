"""What `mpmkit httpd` prints: of itself by -v -V -l; of a configuration by -S, -M, -t -D DUMP_… and --report.

The format is httpd's, line for line, so that programs that read httpd's output can read it; --report is ours:

mod_mime
    served   AddType 4, TypesConfig
    ignored  AddLanguage 80
"""

import grp
import os
import platform
import pwd
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mpmkit import _version
from mpmkit.config import access, unsupported
from mpmkit.config.checks import check
from mpmkit.config.directives import SPECS, DirectiveError, Directives, VirtualHost
from mpmkit.config.hosts import chains
from mpmkit.config.httpd_conf import Conf
from mpmkit.config.settings import CONDITIONS, Host, Setting
from mpmkit.config.unsupported import BUILT_IN, CLOSED, IGNORED, QUIET, REFUSED, foreign
from mpmkit.handlers.status import built
from mpmkit.http.target import OwnName
from mpmkit.server.hosts import addresses_of


def version() -> str:
    name = f"mpmkit/{_version.__version__} ({platform.system()})"
    return f"Server version: {name}\nServer built:   {built()}"


def settings(mpm: str, server_root: str) -> str:
    """-V: the version, what it runs on, the MPM, and what is fixed in the program."""
    import h11

    return f"""\
{version()}
Server's Module Magic Number: none, modules are built in ({len(BUILT_IN)})
Server loaded:  Python {platform.python_version()}, h11 {h11.__version__}
Compiled using: {platform.python_compiler()}
Architecture:   {64 if sys.maxsize > 1 << 32 else 32}-bit
Server MPM:     {mpm}
  threaded:     {"no" if mpm == "prefork" else "yes (fixed thread count)"}
    forked:     yes (variable process count)
Server compiled with....
 -D APR_HAS_SENDFILE
 -D SINGLE_LISTEN_UNSERIALIZED_ACCEPT
 -D HTTPD_ROOT="{server_root}"
 -D DEFAULT_PIDLOG="logs/httpd.pid"
 -D DEFAULT_ERRORLOG="logs/error_log"
 -D SERVER_CONFIG_FILE="conf/httpd.conf\""""


def compiled_in() -> str:
    return "\n".join(["Compiled in modules:", *(f"  {file}" for file in BUILT_IN.values())])


def dump(conf: Conf, directives: Directives, defines: Sequence[str]) -> str:
    """What the names DUMP_… ask for, in httpd's order."""
    lines: list[str] = []
    if "DUMP_VHOSTS" in defines:
        lines += ["VirtualHost configuration:", *_virtual_hosts(directives)]
    if "DUMP_RUN_CFG" in defines:
        lines += _run_settings(conf, directives, defines)
    if "DUMP_MODULES" in defines:
        # Those of LoadModule in their order, also one that is only accepted.
        loaded = conf.modules.loaded
        static = [f" {name} (static)" for name in conf.modules.static if name not in loaded]
        lines += ["Loaded Modules:", *static, *(f" {name} (shared)" for name in loaded)]
    if "DUMP_INCLUDES" in defines:
        lines.append("Included configuration files:")
        for one in conf.includes:
            where = one.line if one.depth else "*"
            lines.append(f"{'  ' * (one.depth + 1)}({where}) {one.path}")
    return "".join(f"{line}\n" for line in lines)


def _virtual_hosts(d: Directives) -> list[str]:
    """Addresses first, then those of any address; each with its hosts in the order of the file."""
    lines = []
    found = chains(d.hosts, addresses_of)
    for address, port in sorted(found, key=lambda key: not key[0]):
        hosts = found[address, port]
        text = f"[{address}]" if ":" in address else address or "*"
        where = f"{text}:{port or '*'}"
        first = f"{_host_name(hosts[0])} ({hosts[0].file}:{hosts[0].line})"
        if len(hosts) == 1:
            lines.append(f"{where:<22} {first}")
            continue
        lines += [f"{where:<22} is a NameVirtualHost", f"{'':8} default server {first}"]
        for host in hosts:
            place = f"({host.file}:{host.line})"
            lines.append(f"{'':8} port {port or '*'} namevhost {_host_name(host)} {place}")
            aliases = host.directives.ServerAlias
            wild = [one for one in aliases if "*" in one or "?" in one]
            lines += [f"{'':16} alias {one}" for one in aliases if one not in wild]
            lines += [f"{'':16} wild alias {one}" for one in wild]
    return lines


def _host_name(host: VirtualHost) -> str:
    return OwnName.of(host.directives.ServerName).host or os.uname().nodename


def _run_settings(conf: Conf, d: Directives, given: Sequence[str]) -> list[str]:
    places = [s.args[0] for s in conf.settings if s.name.lower() == "defaultruntimedir"]
    place = os.path.join(d.ServerRoot or "", places[-1] if places else "logs", "")
    # A name that the file defines counts, too; -D names come first, as given.
    names = dict.fromkeys([*(name.partition("=")[0] for name in given), *conf.defines])
    values = [f"={value}" if (value := conf.defines.get(name)) else "" for name in names]
    return [
        f'ServerRoot: "{d.ServerRoot}"',
        f'Main DocumentRoot: "{d.DocumentRoot}"',
        f'Main ErrorLog: "{d.ErrorLog}"',
        f'Mutex default: dir="{place}" mechanism=none ',
        f'PidFile: "{d.PidFile}"',
        *(f"Define: {name}{value}" for name, value in zip(names, values, strict=True)),
        _who("User", d.User, pwd.getpwnam),
        _who("Group", d.Group, grp.getgrnam),
    ]


def _who(name: str, who: str | None, find: Callable[[str], Sequence[Any]]) -> str:
    if who is None:
        return f'{name}: name="#-1" id=4294967295'
    return f'{name}: name="{who}" id={who[1:] if who.startswith("#") else find(who)[2]}'


FATES = ("served", IGNORED, CLOSED, REFUSED)


def report(conf: Conf) -> str:
    """The page of a configuration that was read."""
    problems: Sequence[DirectiveError] = conf.problems
    try:
        check(conf.mpm or "event", conf.settings, conf.sections, conf.hosts, problems=problems)
    except DirectiveError as error:
        problems = error.problems
    refused = {(problem.file, problem.line, problem.directive.lower()) for problem in problems}
    found = Counter(
        _place(setting, inside)
        for setting, inside in _lines(conf)
        if (setting.file, setting.line, setting.name.lower()) not in refused
    )
    totals = Counter(fate for _, fate, _ in found.elements()) + Counter({REFUSED: len(problems)})
    lines = [", ".join(f"{totals[fate]} {fate}" for fate in FATES) + " (lines)"]
    for module in sorted({module for module, _, _ in found}):
        lines.append(module)
        for fate in FATES:
            names = {key[2]: count for key, count in found.items() if key[:2] == (module, fate)}
            words = [f"{name} {count}" if count > 1 else name for name, count in names.items()]
            lines += [f"    {fate:8} {', '.join(words)}"] if words else []
    return "\n".join([*lines, *(["refused"] * bool(problems)), *(f"    {one}" for one in problems)])


def _lines(conf: Conf) -> Iterator[tuple[Setting, str]]:
    """Every line of a file, and what becomes of it by the <If> that it is in."""
    parts: list[Conf | Host] = [conf, *conf.hosts]
    for part in parts:
        yield from ((one, "") for one in part.settings if one.line)
        for section in part.sections:
            fate = CLOSED if any(map(unsupported.decides, section.settings)) else IGNORED
            fate = fate if section.kind in CONDITIONS else ""
            yield from ((one, fate) for one in section.settings)


def _place(setting: Setting, fate: str) -> tuple[str, str, str]:
    """The module of a line, what becomes of it, and the name as it is usually written."""
    if access.closed_by(setting) or unsupported.closes(setting):
        fate = CLOSED
    if spec := SPECS.get(setting.name.lower()):
        return spec.source, fate or FATES[0], spec.name
    if row := foreign(setting.name):
        own = row.fate_of(setting)
        return row.module, fate or (IGNORED if own == QUIET else own), row.name
    return "unknown", REFUSED, setting.name
