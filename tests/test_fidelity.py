"""The comparison with the real httpd: the reasons and the page without it, a part of the cases with it.

`mpmkit fidelity` compares everything and takes minutes. Here is a part of each area, live, when there is
an httpd; no case may be unexplained.
"""

import re
from unittest.mock import Mock

import pytest
from support.calls import printed_by

from mpmkit.measure.reference_servers import NotInstalled
from tests.fidelity import cases as of
from tests.fidelity import compare_conf, fidelity
from tests.fidelity.cases import ON_PURPOSE, SAME, Row, report, unexplained
from tests.fidelity.clients import Answer, Reply, shown, split
from tests.fidelity.fidelity import AREAS, BEGIN, END, PAGE, cell, compare, main, markdown

# Of each area: how its part is chosen, how many cases are the same at the least, one of them.
LIVE = {
    "http": ({"mpms": ("event",)}, 70, "01-get-root-close"),
    "status": ({"mpms": ("prefork", "event")}, 40, "?auto ConnsAsyncClosing"),
    "directive": ({"only": ("ServerLimit", "AsyncRequestWorkerFactor", "KeepAliveTimeout",
                            "HttpProtocolOptions", "Redirect", "RedirectMatch")}, 6, "Redirect"),
    "cli": ({"only": ("-v", "-V", "-l", "-S", "-M", "-t -D DUMP_INCLUDES", "-t", "-t, unknown directive",
                      "-t, corrected value", "life", "-k stop, not running", "-k stop, stale pid file")},
            22, "after graceful-stop"),
    "pool": ({"only": ("SIGUSR1 (event)", "saturation (worker)", "MaxKeepAliveRequests 3 (prefork)",
                       "AsyncRequestWorkerFactor 2")}, 8, "saturation (worker)"),
    "rules": ({"every": 2}, 370, "Directory "),
    "access": ({"every": 11}, 80, "Require all granted"),
    "hosts": ({"every": 8}, 1000, "by name: b1.test at 127.0.0.1, port p"),
    "kinds": ({"every": 3}, 170, "GET /page.html.en"),
    "sites": ({"every": 5}, 60, "hosts of addresses and ports: -S"),
}  # fmt: skip
EXPECT = "79-expect-unknown-417"


@pytest.mark.rival
@pytest.mark.timeout(300)
@pytest.mark.parametrize("area", LIVE)
def test_a_part_of_the_cases_is_as_with_httpd(httpd, area):
    how, least, one = LIVE[area]
    rows = compare(area, **how)
    assert not unexplained(rows), report(rows)
    assert of.counted(rows)[SAME] >= least and one in {row.case for row in rows}
    assert len({row.httpd for row in rows}) > 3, "the cases can be distinguished"


def test_our_defaults_are_those_that_httpd_documents():
    rows = list(compare_conf.default_rows())
    assert len(rows) > 50 and not unexplained(rows), report(rows)


def test_a_row_is_the_same_or_explained_or_not():
    rows = [Row("http", "x", "200", "200"), Row("http", EXPECT, "417", "417, + Connection")]
    rows.append(Row("http", "x", "200", "404"))
    assert [row.verdict for row in rows] == [SAME, of.PURPOSE, of.UNEXPLAINED]
    assert "closes" in ON_PURPOSE[rows[1].pattern]
    assert unexplained(rows) == rows[2:] and "unexplained: http: x" in report(rows)
    assert fidelity.everything(rows[1:2]) == f"http/{EXPECT}: 417\n    mpmkit: 417, + Connection"
    rows = [Row("http", EXPECT, "417", "417")]  # a reason that explains nothing
    assert f"http/{EXPECT}" in of.idle_reasons(rows)
    assert not [p for p in of.idle_reasons(rows) if not p.startswith("http/")]
    assert f"http/{EXPECT}" in report(rows)


def test_every_reason_says_something_and_is_for_an_area():
    assert len(ON_PURPOSE) > 40
    for pattern, reason in ON_PURPOSE.items():
        assert pattern.partition("/")[0] in AREAS and len(reason) > 20, pattern
    # What several did alike stands once.
    assert of.grouped([("a", "200"), ("b", "200")]) == "200"
    assert of.grouped([("a", "200"), ("b", "404"), ("c", "200")]) == "a c: 200; b: 404"


def reply(line: str, *headers: str, body: bytes = b"body") -> str:
    pairs = tuple((name, value) for name, _, value in (h.partition(": ") for h in headers))
    return shown(Answer((Reply(line, pairs, body),)))


OURS = ("Date: x", "Server: b/2", "ETag: 1")
KIND, PAGE_OF_ERROR = "Content-Type: text/html", {"body": b"<!DOCTYPE"}


