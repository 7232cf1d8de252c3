"""Access logs: any LogFormat becomes one regular expression, whole blocks of lines become columns of values.

A block of lines is matched by one call (re.findall). If it finds fewer matches than the block has lines, that
block is gone through line by line: what does not match is counted, the first few are kept with their numbers. A
block without a backslash has no escaped quotes: it is matched by simpler sets, which are twice as fast.
"""

import gzip
import math
import operator
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

from mpmkit.config.httpd_conf import Conf, Source, read
from mpmkit.config.values import COMBINED, COMMON, FormatError, Piece, pieces

BLOCK = 1 << 15  # bytes read at once; its lines and columns fit a cache of the processor
LONGEST_LINE = 4 << 20  # bytes; a longer line is broken
BROKEN_SHARE = 0.01  # of the lines may be broken
SHOWN, SHOWN_LENGTH = 5, 120  # so many broken lines are shown, with so many characters
CACHED = 1 << 12  # texts that occur again and again; a cache of the processor has room for them

# Nicknames that distributions give, and what is tried where no format is given.
NICKNAMES = {"vhost_combined": f"%v:%p {COMBINED}", "combinedio": f"{COMBINED} %I %O"}
NICKNAMES |= {"combined": COMBINED, "common": COMMON}


class TraceError(ValueError):
    """A log or a trace that cannot be used. The text names what is wrong and the remedy."""


_NUMBER, _WORD, _QUOTED = r"-?[0-9.]*+", r"[^\s]*?", r'[^"\\\n]*+(?:\\.[^"\\\n]*+)*+'
# What each directive of a LogFormat writes: letter -> pattern. The same letters as server/log_format.py
# writes (a test compares), and those that only other modules write. Any other text is `.*?`.
PATTERNS = dict.fromkeys("bBIOSDTkP", _NUMBER) | dict.fromkeys("haAlvVpmH", _WORD)
PATTERNS |= {"s": r"(?:-|\d{3})", "X": r"[-+X]", "%": "%"}
PATTERNS |= dict.fromkeys([*"urUqfieoCnRLtxc", "^ti", "^to"], ".*?")

# strftime in a %{...}t: letter -> pattern. What stands for several is written out first.
_CLOCK = dict.fromkeys("mHMSIy", r"\d\d") | dict.fromkeys("ba", "[A-Z][a-z]{2}")
_CLOCK |= dict.fromkeys("BAp", "[A-Za-z]+")
_CLOCK |= {"d": r"[ \d]\d", "Y": r"\d{4}", "j": r"\d{3}", "z": r"[-+]\d{4}", "%": "%"}
_WRITTEN_OUT = {"%T": "%H:%M:%S", "%R": "%H:%M", "%F": "%Y-%m-%d", "%D": "%m/%d/%y"}
_WRITTEN_OUT |= {"%e": "%d", "%h": "%b"}
DEFAULT_CLOCK = "[%d/%b/%Y:%H:%M:%S %z]"
# The numeric forms of %{...}t: units a second; "_frac" is the part of a second.
_UNITS = {"sec": 1, "%s": 1, "msec": 1000, "usec": 1_000_000}
_UNITS |= {"msec_frac": 1000, "usec_frac": 1_000_000}
_DURATIONS = {"%D": 1_000_000, "%{us}T": 1_000_000, "%{ms}T": 1000, "%T": 1, "%{s}T": 1}
# What is wanted of a line: name -> directives that have it, the best one first.
WANTED = {
    "seconds": tuple(_DURATIONS), "size": ("%O", "%B", "%b"), "address": ("%a", "%h", "%{c}a", "%{c}h"),
    "agent": ("%{user-agent}i",), "port": ("%{remote}p",), "process": ("%P", "%{pid}P"), "kept": ("%X",),
    "serial": ("%k",), "line": ("%r", "%U", "%m"),
}  # fmt: skip

Columns = tuple[Sequence[bytes], ...]  # the groups of a format, a sequence for each
# Of a block of lines: the columns, unix times of the starts, durations in seconds or None; nan where none is.
Entries = tuple[Columns, list[float], list[float] | None]


