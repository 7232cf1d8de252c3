"""What one request costs: the readers of /proc and of strace's table, and one small run."""

import os
import shutil

import pytest
from support.experiments import printed_by

from benchmarks import cost, echo

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


def test_the_table_has_medians_and_leaves_out_what_is_rare():
    who = ("mpmkit", "event", "new")
    rows = [cost.Cost(*who, us, 0.4, 0.1, {"send": 1.0, "brk": 0.01}) for us in (43.21, 20, 31)]
    text = cost.table(rows)
    assert "31.0 (20.0–43.2)" in text and "0.40 + 0.10" in text
    assert "send 1.00" in text and "brk" not in text and "–" not in cost.table(rows[:1])


@pytest.mark.rival
@pytest.mark.skipif(not shutil.which("ab"), reason="ab is not installed")
@pytest.mark.parametrize("work", ["--work new", "--clients 2"])
def test_a_small_run(work, capsys):
    line = f"--mpm worker --also floor --requests 200 --rounds 2 {work}"
    status, out, err = printed_by(cost.main, line.split(), capsys)
    assert status == 0 and "round 2 of 2: floor worker" in err
    rows = [line.split() for line in out.splitlines()[1:3]]
    assert [row[0] for row in rows] == ["mpmkit", "floor"] and all("(" in " ".join(r) for r in rows)
    if "accept4" in out and "new" in work:  # strace is there, and may look
        assert 0.9 < float(out.partition("accept4 ")[2].split()[0]) < 1.5


def test_an_echo_has_its_own_cpu_time_and_stays_on_its_cpus():
    given = os.sched_getaffinity(0)
    cpus = sorted(given)[0], sorted(given)[-1]
    try:
        assert 1 < echo.measure(1_000, cpus, seconds=0.1) < 1_000
    finally:
        os.sched_setaffinity(0, given)
