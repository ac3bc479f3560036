"""Keras 3: a model of one layer, trained by `train_on_batch` and called by `predict_on_batch`.

The layer is this library's, or `keras.ops.image.extract_patches` and `einsum`. A training step of Keras returns the
loss alone, and a first layer has no gradient by its input: zeros stand for y and dx of a step.
"""

import os
from typing import Any

import numpy as np

from bench.case import Case
from bench.data import LEARNING_RATE, Data
from bench.peers import Operations

__all__ = ["make"]


def make(case: Case, data: Data, threads: int, form: str, backend: str) -> Operations:
    """Make the model with a backend of Keras; `form` is "lcnumba" or "patches"."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    if backend == "torch":
        import torch

        torch.set_num_threads(threads)
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    shape = case.input_size[2 - case.rank :] if form == "lcnumba" else case.input_size
    layer = _own(case) if form == "lcnumba" else _patches(case)
    model = keras.Sequential([keras.Input(shape), layer])
    layer.set_weights([data.kernel, data.bias.reshape(layer.weights[1].shape)])
    # Its gradient by y is dy.
    model.compile(keras.optimizers.SGD(LEARNING_RATE), loss=lambda dy, y: keras.ops.sum(dy * y))
    x, dy = data.x.reshape(case.batch, *shape), data.dy.reshape(case.batch, *layer.output.shape[1:])
    zeros = np.zeros_like(data.dy), np.zeros_like(data.x)

    def step() -> tuple[Any, Any]:
        float(model.train_on_batch(x, dy))
        return zeros

    def weights() -> tuple[Any, Any]:
        kernel, bias = layer.get_weights()
        return kernel, bias.reshape(data.bias.shape)

    return Operations(lambda: np.asarray(model.predict_on_batch(x)).reshape(data.dy.shape), step, weights)


def _own(case: Case) -> Any:
    from lcnumba.keras import LocallyConnected1D, LocallyConnected2D

    first = 2 - case.rank
    modes = tuple("circular" if circular else "zeros" for circular in case.circular)[first:]
    kind = LocallyConnected2D if case.rank == 2 else LocallyConnected1D
    return kind(case.filters, case.kernel_size[first:], case.strides[first:], case.padding, padding_mode=modes)


def _patches(case: Case) -> Any:
    import keras
    from keras import ops

    class Patches(keras.layers.Layer):
        def build(self, _: Any) -> None:
            shape = (*case.output_size, case.window, case.filters)
            self.kernel = self.add_weight(shape=(case.positions, *shape[2:]), name="kernel")
            self.bias = self.add_weight(shape=(*case.output_size, case.filters), name="bias")

        def call(self, x: Any) -> Any:
            x = case.wrapped(x, ops.concatenate)
            if any(map(any, case.zero_pad)):
                x = ops.pad(x, ((0, 0), *case.zero_pad, (0, 0)))
            patches = ops.image.extract_patches(x, case.kernel_size, case.strides, padding="valid",
                                                data_format="channels_last")  # fmt: skip
            kernel = ops.reshape(self.kernel, (*case.output_size, case.window, case.filters))
            return ops.einsum("nopk,opkf->nopf", patches, kernel) + self.bias

    return Patches()
