"""The directives: what may be written, what it means, and what the server makes of it.

A directive goes through three forms, and this file is the way between them::

    Setting("ThreadsPerChild", ("100",), "httpd.conf", 12)      what somebody wrote
          |  SPECS["threadsperchild"].parse                     one word at a time
          v
    100                                                         what that word means
          |  check()                                            all of them together
          v
    Directives.ThreadsPerChild == 64,  Note("AH00507", ...)     what the server will do

The rules are those of Apache httpd 2.4:

* Values are only stored while a file is read.  The cross checks run afterwards, so the order of
  the lines does not matter and the last line for a name wins.
* There are two ways to be wrong.  Something that cannot be understood (an unknown name, a missing
  argument, ``KeepAlive perhaps``) stops the start with a `DirectiveError`.  A number that can be
  understood but not obeyed is *corrected*: the server starts, with another number and a `Note`.
* Most numbers are read as C's ``atoi`` reads them: ``abc`` is 0 and ``12x`` is 12.
* A directive of another MPM is an unknown directive.  That is why configurations wrap them in
  ``<IfModule mpm_event_module>``.

Where mpmkit differs on purpose, a comment that starts with "mpmkit:" says so.

This module is pure and inert: it opens nothing, asks the machine nothing, and imports only
`dataclasses` (and `difflib`, when it has a misspelt name to explain).  The table as a page is
docs/DIRECTIVES.md, which `docs._tools.directives_doc` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

MPMS = ("prefork", "worker", "event")
THREADED = ("worker", "event")
LEVELS = ("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")

Words = tuple[str, ...]


# ---------------------------------------------------------------------------------------------
# The values that go in and come out


@dataclass(frozen=True, slots=True)
class Setting:
    """One directive as somebody wrote it; ``file`` is "" when it comes from no file."""

    name: str
    args: Words = ()
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """``<Location "/x"> ... </Location>``: directives for a part of the site.

    ``kind`` is one of SECTIONS, ``arg`` the path, name or pattern with its quotes removed.
    """

    kind: str
    arg: str
    settings: tuple[Setting, ...] = ()
    file: str = ""
    line: int = 0


SECTIONS = ("Directory", "DirectoryMatch", "Files", "FilesMatch", "Location", "LocationMatch")


@dataclass(frozen=True, slots=True)
class Note:
    """Something the operator should know: httpd's message id ("" if httpd has none), and text."""

    ah: str
    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.ah}: {self.text}" if self.ah else self.text


SHOWN = 10  # a whole page of errors hides the one that causes the others


class DirectiveError(ValueError):
    """A configuration that cannot be used.

    ``str()`` is one line for each problem, ``file:line: what is wrong: how to mend it``, and no
    more than SHOWN of them.
    ``problems`` holds one DirectiveError for each (a lone problem holds itself), ``ah`` is the id
    of httpd's message for the same mistake.
    """

    def __init__(
        self, text: str, *, directive: str = "", file: str = "", line: int = 0, ah: str = "AH00526"
    ) -> None:
        where = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        super().__init__(where + text)
        self.text = text
        self.directive = directive
        self.file = file
        self.line = line
        self.ah = ah
        self.problems: tuple[DirectiveError, ...] = (self,)

    @classmethod
    def at(cls, setting: Setting, text: str, ah: str = "AH00526") -> DirectiveError:
        """A problem with one setting."""
        return cls(text, directive=setting.name, file=setting.file, line=setting.line, ah=ah)

    @classmethod
    def of(cls, problems: Sequence[DirectiveError]) -> DirectiveError:
        """One error out of several; the attributes are those of the first."""
        if len(problems) == 1:
            return problems[0]
        first = problems[0]
        error = cls("", directive=first.directive, file=first.file, line=first.line, ah=first.ah)
        lines = [str(problem) for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"and {len(problems) - SHOWN} more problems like these")
        error.text = "\n".join(lines)
        error.args = (error.text,)
        error.problems = tuple(problems)
        return error


