"""Any implementation under a mask of connections that exist, on top of what the geometry says."""

from typing import Any

import numpy as np

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.base import Implementation
from lcnumba.implementations.sparse import SparseMatrix
from lcnumba.kernels.rules import GRADIENT, Rule
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
        remedy = "a mask takes it for batches that are not finite: others need the weights alone"
        self._exact = inner if isinstance(inner, SparseMatrix) else SparseMatrix(geometry, mask, remedy)
        self._absent = np.atleast_3d(~mask)

    def forward(
        self, x: Array, kernel: Array, bias: Array | None, version: int, *, rectify: bool = False,
        threads: int | None = None,
    ) -> Array:  # fmt: skip
        """Return y (N, P, F); see `Implementation`."""
        return self._fitting(x).forward(x, kernel, bias, version, rectify=rectify, threads=threads)

    def backward(
        self, x: Array, kernel: Array, dy: Array, version: int, *, y: Array | None = None, wants_dx: bool = True,
        threads: int | None = None,
    ) -> tuple[Array | None, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        chosen: Any = self._fitting(dy)
        dx, dkernel = chosen.backward(x, kernel, dy, version, y=y, wants_dx=wants_dx, threads=threads)
        np.copyto(dkernel, dkernel.dtype.type(0), where=self._absent)
        return dx, dkernel

    def update(
        self, x: Array, kernel: Array, dy: Array, version: int, rule: Rule | None, *, y: Array | None = None,
        wants_dx: bool = True, threads: int | None = None,
    ) -> Array | None:  # fmt: skip
        """Return dx, and change the kernel; see `Implementation`."""
        chosen: Any = self._fitting(dy)
        dx: Array | None = chosen.update(x, kernel, dy, version, rule, y=y, wants_dx=wants_dx, threads=threads)
        if rule is not None and rule.number > GRADIENT:
            np.copyto(kernel, kernel.dtype.type(0), where=self._absent)
        return dx

    def _fitting(self, array: Array) -> Implementation:
        """The implementation for products with such an array."""
        return self._inner if bool(np.isfinite(array).all()) else self._exact
