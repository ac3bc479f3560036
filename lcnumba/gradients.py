"""Containers of gradients of a model: accumulation, global norm and clipping.

All functions take what a pullback returns besides dx: `Gradients`, arrays, None for layers without weights, and nested
lists, tuples and dicts of these, as returned by a `Sequential` and by custom layers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcnumba.utils.arrays import check_dtype
from lcnumba.utils.display import PublicNames, array_text
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.norms import norm_of_all
from lcnumba.utils.types import Array
from lcnumba.utils.validation import real

__all__ = [
    "Accumulator",
    "BatchNormalizationGradients",
    "Gradients",
    "LayerGradients",
    "add",
    "clip_by_norm",
    "clip_by_value",
    "global_norm",
]


class LayerGradients(PublicNames):
    """Base class of gradients of one layer's weights: addition and multiplication by numbers.

    Examples
    --------
    >>> import lcnumba as lc
    >>> issubclass(lc.Gradients, lc.gradients.LayerGradients)
    True
    """

    # Of each batch: values for the layer's moving averages, which are neither added nor scaled.
    moments: tuple[tuple[Array, ...], ...] = ()

    # So that a NumPy scalar defers to __rmul__ instead of making an object array.
    __array_ufunc__ = None

    def parts(self) -> dict[str, Array | None]:
        """Return the gradients by name of the weight, None for a weight that the layer does not have."""
        raise NotImplementedError

    def with_parts(self, parts: dict[str, Any], moments: tuple[tuple[Array, ...], ...]) -> Any:
        """Return gradients of the same class with other arrays."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Any:
        """Sum of two gradients of the same layer."""
        if type(other) is not type(self):
            return NotImplemented
        if self._shapes() != other._shapes():
            raise ValueError(f"gradients must be of the same layer, got shapes {self._shapes()} and {other._shapes()}")
        return _by_part(lambda a, b: None if a is None else a + b, self, other)

    def __radd__(self, other: Any) -> Any:
        """0 + gradients, so that `sum` works."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: float) -> Any:
        """Gradients times a finite real number."""
        number = real("factor", factor)
        return _by_part(lambda a: None if a is None else a * number, self)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        """Dtypes, shapes and magnitudes; the arrays are attributes."""
        parts = "; ".join(f"{name}: {array_text(a)}" for name, a in self.parts().items() if a is not None)
        return f"<{type(self).__name__}: {parts}>"

    def _shapes(self) -> tuple[Any, ...]:
        return tuple(None if array is None else array.shape for array in self.parts().values())


def _by_part(function: Callable[..., Any], *grads: Any) -> Any:
    """Apply a function to corresponding arrays of gradients of one layer; the moments are those of all."""
    parts = [each.parts() for each in grads]
    moments = tuple(batch for each in grads for batch in each.moments)
    return grads[0].with_parts({name: function(*(p[name] for p in parts)) for name in parts[0]}, moments)


@public_class
@dataclass(frozen=True, eq=False, repr=False)
class Gradients(LayerGradients):
    """Gradients of a layer's kernel and, unless ``use_bias=False``, bias.

    They support addition and multiplication by numbers, to accumulate or average gradients of several batches:
    ``0.5 * (first + second)``, ``sum(list_of_gradients)``.

    Parameters
    ----------
    kernel : array
        Gradient by the kernel, of its shape.
    bias : array, optional
        Gradient by the bias, of its shape; None without one.

    Raises
    ------
    TypeError, ValueError
        If added gradients have different shapes, or the factor is not a finite real number.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> first = lc.Gradients(np.array([[1.0, 2.0]]), np.array([3.0]))
    >>> second = lc.Gradients(np.array([[5.0, 6.0]]), np.array([7.0]))
    >>> mean = 0.5 * sum([first, second])
    >>> mean.kernel, mean.bias
    (array([[3., 4.]]), array([5.]))
    """

    __module__ = "lcnumba"

    kernel: Array
    bias: Array | None = None

    def parts(self) -> dict[str, Array | None]:
        """Return the gradients by name."""
        return {"kernel": self.kernel, "bias": self.bias}

    def with_parts(self, parts: dict[str, Any], moments: tuple[tuple[Array, ...], ...]) -> "Gradients":
        """Return gradients with other arrays."""
        return Gradients(**parts)


@public_class
@dataclass(frozen=True, eq=False, repr=False)
class BatchNormalizationGradients(LayerGradients):
    """Gradients of a BatchNormalization's gamma and beta, and the statistics of the batches that they are of.

    They support addition and multiplication by numbers as `lcnumba.Gradients` do. A sum has the statistics of both, and
    `step` takes them into the moving averages one after the other.

    Parameters
    ----------
    gamma, beta : array, optional
        Gradients, of their shapes; None with ``scale=False`` and ``center=False``.
    moments : tuple of (mean, variance)
        Those of each batch; the variance as Keras takes it into the moving average.

    Raises
    ------
    TypeError, ValueError
        If added gradients have different shapes, or the factor is not a finite real number.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.BatchNormalization(momentum=0.5)
    >>> y, backward = layer.forward([[1.0], [3.0]])
    >>> dx, grads = backward([[5.0], [7.0]])
    >>> grads.beta, grads.moments
    (array([12.], dtype=float32), ((array([2.], dtype=float32), array([1.], dtype=float32)),))
    >>> len((0.5 * (grads + grads)).moments)
    2
    """

    gamma: Array | None = None
    beta: Array | None = None
    moments: tuple[tuple[Array, ...], ...] = ()

    def parts(self) -> dict[str, Array | None]:
        """Return the gradients by name."""
        return {"gamma": self.gamma, "beta": self.beta}

    def with_parts(
        self, parts: dict[str, Any], moments: tuple[tuple[Array, ...], ...]
    ) -> "BatchNormalizationGradients":
        """Return gradients with other arrays."""
        return BatchNormalizationGradients(**parts, moments=moments)


class Accumulator:
    """The weighted mean of gradients of several batches.

    With the number of samples as weights, it is the gradient of the mean loss over all batches. Penalties on weights
    are not included; `step` adds them once.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> mean = lc.gradients.Accumulator()
    >>> mean.add([np.array([1.0, 2.0])], weight=1)
    >>> mean.add([np.array([5.0, 6.0])], weight=3)
    >>> mean.take()
    [array([4., 5.])]
    >>> mean.count
    0
    """

    def __init__(self) -> None:
        self.count = 0
        self._weight = 0.0
        self._mean: Any = None

    def add(self, grads: Any, weight: float) -> None:
        """Add the gradients of one more batch.

        Parameters
        ----------
        grads : gradients
            Of the same structure each time.
        weight : float
            Their weight, above 0: the number of samples.
        """
        if real("weight", weight) <= 0:
            raise ValueError(f"weight must be > 0, got {weight!r}")
        total = self._weight + weight
        if self.count:
            factors = self._weight / total, weight / total
            self._mean = _mapped(lambda a, b: _weighted(a, b, *factors), self._mean, grads)
        else:
            # Copied, because a custom layer may reuse its arrays.
            self._mean = _mapped(np.array, grads)
        self.count, self._weight = self.count + 1, total

    def take(self) -> Any:
        """Return the mean, and reset.

        Returns
        -------
        gradients
            Of the structure of those that were added.

        Raises
        ------
        RuntimeError
            If no gradients have been added.
        """
        if not self.count:
            raise RuntimeError("no gradients have been added")
        mean = self._mean
        self.__init__()  # type: ignore[misc]
        return mean


def global_norm(grads: Any) -> float:
    """Return the square root of the sum of squares of all elements, summed in float64.

    Parameters
    ----------
    grads : gradients
        Of a layer or a model.

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If there is anything but arrays, `Gradients`, None, and lists, tuples and dicts of them.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.gradients.global_norm([np.array([3.0]), None, (np.array([0.0, 4.0]),)])
    5.0
    """
    scale, norm = norm_of_all(arrays_of(grads))
    return scale * norm


@public
def clip_by_norm(grads: Any, limit: float) -> Any:
    """Scale gradients down together if their global norm exceeds a limit; otherwise return the same object.

    Parameters
    ----------
    grads : gradients
        Of a layer or a model.
    limit : float
        Maximum norm, above 0. Where a gradient is not finite, neither is the result.

    Returns
    -------
    gradients
        Of the same structure.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.gradients.clip_by_norm([np.array([3.0]), np.array([4.0])], 1.0)
    [array([0.6]), array([0.8])]
    """
    maximum = _limit("limit", limit)
    return scaled(grads, maximum, *norm_of_all(arrays_of(grads)))


def scaled(grads: Any, maximum: float, scale: float, norm: float) -> Any:
    """Return gradients whose norm is ``scale * norm``, scaled down to `maximum` if that is less."""
    if scale * norm <= maximum:
        return grads
    factor = maximum / (scale * norm)

    def clipped(array: Array) -> Array:
        number = array.dtype.type
        if scale == 1 and not 0 < factor < np.finfo(array.dtype).tiny:
            return array * number(factor)
        # The factor alone may underflow although its product with the gradient does not.
        top = np.max(np.abs(array), initial=0)
        if not 0 < top < np.inf:
            return array * number(factor)
        return (array / top) * number(maximum / norm * (float(top) / scale))

    with np.errstate(invalid="ignore", under="ignore"):  # 0 * inf is NaN
        return _mapped(clipped, grads)


def add(*grads: Any) -> Any:
    """Return the sum of gradients of the same layer or model, of several forward calls for instance.

    Parameters
    ----------
    *grads : gradients
        At least one, all of the same structure.

    Returns
    -------
    gradients
        Of the same structure.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.Dense(1, kernel_initializer="ones", use_bias=False)
    >>> (_, first), (_, second) = layer.forward([[1.0, 2.0]]), layer.forward([[5.0, 6.0]])
    >>> total = lc.gradients.add(first([[1.0]])[1], second([[-1.0]])[1])
    >>> total.kernel[:, 0]
    array([-4., -4.], dtype=float32)
    """
    if not grads:
        raise TypeError("add() needs at least one argument")
    total = _mapped(np.array, grads[0])
    for more in grads[1:]:
        total = _mapped(np.add, total, more)
    return total


@public
def clip_by_value(grads: Any, limit: float) -> Any:
    """Clip each element of gradients to [-limit, limit]; NaN stays NaN.

    Parameters
    ----------
    grads : gradients
        Of a layer or a model.
    limit : float
        Maximum magnitude, above 0.

    Returns
    -------
    gradients
        Of the same structure.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.gradients.clip_by_value([np.array([3.0, -0.5]), None], 1.0)
    [array([ 1. , -0.5]), None]
    """
    maximum = _limit("limit", limit)

    def clipped(array: Array) -> Array:
        if array.dtype.kind != "f":
            return np.clip(array, -maximum, maximum)
        # A scalar of the array's dtype, since NumPy 1.26 would promote to a wider one.
        bound = array.dtype.type(maximum if maximum <= float(np.finfo(array.dtype).max) else np.inf)
        return np.clip(array, -bound, bound)

    return _mapped(clipped, grads)


def _limit(name: str, value: Any) -> float:
    if real(name, value) <= 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")
    return float(value)


def _weighted(a: Array, b: Array, factor_a: float, factor_b: float) -> Array:
    mean = a * a.dtype.type(factor_a)
    mean += b * b.dtype.type(factor_b)
    return mean


def _mapped(function: Callable[..., Array], grads: Any, *others: Any) -> Any:
    """Apply a function to corresponding arrays of gradients; the result has the same structure."""
    _check_structures(grads, others)
    if grads is None:
        return None
    if isinstance(grads, LayerGradients):
        return _by_part(lambda *parts: _mapped(function, *parts), grads, *others)
    if isinstance(grads, np.ndarray | np.generic):
        return function(_numbers(grads), *map(_numbers, others))
    if isinstance(grads, list | tuple):
        parts = [_mapped(function, *parts) for parts in zip(grads, *others, strict=True)]
        return parts if isinstance(grads, list) else tuple(parts)
    return {key: _mapped(function, value, *(other[key] for other in others)) for key, value in grads.items()}


def _check_structures(grads: Any, others: tuple[Any, ...]) -> None:
    """Raise unless all gradients have the same structure, one level deep."""
    for each in (grads, *others):
        if each is not None and not isinstance(each, LayerGradients | np.ndarray | np.generic | list | tuple | dict):
            raise _unknown(each)
    for other in others:
        if _structure(other) != _structure(grads):
            raise ValueError(
                f"gradients must be of the same layer or model, got structures {_structure(grads)} and "
                f"{_structure(other)}"
            )


def _structure(grads: Any) -> Any:
    """The type, and keys, length or shape, of gradients."""
    if isinstance(grads, np.ndarray | np.generic):
        return "array", np.shape(grads)
    if isinstance(grads, dict):
        return "dict", sorted(map(str, grads))
    return type(grads).__name__, len(grads) if isinstance(grads, list | tuple) else 0


def arrays_of(grads: Any) -> list[Array]:
    """Return the arrays of gradients."""
    return list(_arrays(grads))


def _arrays(grads: Any) -> Iterator[Array]:
    if isinstance(grads, LayerGradients):
        yield from _arrays(list(grads.parts().values()))
    elif isinstance(grads, np.ndarray | np.generic):
        yield _numbers(grads)
    elif isinstance(grads, list | tuple | dict):
        for part in grads.values() if isinstance(grads, dict) else grads:
            yield from _arrays(part)
    elif grads is not None:
        raise _unknown(grads)


def _numbers(grads: Any) -> Array:
    if isinstance(grads, np.ma.MaskedArray):
        raise TypeError("grads holds a numpy MaskedArray; its mask would be ignored; use .filled(0)")
    values = np.asarray(grads)
    check_dtype("grads", values)
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _unknown(grads: Any) -> TypeError:
    return TypeError(
        f"gradients must be Gradients, NumPy arrays or None, or lists, tuples or dicts of them, got "
        f"{type(grads).__name__}"
    )


def __dir__() -> list[str]:
    return __all__
