"""Penalties of weights and outputs, each with its gradient: Keras' by name, and any object that brings both.

Penalties of weights are not divided by the batch; those of outputs are, as in Keras.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lcnumba import named
from lcnumba.checks import real

__all__ = ["L1", "L1L2", "L2", "Regularizer", "get"]

Array = npt.NDArray[Any]

# Numbers that are summed up at a time, so that what lies in between needs no memory to speak of.
BLOCK = 1 << 15


class Regularizer(Protocol):
    """What a layer asks of a regularizer; any object with these members serves as one."""

    def __call__(self, values: Array) -> float:
        """Return the penalty of weights or outputs."""
        ...

    def gradient(self, values: Array) -> Array:
        """Return its derivative by them, of their shape; they are read-only."""
        ...


class L1L2:
    """l1 * sum |w| + l2 * sum w^2, without a half.

    Parameters
    ----------
    l1, l2 : float, default 0
        At least 0. By the name "l1_l2" both are 0.01, as in Keras.
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1, self.l2 = _factor("l1", l1), _factor("l2", l2)

    def __call__(self, values: Array) -> float:
        """Return the penalty, summed up in float64."""
        flat = values.reshape(-1)
        total = 0.0
        for begin in range(0, flat.size, BLOCK):
            block = flat[begin : begin + BLOCK].astype(np.float64)
            if self.l1:
                total += self.l1 * float(np.sum(np.abs(block)))
            if self.l2:
                total += self.l2 * float(np.dot(block, block))
        return total

    def gradient(self, values: Array) -> Array:
        """Return l1 * sign(w) + 2 * l2 * w, 0 at 0."""
        number = values.dtype.type
        result = values * number(2 * self.l2) if self.l2 else np.zeros_like(values)
        if self.l1:
            result += number(self.l1) * np.sign(values)
        return result

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal regularizer."""
        return {"l1": self.l1, "l2": self.l2}

    def __repr__(self) -> str:
        """The call that makes it."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({settings})"


class L1(L1L2):
    """l1 * sum |w|."""

    def __init__(self, l1: float = 0.01) -> None:
        super().__init__(l1=l1)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal regularizer."""
        return {"l1": self.l1}


class L2(L1L2):
    """l2 * sum w^2, without a half."""

    def __init__(self, l2: float = 0.01) -> None:
        super().__init__(l2=l2)

    def get_config(self) -> dict[str, Any]:
        """Arguments that make an equal regularizer."""
        return {"l2": self.l2}


def _both() -> L1L2:
    return L1L2(0.01, 0.01)


def _orthogonal(**_: Any) -> None:
    raise ValueError(
        "regularizer 'orthogonal_regularizer' is for matrices, and a locally connected layer's weights have three "
        "axes; give an object with __call__(w) and gradient(w)"
    )


_BY_NAME = {"l1": L1, "l2": L2, "l1_l2": _both, "orthogonal_regularizer": _orthogonal}
_CLASSES = {"L1": L1, "L2": L2, "L1L2": L1L2}


def get(identifier: Any) -> Regularizer | None:
    """Return the regularizer of a name, config dict or None (none), or a regularizer object itself."""
    if identifier is None:
        return None
    found: Any = named.build("regularizer", _BY_NAME | _CLASSES, identifier)
    if not (callable(found) and callable(getattr(found, "gradient", None))):
        raise TypeError(
            f"regularizer={identifier!r} brings no gradient; give a name (l1, l2, l1_l2) or an object with "
            "__call__(w) and gradient(w)"
        )
    regularizer: Regularizer = found
    return regularizer


def is_built_in(regularizer: Any) -> bool:
    """Whether it is none or one of the library's own, which cannot fail."""
    return regularizer is None or type(regularizer) in _CLASSES.values()


def serialize(regularizer: Regularizer | None) -> Any:
    """The config dict of a built-in regularizer; a custom one, which has none, stays itself."""
    return named.config_of(regularizer) if regularizer is not None and is_built_in(regularizer) else regularizer


def _factor(name: str, value: Any) -> float:
    number = real(name, 0.0 if value is None else value)
    if number < 0:
        raise ValueError(f"{name}={value!r} cannot be used; give a number of at least 0")
    return number
