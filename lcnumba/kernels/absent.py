"""Whether all weights that a mask excludes are 0, without a temporary array."""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, Launches, next_task, specialised
from lcnumba.kernels.records import Fields, address, array_at, reader
from lcnumba.kernels.rules import workers
from lcnumba.utils.types import Array, Mask

__all__ = ["absent_are_zero"]

TASK_SIZE = 1 << 15  # weights per task, about
ABSENT = Fields("", each_call="weights exists rows columns task_rows found")
read = reader(ABSENT.dtype)


@functools.cache
def non_zero(SIZE):
    """Make the kernel for weights of SIZE bytes."""
    # Integers of the same bits, because their loop vectorizes; all bits of a 0 but for its sign are 0.
    integer = np.int32 if SIZE == 4 else np.int64
    magnitude = integer(0x7FFFFFFF if SIZE == 4 else 0x7FFFFFFFFFFFFFFF)

    def non_zero(worker, record):
        """Store in found (tasks), int64, whether a weight (rows, columns) is not 0 though its row, or it, is absent.

        exists (rows,), bool, is for whole rows; with one column it is for each weight.
        """
        r = read(record)
        total = -(-r.rows // r.task_rows)
        found = array_at(r.found, total, np.int64)
        exists = array_at(r.exists, r.rows, np.uint8)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            begin, end = task * r.task_rows, min((task + 1) * r.task_rows, r.rows)
            any_found = 0
            if r.columns == 1:
                weights = array_at(r.weights, r.rows, integer)
                for row in range(begin, end):
                    any_found |= ((weights[row] & magnitude) != 0) & (exists[row] == 0)
            else:
                for row in range(begin, end):
                    if exists[row] == 0:
                        weights = array_at(r.weights + row * r.columns * SIZE, r.columns, integer)
                        for column in range(r.columns):
                            any_found |= (weights[column] & magnitude) != 0
            found[task] = any_found
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(non_zero, SIZE), ABSENT)


@functools.cache
def _launches(size: int, threads: int) -> Launches:
    return Launches(non_zero(size), threads)


def absent_are_zero(kernel: Array, mask: Mask, threads: int | None = None) -> bool:
    """Whether the weights (P, K, F) that a mask (P, K) or (P, K, F) excludes are 0; both C-contiguous."""
    if not (kernel.flags.c_contiguous and mask.flags.c_contiguous and kernel.shape[: mask.ndim] == mask.shape):
        raise ValueError("kernel and mask must be C-contiguous and fit, since the kernel takes their addresses")
    rows, columns = mask.size, kernel.size // mask.size
    task_rows = max(1, TASK_SIZE // columns)
    found = np.empty(-(-rows // task_rows), np.int64)
    fields = {"weights": address(kernel), "exists": address(mask), "rows": rows, "columns": columns,
              "task_rows": task_rows, "found": address(found)}  # fmt: skip
    _launches(kernel.itemsize, workers(kernel.size, threads)).run(fields)
    return not found.any()
