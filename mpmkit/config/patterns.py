"""The two languages of a section's argument: wild cards as APR reads them, regular expressions as PCRE.

Both are translated to Python's `re`, over bytes, as httpd compares bytes. What cannot be translated
exactly is a ValueError: a rule that protects nothing is worse than a server that does not start.
"""

from __future__ import annotations

import re
from posixpath import normpath

_POSIX = {
    "alpha": r"a-zA-Z", "digit": r"0-9", "alnum": r"a-zA-Z0-9", "upper": r"A-Z", "lower": r"a-z",
    "space": r"\t-\r\x20", "blank": r"\t\x20", "punct": r"!-/:-@\[-`{-~", "print": r"\x20-~",
    "graph": r"!-~", "cntrl": r"\x00-\x1f\x7f", "xdigit": r"0-9A-Fa-f", "word": r"\w",
    "ascii": r"\x00-\x7f",
}  # fmt: skip
# Classes of PCRE that Python has not, or reads otherwise, as the inside of a class.
_CLASSES = {"h": r"\t\x20\xa0", "v": r"\n-\r\x85"}
_SAME = "dDwWsS"  # classes that mean the same over bytes
_CONTROL = {"a": 7, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9}
_NAME = r"[A-Za-z_]\w{0,31}"
_QUANTIFIER = re.compile(r"\{\d+(,\d*)?\}", re.ASCII)
_NAMED = re.compile(rf"\?(?:P?<({_NAME})>|'({_NAME})')", re.ASCII)
_BACK = re.compile(
    rf"(?:k(?:<({_NAME})>|'({_NAME})'|\{{({_NAME})\}})|g\{{?([1-9]\d?)\b\}}?)", re.ASCII
)
_OCTAL = re.compile(r"0[0-7]{0,2}|[1-3][0-7]{2}")
_FLAGS = re.compile(r"\?([is]*)(?:-([is]+))?([:)])")


