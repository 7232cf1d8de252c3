"""From the words of one line to its value.

A reader takes the words behind a directive's name and returns the value, or raises ValueError with
the second half of a sentence that starts with the name. `Spec.parse` is one of these readers.
At the end are the rules for a repeated name: `Spec.merge` is one of those.
"""

import operator
import re
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from posixpath import normpath
from typing import Any, NamedTuple

Words = tuple[str, ...]
text: Callable[[Words], str] = operator.itemgetter(0)
all_words: Callable[[Words], Words] = tuple
LEVELS = ("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")
TRACES = tuple(f"trace{number}" for number in range(1, 9))
INT_MAX = 2**31 - 1
NAMES = sys.getfilesystemencoding()  # how `os` reads names of files, with surrogateescape
LONGEST_WAIT = 2_000_000  # seconds; `poll` takes its milliseconds in 31 bits


def encoded(text: str) -> bytes:
    """The bytes that a name or a path stands for."""
    return text.encode(NAMES, "surrogateescape")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: ``address`` is "" for every interface, ``port`` 0 for any free one."""

    address: str
    port: int
    protocol: str = "http"

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address or "*"
        return f"{host}:{self.port or 'auto'}"


class Stage(NamedTuple):
    """How long a client may take for a stage of its request (mod_reqtimeout), in seconds."""

    init: float = 0.0  # 0: the stage is off
    max: float = 0.0  # in all; 0: no limit
    rate: int = 0  # so many bytes received add one second; 0: none do


READ_TIMEOUT = {
    "handshake": Stage(),
    "header": Stage(20.0, 40.0, 500),
    "body": Stage(20.0, 0.0, 500),
}


def atoi(word: str) -> int:
    """A number as C's atoi reads it: "12x" is 12, "abc" is 0. mpmkit: beyond 31 bits, where atoi is undefined
    and wraps in practice, it stays at the end."""
    sign, digits = re.findall(r"^\s*([+-]?)0*([0-9]*)", word)[0]
    number = min(int(digits[:12] or "0"), INT_MAX)
    return -number if sign == "-" else number


def number(words: Words) -> int:
    return atoi(words[0])


def seconds(words: Words) -> float:
    """atoi's seconds: Timeout 1m is one second, as in httpd. mpmkit: LONGEST_WAIT at most."""
    return float(min(atoi(words[0]), LONGEST_WAIT))


def based_number(words: Words) -> int:
    """strtol with base 0: 0x10 and 010 are hexadecimal and octal, anything else is 0."""
    sign, size = re.findall(r"^\s*([+-]?)(0x[0-9a-f]+|0[0-7]*|[0-9]*)", words[0].lower())[0]
    number = int(size or "0", 16 if "x" in size else 8 if size[:1] == "0" else 10)
    return -number if sign == "-" else number


def exact_number(words: Words) -> int:
    """A whole number of 63 bits and nothing else (the few numbers that httpd reads strictly)."""
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", words[0]) or abs(int(words[0])) >= 1 << 63:
        raise ValueError(f'takes a whole number, not "{words[0]}"')
    return int(words[0])


def time(words: Words) -> float:
    """Only a unit's first letters count: "min" and "milli" are minutes. mpmkit: LONGEST_WAIT at most."""
    if (found := re.match(r"([0-9]{1,15})(\Z|ms|mi|s|h)", words[0].lower())) is None:
        why = "takes a time such as 5, 5s, 700ms, 2mi or 1h, and never less than 0"
        raise ValueError(f'{why}, not "{words[0]}"')
    count, unit = int(found[1]), found[2]
    long = count / 1000 if unit == "ms" else count * {"mi": 60, "h": 3600}.get(unit, 1)
    return float(min(long, LONGEST_WAIT))


def factor(words: Words) -> float:
    # Python reads "1_000" and "infinity" as numbers; a configuration should not.
    form = r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?"
    if re.fullmatch(form, words[0].lower()) and 0 < float(words[0]) < INT_MAX:
        return float(words[0])
    raise ValueError(f'takes a number above 0, such as 2, not "{words[0]}"')