def sort_problems(problems: Sequence[DirectiveError]) -> list[DirectiveError]:
    """By line within each file; the files in the order in which they are first named."""
    files = list(dict.fromkeys(problem.file for problem in problems))
    return sorted(problems, key=lambda problem: (files.index(problem.file), problem.line))


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: ``address`` is "" for every interface, ``port`` 0 for any free one."""

    address: str
    port: int
    protocol: str = "http"

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address or "*"
        return f"{host}:{self.port or 'auto'}"


@dataclass(frozen=True, slots=True)
class RequestReadTimeout:
    """How long a client may take to send a stage of its request (mod_reqtimeout).

    A stage has ``init`` seconds; each ``rate`` bytes received buy one more second, up to ``max``
    seconds in all.  An init of 0 switches the stage off; a rate of 0 buys nothing; a max of 0
    is no ceiling.
    """

    handshake_init: float = 0.0
    handshake_max: float = 0.0
    handshake_rate: int = 0
    header_init: float = 20.0
    header_max: float = 40.0
    header_rate: int = 500
    body_init: float = 20.0
    body_max: float = 0.0
    body_rate: int = 500


# ---------------------------------------------------------------------------------------------
# From words to values.  Each reader takes the words of one line and raises ValueError with the
# second half of a sentence that starts with the directive's name.

INT_MAX = 2**31 - 1


def atoi(word: str) -> int:
    """A number the way C's atoi reads it: "12x" is 12, "abc" is 0, no word is an error.

    mpmkit: beyond 31 bits atoi is undefined and wraps in practice; here it stays at the end.
    """
    text = word.lstrip()
    sign = text[:1]
    digits = text[1:] if sign in ("+", "-") and sign else text
    end = 0
    while end < len(digits) and "0" <= digits[end] <= "9":
        end += 1
    number = min(int(digits[:end].lstrip("0")[:12] or "0"), INT_MAX)
    return -number if sign == "-" else number


def _number(words: Words) -> int:
    return atoi(words[0])


def _based_number(words: Words) -> int:
    """strtol with base 0: 0x10 and 010 are hexadecimal and octal, anything else is 0."""
    text = words[0].strip().lower()
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if digits.startswith("0x"):
        base, digits, allowed = 16, digits[2:], "0123456789abcdef"
    elif digits.startswith("0"):
        base, allowed = 8, "01234567"
    else:
        base, allowed = 10, "0123456789"
    end = 0
    while end < len(digits) and digits[end] in allowed:
        end += 1
    return sign * int(digits[:end] or "0", base)


def _exact_number(words: Words) -> int:
    """A whole number of 63 bits and nothing else (the few numbers that httpd reads strictly)."""
    digits = words[0].removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19 or int(digits) >= 1 << 63:
        raise ValueError(f'takes a whole number, not "{words[0]}"')
    return int(words[0])


def _seconds(words: Words) -> float:
    """atoi seconds: Timeout 1m is one second, as in httpd."""
    return float(atoi(words[0]))


def misread(name: str, word: str) -> str:
    """What a form should say of a word that is no whole number where one is due: httpd's atoi takes
    the digits in front ("1m" is 1, "abc" is 0) and says nothing. "" if there is nothing to say."""
    digits = word.strip().removeprefix("-").removeprefix("+")
    if SPECS[name.lower()].parse not in (_number, _seconds):
        return ""
    if digits.isascii() and digits.isdigit():
        return ""
    return f'"{word}" is no whole number: httpd reads {atoi(word)}'


# The letter(s) after the number, and how many seconds one of it is.  Only the first letters
# count, so "min" and "milli" are both minutes; httpd says so too.
TIME_UNITS = (("ms", 0.001), ("mi", 60.0), ("s", 1.0), ("h", 3600.0))


def _time(words: Words) -> float:
    word = words[0].lower()
    end = len(word) - len(word.lstrip("0123456789"))
    unit = word[end:]
    if end and end < 16:
        if not unit:
            return float(word)
        for letters, seconds in TIME_UNITS:
            if unit.startswith(letters):
                count = int(word[:end])
                return count / 1000 if letters == "ms" else count * seconds
    raise ValueError(
        f'takes a time such as 5, 5s, 700ms, 2mi or 1h, and never less than 0, not "{words[0]}"'
    )


def _factor(words: Words) -> float:
    try:
        # Python reads "1_000" and "infinity" as numbers; a configuration should not.
        value = float(words[0] if words[0].strip("0123456789+-.eE") == "" else "nan")
    except ValueError:
        value = float("nan")
    if not 0 < value < INT_MAX:
        raise ValueError(f'takes a number above 0, such as 2, not "{words[0]}"')
    return value


def _text(words: Words) -> str:
    return words[0]


def _all_words(words: Words) -> Words:
    return words


def _on_off(words: Words) -> bool:
    word = words[0].lower()
    if word not in ("on", "off"):
        raise ValueError(f'is On or Off, not "{words[0]}"')
    return word == "on"


def _choice(**choices: str) -> Callable[[Words], str]:
    """One of several words in any case; a keyword gives the written form, its value the kept one.

    Written forms are compared in lower case with no other change.
    """

    def parse(words: Words) -> str:
        try:
            return choices[words[0].lower()]
        except KeyError:
            known = ", ".join(dict.fromkeys(choices.values()))
            raise ValueError(f'is one of {known}, not "{words[0]}"') from None

    return parse


def _words_of(words: Words, known: Iterable[str], *, signs: bool = False) -> Words:
    """Every word in its official spelling, or ValueError; "+X" and "-X" are kept if `signs`."""
    spelling = {word.lower(): word for word in known}
    result = []
    for word in words:
        sign = word[:1] if signs and word[:1] in ("+", "-") else ""
        try:
            result.append(sign + spelling[word[len(sign) :].lower()])
        except KeyError:
            raise ValueError(f'knows {", ".join(spelling.values())}, not "{word}"') from None
    return tuple(result)


def _options(words: Words) -> Words:
    known = _words_of(words, OPTIONS, signs=True)
    signed = [word[0] in "+-" for word in known]
    if any(signed) and not all(signed):
        raise ValueError("takes a + or - before every word or before none")
    return known


OPTIONS = (
    "None", "All", "Indexes", "Includes", "IncludesNOEXEC", "FollowSymLinks",
    "SymLinksIfOwnerMatch", "ExecCGI", "MultiViews",
)  # fmt: skip


def _file_etag(words: Words) -> Words:
    known = _words_of(words, ("None", "All", "INode", "MTime", "Size", "Digest"), signs=True)
    result: list[str] = ["MTime", "Size"] if known[0][0] in "+-" else []
    for word in known:
        bare = word.lstrip("+-")
        if bare == "All":
            result = ["INode", "MTime", "Size"]
        elif bare == "None":
            result = []
        elif word[0] == "-":
            result = [one for one in result if one != bare]
        elif bare not in result:
            result.append(bare)
    return tuple(one for one in ("INode", "MTime", "Size", "Digest") if one in result)


# Three questions, each with two answers; the first is httpd's default.
PROTOCOL_OPTIONS = (
    ("Strict", "Unsafe"),
    ("LenientMethods", "RegisteredMethods"),
    ("Allow0.9", "Require1.0"),
)


def _protocol_options(words: Words) -> Words:
    known = _words_of(words, [answer for pair in PROTOCOL_OPTIONS for answer in pair])
    for pair in PROTOCOL_OPTIONS:
        if set(pair) <= set(known):
            raise ValueError(f"takes {pair[0]} or {pair[1]}, not both")
    return known


def _answers(old: Words, new: Words) -> Words:
    """The merge of the above: questions that a line does not answer keep their answer."""
    return tuple(
        next((word for word in new if word in pair), before)
        for before, pair in zip(old, PROTOCOL_OPTIONS, strict=True)
    )


TLS_VERSIONS = ("SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
SPOKEN = ("TLSv1.2", "TLSv1.3")  # the others are broken, and OpenSSL itself no longer speaks them


def _tls_versions(words: Words) -> Words:
    """``all -SSLv3 -TLSv1``, ``TLSv1.2 +TLSv1.3``: the versions that are left, oldest first.

    A word without a sign starts anew; ``all`` is all that can be spoken.
    mpmkit: versions before 1.2 may be taken away and cannot be had.
    """
    chosen: list[str] = []
    for word in _words_of(words, ("all", *TLS_VERSIONS), signs=True):
        bare = word.lstrip("+-")
        named = SPOKEN if bare == "all" else (bare,)
        if word[0] == "-":
            chosen = [one for one in chosen if one not in named]
            continue
        if bare not in ("all", *SPOKEN):
            raise ValueError(f"speaks {' and '.join(SPOKEN)}, {bare} is broken: take it out")
        chosen = [*(chosen if word[0] == "+" else ()), *named]
    if not chosen:
        raise ValueError(f'leaves no version to speak: write "all", not "{" ".join(words)}"')
    return tuple(one for one in SPOKEN if one in chosen)


def _log_level(words: Words) -> str | None:
    """The level for everything; those for single modules (``ssl:warn``) are read afterwards."""
    level = None
    for word in words:
        _module, colon, name = word.rpartition(":")
        name = name.lower()
        if name not in LEVELS and not (name[:5] == "trace" and name[5:] in tuple("12345678")):
            raise ValueError(f'knows {", ".join(LEVELS)} and trace1 to trace8, not "{word}"')
        if not colon:
            level = name
    return level


def _ranges(words: Words) -> int:
    special = {"none": 0, "default": 200, "unlimited": -1}
    word = words[0].lower()
    number = special.get(word, atoi(word))
    if word not in special and number < 1:
        raise ValueError(f'takes none, default, unlimited or a number above 0, not "{words[0]}"')
    return number


def _limit(words: Words) -> int:
    """MaxRangeOverlaps, MaxRangeReversals: as MaxRanges, with another default."""
    return 20 if words[0].lower() == "default" else _ranges(words)


def _listen(words: Words) -> tuple[ListenAddress]:
    """``8080``, ``127.0.0.1:8080``, ``[::1]:8080``, each with an optional protocol.

    mpmkit: the port may be the word ``auto``: any free port (httpd refuses it, as it does 0).
    """
    address, colon, port = words[0].rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise ValueError(f'takes an IPv6 address in brackets, [{address}]:{port}, not "{words[0]}"')
    if colon and not address:
        raise ValueError(f'takes [address:]port, not "{words[0]}"')
    if not (port == "auto" or (port.isascii() and port.isdigit() and 0 < atoi(port) < 65536)):
        raise ValueError(f'takes [address:]port with a port from 1 to 65535, not "{words[0]}"')
    number = 0 if port == "auto" else int(port)
    protocol = words[1].lower() if len(words) > 1 else "https" if number == 443 else "http"
    return (ListenAddress("" if address == "*" else address, number, protocol),)


def _connection_filter(words: Words) -> tuple[str, int] | None:
    name = words[0].upper()
    if name == "NONE" and len(words) == 1:
        return None
    if name != "LINE_RATE":
        raise ValueError(f'knows LINE_RATE and None, not "{words[0]}"')
    if len(words) != 2 or not 0 < atoi(words[1]) < INT_MAX:
        raise ValueError(
            "LINE_RATE takes KiB per second, 1 or more: ConnectionFilter LINE_RATE 400"
        )
    return name, atoi(words[1])


def _read_timeout(words: Words) -> dict[str, float]:
    """``header=20-40,MinRate=500 body=20,MinRate=500``; stages not named keep what they have."""
    changes: dict[str, float] = {}
    for word in words:
        stage, equals, value = word.lower().partition("=")
        if stage not in ("handshake", "header", "body") or not equals:
            raise ValueError(f'knows the stages handshake=, header= and body=, not "{word}"')
        times, comma, rate = value.partition(",")
        init, dash, most = times.partition("-")
        if comma and not rate.startswith("minrate="):
            raise ValueError(f'takes MinRate= after the comma, not "{word}"')
        numbers = [init, most if dash else "0", rate.removeprefix("minrate=") if comma else "0"]
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError(f'takes whole numbers of 0 or more, not "{word}"')
        first, ceiling, minimum = (int(number) for number in numbers)
        if dash and ceiling <= first:
            raise ValueError(f'takes a range whose end is above its start, not "{word}"')
        if comma and not minimum:
            raise ValueError(f'takes a MinRate above 0, not "{word}"')
        if dash and not minimum:
            raise ValueError(f'needs a rate with a range: "{word},MinRate=500"')
        changes |= {
            f"{stage}_init": float(first),
            f"{stage}_max": float(ceiling),
            f"{stage}_rate": minimum,
        }
    return changes


def _handlers(words: Words) -> dict[str, str]:
    """``AddHandler cgi-script .cgi pl`` (also AddType): extension with its dot -> first word."""
    return {"." + ext.removeprefix(".").lower(): words[0] for ext in words[1:]}


def _charset(words: Words) -> str:
    return {"off": "", "on": "iso-8859-1"}.get(words[0].lower(), words[0])


def _accept_filter(words: Words) -> dict[str, str]:
    return {words[0].lower(): words[1].lower()}


def _log_format(words: Words) -> dict[str, str]:
    return {words[1] if len(words) > 1 else "": words[0]}


def _custom_log(words: Words) -> tuple[tuple[str, str]]:
    if len(words) > 2:
        raise ValueError(f'logs every request here; take out the condition "{words[2]}"')
    return ((words[0], words[1] if len(words) > 1 else ""),)


def _error_document(words: Words) -> dict[int, str]:
    code = atoi(words[0])
    if not 400 <= code <= 599:
        raise ValueError(f'takes a status from 400 to 599, not "{words[0]}"')
    return {code: words[1]}


def _alias(kind: str) -> Callable[[Words], tuple[tuple[str, str, str]]]:
    def parse(words: Words) -> tuple[tuple[str, str, str]]:
        if not words[0].startswith("/"):
            raise ValueError(f'takes a URL path that starts with "/", not "{words[0]}"')
        return ((kind, words[0], words[1]),)

    return parse


def _handler(words: Words) -> str | None:
    return None if words[0].lower() == "none" else words[0]


def _proxy_set(words: Words) -> tuple[tuple[str, dict[str, float]]]:
    """``fcgi://localhost enablereuse=on max=10 timeout=30``: how to use a backend's connections."""
    values: dict[str, float] = {}
    for word in words[1:]:
        key, _, value = word.lower().partition("=")
        if key in ("enablereuse", "disablereuse") and value in ("on", "off"):
            values["enablereuse"] = float((value == "on") == (key == "enablereuse"))
        elif key in ("max", "timeout") and value.isdigit() and int(value):
            values[key] = float(value)
        else:
            raise ValueError(
                f'knows enablereuse=on|off, max=number and timeout=seconds, not "{word}"'
            )
    return ((words[0], values),)


