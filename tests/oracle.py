"""Comparison with the reference implementation, used by several test files."""

import numpy as np

from lcnumba.implementations.create import create
from lcnumba.testing import reference


def run(implementation, problem, x, kernel, bias, dy, version=0, threads=None):
    """Return (y, dx, dkernel) in the shapes of the layer."""
    g, n = problem.geometry, len(x)
    flat, flat_bias = x.reshape(n, g.inputs), None if bias is None else bias.reshape(g.positions, g.filters)
    y = implementation.apply(flat, kernel, flat_bias, version=version, threads=threads)
    dx, dkernel = implementation.gradients(flat, kernel, dy.reshape(y.shape), version=version, threads=threads)
    return y.reshape(dy.shape), dx.reshape(x.shape), dkernel


def check_against_reference(problem, number, dtype, rng):
    x, kernel, bias, dy = problem.data(rng, dtype)
    y, dx, dkernel = run(create(number, problem.geometry), problem, x, kernel, bias, dy)
    expected_dx, expected_dkernel, _ = reference.backward(x, kernel, dy, **problem.settings)
    np.testing.assert_array_equal(y, reference.forward(x, kernel, bias, **problem.settings), strict=False)
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_array_equal(dkernel, expected_dkernel)
    assert y.dtype == dx.dtype == dkernel.dtype == dtype
