"""Activations that Keras has as layers of their own, with settings."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lcnumba import activations
from lcnumba.layers.activation import Activation
from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.layers.stateless import Computed, Stateless
from lcnumba.utils import registry
from lcnumba.utils.messages import public_class
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import any_shape, axes_of, learning_rate, resolved_axes

__all__ = ["ELU", "LeakyReLU", "ReLU", "Softmax"]

_IGNORED = STATELESS_COMMON - {"name"}


def _settings(activation: activations.Activation) -> dict[str, Any]:
    """The arguments of a built-in activation."""
    config: dict[str, Any] = registry.config_of(activation)["config"]
    return config


def _rounded(name: str, value: Any) -> float:
    """A number of at least 0, rounded to float32 as Keras does in all layers."""
    return float(np.float32(learning_rate(value, np.float32, name)))


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"alpha", "negative_slope"}, _IGNORED))
@public_class
class LeakyReLU(Activation):
    """y = x above 0, and alpha * x below; the gradient at 0 is alpha.

    Parameters
    ----------
    alpha : float, default 0.3
        Slope below 0, at least 0; rounded to float32, as in Keras.
    negative_slope : float, optional
        Name of `alpha` in Keras 3.
    name : str, optional
        "leaky_re_lu", "leaky_re_lu_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.LeakyReLU(0.25)([[-4.0, 2.0]])
    array([[-1.,  2.]])
    """

    __module__ = "lcnumba"

    def __init__(
        self, alpha: float | None = None, *, negative_slope: float | None = None, name: str | None = None
    ) -> None:
        Stateless.__init__(self, name, "leaky_re_lu")
        if alpha is not None and negative_slope is not None:
            raise ValueError(f"alpha={alpha!r} and negative_slope={negative_slope!r} are the same; give one of them")
        name, given = ("alpha", alpha) if negative_slope is None else ("negative_slope", negative_slope)
        self._activation = activations.LeakyReLU(_rounded(name, 0.3 if given is None else given))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, **_settings(self._activation)}


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"max_value", "negative_slope", "threshold"}, _IGNORED))
@public_class
class ReLU(Activation):
    """y = x above the threshold, at most max_value; negative_slope * (x - threshold) below.

    Parameters
    ----------
    max_value : float, optional
        The largest output, at least 0.
    negative_slope : float, default 0
        Slope below the threshold, at least 0.
    threshold : float, default 0
        The threshold, at least 0. All are rounded to float32, as in Keras.
    name : str, optional
        "re_lu", "re_lu_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.ReLU(max_value=3, negative_slope=0.5)([[-2.0, 1.0, 5.0]])
    array([[-1.,  1.,  3.]])
    """

    __module__ = "lcnumba"

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        *,
        name: str | None = None,
    ) -> None:
        Stateless.__init__(self, name, "re_lu")
        self._activation = activations.ReLU(
            alpha=_rounded("negative_slope", negative_slope),
            max_value=None if max_value is None else _rounded("max_value", max_value),
            threshold=_rounded("threshold", threshold),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        config = _settings(self._activation)
        return {"name": self.name, "max_value": config["max_value"], "negative_slope": config["alpha"],
                "threshold": config["threshold"]}  # fmt: skip


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"alpha"}, _IGNORED))
@public_class
class ELU(Activation):
    """y = x above 0, and alpha * (exp(x) - 1) below; the gradient at 0 is alpha.

    Parameters
    ----------
    alpha : float, default 1
        At least 0; rounded to float32, as in Keras.
    name : str, optional
        "elu", "elu_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.ELU()([[-1.0, 2.0]]).round(3)
    array([[-0.632,  2.   ]])
    """

    __module__ = "lcnumba"

    def __init__(self, alpha: float = 1.0, *, name: str | None = None) -> None:
        Stateless.__init__(self, name, "elu")
        self._activation = activations.ELU(_rounded("alpha", alpha))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, **_settings(self._activation)}


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"axis"}, _IGNORED))
@public_class
class Softmax(Computed):
    """y = exp(x) / sum(exp(x)) over one axis or several.

    Parameters
    ----------
    axis : int or tuple of int, default -1
        Over which axes the sum is; not the batch.
    name : str, optional
        "softmax", "softmax_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.Softmax(axis=1)(np.log([[[1.0, 2.0], [3.0, 2.0]]])).round(3)
    array([[[0.25, 0.5 ],
            [0.75, 0.5 ]]])
    """

    __module__ = "lcnumba"

    def __init__(self, axis: Any = -1, *, name: str | None = None) -> None:
        super().__init__(name, "softmax")
        self._axis = axes_of(axis)

    @property
    def activation(self) -> activations.Softmax:
        """The softmax; read-only."""
        return activations.Softmax()

    @property
    def axis(self) -> int | tuple[int, ...]:
        """The axis or axes; read-only."""
        return self._axis

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        tuple of int or None
            The same.

        Raises
        ------
        TypeError, ValueError
            If it is not a shape, or has no such axis.
        """
        shape = any_shape(input_shape)
        resolved_axes(self._axis, shape, self.name)
        return shape

    def _apply(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        axes = resolved_axes(self._axis, x.shape, self.name)
        order = [axis for axis in range(x.ndim) if axis not in axes] + list(axes)
        moved = x.transpose(order).shape
        rows = *moved[: -len(axes)], math.prod(moved[-len(axes) :])

        def last(array: Array) -> Array:
            """The axes of the sum last, and as one."""
            return np.array(array.transpose(order), order="C").reshape(rows)

        def back(array: Array) -> Array:
            return np.ascontiguousarray(array.reshape(moved).transpose(np.argsort(order)))

        saved, _ = activations.apply(self.activation, last(x))
        return back(saved), lambda dy: back(activations.vjp(self.activation, last(dy), saved))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "axis": self._axis}