class Clock:
    """The times of one moment of a request: `layouts` of %{...}t with the columns that hold them."""

    def __init__(self, found: Sequence[tuple[str, int]]) -> None:
        units = {k: (_UNITS[k], at) for k, at in found if k in _UNITS}
        parts = [units.pop(k) for k in list(units) if k.endswith("_frac")]
        self.whole, self.part = (max(of, default=None) for of in (units.values(), parts))
        if self.whole and self.whole[0] > 1:
            self.part = None
        has: set[str] = set()
        self.layout, self.columns = "", list[int]()
        for layout, at in found:
            letters = set(re.findall("%([A-Za-z])", layout))
            if layout not in _UNITS and not letters & has:
                self.layout, has = f"{self.layout}\n{layout}", has | letters
                self.columns.append(at)
        day = bool(has & {"Y", "y"}) and bool(has & {"d", "j"})
        self.usable = bool(self.whole) or (day and bool(has & {"H", "I"}))
        self.zoned = bool(self.whole) or "z" in has
        self.resolution = 1 / (self.part or self.whole or (1,))[0]
        usual, cached = self.layout[1:] == DEFAULT_CLOCK, lru_cache(CACHED)
        self._read = cached(self._by_minute if usual else self._parsed)
        self._minute = cached(self._parsed)

    def seconds(self, columns: Sequence[Sequence[bytes]]) -> list[float]:
        """Unix times of all lines of a block; nan where a text is not a time."""
        if self.whole:
            unit, at = self.whole
            found = _numbers(columns[at], unit)
        else:
            texts = [columns[at] for at in self.columns]
            keys: Any = texts[0] if len(texts) == 1 else zip(*texts, strict=True)
            found = list(map(self._read, keys))
        if self.part is None:
            return found
        unit, at = self.part
        return [time + int(text) / unit for time, text in zip(found, columns[at], strict=True)]

    def _by_minute(self, key: bytes) -> float:
        """Of DEFAULT_CLOCK. A day has 86,400 seconds, and strptime takes as long as ten lines."""
        second = key[19:21]
        minute = self._minute(key[:19] + b"00" + key[21:])
        return minute + int(second) if second.isdigit() and second < b"60" else math.nan

    def _parsed(self, key: Any) -> float:
        text = key if isinstance(key, bytes) else b"\n".join(key)
        with suppress(ValueError, OverflowError):
            read = datetime.strptime(text.decode("ascii"), self.layout[1:])
            return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        return math.nan


class LineFormat:
    """A LogFormat as a regular expression for lines. text: a format, a nickname of `nicknames`, or a nickname and
    more, like "combined %D". Raises TraceError for one that cannot be read."""

    def __init__(self, text: str, nicknames: dict[str, str] = NICKNAMES) -> None:
        word, blank, more = text.partition(" ")
        self.text = nicknames[word] + blank + more if word in nicknames else text
        try:
            parts = list(pieces(self.text))
            keys = [_key(part) for part in parts]
            best = {next(filter(keys.__contains__, WANTED[name]), None): name for name in WANTED}
            # Of each part the name of its group, if it is one: a name of WANTED, or that of a time.
            both = enumerate(zip(parts, keys, strict=True))
            names = [f"t{n}" if one.letter == "t" else best.pop(key, "") for n, (one, key) in both]
            self.pattern, self.fast = (_compiled(parts, names, fast) for fast in (False, True))
        except FormatError as error:
            raise TraceError(f"log_format: {error}") from None
        self.columns = {name: group - 1 for name, group in self.pattern.groupindex.items()}
        self.unit = next((unit for key, unit in _DURATIONS.items() if key in keys), 1)
        named = zip(parts, names, strict=True)
        times = [(*_moment(one), self.columns[name]) for one, name in named if one.letter == "t"]
        self.begin = Clock([(layout, at) for end, layout, at in times if not end])
        self.end = Clock([(layout, at) for end, layout, at in times if end])
        self.timed = "seconds" in self.columns or (self.begin.usable and self.end.usable)
        if not self.begin.usable and not self.end.usable:
            raise TraceError(f"log_format: {text!r} has no time of the request; %t is one")

    def entries(self, found: Sequence[Sequence[bytes]]) -> Entries:
        columns: Columns = tuple(zip(*found, strict=True))
        at = self.columns.get("seconds")
        lasted = None if at is None else _numbers(columns[at], self.unit)
        ends = self.end.seconds(columns) if self.end.usable else []
        if self.begin.usable:
            starts = self.begin.seconds(columns)
            return columns, starts, lasted or list(map(operator.sub, ends, starts)) or None
        pairs = zip(ends, lasted or [0.0] * len(ends), strict=True)
        return columns, [end - (long if long == long else 0.0) for end, long in pairs], lasted


