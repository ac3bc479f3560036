"""Losses of differences, number by number: the sum of their terms and all slopes in one pass over memory."""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import next_task, tasks
from lcnumba.kernels.rules import ABSOLUTE, SQUARED, slots
from lcnumba.utils.arrays import read_only

__all__ = ["run"]

CHUNK = 1 << 15  # numbers of a task
WORK = 8  # what a number costs, counted as `slots` does


@numba.njit(error_model="numpy", nogil=True)
def _stretch(kind, delta, factor, one, t, p, slope):
    """Write factor times the slopes of a stretch, and return the sum of its terms, in float64."""
    total, half = 0.0, one / (one + one)
    if kind == SQUARED:
        for e in range(len(p)):
            difference = p[e] - t[e]
            slope[e] = factor * (difference + difference)
            total += difference * difference
    elif kind == ABSOLUTE:
        for e in range(len(p)):
            difference = p[e] - t[e]
            slope[e] = factor if difference > 0 else -factor if difference < 0 else difference  # NaN stays NaN
            total += abs(difference)
    else:
        for e in range(len(p)):
            difference = p[e] - t[e]
            clipped = delta if difference > delta else max(difference, -delta)
            slope[e] = factor * clipped
            total += clipped * (difference - half * clipped)
    return total


@tasks
def whole(slot, counter, kind, delta, scale, one, weights, width, t, p, slope, sums):
    """Go over flat targets and predictions, CHUNK numbers a task; each leaves its weighted sum in `sums`.

    Every `width` numbers have a weight, unless `width` is 0. All scalars are of the dtype of p (Numba makes
    float64 of float32 times an integer).
    """
    size = len(p)
    task = next_task(counter, slot, len(sums))
    while task >= 0:
        begin = task * CHUNK
        end = min(size, begin + CHUNK)
        total = 0.0
        while begin < end:
            stop, weight = end, one
            if width:
                sample = begin // width
                stop, weight = min(end, (sample + 1) * width), weights[sample]
            part = _stretch(kind, delta, scale * weight, one, t[begin:stop], p[begin:stop], slope[begin:stop])
            total += weight * part
            begin = stop
        sums[task] = total
        task = next_task(counter, slot, len(sums))


def run(
    kind: int,
    delta: float,
    t: npt.NDArray[Any],
    p: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Return the mean of the terms and its gradient by p; t and p are of one shape and dtype.

    `weights`, if there are any, are as many as p has entries along its first axes, in their order.
    """
    number = p.dtype.type
    slope, sums = np.empty(p.shape, p.dtype), np.zeros(-(-p.size // CHUNK))
    count = max(1, p.size)
    each = np.empty(0, p.dtype) if weights is None else weights.astype(p.dtype)
    width = 0 if weights is None else max(1, p.size // max(1, weights.size))
    flat = (np.ascontiguousarray(array).reshape(-1) for array in (t, p))
    whole(
        kind, number(delta), number(1 / count), number(1), read_only(each), width,
        *(read_only(array) for array in flat), slope.reshape(-1), sums, threads=slots(WORK * p.size, None),
    )  # fmt: skip
    return float(np.sum(sums)) / count, slope
