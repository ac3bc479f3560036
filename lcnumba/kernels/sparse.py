"""The gradient of the sparse form's values: a product of two matrices, sampled at its pattern."""

from numba import prange

from lcnumba.kernels.jit import parallel


@parallel
def sampled_product(dyt, xt, indptr, indices, chunk, dvalues):
    """Compute dvalues[e] = sum over n of dyt[row(e), n] * xt[indices[e], n], `chunk` rows a task.

    dyt (P*F, N) and xt (LI*W*C, N) hold the batch innermost; indptr, indices are the CSR pattern.
    """
    rows, N = dyt.shape
    for task in prange(0, (rows + chunk - 1) // chunk):
        for row in range(task * chunk, min(rows, (task + 1) * chunk)):
            for entry in range(indptr[row], indptr[row + 1]):
                total = dvalues.dtype.type(0)
                for n in range(N):
                    total += dyt[row, n] * xt[indices[entry], n]
                dvalues[entry] = total
