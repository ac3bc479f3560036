"""NumPy: copy the windows, and multiply matrices position by position."""

from typing import Any

import numpy as np

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations
from bench.peers.patches import fold

__all__ = ["make"]


def make(case: Case, data: Data, threads: int) -> Operations:  # noqa: ARG001 - same signature for all peers
    """Make the layer with `np.matmul`, whose threads are set by the environment.

    np.einsum is several times slower, since it does not call BLAS for batched products.
    """
    N, P, K, F = case.batch, case.positions, case.window, case.filters
    (top, bottom), (left, right) = case.pad
    H, W, C = case.input_size
    kernel, bias = data.kernel.copy(), data.bias.copy()
    windows = (*case.output_size, N, *case.kernel_size, C)
    # Allocated once: new pages cost more than the copy itself.
    patches, dpatches = np.empty((P, N, K), case.dtype), np.empty((P, N, K), case.dtype)
    yp, dkernel = np.empty((P, N, F), case.dtype), np.empty_like(kernel)
    padded_dx = np.empty((N, top + H + bottom, left + W + right, C), case.dtype)

    def forward() -> Any:
        padded = case.wrapped(data.x, np.concatenate)
        if any(map(any, case.zero_pad)):
            padded = np.pad(padded, ((0, 0), *case.zero_pad, (0, 0)))
        np.copyto(patches.reshape(windows), case.windows(padded))
        np.matmul(patches, kernel, out=yp)
        np.add(yp, bias.reshape(P, 1, F), out=yp)
        return yp.transpose(1, 0, 2).reshape(data.dy.shape)

    def step() -> tuple[Any, Any]:
        y = forward()
        dyp = np.ascontiguousarray(data.dy.reshape(N, P, F).transpose(1, 0, 2))
        np.matmul(dyp, kernel.transpose(0, 2, 1), out=dpatches)
        padded_dx.fill(0)
        fold(case, dpatches.reshape(windows).transpose(2, 0, 1, 3, 4, 5), padded_dx)
        np.matmul(patches.transpose(0, 2, 1), dyp, out=dkernel)
        np.multiply(dkernel, LEARNING_RATE, out=dkernel)
        np.subtract(kernel, dkernel, out=kernel)
        np.subtract(bias, LEARNING_RATE * data.dy.sum(axis=0), out=bias)
        return y, case.unpadded(padded_dx).copy()

    return Operations(forward, step, lambda: (kernel, bias))
