"""Whether all numbers of an array are finite, without a temporary array."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.kernels.jit import Kernel, Launches, next_task, specialised
from lcnumba.kernels.records import Fields, address, array_at, reader
from lcnumba.kernels.rules import workers

__all__ = ["all_finite"]

TASK_SIZE = 1 << 15  # elements per task
FINITE = Fields("", each_call="values size found")
read = reader(FINITE.dtype)


@functools.cache
def non_finite(SIZE):
    """Make the kernel for elements of SIZE bytes."""
    # Integers of the same bits, because their loop vectorizes; a number is not finite if its exponent is all ones.
    integer = np.int32 if SIZE == 4 else np.int64
    exponent = integer(0x7F800000 if SIZE == 4 else 0x7FF0000000000000)

    def non_finite(worker, record):
        """Store in found (tasks), int64, whether the TASK_SIZE values of each task contain NaN or an infinity."""
        r = read(record)
        total = -(-r.size // TASK_SIZE)
        found = array_at(r.found, total, np.int64)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            begin = task * TASK_SIZE
            bits = array_at(r.values + begin * SIZE, min(r.size - begin, TASK_SIZE), integer)
            any_found = 0
            for e in range(len(bits)):
                any_found |= (bits[e] & exponent) == exponent
            found[task] = any_found
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(non_finite, SIZE), FINITE)


@functools.cache
def _launches(size: int, threads: int) -> Launches:
    return Launches(non_finite(size), threads)


def all_finite(values: npt.NDArray[Any], threads: int | None = None) -> bool:
    """Whether all numbers of a C-contiguous array are finite; on `threads` threads (None: all) if it is large."""
    if not values.flags.c_contiguous:
        raise ValueError("values must be C-contiguous, since the kernel takes its address")
    found = np.empty(-(-values.size // TASK_SIZE), np.int64)
    fields = {"values": address(values), "size": values.size, "found": address(found)}
    _launches(values.itemsize, workers(values.size, threads)).run(fields)
    return not found.any()
