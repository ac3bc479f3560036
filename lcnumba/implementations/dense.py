"""Implementation 2: one dense (inputs, P*F) matrix. Fast if windows cover most of the input."""

import math

import numpy as np

from lcnumba.connectivity.geometry import TASKS, Geometry
from lcnumba.implementations.cache import LayoutCache
from lcnumba.implementations.loop import Loops
from lcnumba.implementations.matrix import MatrixImplementation
from lcnumba.implementations.scratch import aligned
from lcnumba.kernels import vectors
from lcnumba.kernels.dense import spread
from lcnumba.kernels.rules import workers
from lcnumba.runtime.memory import require
from lcnumba.utils.types import Array

__all__ = ["DenseMatrix"]


class DenseMatrix(MatrixImplementation):
    """The layer as a dense matrix product; non-finite values spread over their whole sample (0 * inf)."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self._cache: LayoutCache[Array] = LayoutCache()
        # A dense matrix is a layer of one position, whose window is the whole input. BLAS would first pack the whole
        # matrix, even for a few samples.
        size, outputs = geometry.input_size, geometry.positions * geometry.filters
        self._single_position = Loops(Geometry(size, geometry.channels, outputs, size))

    def apply(
        self, x: Array, kernel: Array, bias: Array | None = None, *, relu: bool = False, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return y (N, P, F); see `Implementation`."""
        g = self._geometry
        matrix = self._matrix(kernel, version, threads)[None]
        row = None
        if bias is not None:
            # Kernels need a contiguous row: a broadcast bias is a view with stride 0.
            row = np.ascontiguousarray(np.broadcast_to(bias, (g.positions, g.filters))).reshape(1, -1)
        y = aligned((len(x), g.positions, g.filters), x.dtype) if out is None else out
        flat = y.reshape(len(x), 1, g.positions * g.filters)
        if vectors.TILED:
            self._single_position.apply(x, matrix, row, relu=relu, threads=threads, out=flat)
        else:  # plain loops would take minutes, mostly on zeros
            np.matmul(x, matrix[0], out=flat[:, 0])
            if row is not None:
                flat += row
            if relu:
                np.maximum(flat, 0, out=flat)
        return y

    def _input_gradient(
        self, kernel: Array, dz: Array, version: int | None, threads: int | None, out: Array | None
    ) -> Array:
        matrix = self._matrix(kernel, version, threads)[None]
        if not vectors.TILED:
            return np.matmul(dz, matrix[0].T, out=out)
        return self._single_position.apply_transpose(matrix, dz[:, None], threads=threads, out=out)

    def _matrix(self, kernel: Array, version: int | None, threads: int | None) -> Array:
        """The kernel as a dense matrix (inputs, P*F), zero where no connection exists."""
        g = self._geometry

        def fill(old: Array | None) -> Array:
            shape = g.inputs, g.positions * g.filters
            if old is None:
                # Zero pages are allocated on write: too large a matrix would get the process killed.
                require(
                    math.prod(shape) * kernel.itemsize, "the dense matrix of implementation 2",
                    f"use implementation=1, which needs only the weights, {kernel.nbytes / 1e9:.3g} GB",
                )  # fmt: skip
            matrix = np.zeros(shape, kernel.dtype) if old is None else old
            positions_per_task = -(-g.positions // TASKS)
            spread(kernel.itemsize)(
                kernel=kernel, sets=0 if g.sets is None else g.sets, index=g.input_index, matrix=matrix,
                inputs=g.inputs, P=g.positions, K=g.window, F=g.filters, G=g.groups, E=g.tap_entries,
                task_positions=positions_per_task, threads=workers(kernel.size, threads),
            )  # fmt: skip
            return matrix

        return self._cache.get(version, fill)
