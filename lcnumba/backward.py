"""The pullback that a training forward returns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba.arrays import ingest, normalise
from lcnumba.checks import learning_rate
from lcnumba.parameters import Gradients, Parameters

__all__ = ["Backward"]

Array = npt.NDArray[Any]


class Backward:
    """Derivatives at one forward call.

    It refers to that call's input and output without copying them, so the caller must leave both
    unchanged until backward has run; and it belongs to the weights of that call, so it refuses to
    run once they have changed.
    """

    def __init__(
        self,
        parameters: Parameters,
        version: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        pullback: Callable[[Array], tuple[Array, Gradients]],
    ) -> None:
        self._parameters = parameters
        self._version = version
        self._shape = shape
        self._dtype = dtype
        self._pullback = pullback  # checks the version under the lock

    def __call__(self, dy: Any) -> tuple[Any, Gradients]:
        """Return the derivatives of ``sum(dy * y)``.

        Parameters
        ----------
        dy : array
            Of the shape of y.

        Returns
        -------
        dx : array of the kind of dy
            By the input, of its shape.
        grads : Gradients
            By kernel and bias, NumPy arrays of their shapes.

        Raises
        ------
        ValueError, TypeError
            If dy is no array of the shape of y.
        RuntimeError
            If the weights have changed since the forward call.
        """
        given, like = ingest("dy", dy)
        if given.shape != self._shape:
            raise ValueError(f"dy has shape {given.shape}; give the shape of y, {self._shape}")
        dx, grads = self._pullback(normalise("dy", given, self._dtype))
        return like(dx), grads

    def step(self, dy: Any, lr: float) -> Any:
        """Backward and the layer's `step` in one: return dx, and change the parameters.

        dx is that of the weights before the step. Parameters and errors are those of calling
        backward and of the layer's ``step(grads, lr)``; if anything is refused, nothing changes.
        """
        learning_rate(lr, self._dtype)
        dx, grads = self(dy)
        self.prepare_step(grads, lr)()
        return dx

    def prepare_step(self, grads: Gradients, lr: float) -> Callable[[], None]:
        """Check a step by the gradients of this very call; return the function that carries it out."""
        return self._parameters.prepare(grads, lr, self._version)
