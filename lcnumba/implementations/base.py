"""What an implementation is: the linear map of the layer and its two derivatives."""

from typing import Any, Protocol

import numpy.typing as npt

from lcnumba.geometry import Geometry

__all__ = ["Implementation"]

Array = npt.NDArray[Any]


class Implementation(Protocol):
    """One way to compute the layer, for one geometry.

    All arrays are C-contiguous and of one dtype (float32 or float64). The kernel is always the
    canonical (P, K, F); another form of it is a cache, kept under `version`, a number that the
    caller changes whenever the kernel changes. Methods may be called from several threads at once
    as long as the kernel does not change meanwhile.

    Connections that do not exist are never read: what the kernel holds there has no effect, and
    dkernel is 0 there.
    """

    def __init__(self, geometry: Geometry) -> None: ...

    def forward(self, x: Array, kernel: Array, bias: Array | None, version: int) -> Array:
        """Return y (N, P, F) of x (N, LI*W*C), kernel (P, K, F) and bias (P, F)."""
        ...

    def backward(self, x: Array, kernel: Array, dy: Array, version: int) -> tuple[Array, Array]:
        """Return (dx, dkernel), shaped like x and kernel, of dy (N, P, F)."""
        ...