def ranges(words: Words) -> int:
    """MaxRanges: 0 is no ranges."""
    named = {"none": 0, "default": 200, "unlimited": 1 << 62}
    count = named.get(words[0].lower(), atoi(words[0]) or -1)
    if count < 0:
        raise ValueError(f'takes none, default, unlimited or a number above 0, not "{words[0]}"')
    return count


def on_off(words: Words) -> bool:
    if (word := words[0].lower()) in ("on", "off"):
        return word == "on"
    raise ValueError(f'is On or Off, not "{words[0]}"')


def choice(*known: str, **alike: str) -> Callable[[Words], str]:
    """One of several words in any case; `alike` are other ways to write one."""
    return lambda words: alike.get(words[0].lower()) or _spelled(words, known)[0]


def _spelled(words: Words, known: Collection[str], *, signs: bool = False) -> Words:
    """Every word in its official spelling, or ValueError; "+X" and "-X" are kept if `signs`."""
    spelling = {sign + word.lower(): sign + word for sign in ("", *"+-" * signs) for word in known}
    for word in words:
        if word.lower() not in spelling:
            raise ValueError(f'knows {", ".join(known)}, not "{word}"')
    return tuple(spelling[word.lower()] for word in words)


OPTIONS = (
    "None", "All", "Indexes", "Includes", "IncludesNOEXEC", "FollowSymLinks",
    "SymLinksIfOwnerMatch", "ExecCGI", "MultiViews",
)  # fmt: skip


def options(words: Words) -> Words:
    known = _spelled(words, OPTIONS, signs=True)
    if len({word[0] in "+-" for word in known}) > 1:
        raise ValueError("takes a + or - before every word or before no word")
    return known


ETAG = ("MTime", "Size")  # where no line says otherwise
_ETAG_PARTS = ("INode", "MTime", "Size")


def file_etag(words: Words) -> Words:
    known = _spelled(words, ("None", "All", *_ETAG_PARTS), signs=True)
    if wrong := [word for word in known if word[1:] in ("All", "None")]:
        raise ValueError(f'takes {wrong[0][1:]} without a sign, not "{wrong[0]}"')
    return known


def etag_over(old: Words, new: Words) -> Words:
    """As `signed`; but a line with signs does not change the default: `FileETag +INode` alone is INode."""
    return signed(() if old is ETAG else old, new)


def etag_parts(words: Words) -> Words:
    """What a tag is made of, by all lines."""
    chosen = dict.fromkeys(_ETAG_PARTS, "All" in words)
    for word in words:
        chosen[word.lstrip("+-")] = word[0] != "-"
    parts = tuple(part for part in _ETAG_PARTS if chosen[part])
    return parts or (() if words[-1:] == ("None",) else ETAG)


# Three questions, each with two answers; the first is httpd's default.
PROTOCOL_OPTIONS = (
    ("Strict", "Unsafe"), ("LenientMethods", "RegisteredMethods"), ("Allow0.9", "Require1.0"),
)  # fmt: skip


def protocol_options(words: Words) -> Words:
    known = _spelled(words, [answer for pair in PROTOCOL_OPTIONS for answer in pair])
    if both := [" or ".join(pair) for pair in PROTOCOL_OPTIONS if set(pair) <= set(known)]:
        raise ValueError(f"takes {both[0]}, not both")
    return known


SPOKEN = ("TLSv1.2", "TLSv1.3")
BROKEN = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1")  # OpenSSL itself no longer has them


def tls_versions(words: Words) -> Words:
    """``all -SSLv3 -TLSv1``, ``TLSv1.2 +TLSv1.3``: the versions that are left, oldest first. A word without a
    sign starts again; ``all`` is all of SPOKEN. mpmkit: versions before 1.2 are never used."""
    chosen: set[str] = set()
    for word in _spelled(words, ("all", *BROKEN, *SPOKEN), signs=True):
        bare = word.lstrip("+-")
        named = set(SPOKEN if bare == "all" else (bare,))
        kept = chosen if word[0] in "+-" or bare in BROKEN else set()
        chosen = kept - named if word[0] == "-" else kept | named
    if left := tuple(one for one in SPOKEN if one in chosen):
        return left
    known = " and ".join(SPOKEN)
    raise ValueError(f'leaves no version of {known}: write "all", not "{" ".join(words)}"')


