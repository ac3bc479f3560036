"""The weights as a dense matrix."""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.records import Fields, array_at, int_at, reader

SPREAD = Fields("kernel sets index matrix inputs P K F G E task_positions")
read = reader(SPREAD.dtype)


@functools.cache
def spread(SIZE):
    """Make the kernel for elements of SIZE bytes."""
    number = np.float32 if SIZE == 4 else np.float64

    def spread(worker, record):
        """Write the weights to matrix (inputs, P*F), `task_positions` positions per task.

        kernel (P, K, F), or (S, K, F) with sets (P), the set of each position; index (P, K), int64, is the input that
        each entry reads, or -1; filters of the next of the G groups read E inputs further on. The weights of entries
        that read the same input are added.
        """
        r = read(record)
        P, K, F, E, M = r.P, r.K, r.F, r.E, r.F // r.G
        index = array_at(r.index, (P, K), np.int64)
        matrix = array_at(r.matrix, (r.inputs, P * F), number)
        total = -(-P // r.task_positions)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            for p in range(task * r.task_positions, min(P, (task + 1) * r.task_positions)):
                own = int_at(r.sets, p) if r.sets else p
                weights = array_at(r.kernel + own * K * F * SIZE, (K, F), number)
                for k in range(K):
                    row = index[p, k]
                    if row >= 0:
                        for f in range(F):
                            matrix[row + f // M * E, p * F + f] = 0
                for k in range(K):
                    row = index[p, k]
                    if row >= 0:
                        for f in range(F):
                            matrix[row + f // M * E, p * F + f] += weights[k, f]
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(spread, SIZE), SPREAD)
