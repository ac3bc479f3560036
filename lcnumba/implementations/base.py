"""What an implementation is: the linear map of the layer and its derivatives."""

from typing import Protocol

from lcnumba.connectivity.geometry import Geometry
from lcnumba.kernels.rules import Rule
from lcnumba.utils.types import Array

__all__ = ["Implementation"]


class Implementation(Protocol):
    """One way to compute the layer, for one geometry.

    All arrays are C-contiguous and of one dtype (float32 or float64). The kernel is always the
    canonical (P, K, F); another form of it is a cache, kept under `version`, a number that the
    caller changes whenever the kernel changes. Methods may be called from several threads at once
    as long as the kernel does not change meanwhile.

    Connections that do not exist are never read: what the kernel holds there has no effect, and
    dkernel is 0 there.

    `y`, where it is given, is the output of a layer that ends in a rectifier, which dy has yet to
    pass: dy counts where y > 0. `threads` is how many threads large work may use, by default as many
    as Numba does.
    """

    def __init__(self, geometry: Geometry) -> None: ...

    def forward(
        self, x: Array, kernel: Array, bias: Array | None, version: int, *, rectify: bool = False,
        threads: int | None = None,
    ) -> Array:  # fmt: skip
        """Return y (N, P, F) of x (N, LI*W*C), kernel (P, K, F) and bias (P, F) or (1, F); max(y, 0) to rectify."""
        ...

    def backward(
        self, x: Array, kernel: Array, dy: Array, version: int, *, y: Array | None = None, wants_dx: bool = True,
        threads: int | None = None,
    ) -> tuple[Array | None, Array]:  # fmt: skip
        """Return (dx, dkernel), shaped like x and kernel, of dy (N, P, F); dx is None unless wanted."""
        ...

    def update(
        self, x: Array, kernel: Array, dy: Array, version: int, rule: Rule | None, *, y: Array | None = None,
        wants_dx: bool = True, threads: int | None = None,
    ) -> Array | None:  # fmt: skip
        """Return dx, and change the kernel by a rule (None: leave it) without an array of its gradient.

        dx is that of the kernel before the change. `version` is the one before the change, too.
        """
        ...
