"""Parse httpd's command line: its letters, and mpmkit's additional long options."""

import getopt
import os
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# -k word: the signal for a server that runs.
WORDS = {
    "start": None, "restart": signal.SIGHUP, "graceful": signal.SIGUSR1,
    "graceful-stop": signal.SIGWINCH, "stop": signal.SIGTERM,
}  # fmt: skip


class Row(NamedTuple):
    """An option: its argument, if it has one, and what it does to an attribute of `Options`: it becomes the
    argument, or `value`; a list is extended."""

    option: str
    argument: str
    attribute: str
    does: str
    value: Any = None


# fmt: off
ROWS = (
    Row("-D", "name", "defines", "define a name: for <IfDefine>; FOREGROUND, NO_DETACH"),
    Row("-d", "directory", "server_root", "ServerRoot, unless the file sets it"),
    Row("-f", "file", "file", "the configuration, instead of conf/httpd.conf"),
    Row("-C", '"directive"', "before", "a directive before the file"),
    Row("-c", '"directive"', "after", "a directive after the file"),
    Row("-k", "word", "word", "start a server, or signal the running one"),
    Row("-v", "", "print", "show the version", "v"),
    Row("-V", "", "print", "show the version and build settings", "V"),
    Row("-h", "", "print", "show this page", "h"),
    Row("--help", "", "print", "the same, with exit status 0", "help"),
    Row("-l", "", "print", "list the built-in modules", "l"),
    Row("-S", "", "defines", "show hosts and settings: -D DUMP_VHOSTS -D DUMP_RUN_CFG",
        ["DUMP_VHOSTS", "DUMP_RUN_CFG"]),
    Row("-M", "", "defines", "show the loaded modules: -D DUMP_MODULES", ["DUMP_MODULES"]),
    Row("-t", "", "test", "check the file, and end; -D DUMP_INCLUDES shows all files", True),
    Row("-T", "", "check_root", "start although DocumentRoot is missing", False),
    Row("--strict", "", "strict", "refuse what mpmkit would ignore or close", True),
    Row("--report", "file", "report", "show which lines are served, ignored, closed, refused"),
)
# fmt: on
TABLE = {row.option: row for row in ROWS}
USAGE = """\
Usage: mpmkit httpd [-D name] [-d directory] [-f file]
                    [-C "directive"] [-c "directive"]
                    [-k start|restart|graceful|graceful-stop|stop]
                    [-v] [-V] [-h] [-l] [-S] [-M] [-t] [-T]
                    [--strict] [--report file]
Options:
""" + "\n".join(f"  {f'{row.option} {row.argument}':<18} : {row.does}" for row in ROWS)


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
    print: str = ""  # v, l, h or help: at once; V: when the file is read
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
    names = [(row.option, bool(row.argument)) for row in ROWS]
    short = "".join(name[1:] + ":" * takes for name, takes in names if name[1] != "-")
    long = [name[2:] + "=" * takes for name, takes in names if name[1] == "-"]
    try:
        pairs, rest = getopt.getopt(list(argv), short, long)
    except getopt.GetoptError as error:
        if error.opt == "k":  # httpd takes -k out first, and knows it no more
            raise UsageError("illegal option -- k") from None
        what = "option requires an argument" if "argument" in error.msg else "illegal option"
        raise UsageError(f"{what} -- {error.opt}") from None
    words = [word for pair in pairs if pair[0] != "-k" for word in pair if word]
    result = Options(command_line=shlex.join(["mpmkit", "httpd", *words]))
    for option, argument in pairs:
        if option == "-k" and (argument not in WORDS or result.word):
            raise UsageError("illegal option -- k")
        row = TABLE[option]
        before = getattr(result, row.attribute)
        if isinstance(before, list):
            before += row.value or [argument]
        else:
            setattr(result, row.attribute, argument if row.value is None else row.value)
        if result.print in ("v", "l", "h", "help"):  # whatever follows is not looked at
            return result
    if rest:
        raise UsageError("")
    result.file = result.report or result.file
    result.server_root = result.server_root and os.path.abspath(result.server_root)
    return result
