"""Three ways to compute the same layer, behind one Protocol (`base.py`).

Each is imported when it is first asked for: they are what brings in Numba and SciPy.
"""

from lcnumba.geometry import Geometry
from lcnumba.implementations.base import Implementation

__all__ = ["IMPLEMENTATIONS", "Implementation", "create"]

IMPLEMENTATIONS = (1, 2, 3)


def create(number: int, geometry: Geometry) -> Implementation:
    """Return implementation 1 (loops), 2 (dense matrix) or 3 (sparse matrix) for a geometry."""
    match number:
        case 1:
            from lcnumba.implementations.loop import Loops

            return Loops(geometry)
        case 2:
            from lcnumba.implementations.dense import DenseMatrix

            return DenseMatrix(geometry)
        case 3:
            from lcnumba.implementations.sparse import SparseMatrix

            return SparseMatrix(geometry)
    raise ValueError(f"implementation={number!r} is not known; give one of {IMPLEMENTATIONS}")
