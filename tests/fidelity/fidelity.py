"""The real httpd and ours, side by side, case by case: writes the tables in docs/FIDELITY.md.

    mpmkit fidelity               everything (make fidelity)
    mpmkit fidelity http --all    one area, printed and not written; every case

Both are started from the same httpd.conf and asked the same things: lines of a configuration, bytes of
a request, options of a command line, signals, load on their pools. What differs is *on purpose*, with
the reason that tests/data/fidelity/on_purpose.txt gives, or else unexplained, and then the exit status is
1. It takes about ten minutes, on loopback only.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mpmkit.measure.reference_servers import NotInstalled, find_httpd, output
from tests.fidelity import (
    compare_access,
    compare_cli,
    compare_conf,
    compare_hosts,
    compare_http,
    compare_kinds,
    compare_pool,
    compare_rules,
    compare_sites,
    compare_status,
)
from tests.fidelity.cases import (
    ON_PURPOSE,
    PURPOSE,
    SAME,
    VERDICTS,
    Row,
    counted,
    report,
    tree,
    unexplained,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "FIDELITY.md"
BEGIN = (
    "<!-- from here on written by `mpmkit fidelity`; edit tests/data/fidelity/on_purpose.txt -->"
)
END = "<!-- end of what `mpmkit fidelity` writes -->"

# name -> its title on the page, its rows
AREAS: dict[str, tuple[str, Callable[..., Iterable[Row]]]] = {
    "directive": ("Directives: lines that both read", compare_conf.rows),
    "default": ("Directives: defaults", lambda site: compare_conf.default_rows()),
    "http": ("Requests", compare_http.rows),
    "status": ("Status page", compare_status.rows),
    "cli": ("Command line", lambda site, only=(): compare_cli.rows(only)),
    "pool": ("Pools over time, signals", compare_pool.rows),
    "rules": ("Sections, links and Options: who may see what", compare_rules.rows),
    "access": ("Require, Order, Limit, Satisfy: who may see what", compare_access.rows),
    "hosts": (
        "Virtual hosts: which one answers, what it has of its server's, TLS",
        compare_hosts.rows,
    ),
    "kinds": ("Small inputs: names, scripts, hosts, redirects, variables", compare_kinds.rows),
    "sites": ("Whole configurations, in the manner of public files", compare_sites.rows),
}
OWN_SITE = {"rules", "access", "hosts", "kinds", "sites"}  # these make their own files
LONGEST = 160  # characters of a cell
SHOWN = 60  # cases of an area that are the same, at the most


# A small site; the same files, with the same times, for both.
PAGES = {
    "index.html": "<html><body><h1>It works!</h1></body></html>\n", "empty.txt": "", "noindex/.keep": "",
    "file.txt": "0123456789abcdefghijklmnopqrstuvwxyz\n", "sub/index.html": "sub index\n",
}  # fmt: skip


def compare(area: str, **how: Any) -> list[Row]:
    """The rows of an area; `how` chooses a part of them. Raises NotInstalled where there is no httpd."""
    find_httpd()
    with tempfile.TemporaryDirectory(prefix="mpmkit-site-") as where:
        os.chmod(where, 0o755)  # httpd's children are another user
        site = Path(where).resolve()
        return list(AREAS[area][1](site if area in OWN_SITE else tree(site, PAGES), **how))


# --- The page --------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row], version: str, day: str) -> str:
    """The generated part: counts, what differs and why, and some of what is the same."""
    areas = {area: [row for row in rows if row.area == area] for area in AREAS}
    table = [("", [*VERDICTS]), ("---", ["---"] * len(VERDICTS))]
    table += [(AREAS[area][0], numbers(of_area)) for area, of_area in areas.items()]
    table.append(("**all**", [f"**{number}**" for number in numbers(rows)]))
    both = f"Both servers started from the same httpd.conf on {day}: {version} and mpmkit."
    lines = [BEGIN, "", "## Case by case", ""]
    lines += [f"{both} `mpmkit fidelity --all` prints every case.", ""]
    lines += [f"| {title} | {' | '.join(cells)} |" for title, cells in table]
    for area, of_area in areas.items():
        if of_area:
            lines += ["", f"### {AREAS[area][0]}", "", *differences(of_area), *digest(of_area)]
    return "\n".join([*lines, "", END, ""])


def numbers(rows: Iterable[Row]) -> list[str]:
    found = counted(rows)
    return [str(found[kind]) for kind in VERDICTS]


def differences(rows: Sequence[Row]) -> list[str]:
    """A line for each reason, with the first of its cases; and each case without one."""
    by_reason: dict[str, list[Row]] = {}
    for row in rows:
        if row.verdict == PURPOSE:
            by_reason.setdefault(ON_PURPOSE[row.pattern or ""], []).append(row)
    groups = [*by_reason.items(), *(("unexplained", [row]) for row in unexplained(rows))]
    if not groups:
        return []
    lines = ["| case | httpd | mpmkit | why |", "|---|---|---|---|"]
    for reason, those in groups:
        more = f" and {len(those) - 1} more" if len(those) > 1 else ""
        first = those[0]
        seen = (cell(text, 2 * LONGEST) for text in (first.httpd, first.mpmkit))
        cells = cell(first.case) + more, *seen, cell(reason, 999)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def digest(rows: Sequence[Row]) -> list[str]:
    """How many are the same, and some of them."""
    same = [row for row in rows if row.verdict == SAME]
    every = 1 + len(same) // SHOWN
    some = f", one in {every} of them" if every > 1 else ""
    lines = [f"The same: {len(same)}{some}", "", "| case | both |", "|---|---|"]
    return lines + [f"| {cell(row.case)} | {cell(row.httpd)} |" for row in same[::every]]


def cell(text: str, longest: int = LONGEST) -> str:
    """Text for a cell of a table, not too long."""
    if len(text) > longest:
        text = text[: longest - 1].rstrip() + "…"
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def replace_generated(page: str, generated: str) -> str:
    """The page with a new generated part; at its end if it has none yet."""
    start = re.search("<!-- from here on written by `mpmkit fidelity`", page)
    if start is None:
        return page.rstrip("\n") + "\n\n" + generated
    after = page[start.start() :].partition(END)[2].lstrip("\n")
    return page[: start.start()] + generated + after


def everything(rows: Iterable[Row]) -> str:
    """Every case on a line, or on two where they differ."""
    lines = []
    for row in rows:
        ours = "" if row.verdict == SAME else f"\n    mpmkit: {row.mpmkit}"
        lines.append(f"{row.area}/{row.case}: {row.httpd}{ours}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """0: everything is the same or explained. 1: something is not. 2: there is no httpd to ask."""
    parser = argparse.ArgumentParser(
        prog="mpmkit fidelity", description="Compare mpmkit with the real httpd, case by case."
    )
    parser.add_argument(
        "areas", nargs="*", metavar="AREA",
        help=f"only these, and the page is left alone: {', '.join(AREAS)}",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="print every case")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    args = parser.parse_args(argv)
    if unknown := set(args.areas) - set(AREAS):
        parser.error(f"no area {', '.join(sorted(unknown))}; choose from {', '.join(AREAS)}")
    rows: list[Row] = []
    try:
        for area in args.areas or AREAS:
            print(f"{area} …", file=sys.stderr, flush=True)
            rows += compare(area)
        version = re.search(r"Server version: (.+)", output(find_httpd(), "-v"))
    except NotInstalled as error:
        print(f"mpmkit fidelity: {error}", file=sys.stderr)
        return 2
    if not args.areas:
        text = args.page.read_text(encoding="utf-8") if args.page.exists() else "# Fidelity\n"
        day = datetime.date.today().isoformat()
        generated = markdown(rows, version[1].strip() if version else "httpd", day)
        args.page.write_text(replace_generated(text, generated), encoding="utf-8")
    print(*[everything(rows)] * args.all, report(rows), sep="\n")
    return 1 if unexplained(rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
