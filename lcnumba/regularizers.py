"""Regularizers: penalties on weights and outputs, and their gradients; Keras' by name, and custom objects.

Penalties on weights are not divided by the batch size; those on outputs are, as in Keras.
"""

from typing import Any, Protocol

import numpy as np

from lcnumba.utils import registry
from lcnumba.utils.messages import missing, public_class
from lcnumba.utils.sums import exact_sum, row_blocks
from lcnumba.utils.types import Array
from lcnumba.utils.validation import real

__all__ = ["L1", "L1L2", "L2", "Regularizer", "get"]


class Regularizer(Protocol):
    """What layers require of a regularizer; any object with these members can be used.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> class SumOfCubes:
    ...     def __call__(self, values):
    ...         return float(np.sum(np.abs(values) ** 3))
    ...
    ...     def gradient(self, values):
    ...         return 3 * values * np.abs(values)
    >>> layer = lc.Dense(1, kernel_initializer="ones", kernel_regularizer=SumOfCubes())
    >>> layer.build((None, 5))
    >>> layer.losses
    [5.0]
    """

    def __call__(self, values: Array) -> float:
        """Return the penalty.

        Parameters
        ----------
        values : array, read-only
            Weights or outputs.

        Returns
        -------
        float
        """
        ...

    def gradient(self, values: Array) -> Array:
        """Return the derivative of the penalty.

        Parameters
        ----------
        values : array, read-only
            Weights or outputs.

        Returns
        -------
        array
            Of the shape of the values.
        """
        ...


@public_class
class L1L2:
    """``l1 * sum |w| + l2 * sum w^2``, without a half.

    Parameters
    ----------
    l1, l2 : float, default 0
        At least 0. The name "l1_l2" stands for 0.01 both, as in Keras.

    Raises
    ------
    TypeError, ValueError
        If a factor is not a number >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> penalty = lc.regularizers.L1L2(l1=1, l2=0.5)
    >>> penalty(np.array([-1.0, 2.0]))
    5.5
    >>> penalty.gradient(np.array([-1.0, 2.0]))
    array([-2.,  3.])
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1, self.l2 = _factor("l1", l1), _factor("l2", l2)

    def __call__(self, values: Array) -> float:
        """Return the penalty, summed in float64."""
        return self.of_sums(*map(exact_sum, self.row_sums(values)))

    def row_sums(self, values: Array) -> tuple[Array, Array]:
        """Return the sums of ``|w|`` and of ``w^2`` of the rows of the first axis, those whose factor is not 0."""
        sums, squares = [np.zeros(0)], [np.zeros(0)]
        for block in row_blocks(values):
            if self.l1:
                sums.append(np.add.reduce(np.abs(block), axis=1))
            if self.l2:
                squares.append(np.einsum("ij,ij->i", block, block))
        return np.concatenate(sums), np.concatenate(squares)

    def of_sums(self, sums: float, squares: float) -> float:
        """Return the penalty, given the sums of ``|w|`` and of ``w^2``."""
        return (self.l1 * sums if self.l1 else 0.0) + (self.l2 * squares if self.l2 else 0.0)

    def gradient(self, values: Array) -> Array:
        """Return l1 * sign(w) + 2 * l2 * w, 0 at 0."""
        number = values.dtype.type
        result = values * number(2 * self.l2) if self.l2 else np.zeros_like(values)
        if self.l1:
            result += number(self.l1) * np.sign(values)
        return result

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal regularizer."""
        return {"l1": self.l1, "l2": self.l2}

    def __repr__(self) -> str:
        """The constructor call."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"


@public_class
class L1(L1L2):
    """``l1 * sum |w|``.

    Parameters
    ----------
    l1 : float, default 0.01
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If a factor is not a number >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.regularizers.L1(0.5)(np.array([-1.0, 2.0]))
    1.5
    """

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=l1)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal regularizer."""
        return {"l1": self.l1}


@public_class
class L2(L1L2):
    """l2 * sum w^2, without a half.

    Parameters
    ----------
    l2 : float, default 0.01
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If a factor is not a number >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.regularizers.L2(0.5)(np.array([-1.0, 2.0]))
    2.5
    """

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=l2)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal regularizer."""
        return {"l2": self.l2}


def _both() -> L1L2:
    return L1L2(0.01, 0.01)


def _orthogonal(**_: Any) -> None:
    raise ValueError(
        "regularizer 'orthogonal_regularizer' needs a matrix, but a locally connected kernel has three axes; give an "
        "object with __call__(w) and gradient(w)"
    )


_BY_NAME = {"l1": L1, "l2": L2, "l1_l2": _both, "orthogonal_regularizer": _orthogonal}
_CLASSES = {"L1": L1, "L2": L2, "L1L2": L1L2}


def get(identifier: Any) -> Regularizer | None:
    """Return the regularizer for an identifier.

    Parameters
    ----------
    identifier : str, dict, object or None
        "l1", "l2" or "l1_l2", or the name of a class of this module; a config dict; an object with ``__call__(w)`` and
        ``gradient(w)``, which is returned unchanged; None for none.

    Returns
    -------
    Regularizer or None

    Raises
    ------
    TypeError
        If an object has no gradient, or a config is invalid.
    ValueError
        If the name is unknown, or the regularizer does not apply to locally connected kernels.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.regularizers.get("l1_l2")
    L1L2(l1=0.01, l2=0.01)
    """
    if identifier is None:
        return None
    found: Any = registry.build("regularizer", _BY_NAME | _CLASSES, identifier)
    if not (callable(found) and callable(getattr(found, "gradient", None))):
        raise TypeError(
            f"regularizer={identifier!r} must implement __call__(w) and gradient(w); otherwise give a name (l1, l2, "
            "l1_l2)"
        )
    regularizer: Regularizer = found
    return regularizer


def is_built_in(regularizer: Any) -> bool:
    """Whether it is None or one of this module, which cannot fail."""
    return regularizer is None or type(regularizer) in _CLASSES.values()


def serialize(regularizer: Regularizer | None) -> Any:
    """Return the config dict of a built-in regularizer; a custom one, or None, unchanged."""
    return registry.config_of(regularizer) if regularizer is not None and is_built_in(regularizer) else regularizer


def _factor(name: str, value: Any) -> float:
    number = real(name, 0.0 if value is None else value)
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")
    return number


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    raise missing(__name__, name)
