"""Keras' ways to store the weights of a locally connected layer, and ours: pure conversions.

Keras' implementations store the kernel each in its own form, and each in another order with
channels_first:

==============  =========================================  ========================================
implementation  channels_last                              channels_first
==============  =========================================  ========================================
1               (P, K, F), K over (*taps, C)               (P, K, F), K over (C, *taps)
2               (*input, C, *output, F), dense             (C, *input, F, *output), dense
3               (existing,), over (*output, F), and for    (existing,), over (F, *output), and for
                each over (*input, C)                      each over (C, *input)
==============  =========================================  ========================================

Entries of the dense form where no connection exists hold anything. The bias has shape (*output, F) in both
formats; with channels_first Keras uses its memory as (F, *output).
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
    """Return the shape in which Keras stores the kernel.

    Parameters
    ----------
    geometry : Geometry
        Of the layer.
    implementation : {1, 2, 3}
        Keras' implementation.
    data_format : {"channels_last", "channels_first"}
        Of Keras' layer.

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
    """Return the implementation of Keras that stores a kernel with so many axes.

    Parameters
    ----------
    shape : tuple of int
        Of Keras' kernel.
    rank : int
        Spatial dimensions of the layer.

    Returns
    -------
    {1, 2, 3}

    Raises
    ------
    ValueError
        If none does.

    Examples
    --------
    >>> from lcnumba.bridges.keras2.layouts import implementation_of
    >>> implementation_of((3, 5, 6, 4, 4, 5), rank=2)
    2
    """
    axes = {3: 1, 2 * (rank + 1): 2, 1: 3}
    if len(shape) not in axes:
        raise ValueError(
            f"kernel has shape {shape}; Keras stores it with 3 axes (implementation 1), {2 * (rank + 1)} (2) or 1 (3)"
        )
    return axes[len(shape)]


def kernel_from_keras(kernel: Array, geometry: Geometry, implementation: int, data_format: str) -> Array:
    """Return the canonical kernel of one of Keras'.

    Parameters
    ----------
    kernel : array
        Of the shape that `kernel_shape` returns.
    geometry : Geometry
        Of the layer.
    implementation : {1, 2, 3}
        Keras' implementation.
    data_format : {"channels_last", "channels_first"}
        Of Keras' layer.

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
    g, first = geometry, data_format == "channels_first"
    if implementation == 1:
        if not first:
            return np.where(g.exists[:, :, None], kernel, kernel.dtype.type(0))
        turned = kernel.reshape(g.positions, g.channels, -1, g.filters).transpose(0, 2, 1, 3)
        return np.where(g.exists[:, :, None], turned.reshape(g.kernel_shape), kernel.dtype.type(0))
    canonical = np.zeros(g.kernel_shape, kernel.dtype)
    if implementation == 2:
        if first:
            kernel = np.moveaxis(np.moveaxis(kernel, 0, g.rank), g.rank + 1, -1)
        dense = kernel.reshape(g.inputs, g.positions, g.filters)
        for p in range(g.positions):
            there = g.exists[p]
            canonical[p, there] = dense[g.input_index[p, there], p]
        return canonical
    order, exists = _sparse_order(canonical, g, first), _sparse_order(g.exists[:, :, None], g, first)
    order[np.broadcast_to(exists, order.shape)] = kernel  # a view of the canonical one
    return canonical


def kernel_to_keras(kernel: Array, geometry: Geometry, implementation: int, data_format: str) -> Array:
    """Return the kernel as Keras stores it.

    Parameters
    ----------
    kernel : array, (P, K, F)
        The canonical kernel.
    geometry : Geometry
        Of the layer.
    implementation : {1, 2, 3}
        Keras' implementation.
    data_format : {"channels_last", "channels_first"}
        Of Keras' layer.

    Returns
    -------
    array
        A fresh array of the shape that `kernel_shape` returns; the dense form is 0 where no connection exists.

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
    g, first = geometry, data_format == "channels_first"
    if implementation == 1:
        if not first:
            return kernel.copy()
        turned = kernel.reshape(g.positions, -1, g.channels, g.filters).transpose(0, 2, 1, 3)
        return turned.copy().reshape(g.kernel_shape)
    if implementation == 2:
        require(
            g.inputs * g.positions * g.filters * kernel.itemsize * (2 if first else 1), "a kernel of implementation 2",
            f"implementation=1 holds the same weights in {kernel.nbytes / 1e9:.3g} GB",
        )  # fmt: skip
        dense = np.zeros((g.inputs, g.positions, g.filters), kernel.dtype)
        for p in range(g.positions):
            there = g.exists[p]
            dense[g.input_index[p, there], p] = kernel[p, there]
        dense = dense.reshape(kernel_shape(g, 2, "channels_last"))
        return np.ascontiguousarray(np.moveaxis(np.moveaxis(dense, -1, g.rank + 1), g.rank, 0)) if first else dense
    order, exists = _sparse_order(kernel, g, first), _sparse_order(g.exists[:, :, None], g, first)
    values: Array = order[np.broadcast_to(exists, order.shape)]
    return values


def bias_from_keras(bias: Array, geometry: Geometry, data_format: str) -> Array:
    """Return the bias as it takes effect in Keras.

    Parameters
    ----------
    bias : array, (*output, F)
        As Keras stores it.
    geometry : Geometry
        Of the layer.
    data_format : {"channels_last", "channels_first"}
        Of Keras' layer.

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
    """Return the bias as Keras stores it.

    Parameters
    ----------
    bias : array, (*output, F)
        The canonical bias.
    geometry : Geometry
        Of the layer.
    data_format : {"channels_last", "channels_first"}
        Of Keras' layer.

    Returns
    -------
    array, (*output, F)
        A fresh array.

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


def _sparse_order(array: Array, g: Geometry, first: bool) -> Array:
    """A view of (P, K, any) in the order of the sparse form."""
    if not first:
        return array.transpose(0, 2, 1)
    taps = math.prod(g.kernel_size)
    return array.reshape(g.positions, taps, g.channels, -1).transpose(3, 0, 2, 1)
