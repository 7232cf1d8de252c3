"""One line of the comparison with httpd, and what becomes of it.

same          both did the same
on purpose    they differ, and tests/data/fidelity/on_purpose.txt says why
unexplained   they differ for no reason that is known: a bug of ours, until shown otherwise
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parents[1] / "data" / "fidelity"
REASONS = DATA / "on_purpose.txt"
SAME, PURPOSE, UNEXPLAINED = VERDICTS = ("same", "on purpose", "unexplained")


def _reasons() -> dict[str, str]:
    """The reason of each pattern: the next lines that begin with blanks."""
    found: dict[str, str] = {}
    of: list[str] = []
    for line in filter(None, REASONS.read_text(encoding="utf-8").splitlines()):
        if line.startswith(" "):
            found.update(
                (pattern, f"{found.get(pattern, '')} {line.strip()}".strip()) for pattern in of
            )
        elif not line.startswith("#"):
            if not of or of[-1] in found:
                of = []
            of.append(line)
    return found


ON_PURPOSE = _reasons()


class Row(NamedTuple):
    """What both did with one case. The texts are equal if and only if they did the same."""

    area: str
    case: str
    httpd: str
    mpmkit: str

    @property
    def pattern(self) -> str | None:
        """The first entry of ON_PURPOSE that fits."""
        key = f"{self.area}/{self.case}"
        return next((pattern for pattern in ON_PURPOSE if fnmatchcase(key, pattern)), None)

    @property
    def verdict(self) -> str:
        if self.httpd == self.mpmkit:
            return SAME
        return PURPOSE if self.pattern else UNEXPLAINED


def unexplained(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.verdict == UNEXPLAINED]


def idle_reasons(rows: Sequence[Row]) -> list[str]:
    """Patterns that explain nothing any more, in the areas that were compared."""
    areas = {row.area for row in rows}
    used = {row.pattern for row in rows if row.verdict == PURPOSE}
    return [one for one in ON_PURPOSE if one.partition("/")[0] in areas and one not in used]


def counted(rows: Iterable[Row]) -> Counter[str]:
    return Counter(row.verdict for row in rows)


def report(rows: Sequence[Row]) -> str:
    """The text for a terminal: the counts, then everything that is not explained."""
    numbers = counted(rows)
    lines = [", ".join(f"{numbers[kind]} {kind}" for kind in VERDICTS)]
    for row in unexplained(rows):
        lines.append(f"unexplained: {row.area}: {row.case}")
        lines += [f"    httpd   {row.httpd}", f"    mpmkit  {row.mpmkit}"]
    for pattern in idle_reasons(rows):
        lines.append(f"{REASONS.name} explains {pattern}, which does not differ any more")
    return "\n".join(lines)


def grouped(said: Iterable[tuple[str, str]], between: str = "; ") -> str:
    """What several did, as `name name: this; name: that`; only `this` where all did the same."""
    names: dict[str, list[str]] = {}
    for name, what in said:
        names.setdefault(what, []).append(name)
    if len(names) == 1:
        return next(iter(names))
    return between.join(f"{' '.join(those)}: {what}" for what, those in names.items())


def joined(area: str, case: str, said: Sequence[tuple[str, Sequence[str]]]) -> Row:
    """One row of what both did under several MPMs."""
    return Row(area, case, *(grouped((mpm, both[side]) for mpm, both in said) for side in (0, 1)))


def block(head: str, *lines: str) -> str:
    """A section of a file: `<head>`, its lines, and its end."""
    return "\n".join([f"<{head}>", *lines, f"</{head.split()[0]}>"])


def tree(where: Path, files: Mapping[str, str]) -> Path:
    """A folder with these files, all of the same old time."""
    for name, text in files.items():
        file = where / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.utime(file, (1704164645, 1704164645))  # Tue, 02 Jan 2024 03:04:05 GMT
    return where


def tables(name: str) -> dict[str, list[str]]:
    """Of a file in DATA: under each `[title]` its lines, a line that begins with a blank joined to the one
    before. `# ` begins a comment."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in (DATA / name).read_text(encoding="utf-8").splitlines():
        if title := re.fullmatch(r"\[(\w[\w ]*)\]", line):
            lines = found.setdefault(title[1], [])
        elif line.startswith(" "):
            lines[-1] += f" {line.strip()}"
        elif line and not line.startswith("# "):
            lines.append(line)
    return found


def placed(
    cases: Iterable[tuple[str, str]], root: Path, **more: str
) -> Iterator[tuple[str, str, str]]:
    """(name, tag, text) of each case whose text speaks of a directory of its own: `{d}` is `root`/tag,
    `{u}` its URL path, `{k}` the tag; `more`, too, are beginnings of such a path."""
    for number, (name, text) in enumerate(cases):
        tag = f"k{number:04d}"
        places = {key: f"{start}/{tag}" for key, start in {"d": str(root), "u": "", **more}.items()}
        for key, value in {**places, "k": tag}.items():
            text = text.replace(f"{{{key}}}", value)
        yield name, tag, text
