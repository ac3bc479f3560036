"""Implementation 2: one dense (inputs, P*F) matrix and BLAS. Fast where windows are nearly whole."""

import numpy as np

from lcnumba.arrays import frozen
from lcnumba.geometry import TASKS, Geometry
from lcnumba.implementations.base import Array
from lcnumba.implementations.cache import FormCache
from lcnumba.implementations.matrix import MatrixForm
from lcnumba.kernels import slots
from lcnumba.kernels.dense import spread

__all__ = ["DenseMatrix"]


class DenseMatrix(MatrixForm):
    """The layer by matrix products; non-finite values spread over their whole sample (0 * inf)."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self._cache: FormCache[Array] = FormCache()

    def forward(
        self, x: Array, kernel: Array, bias: Array | None, version: int, *, rectify: bool = False,
        threads: int | None = None,
    ) -> Array:  # fmt: skip
        """Return y (N, P, F); see `Implementation`."""
        g = self._geometry
        y = (x @ self._matrix(kernel, version, threads)).reshape(len(x), g.positions, g.filters)
        if bias is not None:
            y += bias
        return np.maximum(y, 0, out=y) if rectify else y

    def _input_gradient(self, kernel: Array, dz: Array, version: int, threads: int | None) -> Array:
        return dz @ self._matrix(kernel, version, threads).T

    def _matrix(self, kernel: Array, version: int, threads: int | None) -> Array:
        """The kernel as a dense matrix (inputs, P*F), zero where no connection exists."""
        g = self._geometry

        def fill(old: Array | None) -> Array:
            matrix = np.zeros((g.inputs, g.positions * g.filters), kernel.dtype) if old is None else old
            chunk = -(-g.positions // TASKS)
            spread(frozen(kernel), g.input_index, chunk, matrix, threads=slots(kernel.size, threads))
            return matrix

        return self._cache.get(version, fill)
