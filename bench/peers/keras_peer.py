"""LocallyConnected2D of Keras 2 (tf_keras), under `tf.function`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations

__all__ = ["make"]

Array = npt.NDArray[Any]


def make(case: Case, data: Data, threads: int, implementation: int, xla: bool = False) -> Operations:
    """Make the layer; the first call of each operation builds its graph."""
    import tensorflow as tf
    import tf_keras

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    # Implementation 1 does not support "same", and none circular padding: the input is padded explicitly.
    explicit = implementation == 1 or any(case.circular)
    padding = "valid" if explicit else case.padding
    pad = case.pad if explicit else ((0, 0), (0, 0))
    layer = tf_keras.layers.LocallyConnected2D(
        case.filters, case.kernel_size, case.strides, padding, data_format="channels_last",
        implementation=implementation, dtype=case.dtype, kernel_initializer="zeros",
    )  # fmt: skip
    H, W, C = case.input_size
    layer.build((None, H + sum(pad[0]), W + sum(pad[1]), C))
    layer.set_weights([_stored(case, data.kernel, implementation), data.bias])
    x, dy = tf.constant(data.x), tf.constant(data.dy)

    def apply(x: Any) -> Any:
        if explicit and any(map(any, pad)):
            x = tf.pad(case.wrapped(x, tf.concat), ((0, 0), *case.zero_pad, (0, 0)))
        return layer(x)

    @tf.function(jit_compile=xla)
    def forward(x: Any) -> Any:
        return apply(x)

    @tf.function(jit_compile=xla)
    def step(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = apply(x)
        dx, dkernel, dbias = tape.gradient(y, [x, layer.kernel, layer.bias], output_gradients=dy)
        layer.kernel.assign_sub(LEARNING_RATE * dkernel)
        layer.bias.assign_sub(LEARNING_RATE * dbias)
        return y, dx

    def weights() -> tuple[Array, Array]:
        kernel, bias = layer.get_weights()
        return _canonical(case, kernel, implementation), bias

    return Operations(lambda: forward(x), lambda: step(x, dy), weights)


def _stored(case: Case, kernel: Array, implementation: int) -> Array:
    """The kernel (P, K, F) in the storage format of an implementation."""
    if implementation == 1:
        return kernel
    P, K, F = kernel.shape
    index = case.input_index()
    if implementation == 2:
        H, W, C = case.input_size
        dense = np.zeros((H * W * C, P, F), kernel.dtype)
        position, entry = np.nonzero(index >= 0)
        dense[index[position, entry], position] = kernel[position, entry]
        return dense.reshape(H, W, C, *case.output_size, F)
    # The existing weights, ordered by output (P, F), then by input.
    return kernel.transpose(0, 2, 1)[np.broadcast_to((index >= 0)[:, None], (P, F, K))]


def _canonical(case: Case, stored: Array, implementation: int) -> Array:
    """The inverse of `_stored`."""
    if implementation == 1:
        return stored
    P, K, F = case.positions, case.window, case.filters
    index = case.input_index()
    if implementation == 2:
        position = np.arange(P)[:, None]
        return np.where((index >= 0)[:, :, None], stored.reshape(-1, P, F)[index, position], 0)
    kernel = np.zeros((P, F, K), stored.dtype)
    kernel[np.broadcast_to((index >= 0)[:, None], kernel.shape)] = stored
    return kernel.transpose(0, 2, 1)
