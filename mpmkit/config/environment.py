"""What a configuration needs of the machine: directories, certificates, user and group."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from mpmkit.config.directives import Directives
from mpmkit.config.settings import DirectiveError, Host, Note, Setting

COMPILED_IN = "compiled in"  # the "file" of a setting that no line has


NO_PEM = "No such file or directory: name a file in PEM that can be read"


def _certificates(directives: Directives) -> list[tuple[str, str]]:
    """The files of TLS that are not there: (directive, path)."""
    files = [(n, getattr(directives, n)) for n in ("SSLCertificateFile", "SSLCertificateKeyFile")]
    return [(name, path) for name, path in files if path is not None and not os.path.isfile(path)]


def _users(directives: Directives) -> Iterator[tuple[str, str, str]]:
    """What is wrong with User and Group: (directive, httpd's id, text)."""
    import grp
    import pwd

    for name, find, ah in (("User", pwd.getpwnam, "AH00543"), ("Group", grp.getgrnam, "AH00544")):
        who = getattr(directives, name)
        if who is None:
            continue
        try:
            # "#1000" is a number and needs no name on this machine
            number = int(who[1:]) if who.startswith("#") else find(who)[2]
        except (KeyError, ValueError):
            yield name, ah, f"{who} does not exist on this machine: name one that does"
            continue
        if name == "User" and number == 0:
            yield name, "AH00526", f"{who} is root by another name: name an ordinary user"


def validate_environment(
    directives: Directives,
    settings: Iterable[Setting] = (),
    *,
    document_root: bool = True,
    hosts: Iterable[Host] = (),
) -> list[Note]:
    """What httpd asks the machine before it starts: do the directories, user and group exist?

    settings       where the values came from, so that messages can name file and line
    document_root  False leaves out the question for DocumentRoot (httpd -T); one that no line names
                   is not asked for (COMPILED_IN)
    hosts          the <VirtualHost> blocks: a DocumentRoot that they lack is a note

    Raises DirectiveError with every problem.
    """
    written = {setting.name.lower(): setting for setting in settings}
    problems = []

    def wrong(name: str, text: str, ah: str = "AH00526") -> None:
        setting = written.get(name.lower(), Setting(name))
        problems.append(DirectiveError.at(setting, f"{name} {text}", ah))

    core = written.get("coredumpdirectory")
    named = written.get("documentroot", Setting("")).file != COMPILED_IN
    for name, path in (
        ("ServerRoot", directives.ServerRoot),
        ("DocumentRoot", directives.DocumentRoot if document_root and named else None),
        ("CoreDumpDirectory", core.args[0] if core else None),
    ):
        if path is not None and not os.path.isdir(path):
            wrong(name, f"{path} is not a directory that can be read: create it or name another")
    for name, path in _certificates(directives):
        wrong(name, f"{path}: {NO_PEM}")
    notes = []
    for host, virtual in zip(hosts, directives.hosts, strict=True):
        of_host = {setting.name.lower(): setting for setting in host.settings}
        root = of_host.get("documentroot")
        if document_root and root and not os.path.isdir(virtual.directives.DocumentRoot or ""):
            text = f"DocumentRoot [{virtual.directives.DocumentRoot}] does not exist{root.place}"
            notes.append(Note("AH00112", "warn", text))
        for name, path in _certificates(virtual.directives):
            if name.lower() in of_host:
                text = f"{name} {path}: {NO_PEM}"
                problems.append(DirectiveError.at(of_host[name.lower()], text))
    for name, ah, text in _users(directives):
        wrong(name, text, ah)
    if problems:
        raise DirectiveError.of(problems)
    return notes
