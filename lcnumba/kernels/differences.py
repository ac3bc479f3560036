"""Elementwise losses of differences: the sum of the terms and the gradient in one pass over memory."""

import functools
import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.records import Fields, array_at, reader
from lcnumba.kernels.rules import ABSOLUTE, SQUARED, workers

__all__ = ["run"]

TASK_SIZE = 1 << 15  # elements per task, in whole lines
LONG_LINE = 64  # elements from which a line is worth a call
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


@numba.njit(error_model="numpy", nogil=True)
def _lines_and_gradients(kind, delta, factor, one, weight, each, t, p, gradient, sums):
    """The same for whole lines of `each` elements: add the weighted sum of the terms of each to its entry of `sums`."""
    half = one / (one + one)
    if each == 1 and kind == SQUARED:  # in vectors
        for e in range(len(p)):
            difference = p[e] - t[e]
            gradient[e] = factor * (difference + difference)
            sums[e] += weight * np.float64(difference * difference)
        return
    for line in range(len(sums)):
        total = 0.0
        for e in range(line * each, (line + 1) * each):
            difference = p[e] - t[e]
            if kind == SQUARED:
                gradient[e] = factor * (difference + difference)
                total += difference * difference
            elif kind == ABSOLUTE:
                gradient[e] = factor if difference > 0 else -factor if difference < 0 else difference
                total += abs(difference)
            else:
                clipped = delta if difference > delta else max(difference, -delta)
                gradient[e] = factor * clipped
                total += clipped * (difference - half * clipped)
        sums[line] += weight * total


LOSS = Fields("kind t p gradient samples lines each weights n_weights width sums task_lines", "delta scale")
read = reader(LOSS.dtype)


@functools.cache
def difference_loss(SIZE):
    """Make the kernel for elements of SIZE bytes."""
    number = np.float32 if SIZE == 4 else np.float64

    def difference_loss(worker, record):
        """Process t and p (samples, lines, each), `task_lines` lines per task; write weighted sums by line to `sums`.

        Each `width` consecutive elements share one weight; width 0 means no weights. All scalars have the dtype of p
        (Numba promotes float32 times an integer to float64).
        """
        r = read(record)
        size, one, delta, scale = r.samples * r.lines * r.each, number(1), number(r.delta), number(r.scale)
        t, p, gradient = array_at(r.t, size, number), array_at(r.p, size, number), array_at(r.gradient, size, number)
        weights, sums = array_at(r.weights, r.n_weights, number), array_at(r.sums, r.lines, np.float64)
        total = -(-r.lines // r.task_lines)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            first, last = task * r.task_lines, min(r.lines, (task + 1) * r.task_lines)
            for n in range(r.samples):
                begin = (n * r.lines + first) * r.each
                end_of_task = begin + (last - first) * r.each
                while begin < end_of_task:
                    line = begin // r.each - n * r.lines
                    end, weight = end_of_task, one
                    if r.width:
                        place = begin // r.width
                        end, weight = min(end, (place + 1) * r.width), weights[place]
                    whole = 0  # lines that are computed by one call, where they are short
                    if r.each < LONG_LINE and begin % r.each == 0:
                        whole = (end - begin) // r.each
                    end = begin + whole * r.each if whole else min(end, (n * r.lines + line + 1) * r.each)
                    part = slice(begin, end)
                    if whole:
                        _lines_and_gradients(
                            r.kind, delta, scale * weight, one, weight, r.each, t[part], p[part], gradient[part],
                            sums[line : line + whole],
                        )  # fmt: skip
                    else:
                        sums[line] += weight * _loss_and_gradient(
                            r.kind, delta, scale * weight, one, t[part], p[part], gradient[part]
                        )
                    begin = end
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(difference_loss, SIZE), LOSS)


def run(
    kind: int, delta: float, t: npt.NDArray[Any], p: npt.NDArray[Any], weights: npt.NDArray[Any] | None, count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Return the sums of the terms by line, and the gradient of their mean over `count` terms with respect to p.

    t and p have the same shape (samples, lines, ...) and dtype. `weights`, if given, has one entry per index of p's
    leading axes, in C order.
    """
    number = p.dtype.type
    samples, lines, each = len(p), math.prod(p.shape[1:2]), math.prod(p.shape[2:])
    gradient, sums = np.empty(p.shape, p.dtype), np.zeros(lines)
    sample_weights = np.empty(0, p.dtype) if weights is None else weights.astype(p.dtype)
    width = 0 if weights is None else max(1, p.size // max(1, weights.size))
    t, p = np.ascontiguousarray(t), np.ascontiguousarray(p)
    if p.size:
        difference_loss(p.itemsize)(
            kind=kind, t=t, p=p, gradient=gradient, samples=samples, lines=lines, each=each, weights=sample_weights,
            n_weights=sample_weights.size, width=width, sums=sums, task_lines=max(1, TASK_SIZE // (samples * each)),
            delta=number(delta), scale=number(1 / max(1, count)), threads=workers(WORK * p.size, None),
        )  # fmt: skip
    return sums, gradient
