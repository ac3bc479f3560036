"""Three ways to compute the same layer, behind one Protocol (`base.py`).

Each is imported when it is first asked for: they are what brings in Numba and SciPy.
"""

from lcnumba.connectivity.geometry import Geometry
from lcnumba.implementations.base import Implementation
from lcnumba.runtime.signals import deferred
from lcnumba.utils.types import Mask

__all__ = ["IMPLEMENTATIONS", "Implementation", "create"]

IMPLEMENTATIONS = (1, 2, 3)


def create(number: int, geometry: Geometry, mask: Mask | None = None) -> Implementation:
    """Return implementation 1 (loops), 2 (dense matrix) or 3 (sparse matrix) for a geometry.

    `mask`, (P, K) or (P, K, F), says which connections exist where the geometry has them all.
    """
    inner: Implementation
    with deferred():
        match number:
            case 1:
                from lcnumba.implementations.loop import Loops

                inner = Loops(geometry)
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
