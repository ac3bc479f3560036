"""The pullback that a training forward returns.

`Backward` checks dy and plans steps; the layer's own `Vjp` computes gradients, and `Parameters`
(`layers/parameters.py`) changes the weights.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from lcnumba import regularizers
from lcnumba.gradients import LayerGradients
from lcnumba.layers.parameters import FusedUpdate, Parameters
from lcnumba.utils.arrays import as_numpy, like_model, normalise, read_only
from lcnumba.utils.deprecation import Renamed
from lcnumba.utils.display import PublicNames
from lcnumba.utils.messages import public
from lcnumba.utils.types import Array

__all__ = ["ActivityPenalty", "Backward", "Vjp"]


class ActivityPenalty:
    """The activity penalty of one output: its value and its gradient.

    Both are divided by the batch size, as in Keras.
    """

    def __init__(self, regularizer: regularizers.Regularizer, y: Array) -> None:
        self._regularizer, self._y = regularizer, y
        self.cannot_fail = regularizers.is_built_in(regularizer)
        self.loss = float(regularizer(read_only(y))) / len(y) if len(y) else 0.0

    def add_to(self, dy: Array) -> Array:
        """Return dy plus the gradient of the penalty."""
        if not len(dy):
            return dy
        gradient = self._regularizer.gradient(read_only(self._y))
        derivative = like_model(f"the gradient of activity_regularizer {self._regularizer!r}", gradient, dy)
        return dy + derivative / dy.dtype.type(len(dy))


class Vjp(Protocol):
    """The vector-Jacobian product of one forward call of a layer.

    Attributes
    ----------
    cannot_fail : bool
        Whether no user code, which may raise, is involved.
    supports_fused : bool
        Whether `fused_update` can apply a rule; without, it computes dx alone, for weights that are not trainable.
    bytes_of_step : int
        Bytes of dx, and of the gradient of the kernel if a fused step stores it.
    """

    cannot_fail: bool
    supports_fused: bool
    bytes_of_step: int

    def gradients(self, dy: Array) -> tuple[Array, LayerGradients]:
        """Return dx and the gradients; raise if the weights have changed since the call."""
        ...

    def fused_update(self, dy: Array, wants_dx: bool) -> tuple[FusedUpdate, dict[str, Array]]:
        """Return ``update(kernel, rule)`` for `Parameters.plan_fused`, and the gradients of the other weights.

        The function returns dx, or None without `wants_dx`, and cannot fail.
        """
        ...


class Backward(PublicNames):
    """Derivatives at one forward call.

    It refers to that call's input and output without copying them: leave both unchanged until backward has run. It is
    valid for the weights of that call only, and raises once they have changed.

    Returned by ``layer.forward(x)``.

    Examples
    --------
    >>> import lcnumba as lc
    >>> layer = lc.Dense(1, kernel_initializer="ones", name="out")
    >>> y, backward = layer.forward([[1.0, 2.0]])
    >>> dx, grads = backward([[4.0]])
    >>> layer.step(grads, lr=1.0)
    >>> backward([[4.0]])
    Traceback (most recent call last):
    ...
    RuntimeError: backward belongs to older weights of Dense 'out', which have changed since its forward;
        call forward again
    """

    def __init__(
        self,
        parameters: Parameters,
        version: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        vjp: Vjp,
        activity: ActivityPenalty | None = None,
    ) -> None:
        self._parameters = parameters
        self._version = version
        self._shape = shape
        self._dtype = dtype
        self._vjp = vjp
        self._activity = activity

    def __repr__(self) -> str:
        """The layer, the shape that it takes, and whether it still belongs to the layer's weights."""
        changed = "" if self._version == self._parameters.version else "; the weights have changed since forward"
        return f"<Backward of {self._parameters.owner}: dy {self._shape} {self._dtype}{changed}>"

    @property
    def activity_loss(self) -> float:
        """The penalty of the output of this call, divided by the batch; 0 without one."""
        return 0.0 if self._activity is None else self._activity.loss

    @property
    def bytes_of_step(self) -> int:
        """Bytes of dx, and of the gradient of the kernel if a fused step stores it."""
        return self._vjp.bytes_of_step

    @property
    def bytes_of_weights(self) -> int:
        """The size of the weights, and of their gradients, in bytes."""
        return sum(array.nbytes for array in self._parameters.views().values())

    @public
    def __call__(self, dy: Any) -> tuple[Any, Any]:
        """Return the derivatives of ``sum(dy * y) + activity_loss``.

        Parameters
        ----------
        dy : array
            Of the shape of y.

        Returns
        -------
        dx : array of the type of dy
            With respect to the input, of its shape.
        grads : Gradients, or BatchNormalizationGradients
            With respect to the layer's weights, NumPy arrays of their shapes.

        Raises
        ------
        ValueError, TypeError
            If dy is no array of the shape of y.
        RuntimeError
            If the weights have changed since the forward call.

        Examples
        --------
        >>> import lcnumba as lc
        >>> y, backward = lc.Dense(1, kernel_initializer="ones").forward([[1.0, 2.0]])
        >>> dx, grads = backward([[4.0]])
        >>> dx, grads.kernel[:, 0], grads.bias
        (array([[4., 4.]], dtype=float32), array([4., 8.], dtype=float32), array([4.], dtype=float32))
        """
        values, like = self._prepared_dy(dy)
        dx, grads = self._vjp.gradients(values)
        return like(dx), grads

    @public
    def step(self, dy: Any, lr: float, *, wants_dx: bool = True) -> Any:
        """Backward and the layer's `step` in one: return dx, and change the parameters.

        With a built-in optimizer each block of weights is updated as its gradient is computed: one pass over the
        weights, and no gradient array, except for scattered connections given one by one. Any other optimizer gets the
        whole gradients, as in `step`. Results are equal up to rounding.

        Parameters
        ----------
        dy : array
            Of the shape of y.
        lr : float
            Learning rate, finite and at least 0.
        wants_dx : bool, default True
            Whether to compute dx; the first layer of a model does not need it.

        Returns
        -------
        dx : array of the type of dy, or None
            With respect to the input, at the weights before the step.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As backward and the layer's `step` do; nothing has changed then.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.LocallyConnected1D(1, 2, kernel_initializer="ones", use_bias=False)
        >>> y, backward = layer.forward([[[1.0], [2.0], [3.0]]])
        >>> backward.step([[[1.0], [10.0]]], lr=0.5)[0, :, 0]
        array([ 1., 11., 10.], dtype=float32)
        >>> layer.kernel[:, :, 0]
        array([[  0.5,   0. ],
               [ -9. , -14. ]], dtype=float32)
        """
        return self._run(self._plan_fused(lr), dy, lr, wants_dx)

    def plan_step(self, lr: float) -> Callable[[Any, bool], Any] | None:
        """Check a step before dy is known; return a function ``(dy, wants_dx) -> dx`` that runs it and cannot fail.

        None if user code (optimizer, activation, regularizer, constraint), which may raise, is involved.
        """
        penalty = self._activity is None or self._activity.cannot_fail
        if not (penalty and self._vjp.cannot_fail and self._parameters.supports_fused):
            self._parameters.check(lr, self._version)
            return None
        planned = self._plan_fused(lr)
        return lambda dy, wants_dx: self._run(planned, dy, lr, wants_dx)

    prepare_step = Renamed("plan_update")

    def plan_update(self, grads: LayerGradients, lr: float) -> Callable[[], None]:
        """Check a step from the gradients of this call; return a function that runs it."""
        return self._parameters.plan(grads, lr, self._version)

    def _plan_fused(self, lr: float) -> Callable[..., Any] | None:
        """Check a step, and plan it if it is fused or of dx alone; None if the gradients must be computed first."""
        if self._vjp.supports_fused or not self._parameters.trainable:
            return self._parameters.plan_fused(lr, self._version)
        self._parameters.check(lr, self._version)
        return None

    def _run(self, planned: Callable[..., Any] | None, dy: Any, lr: float, wants_dx: bool) -> Any:
        """Run the step, fused if that was planned."""
        values, like = self._prepared_dy(dy)
        if planned is None:
            dx, grads = self._vjp.gradients(values)
            self.plan_update(grads, lr)()
        else:
            dx = planned(*self._vjp.fused_update(values, wants_dx))
        return like(dx) if wants_dx else None

    def _prepared_dy(self, dy: Any) -> tuple[Array, Callable[[Array], Any]]:
        """Dy as NumPy, checked, with the gradient of the activity penalty added."""
        given, like = as_numpy("dy", dy)
        if given.shape != self._shape:
            raise ValueError(f"dy has shape {given.shape}; give the shape of y, {self._shape}")
        values = normalise("dy", given, self._dtype)
        return values if self._activity is None else self._activity.add_to(values), like
