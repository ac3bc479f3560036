"""PyTorch as users train with it: a module, autograd, and torch's SGD.

The layer is this library's module, or copies of the windows and batched products (``baddbmm``): by ``unfold``, or by a
gather, which is compiled. (The gradient of ``unfold``, compiled by torch 2.13, crashes.)
"""

from typing import Any

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations

__all__ = ["make"]


def make(case: Case, data: Data, threads: int, form: str) -> Operations:
    """Make the module and its optimizer; `form` is "lcnumba", "unfold" or "gather"."""
    import torch

    torch.set_num_threads(threads)
    module = _own(case, data) if form == "lcnumba" else _of_torch(case, data, form)
    kernel, bias = module.weight, module.bias
    call = torch.compile(module, fullgraph=True) if form == "gather" else module
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


def _of_torch(case: Case, data: Data, form: str) -> Any:
    import torch

    P, K, F = case.positions, case.window, case.filters
    (above, below), (before, after) = case.zero_pad
    index = torch.from_numpy(case.input_index().copy()) if form == "gather" else None

    class Local(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.from_numpy(data.kernel.copy()))
            self.bias = torch.nn.Parameter(torch.from_numpy(data.bias.copy()))

        def forward(self, x: Any) -> Any:
            patches = self.unfolded(x) if index is None else self.gathered(x)
            y = torch.baddbmm(self.bias.view(P, 1, F), patches, self.weight)
            return y.transpose(0, 1).reshape(-1, *case.output_size, F)

        def unfolded(self, x: Any) -> Any:
            padded = case.wrapped(x, torch.cat)
            if any(map(any, case.zero_pad)):
                padded = torch.nn.functional.pad(padded, (0, 0, before, after, above, below))
            (KH, KW), (rows, columns) = case.kernel_size, case.strides
            windows = padded.unfold(1, KH, rows).unfold(2, KW, columns)  # (N, OH, OW, C, KH, KW)
            return windows.permute(1, 2, 0, 4, 5, 3).reshape(P, -1, K)

        def gathered(self, x: Any) -> Any:
            flat = torch.nn.functional.pad(x.reshape(case.batch, -1), (0, 1))  # -1 reads the 0 at the end
            return flat.t()[index].permute(0, 2, 1)

    return Local()
