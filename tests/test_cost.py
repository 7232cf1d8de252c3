"""What one request costs: the readers of /proc and of strace's table, and one small run."""

from __future__ import annotations

import shutil

import pytest

import mpmkit
from benchmarks import cost

SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 65.68    0.942088          57     16518      5217 futex
  4.91    0.070439           8      8492           write
  0.00    0.000000           0         2         2 accept4
------ ----------- ----------- --------- --------- ----------------
100.00    1.434310          23     25012      5219 total
"""


def test_the_summary_of_strace_is_read():
    assert cost.calls_of(SUMMARY) == {"futex": 16518, "write": 8492, "accept4": 2}
    assert cost.calls_of("strace: attach: ptrace(PTRACE_SEIZE, 1): Operation not permitted\n") == {}


def test_the_table_leaves_out_what_is_rare():
    row = cost.Cost("mpmkit", "event", "new", 100, 43.21, 0.4, 0.1, {"send": 1.0, "brk": 0.01})
    text = cost.table([row])
    assert "43.2" in text and "0.40 + 0.10" in text and "send 1.00" in text and "brk" not in text


@pytest.mark.rival
def test_one_cell():
    if shutil.which("ab") is None:
        pytest.skip("ab is not installed; apt install apache2-utils")
    with mpmkit.launch("event", StartServers=1, MinSpareThreads=25, MaxRequestWorkers=25) as server:
        row = cost.measure(server, "mpmkit", "event", "new", 500)
    assert row.cpu_us > 1
    if row.calls:  # strace is there, and may look
        assert 0.9 < row.calls["accept4"] < 1.5


def test_too_few_requests_are_refused(capsys):
    with pytest.raises(SystemExit):
        cost.main(["--requests", "5"])
    assert "--requests 5: give 100 to 1,000,000" in capsys.readouterr().err


@pytest.mark.parametrize("clients", ["0", "101"])
def test_too_few_and_too_many_clients_are_refused(clients, capsys):
    with pytest.raises(SystemExit):
        cost.main(["--clients", "4", clients])
    assert f"--clients {clients}: give numbers from 1 to 100" in capsys.readouterr().err


def test_clients_have_kept_alive_connections(capsys):
    with pytest.raises(SystemExit):
        cost.main(["--clients", "4", "--work", "new"])
    assert "leave out --work new" in capsys.readouterr().err


def test_the_table_of_clients_has_medians_and_extremes():
    text = cost.clients_table(
        "prefork", {"mpmkit": {1: [20.0, 23.04, 31.0], 64: [40.0, 41.0, 39.5]}}
    )
    head, row, _ = text.splitlines()
    assert head.split() == ["prefork,", "clients", "1", "64"]
    assert row.split() == ["mpmkit", "23.0", "(20.0–31.0)", "40.0", "(39.5–41.0)"]


@pytest.mark.rival
def test_a_series_of_clients(monkeypatch, capsys):
    if shutil.which("ab") is None:
        pytest.skip("ab is not installed; apt install apache2-utils")
    monkeypatch.setattr(cost, "ROUNDS", 1)
    assert (
        cost.main(
            ["--mpm", "worker", "--clients", "1", "2", "--also", "floor", "--requests", "200"]
        )
        == 0
    )
    out, err = capsys.readouterr()
    rows = [line.split()[0] for line in out.splitlines()[1:3]]
    assert rows == ["mpmkit", "floor"] and "round 1 of 1: floor worker" in err