def _require(words: Words) -> Words:
    """mpmkit: who may enter is never guessed, so every other form is refused, not ignored."""
    lower = tuple(word.lower() for word in words)
    if lower not in (("all", "granted"), ("all", "denied"), ("local",)):
        raise ValueError(f'knows "all granted", "all denied" and "local", not "{" ".join(words)}"')
    return lower


def _user(words: Words) -> str:
    if words[0] in ("root", "#0"):
        raise ValueError(f"must not be {words[0]}: name an ordinary user, such as www-data")
    return words[0]


# What a <Directory>, <Location> or <Files> decides; other directives there are for the whole site or
# nothing (mpmkit: a note says so).
IN_SECTIONS = frozenset({
    "Require", "SetHandler", "AddHandler", "Options", "LimitRequestBody", "EnableSendfile", "EnableMMAP",
    "ErrorDocument", "ServerSignature",
})  # fmt: skip

MUTEXES = ("default", "none", "posixsem", "sem", "sysvsem", "fcntl", "flock", "file", "pthread")


# ---------------------------------------------------------------------------------------------
# When a name is written twice: what is there already, and what comes to it


def _last(old: Any, new: Any) -> Any:
    return new


def _given(old: Any, new: Any) -> Any:
    return old if new is None else new


def _more(old: Any, new: Any) -> Any:
    return (*old, *new)


def _also(old: Any, new: Any) -> Any:
    return {**old, **new}


def _amend(old: Any, new: Any) -> Any:
    return replace(old, **new)


# ---------------------------------------------------------------------------------------------
# The table


@dataclass(frozen=True, slots=True)
class Spec:
    """One row of the table: everything there is to know about one directive by itself.

    ``default`` is a value, or a dict from MPM to value for numbers that differ.  ``low`` and
    ``high`` bound a number; a number outside is ``refused`` or else corrected by `check`.
    ``args`` are the fewest and the most words.  ``where`` is "server", "section" or "any".
    ``field`` is the attribute of `Directives` ("" for a directive that is read and not used).
    """

    name: str
    parse: Callable[[Words], Any]
    default: Any
    doc: str
    takes: str = ""
    unit: str = ""
    source: str = "core"
    mpms: Words = MPMS
    args: tuple[int, int] = (1, 1)
    where: str = "server"
    low: int | None = None
    high: int | Mapping[str, int] | None = None
    refused: bool = False
    or_zero: bool = False  # 0 is allowed below `low`, for the system's own value
    merge: Callable[[Any, Any], Any] = _last
    field: str | None = None
    httpd: str = ""  # httpd's compiled default, where mpmkit has another
    renamed: str = ""  # the modern name, if this is an old one
    effect: bool = True

    @property
    def attribute(self) -> str:
        return self.name if self.field is None else self.field

    def default_for(self, mpm: str) -> Any:
        return self.default[mpm] if self.per_mpm else self.default

    @property
    def per_mpm(self) -> bool:
        return isinstance(self.default, dict) and set(self.default) == set(MPMS)

    @property
    def repeated(self) -> bool:
        """Every line counts, not only the last."""
        return self.merge in (_more, _also, _amend)

    def high_for(self, mpm: str) -> int | None:
        return self.high.get(mpm) if isinstance(self.high, Mapping) else self.high


COMMON = '%h %l %u %t "%r" %>s %b'
COMBINED = COMMON + ' "%{Referer}i" "%{User-Agent}i"'
SOME = (1, 99)


def _all(prefork: Any, worker: Any, event: Any) -> dict[str, Any]:
    return {"prefork": prefork, "worker": worker, "event": event}


def _count(name: str, default: Any, unit: str, doc: str, **more: Any) -> Spec:
    """A row for one of the numbers that decide how many processes and threads there are."""
    row = {"takes": "number", "unit": unit, "source": "mpm", "low": 1}
    return Spec(name, _number, default, doc, **{**row, **more})


def _unused(name: str, doc: str, **more: Any) -> Spec:
    """A row for a directive that is read, so that a real file can be used, and has no effect."""
    row: dict[str, Any] = {"args": SOME, "where": "any", "field": "", "effect": False}
    return Spec(name, more.pop("parse", _all_words), None, doc, **{**row, **more})


