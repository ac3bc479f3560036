"""The linear maps as functions of TensorFlow, each differentiated by the others, for Keras.

See `lcnumba.functional`. They are called by `tf.numpy_function`, so that they are neither compiled by XLA nor saved in
a SavedModel.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from lcnumba import functional
from lcnumba.functional import Spec

__all__ = ["apply", "apply_transpose"]


def _call(name: str, spec: str, shape: tuple[int, ...], *tensors: Any) -> Any:
    """Call a map; `shape` is that of the result, or of a sample of it if the batch is not known."""

    def run(*arrays: Any) -> Any:
        return getattr(functional, name)(Spec.from_text(spec), *map(np.ascontiguousarray, arrays))

    result = tf.numpy_function(run, tensors, tensors[0].dtype, stateful=False)
    result.set_shape(shape)
    return result


def _differentiable(map_: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A map of (spec, *tensors) whose gradients by the tensors `backward` computes of (spec, *tensors, cotangent)."""

    def call(spec: str, *tensors: Any) -> Any:
        @tf.custom_gradient
        def run(*given: Any) -> Any:
            return map_(spec, *given), lambda cotangent: backward(spec, *given, cotangent)

        return run(*tensors)

    return call


def apply(x: Any, kernel: Any, bias: Any, spec: str) -> Any:
    """Return y = F(x, kernel) + bias, for tensors whose shapes and dtypes fit; bias may be None."""
    y = _apply(spec, *map(tf.convert_to_tensor, (x, kernel)))  # not variables, which need a gradient of another kind
    return y if bias is None else y + bias


def apply_transpose(x: Any, kernel: Any, bias: Any, spec: str) -> Any:
    """Return the adjoint of F(., kernel) at x, plus a bias: a transposed layer."""
    y = _input_gradient(spec, *map(tf.convert_to_tensor, (kernel, x)))
    return y if bias is None else y + bias


def _map_apply(spec: str, x: Any, kernel: Any) -> Any:
    return _call("apply", spec, (x.shape[0], *Spec.from_text(spec).output_shape), x, kernel)


def _map_input_gradient(spec: str, kernel: Any, dy: Any) -> Any:
    return _call("input_gradient", spec, (dy.shape[0], *Spec.from_text(spec).input_shape), kernel, dy)


def _map_weight_gradient(spec: str, x: Any, dy: Any) -> Any:
    return _call("weight_gradient", spec, Spec.from_text(spec).kernel_shape, x, dy)


# Two calls for both gradients: of a first layer, whose dx nobody reads, a graph leaves out the one for it.
_apply: Callable[..., Any] = _differentiable(
    _map_apply, lambda spec, x, kernel, dy: (_input_gradient(spec, kernel, dy), _weight_gradient(spec, x, dy))
)
_input_gradient: Callable[..., Any] = _differentiable(
    _map_input_gradient, lambda spec, kernel, dy, u: (_weight_gradient(spec, u, dy), _apply(spec, u, kernel))
)
_weight_gradient: Callable[..., Any] = _differentiable(
    _map_weight_gradient, lambda spec, x, dy, v: (_input_gradient(spec, v, dy), _apply(spec, x, v))
)
