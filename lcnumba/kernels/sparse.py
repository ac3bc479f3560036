"""A sparse matrix times a dense one."""

from lcnumba.kernels.jit import next_task, tasks


@tasks
def product(worker, counter, indptr, indices, order, data, dense, task_rows, out):
    """Compute out[r] = sum over entries e of row r of data[order[e]] * dense[indices[e]], `task_rows` rows per task.

    dense and out are (rows, N), with the batch innermost. An empty order means data[e].
    """
    rows, N = out.shape
    total = -(-rows // task_rows)
    task = next_task(counter, worker, total)
    while task >= 0:
        for r in range(task * task_rows, min(rows, (task + 1) * task_rows)):
            for n in range(N):
                out[r, n] = 0
            for e in range(indptr[r], indptr[r + 1]):
                value = data[order[e]] if len(order) else data[e]
                i = indices[e]
                for n in range(N):
                    out[r, n] += value * dense[i, n]
        task = next_task(counter, worker, total)
