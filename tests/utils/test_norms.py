"""Norms of numbers as large and as small as their type holds."""

import math

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.utils.norms import norm_of_all, norms_over

LARGE, SMALL = 2.0**700, 2.0**-700


@pytest.mark.parametrize("scale", [1.0, LARGE, SMALL, 2.0**1020, 2.0**-1060])
def test_norms_are_scaled_before_they_are_squared(scale):
    values = np.array([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]]) * scale
    np.testing.assert_array_equal(norms_over(values, [1])[:, 0], np.array([5.0, 0.0, 10.0]) * scale)
    s, norm = norm_of_all([values[0, :1], values[0, 1:]])
    assert s * norm == 5 * scale
    assert lc.gradients.global_norm([values[0, :1], values[0, 1:]]) == 5 * scale


def test_rows_of_all_sizes_at_once():
    values = np.array([[3.0, 4.0], [3 * LARGE, 4 * LARGE], [3 * SMALL, 4 * SMALL], [np.inf, 1.0], [np.nan, 1.0]])
    np.testing.assert_array_equal(norms_over(values, [1])[:, 0], [5.0, 5 * LARGE, 5 * SMALL, np.inf, np.nan])


@pytest.mark.parametrize(
    ("grads", "limit", "expected"),
    [
        (np.array([1e200, 1e200]), 1.0, math.sqrt(0.5)),
        (np.full(4, 3e38, np.float32), 1e-6, 5e-7),
        (np.full(4, 1.7e308), 1.0, 0.5),  # the norm itself is beyond float64
        (np.array([3e-200, 3e-200]), 1e-200, math.sqrt(0.5) * 1e-200),
        (np.full(4, 1e-30, np.float32), 1e-37, 5e-38),
    ],
)
def test_gradients_are_clipped_to_the_norm_whatever_their_size(grads, limit, expected):
    (clipped,) = lc.gradients.clip_by_norm([grads], limit)
    assert clipped.dtype == grads.dtype
    np.testing.assert_allclose(clipped, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_so_are_weights_by_constraints(dtype):
    top = float(np.finfo(dtype).max) / 4
    weights = np.full((4, 1), top, dtype)
    for constraint in (lc.constraints.UnitNorm(), lc.constraints.MaxNorm(1), lc.constraints.MinMaxNorm(1, 1)):
        np.testing.assert_allclose(constraint(weights), 0.5, rtol=1e-6)
        in_place = weights.copy()
        constraint.apply(in_place)
        np.testing.assert_array_equal(in_place, constraint(weights))
    np.testing.assert_allclose(lc.constraints.MaxNorm(1e-6)(weights), 5e-7, rtol=1e-6)


def test_maps_of_norms():
    plotting = pytest.importorskip("matplotlib") and lc.plotting
    layer = lc.LocallyConnected2D(1, 2, kernel_initializer=lc.initializers.Constant(2.0**100), use_bias=False)
    layer.build((None, 3, 3, 1))
    drawn = plotting.weight_norm_map(layer).images[0].get_array()
    np.testing.assert_array_equal(drawn, np.full((2, 2), 2.0**101))
