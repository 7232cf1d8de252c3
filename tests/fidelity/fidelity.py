"""The real httpd and ours, side by side, case by case: writes the table in docs/FIDELITY.md.

    mpmkit fidelity                     everything (make fidelity)
    mpmkit fidelity --area http -n      one area, printed and not written

Both are started from the same httpd.conf and asked the same things: lines of a configuration, bytes of
a request, options of a command line, signals, load on their pools. What differs is *on purpose* or
*missing*, with the reason that `expected_differences.py` gives, or else unexplained, and then the exit
status is 1. It takes about ten minutes, on loopback only.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mpmkit.config.directives import MPMS
from mpmkit.measure.process_group import NotInstalled, output
from mpmkit.measure.reference_servers import find_httpd
from tests.fidelity import (
    compare_access,
    compare_cli,
    compare_conf,
    compare_hosts,
    compare_http,
    compare_kinds,
    compare_pool,
    compare_rules,
    compare_status,
)
from tests.fidelity.cases import SAME, VERDICTS, Row, counted, idle_reasons, judge, unexplained

ROOT = Path(__file__).resolve().parent.parent.parent  # the checkout
RAW = ROOT / "tests" / "data" / "raw"
BEGIN = "<!-- from here on written by `mpmkit fidelity`; edit tests/fidelity/expected_differences.py -->"
END = "<!-- end of what `mpmkit fidelity` writes -->"

TITLES = {
    "directive": "Directives: lines that both read",
    "default": "Directives: defaults",
    "http": "Requests",
    "status": "Status page",
    "cli": "Command line",
    "signal": "Signals",
    "timeline": "Pools over time",
    "rules": "Sections, links and Options: who may see what",
    "access": "Require, Order, Limit, Satisfy: who may see what",
    "hosts": "Virtual hosts: which one answers, what it has of its server's, TLS",
    "kinds": "Small inputs of many kinds: names, scripts, hosts, redirects, variables",
}
LONGEST = 220  # characters of a cell


def pages(where: Path) -> Path:
    """A small site; the same files, with the same times, for both."""
    for name, text in {
        "index.html": "<html><body><h1>It works!</h1></body></html>\n",
        "file.txt": "0123456789abcdefghijklmnopqrstuvwxyz\n",
        "empty.txt": "",
        "sub/index.html": "sub index\n",
        "noindex/.keep": "",
    }.items():
        file = where / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        os.utime(file, (1704164645, 1704164645))
    for place in (where, *where.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    return where


def alone(rows: Callable[[Path], list[Row]]) -> Callable[[Path], list[Row]]:
    """`rows` with a directory of its own below the site."""

    def of(site: Path) -> list[Row]:
        own = site / "own"
        own.mkdir(mode=0o755)
        try:
            return rows(own)
        finally:
            shutil.rmtree(own)

    return of


AREAS: dict[str, Callable[[Path], list[Row]]] = {
    "directive": compare_conf.rows,
    "default": lambda site: compare_conf.default_rows(),
    "http": lambda site: compare_http.rows(RAW, site, MPMS),
    "status": compare_status.rows,
    "cli": compare_cli.rows,
    "pool": compare_pool.rows,
    "rules": alone(compare_rules.rows),
    "access": alone(compare_access.rows),
    "hosts": alone(compare_hosts.rows),
    "kinds": alone(compare_kinds.rows),
}


def compare(wanted: Iterable[str]) -> list[Row]:
    """The rows of some areas. Raises NotInstalled where there is no httpd."""
    find_httpd()
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="mpmkit-site-") as where:
        site = pages(Path(where))
        for name in wanted:
            print(f"{name} …", file=sys.stderr, flush=True)
            found += AREAS[name](site)
    return found


# --- The page --------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row], version: str, day: str) -> str:
    """The generated part: counts, reasons, and every case."""
    said = (
        f"Both servers started from the same httpd.conf on {day}: {version} and mpmkit. "
        "A cell says what was seen; where both did the same it stands once."
    )
    lines = [
        BEGIN,
        "",
        "## Case by case",
        "",
        said,
        "",
        "| | " + " | ".join(VERDICTS) + " |",
        "|---|" + "---|" * len(VERDICTS),
    ]
    by_area = {area: [row for row in rows if row.area == area] for area in TITLES}
    for area, title in TITLES.items():
        numbers = counted(by_area[area])
        lines.append(f"| {title} | " + " | ".join(str(numbers[kind]) for kind in VERDICTS) + " |")
    total = counted(rows)
    lines.append("| **all** | " + " | ".join(f"**{total[kind]}**" for kind in VERDICTS) + " |")
    for area, title in TITLES.items():
        of_area = by_area[area]
        if not of_area:
            continue
        lines += ["", f"### {title}", ""]
        different = [row for row in of_area if judge(row).kind != SAME]
        if different:
            lines += ["| case | httpd | mpmkit | |", "|---|---|---|---|"]
            for row in different:
                verdict = judge(row)
                lines.append(
                    f"| {cell(row.case)} | {cell(row.httpd)} | {cell(row.mpmkit)} | "
                    f"{verdict.kind}{': ' if verdict.reason else ''}{cell(verdict.reason)} |"
                )
            lines.append("")
        same = [row for row in of_area if judge(row).kind == SAME]
        if same:
            lines += [
                f"<details><summary>The same: {len(same)}</summary>",
                "",
                "| case | both |",
                "|---|---|",
                *(f"| {cell(row.case)} | {cell(row.httpd)} |" for row in same),
                "",
                "</details>",
            ]
    return "\n".join([*lines, "", END, ""])


def cell(text: str) -> str:
    """Text for a cell of a table, not too long."""
    if len(text) > LONGEST:
        text = text[: LONGEST - 1].rstrip() + "…"
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def replace_generated(page: str, generated: str) -> str:
    """The page with its generated part anew; at its end if it has none yet."""
    if BEGIN in page:
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2].lstrip("\n")
        return before + generated + after
    return page.rstrip("\n") + "\n\n" + generated


def report(rows: Sequence[Row]) -> str:
    """The text for a terminal: the counts, then everything that is not explained."""
    numbers = counted(rows)
    lines = [", ".join(f"{numbers[kind]} {kind}" for kind in VERDICTS)]
    for row in unexplained(rows):
        lines.append(f"unexplained: {row.area}: {row.case}")
        lines += [f"    httpd   {row.httpd}", f"    mpmkit  {row.mpmkit}"]
    for pattern in idle_reasons(rows):
        lines.append(f"expected_differences.py explains {pattern}, which does not differ any more")
    return "\n".join(lines)


def version_of_httpd() -> str:
    found = re.search(r"Server version: (.+)", output(find_httpd(), "-v"))
    return found[1].strip() if found else "httpd"


def main(argv: Sequence[str]) -> int:
    """0: everything is the same or explained. 1: something is not. 2: there is no httpd to ask."""
    parser = argparse.ArgumentParser(
        prog="mpmkit fidelity", description="Compare mpmkit with the real httpd, case by case."
    )
    parser.add_argument(
        "--area",
        action="append",
        default=[],
        metavar="NAME",
        choices=AREAS,
        help=f"one of {', '.join(AREAS)}; several times",
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="print, and leave docs/FIDELITY.md alone"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "FIDELITY.md", metavar="FILE")
    args = parser.parse_args(argv)
    if args.area and not args.dry_run:
        parser.error("a part of the areas would replace the whole table: add -n")
    try:
        rows = compare(args.area or AREAS)
    except NotInstalled as error:
        print(f"mpmkit fidelity: {error}", file=sys.stderr)
        return 2
    if not args.dry_run:
        text = args.page.read_text(encoding="utf-8") if args.page.exists() else "# Fidelity\n"
        day = datetime.date.today().isoformat()
        args.page.write_text(
            replace_generated(text, markdown(rows, version_of_httpd(), day)), encoding="utf-8"
        )
    print(report(rows))
    return 1 if unexplained(rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
