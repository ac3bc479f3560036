"""Elementwise losses of differences: the sum of the terms and the gradient in one pass over memory."""

import functools
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.records import Fields, array_at, reader
from lcnumba.kernels.rules import ABSOLUTE, SQUARED, workers

__all__ = ["run"]

TASK_SIZE = 1 << 15  # elements per task
WORK = 8  # operations per element, in the unit of `workers`


@numba.njit(error_model="numpy", nogil=True)
def _loss_and_gradient(kind, delta, factor, one, t, p, gradient):
    """Write factor times the gradient of a slice, and return the sum of its terms in float64."""
    total, half = 0.0, one / (one + one)
    if kind == SQUARED:
        for e in range(len(p)):
            difference = p[e] - t[e]
            gradient[e] = factor * (difference + difference)
            total += difference * difference
    elif kind == ABSOLUTE:
        for e in range(len(p)):
            difference = p[e] - t[e]
            gradient[e] = factor if difference > 0 else -factor if difference < 0 else difference  # NaN stays NaN
            total += abs(difference)
    else:
        for e in range(len(p)):
            difference = p[e] - t[e]
            clipped = delta if difference > delta else max(difference, -delta)
            gradient[e] = factor * clipped
            total += clipped * (difference - half * clipped)
    return total


LOSS = Fields("kind t p gradient size weights n_weights width sums n_sums", "delta scale")
read = reader(LOSS.dtype)


@functools.cache
def difference_loss(SIZE):
    """Make the kernel for elements of SIZE bytes."""
    number = np.float32 if SIZE == 4 else np.float64

    def difference_loss(worker, record):
        """Process flat t and p, TASK_SIZE elements per task, and write each task's weighted sum to `sums`.

        Each `width` consecutive elements share one weight; width 0 means no weights. All scalars have the dtype of p
        (Numba promotes float32 times an integer to float64).
        """
        r = read(record)
        size, one, delta, scale = r.size, number(1), number(r.delta), number(r.scale)
        t, p, gradient = array_at(r.t, size, number), array_at(r.p, size, number), array_at(r.gradient, size, number)
        weights, sums = array_at(r.weights, r.n_weights, number), array_at(r.sums, r.n_sums, np.float64)
        task = next_task(r.counter, r.workers, worker, len(sums))
        while task >= 0:
            begin = task * TASK_SIZE
            end = min(size, begin + TASK_SIZE)
            total = 0.0
            while begin < end:
                stop, weight = end, one
                if r.width:
                    sample = begin // r.width
                    stop, weight = min(end, (sample + 1) * r.width), weights[sample]
                loss = _loss_and_gradient(
                    r.kind, delta, scale * weight, one, t[begin:stop], p[begin:stop], gradient[begin:stop]
                )  # fmt: skip
                total += weight * loss
                begin = stop
            sums[task] = total
            task = next_task(r.counter, r.workers, worker, len(sums))

    return Kernel(specialised(difference_loss, SIZE), LOSS)


def run(
    kind: int,
    delta: float,
    t: npt.NDArray[Any],
    p: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Return the mean of the terms and its gradient with respect to p; t and p have the same shape and dtype.

    `weights`, if given, has one entry per index of p's leading axes, in C order.
    """
    number = p.dtype.type
    gradient, sums = np.empty(p.shape, p.dtype), np.zeros(-(-p.size // TASK_SIZE))
    count = max(1, p.size)
    sample_weights = np.empty(0, p.dtype) if weights is None else weights.astype(p.dtype)
    width = 0 if weights is None else max(1, p.size // max(1, weights.size))
    t, p = np.ascontiguousarray(t), np.ascontiguousarray(p)
    difference_loss(p.itemsize)(
        kind=kind, t=t, p=p, gradient=gradient, size=p.size, weights=sample_weights, n_weights=sample_weights.size,
        width=width, sums=sums, n_sums=len(sums), delta=number(delta), scale=number(1 / count),
        threads=workers(WORK * p.size, None),
    )  # fmt: skip
    return float(np.sum(sums)) / count, gradient