@pytest.mark.parametrize(("ours", "theirs", "same"), [
    (reply("200 OK", *OURS), reply("200 OK", "Date: y", "Server: a/1", "ETag: 1"), True),
    *((other, reply("200 OK", *OURS), False) for other in (
        reply("404 OK", *OURS), reply("200 OK", "Date: x", "Server: b", "ETag: 1"), reply("200 OK", *OURS[:2]),
        reply("200 OK", *OURS[:2], "ETag: 2"), reply("200 OK", "Server: b/2", "Date: x", "ETag: 1"),
        reply("200 OK", *OURS, "X: y"), reply("200 OK", *OURS, body=b"other"))),
    # What is each one's own
    (reply("404 No", KIND, "Content-Length: 1", **PAGE_OF_ERROR),
     reply("404 No", KIND, "Content-Length: 2", body=b"<!DOCTYPE and more"), True),
    (reply("404 No", KIND, "Content-Length: 1", **PAGE_OF_ERROR), reply("404 No", KIND, **PAGE_OF_ERROR), False),
    (*(reply("206 P", f"Content-Type: m; boundary={n}", body=b"%d" % n) for n in (1, 2)), True),
    (reply("200 OK", "Allow: GET,HEAD"), reply("200 OK", "Allow: HEAD,GET"), True),
    (shown(Answer((), b"body")), "b'body'", True), (shown(Answer(())), "no answer", True),
])  # fmt: skip
def test_answers_are_the_same_only_if_nothing_differs_but_what_is_each_one_s_own(
    ours, theirs, same
):
    assert (ours == theirs) is same


def test_a_stream_is_split_into_its_responses():
    stream = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
    )
    answer = split(stream, ["GET", "HEAD", "GET"])
    found = [(r.line[:3], r.body) for r in answer.replies]
    assert found == [("100", b""), ("200", b"abc"), ("200", b""), ("404", b"no")]
    assert answer.rest == b""


def test_the_page_counts_every_row_and_is_written_between_its_marks():
    rows = [Row("http", "same|case", "200", "200"), Row("http", EXPECT, "<body>", "417")]
    rows.append(Row("cli", "-v", "exit 0", "exit 1"))
    text = markdown(rows, "Apache/2.4.0", "2026-01-02")
    assert "| Requests | 1 | 1 | 0 |" in text and "| Command line | 0 | 0 | 1 |" in text
    assert "| **all** | **1** | **1** | **1** |" in text
    assert r"| same\|case | 200 |" in text and "&lt;body>" in text
    assert "| -v | exit 0 | exit 1 | unexplained |" in text
    assert text.startswith(BEGIN) and text.endswith(END + "\n")
    page = fidelity.replace_generated("# Fidelity\n\nby hand\n", text)
    assert page.startswith("# Fidelity\n\nby hand\n\n" + BEGIN)
    again = fidelity.replace_generated(page + "after\n", text.replace("2026-01-02", "2026-01-03"))
    assert again.count(BEGIN) == 1 and "2026-01-03" in again and again.endswith(END + "\nafter\n")
    # It stays short.
    rows = [Row("access", f"case {n}", "x" * 1000, "x" * 1000) for n in range(1000)]
    assert len(cell("x" * 1000)) < 300 and cell("x" * 1000).endswith("…")
    assert len(markdown(rows, "Apache/2.4.0", "2026-01-02")) < 20_000


def test_the_recorded_page_has_nothing_unexplained():
    """docs/FIDELITY.md as it was generated. After a change of behaviour, run `mpmkit fidelity` again."""
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1 and len(page) < 120_000
    counts = re.search(r"\| \*\*all\*\* \| \*\*(\d+)\*\* \| \*\*\d+\*\* \| \*\*(\d+)\*\* \|", page)
    assert counts is not None and int(counts[1]) > 5000 and counts[2] == "0"
    assert not [title for title, _ in AREAS.values() if f"### {title}" not in page]


def test_without_an_httpd_it_says_so(monkeypatch, capsys, tmp_path):
    missing = Mock(side_effect=NotInstalled("Apache httpd", "apt install apache2-bin"))
    monkeypatch.setattr("tests.fidelity.fidelity.find_httpd", missing)
    page = tmp_path / "page.md"
    status, _, said = printed_by(main, ["--page", str(page)], capsys)
    assert status == 2 and "apt install" in said and not page.exists()
    # A part of the areas is one that exists.
    status, _, said = printed_by(main, ["htp"], capsys)
    assert status == 2 and all(area in said for area in AREAS)
