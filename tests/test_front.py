"""The README's picture of ratios: it draws what was measured, and only that."""

import pytest

from benchmarks.ratios import Comparison
from benchmarks.works import FREE
from docs._tools import readme_figures
from mpmkit.config.directives import MPMS
from mpmkit.lab.plots import alt_text
from mpmkit.measure import records, stats


def cell(work: str, mpm: str, median: float, *, rival: str = "httpd", bound: int = 0):
    more = enumerate((-0.2, 0, 0, 0, 0.3))
    mine = [{"qps": median + apart, "client_bound": number < bound} for number, apart in more]
    return Comparison(mpm, work, rival, mine, [{"qps": 1.0}] * 5)


def test_each_cell_is_a_marker_and_an_interval():
    found = [cell("new", "prefork", 1.5), cell("file-10m", "event", 1.1)]
    found += [
        cell("new", "event", 0.4, rival="nginx"),
        cell("idle-5000", "event", 0.95, rival=FREE),
    ]
    figure = readme_figures.ratios(found)
    lines, markers = figure.data[::2], figure.data[1::2]
    assert [marker.x[0] for marker in markers] == [1.5, 1.1]
    both = [1.3, 1.5, 1.5, 1.5, 1.8], [0.9, 1.1, 1.1, 1.1, 1.4]
    for line, rounds in zip(lines, both, strict=True):
        ratio = stats.ratio(rounds, [1.0] * 5)
        assert line.x == pytest.approx((ratio.low, ratio.high))
    assert "new connection each prefork 1.50" in alt_text(figure) and "0.40" not in alt_text(figure)
    assert list(figure.layout.yaxis.ticktext) == ["45 B page<br>new connection each", "10 MB file"]
    figure = readme_figures.ratios([found[0], cell("new", "event", 1.1, bound=3)])
    said = [trace.text[1].strip() for trace in figure.data if trace.mode == "lines+text"]
    assert said == ["prefork 1.50", "event 1.10*"] and "at its limit" in figure.layout.title.text
    with pytest.raises(ValueError, match="mpmkit bench --only bench"):
        readme_figures.ratios([cell("new", "event", 1.0, rival="nginx")])


def answered(server: str, mpm: str | None, script: str | None, round: int, qps: float, cpu=None):
    row = {"server": server, "mpm": mpm, "script": script, "round": round, "qps": qps}
    return {**row, "kind": "script" if script else "static", "server_cpu_us": cpu}


def test_servers_have_a_line_each_ours_first():
    rows = [
        answered("nginx", None, None, 1, 900.0, None),
        answered("httpd", "event", None, 1, 500.0, 80.0),
        *(answered("mpmkit", "event", None, n, 1000.0 * n, 40.0 + n) for n in (1, 2, 3)),
        answered("mpmkit", "event", "wsgi", 1, 7.0, 1.0),
    ]
    _, head, *lines = map(str.split, readme_figures.servers_text(rows, "static").splitlines())
    assert head[:2] == ["server", "requests/s"]
    assert lines[0] == ["mpmkit", "event", "2,000", "1,000", "to", "3,000", "42.0"]
    assert [line[0] for line in lines] == ["mpmkit", "httpd", "nginx"]
    assert lines[2][1] == "900" and lines[2][-1] != "80.0"
    with pytest.raises(ValueError, match="no row of cgi"):
        readme_figures.servers_text(rows, "cgi")
    # Ways to run a script have a line each, and a column an MPM.
    rates = enumerate((10.0, 30.0, 20.0), 1)
    rows = [answered("mpmkit", "worker", "wsgi", n, qps) for n, qps in rates]
    rows.append(answered("httpd", "prefork", "mod_php", 1, 5.0))
    head, ours, theirs, article = readme_figures.scripts_text(rows).splitlines()
    assert head.startswith("requests/s, median of 3 rounds") and head.split()[-3:] == list(MPMS)
    assert ours.split() == ["mpmkit:", "WSGI,", "in", "process", "20"]
    assert theirs.split() == ["httpd:", "mod_php,", "in", "process", "5"]
    assert article.split()[-3:] == ["6,094", "7,411", "7,089"]
    assert head.index("worker") + len("worker") == ours.index("20") + 2


def level(server: str, mpm: str, against: str, held: int, pss_kb: int, directives="") -> dict:
    machine = {"cpu_model": "a CPU", "cores": 2, "kernel": "6.1", "python": "3.13.5"}
    where = {"server": server, "mpm": mpm, "against": against, "directives": directives}
    what = {"scope": "server", "level": held, "held": held, "pss_kb": pss_kb}
    return {**dict.fromkeys(vars(records.machine())), **machine, **where, **what}


def test_memory_has_a_line_a_server_and_a_column_an_mpm():
    rows = [
        level("mpmkit", "prefork", "busy", 0, 10_240),
        level("mpmkit", "prefork", "busy", 10, 30_720), level("mpmkit", "event", "idle", 0, 20_000),
        level("mpmkit", "event", "idle", 100, 20_200), level("httpd", "prefork", "busy", 0, 2_048),
        level("httpd", "prefork", "busy", 10, 6_144),
    ]  # fmt: skip
    rows.append({**rows[1], "scope": "child", "pss_kb": 1})
    said = [line.split() for line in readme_figures.memory_text(rows).splitlines()]
    assert said[0] == ["memory", "(PSS)", "prefork", "worker", "event"]
    assert ["one", "more", "busy", "request,", "KiB", "mpmkit", "2,048.0"] in said
    assert ["httpd", "409.6"] in said
    assert ["one", "more", "idle", "connection,", "KiB", "mpmkit", "2.0"] in said
    assert any(line[-3:] == ["mpmkit", "30", "(10)"] for line in said)
    assert ["httpd", "6", "(10)"] in said
    # A crowd has a line for each number of threads.
    rows = [
        level(server, "worker", "busy", held, mib * 1024, f"StartServers=3 ThreadsPerChild={threads}")
        for server, threads, held, mib in (
            ("mpmkit", 25, 0, 1), ("mpmkit", 25, 400, 70), ("httpd", 25, 400, 30), ("mpmkit", 100, 400, 40),
        )
    ]  # fmt: skip
    head, *lines = [line.split() for line in readme_figures.crowd_text(rows).splitlines()]
    assert head == ["400", "busy,", "MiB", "(PSS)", "ThreadsPerChild", "mpmkit", "httpd"]
    assert lines == [["worker", "25", "70.0", "30.0"], ["worker", "100", "40.0"]]
    with pytest.raises(ValueError, match="mpmkit bench --only memory --record"):
        readme_figures.memory_text([])
