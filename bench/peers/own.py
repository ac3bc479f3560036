"""lcnumba."""

from typing import Any

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations

__all__ = ["make", "make_layer"]


def make(case: Case, data: Data, threads: int, implementation: int) -> Operations:  # noqa: ARG001
    """Make a layer of the case; Numba's threads are set by the environment."""
    layer = make_layer(case, data, implementation)
    # A one-dimensional layer has no axis H.
    x, dy = (array.reshape(len(array), *array.shape[3 - case.rank :]) for array in (data.x, data.dy))

    def step() -> tuple[Any, Any]:
        y, backward = layer.forward(x)
        dx = backward.step(dy, LEARNING_RATE)
        return y.reshape(data.dy.shape), dx.reshape(data.x.shape)

    def weights() -> tuple[Any, Any]:
        return layer.kernel, layer.bias.reshape(data.bias.shape)

    return Operations(lambda: layer(x).reshape(data.dy.shape), step, weights)


def make_layer(case: Case, data: Data, implementation: int = 1) -> Any:
    """Make a layer with the weights of the data."""
    import lcnumba

    kind = lcnumba.LocallyConnected2D if case.rank == 2 else lcnumba.LocallyConnected1D
    shape = case.input_size[2 - case.rank :]
    modes = tuple("circular" if circular else "zeros" for circular in case.circular)[2 - case.rank :]
    layer = kind(
        case.filters, case.kernel_size[2 - case.rank :], case.strides[2 - case.rank :], case.padding,
        padding_mode=modes, implementation=implementation, dtype=case.dtype, input_shape=shape,
        kernel_initializer="zeros",
    )  # fmt: skip
    layer.build((None, *shape))
    layer.set_weights([data.kernel, data.bias.reshape(layer.bias.shape)])
    return layer
