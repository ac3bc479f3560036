"""Keras' layouts, element by element, from the table in `lcnumba.bridges.keras2.layouts`."""

import itertools

import numpy as np
import pytest

from lcnumba.bridges.keras2 import layouts
from lcnumba.testing import PROBLEMS

NAMES = ("plain", "same_even", "dilated_same", "rank_1_same_dilated", "rank_3_same", "strides_differ", "one_filter")
CASES = [next(problem for problem in PROBLEMS if problem.name == name) for name in NAMES]
FORMATS = ("channels_last", "channels_first")


# Axes of each layout: p position, t tap, c channel, f filter, i input. The sparse layout holds the existing connections
# in this order.
ORDER = {
    (1, "channels_last"): "ptcf", (1, "channels_first"): "pctf", (2, "channels_last"): "icpf",
    (2, "channels_first"): "cifp", (3, "channels_last"): "pfic", (3, "channels_first"): "fpci",
}  # fmt: skip


def expected_storage(g, kernel, implementation, data_format):
    """Return the array in Keras, flat, weight by weight."""
    order, C = ORDER[implementation, data_format], g.channels
    size = {"p": g.positions, "t": g.window // C, "c": C, "f": g.filters, "i": g.inputs // C}
    weights = {}
    for p, t, c, f in itertools.product(*(range(size[axis]) for axis in "ptcf")):
        k = t * C + c
        if g.exists[p, k]:
            at = {"p": p, "t": t, "c": c, "f": f, "i": g.input_index[p, k] // C}
            weights[tuple(at[axis] for axis in order)] = kernel[p, k, f]
    if implementation == 3:
        return np.array([weights[at] for at in sorted(weights)])
    stored = np.zeros([size[axis] for axis in order])
    for at, weight in weights.items():
        stored[at] = weight
    return stored.ravel()


@pytest.mark.parametrize("problem", CASES, ids=str)
@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("data_format", FORMATS)
def test_every_weight_has_the_place_of_the_table(problem, implementation, data_format):
    g = problem.geometry
    numbers = np.arange(1.0, 1 + np.prod(g.kernel_shape)).reshape(g.kernel_shape)
    kernel = np.where(g.exists[:, :, None], numbers, 0)
    stored = expected_storage(g, kernel, implementation, data_format)
    found = layouts.kernel_to_keras(kernel, g, implementation, data_format)
    np.testing.assert_array_equal(found.ravel(), stored)
    assert found.shape == layouts.kernel_shape(g, implementation, data_format)
    assert not np.may_share_memory(found, kernel)
    assert layouts.implementation_of(found.shape, g.rank) == implementation
    if implementation < 3:
        stored[stored == 0] = np.nan  # elements without a connection are arbitrary
    stored = stored.reshape(found.shape)
    np.testing.assert_array_equal(layouts.kernel_from_keras(stored, g, implementation, data_format), kernel)


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_biases_follow_the_use_of_their_memory(problem):
    g = problem.geometry
    bias = np.arange(1.0 * np.prod(g.bias_shape)).reshape(g.bias_shape)
    first = bias.reshape(g.filters, *g.output_size)
    np.testing.assert_array_equal(layouts.bias_from_keras(bias, g, "channels_first"), np.moveaxis(first, 0, -1))
    for data_format in FORMATS:
        stored = layouts.bias_to_keras(bias, g, data_format)
        assert not np.may_share_memory(stored, bias)
        np.testing.assert_array_equal(layouts.bias_from_keras(stored, g, data_format), bias)


def test_a_kernel_with_another_number_of_axes():
    with pytest.raises(ValueError, match=r"kernel has shape \(2, 3\); it must have 3 axes .*, 6 \(2\) or 1"):
        layouts.implementation_of((2, 3), 2)
