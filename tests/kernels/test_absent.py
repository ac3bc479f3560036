"""The test of whether excluded weights are 0."""

import numpy as np
import pytest

from lcnumba.kernels import absent
from lcnumba.kernels.absent import absent_are_zero

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("filters", [1, 5])
@pytest.mark.parametrize("value", [1.0, -np.inf, np.nan, -np.nan, "subnormal"])
def test_one_weight_that_is_not_0_is_found(dtype, axes, filters, value, rng, monkeypatch):
    monkeypatch.setattr(absent, "TASK_SIZE", 8)
    mask = rng.random((3, 4, filters)[:axes]) < 0.5
    present = np.broadcast_to(np.atleast_3d(mask), (3, 4, filters))
    kernel = np.where(present, dtype(np.nan), dtype(-0.0))
    assert absent_are_zero(kernel, mask)
    for place in np.argwhere(~present):
        changed = kernel.copy()
        changed[tuple(place)] = np.finfo(dtype).smallest_subnormal if value == "subnormal" else value
        assert not absent_are_zero(changed, mask)
        assert not absent_are_zero(changed, mask, 2)
    for place in np.argwhere(present):
        changed = kernel.copy()
        changed[tuple(place)] = 1
        assert absent_are_zero(changed, mask)


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must be C-contiguous and fit"):
        absent_are_zero(np.zeros((3, 4, 2)), np.ones((3, 5), bool))
    with pytest.raises(ValueError, match="must be C-contiguous and fit"):
        absent_are_zero(np.zeros((3, 4, 2)), np.asfortranarray(np.ones((3, 4), bool)))
