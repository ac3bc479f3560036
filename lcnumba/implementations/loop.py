"""Implementation 1: Numba kernels over lines. No other form of the weights, no patch matrix."""

import numpy as np

from lcnumba.arrays import frozen
from lcnumba.geometry import TASKS, Geometry
from lcnumba.implementations.base import Array
from lcnumba.kernels import SERIAL_WORK
from lcnumba.kernels import loop as kernels

__all__ = ["Loops"]


class Loops:
    """The layer by kernels that read the canonical weights as they lie."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._chunk = -(-geometry.positions // TASKS)  # positions of a task

    def forward(self, x: Array, kernel: Array, bias: Array | None, version: int) -> Array:
        """Return y (N, P, F); see `Implementation`."""
        g = self._geometry
        y = np.empty((len(x), g.positions, g.filters), x.dtype)
        bias = np.empty((0, 0), x.dtype) if bias is None else bias
        columns = g.columns
        tables = (*g.by_output, columns.start, *columns[2:])
        sizes = (g.channels, g.kernel_size[-1], self._chunk)
        kernels.forward(self._lines(x), frozen(kernel), frozen(bias), *tables, *sizes, y, serial=self._is_small(x))
        return y

    def backward(self, x: Array, kernel: Array, dy: Array, version: int) -> tuple[Array, Array]:
        """Return (dx, dkernel); see `Implementation`."""
        g = self._geometry
        dx = np.empty_like(x)
        # The kernels write existing connections only, so the others must be 0 beforehand.
        dkernel = np.empty_like(kernel) if g.complete else np.zeros_like(kernel)
        tables = (*g.by_input, *g.bands)
        sizes = (g.channels, g.kernel_size[-1], g.output_size[-1])
        dy = frozen(dy)
        small = self._is_small(x)
        dx_lines = dx.reshape(self._lines(x).shape)
        kernels.backward_input(frozen(kernel), dy, *tables, g.band_edges, *sizes, dx_lines, serial=small)
        kernels.backward_kernel(self._lines(x), dy, *tables, *sizes, dkernel, serial=small)
        return dx, dkernel

    def _is_small(self, x: Array) -> bool:
        g = self._geometry
        return len(x) * g.connections * g.filters <= SERIAL_WORK

    def _lines(self, x: Array) -> Array:
        """X as read-only (N, LI, W*C)."""
        g = self._geometry
        return frozen(x.reshape(len(x), g.input_lines, g.input_size[-1] * g.channels))
