"""Any implementation under a mask of connections that exist, on top of what the geometry says."""

import numpy as np

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.base import Implementation
from lcnumba.implementations.sparse import SparseMatrix
from lcnumba.kernels.rules import Rule
from lcnumba.utils.types import Array, Mask

__all__ = ["Masked"]


class Masked:
    """An implementation that computes with all weights, of which the absent ones are 0.

    A product with 0 is 0 as long as the other factor is finite. Batches that are not finite take the
    sparse way, to which absent connections are unknown. Gradients and updates are selected.

    Parameters
    ----------
    geometry : Geometry
        The layer without its mask.
    mask : (P, K) or (P, K, F) bool
        Which connections exist.
    inner : Implementation
        What computes finite batches.
    """

    def __init__(self, geometry: Geometry, mask: Mask, inner: Implementation) -> None:
        self._inner = inner
        hint = "a mask takes it for batches that are not finite: others need the weights alone"
        self._exact = inner if isinstance(inner, SparseMatrix) else SparseMatrix(geometry, mask, hint)
        self._absent = np.atleast_3d(~mask)

    @property
    def supports_fused(self) -> bool:
        """Whether both implementations do."""
        return self._inner.supports_fused and self._exact.supports_fused

    def apply(
        self, x: Array, kernel: Array, bias: Array | None = None, *, relu: bool = False, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return y (N, P, F); see `Implementation`."""
        return self._fitting(x).apply(x, kernel, bias, relu=relu, version=version, threads=threads, out=out)

    def apply_transpose(
        self, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return dx (N, LI*W*C); see `Implementation`."""
        return self._fitting(dy).apply_transpose(kernel, dy, y=y, version=version, threads=threads, out=out)

    def weight_gradient(
        self, x: Array, dy: Array, *, y: Array | None = None, threads: int | None = None, out: Array | None = None
    ) -> Array:
        """Return dkernel (P, K, F); see `Implementation`."""
        return self._without_absent(self._inner.weight_gradient(x, dy, y=y, threads=threads, out=out))

    def gradients(
        self, x: Array, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: tuple[Array | None, Array | None] = (None, None),
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        dx, dkernel = self._fitting(dy).gradients(x, kernel, dy, y=y, version=version, threads=threads, out=out)
        return dx, self._without_absent(dkernel)

    def fused_update(
        self, x: Array, kernel: Array, dy: Array, rule: Rule, *, y: Array | None = None, wants_dx: bool = True,
        version: int | None = None, threads: int | None = None, out: Array | None = None,
    ) -> Array | None:  # fmt: skip
        """Change the kernel, and return dx; see `Implementation`."""
        dx = self._fitting(dy).fused_update(
            x, kernel, dy, rule, y=y, wants_dx=wants_dx, version=version, threads=threads, out=out
        )
        self._without_absent(kernel)
        return dx

    def _without_absent(self, kernel: Array) -> Array:
        """The kernel, or its gradient, with 0 in place of absent connections."""
        np.copyto(kernel, kernel.dtype.type(0), where=self._absent)
        return kernel

    def _fitting(self, array: Array) -> Implementation:
        """The implementation for products with such an array."""
        return self._inner if bool(np.isfinite(array).all()) else self._exact
