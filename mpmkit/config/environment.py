"""What a configuration needs of the machine: directories, certificates, user and group."""

import os
from collections.abc import Iterable

from mpmkit.config.directives import Directives
from mpmkit.config.settings import DirectiveError, Host, Note, Setting

COMPILED_IN = "compiled in"  # the "file" of a setting that no line has


def text_of(path: str) -> str:
    """A file of lines. Raises OSError, also for a pipe or a device, which may have no end, and for NULs."""
    if not os.path.isfile(path) and os.path.exists(path) and path != os.devnull:
        raise OSError("it is no file")
    with open(path, "rb") as file:  # a text's decoder is looked up as `settings.split_words` says
        text = os.fsdecode(file.read().removeprefix(b"\xef\xbb\xbf"))
    if "\0" in text:
        raise OSError("it holds NULs: write it as UTF-8")
    return text


def validate_environment(
    directives: Directives, settings: Iterable[Setting] = (), *,
    document_root: bool = True, hosts: Iterable[Host] = (),
) -> list[Note]:  # fmt: skip
    """httpd's checks of the machine before it starts: do the directories, user and group exist? Notes
    for a <VirtualHost> that lacks one (for its certificates: tls.context_for).

    settings       where the values came from, so that messages can name file and line
    document_root  False leaves out the question for DocumentRoot (httpd -T); one that no line names
                   is not asked for (COMPILED_IN)

    Raises DirectiveError with every problem."""
    import grp
    import pwd

    d = directives
    written = {setting.name.lower(): setting for setting in settings}
    problems = []

    def wrong(name: str, text: str, ah: str = "AH00526") -> None:
        setting = written.get(name.lower(), Setting(name))
        problems.append(DirectiveError.at(setting, f"{name} {text}", ah))

    core = written.get("coredumpdirectory", Setting("")).args
    named = document_root and written.get("documentroot", Setting("")).file != COMPILED_IN
    roots = [("ServerRoot", d.ServerRoot), ("DocumentRoot", d.DocumentRoot if named else None)]
    roots += [("CoreDumpDirectory", os.path.join(d.ServerRoot or "", path)) for path in core]
    for name, path in roots:
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
            if not 0 <= number < (1 << 32) - 1:  # -1 is no one's
                raise ValueError
        except (KeyError, ValueError):
            wrong(name, f"{who} does not exist on this machine: name one that does", ah)
            continue
        if name == "User" and number == 0:
            wrong(name, f"{who} is root by another name: name an ordinary user")
    if problems:
        raise DirectiveError.of(problems)
    notes = []
    for host, virtual in zip(hosts, d.hosts, strict=True) if document_root else ():
        root = virtual.directives.DocumentRoot
        text = f"DocumentRoot [{root}] does not exist"
        lines = [one for one in host.settings if one.name.lower() == "documentroot"]
        missing = [] if os.path.isdir(root or "") else lines
        notes += [Note("AH00112", "warn", text + one.place) for one in missing]
    return notes
