"""httpd's own command line, read: letters, and the long options that mpmkit adds to them."""

from __future__ import annotations

import getopt
import os
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from mpmkit.config.values import LEVELS, TRACES

# -k word: the signal for a server that runs.
WORDS = {
    "start": None,
    "restart": signal.SIGHUP,
    "graceful": signal.SIGUSR1,
    "graceful-stop": signal.SIGWINCH,
    "stop": signal.SIGTERM,
}

OPTIONS = "D:d:f:C:c:e:E:k:vVlLtTSMhX"
LONG = ("strict", "report=", "help")
# What an option does to `Options`: an attribute gets its value, or this one, or more of them.
SETS = {
    "-f": "file",
    "--report": "report",
    "-d": "server_root",
    "-k": "word",
    "-e": "level",
    "-E": "errors_to",
}
SWITCHES = {
    "-t": ("test", True), "-T": ("check_root", False), "--strict": ("strict", True),
    "--help": ("print", "help"),
    **{f"-{letter}": ("print", letter) for letter in "vVlLh"},
}  # fmt: skip
ADDS = {"-D": "defines", "-C": "before", "-c": "after"}
DEFINES = {"-S": ("DUMP_VHOSTS", "DUMP_RUN_CFG"), "-M": ("DUMP_MODULES",), "-X": ("DEBUG",)}

USAGE = """\
Usage: mpmkit httpd [-D name] [-d directory] [-f file]
                    [-C "directive"] [-c "directive"]
                    [-k start|restart|graceful|graceful-stop|stop]
                    [-v] [-V] [-h] [-l] [-L] [-t] [-T] [-S] [-X]
                    [--strict] [--report file]
Options:
  -D name            : define a name, for <IfDefine name> and for
                       FOREGROUND, NO_DETACH, DEBUG, DUMP_...
  -d directory       : ServerRoot until the file says otherwise
  -f file            : the configuration, instead of conf/httpd.conf
  -C "directive"     : a directive ahead of the file
  -c "directive"     : a directive behind the file
  -e level           : show messages of this level at the start (see LogLevel)
  -E file            : write messages of the start to a file
  -v                 : show the version
  -V                 : show the version and what is built in
  -h                 : show this page
  -l                 : list the modules that are built in
  -L                 : list the directives
  -t -D DUMP_VHOSTS  : show virtual hosts
  -t -D DUMP_RUN_CFG : show the settings that matter for running
  -S                 : -t -D DUMP_VHOSTS -D DUMP_RUN_CFG
  -t -D DUMP_MODULES : show the loaded modules
  -M                 : -t -D DUMP_MODULES
  -t -D DUMP_INCLUDES: show the files that were read
  -t                 : check the configuration, and end
  -t --strict        : refuse what mpmkit would ignore or close
  -t --report file   : show what of a file is served, ignored, closed, refused
  -T                 : start although DocumentRoot is missing
  -X                 : one process, in the foreground, for a debugger"""


class UsageError(Exception):
    """A wrong command line; the text may be empty."""


@dataclass
class Options:
    """The command line, read."""

    file: str | None = None
    server_root: str | None = None
    word: str = ""
    defines: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    level: str = ""
    errors_to: str = ""
    print: str = ""  # v, l, h or help: at once; V or L: when the file is read
    test: bool = False
    check_root: bool = True
    strict: bool = False
    report: str = ""
    command_line: str = ""  # as it is logged: without -k and its word, as httpd

    @property
    def dumps(self) -> list[str]:
        return [name for name in self.defines if name.startswith("DUMP_")]

    def has(self, *names: str) -> bool:
        return any(name in self.defines for name in names)


def options(argv: Sequence[str]) -> Options:
    """Read the words of the command line, in httpd's way. Raises UsageError."""
    try:
        pairs, rest = getopt.getopt(list(argv), OPTIONS, LONG)
    except getopt.GetoptError as error:
        if error.opt == "k":  # httpd takes -k out first, and knows it no more
            raise UsageError("illegal option -- k") from None
        what = "option requires an argument" if "argument" in error.msg else "illegal option"
        raise UsageError(f"{what} -- {error.opt}") from None
    words = [word for pair in pairs if pair[0] != "-k" for word in pair if word]
    result = Options(command_line=shlex.join(["mpmkit", "httpd", *words]))
    for option, value in pairs:
        if option == "-k" and (value not in WORDS or result.word):
            raise UsageError("illegal option -- k")
        if option == "-e" and value.lower() not in (*LEVELS, *TRACES):
            raise UsageError("")
        if option in ADDS:
            getattr(result, ADDS[option]).append(value)
        elif option in DEFINES:
            result.defines += DEFINES[option]
        else:
            name, given = SWITCHES.get(option) or (SETS[option], value)
            setattr(result, name, given)
        if result.print in ("v", "l", "h", "help"):  # whatever follows is not looked at
            return result
    if rest:
        raise UsageError("")
    result.file = result.report or result.file
    result.level = result.level.lower()
    result.server_root = result.server_root and os.path.abspath(result.server_root)
    return result
