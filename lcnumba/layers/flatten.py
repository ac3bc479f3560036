"""A layer that makes each sample one row."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.layers.stateless import Stateless
from lcnumba.utils import keras_config
from lcnumba.utils.arrays import as_numpy, fresh
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Shape
from lcnumba.utils.validation import any_shape, choice

__all__ = ["Flatten"]


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"data_format"}, STATELESS_COMMON - {"name"}))
@public_class
class Flatten(Stateless):
    """Reshape (N, ...) to (N, the product of the rest), in the order of the axes.

    Results are arrays of their own; within a `Sequential` they are views where that is possible.

    Parameters
    ----------
    name : str, optional
        "flatten", "flatten_1", ... by default.
    data_format : {"channels_last", "channels_first"}, optional
        With channels_first the axis after the batch is moved to the end first, as Keras does. By default
        what Keras' configuration file says, else channels_last.

    Raises
    ------
    TypeError, ValueError
        For a parameter that is no such thing.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> y, backward = lc.Flatten().forward(np.ones((2, 4, 4, 3)))
    >>> y.shape, backward(y)[0].shape
    ((2, 48), (2, 4, 4, 3))
    """

    def __init__(self, *, name: str | None = None, data_format: str | None = None) -> None:
        super().__init__(name, "flatten")
        self._data_format = choice(
            "data_format", keras_config.data_format() if data_format is None else data_format, keras_config.FORMATS
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch, or None, first.

        Returns
        -------
        (int or None, int)
            The batch and the size of a sample.

        Raises
        ------
        TypeError, ValueError
            If it is no shape, or a dimension but the batch is undefined.

        Examples
        --------
        >>> import lcnumba as lc
        >>> lc.Flatten().compute_output_shape((None, 4, 4, 3))
        (None, 48)
        """
        batch, *sizes = any_shape(input_shape)
        if None in sizes:
            raise ValueError(f"input_shape={input_shape} must be fully defined but for the batch")
        return batch, math.prod(entry or 0 for entry in sizes)

    @public
    def __call__(self, x: Any) -> Any:
        """Return x reshaped.

        Parameters
        ----------
        x : array, (N, ...)
            Any array-API array on the CPU, or nested lists; of any dtype, which stays.

        Returns
        -------
        array of the kind of x, (N, the product of the rest)
            A fresh array.

        Raises
        ------
        TypeError
            If x is no array on the CPU.
        ValueError
            If it has no dimension, or another shape than the layer was built for.
        """
        return self.forward(x)[0]

    @public
    def forward(self, x: Any) -> tuple[Any, "FlattenBackward"]:
        """Return x reshaped, and the pullback, which reshapes back.

        Parameters
        ----------
        x : array, (N, ...)
            Any array-API array on the CPU, or nested lists; of any dtype, which stays.

        Returns
        -------
        y : array of the kind of x, (N, the product of the rest)
            A fresh array.
        backward : callable
            ``backward(dy)`` returns dx and None, for there are no gradients of weights.

        Raises
        ------
        TypeError
            If x is no array on the CPU.
        ValueError
            If it has no dimension, or another shape than the layer was built for.
        """
        return self.reshaped(x, copies=True)

    def reshaped(self, x: Any, copies: bool = False) -> tuple[Any, "FlattenBackward"]:
        """Return what `forward` does, but views where that is possible, also of dy."""
        values, like = as_numpy("x", x, any_dtype=True)
        if values.ndim < 1:
            raise ValueError("x has 0 dimensions; Flatten needs the batch first")
        shape = values.shape
        if self._sample_shape not in (None, shape[1:]):
            raise ValueError(f"x has shape {shape}; {self.name!r} was built for {self.input_shape}")
        moves = self._data_format == "channels_first" and values.ndim > 2
        y = (np.moveaxis(values, 1, -1) if moves else values).reshape(shape[0], math.prod(shape[1:]))
        return like(fresh(y, values) if copies else y), FlattenBackward(shape, y.shape, moves, copies)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "data_format": self._data_format}


class FlattenBackward:
    """The pullback of a Flatten: it reshapes back."""

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...], moved: bool, copies: bool) -> None:
        self._x_shape, self._y_shape, self._moved, self._copies = x_shape, y_shape, moved, copies

    def __call__(self, dy: Any) -> tuple[Any, None]:
        """Return dy reshaped to the shape of x, and no gradients."""
        given, like = as_numpy("dy", dy, any_dtype=True)
        if given.shape != self._y_shape:
            raise ValueError(f"dy has shape {given.shape}; give the shape of y, {self._y_shape}")
        if self._moved:
            batch, channels, *size = self._x_shape
            dx = np.ascontiguousarray(np.moveaxis(given.reshape(batch, *size, channels), -1, 1))
        else:
            dx = given.reshape(self._x_shape)
        return like(fresh(dx, given) if self._copies else dx), None

    def plan_step(self, lr: float) -> Callable[[Any, bool], Any]:
        """Return the function (dy, wants_dx) -> dx."""
        return lambda dy, wants_dx: self(dy)[0] if wants_dx else None
