"""Implementation 3: a scipy.sparse CSR matrix (P*F, inputs). Small where windows are few."""

import numpy as np
import scipy.sparse

from lcnumba.arrays import frozen
from lcnumba.geometry import TASKS, Geometry
from lcnumba.implementations.base import Array
from lcnumba.implementations.cache import FormCache
from lcnumba.kernels import SERIAL_WORK
from lcnumba.kernels.sparse import sampled_product

__all__ = ["SparseMatrix"]


class SparseMatrix:
    """The layer by sparse products, which hold the batch innermost; the gradient by sampling."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._cache: FormCache[scipy.sparse.csr_array] = FormCache()

    def forward(self, x: Array, kernel: Array, bias: Array | None, version: int) -> Array:
        """Return y (N, P, F); see `Implementation`."""
        g = self._geometry
        yt = self._matrix(kernel, version) @ np.ascontiguousarray(x.T)
        y = np.ascontiguousarray(yt.T).reshape(len(x), g.positions, g.filters)
        if bias is not None:
            y += bias
        return y

    def backward(self, x: Array, kernel: Array, dy: Array, version: int) -> tuple[Array, Array]:
        """Return (dx, dkernel); see `Implementation`."""
        g = self._geometry
        matrix = self._matrix(kernel, version)
        dyt = np.ascontiguousarray(dy.reshape(len(dy), g.positions * g.filters).T)
        dx = np.ascontiguousarray((matrix.T @ dyt).T)
        dvalues = np.empty_like(matrix.data)
        chunk = max(1, len(dyt) // TASKS)
        xt = np.ascontiguousarray(x.T)
        pattern = (frozen(matrix.indptr), frozen(matrix.indices))
        small = len(x) * len(dvalues) <= SERIAL_WORK
        sampled_product(frozen(dyt), frozen(xt), *pattern, chunk, dvalues, serial=small)
        dkernel = np.zeros_like(kernel)
        weights = dkernel.transpose(0, 2, 1)
        if g.complete:
            weights[...] = self._values(dvalues)
        else:
            weights[self._pattern()] = dvalues
        return dx, dkernel

    def _values(self, data: Array) -> Array:
        """The stored values as (P, F, K) where all weights exist, else as they are."""
        g = self._geometry
        return data.reshape(g.positions, g.filters, g.window) if g.complete else data

    def _pattern(self) -> np.ndarray:
        """Which (P, F, K) weights exist."""
        g = self._geometry
        return np.broadcast_to(g.exists[:, None, :], (g.positions, g.filters, g.window))

    def _matrix(self, kernel: Array, version: int) -> scipy.sparse.csr_array:
        """The kernel as a CSR matrix (P*F, inputs)."""
        g = self._geometry

        def fill(old: scipy.sparse.csr_array | None) -> scipy.sparse.csr_array:
            weights = kernel.transpose(0, 2, 1)
            if old is not None:
                self._values(old.data)[...] = weights if g.complete else weights[self._pattern()]
                return old
            # flatten, not reshape: with F = 1 a reshape would be a view of the caller's kernel
            values = weights.flatten() if g.complete else weights[self._pattern()]
            indptr, indices = g.csr_index()
            shape = (g.positions * g.filters, g.inputs)
            return scipy.sparse.csr_array((values, indices, indptr), shape=shape)

        return self._cache.get(version, fill)
