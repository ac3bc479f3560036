"""A sparse matrix times a dense one."""

import functools

import numpy as np

from lcnumba.kernels.jit import Kernel, next_task, specialised
from lcnumba.kernels.records import Fields, array_at, reader

PRODUCT = Fields("indptr indices order n_order data dense dense_rows rows N task_rows out")
read = reader(PRODUCT.dtype)


@functools.cache
def product(SIZE, INDEX_SIZE):
    """Make the kernel for elements of SIZE bytes and indices of INDEX_SIZE bytes."""
    number, integer = np.float32 if SIZE == 4 else np.float64, np.int32 if INDEX_SIZE == 4 else np.int64

    def product(worker, record):
        """Compute out[r] = sum over entries e of row r of data[order[e]] * dense[indices[e]], `task_rows` rows a task.

        dense (dense_rows, N) and out (rows, N), with the batch innermost. An empty order means data[e].
        """
        r = read(record)
        rows, N = r.rows, r.N
        indptr = array_at(r.indptr, rows + 1, integer)
        entries = np.int64(indptr[rows])
        indices, data = array_at(r.indices, entries, integer), array_at(r.data, entries, number)
        order, out = array_at(r.order, r.n_order, integer), array_at(r.out, (rows, N), number)
        dense = array_at(r.dense, (r.dense_rows, N), number)
        total = -(-rows // r.task_rows)
        task = next_task(r.counter, r.workers, worker, total)
        while task >= 0:
            for row in range(task * r.task_rows, min(rows, (task + 1) * r.task_rows)):
                for n in range(N):
                    out[row, n] = 0
                for e in range(indptr[row], indptr[row + 1]):
                    value = data[order[e]] if len(order) else data[e]
                    i = indices[e]
                    for n in range(N):
                        out[row, n] += value * dense[i, n]
            task = next_task(r.counter, r.workers, worker, total)

    return Kernel(specialised(product, SIZE, INDEX_SIZE), PRODUCT)
