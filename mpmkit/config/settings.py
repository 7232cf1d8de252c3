"""The parts of a configuration: lines, sections, the rows of directives, notes, errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpmkit.config.values import Words, append, atoi, number, replace, seconds, update

MPMS = ("prefork", "worker", "event")
THREADED = ("worker", "event")
SECTIONS = ("Directory", "DirectoryMatch", "Files", "FilesMatch", "Location", "LocationMatch")
CONDITIONS = ("If", "ElseIf", "Else")  # sections, too: read, never evaluated
SHOWN = 10  # a whole page of errors hides the one that causes the others


@dataclass(frozen=True, slots=True)
class Setting:
    """One directive as it was written."""

    name: str
    args: Words = ()
    file: str = ""  # "" when it comes from no file
    line: int = 0
    within: tuple[
        Setting, ...
    ] = ()  # the <Limit>, <RequireAny> and the like around it, the outer first

    @property
    def place(self) -> str:
        """ " (httpd.conf:12)" for the end of a message; "" if there is no file."""
        return f" ({self.file}:{self.line})" if self.file else ""


@dataclass(frozen=True, slots=True)
class Section:
    """``<Location "/x"> ... </Location>``: directives for a part of the site."""

    kind: str  # one of SECTIONS or CONDITIONS
    arg: str  # the path, name or pattern without its quotes
    settings: tuple[Setting, ...] = ()
    file: str = ""
    line: int = 0
    outer: Section | None = None  # the section that this one is in, without settings


@dataclass(frozen=True, eq=False, slots=True)
class Host:
    """``<VirtualHost *:80> ... </VirtualHost>`` as it was written; ``addresses`` are its words."""

    addresses: Words
    settings: tuple[Setting, ...] = ()
    sections: tuple[Section, ...] = ()
    file: str = ""
    line: int = 0


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Spec:
    """One row of the table: all properties of a single directive. ``where`` is one of

    server       not in a section; main: nor in a <VirtualHost>, as all of the MPM
    connection   not in a section; mpmkit: a connection is the server's until its first request has
                 named the host, so the line of a <VirtualHost> has no effect (httpd has these by host)
    any          in a section, too; outside: it has no effect there
    section      only in a section"""

    name: str
    parse: Callable[[Words], Any]
    default: Any = None  # a value, or a dict from MPM to value for numbers that differ
    doc: str
    attribute: str = ""  # of `Directives`; "" for a directive that is read and not used
    takes: str = ""
    unit: str = ""
    source: str = "core"
    mpms: Words = MPMS
    args: tuple[int, int] = (1, 1)  # the fewest and the most words
    where: str = "server"
    low: int | None = None
    high: int | Mapping[str, int] | None = None
    refused: bool = False  # outside of these bounds; else corrected by `check`
    or_zero: bool = False  # 0 is allowed below `low`, for the system's own value
    merge: Callable[[Any, Any], Any] = replace  # a line with those before it
    over: Callable[[Any, Any], Any] = replace  # a section or a host with what is around it
    httpd: str = ""  # httpd's compiled default, where mpmkit has another
    renamed: str = ""  # the modern name, if this is an old one

    @property
    def per_mpm(self) -> bool:
        return isinstance(self.default, dict) and set(self.default) == set(MPMS)

    @property
    def repeated(self) -> bool:
        """Every line counts, not only the last."""
        return self.merge in (append, update)

    def default_for(self, mpm: str) -> Any:
        return self.default[mpm] if self.per_mpm else self.default

    def high_for(self, mpm: str) -> int | None:
        return self.high.get(mpm) if isinstance(self.high, Mapping) else self.high

    def misread(self, word: str) -> str:
        """A form's hint for a word that is no whole number where one is due: httpd's atoi says nothing; or ""."""
        digits = word.strip().removeprefix("-").removeprefix("+")
        if self.parse not in (number, seconds) or (digits.isascii() and digits.isdigit()):
            return ""
        return f'"{word}" is not a whole number: httpd reads {atoi(word)}'

    def read(self, words: Words) -> Any:
        """The value of one line's words. Raises ValueError with a whole sentence, also for what is `refused`."""
        least, most = self.args
        if not least <= len(words) <= most:
            count = least if len(words) < least else most
            bound = "" if least == most else "at least " if count == least else "at most "
            wanted = f"{bound}{count} argument{'s' * (count != 1)} ({self.takes or 'text'})"
            # httpd has no comment behind a directive, though it is often tried
            hint = "put the comment on its own line" if "#" in words else self.doc
            raise ValueError(f"{self.name} takes {wanted}, here are {len(words)}: {hint}")
        try:
            value = self.parse(words)
            if self.refused and value < self.low and (value or not self.or_zero):
                system = ", or 0 for the system's own" * self.or_zero
                raise ValueError(f'takes {self.low} or more{system}, not "{words[0]}"')
        except ValueError as error:
            raise ValueError(f"{self.name} {error}") from None
        return value


