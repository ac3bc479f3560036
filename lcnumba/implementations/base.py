"""What an implementation is: the layer as a linear map of its input and of its kernel, and the maps derived from it."""

from typing import Protocol

from lcnumba.kernels.rules import Rule
from lcnumba.utils.types import Array

__all__ = ["Implementation"]


class Implementation(Protocol):
    """One way to compute the layer, for one geometry.

    y is linear in x and in the kernel. `apply` computes it; `apply_transpose` and `weight_gradient` are its adjoints
    in x and in the kernel; `gradients` is both at once, and `fused_update` applies an optimizer's formula to the kernel
    instead of returning its gradient.

    All arrays are C-contiguous and of one dtype, float32 or float64: x and dx (N, LI*W*C), kernel and dkernel
    (P, K, F), y and dy (N, P, F), bias (P, F) or (1, F). Nothing is checked here. Connections that do not exist are
    never read: what the kernel holds there has no effect, and dkernel is 0 there. Methods may be called from several
    threads at once as long as the kernel does not change meanwhile.

    Parameters that several methods share:

    y
        The output of `apply` with ``relu=True``: then dy is masked by y > 0 first.
    version
        A number that the caller changes whenever the kernel changes. An implementation may cache another layout of the
        kernel under it; None caches nothing.
    threads
        The most threads to use; None: as many as Numba does.
    out
        Where the result goes, instead of a fresh array.

    Attributes
    ----------
    supports_fused : bool
        Whether `fused_update` saves the array of the gradient. Without, it may not be called.
    """

    @property
    def supports_fused(self) -> bool:
        """Whether `fused_update` saves the array of the gradient."""
        ...

    def apply(
        self, x: Array, kernel: Array, bias: Array | None = None, *, relu: bool = False, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return y, or max(y, 0) with `relu`."""
        ...

    def apply_transpose(
        self, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Return dx."""
        ...

    def weight_gradient(
        self, x: Array, dy: Array, *, y: Array | None = None, threads: int | None = None, out: Array | None = None
    ) -> Array:
        """Return dkernel."""
        ...

    def gradients(
        self, x: Array, kernel: Array, dy: Array, *, y: Array | None = None, version: int | None = None,
        threads: int | None = None, out: tuple[Array | None, Array | None] = (None, None),
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return (dx, dkernel)."""
        ...

    def fused_update(
        self, x: Array, kernel: Array, dy: Array, rule: Rule, *, y: Array | None = None, wants_dx: bool = True,
        version: int | None = None, threads: int | None = None, out: Array | None = None,
    ) -> Array | None:  # fmt: skip
        """Change the kernel and the states of `rule` in place by the rule; return dx of the kernel before the change.

        Without `wants_dx` dx is not computed, and None is returned. `version` is the one before the change, too.
        """
        ...
