"""Both servers' verdicts on the same httpd.conf lines: accepted, corrected with which warning, refused.

Each directive that mpmkit knows is written with the values of tests/data/fidelity/directives.txt, at and
beyond its bounds. httpd is asked by `-t`; ours by the functions that its `-t` calls. Defaults are
compared with those that httpd's documentation states, which are the compiled ones.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpmkit.cli.configuration import validate_environment
from mpmkit.config.checks import check
from mpmkit.config.directives import MPMS, ROWS, DirectiveError, Spec
from mpmkit.config.httpd_conf import Source, read
from mpmkit.measure.reference_servers import find_httpd
from tests.fidelity.cases import Row, block, tables
from tests.fidelity.server_pair import POOLS, conf_text

TABLES = tables("directives.txt")


def _values(title: str) -> dict[str, tuple[str, ...]]:
    words = (line.replace(r"\n", "\n").split(" | ") for line in TABLES[title])
    return {name: tuple(values) for name, *values in words}


KINDS, MORE, INSTEAD = _values("kinds"), _values("more"), _values("instead")
DEFAULTS = dict(line.split(" | ") for line in TABLES["defaults"])
ADDRESSES = " | ".join(TABLES["addresses"]).split(" | ")
_ORIGINS = ("from", "all", "from all", "From ALL", "from env=x", "from env=!x", "from example.org 10.1",
            "from 1e3", *(f"from {one}" for one in ADDRESSES))  # fmt: skip
INSTEAD |= {"Allow": _ORIGINS, "Deny": _ORIGINS[:19]}
INSTEAD["Require"] += (
    *(f"ip {one}" for one in ADDRESSES),
    *("all granted\n" + lines.replace(r"\n", "\n") for lines in TABLES["groups"]),
)
SAMPLE_ONLY = {"WSGIScriptAlias", "ImmortalObjects"}  # not httpd's own

# Modules that are loaded for their own directives only.
EXTRA_MODULES = ("ssl", "proxy", "access_compat", "allowmethods")


def values_for(spec: Spec) -> tuple[str, ...]:
    """What a directive is tried with. "" is no value at all."""
    if spec.name in INSTEAD:
        return "", *INSTEAD[spec.name]
    if spec.takes == "time-out":
        return ()
    kind = KINDS.get(spec.takes, ("x",)) if spec.takes else ()
    return "", *kind, *MORE.get(spec.name, ())


def cases(only: Iterable[str] = ()) -> list[tuple[Spec, str, str]]:
    """(directive, value, MPM): an MPM's own directives under each MPM, the others under event."""
    wanted = {name.lower() for name in only}
    return [
        (spec, value, mpm)
        for spec in ROWS
        if spec.name not in SAMPLE_ONLY and (not wanted or spec.name.lower() in wanted)
        for value in values_for(spec)
        for mpm in (MPMS if spec.source == "mpm" else ("event",))
    ]


def theirs(file: Path) -> str:
    """httpd's verdict: `ok`, `ok AH00184 …`, or `refused`."""
    command = [find_httpd(), "-t", "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return "refused" if done.returncode else _ok(done.stdout + done.stderr)


def ours(text: str) -> str:
    """Our verdict on the same text, in the same words."""
    try:
        conf = read(Source(text=text))
        assert conf.mpm is not None
        directives, notes = check(conf.mpm, conf.settings, conf.sections, problems=conf.problems)
        validate_environment(directives, conf.settings)
    except DirectiveError:
        return "refused"
    said = [note for note in (*conf.notes, *notes) if note.level in ("warn", "error")]
    return _ok(" ".join(map(str, said)))


def _ok(text: str) -> str:
    return " ".join(["ok", *re.findall(r"AH\d{5}", text)])


def rows(pages: Path, only: Iterable[str] = ()) -> list[Row]:
    """One row a directive: how many values were tried, and those on which the two disagree."""
    tried = cases(only)
    with tempfile.TemporaryDirectory(prefix="mpmkit-conf-") as where:
        root = Path(where)
        (root / "mime.types").write_text("text/plain txt\n")

        def judge(number: int, case: tuple[Spec, str, str]) -> tuple[str, str]:
            spec, value, mpm = case
            line = f"{spec.name} {value}".rstrip()
            if spec.where == "section":
                line = block('Directory "/tmp"', line)
            own = spec.source.removeprefix("mod_")
            more = [own] * (own in EXTRA_MODULES) + ["ssl"] * value.startswith("ssl")
            file = root / f"{number}.conf"
            file.write_text(conf_text(mpm, root, 8097, pages, POOLS[mpm], line, more))
            return theirs(file), ours(file.read_text())

        with ThreadPoolExecutor(4) as pool:
            verdicts = list(pool.map(judge, range(len(tried)), tried))
    found: dict[str, list[tuple[str, str, str]]] = {}
    for (spec, value, mpm), both in zip(tried, verdicts, strict=True):
        under = f" ({mpm})" if spec.source == "mpm" else ""
        found.setdefault(spec.name, []).append((f"`{value or '(none)'}`{under}", *both))
    return [
        Row(
            "directive",
            name,
            *("; ".join([f"{len(lines)} lines", *words]) for words in apart(lines)),
        )
        for name, lines in found.items()
    ]


def apart(lines: list[tuple[str, str, str]]) -> list[list[str]]:
    """What each of the two says of the values on which they disagree."""
    different = [line for line in lines if line[1] != line[2]]
    return [[f"{line[0]}: {line[side]}" for line in different] for side in (1, 2)]


def default_rows() -> Iterator[Row]:
    """Our defaults and those of httpd's documentation."""
    for spec in ROWS:
        for mpm in spec.mpms if spec.per_mpm else spec.mpms[:1]:
            name = f"{spec.name} ({mpm})" if spec.per_mpm and len(spec.mpms) > 1 else spec.name
            if name in DEFAULTS:
                yield Row("default", name, DEFAULTS[name], _text(spec.default_for(mpm)))


def _text(value: object) -> str:
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return "On" if value else "Off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {word}" for key, word in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
