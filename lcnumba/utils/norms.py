"""Euclidean norms without overflow and underflow: numbers are scaled before they are squared if need be."""

import math
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lcnumba.utils.sums import BLOCK, exact_sum, ordered_sum, row_blocks
from lcnumba.utils.types import Array

__all__ = ["Rows", "norm_of_all", "norms_over"]


# Smaller sums of squares have lost digits, since squares are subnormal.
LEAST = 2.0**-960


class Rows:
    """The rows, along the first axis, that norms are over; here all of them are in this process."""

    def sums(self, partial: Callable[[Array | None], Array]) -> Array:
        """Return ``partial(start)``, which continues a sum over rows, of all rows."""
        return partial(None)

    def maximum(self, values: Array) -> Array:
        """Return the largest values of all rows."""
        return values


def norms_over(values: Array, axes: Iterable[int], rows: Rows | None = None) -> Array:
    """Return the norms over some axes, which are kept with length 1, in float64.

    Sums over the first axis are made row by row, so that they can be continued in another process: `rows` says how.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils.norms import norms_over
    >>> norms_over(np.array([[3.0, 4.0], [3 * 2.0**600, 4 * 2.0**600]]), [1])[:, 0].tolist() == [5, 5 * 2.0**600]
    True
    """
    over = tuple(sorted({axis % values.ndim for axis in axes}))
    rows = Rows() if rows is None or 0 not in over else rows
    with np.errstate(over="ignore", under="ignore"):
        sums = rows.sums(lambda start: _squares_over(values, over, None, start))
        beyond = ~((sums >= LEAST) & (sums < np.inf))
        if not beyond.any():
            return np.sqrt(sums)
        largest = np.maximum(values.max(over, keepdims=True), -values.min(over, keepdims=True)).astype(np.float64)
        largest = rows.maximum(largest)
        beyond &= (largest > 0) & (largest < np.inf)
        scale = np.where(beyond, _power_of_two(largest), 1.0)
        scaled = rows.sums(lambda start: _squares_over(values, over, scale, start))
        return np.where(beyond, scale * np.sqrt(scaled), np.sqrt(sums))


def _squares_over(values: Array, over: tuple[int, ...], scale: Array | None, start: Array | None) -> Array:
    """The sums of squares over axes, kept with length 1; with `start` those over the first axis are continued."""
    letters = string.ascii_lowercase[: values.ndim]
    of_rows = "".join(letter for axis, letter in enumerate(letters) if axis not in over or axis == 0)
    inner = tuple(axis for axis in over if axis)
    count, parts = max(1, BLOCK // max(1, math.prod(values.shape[1:]))), []
    total = np.zeros([1 if axis in over else size for axis, size in enumerate(values.shape)][1:])
    total = total if start is None else start[0]
    for begin in range(0, len(values), count):
        # Not converted by einsum, which would do so in blocks that ignore rows.
        block = values[begin : begin + count].astype(np.float64)
        if scale is not None:
            block /= scale if 0 in over else scale[begin : begin + count]
        squares = np.expand_dims(np.einsum(f"{letters},{letters}->{of_rows}", block, block), inner)
        if 0 in over:
            total = ordered_sum(squares, total)
        else:
            parts.append(squares)
    if 0 in over:
        return total[None]
    return np.concatenate(parts) if parts else np.zeros((0, *total.shape))


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
