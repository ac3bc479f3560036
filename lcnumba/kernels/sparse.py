"""A sparse matrix times a dense one."""

from lcnumba.kernels.jit import next_task, tasks


@tasks
def product(slot, counter, indptr, indices, order, data, dense, chunk, out):
    """Compute out[r] = sum over entries e of row r of data[order[e]] * dense[indices[e]], `chunk` rows a task.

    dense and out hold the batch innermost, (rows, N). An empty order is the entries' own.
    """
    rows, N = out.shape
    total = -(-rows // chunk)
    task = next_task(counter, slot, total)
    while task >= 0:
        for r in range(task * chunk, min(rows, (task + 1) * chunk)):
            for n in range(N):
                out[r, n] = 0
            for e in range(indptr[r], indptr[r + 1]):
                value = data[order[e]] if len(order) else data[e]
                i = indices[e]
                for n in range(N):
                    out[r, n] += value * dense[i, n]
        task = next_task(counter, slot, total)
