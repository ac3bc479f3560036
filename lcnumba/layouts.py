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
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.geometry import Geometry

__all__ = [
    "bias_from_keras",
    "bias_to_keras",
    "implementation_of",
    "kernel_from_keras",
    "kernel_shape",
    "kernel_to_keras",
]

Array = npt.NDArray[Any]


def kernel_shape(geometry: Geometry, implementation: int, data_format: str) -> tuple[int, ...]:
    """Return the shape in which Keras stores the kernel."""
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

    Raises
    ------
    ValueError
        If none does.
    """
    axes = {3: 1, 2 * (rank + 1): 2, 1: 3}
    if len(shape) not in axes:
        raise ValueError(
            f"kernel has shape {shape}; Keras stores it with 3 axes (implementation 1), {2 * (rank + 1)} (2) or 1 (3)"
        )
    return axes[len(shape)]


def kernel_from_keras(kernel: Array, geometry: Geometry, implementation: int, data_format: str) -> Array:
    """Return the canonical kernel (P, K, F) of one of Keras' shape; 0 where no connection exists."""
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
    """Return the kernel as Keras stores it; the dense form is 0 where no connection exists."""
    g, first = geometry, data_format == "channels_first"
    if implementation == 1:
        if not first:
            return kernel.copy()
        return kernel.reshape(g.positions, -1, g.channels, g.filters).transpose(0, 2, 1, 3).reshape(g.kernel_shape)
    if implementation == 2:
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
    """Return the bias (*output, F) as it takes effect in Keras."""
    if data_format != "channels_first":
        return bias
    return np.ascontiguousarray(np.moveaxis(bias.reshape(geometry.filters, *geometry.output_size), 0, -1))


def bias_to_keras(bias: Array, geometry: Geometry, data_format: str) -> Array:
    """Return the bias as Keras stores it."""
    if data_format != "channels_first":
        return bias.copy()
    return np.ascontiguousarray(np.moveaxis(bias, -1, 0)).reshape(geometry.bias_shape)


def _sparse_order(array: Array, g: Geometry, first: bool) -> Array:
    """A view of (P, K, any) in the order of the sparse form."""
    if not first:
        return array.transpose(0, 2, 1)
    taps = math.prod(g.kernel_size)
    return array.reshape(g.positions, taps, g.channels, -1).transpose(3, 0, 2, 1)
