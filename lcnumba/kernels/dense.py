"""The weights as a dense matrix."""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.records import Fields, array_at, reader

SPREAD = Fields("kernel index matrix inputs P K F task_positions")
read = reader(SPREAD.dtype)


@functools.cache
def spread(SIZE):
    """Make the kernel for elements of SIZE bytes."""
    number = np.float32 if SIZE == 4 else np.float64

    def spread(worker, record):
        """Write the weights to matrix (inputs, P*F), `task_positions` positions per task.

        kernel (P, K, F); index (P, K), int64, is the input that each entry reads, or -1. The weights of entries that
        read the same input are added.
        """
        r = read(record)
        P, K, F = r.P, r.K, r.F
        kernel, index = array_at(r.kernel, (P, K, F), number), array_at(r.index, (P, K), np.int64)
        matrix = array_at(r.matrix, (r.inputs, P * F), number)
        total = -(-P // r.task_positions)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            for p in range(task * r.task_positions, min(P, (task + 1) * r.task_positions)):
                for k in range(K):
                    row = index[p, k]
                    if row >= 0:
                        for f in range(F):
                            matrix[row, p * F + f] = 0
                for k in range(K):
                    row = index[p, k]
                    if row >= 0:
                        for f in range(F):
                            matrix[row, p * F + f] += kernel[p, k, f]
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(spread, SIZE), SPREAD)
