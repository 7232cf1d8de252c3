"""The notebook of an access log: the shipped log, another one, and what the sliders change."""

import pytest
from helpers import own_log


@pytest.fixture(scope="module")
def chooser():
    return own_log.Chooser()


def test_the_shipped_log_is_read_with_its_connections(chooser):
    trace = chooser.trace
    assert len(trace) > 4000 and trace.timed and 175 < trace.span < 185
    think = sorted(trace.think_times())
    assert 1.3 < think[len(think) // 2] < 1.8, "an exponential of 3 s, cut off at KeepAliveTimeout"
    assert " 0 requests go on with one that began before" in " ".join(trace.notes)
    # Kept connections are what fills prefork and worker.
    run = own_log.runs(chooser.trace)
    assert run["prefork"].peak_busy == 250 and run["prefork"].waited > run["worker"].waited
    assert run["event"].peak_busy < 0.3 * run["worker"].peak_busy and run["event"].waited < 0.01
    shorter = own_log.runs(chooser.trace, KeepAliveTimeout=1)
    assert shorter["worker"].peak_busy < 0.7 * run["worker"].peak_busy


def test_another_log_is_read_and_a_bad_one_says_why(chooser, tmp_path):
    line = '10.0.0.1 - - [29/Nov/2026:09:57:{:02} +0000] "GET / HTTP/1.1" 200 5 2000\n'
    other = tmp_path / "access.log"
    other.write_text("".join(line.format(second) for second in range(30)))
    mine = own_log.Chooser()
    mine._path.value, mine._format.value = str(other), "common %D"
    mine._read(None)
    assert len(mine.trace) == 30 and "30 requests" in mine._said.value
    mine._path.value = str(tmp_path / "none.log")
    mine._read(None)
    assert "role='alert'" in mine._said.value and "none.log" in mine._said.value
    assert len(mine.trace) == 30, "what was read stays"


def test_sliders_redraw(chooser):
    growth, keep, workers, said, drawn = own_log.explore(chooser).children
    before = list(drawn.data[0].y), drawn.layout.annotations[0].text
    keep.value = 1
    assert list(drawn.data[0].y) != before[0] and drawn.layout.annotations[0].text != before[1]
    workers.value = 25
    assert {shape.y0 for shape in drawn.layout.shapes} == {25} and not said.value
    assert growth.value == 1.0 and not keep.continuous_update
