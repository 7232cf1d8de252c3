"""Tables as text: what stands where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpmkit.measure.text import aligned

CELL = st.text("ab1 ,", max_size=6)
TABLES = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.tuples(*[CELL] * n), min_size=1, max_size=5)
)


def test_words_begin_together_and_numbers_end_together():
    rows = [("MPM", "requests/s", ""), ("event", "9", "slow"), ("a", "10,000", "")]
    assert aligned(rows, left=(0, 2)) == [
        "MPM    requests/s", "event           9  slow", "a          10,000",
    ]  # fmt: skip
    with pytest.raises(ValueError):  # a row is too short
        aligned([("a", "b"), ("c",)])


@given(TABLES, st.sets(st.integers(0, 3)))
def test_each_column_is_as_wide_as_its_widest_cell(rows, left):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for line, row in zip(aligned(rows, left), rows, strict=True):
        line = line.ljust(sum(widths) + 2 * (len(widths) - 1))
        at = 0
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            assert line[at : at + width] == (cell.ljust(width) if i in left else cell.rjust(width))
            assert line[at + width : at + width + 2] in ("  ", "")
            at += width + 2
