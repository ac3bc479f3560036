"""The dense form of the weights."""

from lcnumba.kernels.jit import next_task, tasks


@tasks
def spread(slot, counter, kernel, index, chunk, matrix):
    """Write the weights into matrix (LI*W*C, P*F), `chunk` positions a task.

    kernel (P, K, F); index (P, K) is the input that each entry reads, or -1. Several entries may read one
    input: their weights add up.
    """
    P, K, F = kernel.shape
    total = -(-P // chunk)
    task = next_task(counter, slot, total)
    while task >= 0:
        for p in range(task * chunk, min(P, (task + 1) * chunk)):
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
        task = next_task(counter, slot, total)
