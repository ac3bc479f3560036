"""Sums that do not depend on how numbers are divided."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcnumba.utils.norms import norms_over
from lcnumba.utils.sums import BLOCK, exact_parts, exact_sum, line_sums, ordered_sum, row_blocks

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.hypothesis
@given(st.lists(FLOATS, max_size=20), st.integers(0, 20))
def test_parts_of_two_processes_give_the_exact_sum(numbers, cut):
    exact = sum(map(Fraction, numbers))
    try:
        expected = float(exact)
    except OverflowError:
        expected = math.inf if exact > 0 else -math.inf
    assert exact_sum(numbers) == expected
    assert exact_sum([*exact_parts(numbers[:cut]), *exact_parts(numbers[cut:])]) == expected


def test_parts_keep_what_rounding_loses():
    ulp = 2.0**-52
    assert exact_sum([exact_sum([1.0, ulp / 2]), ulp / 2]) == 1.0
    assert exact_sum([*exact_parts([1.0, ulp / 2]), ulp / 2]) == 1.0 + ulp


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([math.inf, 1.0], math.inf), ([math.inf, -math.inf], math.nan), ([math.nan, 1.0], math.nan), ([], 0.0),
        ([1e308, 1e308, -1e308], 1e308), ([1e308, 1e308], math.inf), ([-math.inf, 1e308, 1e308], -math.inf),
        ([5e-324, 5e-324], 1e-323), ([0.1] * 10, 1.0),
    ],
)  # fmt: skip
def test_unusual_numbers(numbers, expected):
    assert exact_sum(numbers) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert exact_sum(np.array(numbers)[::-1]) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert exact_sum(exact_parts(numbers)) == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("shape", [(7, 12, 5, 3), (4, 12), (3, 12, 1), (1, 12, 9000), (0, 12, 2)])
def test_lines_do_not_depend_on_their_number(shape, rng):
    values = rng.standard_normal(shape).astype(np.float32)
    whole = line_sums(values)
    for first, last in ((0, 12), (0, 1), (1, 2), (3, 11), (11, 12)):
        np.testing.assert_array_equal(line_sums(np.ascontiguousarray(values[:, first:last])), whole[first:last])
    np.testing.assert_allclose(whole, values.sum(axis=(0, *range(2, values.ndim)), dtype=np.float64), atol=1e-9)


@pytest.mark.parametrize("shape", [(40, 3), (40, 1), (40,), (40, 2, 2)])
def test_sums_of_rows_can_be_continued(shape, rng):
    rows = rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 8, shape)
    whole, one_by_one = ordered_sum(rows), np.zeros(shape[1:])
    for row in rows:
        one_by_one = one_by_one + row
    np.testing.assert_array_equal(whole, one_by_one)
    for cut in (1, 17, 39):
        np.testing.assert_array_equal(ordered_sum(rows[cut:], ordered_sum(rows[:cut])), whole)


@pytest.mark.parametrize("shape", [(5, 3), (2, BLOCK + 7), (9,), (), (3, 0), (0, 4), (2, 2, 2)])
def test_blocks_are_all_rows(shape, rng):
    values = rng.standard_normal(shape).astype(np.float32)
    blocks = list(row_blocks(values))
    assert sum(block.size for block in blocks) == values.size
    assert all(block.dtype == np.float64 and block.size <= max(BLOCK, values.size) for block in blocks)
    assert math.isclose(sum(block.sum() for block in blocks), values.sum(dtype=np.float64), abs_tol=1e-9)


class Second:
    """The rows of a second process: the first has others."""

    def __init__(self, first, axes):
        self.first, self.axes = first, axes

    def sums(self, partial):
        from lcnumba.utils.norms import _squares_over

        return partial(_squares_over(self.first, self.axes, None, None))

    def maximum(self, values):
        return np.maximum(values, np.abs(self.first).max(self.axes, keepdims=True))


@pytest.mark.parametrize("axes", [(0,), (0, 1), (0, 2), (0, 1, 2)])
def test_norms_over_rows_are_continued(axes, rng):
    values = rng.standard_normal((30, 7, 5)).astype(np.float32)
    whole = norms_over(values, axes)
    np.testing.assert_allclose(whole, np.sqrt(np.sum(np.square(values, dtype=np.float64), axes, keepdims=True)))
    np.testing.assert_array_equal(norms_over(values[11:], axes, Second(values[:11], axes)), whole)


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_norms_of_rows_do_not_depend_on_how_many_there_are(axes, rng):
    values = rng.standard_normal((40, 700, 9)).astype(np.float32)
    whole = norms_over(values, axes)
    for first, last in ((0, 1), (3, 4), (5, 40)):
        np.testing.assert_array_equal(norms_over(values[first:last], axes), whole[first:last])
