"""The Protocol of implementations: the layer as a bilinear map of input and kernel, and its adjoints."""

from collections.abc import Sequence
from typing import Protocol

from lcnumba.kernels.rules import Rule
from lcnumba.utils.types import Array

__all__ = ["Borders", "Implementation"]


class Implementation(Protocol):
    """One way to compute the layer, for one geometry.

    y is linear in x and in the kernel. `apply` computes it; `apply_transpose` and `weight_gradient` are its adjoints
    in x and in the kernel; `gradients` computes both at once, and `fused_update` applies an optimizer's update rule to
    the kernel instead of returning its gradient.

    All arrays are C-contiguous and of one dtype, float32 or float64: x and dx (N, LI*W*C), kernel and dkernel
    (P, K, F), y and dy (N, P, F), bias (P, F) or (1, F). Nothing is validated. Connections that do not exist are
    never read: the values of the kernel there have no effect, and dkernel is 0 there. Methods are thread-safe as long
    as the kernel does not change.

    Parameters that several methods share:

    y
        The output of `apply` with ``relu=True``: dy is first masked by y > 0.
    version
        An integer that the caller changes whenever the kernel changes. An implementation may cache another layout of
        the kernel under it; None disables caching.
    threads
        The maximal number of threads; None: as many as Numba.
    out
        The array for the result; by default a new one.
    """

    @property
    def supports_fused(self) -> bool:
        """Whether `fused_update` avoids the gradient array; if not, it must not be called."""
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
        """Update the kernel and the states of `rule` in place; return dx, at the kernel before the update.

        Without `wants_dx` return None. `version` is the version before the update.
        """
        ...


class Borders(Protocol):
    """How a part of a layer sums dx of input lines that other parts read as well.

    Such a line's dx is summed over output lines in ascending order, by one part after the other.

    Attributes
    ----------
    stages : sequence of sequence of (int, int)
        The part's input lines, as ranges (begin, end) in the first dimension, by how many other parts come before.
    """

    stages: Sequence[Sequence[tuple[int, int]]]

    def pass_on(self, stage: int, dx: Array) -> None:
        """Pass on the sums of a stage, and write those that the next stage of this part begins with to dx."""
        ...
