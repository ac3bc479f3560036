"""Activations, each with its gradient."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lcnumba import named
from lcnumba.arrays import frozen

__all__ = ["Activation", "Linear", "ReLU", "Sigmoid", "Softmax", "Tanh", "get"]

Array = npt.NDArray[Any]


class Activation(Protocol):
    """What a layer asks of an activation; any object with these members serves as one.

    `gradient` sees the output y alone, so that a layer need not keep the pre-activation.
    """

    name: str

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y, of the shape and dtype of z; into `out`, which may be z itself, if given."""
        ...

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dz of dy; neither is changed."""
        ...


class Linear:
    """y = z."""

    name = "linear"

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return z itself."""
        if out is None or out is z:
            return z
        out[...] = z
        return out

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy itself."""
        return dy


class ReLU:
    """y = max(z, 0); the gradient at 0 is 0, and NaN stays NaN."""

    name = "relu"

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return max(z, 0)."""
        return np.maximum(z, z.dtype.type(0), out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Select dy where y > 0 (a product would turn 0 * inf into NaN)."""
        return np.where(y > 0, dy, dy.dtype.type(0))


class Tanh:
    """y = tanh(z)."""

    name = "tanh"

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return tanh(z)."""
        return np.tanh(z, out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy * (1 - y^2)."""
        return dy * (1 - y * y)


class Sigmoid:
    """y = 1 / (1 + exp(-z)), without overflow."""

    name = "sigmoid"

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return the logistic function of z."""
        from scipy.special import expit

        return expit(z, out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy * y * (1 - y)."""
        return dy * y * (1 - y)


class Softmax:
    """y = exp(z) / sum(exp(z)) over the last axis, the channels, in either data format."""

    name = "softmax"

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return the softmax of z; the maximum is taken off first, so nothing overflows."""
        y = np.subtract(z, np.max(z, axis=-1, keepdims=True), out=out)
        np.exp(y, out=y)
        y /= np.sum(y, axis=-1, keepdims=True)
        return y

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return y * (dy - sum(dy * y))."""
        return y * (dy - np.sum(dy * y, axis=-1, keepdims=True))


_BY_NAME = {c.name: c for c in (Linear, ReLU, Tanh, Sigmoid, Softmax)}


def get(identifier: Any) -> Activation:
    """Return the activation of a name, of None (linear), or an activation object itself."""
    if identifier is None:
        return Linear()
    found = named.build("activation", _BY_NAME, identifier)
    if not (callable(found) and callable(getattr(found, "gradient", None))):
        raise TypeError(
            f"activation={identifier!r} brings no gradient; give a name ({', '.join(sorted(_BY_NAME))}) "
            "or an object with __call__(z, out=None) and gradient(dy, y)"
        )
    return found


def is_built_in(activation: Any) -> bool:
    """Whether it is one of the library's own, which cannot fail."""
    return type(activation) in _BY_NAME.values()


def rectifies(activation: Any) -> bool:
    """Whether it is the library's ReLU, which an implementation can apply as it computes."""
    return type(activation) is ReLU


def apply(activation: Activation, z: Array) -> Array:
    """Return y of a z that may be overwritten; hold a custom activation to its contract."""
    if is_built_in(activation):
        return activation(z, out=z)
    y = _like(f"activation {activation!r}", activation(z, out=z), z)
    # It may hand out an array that it will use again.
    return y if y is z else y.copy()


def pull(activation: Activation, dy: Array, y: Array) -> Array:
    """Return dz, C-contiguous, without letting a custom activation change dy or y."""
    if is_built_in(activation):
        return activation.gradient(dy, y)
    dz = _like(f"the gradient of activation {activation!r}", activation.gradient(frozen(dy), frozen(y)), dy)
    return np.ascontiguousarray(dz)


def serialize(activation: Activation) -> Any:
    """The name of a built-in activation; a custom one, which has none, stays itself."""
    return activation.name if is_built_in(activation) else activation


def _like(what: str, result: Any, model: Array) -> Array:
    """The result in the model's dtype, if it has the model's shape."""
    values = np.asarray(result, dtype=model.dtype)
    if values.shape != model.shape:
        raise ValueError(f"{what} made shape {values.shape} of {model.shape}; return an array of the same shape")
    return values
