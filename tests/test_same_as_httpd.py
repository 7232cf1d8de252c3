"""Small inputs sent to the real httpd and to mpmkit, started from one file: what both say is compared."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
from support.client import exchange
from support.files import recorded_root
from support.waiting import poll_until

from mpmkit.measure.reference_servers import NotInstalled, find_httpd
from tests.fidelity import compare_kinds
from tests.fidelity.cases import idle_reasons, unexplained
from tests.fidelity.server_pair import Pair

try:
    WHY_NOT = "" if find_httpd() else "no httpd"
except NotInstalled as error:
    WHY_NOT = str(error)
pytestmark = [
    pytest.mark.rival,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there is an httpd"),
]


def test_httpd_escapes_the_same(tmp_path):
    """In the error log (a refused path) and in the access log (%U, %q, %{Referer}i)."""
    root = recorded_root(tmp_path / "root")
    rules = '<LocationMatch "^/no">\nRequire all denied\n</LocationMatch>'
    logs = f'{rules}\nCustomLog lines "%U|%q|%{{Referer}}i"'
    paths = [*(b"%%%02x" % byte for byte in range(1, 256) if byte != 47), b"%0a%1b[2J", b"%C3%A9"]
    with Pair("event", root, logs) as pair:
        found = []
        for side in pair.sides:
            for path in paths:
                fields = b'Host: h\r\nConnection: close\r\nReferer: "\xff\t\\'
                head = b'GET /no%b?q"\\ HTTP/1.1\r\n%b\r\n\r\n' % (path, fields)
                exchange(side, head)
            lines = side.root / "lines"
            poll_until(lambda: lines.read_text().count("\n") == len(paths))  # noqa: B023
            denied = re.findall(r"AH01630: .*?/no(.*?)(?:, referer: .*)?\n", side.log())
            assert len(denied) == len(paths)
            found.append((lines.read_text(), denied))
    assert found[0] == found[1]


def test_small_inputs_of_every_kind():
    """Over 450 requests: names, methods, heads of scripts, hosts, connections cut short, chunks."""
    with tempfile.TemporaryDirectory(prefix="mpmkit-kinds-") as where:
        os.chmod(where, 0o755)
        rows = compare_kinds.rows(Path(where).resolve())
    left = [
        f"{row.case}\n  httpd   {row.httpd}\n  mpmkit  {row.mpmkit}" for row in unexplained(rows)
    ]
    assert not left, "\n".join(left)
    assert not idle_reasons(rows) and len(rows) > 450
