"""httpd's own command line, read: letters, and the long options that mpmkit adds to them.

-t --strict         what is ignored or closed is refused
-t --report FILE    what of FILE is served, ignored, closed and refused
"""

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
LONG = ("strict", "report=")
# Options that stand for names of -D.
DEFINES = {"S": ("DUMP_VHOSTS", "DUMP_RUN_CFG"), "M": ("DUMP_MODULES",), "X": ("DEBUG",)}


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
    level: str | None = None
    errors_to: str | None = None
    print: str = ""  # v, l or h: at once; V or L: when the file is read
    test: bool = False
    check_root: bool = True
    strict: bool = False
    report: bool = False

    @property
    def dumps(self) -> list[str]:
        return [name for name in self.defines if name.startswith("DUMP_")]

    def has(self, *names: str) -> bool:
        return any(name in self.defines for name in names)


def options(argv: Sequence[str]) -> Options:
    """Read the words of the command line, in httpd's way. Raises UsageError."""
    result = Options()
    try:
        pairs, rest = getopt.getopt(list(argv), OPTIONS, LONG)
    except getopt.GetoptError as error:
        if error.opt == "k":  # httpd takes -k out first, and knows it no more
            raise UsageError("illegal option -- k") from None
        what = "option requires an argument" if "argument" in error.msg else "illegal option"
        raise UsageError(f"{what} -- {error.opt}") from None
    for option, value in pairs:
        match option.lstrip("-"):
            case "strict":
                result.strict = True
            case "report":
                result.report, result.file = True, value
            case "f":
                result.file = value
            case "d":
                result.server_root = os.path.abspath(value)
            case "k":
                if value not in WORDS or result.word:
                    raise UsageError("illegal option -- k")
                result.word = value
            case "D":
                result.defines.append(value)
            case "C":
                result.before.append(value)
            case "c":
                result.after.append(value)
            case "e":
                result.level = value.lower()
                if result.level not in (*LEVELS, *TRACES):
                    raise UsageError("")
            case "E":
                result.errors_to = value
            case "t":
                result.test = True
            case "T":
                result.check_root = False
            case "S" | "M" | "X" as letter:
                result.defines += DEFINES[letter]
            case "V" | "L" as letter:
                result.print = letter
            case letter:  # v, l, h: whatever follows is not looked at
                result.print = letter
                return result
    if rest:
        raise UsageError("")
    return result


def words_without_k(argv: Sequence[str]) -> str:
    """The command line as it is logged: without -k and its word, as httpd."""
    pairs, _ = getopt.getopt(list(argv), OPTIONS, LONG)
    words = [word for pair in pairs if pair[0] != "-k" for word in pair if word]
    return shlex.join(["mpmkit", "httpd", *words])
