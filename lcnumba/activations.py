"""Activations and their gradients: those of Keras by name, and any object that implements both.

Definitions, also at kinks, are Keras'. Softmax and log-softmax are over the last axis, the channels.

A new built-in one is a direct subclass of `_BuiltIn` here, in `_BY_NAME` and `__all__`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from lcnumba.runtime.signals import import_whole
from lcnumba.utils import registry
from lcnumba.utils.arrays import like_model, read_only
from lcnumba.utils.messages import missing, public_class
from lcnumba.utils.selection import selected
from lcnumba.utils.types import Array
from lcnumba.utils.validation import MAXIMUM, integer, real

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Activation",
    "Exponential",
    "HardSigmoid",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Mish",
    "ReLU",
    "ReLU6",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Softsign",
    "Swish",
    "Tanh",
    "ThresholdedReLU",
    "get",
]


# Elements that an activation processes at a time, so that temporary arrays stay in the cache.
BLOCK = 1 << 15

# sqrt(1/2) as in Keras' gelu: rounded to float32, in float64 too.
ROOT_HALF = float(np.float32(math.sqrt(0.5)))

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


class Activation(Protocol):
    """What layers require of an activation; any object with these members can be used.

    `gradient` gets the output y, so that a layer need not save the pre-activation z. If the derivative cannot be
    computed from y, the activation sets ``uses_input = True``; the layer then saves z, and `gradient` gets it in
    place of y.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> class Square:
    ...     uses_input = True  # the sign of z is not known from y
    ...
    ...     def __call__(self, z, out=None):
    ...         return np.square(z, out=out)
    ...
    ...     def gradient(self, dy, z):
    ...         return 2 * z * dy
    >>> y, backward = lc.Activation(Square()).forward([[-3.0, 2.0]])
    >>> backward(np.ones_like(y))[0]
    array([[-6.,  4.]])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y of z.

        Parameters
        ----------
        z : array
            The pre-activation, float32 or float64, channels last.
        out : array, optional
            Output array of the shape and dtype of z; may be z itself.

        Returns
        -------
        array
            y, of the shape and dtype of z.
        """
        ...

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dz of dy; neither dy nor y may be modified.

        Parameters
        ----------
        dy : array
            Derivatives by y.
        y : array
            The output; z if the activation has ``uses_input = True``.

        Returns
        -------
        array
            Derivatives by z, of the shape and dtype of dy.
        """
        ...


class _BuiltIn:
    """Base class of the built-in activations, which are its direct subclasses."""

    uses_input = False  # whether `gradient` takes z instead of y

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y, of the shape and dtype of z; in `out` if given, which may be z itself."""
        raise NotImplementedError

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dz of dy, given y, or z if the activation has `uses_input`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal activation."""
        return {name: value for name, value in vars(self).items() if name != "uses_input"}

    def __eq__(self, other: object) -> bool:
        """Whether both have the same class and parameters."""
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        """Equal functions have equal hashes."""
        return hash((type(self), *vars(self).items()))

    def __repr__(self) -> str:
        """The constructor call."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"


class Linear(_BuiltIn):
    """y = z.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Linear()(np.array([-1.0, 2.0]))
    array([-1.,  2.])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return z itself."""
        if out is None or out is z:
            return z
        out[...] = z
        return out

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy itself."""
        return dy


