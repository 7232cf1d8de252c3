"""The comparison with the real httpd: the reasons and the page without it, a part of the cases with it.

`mpmkit fidelity` compares everything and takes minutes. Here are some cases of each area, live, when
there is an httpd; none of them may be unexplained.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpmkit.measure.reference_servers import NotInstalled, find_httpd
from tests.fidelity import compare_cli, compare_conf, compare_http, compare_pool, compare_status
from tests.fidelity.cases import PURPOSE, SAME, UNEXPLAINED, Row, idle_reasons, judge, unexplained
from tests.fidelity.compare_http import Answer, Reply, describe, split
from tests.fidelity.expected_differences import MISSING, ON_PURPOSE
from tests.fidelity.fidelity import (
    BEGIN,
    END,
    TITLES,
    cell,
    main,
    markdown,
    pages,
    replace_generated,
    report,
)

RAW = Path(__file__).parent / "data" / "raw"
DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def site() -> Iterator[Path]:
    """In a place that the servers' children, who are another user, may enter (pytest's own is not)."""
    try:
        find_httpd()
    except NotInstalled as missing:
        pytest.skip(str(missing))
    with tempfile.TemporaryDirectory(prefix="mpmkit-site-") as where:
        yield pages(Path(where))


def explained(rows: list[Row]) -> None:
    assert rows
    left = [
        f"{row.key}\n  httpd   {row.httpd}\n  mpmkit  {row.mpmkit}" for row in unexplained(rows)
    ]
    assert not left, "\n".join(left)


# --- Live ----------------------------------------------------------------------------------------

DIRECTIVES = ("ServerLimit", "AsyncRequestWorkerFactor", "KeepAliveTimeout", "HttpProtocolOptions",
              "Redirect", "RedirectMatch")  # fmt: skip
COMMANDS = ("-v", "-l", "-t", "-t, unknown directive", "-t, corrected value", "-k stop, not running",
            "-k stop, stale pid file")  # fmt: skip
SCENARIOS = ("SIGUSR1 (event)", "saturation (worker)", "MaxKeepAliveRequests 3 (prefork)",
             "AsyncRequestWorkerFactor 2")  # fmt: skip


@pytest.mark.rival
@pytest.mark.parametrize(
    ("compare", "areas", "cases", "count"),
    [
        (lambda site: compare_http.rows(RAW, site), {"http"}, (), 70),
        (lambda site: compare_status.rows(site, ("event",)), {"status"},
         ("?auto Scoreboard", "?auto CPUUser", "?auto ConnsAsyncClosing"), 30),
        (lambda site: compare_conf.rows(site, DIRECTIVES), {"directive"}, DIRECTIVES, 6),
        (lambda site: compare_cli.rows(site, COMMANDS), {"cli"}, COMMANDS, 7),
        (lambda site: compare_pool.rows(site, SCENARIOS), {"signal", "timeline"},
         (*SCENARIOS[1:3], "SIGUSR1 (event): half-sent"), 8),
    ],
    ids=("requests", "status page", "directives", "command line", "pools and signals"),
)  # fmt: skip
def test_a_part_of_the_cases_is_as_with_httpd(site, compare, areas, cases, count):
    rows = compare(site)
    assert {row.area for row in rows} == areas and len(rows) >= count
    assert set(cases) <= {row.case for row in rows}
    explained(rows)


# --- Without an httpd ----------------------------------------------------------------------------


def test_our_defaults_are_those_that_httpd_documents():
    rows = compare_conf.default_rows()
    assert len(rows) > 45
    explained(rows)


def test_a_row_is_the_same_or_explained_or_not():
    assert judge(Row("http", "x", "200", "200")).kind == SAME
    verdict = judge(Row("http", "79-expect-unknown-417", "417", "417, + Connection"))
    assert verdict.kind == PURPOSE and "closes" in verdict.reason
    assert judge(Row("http", "x", "200", "404")).kind == UNEXPLAINED


def test_a_reason_that_explains_nothing_is_reported():
    rows = [Row("http", "79-expect-unknown-417", "417", "417")]
    assert "http/79-expect-unknown-417" in idle_reasons(rows)
    assert not [p for p in idle_reasons(rows) if not p.startswith("http/")]
    assert "http/79-expect-unknown-417" in report(rows)


def test_every_reason_says_something_and_is_for_an_area():
    for pattern, reason in {**ON_PURPOSE, **MISSING}.items():
        assert pattern.partition("/")[0] in TITLES, pattern
        assert len(reason) > 20, pattern


def reply(status: int, *headers: str, body: bytes = b"") -> Reply:
    pairs = tuple((name, value) for name, _, value in (h.partition(": ") for h in headers))
    return Reply(status, pairs, body)


@pytest.mark.parametrize(
    ("ours", "differs"),
    [
        (reply(200, "Date: x", "Server: b/2", "ETag: 1", body=b"body"), False),
        (reply(404, "Date: x", "Server: b/2", "ETag: 1", body=b"body"), True),
        (reply(200, "Date: x", "Server: b", "ETag: 1", body=b"body"), True),
        (reply(200, "Date: x", "Server: b/2", "ETag: 2", body=b"body"), True),
        (reply(200, "Server: b/2", "Date: x", "ETag: 1", body=b"body"), True),
        (reply(200, "Date: x", "Server: b/2", body=b"body"), True),
        (reply(200, "Date: x", "Server: b/2", "ETag: 1", "X: y", body=b"body"), True),
        (reply(200, "Date: x", "Server: b/2", "ETag: 1", body=b"other"), True),
    ],
)
def test_answers_are_the_same_only_if_nothing_differs(ours, differs):
    theirs = reply(200, "Date: y", "Server: a/1", "ETag: 1", body=b"body")
    a, b = describe(Answer((theirs,), b"", True), Answer((ours,), b"", True))
    assert (a != b) is differs, (a, b)


def test_a_close_and_a_bare_body_are_told():
    same = reply(200)
    a, b = describe(Answer((same,), b"", True), Answer((same,), b"", False))
    assert a != b
    a, b = describe(Answer((), b"body", True), Answer((), b"", True))
    assert a != b and "bare body" in a


def test_a_stream_is_split_into_its_responses():
    stream = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
    )
    answer = split(stream, ["GET", "HEAD", "GET"], True)
    assert [r.status for r in answer.replies] == [100, 200, 200, 404]
    assert [r.body for r in answer.replies] == [b"", b"abc", b"", b"no"]
    assert answer.rest == b""


def test_the_page_counts_and_lists_every_row_and_is_written_between_its_marks():
    rows = [
        Row("http", "same|case", "200", "200"),
        Row("http", "79-expect-unknown-417", "<body>", "417"),
        Row("cli", "-v", "exit 0", "exit 1"),
    ]
    text = markdown(rows, "Apache/2.4.0", "2026-01-02")
    assert "| Requests | 1 | 1 | 0 | 0 |" in text
    assert "| Command line | 0 | 0 | 0 | 1 |" in text
    assert "| **all** | **1** | **1** | **0** | **1** |" in text
    assert r"| same\|case | 200 |" in text and "&lt;body>" in text
    assert text.startswith(BEGIN) and text.endswith(END + "\n")
    page = replace_generated("# Fidelity\n\nby hand\n", text)
    assert page.startswith("# Fidelity\n\nby hand\n\n" + BEGIN)
    again = replace_generated(page + "after\n", text.replace("2026-01-02", "2026-01-03"))
    assert again.count(BEGIN) == 1 and "2026-01-03" in again and again.endswith(END + "\nafter\n")


def test_long_cells_are_cut():
    assert len(cell("x" * 1000)) < 300 and cell("x" * 1000).endswith("…")


def test_the_recorded_page_has_nothing_unexplained():
    """docs/FIDELITY.md as it was generated. After a change of behaviour, run `mpmkit fidelity` again."""
    page = (DOCS / "FIDELITY.md").read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    counts = re.search(
        r"\| \*\*all\*\* \| \*\*(\d+)\*\* \| \*\*(\d+)\*\* \| \*\*(\d+)\*\* \| "
        r"\*\*(\d+)\*\* \|",
        page,
    )
    assert counts is not None
    same, _, _, left = map(int, counts.groups())
    assert same > 400 and left == 0
    for title in TITLES.values():
        assert f"### {title}" in page


def test_a_part_of_the_areas_does_not_replace_the_table(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--area", "http"])
    assert ended.value.code == 2 and "-n" in capsys.readouterr().err


def test_without_an_httpd_it_says_so(monkeypatch, capsys, tmp_path):
    def missing() -> str:
        raise NotInstalled("Apache httpd", "apt install apache2-bin")

    monkeypatch.setattr("tests.fidelity.fidelity.find_httpd", missing)
    page = tmp_path / "page.md"
    assert main(["--page", str(page)]) == 2
    assert "apt install" in capsys.readouterr().err and not page.exists()
