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
from tests.fidelity.clients import shown, split
from tests.fidelity.fidelity import AREAS, BEGIN, END, PAGE, compare, main, markdown

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
    for pattern, reason in ON_PURPOSE.items():
        assert pattern.partition("/")[0] in AREAS and len(reason) > 20, pattern
    rows = [Row("http", EXPECT, "417", "417")]  # a reason that explains nothing
    assert f"http/{EXPECT}" in of.idle_reasons(rows)
    assert f"http/{EXPECT}" in report(rows)


OURS = b"Date: x", b"Server: b/2", b"ETag: 1"
KIND, ERROR = b"Content-Type: text/html", b"<!DOCTYPE"
# What came, by lines and body; of a row all the same, and of two rows never.
ALIKE = [
    [(b"200 OK", *OURS, b"body"), (b"200 OK", b"Date: y", b"Server: a/1", b"ETag: 1", b"body")],
    [(b"404 OK", *OURS, b"body")], [(b"200 OK", b"Date: x", b"Server: b", b"ETag: 1", b"body")],
    [(b"200 OK", *OURS[:2], b"body")], [(b"200 OK", *OURS[:2], b"ETag: 2", b"body")],
    [(b"200 OK", OURS[1], OURS[0], OURS[2], b"body")], [(b"200 OK", *OURS, b"other")],
    [(b"404 No", KIND, b"Content-Length: %d" % (9 + n), ERROR + b"x" * n) for n in range(2)],
    [(b"404 No", KIND, ERROR)], [(b"200 OK", b"Allow: " + both, b"") for both in (b"A,B", b"B,A")],
    [(b"206 P", b"Content-Type: m; boundary=%d" % n, b"%d" % n) for n in (1, 2)],
]  # fmt: skip


def test_answers_differ_if_anything_does_but_what_is_each_one_s_own():
    def seen(*lines: bytes, body: bytes) -> str:
        return shown(split(b"HTTP/1.1 " + b"\r\n".join((*lines, b"", body)), ["GET"]))

    rows = [{seen(*lines, body=body) for *lines, body in row} for row in ALIKE]
    assert len(set().union(*rows)) == len(rows) == sum(map(len, rows)), rows


def test_the_page_counts_every_row_and_is_written_between_its_marks():
    rows = [Row("http", "same|case", "200", "200"), Row("http", EXPECT, "<body>", "417")]
    rows.append(Row("cli", "-v", "exit 0", "exit 1"))
    rows += [Row("access", "x", "y" * 1000, "y" * 1000)] * 1000
    text = markdown(rows, "Apache/2.4.0", "2026-01-02")
    assert "| Requests | 1 | 1 | 0 |" in text and "| **all** | **1001** | **1** | **1** |" in text
    assert r"| same\|case | 200 |" in text and "&lt;body>" in text
    assert "| -v | exit 0 | exit 1 | unexplained |" in text and len(text) < 20_000
    page = fidelity.replace_generated("by hand\n", text) + "after\n"
    again = fidelity.replace_generated(page, text.replace("2026-01-02", "2026-01-03"))
    assert again == page.replace("2026-01-02", "2026-01-03")
    assert page.startswith("by hand\n\n" + BEGIN) and page.endswith(END + "\nafter\n")


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
