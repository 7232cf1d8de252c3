"""The two languages of a section's argument: wild cards as APR reads them, regular expressions as PCRE.

Both are translated to Python's `re`, over bytes, as httpd compares bytes. What Python lacks, and what is rare
(`\\Q`, `\\h`, octal numbers), is a ValueError: a rule that protects nothing is worse than no start.
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
_CONTROL = dict(zip("abefnrt", "\a\b\x1b\f\n\r\t", strict=True))
_CODE = r"\\(?:x(?:\{[0-9A-Fa-f]{1,2}\}|(?!\{)[0-9A-Fa-f]{0,2})|[aefnrt]|[^a-zA-Z0-9])"
# What PCRE may have next, outside of a class and in one.
_TOKEN = re.compile(
    # Numbers and commas may be within a quantifier.
    r"(?P<same>[.*+?,}0-9^]|\{(?=\d+(?:,\d*)?\})|\\[AbBdDwWsS])|(?P<end>\$|\\[zZ])"
    rf"|(?P<code>{_CODE})|\\(?P<back>[1-9])(?!\d)|(?P<bracket>\[\^?)|(?P<branch>[)|])"
    r"|\((?:\?P?<(?P<name>[A-Za-z_]\w{0,31})>|(?P<look>\?(?:[=!>]|<[=!]))"
    r"|(?P<flags>\?(?P<on>[is]*)(?:-(?P<off>[is]+))?[:)])|(?P<group>)(?![?*]))"
    r"|(?P<char>[^\\({]|\{(?!,))",
    re.ASCII | re.DOTALL,
)
_MEMBER = re.compile(
    rf"(?P<posix>\[:[a-z]+:\])|(?P<same>\\[dDwWsS])|(?P<code>\\b|{_CODE})|(?!\[[.=:])[^\\]",
    re.ASCII | re.DOTALL,
)


def section_pattern(kind: str, arg: str) -> re.Pattern[bytes] | None:
    """What `search` decides for a section; None for an argument that is compared as it stands. Raises ValueError.
    A <Directory> is compared with its slash, and holds for all that begins with a match."""
    if kind.endswith("Match"):
        text = _translated(encoded(arg).decode("latin-1"))
    elif re.search(r"[*?]|\[.*\]", re.sub(r"(?s)\\.", "", arg), re.DOTALL):
        text = r"\A" + translate_wild_cards(arg) + ("" if kind == "Directory" else r"\Z")
    else:  # apr_fnmatch_test: without these, not even a backslash means anything
        return None
    try:
        return re.compile(text.encode("latin-1"), re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression that can be used here: {error}") from None


def canonical(directory: str) -> str:
    """A <Directory>'s argument without `//`, `/./`, `/../`, with a last slash. mpmkit: ValueError if relative."""
    if not directory.startswith("/"):
        raise ValueError("is no absolute path: write all of it, from its first slash")
    return normpath(directory).rstrip("/").replace("//", "/") + "/"


def translate_wild_cards(text: str) -> str:
    """apr_fnmatch with APR_FNM_PATHNAME: only a slash matches a slash. Raises ValueError for an odd bracket."""
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


def _translated(pattern: str) -> str:
    """A PCRE, with httpd's options (DOTALL, DOLLAR_ENDONLY), for Python. Raises ValueError for what it lacks."""
    out: list[str] = []
    # For each open group, what a `(?i)` in it has opened and every `|` opens again: "" or "(?i:".
    scopes = [""]
    at = 0
    while at < len(pattern):
        found = _TOKEN.match(pattern, at)
        if found is None or found.lastgroup is None:
            raise _no(pattern[at : at + 3])
        at, text = found.end(), found[found.lastgroup]
        match found.lastgroup:
            case "same":
                out.append(text)
            case "end":
                out.append(r"(?=\n?\Z)" if text == r"\Z" else r"\Z")
            case "back":
                out.append(rf"(?:\{text})")
            case "char" | "code":
                out.append(_literal(text))
            case "bracket":
                members, at = _members(pattern, at)
                out.append(text + members)
            case "branch":
                scope = scopes.pop() if text == ")" else scopes[-1]
                if not scopes:
                    why = "has a closing parenthesis too many: take it out, or write \\)"
                    raise ValueError(why)
                out.append(")" * bool(scope) + text + (scope if text == "|" else ""))
            case "flags":
                # `(?i:x)`; or `(?i)`, which holds to the end of the group, for its later branches, too.
                # What is switched off last is off: (?i-i) is as (?-i).
                gone = "".join(sorted(set(found["off"] or "")))
                kept = "".join(sorted({*found["on"]} - {*gone}))
                out.append(f"(?{kept}{'-' * bool(gone)}{gone}:")
                if text.endswith(":"):
                    scopes.append("")
                elif scopes[-1]:
                    raise _no(f"(?{found['on']} twice in a group")
                else:
                    scopes[-1] = out[-1]
            case kind:
                out.append(f"(?P<{text}>" if kind == "name" else f"({text}")
                scopes.append("")
    if len(scopes) > 1:
        raise ValueError("has an open parenthesis: close it, or write \\(")
    return "".join(out) + ")" * bool(scopes[0])


def _members(pattern: str, at: int) -> tuple[str, int]:
    """The members of a class that begin at `at`, with the bracket behind them, and where that ends."""

    def member(at: int) -> tuple[str, bool, int]:
        """In Python's words; is it a single character, not a class of its own; and its end."""
        found = _MEMBER.match(pattern, at)
        if at == len(pattern):
            raise ValueError("has an open bracket: close it, or write \\[")
        if found is None or (found["posix"] and found[0][2:-2] not in _POSIX):
            raise _no(found[0] if found else pattern[at : at + 3])
        if found["posix"] or found["same"]:
            return _POSIX.get(found[0][2:-2], found[0]), False, found.end()
        return _literal(found[0]), True, found.end()

    out = ""
    while True:
        low, single, at = member(at)
        out += low
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("", "]"):
            high, also_single, at = member(at + 1)
            if not (single and also_single):
                raise _no("a range that begins or ends with a class")
            out += f"-{high}"
        if pattern.startswith("]", at):
            return f"{out}]", at + 1


def _literal(char: str) -> str:
    """A character, or its escape: `\\x41`, `\\x{41}`, `\\n`, `\\.`"""
    if char[1:2] == "x":
        char = chr(int(char[2:].strip("{}") or "0", 16))
    elif len(char) > 1:
        char = _CONTROL.get(char[1], char[1])
    return char if char.isascii() and (char.isalnum() or char in "/_") else f"\\x{ord(char):02x}"


def _no(what: str) -> ValueError:
    return ValueError(f'has "{what}", which cannot be used here: write it without')
