"""What weights are brought back to after each step: Keras' constraints by name, and any function.

A constraint is called with the weights and returns what they become. Axes are those of the canonical
kernel (P, K, F) and of the bias: by axis 0, Keras' default, a norm runs over positions; ``axis=1`` takes
each unit's weights.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from lcnumba.utils import registry
from lcnumba.utils.messages import public_class
from lcnumba.utils.norms import norms_over
from lcnumba.utils.types import Array
from lcnumba.utils.validation import integer, real

__all__ = ["MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "get"]

Constraint = Callable[[Array], Array]

# Keeps quotients finite, as in Keras.
EPSILON = 1e-7
# Of weights in place at a time.
NORMS = 1 << 16


class NonNeg:
    """Weights below 0 become 0.

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
        """Arguments that make an equal constraint."""
        return {}


class Norm:
    """What is common to constraints of norms n = sqrt(sum of w^2 over the axes): a factor for each."""

    def __init__(self, axis: int | Iterable[int]) -> None:
        entries = axis if isinstance(axis, list | tuple) else (axis,)
        self._axes = [integer("axis", entry, -8) for entry in entries]
        self.axis = list(self._axes) if isinstance(axis, list | tuple) else self._axes[0]

    def __call__(self, weights: Array) -> Array:
        """Return the weights times the factor of their norm."""
        result = weights.copy()
        _multiply(result, self.factors(weights))
        return result

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise unless weights of this shape have the axes."""
        if not all(-len(shape) <= axis < len(shape) for axis in self._axes):
            raise ValueError(f"axis={self.axis!r} of {name} does not exist in weights of shape {shape}")

    def apply(self, weights: Array) -> None:
        """Multiply weights by the factor of their norm, in place.

        So many norms at a time that memory for them is always to be had: there is no way back from the middle.
        """
        over = {axis % weights.ndim for axis in self._axes}
        sizes = [1 if axis in over else size for axis, size in enumerate(weights.shape)]
        axis = int(np.argmax(sizes))
        length = max(1, NORMS * sizes[axis] // max(1, math.prod(sizes)))
        for begin in range(0, sizes[axis], length):
            part = weights[(slice(None),) * axis + (slice(begin, begin + length),)] if axis not in over else weights
            _multiply(part, self.factors(part))

    def factors(self, weights: Array) -> Array:
        """What weights are multiplied by, in float64, 1 long along the axes."""
        return self._factors(norms_over(weights, self._axes))

    def _factors(self, norms: Array) -> Array:
        raise NotImplementedError


@public_class
class MaxNorm(Norm):
    """Norms above `max_value` become `max_value`.

    Parameters
    ----------
    max_value : float, default 2
        The largest norm.
    axis : int or list of int, default 0
        What a norm runs over.

    Raises
    ------
    TypeError, ValueError
        For a value that is no number of at least 0, or an axis that is no integer.

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
        """Arguments that make an equal constraint."""
        return {"max_value": self.max_value, "axis": self.axis}


@public_class
class UnitNorm(Norm):
    """Norms become 1.

    Parameters
    ----------
    axis : int or list of int, default 0
        What a norm runs over.

    Raises
    ------
    TypeError, ValueError
        For an axis that is no integer.

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
        """Arguments that make an equal constraint."""
        return {"axis": self.axis}


@public_class
class MinMaxNorm(Norm):
    """Norms go the share `rate` of the way into [min_value, max_value].

    Parameters
    ----------
    min_value, max_value : float, default 0 and 1
        Where norms may be.
    rate : float, default 1
        From 0, no change, to 1, at once.
    axis : int or list of int, default 0
        What a norm runs over.

    Raises
    ------
    TypeError, ValueError
        For a norm that is no number of at least 0, a `rate` outside [0, 1], a `min_value` above `max_value`, or an
        axis that is no integer.

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
            raise ValueError(f"rate={rate!r} cannot be used; give a number from 0 to 1")
        if self.min_value > self.max_value:
            raise ValueError(f"min_value={min_value!r} is above max_value={max_value!r}; exchange them")

    def _factors(self, norms: Array) -> Array:
        wanted = self.rate * np.clip(norms, self.min_value, self.max_value) + (1 - self.rate) * norms
        return wanted / (EPSILON + norms)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal constraint."""
        return {
            "min_value": self.min_value, "max_value": self.max_value, "rate": self.rate, "axis": self.axis,
        }  # fmt: skip


def _multiply(weights: Array, factors: Array) -> None:
    """Multiply weights by factors of float64, in place; in the type of the weights if that holds them all."""
    narrow = factors.astype(weights.dtype)
    tiny = np.finfo(weights.dtype).tiny
    if np.any((narrow < tiny) & (factors > 0)):
        weights[...] = weights * factors
    else:
        weights *= narrow


def _radial(**_: Any) -> None:
    raise ValueError(
        "constraint 'radial_constraint' is for kernels (rows, columns, channels, filters) that all positions share; "
        "here every position has its own: give a callable f(w) -> w"
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
    """Return the constraint that a layer's argument stands for.

    Parameters
    ----------
    identifier : str, dict, callable or None
        One of Keras' names ("max_norm", "non_neg", ...) or of the classes here; a config dict; a callable f(w) -> w,
        which is returned itself; None for none.

    Returns
    -------
    callable or None

    Raises
    ------
    TypeError
        If it is neither, or a config cannot be used.
    ValueError
        If the name is not known, or is that of a constraint which such kernels cannot have.

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
            f"constraint={identifier!r} is neither a name ({', '.join(sorted(_BY_NAME))}) nor a callable f(w) -> w"
        )
    constraint: Constraint = found
    return constraint


def is_built_in(constraint: Any) -> bool:
    """Whether it is none or one of the library's own."""
    return constraint is None or type(constraint) in _BUILT_IN


def serialize(constraint: Constraint | None) -> Any:
    """The config dict of a built-in constraint; a custom one, which has none, stays itself."""
    return registry.config_of(constraint) if constraint is not None and is_built_in(constraint) else constraint


def _bound(name: str, value: Any) -> float:
    number = real(name, value)
    if number < 0:
        raise ValueError(f"{name}={value!r} cannot be used; give a number of at least 0")
    return number


def __dir__() -> list[str]:
    return __all__
