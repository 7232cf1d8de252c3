"""What one request costs: the readers of /proc and of strace's table, and one small run."""

from __future__ import annotations

import os
import shutil
import threading

import pytest

import mpmkit
from mpmkit.measure import cost

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


def test_switches_of_a_thread():
    status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n"
    assert cost.switches(status) == (12, 3)


def test_the_threads_of_a_process_are_summed():
    """A thread that works adds to its process's figures while it lives."""
    before = cost.usage([os.getpid()])
    done, go_on = threading.Event(), threading.Event()

    def work():
        sum(range(2_000_000))
        done.set()
        go_on.wait()

    thread = threading.Thread(target=work)
    thread.start()
    done.wait()
    used = cost.usage([os.getpid()]) - before
    go_on.set()
    thread.join()
    assert used.cpu_ns > 0 and used.voluntary >= 1
    assert cost.usage([2**22 + 1]) == (0, 0, 0), "a process that has ended"


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