def _compiled(parts: Sequence[Piece], names: Sequence[str], fast: bool) -> re.Pattern[bytes]:
    """fast: for lines without a backslash; a match may go on in the next line, so matches are to be counted."""
    made, texts = "", ["", *("" if part.letter else part.text for part in parts), ""]
    for before, part, after, name in zip(texts, parts, texts[2:], names, strict=False):
        body = _pattern(part, before[-1:] + after[:1], fast)
        made += f"(?P<{name}>{body})" if name else body
    made += "()" * (sum(map(bool, names)) == 1)  # with a single group, findall gives no tuples
    return re.compile(rf"^{made}\r?$".encode("latin-1", "replace"), re.MULTILINE)


def _pattern(part: Piece, around: str, fast: bool) -> str:
    """around: the characters before and after it."""
    if not part.letter:
        return re.escape(part.text)
    if part.letter not in PATTERNS:
        raise FormatError(f"{part.text!r} is unknown; known are %{' %'.join(PATTERNS)}")
    body = PATTERNS[part.letter] if part.argument != "hextid" else _WORD
    if part.letter == "t":
        layout = _moment(part)[1]
        body = r"\[[^]]*+\]" if fast and layout == DEFAULT_CLOCK else _clock_pattern(layout)
    elif around == '""':
        return '[^"]*+' if fast else _QUOTED
    elif body == _WORD and around[-1:] == " ":
        return "[^ ]*+" if fast else r"\S*+"
    return f"(?:-|{body})" if part.condition else body


def _numbers(texts: Sequence[bytes], unit: int) -> list[float]:
    """Seconds of numbers of units; nan for what is no number ("-")."""
    for kind in (int, float):  # int is twice as fast
        with suppress(ValueError, OverflowError):
            return [number / unit for number in map(kind, texts)]
    return [math.nan if len(texts) == 1 else _numbers([text], unit)[0] for text in texts]


def _key(part: Piece) -> str:
    if part.argument is None:
        return f"%{part.letter}" if part.letter else ""
    argument = part.argument.lower() if part.letter == "i" else part.argument
    return f"%{{{argument}}}{part.letter}"


def _moment(part: Piece) -> tuple[bool, str]:
    """(whether it is the end of the request, layout) of a %t or %{...}t."""
    text = part.argument or ""
    layout = text.removeprefix("begin:").removeprefix("end:") or DEFAULT_CLOCK
    for short, long in _WRITTEN_OUT.items():
        layout = layout.replace(short, long)
    return text.startswith("end:"), layout


def _clock_pattern(layout: str) -> str:
    if layout in _UNITS:
        return r"\d{1,18}"  # more overflows
    made = ""
    for text, letter in re.findall(r"([^%]+)|%(.?)", layout):
        if not text and letter not in _CLOCK:
            raise FormatError(f"%{letter} of %{{{layout}}}t cannot be read; %t can")
        made += re.escape(text) or _CLOCK[letter]
    return made


def name_of(log: Any) -> str:
    """How messages call a path, "-" or a file."""
    if hasattr(log, "read"):
        return str(getattr(log, "name", "the log"))
    return "standard input" if str(log) == "-" else os.fspath(log)


def blocks(log: Any) -> Iterator[bytes]:
    """Of a path, "-" for standard input, or a binary file: whole lines, about BLOCK bytes at once; at last what
    has no line end. .gz is seen by its first bytes. Raises TraceError for what cannot be read."""
    rest = b""
    try:
        with ExitStack() as stack:
            file = sys.stdin.buffer if str(log) == "-" else log
            if not hasattr(file, "read"):
                file = stack.enter_context(open(log, "rb"))
            if hasattr(file, "peek") and file.peek(2)[:2] == b"\x1f\x8b":
                file = stack.enter_context(gzip.open(file))
            while data := file.read(BLOCK):
                head, newline, tail = data.rpartition(b"\n")
                if newline:
                    yield rest + head + newline
                    rest = b""
                rest += tail
                if len(rest) > LONGEST_LINE:
                    rest = rest[:100]
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise TraceError(f"{name_of(log)}: is damaged or cut short; gunzip -t shows it") from None
    except OSError as error:
        raise TraceError(f"{name_of(log)}: cannot be read: {error.strerror}") from None
    if rest:
        yield rest


