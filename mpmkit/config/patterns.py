"""The two languages of a section's argument: wild cards as APR reads them, regular expressions as PCRE.

Both are translated to Python's `re`, over bytes, as httpd compares bytes. What Python lacks, and what is
rare (`\\Q`, `\\h`, `\\R`, octal numbers, comments), is a ValueError: a rule that protects nothing is worse
than a server that does not start.
"""

import re
from posixpath import normpath

from mpmkit.config.values import encoded

_POSIX = {
    "alpha": r"a-zA-Z", "digit": r"0-9", "alnum": r"a-zA-Z0-9", "upper": r"A-Z", "lower": r"a-z",
    "space": r"\t-\r\x20", "blank": r"\t\x20", "punct": r"!-/:-@\[-`{-~", "print": r"\x20-~",
    "graph": r"!-~", "cntrl": r"\x00-\x1f\x7f", "xdigit": r"0-9A-Fa-f", "word": r"\w",
    "ascii": r"\x00-\x7f",
}  # fmt: skip
_ENDS = {"z": r"\Z", "Z": r"(?=\n?\Z)"}  # as Python writes them
_CONTROL = dict(zip("aefnrt", "\a\x1b\f\n\r\t", strict=True))
_NAME = r"[A-Za-z_]\w{0,31}"


