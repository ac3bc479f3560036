"""Implementation 2: one dense (inputs, P*F) matrix and BLAS. Fast where windows are nearly whole."""

import numpy as np

from lcnumba.arrays import frozen
from lcnumba.geometry import TASKS, Geometry
from lcnumba.implementations.base import Array
from lcnumba.implementations.cache import FormCache
from lcnumba.implementations.loop import Loops
from lcnumba.kernels import Rule, slots
from lcnumba.kernels.dense import spread

__all__ = ["DenseMatrix"]


class DenseMatrix:
    """The layer by matrix products; non-finite values spread over their whole sample (0 * inf).

    The kernel's gradient is taken where connections exist alone, by the kernels of implementation 1: a
    product of whole matrices would compute the rest of a matrix as large as this one for nothing.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._loops = Loops(geometry)
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

    def backward(
        self, x: Array, kernel: Array, dy: Array, version: int, *, y: Array | None = None, wants_dx: bool = True,
        threads: int | None = None,
    ) -> tuple[Array | None, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        dx = self._input_gradient(kernel, dy, version, y, threads) if wants_dx else None
        _, dkernel = self._loops.backward(x, kernel, dy, version, y=y, wants_dx=False, threads=threads)
        return dx, dkernel

    def update(
        self, x: Array, kernel: Array, dy: Array, version: int, rule: Rule | None, *, y: Array | None = None,
        wants_dx: bool = True, threads: int | None = None,
    ) -> Array | None:  # fmt: skip
        """Return dx, and change the kernel; see `Implementation`."""
        dx = self._input_gradient(kernel, dy, version, y, threads) if wants_dx else None
        self._loops.update(x, kernel, dy, version, rule, y=y, wants_dx=False, threads=threads)
        return dx

    def _input_gradient(self, kernel: Array, dy: Array, version: int, y: Array | None, threads: int | None) -> Array:
        g = self._geometry
        dz = dy if y is None else np.where(y > 0, dy, dy.dtype.type(0))
        return dz.reshape(len(dy), g.positions * g.filters) @ self._matrix(kernel, version, threads).T

    def _matrix(self, kernel: Array, version: int, threads: int | None) -> Array:
        """The kernel as a dense matrix (inputs, P*F), zero where no connection exists."""
        g = self._geometry

        def fill(old: Array | None) -> Array:
            matrix = np.zeros((g.inputs, g.positions * g.filters), kernel.dtype) if old is None else old
            chunk = -(-g.positions // TASKS)
            spread(frozen(kernel), g.input_index, chunk, matrix, threads=slots(kernel.size, threads))
            return matrix

        return self._cache.get(version, fill)
