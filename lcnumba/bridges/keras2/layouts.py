"""Pure conversions between Keras' layouts of the weights of a locally connected layer and the canonical one.

Each Keras implementation has its own layout of the kernel, which also depends on the data format:

==============  =========================================  ========================================
implementation  channels_last                              channels_first
==============  =========================================  ========================================
1               (P, K, F), K over (*taps, C)               (P, K, F), K over (C, *taps)
2               (*input, C, *output, F), dense             (C, *input, F, *output), dense
3               (existing,), over (*output, F), and for    (existing,), over (F, *output), and for
                each over (*input, C)                      each over (C, *input)
==============  =========================================  ========================================

Elements of the dense layout without a connection are arbitrary. The bias has shape (*output, F) in both data formats,
but with channels_first Keras uses its memory as (F, *output).
"""

import math

import numpy as np

from lcnumba.connectivity.geometry import Geometry
from lcnumba.runtime.memory import require
from lcnumba.utils.types import Array

__all__ = [
    "bias_from_keras",
    "bias_to_keras",
    "implementation_of",
    "kernel_from_keras",
    "kernel_shape",
    "kernel_to_keras",
]


def kernel_shape(geometry: Geometry, implementation: int, data_format: str) -> tuple[int, ...]:
    """Return the shape of the kernel in Keras.

    Parameters
    ----------
    geometry : Geometry
        Of the layer.
    implementation : {1, 2, 3}
        Keras' implementation.
    data_format : {"channels_last", "channels_first"}
        Of the Keras layer.

    Returns
    -------
    tuple of int

    Examples
    --------
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> from lcnumba.bridges.keras2.layouts import kernel_shape
    >>> geometry = Geometry((5, 6), channels=3, filters=4, kernel_size=2)
    >>> [kernel_shape(geometry, implementation, "channels_first") for implementation in (1, 2, 3)]
    [(20, 12, 4), (3, 5, 6, 4, 4, 5), (960,)]
    """
    g = geometry
    if implementation == 1:
        return g.kernel_shape
    if implementation == 3:
        return (g.connections * g.filters,)
    if data_format == "channels_first":
        return (g.channels, *g.input_size, g.filters, *g.output_size)
    return (*g.input_size, g.channels, *g.output_size, g.filters)


def implementation_of(shape: tuple[int, ...], rank: int) -> int:
    """Return the Keras implementation of a kernel, by its number of axes.

    Parameters
    ----------
    shape : tuple of int
        Of the Keras kernel.
    rank : int
        Spatial dimensions of the layer.

    Returns
    -------
    {1, 2, 3}

    Raises
    ------
    ValueError
        If no implementation has that number of axes.

    Examples
    --------
    >>> from lcnumba.bridges.keras2.layouts import implementation_of
    >>> implementation_of((3, 5, 6, 4, 4, 5), rank=2)
    2
    """
    axes = {3: 1, 2 * (rank + 1): 2, 1: 3}
    if len(shape) not in axes:
        raise ValueError(
            f"kernel has shape {shape}; it must have 3 axes (implementation 1), {2 * (rank + 1)} (2) or 1 (3)"
        )
    return axes[len(shape)]


def kernel_from_keras(kernel: Array, geometry: Geometry, implementation: int, data_format: str) -> Array:
    """Return the canonical kernel from a Keras kernel.

    Parameters
    ----------
    kernel : array
        Of the shape that `kernel_shape` returns.
    geometry : Geometry
        Of the layer.
    implementation : {1, 2, 3}
        Keras' implementation.
    data_format : {"channels_last", "channels_first"}
        Of the Keras layer.

    Returns
    -------
    array, (P, K, F)
        Of the dtype of `kernel`; 0 where no connection exists.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> from lcnumba.bridges.keras2.layouts import kernel_from_keras
    >>> geometry = Geometry((3,), channels=1, filters=1, kernel_size=2)
    >>> kernel_from_keras(np.array([1.0, 2.0, 3.0, 4.0]), geometry, 3, "channels_last")[:, :, 0]
    array([[1., 2.],
           [3., 4.]])
    """
    g, channels_first = geometry, data_format == "channels_first"
    if implementation == 1:
        if not channels_first:
            return np.where(g.exists[:, :, None], kernel, kernel.dtype.type(0))
        transposed = kernel.reshape(g.positions, g.channels, -1, g.filters).transpose(0, 2, 1, 3)
        return np.where(g.exists[:, :, None], transposed.reshape(g.kernel_shape), kernel.dtype.type(0))
    canonical = np.zeros(g.kernel_shape, kernel.dtype)
    if implementation == 2:
        if channels_first:
            kernel = np.moveaxis(np.moveaxis(kernel, 0, g.rank), g.rank + 1, -1)
        dense = kernel.reshape(g.inputs, g.positions, g.filters)
        for p in range(g.positions):
            exists = g.exists[p]
            canonical[p, exists] = dense[g.input_index[p, exists], p]
        return canonical
    order, exists = _sparse_order(canonical, g, channels_first), _sparse_order(g.exists[:, :, None], g, channels_first)
    order[np.broadcast_to(exists, order.shape)] = kernel  # writes into canonical, of which it is a view
    return canonical