def section_pattern(kind: str, arg: str) -> re.Pattern[bytes] | None:
    """What `search` decides for a section; None for an argument that is compared as it stands.

    A <Directory> is compared with its slash, and holds for all that begins with a match.
    Raises ValueError with the remedy."""
    if kind.endswith("Match"):
        text = _Translation(encoded(arg).decode("latin-1")).text()
    elif re.search(r"[*?]|\[.*\]", re.sub(r"(?s)\\.", "", arg), re.DOTALL):
        text = r"\A" + translate_wild_cards(arg) + ("" if kind == "Directory" else r"\Z")
    else:  # apr_fnmatch_test: without these, not even a backslash means anything
        return None
    try:
        return re.compile(text.encode("latin-1"), re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression that can be used here: {error}") from None


def canonical(directory: str) -> str:
    """The argument of a <Directory>: without `//`, `/./` and `/../`, with a slash at its end.

    mpmkit: httpd reads a relative one from the directory that it was started in; it is a ValueError."""
    if not directory.startswith("/"):
        raise ValueError("is no absolute path: write all of it, from its first slash")
    return normpath(directory).rstrip("/").replace("//", "/") + "/"


def translate_wild_cards(text: str) -> str:
    """apr_fnmatch with APR_FNM_PATHNAME: nothing but a slash matches a slash. Raises ValueError for a bracket
    that begins no class of letters, digits and dots."""
    out = []
    for negated, members, wild, char in _WILD.findall(encoded(text).decode("latin-1")):
        if members:
            out.append(f"(?!/)[{'^' * bool(negated)}{members}]")
        elif wild == "[":
            raise ValueError('has a "[" that begins no class such as [a-z] or [!0-9]: write \\[')
        else:
            out.append({"*": "[^/]*", "?": "[^/]"}.get(wild) or _literal(char))
    return "".join(out)


# A class, another sign that means something, or a character with or without a backslash.
_WILD = re.compile(r"\[([!^]?)((?:[\w.](?:-\w)?)+)\]|([*?[])|\\?(.)", re.ASCII | re.DOTALL)


def _literal(char: str) -> str:
    return char if char.isascii() and (char.isalnum() or char in "/_") else f"\\x{ord(char):02x}"


class _Translation:
    """A regular expression of PCRE, with httpd's options (DOTALL, DOLLAR_ENDONLY), in Python's words, read from
    the left. Raises ValueError for what Python has not."""

    def __init__(self, pattern: str) -> None:
        self.rest = pattern
        self.out: list[str] = []
        # For each open group, what a `(?i)` in it has opened and every `|` opens again: "" or "(?i:".
        self.scopes = [""]

    def take(self, pattern: str) -> re.Match[str] | None:
        """What the rest begins with, which is then read."""
        found = re.match(pattern, self.rest, re.ASCII | re.DOTALL)
        self.rest = self.rest[found.end() :] if found else self.rest
        return found

    def text(self) -> str:
        while self.rest:
            # Numbers and commas may be within a quantifier.
            if found := self.take(r"[.*+?,}0-9^]|\{(?=\d+(,\d*)?\})"):
                self.out.append(found[0])
            elif self.take(r"\\"):
                self.out.append(self.escape())
            elif self.take(r"\["):
                self.out.append(self.char_class())
            elif self.take(r"\("):
                self.group()
            elif found := self.take(r"[)|]"):
                self.end_of_branch(found[0])
            elif self.take(r"\$"):
                self.out.append(r"\Z")
            elif self.take(r"\{,"):
                raise self.no("{,")
            else:
                self.out.append(_literal(self.rest[0]))
                self.rest = self.rest[1:]
        if len(self.scopes) > 1:
            raise ValueError("has an open parenthesis: close it, or write \\(")
        return "".join(self.out) + ")" * bool(self.scopes[0])

    def no(self, what: str) -> ValueError:
        return ValueError(f'has "{what}", which cannot be used here: write it without')

    # -- groups -------------------------------------------------------------------------------

    def group(self) -> None:
        if named := self.take(rf"\?P?<({_NAME})>"):
            self.open(f"(?P<{named[1]}>")
        elif look := self.take(r"\?(?:[=!>]|<[=!])"):
            self.open(f"({look[0]}")
        elif flags := self.take(r"\?([is]*)(?:-([is]+))?([:)])"):
            self.flags(*flags.groups(default=""))
        elif self.rest[:1] in ("?", "*"):
            raise self.no("(" + self.rest[:2])
        else:
            self.open("(")

    def open(self, translated: str) -> None:
        self.out.append(translated)
        self.scopes.append("")

    def flags(self, on: str, off: str, end: str) -> None:
        """`(?i:x)`; or `(?i)`, which holds to the end of the group, for its later branches, too."""
        # What is switched off last is off: (?i-i) is as (?-i).
        kept, gone = ("".join(sorted(flags)) for flags in (set(on) - set(off), set(off)))
        start = f"(?{kept}{'-' * bool(gone)}{gone}:"
        if end == ":":
            self.open(start)
            return
        if self.scopes[-1]:
            raise self.no(f"(?{on} twice in a group")
        self.scopes[-1] = start
        self.out.append(start)

    def end_of_branch(self, char: str) -> None:
        scope = self.scopes.pop() if char == ")" else self.scopes[-1]
        if not self.scopes:
            raise ValueError("has a closing parenthesis too many: take it out, or write \\)")
        self.out.append(")" * bool(scope) + char + (scope if char == "|" else ""))

    # -- characters ---------------------------------------------------------------------------

    def escape(self) -> str:
        """What a backslash begins, outside of a class."""
        if found := self.take("[zZAbBdDwWsS]"):
            return _ENDS.get(found[0], f"\\{found[0]}")
        if back := self.take(r"[1-9](?!\d)"):
            return f"(?:\\{back[0]})"
        return _literal(self.code())

    def code(self) -> str:
        """The character that an escape stands for, in a class or outside."""
        if found := self.take(r"x(?:\{([0-9A-Fa-f]{1,2})\}|([0-9A-Fa-f]{0,2})(?!\{))"):
            return chr(int(found[1] or found[2] or "0", 16))
        if found := self.take("[aefnrt]"):
            return _CONTROL[found[0]]
        if found := self.take("[^a-zA-Z0-9]"):
            return found[0]
        raise self.no("\\" + self.rest[:2])

    def char_class(self) -> str:
        out = "[^" if self.take(r"\^") else "["
        while True:
            if not self.rest:
                raise ValueError("has an open bracket: close it, or write \\[")
            member, single = self.member()
            out += member
            if self.take(r"-(?=[^]])"):
                high, also_single = self.member()
                if not (single and also_single):
                    raise self.no("a range that begins or ends with a class")
                out += f"-{high}"
            if self.take(r"\]"):
                return f"{out}]"

    def member(self) -> tuple[str, bool]:
        """What is next in a class; and is it a single character, not a class of its own?"""
        if posix := self.take(r"\[:([a-z]+):\]"):
            if posix[1] not in _POSIX:
                raise self.no(posix[0])
            return _POSIX[posix[1]], False
        if unknown := self.take(r"\[[.=:]"):
            raise self.no(unknown[0])
        if char := self.take(r"[^\\]"):
            return _literal(char[0]), True
        self.take(r"\\")
        if found := self.take("[dDwWsS]"):
            return f"\\{found[0]}", False
        return _literal("\b" if self.take("b") else self.code()), True
