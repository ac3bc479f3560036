"""Sums of many numbers that do not depend on how the numbers are divided between processes.

The numbers of a line, or of a row, are summed in float64 by whoever has them. Sums of lines are then added exactly, so
that neither their order nor how many are added at a time changes a bit of the result.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from lcnumba.utils.types import Array

__all__ = ["exact_parts", "exact_sum", "line_sums", "ordered_sum", "row_blocks"]

# Numbers converted to float64 at a time, which bounds the memory of temporary arrays.
BLOCK = 1 << 15


def exact_sum(values: Iterable[float] | Array) -> float:
    """Return the sum of numbers, rounded once; infinities and NaN propagate as in any sum.

    Examples
    --------
    >>> from lcnumba.utils.sums import exact_sum
    >>> exact_sum([1e100, 1.0, -1e100])
    1.0
    >>> exact_sum([float("inf"), -1e308, -1e308])
    inf
    """
    numbers = np.fromiter(values, np.float64) if not isinstance(values, np.ndarray) else values.reshape(-1)
    finite = np.isfinite(numbers)
    if not finite.all():
        with np.errstate(invalid="ignore"):
            return float(np.sum(numbers[~finite]))
    try:
        return math.fsum(numbers.tolist())
    except OverflowError:  # of a partial sum
        return math.fsum(np.ldexp(numbers, -64).tolist()) * 2.0**64


def exact_parts(values: Iterable[float] | Array) -> list[float]:
    """Return a few numbers with the same exact sum, for a sum that goes on elsewhere.

    Examples
    --------
    >>> from lcnumba.utils.sums import exact_parts, exact_sum
    >>> exact_parts([1e100, 1.0, 1.0])
    [1e+100, 2.0]
    >>> exact_sum([*exact_parts([1e100, 1.0, 1.0]), -1e100])
    2.0
    """
    rest = np.fromiter(values, np.float64) if not isinstance(values, np.ndarray) else values.reshape(-1)
    parts: list[float] = []
    while True:
        part = exact_sum(np.concatenate([rest, np.negative(parts)]))
        if not (part and math.isfinite(part)):
            return parts if part == 0 else [part]
        parts.append(part)


def line_sums(values: Array) -> Array:
    """Return the sum of each line, the second axis of (N, lines, ...), in float64; a vector is one line.

    A line is summed sample by sample, in order, so that its sum depends on nothing else.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils.sums import line_sums
    >>> line_sums(np.array([[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]]))
    array([33., 77.])
    """
    lines = values.shape[1] if values.ndim > 1 else 1
    of_samples = values.reshape(len(values), lines, math.prod(values.shape[2:]))
    sums, count = np.zeros(lines), max(1, BLOCK // max(1, math.prod(values.shape[1:])))
    for begin in range(0, len(values), count):
        # Not converted by the reduction, which would do so in blocks that ignore lines.
        block = of_samples[begin : begin + count].astype(np.float64)
        sums = ordered_sum(np.add.reduce(block, axis=-1), sums)
    return sums


def ordered_sum(rows: Array, start: Array | None = None) -> Array:
    """Return the sum over the first axis, one row after the other; with `start` it continues that sum.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.utils.sums import ordered_sum
    >>> ordered_sum(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([10.0, 0.0]))
    array([14.,  6.])
    """
    begun = np.zeros((1, *rows.shape[1:])) if start is None else start[None]
    # By definition the running sum adds in order; other reductions add in pairs.
    total: Array = np.cumsum(np.concatenate([begun, rows]), axis=0, dtype=np.float64)[-1]
    return total


def row_blocks(array: Array) -> Iterator[Array]:
    """Yield blocks of rows of the first axis, flattened to (rows, entries), in float64.

    A row of more than `BLOCK` entries is yielded in parts.
    """
    rows = array.reshape(math.prod(array.shape[:1]), -1) if array.size else np.empty((0, 1))
    count = max(1, BLOCK // max(1, rows.shape[1]))
    for begin in range(0, len(rows), count):
        for at in range(0, rows.shape[1], BLOCK):
            yield rows[begin : begin + count, at : at + BLOCK].astype(np.float64)
