"""What the implementations by a matrix of the weights share: all of backward but dx."""

import numpy as np

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.loop import Loops
from lcnumba.implementations.scratch import aligned
from lcnumba.kernels.rules import Rule
from lcnumba.utils.types import Array

__all__ = ["MatrixForm"]


class MatrixForm:
    """An implementation that brings `forward` and `_input_gradient`.

    The kernel's gradient is taken where connections exist alone, by the kernels of implementation 1: a
    product of whole matrices would compute mostly zeros, and those kernels need no matrix.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._loops = Loops(geometry)

    def backward(
        self, x: Array, kernel: Array, dy: Array, version: int, *, y: Array | None = None, wants_dx: bool = True,
        threads: int | None = None,
    ) -> tuple[Array | None, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        dx = self._dx(x, kernel, dy, version, y, threads) if wants_dx else None
        _, dkernel = self._loops.backward(x, kernel, dy, version, y=y, wants_dx=False, threads=threads)
        return dx, dkernel

    def update(
        self, x: Array, kernel: Array, dy: Array, version: int, rule: Rule | None, *, y: Array | None = None,
        wants_dx: bool = True, threads: int | None = None,
    ) -> Array | None:  # fmt: skip
        """Return dx, and change the kernel; see `Implementation`."""
        dx = self._dx(x, kernel, dy, version, y, threads) if wants_dx else None
        self._loops.update(x, kernel, dy, version, rule, y=y, wants_dx=False, threads=threads)
        return dx

    def _dx(self, x: Array, kernel: Array, dy: Array, version: int, y: Array | None, threads: int | None) -> Array:
        dz = dy
        if y is not None:
            dz = aligned(dy.shape, dy.dtype)
            dz.fill(0)
            np.copyto(dz, dy, where=y > 0)
        return self._input_gradient(
            x, kernel, dz.reshape(len(dy), self._geometry.positions * self._geometry.filters), version, threads
        )

    def _input_gradient(self, x: Array, kernel: Array, dz: Array, version: int, threads: int | None) -> Array:
        """Return dx (N, LI*W*C), of the shape of x, for dz (N, P*F)."""
        raise NotImplementedError