@public_class
class ReLU(_BuiltIn):
    """y = z above the threshold, at most max_value; alpha * (z - threshold) below. NaN stays NaN.

    Parameters
    ----------
    alpha : float, default 0
        Slope below the threshold, at least 0.
    max_value : float, optional
        The largest output, at least 0.
    threshold : float, default 0
        The threshold, at least 0.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a number >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.ReLU()(np.array([-2.0, 1.0, 5.0]))
    array([0., 1., 5.])
    >>> lc.activations.ReLU(alpha=0.5, max_value=3)(np.array([-2.0, 1.0, 5.0]))
    array([-1.,  1.,  3.])
    """

    def __init__(self, *, alpha: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> None:
        self.alpha = _not_negative("alpha", alpha)
        self.max_value = None if max_value is None else _not_negative("max_value", max_value)
        self.threshold = _not_negative("threshold", threshold)
        self.uses_input = not self.plain

    @property
    def plain(self) -> bool:
        """Whether it is max(z, 0)."""
        return not self.alpha and self.max_value is None and not self.threshold

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        number = z.dtype.type
        if self.plain:
            return np.maximum(z, number(0), out=out)
        below = number(self.alpha) * (z - number(self.threshold)) if self.alpha else number(0)
        above = z if self.max_value is None else np.minimum(z, number(self.max_value))
        # NaN compares False, so it passes through.
        y = np.where(z <= number(self.threshold), below, above)
        return _into(out, y)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy where y is above the threshold (selected, since 0 * inf would be NaN)."""
        number = dy.dtype.type
        if self.plain:
            return selected(y > 0, dy)
        if self.max_value is None and not self.threshold:  # Keras' leaky_relu: alpha at 0 and at NaN
            return np.where(y > 0, dy, dy * number(self.alpha))
        below = np.where(y < number(self.threshold), dy * number(self.alpha), number(0))
        passes = y > number(self.threshold)
        if self.max_value is not None:  # Keras' relu6 passes nothing at 6
            passes &= y < 6 if self.max_value == 6 and not self.threshold else y <= number(self.max_value)
        return np.where(passes, dy, below)


class ReLU6(_BuiltIn):
    """y = min(max(z, 0), 6); the gradient is 0 at 0 and at 6.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.ReLU6()(np.array([-1.0, 3.0, 9.0]))
    array([0., 3., 6.])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return np.clip(z, z.dtype.type(0), z.dtype.type(6), out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy where 0 < y < 6, else 0."""
        return selected((y > 0) & (y < 6), dy)


@public_class
class LeakyReLU(_BuiltIn):
    """y = z above 0, and alpha * z below; the gradient at 0 is alpha.

    Parameters
    ----------
    alpha : float, default 0.3
        Slope below 0, at least 0; the name "leaky_relu" stands for 0.2. As in Keras, it is rounded to float32 in
        float64 layers, too.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a number >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.LeakyReLU(alpha=0.25)(np.array([-4.0, 2.0]))
    array([-1.,  2.])
    """

    def __init__(self, alpha: float = 0.3) -> None:
        self.alpha = _not_negative("alpha", alpha)

    @property
    def _alpha32(self) -> float:
        return float(np.float32(self.alpha))

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        number = z.dtype.type(self._alpha32)
        if number == 0:  # Keras' ReLU, also of -inf
            return np.maximum(z, number, out=out)
        if number > 1:
            return _into(out, np.where(z > 0, z, z * number))
        return np.maximum(z, z * number, out=out)  # a seventh of the time of where

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy, or alpha * dy where y is not above 0."""
        number = dy.dtype.type(self._alpha32)
        if number > 1:
            return np.where(y > 0, dy, dy * number)
        # 1 or alpha; (1 - alpha) + alpha is rounded to 1.
        slope = np.multiply(y > 0, 1 - number, dtype=dy.dtype)
        slope += number
        return np.multiply(slope, dy)


@public_class
class ThresholdedReLU(_BuiltIn):
    """y = z above theta, else 0.

    Parameters
    ----------
    theta : float, default 1
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a number >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.ThresholdedReLU(theta=1)(np.array([0.5, 1.0, 2.0]))
    array([0., 0., 2.])
    """

    def __init__(self, theta: float = 1.0) -> None:
        self.theta = _not_negative("theta", theta)

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return _into(out, np.where(z <= z.dtype.type(self.theta), z.dtype.type(0), z))

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy where y > 0, else 0."""
        return selected(y > 0, dy)


@public_class
class ELU(_BuiltIn):
    """y = z above 0, and alpha * (exp(z) - 1) below (Clevert et al., 2016); the derivative at 0 is alpha.

    Parameters
    ----------
    alpha : float, default 1
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not a number >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.ELU()(np.array([-1.0, 2.0])).round(3)
    array([-0.632,  2.   ])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = _not_negative("alpha", alpha)

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        below = z.dtype.type(self.alpha) * np.expm1(np.minimum(z, z.dtype.type(0)))
        return _into(out, np.where(z > 0, z, below))

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy above 0, and dy * (y + alpha) below; alpha * dy at NaN, as in Keras."""
        below = np.where(y < 0, y, dy.dtype.type(0)) + dy.dtype.type(self.alpha)
        return np.where(y > 0, dy, dy * below)


class SELU(_BuiltIn):
    """y = 1.0507 z above 0, and 1.0507 * 1.6733 * (exp(z) - 1) below (Klambauer et al., 2017).

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.SELU()(np.array([-1.0, 1.0])).round(3)
    array([-1.111,  1.051])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        below = z.dtype.type(SELU_SCALE * SELU_ALPHA) * np.expm1(np.minimum(z, z.dtype.type(0)))
        return _into(out, np.where(z > 0, z * z.dtype.type(SELU_SCALE), below))

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return 1.0507 dy for y >= 0, and dy * (y + 1.0507 * 1.6733) below."""
        number = dy.dtype.type
        return dy * np.where(y < 0, y + number(SELU_SCALE * SELU_ALPHA), number(SELU_SCALE))


class Softplus(_BuiltIn):
    """y = log(1 + exp(z)), without overflow.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Softplus()(np.array([-1.0, 0.0, 1.0])).round(3)
    array([0.313, 0.693, 1.313])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return np.logaddexp(z.dtype.type(0), z, out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy * (1 - exp(-y))."""
        return dy * -np.expm1(-y)


class Softsign(_BuiltIn):
    """``y = z / (1 + |z|)``.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Softsign()(np.array([-1.0, 3.0]))
    array([-0.5 ,  0.75])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return np.divide(z, 1 + np.abs(z), out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return ``dy * (1 - |y|)^2``."""
        return dy * np.square(1 - np.abs(y))


class Tanh(_BuiltIn):
    """y = tanh(z).

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Tanh()(np.array([-1.0, 0.0, 1.0])).round(3)
    array([-0.762,  0.   ,  0.762])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return tanh(z)."""
        return np.tanh(z, out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy * (1 - y^2)."""
        return dy * (1 - y * y)


class Sigmoid(_BuiltIn):
    """y = 1 / (1 + exp(-z)), without overflow.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Sigmoid()(np.array([-1.0, 0.0, 1.0])).round(3)
    array([0.269, 0.5  , 0.731])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return the logistic function of z."""
        return _expit(z, out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy * y * (1 - y)."""
        return dy * y * (1 - y)


class HardSigmoid(_BuiltIn):
    """y = min(max(0.2 z + 0.5, 0), 1); the derivative is 0.2 at both ends, too.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.HardSigmoid()(np.array([-5.0, 0.0, 5.0]))
    array([0. , 0.5, 1. ])
    """

    uses_input = True

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return np.clip(_line(z), z.dtype.type(0), z.dtype.type(1), out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return 0.2 dy where the line through z lies between 0 and 1."""
        line = _line(y)
        return np.where((line < 0) | (line > 1), dy.dtype.type(0), dy * dy.dtype.type(0.2))


class Exponential(_BuiltIn):
    """y = exp(z).

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Exponential()(np.array([0.0, 1.0])).round(3)
    array([1.   , 2.718])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return exp(z)."""
        return np.exp(z, out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy * y."""
        return dy * y


class Swish(_BuiltIn):
    """y = z * sigmoid(z) (Ramachandran et al., 2017), also called SiLU.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Swish()(np.array([-1.0, 0.0, 1.0])).round(3)
    array([-0.269,  0.   ,  0.731])
    """

    uses_input = True

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return np.multiply(z, _expit(z), out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy * s * (1 + z (1 - s)) for s = sigmoid(z)."""
        s = _expit(y)
        return dy * (s * (1 + y * (1 - s)))


class GELU(_BuiltIn):
    """y = z times the normal distribution function at z (Hendrycks and Gimpel, 2016), not the tanh approximation.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.GELU()(np.array([-1.0, 0.0, 1.0])).round(3)
    array([-0.159,  0.   ,  0.841])
    """

    uses_input = True

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return np.multiply(z, _normal(z), out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy times distribution function plus z times density."""
        number = y.dtype.type
        density = np.exp(-np.square(y * number(ROOT_HALF))) * number(ROOT_HALF / math.sqrt(math.pi))
        return dy * (_normal(y) + y * density)


class Mish(_BuiltIn):
    """y = z * tanh(log(1 + exp(z))) (Misra, 2019).

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Mish()(np.array([-1.0, 0.0, 1.0])).round(3)
    array([-0.303,  0.   ,  0.865])
    """

    uses_input = True

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return y."""
        return np.multiply(z, np.tanh(np.logaddexp(z.dtype.type(0), z)), out=out)

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy * (t + z (1 - t^2) sigmoid(z)) for t = tanh(softplus(z))."""
        t = np.tanh(np.logaddexp(y.dtype.type(0), y))
        return dy * (t + y * (1 - t * t) * _expit(y))


@public_class
class Softmax(_BuiltIn):
    """y = exp(z) / sum(exp(z)) over the last axis, the channels, in either data format.

    Parameters
    ----------
    axis : int
        Must be -1; for configs of Keras' layer.

    Raises
    ------
    TypeError, ValueError
        If it is any other axis.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.activations.Softmax()(np.log([[1.0, 3.0], [2.0, 2.0]])).round(3)
    array([[0.25, 0.75],
           [0.5 , 0.5 ]])
    """

    def __init__(self, axis: int = -1) -> None:
        if integer("axis", axis, -MAXIMUM) != -1:
            raise ValueError(f"axis of softmax must be -1, the channels, got {axis!r}")

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return the softmax of z, shifted by its maximum so that nothing overflows."""
        y = np.subtract(z, np.max(z, axis=-1, keepdims=True), out=out)
        np.exp(y, out=y)
        y /= np.sum(y, axis=-1, keepdims=True)
        return y

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return y * (dy - sum(dy * y))."""
        return y * (dy - np.sum(dy * y, axis=-1, keepdims=True))


class LogSoftmax(_BuiltIn):
    """y = z - log(sum(exp(z))) over the last axis, the channels, in either data format.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> np.exp(lc.activations.LogSoftmax()(np.log([[1.0, 3.0]]))).round(3)
    array([[0.25, 0.75]])
    """

    def __call__(self, z: Array, out: Array | None = None) -> Array:
        """Return the logarithm of the softmax of z."""
        y = np.subtract(z, np.max(z, axis=-1, keepdims=True), out=out)
        y -= np.log(np.sum(np.exp(y), axis=-1, keepdims=True))
        return y

    def gradient(self, dy: Array, y: Array) -> Array:
        """Return dy - exp(y) * sum(dy)."""
        return dy - np.exp(y) * np.sum(dy, axis=-1, keepdims=True)


def _line(z: Array) -> Array:
    return z * z.dtype.type(0.2) + z.dtype.type(0.5)


@import_whole
def _special() -> Any:
    import scipy.special

    return scipy.special


def _expit(z: Array, out: Array | None = None) -> Array:
    return _special().expit(z, out=out)


def _normal(z: Array) -> Array:
    """Distribution function of the standard normal distribution."""
    return z.dtype.type(0.5) * _special().erfc(z * -z.dtype.type(ROOT_HALF))


def _into(out: Array | None, y: Array) -> Array:
    if out is None:
        return y
    out[...] = y
    return out


def _not_negative(name: str, value: Any) -> float:
    number = real(name, value)
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")
    return number


# Keras' names; configs use the first of several names of a function.
_BY_NAME: dict[str, Callable[..., _BuiltIn]] = {
    "linear": Linear,
    "relu": ReLU,
    "relu6": ReLU6,
    "leaky_relu": functools.partial(LeakyReLU, 0.2),
    "elu": ELU,
    "selu": SELU,
    "softplus": Softplus,
    "softsign": Softsign,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "hard_sigmoid": HardSigmoid,
    "exponential": Exponential,
    "swish": Swish,
    "silu": Swish,
    "gelu": GELU,
    "mish": Mish,
    "softmax": Softmax,
    "log_softmax": LogSoftmax,
}
# Class names are accepted, too: some are layers in Keras, with other defaults.
_CLASSES = {cls.__name__: cls for cls in _BuiltIn.__subclasses__()}
_BUILT_IN = frozenset(_CLASSES.values())
# Entries of such a layer's config in Keras that are ignored (None) or renamed.
_LAYER_ENTRIES = {"name": None, "trainable": None, "dtype": None, "negative_slope": "alpha"}


def get(identifier: Any) -> Activation:
    """Return the activation for an identifier.

    Parameters
    ----------
    identifier : str, dict, object or None
        A name of Keras ("relu", "elu", ...) or of a class of this module; a config dict; an object with
        ``__call__(z, out=None)`` and ``gradient(dy, y)``, which is returned unchanged; None for `Linear`.

    Returns
    -------
    Activation

    Raises
    ------
    TypeError
        If an object has no gradient, or a config is invalid.
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.activations.get("leaky_relu")
    LeakyReLU(alpha=0.2)
    >>> lc.activations.get({"class_name": "ELU", "config": {"alpha": 0.5}})
    ELU(alpha=0.5)
    """
    if identifier is None:
        return Linear()
    found = registry.build("activation", _BY_NAME | _CLASSES, identifier, _LAYER_ENTRIES)
    if not (callable(found) and callable(getattr(found, "gradient", None))):
        raise TypeError(
            f"activation={identifier!r} must implement __call__(z, out=None) and gradient(dy, y); otherwise give a "
            f"name ({', '.join(_BY_NAME)})"
        )
    return found


def is_built_in(activation: Any) -> bool:
    """Whether it is one of this module, which cannot fail."""
    return type(activation) in _BUILT_IN


def rectifies(activation: Any) -> bool:
    """Whether it is max(z, 0), which an implementation can fuse into its product."""
    return type(activation) is ReLU and activation.plain


def apply(activation: Activation, z: Array, for_backward: bool = False) -> tuple[Array, Array]:
    """Return y of z, and the array to save for backward: y, or z if the activation has `uses_input`.

    z is overwritten unless it is saved. The result of a custom activation is validated.
    """
    saves_z = for_backward and getattr(activation, "uses_input", False)
    if type(activation) is Linear:
        return z, z
    if is_built_in(activation):
        y = np.empty_like(z) if saves_z else z
        _in_blocks(lambda z, y: activation(z, out=y), z, y)
    else:
        given = read_only(z) if saves_z else z
        y = like_model(f"activation {activation!r}", activation(given, out=None if saves_z else z), z)
        # Copied, because a custom activation may reuse its array.
        y = y if y is z else y.copy()
    return y, z if saves_z else y


def vjp(activation: Activation, dy: Array, saved: Array) -> Array:
    """Return dz, C-contiguous, of dy and the array that `apply` saved; a custom activation gets read-only arrays."""
    if type(activation) is Linear:
        return dy
    if is_built_in(activation):
        dz = np.empty_like(dy)

        def vjp_block(dy: Array, saved: Array, dz: Array) -> None:
            dz[...] = activation.gradient(dy, saved)

        _in_blocks(vjp_block, dy, saved, dz)
        return dz
    dz = like_model(
        f"the gradient of activation {activation!r}", activation.gradient(read_only(dy), read_only(saved)), dy
    )
    return np.ascontiguousarray(dz)


def serialize(activation: Activation) -> Any:
    """Return the name or config dict of a built-in activation; a custom one unchanged."""
    if not is_built_in(activation):
        return activation
    names = (name for name, make in _BY_NAME.items() if make() == activation)
    return next(names, None) or registry.config_of(activation)


def _in_blocks(function: Callable[..., Any], *arrays: Array) -> None:
    """Call a function block by block on rows of C-contiguous arrays, without floating-point warnings."""
    if not arrays[0].size:
        return
    columns = arrays[0].shape[-1] if arrays[0].ndim else 1
    rows = max(1, BLOCK // columns)
    flat = [array.reshape(-1, columns) for array in arrays]
    with np.errstate(all="ignore"):
        for begin in range(0, len(flat[0]), rows):
            function(*(array[begin : begin + rows] for array in flat))


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
