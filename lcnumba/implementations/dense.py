"""Implementation 2: one dense (inputs, P*F) matrix and BLAS. Fast where windows are nearly whole."""

import numpy as np

from lcnumba.geometry import Geometry
from lcnumba.implementations.base import Array
from lcnumba.implementations.cache import FormCache

__all__ = ["DenseMatrix"]

# Bytes of the product that a block of positions makes before its gradients are gathered.
BLOCK_BYTES = 1 << 25


class DenseMatrix:
    """The layer by matrix products; non-finite values spread over their whole sample (0 * inf)."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._cache: FormCache[Array] = FormCache()

    def forward(self, x: Array, kernel: Array, bias: Array | None, version: int) -> Array:
        """Return y (N, P, F); see `Implementation`."""
        g = self._geometry
        y = (x @ self._matrix(kernel, version)).reshape(len(x), g.positions, g.filters)
        if bias is not None:
            y += bias
        return y

    def backward(self, x: Array, kernel: Array, dy: Array, version: int) -> tuple[Array, Array]:
        """Return (dx, dkernel); see `Implementation`."""
        g = self._geometry
        dx = dy.reshape(len(dy), g.positions * g.filters) @ self._matrix(kernel, version).T
        dkernel = np.zeros_like(kernel)
        block = max(1, BLOCK_BYTES // (g.inputs * g.filters * kernel.itemsize))
        for begin in range(0, g.positions, block):
            part = slice(begin, begin + block)
            exists = g.exists[part]
            dy_part = dy[:, part].reshape(len(dy), len(exists) * g.filters)
            product = (x.T @ dy_part).reshape(g.inputs, len(exists), g.filters)
            position, entry = np.nonzero(exists)
            rows = g.input_index[part][position, entry]
            dkernel[part][position, entry] = product[rows, position]
        return dx, dkernel

    def _matrix(self, kernel: Array, version: int) -> Array:
        """The kernel as a dense matrix (inputs, P*F), zero where no connection exists."""
        g = self._geometry

        def fill(old: Array | None) -> Array:
            matrix = np.zeros((g.inputs, g.positions * g.filters), kernel.dtype) if old is None else old
            matrix.reshape(-1, g.filters)[g.dense_index()] = kernel[g.exists]
            return matrix

        return self._cache.get(version, fill)
