"""lcnumba."""

from typing import Any

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations

__all__ = ["make"]


def make(case: Case, data: Data, threads: int, implementation: int) -> Operations:  # noqa: ARG001
    """Make a layer of the case; Numba's threads are set by the environment."""
    import lcnumba

    layer = lcnumba.LocallyConnected2D(
        case.filters, case.kernel_size, case.strides, case.padding, implementation=implementation,
        dtype=case.dtype, input_shape=case.input_size, kernel_initializer="zeros",
    )  # fmt: skip
    layer.build((None, *case.input_size))
    layer.set_weights([data.kernel, data.bias])

    def step() -> tuple[Any, Any]:
        y, backward = layer.forward(data.x)
        return y, backward.step(data.dy, LEARNING_RATE)

    return Operations(lambda: layer(data.x), step, lambda: (layer.kernel, layer.bias))