ROWS = (
    # How many processes and threads
    _count("StartServers", _all(5, 3, 3), "processes",
           "Children forked at the start, and replaced at once after a graceful restart"),
    _count("MinSpareServers", _all(5, 0, 0), "processes", mpms=("prefork",),
           doc="Fork more children when fewer than this are idle"),
    _count("MaxSpareServers", _all(10, 0, 0), "processes", mpms=("prefork",), low=None,
           doc="Retire a child when more than this are idle; at least MinSpareServers + 1"),
    _count("MinSpareThreads", _all(0, 75, 75), "threads", mpms=THREADED,
           doc="Fork more children when fewer threads than this are idle"),
    _count("MaxSpareThreads", _all(0, 250, 250), "threads", mpms=THREADED, low=None,
           doc="Retire a child when more threads than this are idle; at least MinSpareThreads "
               "+ ThreadsPerChild + 1"),
    _count("ThreadsPerChild", _all(1, 25, 25), "threads", mpms=THREADED,
           doc="Worker threads of each child; at most ThreadLimit"),
    _count("ThreadLimit", _all(1, 64, 64), "threads", mpms=THREADED,
           high={"worker": 20000, "event": 100000},
           doc="Width of the scoreboard: the most ThreadsPerChild can be until a full restart"),
    _count("ServerLimit", _all(256, 16, 16), "processes", high=_all(200000, 20000, 20000),
           doc="Height of the scoreboard: the most processes there can be until a full restart"),
    _count("MaxRequestWorkers", _all(256, 400, 400), "connections",
           doc="Connections served at the same time; the rest wait in the listen queue"),
    _count("MaxClients", None, "connections", renamed="MaxRequestWorkers", field="",
           doc="Old name of MaxRequestWorkers"),
    Spec("MaxConnectionsPerChild", _number, 0, "A child ends after this many; 0 is never",
         takes="number", unit="connections", source="mpm", low=0),
    Spec("MaxRequestsPerChild", _number, None, "Old name of MaxConnectionsPerChild",
         takes="number", unit="connections", source="mpm", field="",
         renamed="MaxConnectionsPerChild"),
    Spec("AsyncRequestWorkerFactor", _factor, _all(0.0, 0.0, 2.0),
         "Connections beyond its threads that a child takes for each idle thread; only the "
         "integer part counts, and less than 1 counts as 1",
         takes="factor", unit="connections per idle thread", source="mpm", mpms=("event",)),
    Spec("ThreadStackSize", _based_number, 0, "Stack of a worker thread; 0 is the system's; "
         "nothing to prefork", takes="number", unit="bytes", source="mpm", low=0, refused=True),
    Spec("MaxMemFree", _based_number, 2048, "Free memory kept for each allocator; 0 is all of it",
         takes="number", unit="KiB", source="mpm", low=0, refused=True, effect=False),
    Spec("GracefulShutdownTimeout", _seconds, 0.0,
         "How long graceful-stop waits for children; 0 is for ever",
         takes="number", unit="s", source="mpm"),
    # Listening
    Spec("Listen", _listen, (), "Where to listen",
         takes="[address:]port [protocol]", source="mpm", args=(1, 2), merge=_more),
    Spec("ListenBacklog", _number, 511, "Length of the kernel's queue of waiting connections",
         takes="number", unit="connections", source="mpm", low=1, refused=True),
    Spec("ListenTCPDeferAccept", _number, 30, "Value of TCP_DEFER_ACCEPT where it is used",
         takes="number", unit="s", source="mpm", low=1, refused=True),
    _unused("ListenCoresBucketsRatio", "Cores for each bucket of listeners; mpmkit has one bucket",
            parse=_number, takes="number", source="mpm", args=(1, 1), where="server", low=1,
            refused=True),
    Spec("AcceptFilter", _accept_filter, {"http": "data", "https": "data"},
         "What the kernel waits for before it hands over a connection: data, connect or none",
         takes="protocol filter", args=(2, 2), merge=_also),
    Spec("SendBufferSize", _number, 0, "Kernel's send buffer, from 512; 0 is the system's",
         takes="number", unit="bytes", source="mpm", low=512, or_zero=True, refused=True),
    Spec("ReceiveBufferSize", _number, 0, "Kernel's receive buffer, from 512; 0 is the system's",
         takes="number", unit="bytes", source="mpm", low=512, or_zero=True, refused=True),
    # The server and its files
    Spec("ServerRoot", _text, None, "Directory that relative file names start from",
         takes="directory", httpd="/usr/local/apache2"),
    Spec("ServerName", _text, "", "The server's own name: host[:port]", takes="host[:port]",
         httpd="looked up"),
    Spec("UseCanonicalName", _choice(off="Off", on="On", dns="DNS"), "Off",
         "Whose name redirects and %V tell: On is ServerName's, Off the client's. DNS is as Off",
         takes="On|Off|DNS", where="any"),
    Spec("DocumentRoot", _text, None, "Directory the site is served from", takes="directory",
         httpd="htdocs"),
    Spec("PidFile", _text, None, "File with the process id of the parent", takes="file",
         source="mpm", httpd="logs/httpd.pid"),
    Spec("ScoreBoardFile", _text, None, "File for the scoreboard, so that others can look in; "
         "without it the memory has no name", takes="file", source="mpm"),
    Spec("User", _user, None, "User the children become, if started as root", takes="name or #id",
         source="mod_unixd", httpd="#-1"),
    Spec("Group", _text, None, "Group the children become, if started as root",
         takes="name or #id", source="mod_unixd", httpd="#-1"),
    Spec("ErrorLog", _text, None, "File for the error log; without it, standard error",
         takes="file", httpd="logs/error_log"),
    Spec("LogLevel", _log_level, "warn", "Least important message that is logged",
         takes="level", args=SOME, where="any", merge=_given),
    Spec("LogFormat", _log_format, {"common": COMMON, "combined": COMBINED},
         "A format for the access log, and a nickname for it", takes="format [nickname]",
         source="mod_log_config", args=(1, 2), merge=_also),
    Spec("CustomLog", _custom_log, (), "Access log: a file, and a format or nickname",
         takes="file format", source="mod_log_config", args=(2, 3), merge=_more),
    Spec("TransferLog", _custom_log, (), "Access log in the format last given without nickname",
         takes="file", source="mod_log_config", field="CustomLog", merge=_more),
    Spec("BufferedLogs", _on_off, False, "Collect lines of the access log and write several at once",
         takes="On|Off", source="mod_log_config"),
    Spec("ExtendedStatus", _on_off, False, "Keep each worker's request, client and times; "
         "LoadModule status_module switches it on", takes="On|Off"),
    Spec("ServerTokens", _choice(full="Full", os="OS", min="Minimal", minimal="Minimal",
                                 minor="Minor", major="Major", prod="ProductOnly",
                                 productonly="ProductOnly"),
         "Full", "How much the Server header tells", takes="Full|OS|Minimal|Minor|Major|Prod"),
    Spec("ServerSignature", _choice(off="Off", on="On", email="EMail"), "Off",
         "A line about the server under its error pages", takes="Off|On|EMail", where="any"),
    Spec("ServerAdmin", _text, "", "Address of the administrator, for ServerSignature EMail",
         takes="address"),
    # Connections
    Spec("Timeout", _seconds, 60.0, "Longest wait for one read or write on a connection",
         takes="number", unit="s"),
    Spec("KeepAlive", _on_off, True, "Several requests on one connection", takes="On|Off",
         source="http_core"),
    Spec("KeepAliveTimeout", _time, 5.0, "Longest wait for the next request; 0 is no keep-alive",
         takes="time", unit="s", source="http_core"),
    Spec("MaxKeepAliveRequests", _number, 100, "N lets N + 1 requests through; 0 is no limit",
         takes="number", unit="requests", source="http_core"),
    Spec("RequestReadTimeout", _read_timeout, RequestReadTimeout(),
         "Longest time for each stage of a request, and the rate that prolongs it",
         takes="stage=init[-max][,MinRate=rate] ...", unit="s, bytes/s", source="mod_reqtimeout",
         args=(0, 99), merge=_amend),
    Spec("LimitRequestLine", _number, 8190, "Longest request line", takes="number", unit="bytes",
         low=0, refused=True),
    Spec("LimitRequestFieldSize", _number, 8190, "Longest header field", takes="number",
         unit="bytes", low=0, refused=True),
    Spec("LimitRequestFields", _number, 100, "Most header fields; 0 is no limit", takes="number",
         unit="fields", low=0, refused=True),
    Spec("LimitRequestBody", _exact_number, 1 << 30, "Longest body; 0 is no limit",
         takes="number", unit="bytes", where="any", low=0, refused=True),
    Spec("HttpProtocolOptions", _protocol_options, tuple(pair[0] for pair in PROTOCOL_OPTIONS),
         "How strictly a request is read", takes="Strict|Unsafe Lenient|RegisteredMethods "
         "Allow0.9|Require1.0", args=(1, 3), merge=_answers),
    Spec("ConnectionFilter", _connection_filter, None, "A filter before every connection's socket. "
         "LINE_RATE lets so many KiB/s through, and is not safe for event, which then holds a thread "
         "for each connection; the nearest of httpd's is RATE_LIMIT, a filter of responses",
         takes="LINE_RATE KiB/s | None", source="mpmkit", args=(1, 2)),
    # TLS
    Spec("SSLEngine", _on_off, None, "TLS on the listening sockets whose Listen says https, or on "
         "all if none does; without this line, on those that say https; Off: on none",
         takes="On|Off", source="mod_ssl", httpd="Off"),
    Spec("SSLCertificateFile", _text, None, "File with the server's certificate and those that "
         "vouch for it, in PEM", takes="file", source="mod_ssl"),
    Spec("SSLCertificateKeyFile", _text, None, "File with the certificate's private key in PEM, "
         "not encrypted; without it, the key is in SSLCertificateFile", takes="file",
         source="mod_ssl"),
    Spec("SSLProtocol", _tls_versions, SPOKEN, "Versions of TLS that are spoken: 1.2 and 1.3",
         takes="[+-]all|TLSv1.2|TLSv1.3 ...", source="mod_ssl", args=SOME, httpd="all -SSLv3"),
    Spec("SSLCipherSuite", _text, None, "Ciphers for TLS 1.2, as OpenSSL names them; without it, "
         "those that Python's ssl module thinks safe", takes="ciphers", source="mod_ssl",
         args=(1, 1), httpd="DEFAULT"),
    # Responses
    Spec("EnableSendfile", _on_off, False, "Send files larger than 64 KiB by sendfile, which frees "
         "event's threads", takes="On|Off", where="any"),
    Spec("EnableMMAP", _on_off, True, "Map files of 64 KiB to 4 MiB into memory to send them, where "
         "EnableSendfile is Off; a file stays mapped from its second request on. Off: they are read, as "
         "it should be on a network file system", takes="On|Off", where="any"),
    Spec("FlushMaxThreshold", _exact_number, 65535, "Pending bytes above which a write blocks",
         takes="number", unit="bytes", low=0, refused=True),
    Spec("FlushMaxPipelined", _exact_number, 4,
         "Pending pipelined responses above which a write blocks; negative is no limit",
         takes="number", unit="responses", effect=False),
    Spec("TraceEnable", _choice(on="On", off="Off", extended="Extended"), "On",
         "Whether TRACE is answered", takes="On|Off|Extended"),
    Spec("FileETag", _file_etag, ("MTime", "Size"), "What an ETag is made of",
         takes="[+-]INode|MTime|Size|Digest|All|None ...", args=SOME, where="any"),
    Spec("MaxRanges", _ranges, 200, "Ranges of one request before all is sent; 0 is no ranges, "
         "-1 no limit", takes="none|default|unlimited|number", unit="ranges", where="any"),
    Spec("MaxRangeOverlaps", _limit, 20, "Overlapping ranges of one request before all is sent",
         takes="none|default|unlimited|number", unit="ranges", where="any"),
    Spec("MaxRangeReversals", _limit, 20, "Ranges before the one ahead of them, before all is sent",
         takes="none|default|unlimited|number", unit="ranges", where="any"),
    # The site
    Spec("DirectoryIndex", _all_words, ("index.html",), "Files tried for a directory",
         takes="file ...", source="mod_dir", args=SOME, where="any", merge=_more),
    Spec("TypesConfig", _text, None, "Table of media types", takes="file", source="mod_mime",
         httpd="conf/mime.types"),
    Spec("AddType", _handlers, {}, "A media type for file name extensions",
         takes="type .ext ...", source="mod_mime", args=(2, 99), where="any", merge=_also,
         field="types"),
    Spec("AddDefaultCharset", _charset, "", "Character set told of text/html and text/plain files "
         "that have none; On is iso-8859-1", takes="On|Off|charset", where="any"),
    Spec("AddHandler", _handlers, {}, "A handler for file name extensions",
         takes="handler .ext ...", source="mod_mime", args=(2, 99), where="any", merge=_also,
         field="handlers"),
    Spec("SetHandler", _handler, None, "The handler for everything here", takes="handler|None",
         where="any"),
    Spec("Require", _require, (), "Who may enter", takes="all granted|all denied|local",
         source="mod_authz_core", args=SOME, where="section", field=""),
    Spec("Options", _options, ("FollowSymLinks",), "What is allowed in a directory",
         takes="[+-]option ...", args=SOME, where="any"),
    Spec("ErrorDocument", _error_document, {}, "What is sent instead of an error page",
         takes="status text-or-path", args=(2, 2), where="any", merge=_also),
    Spec("Alias", _alias("Alias"), (), "A URL path served from another place", takes="path file",
         source="mod_alias", args=(2, 2), merge=_more, field="aliases"),
    Spec("ScriptAlias", _alias("ScriptAlias"), (), "A URL path whose files are CGI programs",
         takes="path directory", source="mod_alias", args=(2, 2), merge=_more, field="aliases"),
    Spec("WSGIScriptAlias", _alias("WSGIScriptAlias"), (), "A URL path served by a WSGI "
         "application", takes="path file", source="mod_wsgi", args=(2, 2), merge=_more,
         field="aliases"),
    Spec("ProxyTimeout", _seconds, 0.0, "Longest wait for a FastCGI backend; 0 is Timeout's",
         takes="number", unit="s", source="mod_proxy", low=0, refused=True, httpd="Timeout"),
    Spec("ProxySet", _proxy_set, (), "How the connections to a FastCGI backend are used: "
         "enablereuse=on keeps them, max of them in a process",
         takes="url key=value ...", source="mod_proxy", args=(2, 9), merge=_more),
    # Read, so that real files can be used, and without effect
    _unused("AllowOverride", "What .htaccess files may change; mpmkit reads none of them",
            where="section"),
    _unused("AccessFileName", "Name of .htaccess files; mpmkit reads none of them",
            where="server"),
    _unused("SSLHonorCipherOrder", "Whose order of ciphers counts; here the server's",
            parse=_on_off, args=(1, 1), where="server", source="mod_ssl"),
    _unused("SSLPassPhraseDialog", "How the key's pass phrase is asked for", where="server",
            source="mod_ssl"),
    _unused("SSLRandomSeed", "Sources of randomness; the kernel's is used", where="server",
            source="mod_ssl"),
    _unused("SSLSessionCache", "Sessions kept for resumption; here clients keep theirs in tickets",
            args=(1, 1), where="server", source="mod_ssl"),
    _unused("SSLSessionCacheTimeout", "Longest life of a kept session", args=(1, 1),
            where="server", source="mod_ssl"),
    _unused("SSLSessionTickets", "Sessions that clients keep; always on", parse=_on_off,
            args=(1, 1), where="server", source="mod_ssl"),
    _unused("Mutex", "Locks between processes; a single listener needs none", where="server"),
    _unused("CoreDumpDirectory", "Where a crashing child leaves its memory", args=(1, 1),
            where="server"),
    _unused("DefaultRuntimeDir", "Where files that live as long as the server go", args=(1, 1),
            where="server"),
    _unused("EnableExceptionHook", "Hooks that run in a crashing child", parse=_on_off,
            args=(1, 1), where="server"),
    _unused("HostnameLookups", "Client names instead of addresses in the log", args=(1, 1)),
    _unused("AddCharset", "Character sets by extension"),
    _unused("AddEncoding", "Content encodings by extension"),
    _unused("AddLanguage", "Languages by extension"),
    _unused("AddOutputFilter", "Filters by extension"),
    _unused("RemoveType", "Media types that extensions have no more"),
)  # fmt: skip

