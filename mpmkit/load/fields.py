"""One description of each field of a load; checks, documentation, options and forms are made from it.

The functions `text`, `whole`, `number`, `choice`, `switch` and `several` make a dataclass field whose
``metadata`` has always the same keys:

=========== ====================================================================================
kind        "text", "whole", "number", "choice", "switch" or "list"
help        what the field means, without its range and its default
low, high   the range of a number, both ends included; None for other kinds
unit        of a number: "seconds", "requests/s", "bytes/s", "bytes", "users", ... or ""
choices     the words of a choice, () for other kinds
none        what None stands for ("any", "no limit"), "-" where it has no name; "" where None is refused
loop        "closed" or "open" for a field that only this kind of loop has, "" for both
like        of a text: (regular expression, what a text must do); None for other kinds
=========== ====================================================================================
"""

import dataclasses
import re
import textwrap
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

# What a field of a kind is given after its default, in this order; the other keys by name.
_GIVEN = {
    "text": ("help",), "whole": ("low", "high", "help"), "number": ("low", "high", "unit", "help"),
    "choice": ("choices", "help"), "switch": ("help",), "list": ("help",),
}  # fmt: skip


def _field(kind: str, default: Any, *given: Any, **more: Any) -> Any:
    how: dict[str, Any] = dict.fromkeys(("low", "high", "like")) | {"choices": ()}
    how |= dict.fromkeys(("unit", "none", "loop"), "") | {"kind": kind}
    how |= dict(zip(_GIVEN[kind], given, strict=True)) | more
    return dataclasses.field(default=default, metadata=how)


whole, number = partial(_field, "whole"), partial(_field, "number")
choice, switch = partial(_field, "choice"), partial(_field, "switch")
text = partial(_field, "text", like=("(?s).*", "be text"))
several = partial(_field, "list", ())  # a tuple, which its owner checks


def problem(how: Mapping[str, Any], value: Any) -> str:
    """What is wrong with the value of a field that is described so, as "must be ..., not ...", or ""."""
    kind = how["kind"]
    if kind == "list" or (value is None and how["none"]):
        return ""
    if kind == "text":
        pattern, must = how["like"]
        good = isinstance(value, str) and bool(re.fullmatch(pattern, value))
    elif kind == "choice":
        good, must = value in how["choices"], f"be one of {', '.join(how['choices'])}"
    elif kind == "switch":
        good, must = isinstance(value, bool), "be True or False"
    else:
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        good = real and how["low"] <= value <= how["high"]  # which NaN is not
        must = f"be {_range(how)}"
        if kind == "whole":
            good, must = good and isinstance(value, int), f"be a whole number from {_range(how)}"
    return "" if good else f"must {must}, not {value!r}"


def problems_of(made: Any, where: str = "", loop: str = "") -> Iterator[str]:
    """What is wrong with the fields of a dataclass, as "name: must be ...", after `where`. loop: it belongs to
    this kind of loop, and has no field of the other."""
    for field in dataclasses.fields(made):
        value, of = getattr(made, field.name), field.metadata["loop"]
        if loop and of and of != loop:
            wrong = "" if value == field.default else f"only the {of} loop has it; leave it"
        else:
            wrong = problem(field.metadata, value)
        if wrong:
            yield f"{where}{field.name}: {wrong}"


def described(field: dataclasses.Field) -> str:
    """What a field means, its range and its default, in one line: for help and documentation."""
    how, default = field.metadata, field.default
    facts = [_range(how) if how["kind"] in ("whole", "number") else ", ".join(how["choices"])]
    if default is None and how["none"] != "-":
        facts.append(f"default: {how['none']}")
    elif isinstance(default, bool):
        facts.append(f"default: {'yes' if default else 'no'}")
    elif default not in (None, "", ()):
        facts.append(f"default: {default}".removesuffix(".0"))
    said = "; ".join(filter(None, facts))
    return f"{how['help']} ({said})" if said else how["help"]


def _range(how: Any) -> str:
    return f"{how['low']:,.15g} to {how['high']:,.15g} {how['unit']}".rstrip()


def documented(kind: type) -> str:
    """The fields of a dataclass, one paragraph each: a section of its docstring."""
    fill = textwrap.TextWrapper(100, initial_indent="    ", subsequent_indent="        ").fill
    return "\n".join(fill(f"{one.name}: {described(one)}") for one in dataclasses.fields(kind))


def option(field: dataclasses.Field) -> dict[str, Any] | None:
    """What argparse's `add_argument` needs for a field; None for what an option cannot say. Its default is None:
    an option that is not given changes nothing."""
    how = field.metadata
    made: dict[str, Any] = {"help": described(field).replace("%", "%%"), "default": None}
    seconds = "S" if how["unit"] == "seconds" else "N"
    more: dict[str, dict[str, Any]] = {
        "choice": {"choices": how["choices"]}, "switch": {"action": "store_const", "const": True},
        "text": {"metavar": "TEXT"}, "whole": {"type": int, "metavar": seconds},
        "number": {"type": float, "metavar": seconds},
    }  # fmt: skip
    return made | more[how["kind"]] if how["kind"] in more else None


def listed(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """For an option that takes several as a,b. Raises ArgumentTypeError."""

    def read(text: str) -> list[T]:
        try:
            return [kind(part) for part in map(str.strip, text.split(",")) if part]
        except ValueError:
            raise ArgumentTypeError(f"must be numbers like 0,50,100, not {text!r}") from None

    return read


def read_share(text: str) -> float:
    """A share written as 0.3 or 30%. Raises ArgumentTypeError."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise ArgumentTypeError(f"must be a share like 30%, not {text!r}") from None
