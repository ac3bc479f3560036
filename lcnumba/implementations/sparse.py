"""Implementation 3: a scipy.sparse CSR matrix (P*F, inputs). Small if windows are small."""

import numpy as np
import scipy.sparse

from lcnumba.connectivity.geometry import TASKS, Geometry
from lcnumba.implementations.cache import LayoutCache
from lcnumba.implementations.matrix import MatrixImplementation
from lcnumba.implementations.scratch import aligned
from lcnumba.kernels.rules import workers
from lcnumba.kernels.sparse import product
from lcnumba.runtime.memory import require
from lcnumba.utils.lazy import cached_property
from lcnumba.utils.types import Array, Mask

__all__ = ["SparseMatrix"]


class SparseMatrix(MatrixImplementation):
    """The layer as sparse products, with the batch as the innermost axis.

    The products are Numba kernels on SciPy's arrays: SciPy's own are single-threaded.
    """

    def __init__(
        self, geometry: Geometry, mask: Mask | None = None,
        hint: str = "use implementation=1, which needs only the weights",
    ) -> None:  # fmt: skip
        """Prepare the sparse matrix of a geometry, restricted by a mask (P, K) or (P, K, F) if given.

        `hint` ends the message if there is not enough memory.
        """
        super().__init__(geometry)
        self._hint = hint
        self._mask = mask
        self._cache: LayoutCache[scipy.sparse.csr_array] = LayoutCache()

    def apply(
        self, x: Array, kernel: Array, bias: Array | None = None, *, relu: bool = False, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return y (N, P, F); see `Implementation`."""
        g = self._geometry
        matrix = self._matrix(kernel, version)
        own_order = np.empty(0, matrix.indices.dtype)
        yt = _product(matrix.indptr, matrix.indices, own_order, matrix.data, x, threads)
        y = aligned((len(x), g.positions, g.filters), x.dtype) if out is None else out
        _transposed_copy(yt, y.reshape(len(x), len(yt)))
        if bias is not None:
            y += bias
        return np.maximum(y, 0, out=y) if relu else y

    def _input_gradient(
        self, kernel: Array, dz: Array, version: int | None, threads: int | None, out: Array | None
    ) -> Array:
        return _transposed_copy(_product(*self._transposed, self._matrix(kernel, version).data, dz, threads), out)

    @cached_property
    def _transposed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The transposed matrix: indptr, indices, and the index of each of its values in the matrix's data."""
        g = self._geometry
        indptr, indices = g.csr_index(self._pattern)
        numbered = scipy.sparse.csr_array(
            (np.arange(len(indices), dtype=np.int64), indices, indptr), shape=(g.positions * g.filters, g.inputs)
        )
        transposed = numbered.T.tocsr()
        return transposed.indptr, transposed.indices, transposed.data.astype(indices.dtype)

    @cached_property
    def _pattern(self) -> Mask | None:
        """Mask (P, F, K) of the weights that exist; None if all do."""
        g = self._geometry
        if g.complete and self._mask is None:
            return None
        pattern = g.exists[:, :, None]
        if self._mask is not None:
            pattern = pattern & self._by_position(np.atleast_3d(self._mask))
        return np.broadcast_to(pattern.transpose(0, 2, 1), (g.positions, g.filters, g.window))

    def _by_position(self, weights: Array) -> Array:
        """An array of weights (S, K, any) of each position, (P, K, any): a copy if positions share weights."""
        sets = self._geometry.sets
        return weights if sets is None else weights[sets]

    def _matrix(self, kernel: Array, version: int | None) -> scipy.sparse.csr_array:
        """The kernel as a CSR matrix (P*F, inputs)."""
        g, pattern = self._geometry, self._pattern

        def fill(old: scipy.sparse.csr_array | None) -> scipy.sparse.csr_array:
            values_of_positions = g.positions * g.window * g.filters
            # Values and indices, and for the transpose as many indices and permutation entries again.
            require(
                (0 if old is not None else values_of_positions * (kernel.itemsize + 4 * 8))
                + (0 if g.sets is None else values_of_positions * kernel.itemsize),
                "building the sparse matrix of implementation 3", f"{self._hint}, {kernel.nbytes / 1e9:.3g} GB",
            )  # fmt: skip
            weights = self._by_position(kernel).transpose(0, 2, 1)
            if old is not None:
                if pattern is None:
                    old.data.reshape(weights.shape)[...] = weights
                else:
                    old.data[...] = weights[pattern]
                return old
            # flatten, not reshape: with F = 1 a reshape would be a view of the caller's kernel
            values = weights.flatten() if pattern is None else weights[pattern]
            indptr, indices = g.csr_index(pattern)
            shape = (g.positions * g.filters, g.inputs)
            return scipy.sparse.csr_array((values, indices, indptr), shape=shape)

        return self._cache.get(version, fill)


def _transposed_copy(array: Array, out: Array | None = None) -> Array:
    """A contiguous copy of the transpose."""
    copy = aligned(array.shape[::-1], array.dtype) if out is None else out
    copy[...] = array.T
    return copy


def _product(indptr: Array, indices: Array, order: Array, data: Array, x: Array, threads: int | None) -> Array:
    """The product of a sparse matrix, with values data[order], and x.T."""
    out = aligned((len(indptr) - 1, len(x)), x.dtype)
    dense, work = _transposed_copy(x), len(x) * len(indices)
    product(x.itemsize, indices.itemsize)(
        indptr=indptr, indices=indices, order=order, n_order=len(order), data=data, dense=dense, dense_rows=len(dense),
        rows=len(out), N=len(x), task_rows=-(-len(out) // TASKS), out=out, threads=workers(work, threads),
    )  # fmt: skip
    return out