@dataclass
class Reader:
    """Reads lines of one format, and counts those that are broken."""

    form: LineFormat
    lines: int = 0
    broken: int = 0
    shown: dict[str, str] = field(default_factory=dict)  # place of a broken line -> its text
    likely: str = ""  # the format of the first one
    unfinished: int = 0  # last lines without an end: still being written

    def columns(self, name: str, lines: Iterable[bytes]) -> Iterator[Entries]:
        """What a log (the `blocks` of its lines) has, one block after the other."""
        number = 0
        for block in lines:
            if not block.endswith(b"\n"):
                self.unfinished += 1
                return
            pattern = self.form.pattern if b"\\" in block else self.form.fast
            found, count = pattern.findall(block), block.count(b"\n")
            entries = self.form.entries(found) if len(found) == count else None
            if entries is None or math.isnan(sum(entries[1])):
                found = list(self._one_by_one(name, block, number))
                entries = self.form.entries(found) if found else None
            number += count
            self.lines += count
            if entries:
                yield entries

    def _one_by_one(self, name: str, block: bytes, number: int) -> Iterator[tuple[bytes, ...]]:
        for place, line in enumerate(block.split(b"\n")[:-1], number + 1):
            found = self.form.pattern.match(line)
            if found and not math.isnan(self.form.entries([found.groups()])[1][0]):
                yield found.groups()
                continue
            self.likely = self.likely if self.broken else likely_format(line)
            self.broken += 1
            if self.broken <= SHOWN:
                self.shown[f"{name}, line {place}"] = excerpt(line)

    def examples(self) -> tuple[str, ...]:
        """The first broken lines, with their numbers."""
        return tuple(f"{where}: {line}" for where, line in self.shown.items())

    def check(self) -> None:
        """Raise TraceError if more than BROKEN_SHARE of the lines are broken, or there is no line."""
        if not self.lines:
            raise TraceError("the log has no whole line; is it the right file?")
        if self.broken > BROKEN_SHARE * self.lines:
            remedy = self.likely and f"they look like log_format={self.likely!r}"
            if self.likely and self.broken < (1 - BROKEN_SHARE) * self.lines:
                remedy += ": the log has two formats, give only the lines of one"
            what = f"{self.broken:,} of {self.lines:,} lines are not {self.form.text!r}"
            what += f"; {remedy or 'give its LogFormat'}"
            raise TraceError("\n".join([f"{what}. The first are", *self.examples()]))


def excerpt(line: bytes) -> str:
    """A line as it can be shown: printable, and not too long; what is wrong is often at its end."""
    text, part = repr(line)[1:], SHOWN_LENGTH // 2
    return text if len(text) <= SHOWN_LENGTH else f"{text[:part]} ... {text[-part:]}"


def likely_format(line: bytes, more: Sequence[str] = ("", " %D", " %D %X %k")) -> str:
    """The nickname that a line looks like, with what follows it; "" if it is like none."""
    texts = (name + last for name in NICKNAMES for last in more)
    return next((text for text in texts if LineFormat(text).pattern.match(line)), "")


def guessed(name: str, block: bytes) -> LineFormat:
    """The format of a log by its first lines. Raises TraceError, also for a duration in an unknown unit."""
    lines = block.split(b"\n", 20)[:20]
    if known := next(filter(None, (likely_format(line, ("",)) for line in lines)), ""):
        return LineFormat(known)
    known = next(filter(None, map(likely_format, lines)), "")
    what, give = "is in no known format", "its LogFormat"
    if known:
        what, other = f"a number follows the format {known.split()[0]}", known.replace("%D", "%T")
        give = f"{known!r} if it is in microseconds, {other!r} if in seconds"
    text = f"{name}: {what}; give log_format={give}, or conf, the httpd.conf"
    raise TraceError(f"{text}; line 1 is {excerpt(lines[0])}")


def in_order(logs: Sequence[Any], form: LineFormat | None) -> tuple[Reader, Iterator[Entries]]:
    """A reader, and what it reads, of all logs in the order of their first times: rotated logs may be given in
    any. form: None to guess it from the first log that has lines. Raises TraceError."""
    found: list[tuple[float, str, Iterable[bytes]]] = []
    for log in logs:
        name, lines = name_of(log), blocks(log)
        if first := next(lines, b""):
            form = form or guessed(name, first)
            line = form.pattern.search(first)
            at = form.entries([line.groups()])[1][0] if line else math.inf
            found.append((at if at == at else math.inf, name, chain([first], lines)))
    if form is None:
        raise TraceError("the log has no line; is it the right file?")
    reader = Reader(form)
    found.sort(key=itemgetter(0))
    return reader, chain.from_iterable(reader.columns(name, lines) for _, name, lines in found)


def read_conf(conf: Any, mpm: str | None = None) -> Conf:
    """An httpd.conf, as it is for that MPM, by default its own; modules that mpmkit does not know do not matter.
    Raises TraceError with file and line for one that cannot be read."""
    found = read(Source(os.fspath(conf), mpm=mpm))
    problems = [one for one in found.problems if one.directive.lower() != "loadmodule"]
    if problems:
        raise TraceError(f"conf: {problems[0]}; httpd -t -f {conf} shows what httpd says of it")
    return found
