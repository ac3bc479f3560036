"""A layer that applies an activation."""

from typing import Any

import numpy as np

from lcnumba import activations
from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.layers.stateless import Stateless, StatelessBackward, as_floats
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Array

__all__ = ["Activation"]


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"activation"}, STATELESS_COMMON - {"name"}))
@public_class
class Activation(Stateless):
    """y = activation(x); a softmax is over the last axis.

    Parameters
    ----------
    activation : str, dict or object
        As for `LocallyConnected2D`.
    name : str, optional
        "activation", "activation_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> y, backward = lc.Activation("relu").forward([[-1.0, 2.0]])
    >>> y
    array([[0., 2.]])
    >>> backward([[5.0, 7.0]])  # no gradients: there are no weights
    (array([[0., 7.]]), None)
    """

    __module__ = "lcnumba"

    def __init__(self, activation: Any, *, name: str | None = None) -> None:
        super().__init__(name, "activation")
        self._activation = activations.get(activation)

    @property
    def activation(self) -> activations.Activation:
        """The activation; read-only."""
        return self._activation

    @public
    def __call__(self, x: Any) -> Any:
        """Return y, for inference.

        Parameters
        ----------
        x : array
            Any array-API array on the CPU, or nested lists; float64 is kept, all else is cast to float32.

        Returns
        -------
        array of the type of x
            A new array.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        """
        return self.forward(x)[0]

    @public
    def forward(self, x: Any) -> tuple[Any, StatelessBackward]:
        """Return y and the pullback of this call, for training; leave y unchanged until it has run.

        Parameters
        ----------
        x : array
            Any array-API array on the CPU, or nested lists; float64 is kept, all else is cast to float32.

        Returns
        -------
        y : array of the type of x
            A new array.
        backward : callable
            ``backward(dy)`` returns dx and None: there are no weights.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        """
        values, like = as_floats(x, 2 if getattr(self.activation, "uses_input", False) else 1)
        y, saved = activations.apply(self.activation, np.array(values, order="C"), for_backward=True)

        def vjp(dy: Array) -> Array:
            return activations.vjp(self.activation, dy, saved)

        return like(y), StatelessBackward(y, vjp, activations.is_built_in(self.activation))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "activation": activations.serialize(self.activation)}