def ciphers(words: Words) -> str | None:
    """``[SSL] ciphers``. None for ``TLSv1.3 ciphers``: for those Python has no call."""
    return None if _spelled(words[:-1], ("SSL", "TLSv1.3")) == ("TLSv1.3",) else words[-1]


def log_level(words: Words) -> str | None:
    """The level for everything; those for single modules (``ssl:warn``) are `module_levels`."""
    for word in words:
        if word.rpartition(":")[2].lower() not in (*LEVELS, *TRACES):
            raise ValueError(f'knows {", ".join(LEVELS)} and trace1 to trace8, not "{word}"')
    return next((word.lower() for word in reversed(words) if ":" not in word), None)


def module_levels(words: Words, old: dict[str, str]) -> dict[str, str]:
    """``LogLevel warn ssl:info``: those for single modules; without one for all upon those before."""
    levels = dict(old) if ":" in words[0] else {}
    for module, colon, level in (word.rpartition(":") for word in words):
        if colon:
            module = module.removesuffix(".c").removesuffix("_module").removeprefix("mod_")
            levels[module] = level.lower()
    return levels


def listen(words: Words) -> tuple[ListenAddress]:
    """``8080``, ``127.0.0.1:8080``, ``[::1]:8080``, each with an optional protocol.
    mpmkit: the port may be the word ``auto``: any free port (httpd refuses it, as it does 0)."""
    address, colon, port = words[0].rpartition(":")
    bracketed = address.startswith("[") and address.endswith("]")
    address = address[1:-1] if bracketed else address
    if ":" in address and not bracketed:
        raise ValueError(f'takes an IPv6 address in brackets, [{address}]:{port}, not "{words[0]}"')
    if colon and not address:
        raise ValueError(f'takes [address:]port, not "{words[0]}"')
    if not (port == "auto" or (port.isascii() and port.isdigit() and 0 < atoi(port) < 65536)):
        raise ValueError(f'takes [address:]port with a port from 1 to 65535, not "{words[0]}"')
    protocol = words[1].lower() if len(words) > 1 else "https" if atoi(port) == 443 else "http"
    return (ListenAddress("" if address == "*" else address, atoi(port), protocol),)


def connection_filter(words: Words) -> tuple[str, int] | None:
    name = words[0].upper()
    if name == "NONE" and len(words) == 1:
        return None
    if name != "LINE_RATE" or len(words) != 2 or not 0 < atoi(words[1]) < INT_MAX:
        raise ValueError('knows None, and LINE_RATE with KiB per second: "LINE_RATE 400"')
    return name, atoi(words[1])


def read_timeout(words: Words) -> dict[str, Stage]:
    """``header=20-40,MinRate=500 body=20,MinRate=500``: the stages that are named."""
    form = r"(handshake|header|body)=([0-9]+)(?:-([0-9]+))?(?:,minrate=([0-9]+))?"
    changes: dict[str, Stage] = {}
    for word in words:
        if (found := re.fullmatch(form, word.lower())) is None:
            why = "takes handshake=, header= or body= and init[-max][,MinRate=rate]"
            raise ValueError(f'{why} in whole numbers, not "{word}"')
        stage, *numbers = found.groups("0")
        init, most, rate = map(atoi, numbers)
        if found[3] and most <= init:
            raise ValueError(f'takes a range whose end is above its start, not "{word}"')
        if found[4] and not rate:
            raise ValueError(f'takes a MinRate above 0, not "{word}"')
        if found[3] and not rate:
            raise ValueError(f'needs a rate with a range: "{word},MinRate=500"')
        changes[stage] = Stage(float(init), float(most), rate)
    return changes


def by_extension(words: Words) -> dict[str, str]:
    """``AddHandler cgi-script .cgi pl``: extension with its dot -> first word."""
    return {"." + ext.removeprefix(".").lower(): words[0] for ext in words[1:]}


def custom_log(words: Words) -> tuple[Words]:
    """A file, a format or its nickname, and the variable that decides, with a `!` before it or not."""
    if len(words) > 2 and not re.fullmatch("env=!?.+|expr=.+", words[2], re.IGNORECASE):
        why = "knows env=variable, env=!variable and expr=, which is not evaluated"
        raise ValueError(f'{why}, not the condition "{words[2]}"')
    condition = (re.sub("(?i)^env=", "", word) for word in words[2:])
    return ((words[0], "".join(words[1:2]), *condition),)


