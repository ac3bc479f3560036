"""PyTorch, the fastest variant: copies of the windows, batched matrix products, gradients without autograd.

Autograd would store the kernel's gradient and read it again for the update, whereas `baddbmm_` adds it to the weights
directly.
"""

from typing import Any

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations
from bench.peers.patches import fold

__all__ = ["make"]


def make(case: Case, data: Data, threads: int) -> Operations:
    """Make the layer with `torch.baddbmm`."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    N, P, K, F = case.batch, case.positions, case.window, case.filters
    (top, bottom), (left, right) = case.pad
    H, W, C = case.input_size
    x, dy = torch.from_numpy(data.x), torch.from_numpy(data.dy)
    kernel, bias = torch.from_numpy(data.kernel.copy()), torch.from_numpy(data.bias.copy())
    rows, columns = case.strides
    windows = (*case.output_size, N, *case.kernel_size, C)
    # Allocated once: torch frees large blocks to the system, and new pages cost more than the copy itself.
    patches, dpatches = torch.empty((P, N, K), dtype=x.dtype), torch.empty((P, N, K), dtype=x.dtype)
    yp, dyp = torch.empty((P, N, F), dtype=x.dtype), torch.empty((P, N, F), dtype=x.dtype)
    padded_dx = torch.empty((N, top + H + bottom, left + W + right, C), dtype=x.dtype)

    def forward() -> Any:
        padded = case.wrapped(x, torch.cat)
        if any(map(any, case.zero_pad)):
            (above, below), (before, after) = case.zero_pad
            padded = torch.nn.functional.pad(padded, (0, 0, before, after, above, below))
        n, h, w, c = padded.stride()
        patches.view(windows).copy_(padded.as_strided(windows, (rows * h, columns * w, n, h, w, c)))
        torch.baddbmm(bias.view(P, 1, F), patches, kernel, out=yp)
        return yp.transpose(0, 1).reshape(dy.shape)

    def step() -> tuple[Any, Any]:
        y = forward()
        dyp.copy_(dy.view(N, P, F).transpose(0, 1))
        torch.bmm(dyp, kernel.transpose(1, 2), out=dpatches)
        padded_dx.zero_()
        fold(case, dpatches.view(windows).permute(2, 0, 1, 3, 4, 5), padded_dx)
        kernel.baddbmm_(patches.transpose(1, 2), dyp, alpha=-LEARNING_RATE)
        bias.sub_(dy.sum(0), alpha=LEARNING_RATE)
        return y, case.unpadded(padded_dx).clone(memory_format=torch.contiguous_format)

    return Operations(forward, step, lambda: (kernel.numpy(), bias.numpy()))
