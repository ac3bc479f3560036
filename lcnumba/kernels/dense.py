"""The weights as a dense matrix."""

from lcnumba.kernels.jit import next_task, tasks


@tasks
def spread(worker, counter, kernel, index, task_positions, matrix):
    """Write the weights to matrix (LI*W*C, P*F), `task_positions` positions per task.

    kernel (P, K, F); index (P, K) is the input that each entry reads, or -1. The weights of entries that read the
    same input are added.
    """
    P, K, F = kernel.shape
    total = -(-P // task_positions)
    task = next_task(counter, worker, total)
    while task >= 0:
        for p in range(task * task_positions, min(P, (task + 1) * task_positions)):
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
        task = next_task(counter, worker, total)