def error_document(words: Words) -> dict[int, str]:
    if not 100 <= (code := atoi(words[0])) <= 599:
        raise ValueError(f'takes a status from 100 to 599, not "{words[0]}"')
    return {code: site_path(words[1]) if words[1].startswith("/") else words[1]}


def url_path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f'takes a URL path that starts with "/", not "{text}"')
    return re.sub("//+", "/", text)  # as a request's


def site_path(text: str) -> str:
    """A path as those of requests are, without `/../`, and its query: rules are for such paths."""
    path, mark, query = text.partition("?")
    short = normpath(url_path(path))
    return short + "/" * (path.endswith("/") and short != "/") + mark + query


def proxy_set(words: Words) -> tuple[tuple[str, dict[str, float]]]:
    """``fcgi://localhost enablereuse=on max=10 timeout=30``: how to use a backend's connections."""
    settings: dict[str, float] = {}
    for word in words[1:]:
        key, _, value = word.lower().partition("=")
        if key in ("enablereuse", "disablereuse") and value in ("on", "off"):
            settings["enablereuse"] = float((value == "on") == (key == "enablereuse"))
        elif key in ("max", "timeout") and value.isdigit() and atoi(value):
            settings[key] = float(min(atoi(value), LONGEST_WAIT))
        else:
            why = "knows enablereuse=on|off, max=number and timeout=seconds"
            raise ValueError(f'{why}, not "{word}"')
    return ((words[0], settings),)


def user(words: Words) -> str:
    if words[0] in ("root", "#0"):
        raise ValueError(f"must not be {words[0]}: name an ordinary user, such as www-data")
    return words[0]


# -- LogFormat's text cut into pieces, for what writes access logs and what reads them

COMMON = '%h %l %u %t "%r" %>s %b'
COMBINED = COMMON + ' "%{Referer}i" "%{User-Agent}i"'
ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"'}
# A literal text; or a percent sign, conditions and redirect marks in any order, an argument, one letter.
_PIECE = re.compile(r"[^%]+|%([!0-9,<>]*)(?:\{([^}]*)\})?([!0-9,<>]*)(\^t[io]|.?)", re.S)


class FormatError(ValueError):
    """A format that can't be used; the text says what is wrong with it."""


class Piece(NamedTuple):
    """A literal text (`letter` is "") or a directive like `%!200,304{Referer}i`."""

    text: str  # of a literal, what is written; of a directive, the directive
    letter: str = ""
    argument: str | None = None
    condition: str = ""  # "!200,304"


def pieces(text: str) -> Iterator[Piece]:
    """The pieces of a format, in their order. Raises FormatError for a percent sign at the end."""
    at = 0
    while found := _PIECE.match(text, at):  # not `finditer`: see split_words
        at = found.end()
        if found[4] is None:
            yield Piece(re.sub(r'\\([nt\\"])', lambda m: ESCAPES[m[1]], found[0]))
        elif not found[4]:
            raise FormatError(f"{found[0]!r} is cut short; write %% for a percent sign")
        else:
            condition = (found[1] + found[3]).replace("<", "").replace(">", "")
            yield Piece(found[0], found[4], found[2], condition)


# -- when a name is written twice: what is there, and what a further line adds

append, update = operator.add, operator.or_  # of tuples, of dicts


def replace(old: Any, new: Any) -> Any:
    return new


def prepend(old: Words, new: Words) -> Words:
    return new + old


def signed(old: Words, new: Words) -> Words:
    """Words with signs add to those before them and take away; others replace them."""
    return (*old, *new) if new[0][0] in "+-" else new


def keep_if_none(old: Any, new: Any) -> Any:
    return old if new is None else new


def answer(old: Words, new: Words) -> Words:
    """HttpProtocolOptions: a question that a line does not answer keeps its answer."""
    questions = zip(old, PROTOCOL_OPTIONS, strict=True)
    return tuple(next((word for word in new if word in pair), was) for was, pair in questions)
