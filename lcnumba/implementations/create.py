"""Creates the implementation of a layer.

Each is imported on first use, since they import Numba and SciPy.
"""

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.base import Implementation
from lcnumba.runtime.signals import deferred
from lcnumba.utils.types import Mask

__all__ = ["IMPLEMENTATIONS", "Implementation", "create"]

IMPLEMENTATIONS = (1, 2, 3)


def create(number: int, geometry: Geometry, mask: Mask | None = None) -> Implementation:
    """Return implementation 1 (loops), 2 (dense matrix) or 3 (sparse matrix) for a geometry.

    `mask`, (P, K) or (P, K, F), restricts the connections of the geometry to those that exist.
    """
    inner: Implementation
    with deferred():
        match number:
            case 1:
                from lcnumba.implementations.loop import Loops

                inner = Loops(geometry, mask)
            case 2:
                from lcnumba.implementations.dense import DenseMatrix

                inner = DenseMatrix(geometry)
            case 3:
                from lcnumba.implementations.sparse import SparseMatrix

                inner = SparseMatrix(geometry, mask)
            case _:
                raise ValueError(f"implementation={number!r} is not known; give one of {IMPLEMENTATIONS}")
    if mask is None:
        return inner
    with deferred():
        from lcnumba.implementations.masked import Masked

    return Masked(geometry, mask, inner)
