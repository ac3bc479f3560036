"""Gradients of a whole model: their mean over batches, their norm, and clipping.

Everything here takes what a pullback returns beside dx: `Gradients`, arrays, None for layers without weights, and
lists, tuples and dicts of these, as a `Sequential` and layers of users' own give them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lcnumba.utils.arrays import check_dtype
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.norms import norm_of_all
from lcnumba.utils.types import Array
from lcnumba.utils.validation import real

__all__ = ["Accumulator", "Gradients", "add", "clip_by_norm", "clip_by_value", "global_norm"]


@public_class
@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a layer with a kernel and, unless ``use_bias=False``, a bias.

    They add up and scale, so that gradients of several batches can be accumulated or averaged:
    ``0.5 * (first + second)``, ``sum(list_of_gradients)``.

    Parameters
    ----------
    kernel : array
        By the kernel, of its shape.
    bias : array, optional
        By the bias, of its shape; None without one.

    Raises
    ------
    TypeError, ValueError
        Of sums, if both are not of one layer; of products, if the factor is no finite real number.

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

    kernel: Array
    bias: Array | None = None

    # NumPy scalars then leave the multiplication to __rmul__ instead of making an object array.
    __array_ufunc__ = None

    def __add__(self, other: "Gradients") -> "Gradients":
        """Sum of two gradients of one layer."""
        if not isinstance(other, Gradients):
            return NotImplemented
        if self._shapes() != other._shapes():
            raise ValueError(f"only gradients of one layer add up, not shapes {self._shapes()} and {other._shapes()}")
        bias = None if self.bias is None or other.bias is None else self.bias + other.bias
        return Gradients(self.kernel + other.kernel, bias)

    def __radd__(self, other: Any) -> "Gradients":
        """0 + gradients, with which `sum` begins."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: float) -> "Gradients":
        """Gradients times a finite real number."""
        number = real("factor", factor)
        return Gradients(self.kernel * number, None if self.bias is None else self.bias * number)

    __rmul__ = __mul__

    def _shapes(self) -> tuple[Any, ...]:
        return self.kernel.shape, None if self.bias is None else self.bias.shape


class Accumulator:
    """The mean of several gradients, each with a weight: that of one batch made of all their samples.

    Gradients of mean losses are to be added with the number of their samples. Penalties of weights are no part of
    them (`step` adds those, once).

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
            Of the same form each time.
        weight : float
            What they count as: the number of their samples, above 0.
        """
        if real("weight", weight) <= 0:
            raise ValueError(f"weight={weight!r} cannot be used; give a number above 0")
        total = self._weight + weight
        if self.count:
            shares = self._weight / total, weight / total
            self._mean = _mapped(lambda a, b: _weighted(a, b, *shares), self._mean, grads)
        else:
            # Layers of users' own may fill the same arrays again.
            self._mean = _mapped(np.array, grads)
        self.count, self._weight = self.count + 1, total

    def take(self) -> Any:
        """Return the mean, and begin anew.

        Returns
        -------
        gradients
            Of the form of those that were added.

        Raises
        ------
        RuntimeError
            If none have been added.
        """
        if not self.count:
            raise RuntimeError("no gradients have been added")
        mean = self._mean
        self.__init__()  # type: ignore[misc]
        return mean


def global_norm(grads: Any) -> float:
    """Return the root of the sum of all squares, summed up in float64.

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
        If there is anything but arrays, `Gradients`, None and collections of them; likewise in the functions below.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.gradients.global_norm([np.array([3.0]), None, (np.array([0.0, 4.0]),)])
    5.0
    """
    scale, norm = norm_of_all(list(_arrays(grads)))
    return scale * norm


@public
def clip_by_norm(grads: Any, limit: float) -> Any:
    """Return the gradients, scaled down together if their global norm exceeds a limit; the same object if not.

    Parameters
    ----------
    grads : gradients
        Of a layer or a model.
    limit : float
        Largest norm, above 0. Where a gradient is not finite, neither is the result.

    Returns
    -------
    gradients
        Of the same form.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.gradients.clip_by_norm([np.array([3.0]), np.array([4.0])], 1.0)
    [array([0.6]), array([0.8])]
    """
    largest, (scale, norm) = _limit("limit", limit), norm_of_all(list(_arrays(grads)))
    if scale * norm <= largest:
        return grads
    factor = largest / (scale * norm)

    def clipped(array: Array) -> Array:
        number = array.dtype.type
        if scale == 1 and not 0 < factor < np.finfo(array.dtype).tiny:
            return array * number(factor)
        # The factor alone may be below what the type holds, and its product with the gradient is not.
        top = np.max(np.abs(array), initial=0)
        if not 0 < top < np.inf:
            return array * number(factor)
        return (array / top) * number(largest / norm * (float(top) / scale))

    with np.errstate(invalid="ignore", under="ignore"):  # 0 * inf: what is not finite stays so
        return _mapped(clipped, grads)


