"""Euclidean norms without overflow and underflow: numbers are scaled before they are squared if need be."""

import math
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lcnumba.utils.sums import exact_sum, row_blocks
from lcnumba.utils.types import Array

__all__ = ["norm_of_all", "norms_over"]


# Smaller sums of squares have lost digits, since squares are subnormal.
LEAST = 2.0**-960


def norms_over(values: Array, axes: Iterable[int]) -> Array:
    """Return the norms over some axes, which are kept with length 1, in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils.norms import norms_over
    >>> norms_over(np.array([[3.0, 4.0], [3 * 2.0**600, 4 * 2.0**600]]), [1])[:, 0].tolist() == [5, 5 * 2.0**600]
    True
    """
    over = tuple(sorted({axis % values.ndim for axis in axes}))
    letters = string.ascii_lowercase[: values.ndim]
    kept = "".join(letter for axis, letter in enumerate(letters) if axis not in over)

    def squares(numbers: Array) -> Array:
        return np.expand_dims(np.einsum(f"{letters},{letters}->{kept}", numbers, numbers, dtype=np.float64), over)

    with np.errstate(over="ignore", under="ignore"):
        sums = squares(values)
        beyond = ~((sums >= LEAST) & (sums < np.inf))
        if not beyond.any():
            return np.sqrt(sums)
        largest = np.maximum(values.max(over, keepdims=True), -values.min(over, keepdims=True)).astype(np.float64)
        beyond &= (largest > 0) & (largest < np.inf)
        scale = np.where(beyond, _power_of_two(largest), 1.0)
        return np.where(beyond, scale * np.sqrt(squares(values / scale)), np.sqrt(sums))


def norm_of_all(
    arrays: Sequence[Array], total: Callable[[Array], float] = exact_sum, maximum: Callable[[float], float] = float
) -> tuple[float, float]:
    """Return a number s, and the norm of all arrays together divided by s.

    s is 1 where the squares are in the range of float64, else a power of two near the largest magnitude. Where other
    processes have further arrays, `total` and `maximum` return the sum and the maximum of the numbers of all.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils.norms import norm_of_all
    >>> norm_of_all([np.array([3.0, 4.0])]), norm_of_all([np.array([3 * 2.0**600, 4 * 2.0**600])]) == (2.0**602, 1.25)
    ((1.0, 5.0), True)
    """
    with np.errstate(over="ignore", under="ignore"):
        squares = total(_squares(arrays, 1.0))
        if not LEAST <= squares < np.inf:
            largest = maximum(max((float(np.max(np.abs(array))) for array in arrays if array.size), default=0.0))
            if 0 < largest < np.inf:
                scale = float(_power_of_two(largest))
                return scale, math.sqrt(total(_squares(arrays, scale)))
        return 1.0, math.sqrt(squares)


def _power_of_two(largest: Any) -> Any:
    """The largest power of two not above a number; dividing by it is exact."""
    return np.ldexp(1.0, np.frexp(largest)[1] - 1)


def _squares(arrays: Sequence[Array], scale: float) -> Array:
    """The sums of squares of the rows of all arrays."""
    sums = [np.zeros(0)]
    for array in arrays:
        for block in row_blocks(array):
            if scale != 1:
                block /= scale
            sums.append(np.einsum("ij,ij->i", block, block))
    return np.concatenate(sums)
