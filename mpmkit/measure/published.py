"""The article whose tables are measured: its servers' settings, its requests, and its results.

The published figures come from another server on unnamed hardware. Only the order of the MPMs and their ratios
can be compared (`stats.verdict`).
"""

import csv
from collections.abc import Mapping
from typing import Any, NamedTuple

from mpmkit.measure.records import data_folder

_THREADS = {
    "StartServers": 3, "MinSpareThreads": 75, "MaxSpareThreads": 250, "ThreadsPerChild": 25,
    "MaxRequestWorkers": 400, "MaxConnectionsPerChild": 0,
}  # fmt: skip
# What the article sets, in its order. MinSpareServers and MaxSpareServers are prefork's alone.
DIRECTIVES: dict[str, dict[str, int]] = {
    "prefork": {
        "StartServers": 5, "MinSpareServers": 5, "MaxSpareServers": 10,
        "MaxRequestWorkers": 250, "MaxConnectionsPerChild": 0,
    },
    "worker": _THREADS,
    "event": _THREADS,
}  # fmt: skip


class Page(NamedTuple):
    """One column of the article: what is asked for and how long a good answer is, in bytes. script: how it is
    run ("" for a static page)."""

    kind: str
    path: str
    length: int
    title: str
    script: str = ""


PAGES: dict[str, Page] = {
    "static": Page("static", "/index.html", 45, "static page of 45 bytes"),
    "script": Page("script", "/hello.py", 11, 'script that returns "hello world"', "wsgi"),
}
# The same script by other ways. "script" above is WSGI's; mod_php is the real httpd's alone.
SCRIPTS: dict[str, Page] = {
    "cgi": Page("script", "/hello.cgi", 11, "the same by CGI, a process a request", "cgi"),
    "php-fpm": Page(
        "script", "/hello.php", 11, "the same in PHP, by FastCGI to php-fpm", "php-fpm"
    ),
    "mod_php": Page("script", "/hello.php", 11, "the same in PHP, in process", "mod_php"),
}
WAYS = ("wsgi", "cgi", "php-fpm")
"""How our servers run a script: what --script takes."""


def page(column: str) -> Page:
    """The page of a column: a kind, or a way to run the script other than WSGI."""
    return PAGES[column] if column in PAGES else SCRIPTS[column]


def column(row: Mapping[str, Any]) -> str:
    """Which column a row belongs to."""
    script = row.get("script")
    return script if script in SCRIPTS else row["kind"]


def figures() -> dict[str, dict[str, float]]:
    """The article's figures: kind -> MPM -> requests per second. Raises RecordError without a checkout."""
    found: dict[str, dict[str, float]] = {}
    with open(data_folder("published") / "qps.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["kind"], {})[row["mpm"]] = float(row["qps"])
    return found
