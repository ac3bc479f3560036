"""PyTorch as users train with it: a module, autograd, and torch's SGD.

The layer is this library's module, or copies of the windows and batched products (``unfold`` and ``baddbmm``), which
may be compiled.
"""

from typing import Any

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations

__all__ = ["make"]


def make(case: Case, data: Data, threads: int, form: str, compiled: bool = False) -> Operations:
    """Make the module and its optimizer; `form` is "lcnumba" or "baddbmm"."""
    import torch

    torch.set_num_threads(threads)
    module = _own(case, data) if form == "lcnumba" else _unfolded(case, data)
    kernel, bias = module.weight, module.bias
    call = torch.compile(module, fullgraph=True) if compiled else module
    shape = (case.batch, *case.input_size[2 - case.rank :]) if form == "lcnumba" else data.x.shape
    x = torch.from_numpy(data.x).reshape(shape).requires_grad_()
    optimizer = torch.optim.SGD([kernel, bias], LEARNING_RATE)
    with torch.no_grad():
        dy = torch.from_numpy(data.dy).reshape(module(x).shape)

    def forward() -> Any:
        with torch.no_grad():
            return call(x).reshape(data.dy.shape)

    def step() -> tuple[Any, Any]:
        x.grad = None
        optimizer.zero_grad()
        y = call(x)
        y.backward(dy)
        optimizer.step()
        return y.detach().reshape(data.dy.shape), x.grad.reshape(data.x.shape)

    def weights() -> tuple[Any, Any]:
        return kernel.detach().numpy(), bias.detach().numpy().reshape(data.bias.shape)

    return Operations(forward, step, weights)


def _own(case: Case, data: Data) -> Any:
    from bench.peers.own import make_layer
    from lcnumba.torch import LocallyConnected1d, LocallyConnected2d

    kind = LocallyConnected2d if case.rank == 2 else LocallyConnected1d
    return kind.from_layer(make_layer(case, data))


def _unfolded(case: Case, data: Data) -> Any:
    import torch

    P, K, F = case.positions, case.window, case.filters
    (above, below), (before, after) = case.zero_pad

    class Unfolded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(data.kernel.copy()))
            self.bias = torch.nn.Parameter(torch.from_numpy(data.bias.copy()))

        def forward(self, x: Any) -> Any:
            padded = case.wrapped(x, torch.cat)
            if any(map(any, case.zero_pad)):
                padded = torch.nn.functional.pad(padded, (0, 0, before, after, above, below))
            windows = padded.unfold(1, case.kernel_size[0], case.strides[0]).unfold(
                2, case.kernel_size[1], case.strides[1]
            )  # (N, OH, OW, C, KH, KW)
            patches = windows.permute(1, 2, 0, 4, 5, 3).reshape(P, -1, K)
            y = torch.baddbmm(self.bias.view(P, 1, F), patches, self.weight)
            return y.transpose(0, 1).reshape(-1, *case.output_size, F)

    return Unfolded()