def section_pattern(kind: str, arg: str) -> re.Pattern[bytes] | None:
    """What `search` decides for a section; None for an argument that is compared as it stands.

    A <Directory> is compared with its slash, and holds for all that begins with a match.
    Raises ValueError with the remedy.
    """
    if kind.endswith("Match"):
        text = translate(arg)
    elif not has_wild_cards(arg):
        return None
    else:
        text = r"\A" + translate_wild_cards(arg) + ("" if kind == "Directory" else r"\Z")
    try:
        return re.compile(text.encode("latin-1"), re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression that can be used here: {error}") from None


def canonical(directory: str) -> str:
    """The argument of a <Directory>: without `//`, `/./` and `/../`, with a slash at its end.

    mpmkit: httpd reads a relative one from the directory that it was started in; it is a ValueError.
    """
    if not directory.startswith("/"):
        raise ValueError("is no absolute path: write all of it, from its first slash")
    return normpath(directory).rstrip("/").replace("//", "/") + "/"


def has_wild_cards(text: str) -> bool:
    """Does it have `*`, `?` or `[...]`? (apr_fnmatch_test: only then a backslash means anything.)"""
    bare = re.sub(r"\\.", "", text, flags=re.DOTALL)
    return re.search(r"[*?]|\[.*\]", bare, re.DOTALL) is not None


def translate_wild_cards(text: str) -> str:
    """apr_fnmatch with APR_FNM_PATHNAME: nothing but a slash matches a slash."""
    text = _as_bytes(text)
    out, at = [], 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (found := _wild_class(text, at)) is not None:
            piece, at = found
            out.append(piece)
        else:
            if char == "\\" and at < len(text):
                char = text[at]
                at += 1
            out.append(_literal(char))
    return "".join(out)


def _wild_class(text: str, at: int) -> tuple[str, int] | None:
    """The class that opens before `at`, and where it ends; None: the bracket is an ordinary character."""
    negated = text[at : at + 1] in ("!", "^")
    at += negated
    start = at
    ranges: list[str] = []
    while at < len(text) and text[at] != "/":
        if text[at] == "]" and at > start:
            inside = "".join(ranges)
            if not inside:  # only ranges whose end is before their start
                return ("[^/]" if negated else "(?!)"), at + 1
            return f"(?!/)[{'^' * negated}{inside}]", at + 1
        low, at = _wild_char(text, at)
        high = low
        if text[at : at + 1] == "-" and text[at + 1 : at + 2] not in ("]", ""):
            high, at = _wild_char(text, at + 1)
        if not low or not high or high == "/":
            return None
        if low <= high:
            ranges.append(f"{_literal(low)}-{_literal(high)}")
    return None


def _wild_char(text: str, at: int) -> tuple[str, int]:
    at += text[at] == "\\"
    return text[at : at + 1], at + 1


def _as_bytes(text: str) -> str:
    """The bytes of a text, one character each."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _literal(char: str) -> str:
    return char if char.isascii() and (char.isalnum() or char in "/_") else f"\\x{ord(char):02x}"


def translate(pattern: str) -> str:
    """A regular expression of PCRE, with httpd's options (DOTALL, DOLLAR_ENDONLY), in Python's words.

    Raises ValueError for what Python has not.
    """
    return _Translation(_as_bytes(pattern)).text()


class _Translation:
    """One expression, read from the left."""

    def __init__(self, pattern: str) -> None:
        self.rest = pattern
        self.out: list[str] = []
        # For each open group, what a `(?i)` in it has opened and every `|` opens again: "" or "(?i:".
        self.scopes = [""]

    def text(self) -> str:
        while self.rest:
            char = self.rest[0]
            if char == "\\":
                self.out.append(self.escape())
            elif char == "[":
                self.out.append(self.char_class())
            elif char == "(":
                self.group()
            elif char in ")|":
                self.end_of_branch(char)
            elif char == "$":
                self.take(r"\Z")
            elif char == "{" and not _QUANTIFIER.match(self.rest):
                if self.rest.startswith("{,"):
                    raise self.no("{,")
                self.take(r"\{")
            elif char in "^.*+?{}":
                self.take(char)
            elif char == "," or char.isdigit():  # within a quantifier, too
                self.take(char)
            else:
                self.take(_literal(char))
        if len(self.scopes) > 1:
            raise ValueError("has an open parenthesis: close it, or write \\(")
        return "".join(self.out) + ")" * bool(self.scopes[0])

    def take(self, translated: str, length: int = 1) -> None:
        self.rest = self.rest[length:]
        self.out.append(translated)

    def no(self, what: str) -> ValueError:
        return ValueError(f'has "{what}", which cannot be used here: write it without')

    # -- groups -------------------------------------------------------------------------------

    def group(self) -> None:
        self.rest = self.rest[1:]
        if self.rest.startswith("*"):
            raise self.no("(*")
        if not self.rest.startswith("?"):
            self.open("(", 0)
        elif self.rest.startswith("?#"):
            self.rest = self.rest.partition(")")[2]
        elif named := _NAMED.match(self.rest):
            self.open(f"(?P<{named[1] or named[2]}>", named.end())
        elif self.rest.startswith(("?=", "?!", "?>")):
            self.open("(" + self.rest[:2], 2)
        elif self.rest.startswith(("?<=", "?<!")):
            self.open("(" + self.rest[:3], 3)
        elif back := re.match(rf"\?P=({_NAME})\)", self.rest, re.ASCII):
            self.take(f"(?P={back[1]})", back.end())
        elif flags := _FLAGS.match(self.rest):
            self.flags(flags)
        else:
            raise self.no("(" + self.rest[:2])

    def open(self, translated: str, length: int) -> None:
        self.take(translated, length)
        self.scopes.append("")

    def flags(self, found: re.Match[str]) -> None:
        """`(?i:x)`; or `(?i)`, which holds to the end of the group, for its later branches, too."""
        # What is switched off last is off: (?i-i) is as (?-i).
        on = "".join(sorted(set(found[1]) - set(found[2] or "")))
        off = "".join(sorted(set(found[2] or "")))
        start = f"(?{on}{'-' * bool(off)}{off}:"
        if found[3] == ":":
            self.open(start, found.end())
            return
        self.rest = self.rest[found.end() :]
        if self.scopes[-1]:
            raise self.no("(?" + found[1] + " twice in a group")
        self.scopes[-1] = start
        self.out.append(start)

    def end_of_branch(self, char: str) -> None:
        scope = self.scopes[-1]
        if char == ")":
            if len(self.scopes) == 1:
                raise ValueError("has a closing parenthesis too many: take it out, or write \\)")
            self.scopes.pop()
        again = scope if char == "|" else ""
        self.take(")" * bool(scope) + char + again)

    # -- characters ---------------------------------------------------------------------------

    def escape(self) -> str:
        """What a backslash begins, outside of a class."""
        self.rest = self.rest[1:]
        char, self.rest = self.rest[:1], self.rest[1:]
        if char == "Q":
            quoted, _, self.rest = self.rest.partition("\\E")
            return "".join(map(_literal, quoted))
        if char == "E":
            return ""
        if char in ("z", "Z"):
            return r"\Z" if char == "z" else r"(?=\n?\Z)"
        if char in ("A", "b", "B", *_SAME):
            return "\\" + char
        if char in ("h", "v", "H", "V"):
            return f"[{'^' * char.isupper()}{_CLASSES[char.lower()]}]"
        if char == "N":
            return r"[^\n]"
        if char == "R":
            return r"(?>\r\n|[\n-\r\x85])"
        if back := _BACK.match(char + self.rest):
            self.rest = (char + self.rest)[back.end() :]
            name = back[1] or back[2] or back[3]
            return f"(?P={name})" if name else f"(?:\\{back[4]})"
        if char in "123456789" and char and not _OCTAL.match(char + self.rest):
            if self.rest[:1].isdigit():
                raise self.no(f"\\{char}{self.rest[0]}")
            return f"(?:\\{char})"
        return _literal(chr(self.code(char)))

    def code(self, char: str) -> int:
        """The character that an escape stands for, in a class or outside."""
        if char in _CONTROL and char:
            return _CONTROL[char]
        if char == "x":
            found = re.match(r"\{([0-9A-Fa-f]{1,2})\}|([0-9A-Fa-f]{0,2})(?!\{)", self.rest)
            if found is None:
                raise self.no("\\x{")
            self.rest = self.rest[found.end() :]
            return int(found[1] or found[2] or "0", 16)
        if found := _OCTAL.match(char + self.rest):
            self.rest = (char + self.rest)[found.end() :]
            return int(found[0], 8)
        if not char or (char.isascii() and char.isalnum()):
            raise self.no("\\" + char)
        return ord(char)

    def char_class(self) -> str:
        self.rest = self.rest[1:]
        negated = self.rest.startswith("^")
        self.rest = self.rest[negated:]
        out: list[str] = []
        first = True
        while first or not self.rest.startswith("]"):
            if not self.rest:
                raise ValueError("has an open bracket: close it, or write \\[")
            first = False
            low = self.member(out)
            if low is None or self.rest[:1] != "-" or self.rest[1:2] in ("]", ""):
                if low is None and self.rest[:1] == "-" and self.rest[1:2] != "]":
                    raise self.no("a range that begins with a class")
                out += [] if low is None else [_literal(low)]
                continue
            self.rest = self.rest[1:]
            high = self.member(out)
            if high is None:
                raise self.no("a range that ends with a class")
            out.append(f"{_literal(low)}-{_literal(high)}")
        self.rest = self.rest[1:]
        return f"[{'^' * negated}{''.join(out)}]"

    def member(self, out: list[str]) -> str | None:
        """The next character of a class; None: it is a class of its own, which is added."""
        posix = re.match(r"\[:(\^?)([a-z]+):\]", self.rest)
        if posix:
            if posix[2] not in _POSIX:
                raise self.no(posix[0])
            self.rest = self.rest[posix.end() :]
            chars = _POSIX[posix[2]]
            if posix[1]:
                others = re.compile(f"[^{chars}]", re.ASCII)
                chars = "".join(_literal(c) for c in map(chr, range(256)) if others.match(c))
            out.append(chars)
            return None
        if re.match(r"\[[.=:]", self.rest):
            raise self.no(self.rest[:2])
        char, self.rest = self.rest[0], self.rest[1:]
        if char != "\\":
            return char
        char, self.rest = self.rest[:1], self.rest[1:]
        if char in _SAME and char:
            out.append("\\" + char)
            return None
        if char in ("h", "v"):
            out.append(_CLASSES[char] or "")
            return None
        if char == "b":
            return "\b"
        if char in ("Q", "E"):
            raise self.no("\\" + char)
        return chr(self.code(char))
