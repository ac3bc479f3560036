"""Three ways to compute the same layer, behind one Protocol (`base.py`).

Each is imported when it is first asked for: they are what brings in Numba and SciPy.
"""

from lcnumba.geometry import Geometry
from lcnumba.implementations.base import Implementation

__all__ = ["IMPLEMENTATIONS", "Implementation", "create"]

IMPLEMENTATIONS = (1, 2, 3)


def create(number: int, geometry: Geometry) -> Implementation:
    """Return implementation 1 (loops), 2 (dense matrix) or 3 (sparse matrix) for a geometry."""
    if number == 1:
        from lcnumba.implementations.loop import Loop

        return Loop(geometry)
    if number == 2:
        from lcnumba.implementations.dense import Dense

        return Dense(geometry)
    from lcnumba.implementations.sparse import Sparse

    return Sparse(geometry)
