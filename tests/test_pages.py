"""Pages that a request touches: the reader of smaps, and one count of a real server."""

import pytest

import mpmkit
from benchmarks import touched_pages

SMAPS = """\
55d0c0a00000-55d0c0a01000 r-xp 00000000 fe:00 1234 /usr/bin/python3.11
Rss:                   4 kB
Referenced:            8 kB
7f1200000000-7f1200100000 rw-p 00000000 00:00 0
Rss:                 512 kB
Private_Dirty:       300 kB
Referenced:          128 kB
7f1300000000-7f1300100000 rw-s 00000000 fe:00 99 /tmp/scoreboard
Referenced:            4 kB
7f1400000000-7f1400001000 ---p 00000000 00:00 0
7f1500000000-7f1500001000 rw-p 00000000 fe:00 1234 /usr/lib/libpython3.13.so.1.0
Private_Dirty:         4 kB
Referenced:            0 kB
"""


def test_what_may_be_written_is_data(monkeypatch):
    monkeypatch.setattr(touched_pages, "PAGE_KB", 4)
    assert touched_pages.referenced(SMAPS) == (2, 33)
    assert touched_pages.referenced("") == (0, 0), "a process that has ended"
    assert touched_pages.owned(SMAPS) == {"arenas": 300, "libpython3.13.so.1.0": 4}


def test_a_request_touches_pages_again_each_time():
    with mpmkit.launch("prefork", access_log=True, **touched_pages.DIRECTIVES) as server:
        found = touched_pages.measure(server.url, server.pid)
        each = touched_pages.WARM + touched_pages.ROUNDS
        assert server.access_log().count('"GET /index.html') == touched_pages.CLIENTS * each
    assert len(found) == touched_pages.CLIENTS * touched_pages.ROUNDS
    # What a request needs is some 400 pages; a process that is asked for nothing touches none.
    assert all(50 < sum(one) < 5_000 and one.data > 20 for one in found)


@pytest.mark.rival
def test_the_table_names_each_server(capsys):
    assert touched_pages.main(["--also", "floor"]) == 0
    head, ours, floor, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["server", "program", "data", "together", "KiB"]
    assert ours.split()[0] == "mpmkit" and floor.split()[0] == "floor"
    assert int(ours.split()[2]) > int(floor.split()[2])  # more than the least there is
