"""Shared by the experiments' command lines: options, checks, where rows are kept, tables as text, exit status."""

import argparse
import math
import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

from mpmkit.config.arguments import Parser
from mpmkit.load.fields import listed, problem
from mpmkit.measure.experiment import Bar, ExperimentError, Names, T
from mpmkit.measure.records import RecordError

S = TypeVar("S")

Chosen = tuple[str, ...]
SCALE_NAMES = ("smoke", "demo", "full")


class Problems(list[str]):
    """The mistakes in an experiment's arguments, reported all at once."""

    def raise_any(self, separator: str = "; ") -> None:
        """Raise ValueError with all of them, each once, if there are any."""
        if self:
            raise ValueError(separator.join(dict.fromkeys(self)))

    def chosen(self, name: str, asked: Names, among: Iterable[str], least: int = 1) -> Chosen:
        """Those of `among` that were asked for, in its order; "all", of two also "both", is each."""
        allowed, values = tuple(among), (asked,) if isinstance(asked, str) else tuple(asked)
        if values == ("all",) or (values, len(allowed)) == (("both",), 2):
            return allowed
        wrong = [value for value in values if value not in allowed]
        self += [f"{name}: {value!r} is not one of {', '.join(allowed)}" for value in wrong]
        if len(values) < least:
            self.append(f"{name}: give at least one of {', '.join(allowed)}")
        return tuple(value for value in allowed if value in values)

    def numbers(self, name: str, given: Any, low: float, high: float, kind: str = "number") -> None:
        """A number, or several, within bounds; None: the scale says it. kind: "number" or "whole"."""
        how = {"kind": kind, "low": low, "high": high, "unit": "", "none": ""}
        values = given if isinstance(given, list | tuple) else [given] * (given is not None)
        self += [f"{name}: {wrong}" for value in values if (wrong := problem(how, value))]

    def scale(self, name: str | None, scales: Mapping[str, S], *by_hand: Any) -> tuple[str, S]:
        """A scale by its name, by default that of MPMKIT_SCALE or else demo; "custom": sizes were given."""
        chosen = name or os.environ.get("MPMKIT_SCALE") or "demo"
        if chosen not in scales:
            where = "scale" if name else "MPMKIT_SCALE"
            self.append(f"{where}: {chosen!r} is not one of {', '.join(scales)}")
        size = scales.get(chosen, scales["demo"])
        return "custom" if any(one is not None for one in by_hand) else chosen, size


words = listed(str)  # of an option that takes several as a,b


def directive(text: str) -> tuple[str, str]:
    """Name and value of a -c."""
    name, _, value = text.strip().partition(" ")
    if not value.strip():
        problem = f"{text!r}: write a directive and its value, -c 'Timeout 5'"
        raise argparse.ArgumentTypeError(problem)
    return name, value.strip()


# annotation of a parameter -> its option
_READ: tuple[tuple[Any, dict[str, Any]], ...] = (
    (bool, {"action": "store_true", "default": None}), (int, {"type": int, "metavar": "N"}),
    (float, {"type": float, "metavar": "X"}), (str, {}), (str | os.PathLike[str], {"metavar": "DIR"}),
    (Names, {"action": "extend", "type": words, "metavar": "A,B"}),
    (Iterable[int], {"type": listed(int), "metavar": "N,N"}),
    (Iterable[float], {"type": listed(float), "metavar": "X,X"}),
    (Mapping[str, Any], {"action": "append", "type": directive, "metavar": "'Name value'"}),
)  # fmt: skip
OUT: dict[str, Any] = {
    "metavar": "FILE.csv", "help": "append the rows to this file. Without it they are kept in data/runs of the "
    "checkout that mpmkit runs from; an installed mpmkit keeps no rows then",
}  # fmt: skip


def parser(name: str, measure: Callable[..., Any], options: str, epilog: str = "") -> Parser:
    """The command line of an experiment's function: --out, and options of these names. An option is for the
    parameter that begins with its name, is read as that is annotated, and its help is the docstring's: the first
    paragraph says what the command does, the second what each parameter is."""
    what, says, *_ = (measure.__doc__ or "\n\n").replace("%", "%%").split("\n\n")
    made = Parser(prog=name, description=what, epilog=epilog)
    parameters = signature(measure).parameters
    _, *parts = re.split(rf"\b({'|'.join(parameters)}): ", " ".join(says.split()))
    helps = dict(zip(parts[::2], parts[1::2], strict=True))
    for option in options.split():
        one = next(n for n in parameters if n.startswith(option.replace("-", "_")))
        how = next(how for kind, how in _READ if parameters[one].annotation in (kind, kind | None))
        short = ["-c"] * (option == "directive")
        said = helps.get(one, "").strip(". ")  # python -OO has no docstrings
        made.add_argument(*short, f"--{option}", dest=one, help=said, **how)
    made.add_argument("--out", **OUT)
    return made


def out_of(options: argparse.Namespace, name: str) -> Path | None:
    """The file of --out. Without it a file of that name in data/runs of the checkout that mpmkit runs from;
    None if it is installed, or the folder cannot be written."""
    folder = Path(__file__).resolve().parents[2] / "data" / "runs"
    default = folder / f"{name}.csv" if os.access(folder, os.W_OK) else None
    return Path(options.out) if options.out else default


def say(text: str) -> None:
    """Lines on standard error, with the program's name."""
    for line in text.splitlines():
        print(f"mpmkit: {line}", file=sys.stderr, flush=True)


def known(value: float | None, form: str) -> str:
    """A figure in a table; "-" where it is not known (None, NaN)."""
    return "-" if value is None or math.isnan(value) else f"{value:{form}}"


def aligned(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> list[str]:
    """A line for each row, in columns of one width each, two blanks between them. `left` are those (from 0) that
    begin at their left edge, as words do; the others end at their right, as numbers do. Raises ValueError if
    the rows have not as many cells each.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def measured(options: Any, measure: Callable[..., T], **more: Any) -> tuple[int, T | None]:
    """Call an experiment's function with what was asked on the command line, and `more`: the table is printed on
    standard output, progress and errors on standard error. Gives what `execute` gives."""
    asked = {name: value for name, value in vars(options).items() if value is not None}
    asked |= {"out": partial(out_of, options), "say": say, **more}
    return execute(lambda bar: measure(**asked, on_progress=bar))


# what ends a command -> its exit status
_STATUS: dict[type[BaseException], int] = {
    KeyboardInterrupt: 130, ExperimentError: 1, RecordError: 1, ValueError: 2
}  # fmt: skip


def execute(measure: Callable[[Bar], T]) -> tuple[int, T | None]:
    """Measure, print the table; the exit status and the table, None if nothing was started.

    0: measured. 1: something failed on the way. 2: a bad argument. 130: Ctrl-C. After 1 and 130 the rows
    until then are kept and printed.
    """
    table: T | None = None
    status = 0
    try:
        with closing(Bar()) as bar:
            table = measure(bar)
    except tuple(_STATUS) as error:
        status = next(_STATUS[kind] for kind in _STATUS if isinstance(error, kind))
        table = getattr(error, "table", None)
        say((str(error) or "interrupted") + (table.again if table else ""))
    if table is not None and (table.records or status == 0):
        print(table.text(), flush=True)
    return status, table
