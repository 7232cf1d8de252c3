"""The text of a LogFormat cut into pieces, for what writes access logs and what reads them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

COMMON = '%h %l %u %t "%r" %>s %b'
COMBINED = COMMON + ' "%{Referer}i" "%{User-Agent}i"'
ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"'}
# A literal text; or after the percent sign: conditions and redirect marks in any order, an argument,
# one letter.
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
