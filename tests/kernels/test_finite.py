"""The test of whether all numbers are finite."""

import numpy as np
import pytest

from lcnumba.kernels import finite
from lcnumba.kernels.finite import all_finite

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [0, 1, 7, 33, 100])
def test_one_number_that_is_not_finite_is_found(dtype, bad, size, monkeypatch):
    info = np.finfo(dtype)
    values = np.resize(np.array([0, -0.0, 1, -1, info.max, -info.max, info.tiny, info.smallest_subnormal], dtype), size)
    assert all_finite(values)
    assert all_finite(values, 2)
    for place in range(size):
        changed = values.copy()
        changed[place] = bad
        assert not all_finite(changed)


def test_every_task_counts():
    size = 3 * finite.TASK_SIZE + 5
    for place in (0, finite.TASK_SIZE - 1, finite.TASK_SIZE, size - 1):
        values = np.zeros(size, np.float32)
        values[place] = np.nan
        assert not all_finite(values, 3)
    assert all_finite(np.zeros(size, np.float32), 3)
