"""Base class of the implementations with a matrix of the weights: the gradient of the kernel."""

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.loop import Loops, rectified
from lcnumba.kernels.rules import Rule
from lcnumba.utils.types import Array

__all__ = ["MatrixImplementation"]


class MatrixImplementation:
    """Base class of implementations that define `apply` and `_input_gradient`.

    The kernel's gradient is computed at existing connections only, by the kernels of implementation 1: a product of
    whole matrices would compute mostly zeros.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._loops = Loops(geometry)

    @property
    def supports_fused(self) -> bool:
        """Whether implementation 1 does."""
        return self._loops.supports_fused

    def apply_transpose(
        self, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return dx (N, LI*W*C); see `Implementation`."""
        g, dz = self._geometry, dy if y is None else rectified(dy, y)
        return self._input_gradient(kernel, dz.reshape(len(dy), g.positions * g.filters), version, threads, out)

    def weight_gradient(
        self, x: Array, dy: Array, *, y: Array | None = None, threads: int | None = None, out: Array | None = None
    ) -> Array:
        """Return dkernel (P, K, F); see `Implementation`."""
        return self._loops.weight_gradient(x, dy, y=y, threads=threads, out=out)

    def gradients(
        self, x: Array, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: tuple[Array | None, Array | None] = (None, None),
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return (dx, dkernel); see `Implementation`."""
        dx = self.apply_transpose(kernel, dy, y=y, version=version, threads=threads, out=out[0])
        return dx, self.weight_gradient(x, dy, y=y, threads=threads, out=out[1])

    def fused_update(
        self, x: Array, kernel: Array, dy: Array, rule: Rule, *, y: Array | None = None, wants_dx: bool = True,
        version: int | None = None, threads: int | None = None, out: Array | None = None,
    ) -> Array | None:  # fmt: skip
        """Update the kernel and return dx; see `Implementation`."""
        dx = self.apply_transpose(kernel, dy, y=y, version=version, threads=threads, out=out) if wants_dx else None
        self._loops.fused_update(x, kernel, dy, rule, y=y, wants_dx=False, threads=threads)
        return dx

    def _input_gradient(
        self, kernel: Array, dz: Array, version: int | None, threads: int | None, out: Array | None
    ) -> Array:
        """Return dx (N, LI*W*C) for dz (N, P*F)."""
        raise NotImplementedError