def kernel_to_keras(kernel: Array, geometry: Geometry, implementation: int, data_format: str) -> Array:
    """Return the kernel in the layout of Keras.

    Parameters
    ----------
    kernel : array, (P, K, F)
        The canonical kernel.
    geometry : Geometry
        Of the layer.
    implementation : {1, 2, 3}
        Keras' implementation.
    data_format : {"channels_last", "channels_first"}
        Of the Keras layer.

    Returns
    -------
    array
        A new array of the shape that `kernel_shape` returns; the dense layout is 0 where no connection exists.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> from lcnumba.bridges.keras2.layouts import kernel_to_keras
    >>> geometry = Geometry((3,), channels=1, filters=1, kernel_size=2)
    >>> kernel_to_keras(np.array([[[1.0], [2.0]], [[3.0], [4.0]]]), geometry, 2, "channels_last").reshape(3, 2)
    array([[1., 0.],
           [2., 3.],
           [0., 4.]])
    """
    g, channels_first = geometry, data_format == "channels_first"
    if implementation == 1:
        if not channels_first:
            return kernel.copy()
        transposed = kernel.reshape(g.positions, -1, g.channels, g.filters).transpose(0, 2, 1, 3)
        return transposed.copy().reshape(g.kernel_shape)
    if implementation == 2:
        copies = 2 if channels_first else 1
        require(
            g.inputs * g.positions * g.filters * kernel.itemsize * copies, "a kernel of implementation 2",
            f"implementation=1 holds the same weights in {kernel.nbytes / 1e9:.3g} GB",
        )  # fmt: skip
        dense = np.zeros((g.inputs, g.positions, g.filters), kernel.dtype)
        for p in range(g.positions):
            exists = g.exists[p]
            dense[g.input_index[p, exists], p] = kernel[p, exists]
        dense = dense.reshape(kernel_shape(g, 2, "channels_last"))
        if not channels_first:
            return dense
        return np.ascontiguousarray(np.moveaxis(np.moveaxis(dense, -1, g.rank + 1), g.rank, 0))
    order, exists = _sparse_order(kernel, g, channels_first), _sparse_order(g.exists[:, :, None], g, channels_first)
    values: Array = order[np.broadcast_to(exists, order.shape)]
    return values


def bias_from_keras(bias: Array, geometry: Geometry, data_format: str) -> Array:
    """Return the canonical bias from a Keras bias.

    Parameters
    ----------
    bias : array, (*output, F)
        In the layout of Keras.
    geometry : Geometry
        Of the layer.
    data_format : {"channels_last", "channels_first"}
        Of the Keras layer.

    Returns
    -------
    array, (*output, F)
        The canonical bias.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> from lcnumba.bridges.keras2.layouts import bias_from_keras
    >>> geometry = Geometry((3,), channels=1, filters=2, kernel_size=2)
    >>> bias_from_keras(np.array([[1.0, 2.0], [3.0, 4.0]]), geometry, "channels_first")
    array([[1., 3.],
           [2., 4.]])
    """
    if data_format != "channels_first":
        return bias
    return np.ascontiguousarray(np.moveaxis(bias.reshape(geometry.filters, *geometry.output_size), 0, -1))


def bias_to_keras(bias: Array, geometry: Geometry, data_format: str) -> Array:
    """Return the bias in the layout of Keras.

    Parameters
    ----------
    bias : array, (*output, F)
        The canonical bias.
    geometry : Geometry
        Of the layer.
    data_format : {"channels_last", "channels_first"}
        Of the Keras layer.

    Returns
    -------
    array, (*output, F)
        A new array.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.connectivity.geometry import Geometry
    >>> from lcnumba.bridges.keras2.layouts import bias_to_keras
    >>> geometry = Geometry((3,), channels=1, filters=2, kernel_size=2)
    >>> bias_to_keras(np.array([[1.0, 3.0], [2.0, 4.0]]), geometry, "channels_first")
    array([[1., 2.],
           [3., 4.]])
    """
    if data_format != "channels_first":
        return bias.copy()
    return np.moveaxis(bias, -1, 0).copy().reshape(geometry.bias_shape)


def _sparse_order(array: Array, g: Geometry, channels_first: bool) -> Array:
    """Return a view of (P, K, any) in the order of the sparse layout."""
    if not channels_first:
        return array.transpose(0, 2, 1)
    taps = math.prod(g.kernel_size)
    return array.reshape(g.positions, taps, g.channels, -1).transpose(3, 0, 2, 1)
