"""Any implementation with a mask of connections, in addition to the geometry."""

import numpy as np

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.base import Implementation
from lcnumba.implementations.loop import Loops
from lcnumba.implementations.sparse import SparseMatrix
from lcnumba.kernels.finite import all_finite
from lcnumba.kernels.rules import Rule
from lcnumba.utils.types import Array, Mask

__all__ = ["Masked"]


class Masked:
    """An implementation that computes with all weights, with 0 for absent connections.

    A product with 0 is 0 if the other factor is finite. Batches with non-finite values use the sparse implementation,
    which has no absent connections. Gradients and updates are masked, by `Loops` itself in the pass that computes them.

    Parameters
    ----------
    geometry : Geometry
        The layer without its mask.
    mask : (P, K) or (P, K, F) bool
        Which connections exist.
    inner : Implementation
        Used for finite batches.
    """

    def __init__(self, geometry: Geometry, mask: Mask, inner: Implementation) -> None:
        self._inner = inner
        hint = "a mask uses it for batches with non-finite values; finite ones need only the weights"
        self._sparse = inner if isinstance(inner, SparseMatrix) else SparseMatrix(geometry, mask, hint)
        self._mask = mask

    @property
    def supports_fused(self) -> bool:
        """Whether both implementations do."""
        return self._inner.supports_fused and self._sparse.supports_fused

    def apply(
        self, x: Array, kernel: Array, bias: Array | None = None, *, relu: bool = False, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return y (N, P, F); see `Implementation`."""
        return self._for_values(x, threads).apply(x, kernel, bias, relu=relu, version=version, threads=threads, out=out)

    def apply_transpose(
        self, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return dx (N, LI*W*C); see `Implementation`."""
        return self._for_values(dy, threads).apply_transpose(kernel, dy, y=y, version=version, threads=threads, out=out)

    def weight_gradient(
        self, x: Array, dy: Array, *, y: Array | None = None, threads: int | None = None, out: Array | None = None
    ) -> Array:
        """Return dkernel (P, K, F); see `Implementation`."""
        return self._zero_absent(self._inner.weight_gradient(x, dy, y=y, threads=threads, out=out), self._inner)

    def gradients(
        self, x: Array, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: tuple[Array | None, Array | None] = (None, None),
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        used = self._for_values(dy, threads)
        dx, dkernel = used.gradients(x, kernel, dy, y=y, version=version, threads=threads, out=out)
        return dx, self._zero_absent(dkernel, used)

    def fused_update(
        self, x: Array, kernel: Array, dy: Array, rule: Rule, *, y: Array | None = None, wants_dx: bool = True,
        version: int | None = None, threads: int | None = None, out: Array | None = None,
    ) -> Array | None:  # fmt: skip
        """Update the kernel and return dx; see `Implementation`."""
        used = self._for_values(dy, threads)
        absent = None if isinstance(used, Loops) else self._absent()  # before anything changes
        dx = used.fused_update(x, kernel, dy, rule, y=y, wants_dx=wants_dx, version=version, threads=threads, out=out)
        if absent is not None:
            for array in (kernel, *rule.states):
                np.copyto(array, 0, where=absent)
        return dx

    def _zero_absent(self, kernel: Array, used: Implementation) -> Array:
        """The kernel, or its gradient, with 0 in place of absent connections; `Loops` has done that already."""
        if not isinstance(used, Loops):
            np.copyto(kernel, 0, where=self._absent())
        return kernel

    def _absent(self) -> Mask:
        """Which connections do not exist, (P, K, 1) or (P, K, F)."""
        return np.atleast_3d(~self._mask)

    def _for_values(self, array: Array, threads: int | None) -> Implementation:
        """The implementation for products with this array."""
        return self._inner if all_finite(array, threads) else self._sparse
