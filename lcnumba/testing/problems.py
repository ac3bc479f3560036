"""Helpers for tests: a table of problems, integer data, exact identities; also for tests of custom layers.

The layer is linear in its input and in its kernel. So on small integers held as floats all implementations must give
bitwise equal results, as long as no sum of absolute terms reaches 2^24 (float32). Only activations and losses need
tolerances.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lcnumba.connectivity.geometry import Geometry, Padding
from lcnumba.utils.types import Array

__all__ = ["PROBLEMS", "Problem", "adjoint_sums", "integers", "numerical_gradient"]


# Integers of at most this magnitude: products stay below 2^5, sums of 2^19 of them below 2^24.
LIMIT = 4


@dataclass(frozen=True)
class Problem:
    """A layer size, and the case it tests; `str(problem)` is its name.

    Attributes
    ----------
    name, why : str
        A label, and the tested case.
    batch : int
        Samples N.
    input_size : tuple of int
        Spatial size, of rank 1, 2 or 3.
    channels, filters : int
        C and F.
    kernel_size, strides, dilation : tuple of int
        Window size, stride between windows, step between taps.
    padding : str or tuple
        "valid", "same", or (before, after) for each dimension.
    padding_mode : str or tuple of str
        "zeros" or "circular".

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> from lcnumba import reference
    >>> from lcnumba.testing import Problem
    >>> problem = Problem("mine", "strides that differ", 2, (7, 5), 3, 4, (3, 2), (3, 1))
    >>> x, kernel, bias, dy = problem.data(np.random.default_rng(0))
    >>> layer = lc.LocallyConnected2D(4, (3, 2), strides=(3, 1), weights=[kernel, bias])
    >>> np.array_equal(layer(x), reference.forward(x, kernel, bias, **problem.settings))
    True
    """

    name: str
    why: str
    batch: int
    input_size: tuple[int, ...]
    channels: int
    filters: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding = "valid"
    dilation: tuple[int, ...] | None = None
    padding_mode: str | tuple[str, ...] = "zeros"
    groups: int = 1
    weight_sharing: Any = None

    def __str__(self) -> str:
        return self.name

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters of the windows, for `lcnumba.reference`."""
        return {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "dilation": self.dilation or (1,) * len(self.input_size),
            "padding": self.padding,
            "padding_mode": self.padding_mode,
            "groups": self.groups,
            "weight_sharing": self.weight_sharing,
        }

    @property
    def geometry(self) -> Geometry:
        """The geometry of the layer."""
        return Geometry(self.input_size, self.channels, self.filters, **self.settings)

    def data(self, rng: np.random.Generator, dtype: Any = np.float32) -> tuple[Array, Array, Array, Array]:
        """Return random integers held as floats.

        Parameters
        ----------
        rng : numpy.random.Generator
            Random generator.
        dtype : float32 or float64, default float32
            Of the arrays.

        Returns
        -------
        x, kernel, bias, dy : arrays, (N, *input, C), (S, K, F), (*output, F) and (N, *output, F)
            Values from -4 to 4; the kernel is 0 where no connection exists.

        Raises
        ------
        AssertionError
            If sums need not be exact in float32.
        """
        g = self.geometry
        x = integers(rng, (self.batch, *self.input_size, self.channels), dtype)
        kernel = np.where(g.weight_exists[:, :, None], integers(rng, g.kernel_shape, dtype), 0).astype(dtype)
        bias = integers(rng, g.bias_shape, dtype)
        dy = integers(rng, (self.batch, *g.bias_shape), dtype)
        positions = g.positions if g.sets is None else np.bincount(g.sets).max()  # at most, of a set of weights
        assert LIMIT**2 * max(g.window * g.filters, self.batch * positions) < 2**24
        return x, kernel, bias, dy


WRAP, FIRST, LAST, LAST_OF_3 = "circular", ("circular", "zeros"), ("zeros", "circular"), ("zeros", "zeros", "circular")

