"""A layer that flattens each sample into a vector."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.layers.stateless import Stateless
from lcnumba.utils import keras_config
from lcnumba.utils.arrays import as_numpy, fresh
from lcnumba.utils.display import PublicNames
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Shape
from lcnumba.utils.validation import any_shape, choice

__all__ = ["Flatten"]


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"data_format"}, STATELESS_COMMON - {"name"}))
@public_class
class Flatten(Stateless):
    """Reshape (N, ...) to (N, the product of the rest), in the order of the axes.

    Results are new arrays; within a `Sequential` they are views where possible.

    Parameters
    ----------
    name : str, optional
        "flatten", "flatten_1", ... by default.
    data_format : {"channels_last", "channels_first"}, optional
        With channels_first the axis after the batch is moved to the end first, as in Keras. By default
        as in Keras' configuration file, else channels_last.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> y, backward = lc.Flatten().forward(np.ones((2, 4, 4, 3)))
    >>> y.shape, backward(y)[0].shape
    ((2, 48), (2, 4, 4, 3))
    """

    __module__ = "lcnumba"

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
            The batch size, or None, first.

        Returns
        -------
        (int or None, int)
            The batch and the size of a sample.

        Raises
        ------
        TypeError, ValueError
            If it is not a shape, or a dimension other than the batch is undefined.

        Examples
        --------
        >>> import lcnumba as lc
        >>> lc.Flatten().compute_output_shape((None, 4, 4, 3))
        (None, 48)
        """
        batch, *sizes = any_shape(input_shape)
        if None in sizes:
            raise ValueError(f"input_shape={input_shape} must be fully defined except for the batch")
        return batch, math.prod(entry or 0 for entry in sizes)

    @public
    def __call__(self, x: Any) -> Any:
        """Return x reshaped.

        Parameters
        ----------
        x : array, (N, ...)
            Any array-API array on the CPU, or nested lists; of any dtype, which is kept.

        Returns
        -------
        array of the type of x, (N, the product of the rest)
            A new array.

        Raises
        ------
        TypeError
            If x is not an array on the CPU.
        ValueError
            If x has no dimensions, or not the shape for which the layer was built.
        """
        return self.forward(x)[0]

    @public
    def forward(self, x: Any) -> tuple[Any, "FlattenBackward"]:
        """Return x reshaped, and the pullback, which restores the shape.

        Parameters
        ----------
        x : array, (N, ...)
            Any array-API array on the CPU, or nested lists; of any dtype, which is kept.

        Returns
        -------
        y : array of the type of x, (N, the product of the rest)
            A new array.
        backward : callable
            ``backward(dy)`` returns dx and None: there are no weights.

        Raises
        ------
        TypeError
            If x is not an array on the CPU.
        ValueError
            If x has no dimensions, or not the shape for which the layer was built.
        """
        return self.reshaped(x, copies=True)

    def reshaped(self, x: Any, copies: bool = False) -> tuple[Any, "FlattenBackward"]:
        """Like `forward`, but return views where possible, also from the pullback."""
        values, like = as_numpy("x", x, any_dtype=True)
        if values.ndim < 1:
            raise ValueError("x has 0 dimensions; its first axis must be the batch")
        shape = values.shape
        self._check_built_for(shape)
        moves = self._data_format == "channels_first" and values.ndim > 2
        y = (np.moveaxis(values, 1, -1) if moves else values).reshape(shape[0], math.prod(shape[1:]))
        return like(fresh(y, values) if copies else y), FlattenBackward(shape, y.shape, moves, copies)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "data_format": self._data_format}


class FlattenBackward(PublicNames):
    """The pullback of a Flatten: it restores the shape."""

    def __init__(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...], moved: bool, copies: bool) -> None:
        self._x_shape, self._y_shape, self._moved, self._copies = x_shape, y_shape, moved, copies

    def __repr__(self) -> str:
        """The shape that it takes."""
        return f"<{type(self).__name__}: dy {self._y_shape}>"

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
        """Return a function ``(dy, wants_dx) -> dx``."""
        return lambda dy, wants_dx: self(dy)[0] if wants_dx else None
