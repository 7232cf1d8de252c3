"""Settings from Python values: what `launch("event", ThreadsPerChild=8)` means as lines of a file."""

from typing import Any

from mpmkit.config.directives import spec_for
from mpmkit.config.settings import DirectiveError, Setting, Spec, split_words


def from_keywords(mpm: str | None, **directives: Any) -> tuple[Setting, ...]:
    """Settings from Python values: ``from_keywords("event", ThreadsPerChild=8, KeepAlive=False)``.

    A bool is On or Off, a number is a number (KeepAliveTimeout=0.5 becomes 500ms), a path is its name, None is
    no line.  A string is one argument, or is split like a line if the directive takes several.  A tuple is the
    arguments of one line; a list is several lines::

        Listen=["127.0.0.1:8080", 8081], AddHandler=("cgi-script", ".cgi", ".py")

    ``mpm`` may be None if a file will choose it; `check` then finds a name of another MPM. Raises DirectiveError
    for an unknown name or a value that has no written form."""
    settings, problems = [], []
    for name, value in directives.items():
        try:
            spec = spec_for(name, mpm)
            lines = value if isinstance(value, list) else [value]
            for line in (one for one in lines if one is not None):
                line = split_words(line) if isinstance(line, str) and spec.args != (1, 1) else line
                parts = line if isinstance(line, tuple) else (line,)
                settings.append(Setting(spec.name, tuple(_word(spec, part) for part in parts)))
        except ValueError as error:
            problems.append(DirectiveError(str(error), directive=name))
    if problems:
        raise DirectiveError.of(problems)
    return tuple(settings)


def _word(spec: Spec, value: Any) -> str:
    if isinstance(value, bool):
        if spec.takes == "number":
            raise ValueError(f"{spec.name} takes a number, not {value}")
        return "On" if value else "Off"
    if isinstance(value, float) and spec.takes in ("number", "time"):
        if spec.takes == "time" and not value.is_integer() and 0 <= value < 1e9:
            return f"{round(value * 1000)}ms"
        if not value.is_integer():
            raise ValueError(f"{spec.name} takes a whole number, not {value}")
        value = int(value)
    # __index__: int, and the integers of numpy and pandas
    value = int(value) if hasattr(value, "__index__") else value
    value = value.__fspath__() if hasattr(value, "__fspath__") else value
    if isinstance(value, (str, int, float)):
        return str(value)
    raise ValueError(f"{spec.name} cannot be {value!r}: use a string or a number")
