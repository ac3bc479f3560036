"""The pullback that a training forward returns."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lcnumba.arrays import ingest, normalise
from lcnumba.kernels import Rule
from lcnumba.parameters import Gradients, Parameters

__all__ = ["Backward", "Derivatives"]

Array = npt.NDArray[Any]


class Derivatives(Protocol):
    """What a layer knows of one forward call.

    Attributes
    ----------
    sure : bool
        Whether no code of users is involved, which could fail.
    """

    sure: bool

    def gradients(self, dy: Array) -> tuple[Array, Gradients]:
        """Return dx and the gradients; checks under the lock that the weights are those of the call."""
        ...

    def fused(
        self, dy: Array, wants_dx: bool
    ) -> tuple[Callable[[Array, Rule | None], Array | None], dict[str, Array]] | None:
        """Return what `Parameters.step_fused` runs, and the gradients of the other weights; None if it cannot.

        The function returns dx, or None if it is not wanted, and cannot fail.
        """
        ...


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
        derivatives: Derivatives,
    ) -> None:
        self._parameters = parameters
        self._version = version
        self._shape = shape
        self._dtype = dtype
        self._derivatives = derivatives

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
        values, like = self._ingested(dy)
        dx, grads = self._derivatives.gradients(values)
        return like(dx), grads

    def step(self, dy: Any, lr: float, *, wants_dx: bool = True) -> Any:
        """Backward and the layer's `step` in one: return dx, and change the parameters.

        With a built-in optimizer each block of weights is updated where its gradient is computed: one
        pass over the weights, and no array of the gradient. Any other optimizer gets the gradients as
        `step` would give them. The numbers are the same to rounding.

        Parameters
        ----------
        dy : array
            Of the shape of y.
        lr : float
            Learning rate, finite and at least 0.
        wants_dx : bool, default True
            Whether dx is computed; a first layer can do without.

        Returns
        -------
        dx : array of the kind of dy, or None
            By the input, at the weights before the step.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As backward and the layer's `step` do; nothing has changed then.
        """
        rate = self._parameters.check_step(lr, self._version)
        return self._step(dy, rate, wants_dx)

    def plan_step(self, lr: float) -> Callable[[Any, bool], Any] | None:
        """Check a step before dy is known; return the function (dy, wants_dx) -> dx that carries it out.

        None if code of users - optimizer or activation - has a part in it, and could fail then.
        """
        rate = self._parameters.check_step(lr, self._version)
        if not (self._derivatives.sure and self._parameters.fuses):
            return None
        return lambda dy, wants_dx: self._step(dy, rate, wants_dx)

    def _step(self, dy: Any, lr: float, wants_dx: bool) -> Any:
        values, like = self._ingested(dy)
        fused = self._derivatives.fused(values, wants_dx) if self._parameters.fuses else None
        if fused is not None:
            dx = self._parameters.step_fused(lr, self._version, *fused)
        else:
            dx, grads = self._derivatives.gradients(values)
            self.prepare_step(grads, lr)()
        return like(dx) if wants_dx else None

    def prepare_step(self, grads: Gradients, lr: float) -> Callable[[], None]:
        """Check a step by the gradients of this very call; return the function that carries it out."""
        return self._parameters.prepare(grads, lr, self._version)

    def _ingested(self, dy: Any) -> tuple[Array, Callable[[Array], Any]]:
        given, like = ingest("dy", dy)
        if given.shape != self._shape:
            raise ValueError(f"dy has shape {given.shape}; give the shape of y, {self._shape}")
        return normalise("dy", given, self._dtype), like