PROBLEMS = (
    Problem("plain", "the common case", 3, (8, 7), 3, 4, (3, 2), (1, 1)),
    Problem("stride_tail", "the last columns are read by no window", 2, (9, 10), 2, 3, (2, 3), (2, 3)),
    Problem("stride_over_kernel", "inputs between windows are never read: dx is 0", 2, (9, 8), 2, 3, (2, 1), (4, 3)),
    Problem("strides_differ", "rows and columns must not be swapped", 2, (9, 6), 1, 2, (2, 3), (1, 3)),
    Problem("one_position", "the window is the whole input", 4, (3, 4), 2, 3, (3, 4), (1, 1)),
    Problem("one_by_one", "a window of one tap", 2, (4, 3), 3, 2, (1, 1), (1, 1)),
    Problem("one_by_one_stride", "one tap, most inputs unread", 2, (5, 5), 3, 2, (1, 1), (2, 2)),
    Problem("one_filter", "a vector one lane wide; a transpose that is a view", 3, (6, 6), 2, 1, (3, 3), (1, 1)),
    Problem("one_channel_one_tap", "K = 1", 3, (4, 4), 1, 5, (1, 1), (1, 1)),
    Problem("ragged_filters", "no vector width divides 19", 2, (5, 6), 2, 19, (2, 2), (1, 1)),
    Problem("wide_filters", "several vectors and a tail", 2, (4, 4), 3, 70, (3, 3), (1, 1)),
    Problem("few_filters", "vectors along the inputs for the gradient", 18, (4, 6), 7, 3, (2, 3), (1, 2)),
    Problem("batch_0", "nothing in, nothing out, zero gradients", 0, (6, 5), 2, 3, (3, 3), (1, 1)),
    Problem("batch_1", "one sample", 1, (6, 5), 2, 3, (3, 3), (1, 1)),
    Problem("batch_33", "no vector width divides the batch", 33, (5, 4), 2, 3, (2, 2), (1, 1)),
    Problem("same_odd", "windows clipped on all sides", 2, (6, 5), 2, 3, (3, 3), (1, 1), "same"),
    Problem("same_even", "Keras begins an even window at -k/2", 2, (6, 7), 2, 3, (2, 4), (1, 1), "same"),
    Problem("same_stride", "Keras' strided windows are not TensorFlow's", 2, (6, 7), 2, 3, (3, 3), (2, 2), "same"),
    Problem("same_over_input", "a kernel larger than the input", 2, (3, 2), 2, 3, (5, 7), (1, 1), "same"),
    Problem("same_stride_over_kernel", "one tap, clipped", 2, (7, 7), 2, 3, (2, 2), (3, 4), "same"),
    Problem("dilated", "each tap is a segment of its own", 2, (9, 9), 2, 3, (3, 3), (1, 1), "valid", (2, 3)),
    Problem("dilated_same", "dilated and clipped", 2, (6, 7), 2, 3, (3, 3), (1, 2), "same", (2, 3)),
    Problem("dilated_rows", "dilated across lines only", 2, (9, 5), 2, 3, (3, 2), (1, 1), "valid", (3, 1)),
    Problem("one_row", "a single line in a layer of rank 2", 2, (1, 40), 2, 3, (1, 5), (1, 2)),
    Problem("rank_1", "one line, cut into bands", 3, (50,), 3, 4, (5,), (1,)),
    Problem("rank_1_same_dilated", "bands cut clipped and dilated windows", 2, (37,), 2, 3, (4,), (3,), "same", (2,)),
    Problem("rank_1_long_kernel", "a window over several bands", 2, (70,), 1, 2, (40,), (3,)),
    Problem("rank_3", "lines over two dimensions", 2, (5, 4, 6), 2, 3, (2, 3, 2), (1, 1, 2)),
    Problem("padded", "explicit padding, another on each side", 2, (5, 6), 2, 3, (3, 4), (1, 2), ((2, 0), (1, 3))),
    Problem("padded_dilated", "dilated padding", 2, (5, 6), 2, 3, (2, 2), (1, 1), ((2, 1), (0, 3)), (2, 3)),
    Problem("circular", "rows and columns wrap", 3, (5, 6), 2, 5, (3, 4), (1, 1), "same", None, WRAP),
    Problem("circular_columns", "longitudes wrap, latitudes end", 2, (5, 6), 2, 3, (3, 3), (2, 1), "same", None, LAST),
    Problem(
        "circular_rows", "two tap lines read one line", 17, (3, 6), 2, 3, (3, 2), (1, 1), ((2, 1), (0, 0)), None, FIRST
    ),
    Problem("circular_over_input", "an input met twice", 2, (3, 2), 2, 9, (5, 3), (1, 1), "same", None, WRAP),
    Problem("circular_dilated", "each tap wraps", 2, (5, 7), 3, 3, (3, 3), (1, 2), ((2, 2), (3, 3)), (2, 2), WRAP),
    Problem("rank_1_circular", "bands cut a window that wraps", 18, (40,), 3, 4, (5,), (1,), "same", None, WRAP),
    Problem("rank_3_circular", "one axis of three", 2, (3, 4, 5), 2, 2, (3, 2, 3), (1, 1, 1), "same", None, LAST_OF_3),
    Problem("one_filter_once", "one filter, each input read once", 7, (100,), 2, 1, (20,), (20,)),
    Problem("one_filter_batch_0", "one filter, no samples", 0, (3, 60), 1, 1, (2, 20), (1, 7)),
    Problem("one_filter_long", "one filter on long segments that overlap", 9, (3, 60), 1, 1, (2, 20), (1, 7)),
    Problem(
        "one_filter_wraps", "one filter on long segments that wrap", 5, (50,), 1, 1, (36,), (3,), "same", None, WRAP
    ),
    Problem("long_line", "many positions in one call", 8, (3, 40), 4, 4, (3, 3), (1, 1), "same", None, LAST),
    Problem(
        "reads_nothing",
        "the input lies in the gaps of windows",
        2,
        (1, 2),
        1,
        2,
        (1, 2),
        (1, 1),
        ((0, 0), (1, 7)),
        (1, 9),
        weight_sharing="all",
    ),
    Problem("tf_same", "TensorFlow's windows", 2, (6, 7), 2, 3, (4, 3), (3, 2), "tf_same", (1, 2)),
    Problem("tf_same_circular", "the same windows, which wrap", 2, (6, 7), 2, 3, (4, 3), (1, 2), "tf_same", None, WRAP),
    Problem("depthwise", "a channel and a filter a group", 18, (5, 6), 5, 5, (3, 3), (1, 1), groups=5),
    Problem("depthwise_multiplier", "filters of one channel", 3, (6, 5), 3, 6, (2, 3), (2, 1), "same", groups=3),
    Problem("groups", "several channels a group: taps are apart", 17, (5, 6), 6, 4, (3, 2), (1, 2), "same", groups=2),
    Problem("groups_wide", "groups of several vectors", 3, (3, 4), 4, 80, (2, 3), (1, 1), groups=2),
    Problem("groups_rank_1", "dilated groups in bands", 2, (40,), 4, 2, (3,), (1,), "same", (2,), WRAP, groups=2),
    Problem("groups_batch_1", "groups and one sample", 1, (5, 4), 4, 4, (2, 2), (1, 1), groups=4),
    Problem("conv", "one set of weights", 3, (8, 16), 3, 20, (3, 3), (1, 1), "same", weight_sharing="all"),
    Problem("conv_few_filters", "few filters, one set", 18, (6, 7), 5, 2, (3, 3), (1, 1), weight_sharing="all"),
    Problem("conv_one_filter", "a row of weights", 4, (5, 40), 1, 1, (2, 20), (1, 1), weight_sharing="all"),
    Problem("conv_stride", "fewer positions", 17, (9, 9), 9, 33, (3, 2), (2, 3), "tf_same", weight_sharing="all"),
    Problem(
        "conv_wraps",
        "runs end where windows wrap",
        2,
        (4, 20),
        2,
        4,
        (3, 3),
        (1, 1),
        "same",
        None,
        WRAP,
        weight_sharing="all",
    ),
    Problem("conv_rank_1", "one long line", 2, (300,), 2, 12, (5,), (1,), weight_sharing="all"),
    Problem("conv_rank_3", "three dimensions", 2, (3, 4, 5), 2, 3, (2, 3, 2), (1, 1, 1), "same", weight_sharing="all"),
    Problem(
        "conv_groups",
        "a depthwise convolution",
        17,
        (6, 15),
        4,
        4,
        (3, 3),
        (1, 1),
        "same",
        groups=4,
        weight_sharing="all",
    ),
    Problem(
        "blocks",
        "neighbours share, and the last blocks are smaller",
        18,
        (7, 8),
        2,
        9,
        (2, 3),
        (1, 1),
        weight_sharing=(2, 4),
    ),
    Problem(
        "bands",
        "longitudes share, latitudes differ",
        2,
        (6, 24),
        2,
        5,
        (3, 3),
        (1, 1),
        "same",
        None,
        LAST,
        weight_sharing=np.repeat(np.arange(6), 24).reshape(6, 24),
    ),
    Problem(
        "columns_share",
        "the set of the next position is the next one",
        3,
        (5, 7),
        2,
        20,
        (2, 2),
        (1, 1),
        weight_sharing=np.tile(np.arange(6), (4, 1)),
    ),
    Problem(
        "regions",
        "any positions share",
        17,
        (12,),
        3,
        4,
        (3,),
        (1,),
        "same",
        weight_sharing=np.array([0, 1, 0, 2, 2, 1, 0, 3, 3, 3, 1, 4]),
    ),
    Problem("rank_3_same", "clipped in three dimensions", 2, (3, 4, 5), 2, 2, (3, 2, 3), (2, 1, 2), "same"),
)


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Return random integers from -4 to 4, held as floats.

    Parameters
    ----------
    rng : numpy.random.Generator
        Random generator.
    shape : tuple of int
        Shape of the array.
    dtype : float32 or float64, default float32
        Its dtype.

    Returns
    -------
    array

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.testing import integers
    >>> np.unique(integers(np.random.default_rng(0), (1000,)))
    array([-4., -3., -2., -1.,  0.,  1.,  2.,  3.,  4.], dtype=float32)
    """
    return rng.integers(-LIMIT, LIMIT + 1, shape).astype(dtype)


def adjoint_sums(x: Array, kernel: Array, dy: Array, y: Array, dx: Array, dkernel: Array) -> tuple[float, float, float]:
    """Return (<dy, y>, <dx, x>, <dkernel, kernel>), which are equal for a linear layer without bias.

    Exact on integers; computed in float64.

    Parameters
    ----------
    x, kernel, dy : arrays
        Inputs of the layer.
    y, dx, dkernel : arrays
        Results, of the shapes of dy, x and kernel.

    Returns
    -------
    float, float, float

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> from lcnumba.testing import adjoint_sums, integers
    >>> rng = np.random.default_rng(0)
    >>> x, kernel, dy = integers(rng, (5, 9, 1)), integers(rng, (7, 3, 2)), integers(rng, (5, 7, 2))
    >>> y, backward = lc.LocallyConnected1D(2, 3, use_bias=False, weights=[kernel]).forward(x)
    >>> dx, grads = backward(dy)
    >>> first, second, third = adjoint_sums(x, kernel, dy, y, dx, grads.kernel)
    >>> first == second == third
    True
    """
    pairs = ((dy, y), (dx, x), (dkernel, kernel))
    first, second, third = (float(np.sum(a.astype(np.float64) * b)) for a, b in pairs)
    return first, second, third


def numerical_gradient(function: Any, at: Array, step: float = 1e-5) -> Array:
    """Return the gradient of a scalar function by central differences.

    Parameters
    ----------
    function : callable
        Takes an array of the shape of `at`, and returns a scalar.
    at : array of float64
        Where to differentiate.
    step : float, default 1e-5
        Step of the differences.

    Returns
    -------
    array
        Of the shape of `at`.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.testing import numerical_gradient
    >>> numerical_gradient(lambda w: np.sum(w**2), np.array([1.0, 3.0])).round(6)
    array([2., 6.])
    """
    gradient = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        above, below = at.copy(), at.copy()
        above[index] += step
        below[index] -= step
        gradient[index] = (function(above) - function(below)) / (2 * step)
    return gradient


def __dir__() -> list[str]:
    return __all__