@dataclass(frozen=True, slots=True)
class Note:
    """Something the operator should know: httpd's message id ("" if httpd has none), and text."""

    ah: str
    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.ah}: {self.text}" if self.ah else self.text


class DirectiveError(ValueError):
    """A configuration that cannot be used: `problems` has one for each mistake (a single one has itself), `str()`
    at most SHOWN lines ``file:line: what is wrong: the remedy``, `ah` is the id of httpd's message."""

    def __init__(
        self, text: str, *, directive: str = "", file: str = "", line: int = 0, ah: str = "AH00526"
    ) -> None:
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(where + text)
        self.text, self.directive, self.file, self.line, self.ah = text, directive, file, line, ah
        self.problems: tuple[DirectiveError, ...] = (self,)

    @classmethod
    def at(cls, setting: Setting, text: str, ah: str = "AH00526") -> DirectiveError:
        """A problem with one setting."""
        return cls(text, directive=setting.name, file=setting.file, line=setting.line, ah=ah)

    @classmethod
    def of(cls, problems: Sequence[DirectiveError]) -> DirectiveError:
        """One error out of several, by file as they are first named, and line; the attributes are the first's."""
        files = list(dict.fromkeys(problem.file for problem in problems))
        problems = sorted(problems, key=lambda problem: (files.index(problem.file), problem.line))
        first, more = problems[0], len(problems) - SHOWN
        if len(problems) == 1:
            return first
        error = cls("", directive=first.directive, file=first.file, line=first.line, ah=first.ah)
        end = [f"and {more} more problems like these"] * (more > 0)
        error.text = "\n".join([*map(str, problems[:SHOWN]), *end])
        error.args, error.problems = (error.text,), tuple(problems)
        return error


def logical_lines(text: str) -> Iterator[tuple[int, int, str]]:
    """(first physical line, how many, text): continuations joined, blanks at the ends removed.
    A backslash at the very end of a line continues it, even in a comment (httpd: the same)."""
    parts: list[str] = []
    lines = text.split("\n")
    for at, line in enumerate(lines, 1):
        line = line.removesuffix("\r")
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\") or at == len(lines):
            yield at + 1 - len(parts), len(parts), "".join(parts).strip()
            parts = []


_WORDS = re.compile(r"""(["'])((?:\\(?:\\|\1)|(?!\1).)*)(\1?)|((?:\\\\|\S)+)""", re.DOTALL)


def split_words(text: str, unclosed: Callable[[str], object] | None = None) -> Words:
    """The words of a line: blanks separate them, '...' and "..." hold them together. Within quotes a backslash
    protects the quote and the backslash; before anything else, and without quotes, it is an ordinary character
    (``\\\\`` is one backslash everywhere).

    A quote that is never closed ends with the line, and `unclosed` gets what is wrong, or it is a ValueError."""
    words = []
    # Not `finditer`, nor `sub` without need: they look up a name made each time, which the parent would keep.
    for quote, inside, closed, bare in _WORDS.findall(text):
        if quote and not closed:
            wrong = f"a {quote} is opened and never closed: {quote}{inside}"
            if unclosed is None:
                raise ValueError(wrong)
            unclosed(wrong)
        word = inside or bare
        words.append(re.sub(rf"\\([\\{quote}])", r"\1", word) if "\\" in word else word)
    return tuple(words)
