"""Constraints, which project the weights after each step: Keras' by name, and any function.

A constraint is a function from weights to projected weights. Axes are those of the canonical kernel (P, K, F) and of
the bias: with axis 0, Keras' default, a norm is over positions; with ``axis=1`` it is over the weights of each unit.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lcnumba.utils import registry
from lcnumba.utils.messages import public_class
from lcnumba.utils.norms import Rows, norms_over
from lcnumba.utils.types import Array
from lcnumba.utils.validation import integer, real

__all__ = ["MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "get"]

Constraint = Callable[[Array], Array]

# Added to denominators, as in Keras.
EPSILON = 1e-7
# Norms computed at a time when weights are projected in place.
NORMS = 1 << 16


class NonNeg:
    """Set negative weights to 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.constraints.NonNeg()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    def __call__(self, weights: Array) -> Array:
        """Return max(w, 0)."""
        return np.maximum(weights, weights.dtype.type(0))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal constraint."""
        return {}


class Norm:
    """Base class of constraints on norms n = sqrt(sum of w^2 over the axes), which scale each by a factor."""

    rows = Rows()  # where the rows of the weights are

    def __init__(self, axis: int | Iterable[int]) -> None:
        entries = axis if isinstance(axis, list | tuple) else (axis,)
        self._axes = [integer("axis", entry, -8) for entry in entries]
        self.axis = list(self._axes) if isinstance(axis, list | tuple) else self._axes[0]

    def __call__(self, weights: Array) -> Array:
        """Return the scaled weights."""
        result = weights.copy()
        _multiply(result, self.factors(weights))
        return result

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless the axes exist in weights of this shape."""
        if not all(-len(shape) <= axis < len(shape) for axis in self._axes):
            raise ValueError(f"axis={self.axis!r} of {name} is out of bounds for weights of shape {shape}")

    def apply(self, weights: Array) -> None:
        """Scale the weights in place.

        In parts, because running out of memory half-way could not be undone.
        """
        over = {axis % weights.ndim for axis in self._axes}
        sizes = [1 if axis in over else size for axis, size in enumerate(weights.shape)]
        axis = int(np.argmax(sizes))
        length = max(1, NORMS * sizes[axis] // max(1, math.prod(sizes)))
        for begin in range(0, sizes[axis], length):
            part = weights[(slice(None),) * axis + (slice(begin, begin + length),)] if axis not in over else weights
            _multiply(part, self.factors(part))

    def factors(self, weights: Array) -> Array:
        """The factors of the weights, in float64, of length 1 along the axes."""
        return self._factors(norms_over(weights, self._axes, self.rows))

    def _factors(self, norms: Array) -> Array:
        raise NotImplementedError


@public_class
class MaxNorm(Norm):
    """Limit norms to `max_value`.

    Parameters
    ----------
    max_value : float, default 2
        The maximum norm.
    axis : int or list of int, default 0
        Axes that a norm is over.

    Raises
    ------
    TypeError, ValueError
        If the value is not a number >= 0, or an axis is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> kernel = np.array([[[3.0], [4.0]], [[0.0], [1.0]]])  # (P, K, F): two positions, of norms 5 and 1
    >>> lc.constraints.MaxNorm(2, axis=1)(kernel)[:, :, 0].round(3)
    array([[1.2, 1.6],
           [0. , 1. ]])
    """

    def __init__(self, max_value: float = 2, axis: int | Iterable[int] = 0) -> None:
        super().__init__(axis)
        self.max_value = _bound("max_value", max_value)

    def _factors(self, norms: Array) -> Array:
        return np.clip(norms, 0, self.max_value) / (EPSILON + norms)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal constraint."""
        return {"max_value": self.max_value, "axis": self.axis}


@public_class
class UnitNorm(Norm):
    """Scale norms to 1.

    Parameters
    ----------
    axis : int or list of int, default 0
        Axes that a norm is over.

    Raises
    ------
    TypeError, ValueError
        If an axis is not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> kernel = np.array([[[3.0], [4.0]], [[0.0], [2.0]]])  # (P, K, F): two positions, of norms 5 and 2
    >>> lc.constraints.UnitNorm(axis=1)(kernel)[:, :, 0].round(3)
    array([[0.6, 0.8],
           [0. , 1. ]])
    """

    def __init__(self, axis: int | Iterable[int] = 0) -> None:
        super().__init__(axis)

    def _factors(self, norms: Array) -> Array:
        return 1 / (EPSILON + norms)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal constraint."""
        return {"axis": self.axis}


@public_class
class MinMaxNorm(Norm):
    """Move norms towards [min_value, max_value], by the fraction `rate` of the distance.

    Parameters
    ----------
    min_value, max_value : float, default 0 and 1
        Bounds of the norm.
    rate : float, default 1
        In [0, 1]: 0 for no change, 1 for the full distance.
    axis : int or list of int, default 0
        Axes that a norm is over.

    Raises
    ------
    TypeError, ValueError
        If a bound is not a number >= 0, `rate` is not in [0, 1], `min_value` is above `max_value`, or an axis is not
        an integer.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> kernel = np.array([[[3.0], [4.0]]])  # (P, K, F): one position, of norm 5
    >>> lc.constraints.MinMaxNorm(0, 1, rate=0.5, axis=1)(kernel)[:, :, 0].round(3)  # half of the way to 1
    array([[1.8, 2.4]])
    """

    def __init__(
        self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: int | Iterable[int] = 0
    ) -> None:
        super().__init__(axis)
        self.min_value, self.max_value = _bound("min_value", min_value), _bound("max_value", max_value)
        self.rate = real("rate", rate)
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must be in [0, 1], got {rate!r}")
        if self.min_value > self.max_value:
            raise ValueError(f"min_value must be <= max_value, got {min_value!r} and {max_value!r}")

    def _factors(self, norms: Array) -> Array:
        wanted = self.rate * np.clip(norms, self.min_value, self.max_value) + (1 - self.rate) * norms
        return wanted / (EPSILON + norms)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal constraint."""
        return {
            "min_value": self.min_value, "max_value": self.max_value, "rate": self.rate, "axis": self.axis,
        }  # fmt: skip


def _multiply(weights: Array, factors: Array) -> None:
    """Multiply weights in place by float64 factors, in the dtype of the weights unless a factor underflows."""
    narrow = factors.astype(weights.dtype)
    tiny = np.finfo(weights.dtype).tiny
    if np.any((narrow < tiny) & (factors > 0)):
        weights[...] = weights * factors
    else:
        weights *= narrow


def _radial(**_: Any) -> None:
    raise ValueError(
        "constraint 'radial_constraint' needs a convolution kernel (rows, columns, channels, filters), but here each "
        "position has its own kernel; give a callable f(w) -> w"
    )


_BY_NAME = {
    "max_norm": MaxNorm,
    "non_neg": NonNeg,
    "unit_norm": UnitNorm,
    "min_max_norm": MinMaxNorm,
    "maxnorm": MaxNorm,
    "nonneg": NonNeg,
    "unitnorm": UnitNorm,
    "radial_constraint": _radial,
}
_BUILT_IN = (MaxNorm, NonNeg, UnitNorm, MinMaxNorm)


def get(identifier: Any) -> Constraint | None:
    """Return the constraint for an identifier.

    Parameters
    ----------
    identifier : str, dict, callable or None
        A name of Keras ("max_norm", "non_neg", ...) or of a class of this module; a config dict; a callable
        f(w) -> w, which is returned unchanged; None for none.

    Returns
    -------
    callable or None

    Raises
    ------
    TypeError
        If it is none of these, or a config is invalid.
    ValueError
        If the name is unknown, or the constraint does not apply to locally connected kernels.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.constraints.get("max_norm").get_config()
    {'max_value': 2.0, 'axis': 0}
    """
    if identifier is None:
        return None
    found: Any = registry.build("constraint", _BY_NAME, identifier)
    if not callable(found):
        raise TypeError(
            f"constraint must be a name ({', '.join(sorted(_BY_NAME))}) or a callable f(w) -> w, got {identifier!r}"
        )
    constraint: Constraint = found
    return constraint


def is_built_in(constraint: Any) -> bool:
    """Whether it is None or one of this module."""
    return constraint is None or type(constraint) in _BUILT_IN


def serialize(constraint: Constraint | None) -> Any:
    """Return the config dict of a built-in constraint; a custom one, or None, unchanged."""
    return registry.config_of(constraint) if constraint is not None and is_built_in(constraint) else constraint


def _bound(name: str, value: Any) -> float:
    number = real(name, value)
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")
    return number


def __dir__() -> list[str]:
    return __all__
