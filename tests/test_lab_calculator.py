"""The MaxRequestWorkers calculator says what `max_request_workers_for` says, and follows its sliders."""

from __future__ import annotations

import re
from html import unescape

import pytest
from helpers import calculator

import mpmkit


@pytest.fixture(scope="module")
def rows():
    return mpmkit.recorded("memory-notebook")


def test_the_answer_is_that_of_the_sizing(rows):
    told = calculator.answer(rows, 4, "prefork")
    assert told == str(mpmkit.max_request_workers_for("4GiB", mpm="prefork", memory=rows))
    # An idle connection counts under event only: prefork would refuse it.
    assert calculator.answer(rows, 4, "prefork", idle=100) == told
    assert "100 kept-alive connections" in calculator.answer(rows, 4, "event", idle=100)


def test_no_room_is_an_answer_too(rows):
    assert calculator.answer(rows, 0.001, "prefork").startswith("reserve: ")
    assert calculator.answers(rows, [0.001], ["event"]).loc["0.001 GiB", ("event", "PSS")] == 0


def test_more_memory_allows_more_and_summed_rss_allows_less(rows):
    table = calculator.answers(rows, [0.5, 1, 4, 16], list(mpmkit.MPMS))
    for mpm in mpmkit.MPMS:
        pss, rss = table[mpm, "PSS"].to_list(), table[mpm, "summed RSS"].to_list()
        assert pss == sorted(pss) and pss[0] < pss[-1]
        assert all(few < many for few, many in zip(rss, pss, strict=True))
    assert (table["event", "PSS"] % 25 == 0).all()


def test_the_sliders_change_what_is_told(rows):
    box = calculator.calculator(rows)
    mpm, ram, idle, threads, told = box.children

    def workers() -> int:
        return int(re.search(r"MaxRequestWorkers (\d+)", unescape(told.value))[1])

    assert mpm.value == "event" and not idle.disabled and not threads.disabled
    at_four = workers()
    ram.value = 16
    assert workers() > at_four
    ram.value, idle.value = 4, 5000
    assert workers() < at_four and "5,000 kept-alive" in told.value
    threads.value = 64
    assert workers() % 64 == 0
    mpm.value = "prefork"
    assert "for prefork" in told.value and idle.disabled and threads.disabled
    ram.value = 0.5
    assert "MaxRequestWorkers" in told.value
