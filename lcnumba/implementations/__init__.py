"""Three ways to compute the same layer, behind one Protocol (`base.py`).

Each is imported when it is first asked for: they are what brings in Numba and SciPy.
"""

import numpy as np
import numpy.typing as npt

from lcnumba.geometry import Geometry
from lcnumba.implementations.base import Implementation
from lcnumba.interrupts import import_whole

__all__ = ["IMPLEMENTATIONS", "Implementation", "create"]

IMPLEMENTATIONS = (1, 2, 3)


def create(number: int, geometry: Geometry, mask: npt.NDArray[np.bool_] | None = None) -> Implementation:
    """Return implementation 1 (loops), 2 (dense matrix) or 3 (sparse matrix) for a geometry.

    `mask`, (P, K) or (P, K, F), says which connections exist where the geometry has them all.
    """
    inner: Implementation
    match number:
        case 1:
            inner = import_whole("lcnumba.implementations.loop").Loops(geometry)
        case 2:
            inner = import_whole("lcnumba.implementations.dense").DenseMatrix(geometry)
        case 3:
            inner = import_whole("lcnumba.implementations.sparse").SparseMatrix(geometry, mask)
        case _:
            raise ValueError(f"implementation={number!r} is not known; give one of {IMPLEMENTATIONS}")
    if mask is None:
        return inner
    masked: Implementation = import_whole("lcnumba.implementations.masked").Masked(geometry, mask, inner)
    return masked