def add(*grads: Any) -> Any:
    """Return the sum of gradients of the same layer or model: of several forward calls before one step.

    Parameters
    ----------
    *grads : gradients
        At least one, all of one form.

    Returns
    -------
    gradients
        Of the same form.

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
        raise TypeError("add() lacks gradients; give at least one")
    total = _mapped(np.array, grads[0])
    for more in grads[1:]:
        total = _mapped(np.add, total, more)
    return total


@public
def clip_by_value(grads: Any, limit: float) -> Any:
    """Return the gradients with every number cut to -limit ... limit; NaN stays NaN.

    Parameters
    ----------
    grads : gradients
        Of a layer or a model.
    limit : float
        Largest magnitude, above 0.

    Returns
    -------
    gradients
        Of the same form.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.gradients.clip_by_value([np.array([3.0, -0.5]), None], 1.0)
    [array([ 1. , -0.5]), None]
    """
    largest = _limit("limit", limit)

    def clipped(array: Array) -> Array:
        if array.dtype.kind != "f":
            return np.clip(array, -largest, largest)
        # A number of the array's type, since NumPy 1.26 takes a wider one for a bound beyond it.
        bound = array.dtype.type(largest if largest <= float(np.finfo(array.dtype).max) else np.inf)
        return np.clip(array, -bound, bound)

    return _mapped(clipped, grads)


def _limit(name: str, value: Any) -> float:
    if real(name, value) <= 0:
        raise ValueError(f"{name}={value!r} cannot be used; give a number above 0")
    return float(value)


def _weighted(a: Array, b: Array, first: float, second: float) -> Array:
    mean = a * a.dtype.type(first)
    mean += b * b.dtype.type(second)
    return mean


def _mapped(function: Callable[..., Array], grads: Any, *others: Any) -> Any:
    """Gradients of the same form, each array made by the function of those in its place."""
    _check_forms(grads, others)
    if grads is None:
        return None
    if isinstance(grads, Gradients):
        parts = [
            _mapped(function, *parts) for parts in zip(*((g.kernel, g.bias) for g in (grads, *others)), strict=True)
        ]
        return Gradients(*parts)
    if isinstance(grads, np.ndarray | np.generic):
        return function(_numbers(grads), *map(_numbers, others))
    if isinstance(grads, list | tuple):
        parts = [_mapped(function, *parts) for parts in zip(grads, *others, strict=True)]
        return parts if isinstance(grads, list) else tuple(parts)
    return {key: _mapped(function, value, *(other[key] for other in others)) for key, value in grads.items()}


def _check_forms(grads: Any, others: tuple[Any, ...]) -> None:
    """Raise unless all gradients have the form of the first: what has none in its place would be lost."""
    for each in (grads, *others):
        if each is not None and not isinstance(each, Gradients | np.ndarray | np.generic | list | tuple | dict):
            raise _unknown(each)
    for other in others:
        if _form(other) != _form(grads):
            raise ValueError(
                f"only gradients of one layer or model add up: {_form(other)} is not of the form {_form(grads)}"
            )


def _form(grads: Any) -> Any:
    """What gradients must have in common, one level deep: kind, and keys, length or shape."""
    if isinstance(grads, np.ndarray | np.generic):
        return "array", np.shape(grads)
    if isinstance(grads, dict):
        return "dict", sorted(map(str, grads))
    return type(grads).__name__, len(grads) if isinstance(grads, list | tuple) else 0


def _arrays(grads: Any) -> Iterator[Array]:
    if isinstance(grads, Gradients):
        yield from _arrays([grads.kernel, grads.bias])
    elif isinstance(grads, np.ndarray | np.generic):
        yield _numbers(grads)
    elif isinstance(grads, list | tuple | dict):
        for part in grads.values() if isinstance(grads, dict) else grads:
            yield from _arrays(part)
    elif grads is not None:
        raise _unknown(grads)


def _numbers(grads: Any) -> Array:
    if isinstance(grads, np.ma.MaskedArray):
        raise TypeError("grads holds a numpy MaskedArray; its mask would be ignored; fill it with .filled(0)")
    values = np.asarray(grads)
    check_dtype("grads", values)
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _unknown(grads: Any) -> TypeError:
    return TypeError(
        f"gradients of {type(grads).__name__} cannot be accumulated or clipped; a layer's pullback must return "
        "Gradients, NumPy arrays or None, or lists, tuples or dicts of them"
    )


def __dir__() -> list[str]:
    return __all__