SPECS: dict[str, Spec] = {row.name.lower(): row for row in ROWS}


# ---------------------------------------------------------------------------------------------
# The result


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """What the server will do: the effective value of every directive.

    The attributes have Apache's names; SPECS has their units, bounds and defaults.  Seconds are
    floats, sizes are ints in the unit of the directive, files are absolute if ServerRoot is.
    Make one with `check`; `dataclasses.replace` makes variants but corrects nothing.
    """

    mpm: str
    # processes and threads (a number of another MPM is 0, or 1 for the threads of prefork)
    StartServers: int
    MinSpareServers: int
    MaxSpareServers: int
    MinSpareThreads: int
    MaxSpareThreads: int
    ThreadsPerChild: int
    ThreadLimit: int
    ServerLimit: int
    MaxRequestWorkers: int
    MaxConnectionsPerChild: int
    AsyncRequestWorkerFactor: float
    ThreadStackSize: int
    MaxMemFree: int
    GracefulShutdownTimeout: float
    # listening
    Listen: tuple[ListenAddress, ...]
    ListenBacklog: int
    ListenTCPDeferAccept: int
    AcceptFilter: dict[str, str]
    SendBufferSize: int
    ReceiveBufferSize: int
    # the server and its files
    ServerRoot: str | None
    ServerName: str
    UseCanonicalName: str
    DocumentRoot: str | None
    PidFile: str | None
    ScoreBoardFile: str | None
    User: str | None
    Group: str | None
    ErrorLog: str | None
    LogLevel: str
    module_levels: dict[str, str]
    LogFormat: dict[str, str]
    CustomLog: tuple[tuple[str, str], ...]
    BufferedLogs: bool
    ExtendedStatus: bool
    ServerTokens: str
    ServerSignature: str
    ServerAdmin: str
    # connections
    Timeout: float
    KeepAlive: bool
    KeepAliveTimeout: float
    MaxKeepAliveRequests: int
    RequestReadTimeout: RequestReadTimeout
    LimitRequestLine: int
    LimitRequestFieldSize: int
    LimitRequestFields: int
    LimitRequestBody: int
    HttpProtocolOptions: Words
    ConnectionFilter: tuple[str, int] | None
    # TLS
    SSLEngine: bool | None
    SSLCertificateFile: str | None
    SSLCertificateKeyFile: str | None
    SSLProtocol: Words
    SSLCipherSuite: str | None
    # responses
    EnableSendfile: bool
    EnableMMAP: bool
    FlushMaxThreshold: int
    FlushMaxPipelined: int
    TraceEnable: str
    FileETag: Words
    MaxRanges: int
    MaxRangeOverlaps: int
    MaxRangeReversals: int
    # the site
    DirectoryIndex: Words
    TypesConfig: str | None
    SetHandler: str | None
    Options: Words
    ErrorDocument: dict[int, str]
    types: dict[str, str]
    AddDefaultCharset: str
    handlers: dict[str, str]
    aliases: tuple[tuple[str, str, str], ...]
    ProxyTimeout: float
    ProxySet: tuple[tuple[str, dict[str, float]], ...]
    sections: tuple[Section, ...] = field(default=())

    @property
    def threaded(self) -> bool:
        return self.mpm in THREADED

    @property
    def tls(self) -> bool:
        """Does any listening socket speak TLS? (Then its `Listen` has the protocol "https".)"""
        return any(listen.protocol == "https" for listen in self.Listen)

    @property
    def longest_body(self) -> int:
        """The largest LimitRequestBody, those of sections included: what a request may announce before
        it is known which section it is for. 0: no limit."""
        limits = [self.LimitRequestBody]
        for section in self.sections:
            limits += [
                parse_value(SPECS["limitrequestbody"], setting.args)
                for setting in section.settings
                if setting.name.lower() == "limitrequestbody"
            ]
        return 0 if 0 in limits else max(limits)

    @property
    def threads_per_child(self) -> int:
        """Worker threads of a child; prefork's child is its own only worker."""
        return self.ThreadsPerChild

    @property
    def process_limit(self) -> int:
        """How many children of one generation there can be.

        Worker and event compute it from MaxRequestWorkers and never exceed ServerLimit, though
        MaxRequestWorkers keeps its larger value (httpd does the same, and its maintenance shows).
        """
        return min(self.MaxRequestWorkers // self.ThreadsPerChild, self.ServerLimit)

    @property
    def process_slots(self) -> int:
        """Rows of the scoreboard."""
        return self.ServerLimit

    @property
    def thread_slots(self) -> int:
        """Columns of the scoreboard."""
        return self.ThreadLimit

    @property
    def async_factor(self) -> int:
        """AsyncRequestWorkerFactor as the admission test uses it: whole, and at least 1."""
        return max(1, int(self.AsyncRequestWorkerFactor))


# ---------------------------------------------------------------------------------------------
# Reading settings one by one

# httpd's directives that belong to modules mpmkit does not have, by how their names begin.
FOREIGN = (
    ("SSL", "mod_ssl"), ("Rewrite", "mod_rewrite"), ("Proxy", "mod_proxy"),
    ("Balancer", "mod_proxy_balancer"), ("HeaderName", "mod_autoindex"),
    ("ReadmeName", "mod_autoindex"), ("Index", "mod_autoindex"), ("AddIcon", "mod_autoindex"),
    ("AddAlt", "mod_autoindex"), ("AddDescription", "mod_autoindex"),
    ("DefaultIcon", "mod_autoindex"), ("Header", "mod_headers"), ("RequestHeader", "mod_headers"),
    ("Expires", "mod_expires"), ("Cache", "mod_cache"), ("Auth", "the mod_auth family"),
    ("Deflate", "mod_deflate"), ("BrowserMatch", "mod_setenvif"), ("SetEnvIf", "mod_setenvif"),
    ("SetEnv", "mod_env"), ("PassEnv", "mod_env"), ("Redirect", "mod_alias"), ("H2", "mod_http2"),
    ("php_", "mod_php"), ("WSGI", "mod_wsgi"), ("Language", "mod_negotiation"),
    ("ForceLanguage", "mod_negotiation"), ("Dav", "mod_dav"), ("LDAP", "mod_ldap"),
    ("Remove", "mod_mime"),
)  # fmt: skip

# Names from before 2.4 that people still paste, and what to write today.
GONE = {
    "acceptmutex": "write Mutex",
    "lockfile": "write Mutex",
    "order": "write Require all granted or Require all denied",
    "allow": "write Require all granted",
    "deny": "write Require all denied",
    "namevirtualhost": "leave it out",
    "port": "write Listen",
    "bindaddress": "write Listen",
    "servertype": "leave it out",
    "minspareprocesses": "write MinSpareServers",
    "maxthreadsperchild": "write ThreadsPerChild",
    "satisfy": "write Require",
}


def spec_for(name: str, mpm: str | None) -> Spec:
    """The row for a name (in any case) under an MPM; ValueError says what to do instead.

    With None, while the MPM is not known yet, the names of all three are right.
    """
    key = name.lower()
    spec = SPECS.get(key)
    if spec is not None and (mpm is None or mpm in spec.mpms):
        return spec
    if spec is not None:
        owners = " and ".join(spec.mpms)
        guard = f"<IfModule mpm_{spec.mpms[-1]}_module>"
        raise ValueError(
            f"{spec.name} belongs to {owners}, this is {mpm}: wrap it in {guard} or take it out"
        )
    if key in GONE:
        raise ValueError(f"{name} is gone from httpd 2.4: {GONE[key]}")
    from difflib import get_close_matches  # only a mistake pays for it

    known = [row.name.lower() for row in ROWS if mpm is None or mpm in row.mpms]
    owner = next((module for start, module in FOREIGN if key.startswith(start.lower())), None)
    close = get_close_matches(key, known, n=1, cutoff=0.9 if owner else 0.75)
    if close:
        raise ValueError(f"{name} is not a directive: did you mean {SPECS[close[0]].name}?")
    if owner:
        raise ValueError(f"{name} is a directive of {owner} that mpmkit does not have: take it out")
    raise ValueError(f"{name} is not a directive mpmkit knows: check its spelling or take it out")


def parse_value(spec: Spec, args: Words) -> Any:
    """The value of one line's words, or ValueError with a whole sentence.

    Numbers whose row is ``refused`` are held to their bounds; others are left to `check`.
    """
    least, most = spec.args
    if not least <= len(args) <= most:
        count = least if len(args) < least else most
        bound = "" if least == most else "at least " if count == least else "at most "
        plural = "" if count == 1 else "s"
        # httpd has no comment behind a directive, though everybody tries one
        hint = "put the comment on its own line" if "#" in args else spec.doc
        raise ValueError(
            f"{spec.name} takes {bound}{count} argument{plural} ({spec.takes or 'text'}), "
            f"here are {len(args)}: {hint}"
        )
    try:
        value = spec.parse(args)
    except ValueError as error:
        raise ValueError(f"{spec.name} {error}") from None
    if spec.refused and spec.low is not None and value < spec.low and (value or not spec.or_zero):
        system = ", or 0 for the system's own" if spec.or_zero else ""
        raise ValueError(f'{spec.name} takes {spec.low} or more{system}, not "{args[0]}"')
    return value


def section_values(section: Section) -> dict[str, Any]:
    """What a section says, by directive name, read and merged: {"Require": ("local",), ...}.

    For sections that `check` has seen; the numbers of MPMs never stand in one.
    """
    values: dict[str, Any] = {}
    for setting in section.settings:
        spec = SPECS[setting.name.lower()]
        value = parse_value(spec, setting.args)
        values[spec.name] = spec.merge(values[spec.name], value) if spec.name in values else value
    return values


class _Reader:
    """Goes through the settings, collects the values, the problems and the notes."""

    def __init__(self, mpm: str) -> None:
        self.mpm = mpm
        self.values: dict[str, Any] = {}
        self.problems: list[DirectiveError] = []
        self.notes: list[Note] = []
        self.values["module_levels"] = {}
        for row in ROWS:
            if row.attribute:
                self.values[row.attribute] = () if row.merge is _more else row.default_for(mpm)

    def read(self, setting: Setting, section: Section | None = None) -> None:
        try:
            spec = spec_for(setting.name, self.mpm)
            if section and spec.where == "server":
                raise ValueError(f"{spec.name} may not stand in a <{section.kind}>: move it out")
            if not section and spec.where == "section":
                raise ValueError(
                    f"{spec.name} must stand in a <Directory>, <Location> or <Files>: move it in"
                )
            value = parse_value(spec, setting.args)
            if spec.name == "Listen" and value[0].port and value[0] in self.values["Listen"]:
                raise ValueError(f"Listen {setting.args[0]} is there already: keep one of the two")
            self.remark(spec, setting, value)
            if section and spec.effect and spec.name not in IN_SECTIONS:
                where = f" ({setting.file}:{setting.line})" if setting.file else ""
                text = f"{spec.name} has an effect outside of sections only: move it out of the "
                self.notes.append(Note("", "warn", f"{text}<{section.kind}>{where}"))
        except ValueError as error:
            self.problems.append(DirectiveError.at(setting, str(error)))
            return
        name = spec.renamed or spec.attribute
        if name and not section:
            self.values[name] = spec.merge(self.values[name], value)
        if spec.name == "LogLevel" and not section:
            self.module_levels(setting.args)

    def module_levels(self, words: Words) -> None:
        """`LogLevel warn ssl:info`: a level for one module. A line that begins with a level for
        everything forgets those of the lines before it."""
        levels = {} if ":" not in words[0] else dict(self.values["module_levels"])
        for word in words:
            module, colon, level = word.rpartition(":")
            if colon:
                module = module.removesuffix(".c").removesuffix("_module").removeprefix("mod_")
                levels[module] = level.lower()
        self.values["module_levels"] = levels

    def remark(self, spec: Spec, setting: Setting, value: Any) -> None:
        """Notes (and the last refusals) that concern one line only."""
        where = f" ({setting.file}:{setting.line})" if setting.file else ""
        if spec.renamed:
            ah = RENAMED_AH.get((spec.name, self.mpm), "")
            text = f"{spec.name} is an old name: write {spec.renamed}{where}"
            self.notes.append(Note(ah, "info", text))
        if spec.name == "AllowOverride" and [word.lower() for word in setting.args] != ["none"]:
            text = f"AllowOverride {' '.join(setting.args)}: .htaccess files are never read{where}"
            self.notes.append(Note("", "warn", text))
        elif spec.name == "Mutex":
            self.remark_mutex(setting)
        elif not spec.effect and spec.name != "AllowOverride":
            self.notes.append(Note("", "debug", f"{spec.name} has no effect in mpmkit{where}"))
        if (spec.renamed or spec.name) == "MaxConnectionsPerChild" and value < 0:
            # A threaded child of httpd compares with <= 0 at once, quits before it has served
            # anything, and is replaced, for ever.  mpmkit: refused.
            if self.mpm in THREADED:
                raise ValueError(
                    f'{spec.name} takes 0 (never) or more, not "{setting.args[0]}": {self.mpm} '
                    "children would end before their first connection"
                )

    def remark_mutex(self, setting: Setting) -> None:
        mechanism = setting.args[0].partition(":")[0].lower()
        if mechanism not in MUTEXES:
            raise ValueError(f'Mutex knows {", ".join(MUTEXES)}, not "{setting.args[0]}"')
        if self.mpm == "event" and "mpm-accept" in (word.lower() for word in setting.args[1:]):
            raise ValueError("Mutex mpm-accept does not exist under event: take it out")


RENAMED_AH = {
    ("MaxClients", "prefork"): "AH00188",
    ("MaxClients", "worker"): "AH00324",
    ("MaxClients", "event"): "AH00521",
    **{("MaxRequestsPerChild", mpm): "AH00545" for mpm in MPMS},
}


# ---------------------------------------------------------------------------------------------
# The cross checks.  httpd has two ids for most of its messages: one for the terminal of the first
# start, one for the error log of a restart.

AH = {
    "prefork": {
        "ServerLimit high": ("AH00175", "AH00176"),
        "ServerLimit low": ("AH00177", "AH00178"),
        "ServerLimit changed": ("AH00179", "AH00179"),
        "MaxRequestWorkers high": ("AH00180", "AH00181"),
        "MaxRequestWorkers low": ("AH00182", "AH00183"),
        "StartServers low": ("AH00184", "AH00185"),
        "MinSpareServers low": ("AH00186", "AH00187"),
    },
    "worker": {
        "ServerLimit high": ("AH00300", "AH00301"),
        "ServerLimit low": ("AH00302", "AH00303"),
        "ServerLimit changed": ("AH00304", "AH00304"),
        "ThreadLimit high": ("AH00305", "AH00306"),
        "ThreadLimit low": ("AH00307", "AH00308"),
        "ThreadLimit changed": ("AH00309", "AH00309"),
        "ThreadsPerChild high": ("AH00310", "AH00311"),
        "ThreadsPerChild low": ("AH00312", "AH00313"),
        "MaxRequestWorkers low": ("AH00314", "AH00315"),
        "MaxRequestWorkers multiple": ("AH00316", "AH00317"),
        "MaxRequestWorkers high": ("AH00318", "AH00319"),
        "StartServers low": ("AH00320", "AH00321"),
        "MinSpareThreads low": ("AH00322", "AH00323"),
    },
    "event": {
        "ServerLimit high": ("AH00497", "AH00498"),
        "ServerLimit low": ("AH00499", "AH00500"),
        "ServerLimit changed": ("AH00501", "AH00501"),
        "ThreadLimit high": ("AH00502", "AH00503"),
        "ThreadLimit low": ("AH00504", "AH00505"),
        "ThreadLimit changed": ("AH00506", "AH00506"),
        "ThreadsPerChild high": ("AH00507", "AH00508"),
        "ThreadsPerChild low": ("AH00509", "AH00510"),
        "MaxRequestWorkers low": ("AH00511", "AH00512"),
        "MaxRequestWorkers multiple": ("AH00513", "AH00514"),
        "MaxRequestWorkers high": ("AH00515", "AH00516"),
        "StartServers low": ("AH00517", "AH00518"),
        "MinSpareThreads low": ("AH00519", "AH00520"),
    },
}


class _Checker:
    """The numbers that depend on each other, and the steps that make them agree."""

    def __init__(self, mpm: str, values: dict[str, Any], running: Directives | None) -> None:
        self.mpm = mpm
        self.values = values
        self.running = running
        self.notes: list[Note] = []

    def correct(self, name: str, to: int, why: str, what: str = "") -> None:
        """Change a value and say so; `what` is the key in AH, "" where httpd is silent."""
        text = f"{name} {self.values[name]} {why}: {to} is used"
        self.values[name] = to
        # mpmkit: what httpd changes without a word is a debug note here.
        self.note(what, text) if what else self.notes.append(Note("", "debug", text))

    def note(self, what: str, text: str) -> None:
        at_start, at_restart = AH[self.mpm][what]
        self.notes.append(Note(at_restart if self.running else at_start, "warn", text))

    def limit(self, name: str) -> None:
        """ServerLimit and ThreadLimit: within what is compiled in, and fixed by the first start."""
        v = self.values
        high = SPECS[name.lower()].high_for(self.mpm)
        assert high is not None
        if v[name] > high:
            self.correct(name, high, f"is above the compiled limit of {high}", f"{name} high")
        elif v[name] < 1:
            self.correct(name, 1, "is below 1", f"{name} low")
        first = getattr(self.running, name) if self.running else v[name]
        if v[name] != first:
            why = f"differs from the {first} of the first start, a restart cannot change it"
            self.correct(name, first, why, f"{name} changed")

    def at_least_one(self, name: str) -> None:
        if self.values[name] < 1:
            self.correct(name, 1, "is below 1", f"{name} low")

    def prefork(self) -> None:
        v = self.values
        self.limit("ServerLimit")
        if v["MaxRequestWorkers"] > v["ServerLimit"]:
            why = f"is above the ServerLimit of {v['ServerLimit']}"
            self.correct("MaxRequestWorkers", v["ServerLimit"], why, "MaxRequestWorkers high")
        elif v["MaxRequestWorkers"] < 1:
            self.correct("MaxRequestWorkers", 1, "is below 1", "MaxRequestWorkers low")
        self.at_least_one("StartServers")
        self.at_least_one("MinSpareServers")
        # from here on httpd says nothing
        least = v["MinSpareServers"] + 1
        if v["MaxSpareServers"] < least:
            self.correct("MaxSpareServers", least, "is not above MinSpareServers")
        if v["StartServers"] > v["MaxRequestWorkers"]:
            self.correct("StartServers", v["MaxRequestWorkers"], "is above MaxRequestWorkers")

    def threads(self) -> None:
        v = self.values
        self.limit("ServerLimit")
        self.limit("ThreadLimit")
        if v["ThreadsPerChild"] > v["ThreadLimit"]:
            why = f"is above the ThreadLimit of {v['ThreadLimit']}"
            self.correct("ThreadsPerChild", v["ThreadLimit"], why, "ThreadsPerChild high")
        elif v["ThreadsPerChild"] < 1:
            self.correct("ThreadsPerChild", 1, "is below 1", "ThreadsPerChild low")
        threads = v["ThreadsPerChild"]
        if v["MaxRequestWorkers"] < threads:
            why = f"is below the ThreadsPerChild of {threads}, the threads of one child"
            self.correct("MaxRequestWorkers", threads, why, "MaxRequestWorkers low")
        processes, rest = divmod(v["MaxRequestWorkers"], threads)
        if rest:
            why = f"is not a multiple of the ThreadsPerChild of {threads}"
            what = "MaxRequestWorkers multiple"
            self.correct("MaxRequestWorkers", processes * threads, why, what)
        if processes > v["ServerLimit"]:
            # The limit on processes is obeyed, the variable keeps its value: Directives has both.
            self.note(
                "MaxRequestWorkers high",
                f"MaxRequestWorkers {v['MaxRequestWorkers']} needs {processes} processes, above "
                f"the ServerLimit of {v['ServerLimit']}: {v['ServerLimit'] * threads} connections "
                "are served",
            )
            processes = v["ServerLimit"]
        self.at_least_one("StartServers")
        self.at_least_one("MinSpareThreads")
        # from here on httpd says nothing
        least = v["MinSpareThreads"] + threads + 1
        if v["MaxSpareThreads"] < least:
            why = "is below MinSpareThreads + ThreadsPerChild + 1"
            self.correct("MaxSpareThreads", least, why)
        if v["StartServers"] > processes:
            why = f"is above the {processes} processes that MaxRequestWorkers allows"
            self.correct("StartServers", processes, why)

    def rest(self) -> None:
        """mpmkit: negatives that httpd stores and then treats as 0 are 0 here."""
        if self.values["MaxConnectionsPerChild"] < 0:
            self.correct("MaxConnectionsPerChild", 0, "is below 0, which prefork takes for never")
        for name in ("Timeout", "GracefulShutdownTimeout", "MaxKeepAliveRequests"):
            if self.values[name] < 0:
                self.correct(name, type(self.values[name])(0), "is below 0")


def check(
    mpm: str,
    settings: Iterable[Setting] = (),
    sections: Iterable[Section] = (),
    *,
    running: Directives | None = None,
    problems: Sequence[DirectiveError] = (),
) -> tuple[Directives, tuple[Note, ...]]:
    """Effective directives for an MPM, and what the operator should know about them.

    ``running`` is what the server runs with, when this is a restart: ServerLimit and ThreadLimit
    then stay as they are, and the notes have the ids that httpd uses in the error log.
    ``problems`` were found before (`httpd_conf.read`); they are told with those found here.

    Raises DirectiveError with every problem found, not only the first.
    """
    if mpm not in MPMS:
        raise DirectiveError(f"there is no MPM {mpm!r}: use prefork, worker or event", ah="AH00534")
    sections = tuple(sections)
    reader = _Reader(mpm)
    for setting in settings:
        reader.read(setting)
    for section in sections:
        for setting in section.settings:
            reader.read(setting, section)
    if problems or reader.problems:
        raise DirectiveError.of(sort_problems([*problems, *reader.problems]))
    values = reader.values
    for row in ROWS:
        if row.attribute and row.merge is _more and not values[row.attribute]:
            values[row.attribute] = row.default_for(mpm)
    checker = _Checker(mpm, values, running)
    checker.prefork() if mpm == "prefork" else checker.threads()
    checker.rest()
    notes = [*reader.notes, *checker.notes]
    _resolve_logs(values, notes)
    _resolve_files(values)
    _resolve_tls(values)
    return Directives(mpm=mpm, sections=sections, **values), tuple(notes)


def _resolve_logs(values: dict[str, Any], notes: list[Note]) -> None:
    """CustomLog's nicknames become formats; a LogFormat may come after its CustomLog."""
    formats = values["LogFormat"]
    logs = []
    for file, name in values["CustomLog"]:
        layout = formats.get(name, name) or COMMON
        if "%" not in layout:
            notes.append(
                Note(
                    "",
                    "warn",
                    f'CustomLog {file}: no LogFormat has the nickname "{layout}", '
                    "every line will be that word",
                )
            )
        logs.append((file, layout))
    values["CustomLog"] = tuple(logs)


def _resolve_tls(values: dict[str, Any]) -> None:
    """Which listening sockets speak TLS: afterwards just those whose protocol is "https"."""
    engine, listen = values["SSLEngine"], values["Listen"]
    if engine is False or (engine and not any(one.protocol == "https" for one in listen)):
        protocol = "https" if engine else "http"
        values["Listen"] = tuple(replace(one, protocol=protocol) for one in listen)


def _resolve_files(values: dict[str, Any]) -> None:
    """Relative names start from ServerRoot; without a ServerRoot they stay as they are."""
    root = values["ServerRoot"]
    if not root:
        return

    def resolve(name: str) -> str:
        if name.startswith(("/", "|", "syslog:")) or name == "syslog":
            return name
        return f"{root.rstrip('/')}/{name}"

    for key in (
        "DocumentRoot",
        "PidFile",
        "ScoreBoardFile",
        "ErrorLog",
        "TypesConfig",
        "SSLCertificateFile",
        "SSLCertificateKeyFile",
    ):
        if values[key]:
            values[key] = resolve(values[key])
    values["CustomLog"] = tuple((resolve(file), layout) for file, layout in values["CustomLog"])
    values["aliases"] = tuple((kind, url, resolve(to)) for kind, url, to in values["aliases"])


# ---------------------------------------------------------------------------------------------
# Lines and keywords


def split_words(text: str) -> Words:
    """The words of a line: blanks separate them, '...' and "..." hold them together.

    Within quotes a backslash protects the quote and the backslash; before anything else, and
    without quotes, it is an ordinary character (``\\\\`` is one backslash everywhere).

    mpmkit: a quote that is never closed is a ValueError; httpd closes it at the end of the line.
    """
    words: list[str] = []
    at, end = 0, len(text)
    while True:
        while at < end and text[at].isspace():
            at += 1
        if at == end:
            return tuple(words)
        quote = text[at] if text[at] in "\"'" else ""
        at += len(quote)
        word = []
        while at < end and (text[at] != quote if quote else not text[at].isspace()):
            if text[at] == "\\" and at + 1 < end and text[at + 1] in ("\\", quote):
                at += 1
            word.append(text[at])
            at += 1
        if quote and at == end:
            raise ValueError(f"a {quote} is opened and never closed: {quote}{''.join(word)}")
        at += len(quote)
        words.append("".join(word))


def from_keywords(mpm: str | None, **directives: Any) -> tuple[Setting, ...]:
    """Settings from Python values: ``from_keywords("event", ThreadsPerChild=8, KeepAlive=False)``.

    A bool is On or Off, a number is a number (KeepAliveTimeout=0.5 becomes 500ms), a path is its
    name, None leaves the directive out.  A string is one argument, or is split like a line if
    the directive takes several.  A tuple is the arguments of one line; a list is several lines::

        Listen=["127.0.0.1:8080", 8081], AddHandler=("cgi-script", ".cgi", ".py")

    ``mpm`` may be None if a file will choose it; `check` then finds a name of another MPM.

    Raises DirectiveError for an unknown name or a value that has no written form.
    """
    settings: list[Setting] = []
    problems: list[DirectiveError] = []
    for name, value in directives.items():
        try:
            spec = spec_for(name, mpm)
            lines = value if isinstance(value, list) else [value]
            for line in lines:
                if line is not None:
                    settings.append(Setting(spec.name, _words_from(spec, line)))
        except ValueError as error:
            problems.append(DirectiveError(str(error), directive=name))
    if problems:
        raise DirectiveError.of(problems)
    return tuple(settings)


def _words_from(spec: Spec, line: Any) -> Words:
    if isinstance(line, str) and spec.args != (1, 1):
        return split_words(line)
    if isinstance(line, tuple):
        return tuple(_word_from(spec, part) for part in line)
    return (_word_from(spec, line),)


def _word_from(spec: Spec, value: Any) -> str:
    if isinstance(value, bool):
        if spec.takes == "number":
            raise ValueError(f"{spec.name} takes a number, not {value}")
        return "On" if value else "Off"
    if isinstance(value, float) and spec.takes in ("number", "time"):
        if value.is_integer():
            return str(int(value))
        if spec.takes == "time" and 0 <= value < 1e9:
            return f"{round(value * 1000)}ms"
        raise ValueError(f"{spec.name} takes a whole number, not {value}")
    if isinstance(value, (str, float)):
        return str(value)
    if hasattr(value, "__index__"):  # int, and the integers of numpy and pandas
        return str(int(value))
    if hasattr(value, "__fspath__"):
        return str(value.__fspath__())
    raise ValueError(f"{spec.name} cannot be {value!r}: use a string or a number")
