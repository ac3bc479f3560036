"""Layers that change the shape: Reshape, zero padding, and repetition."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.layers.stateless import Computed, Spatial
from lcnumba.utils.messages import public_class
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import MAX_SIZE, any_shape, choice, int_tuple, integer

__all__ = ["Reshape", "UpSampling1D", "UpSampling2D", "ZeroPadding1D", "ZeroPadding2D"]

Vjp = Callable[[Array], Array]
_IGNORED = STATELESS_COMMON - {"name"}


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"target_shape"}, _IGNORED))
@public_class
class Reshape(Computed):
    """Reshape each sample, in the order of the axes.

    Parameters
    ----------
    target_shape : tuple of int
        The shape of a sample; one entry may be -1, which follows from the others.
    name : str, optional
        "reshape", "reshape_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.Reshape((4, -1))(np.ones((2, 12))).shape
    (2, 4, 3)
    """

    __module__ = "lcnumba"

    def __init__(self, target_shape: Any, *, name: str | None = None) -> None:
        super().__init__(name, "reshape")
        if isinstance(target_shape, np.ndarray):
            target_shape = target_shape.tolist()
        if not isinstance(target_shape, list | tuple):
            raise TypeError(f"target_shape={target_shape!r} is a {type(target_shape).__name__}; give a tuple")
        self._target_shape = tuple(integer("target_shape", size, -1, MAX_SIZE) for size in target_shape)
        if self._target_shape.count(-1) > 1:
            raise ValueError(f"target_shape={self._target_shape} has several entries -1; give at most one")
        if 0 in self._target_shape:
            raise ValueError(f"target_shape={self._target_shape} has an entry 0; give sizes of at least 1, or -1")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        tuple of int or None
            The batch and `target_shape`, without -1.

        Raises
        ------
        TypeError, ValueError
            If it is not a shape, a dimension other than the batch is undefined, or the sizes do not fit.
        """
        batch, *sizes = any_shape(input_shape)
        if None in sizes:
            raise ValueError(f"input_shape={tuple(input_shape)} must be fully defined but for the batch")
        given, known = math.prod(size or 0 for size in sizes), math.prod(n for n in self._target_shape if n != -1)
        if given % known if -1 in self._target_shape else given != known:
            raise ValueError(
                f"target_shape={self._target_shape} of {self.name!r} does not fit input_shape={tuple(input_shape)}, "
                f"whose samples have {given} elements"
            )
        return batch, *(given // known if size == -1 else size for size in self._target_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "target_shape": self._target_shape}

    def _apply(self, x: Array) -> tuple[Array, Vjp]:
        shape = x.shape
        sizes = [size or 0 for size in self.compute_output_shape(shape)]
        return x.reshape(sizes).copy(), lambda dy: dy.reshape(shape)


class _ZeroPadding(Spatial):
    """Zeros before and after the spatial axes."""

    _padding: tuple[tuple[int, ...], ...]  # of each spatial axis, before and after

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        tuple of int or None
            The shape of y.

        Raises
        ------
        TypeError, ValueError
            If it is not a shape of the layer's rank.
        """
        shape = list(self._checked_shape(input_shape))
        for axis, zeros in zip(self._axes, self._padding, strict=True):
            shape[axis] = (shape[axis] or 0) + sum(zeros)
        return tuple(shape)

    def _apply(self, x: Array) -> tuple[Array, Vjp]:
        inner = [slice(None)] * x.ndim
        for axis, (before, _) in zip(self._axes, self._padding, strict=True):
            inner[axis] = slice(before, before + x.shape[axis])
        y = np.zeros([size or 0 for size in self.compute_output_shape(x.shape)], x.dtype)
        y[tuple(inner)] = x
        return y, lambda dy: dy[tuple(inner)].copy()


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"padding", "data_format"}, _IGNORED))
@public_class
class ZeroPadding1D(_ZeroPadding):
    """Zeros before and after each sequence.

    Parameters
    ----------
    padding : int or (int, int), default 1
        How many before and after.
    data_format : {"channels_last", "channels_first"}
        Inputs are (N, steps, channels), or (N, channels, steps).
    name : str, optional
        "zero_padding1d", "zero_padding1d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.ZeroPadding1D((1, 2))([[[5.0], [7.0]]])[0, :, 0]
    array([0., 5., 7., 0., 0.])
    """

    __module__ = "lcnumba"
    _rank = 1

    def __init__(self, padding: Any = 1, data_format: str | None = "channels_last", *, name: str | None = None) -> None:
        super().__init__(name, "zero_padding1d", data_format)
        self._padding = (int_tuple("padding", padding, 2, 0),)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "padding": self._padding[0], "data_format": self._data_format}


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"padding", "data_format"}, _IGNORED))
@public_class
class ZeroPadding2D(_ZeroPadding):
    """Zeros around each image.

    Parameters
    ----------
    padding : int, (int, int) or ((int, int), (int, int)), default (1, 1)
        How many: on all sides; above and below, and on both sides; or ((top, bottom), (left, right)).
    data_format : {"channels_last", "channels_first"}, optional
        As for `MaxPooling2D`.
    name : str, optional
        "zero_padding2d", "zero_padding2d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.ZeroPadding2D(((0, 1), (2, 0)))([[[[5.0], [7.0]]]])[0, :, :, 0]
    array([[0., 0., 5., 7.],
           [0., 0., 0., 0.]])
    """

    __module__ = "lcnumba"
    _rank = 2

    def __init__(self, padding: Any = (1, 1), data_format: str | None = None, *, name: str | None = None) -> None:
        super().__init__(name, "zero_padding2d", data_format)
        if isinstance(padding, np.ndarray):
            padding = padding.tolist()
        if not isinstance(padding, list | tuple):
            padding = (padding, padding)
        if len(padding) != 2:
            raise ValueError(f"padding={padding!r} has {len(padding)} entries; give one integer, or 2 of rows, columns")
        self._padding = tuple(int_tuple("padding", zeros, 2, 0) for zeros in padding)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "padding": self._padding, "data_format": self._data_format}


class _UpSampling(Spatial):
    """Each position, repeated."""

    _size: tuple[int, ...]

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        tuple of int or None
            The shape of y.

        Raises
        ------
        TypeError, ValueError
            If it is not a shape of the layer's rank.
        """
        shape = list(self._checked_shape(input_shape))
        for axis, count in zip(self._axes, self._size, strict=True):
            shape[axis] = (shape[axis] or 0) * count
        return tuple(shape)

    def _apply(self, x: Array) -> tuple[Array, Vjp]:
        y = x
        for axis, count in zip(self._axes, self._size, strict=True):
            y = np.repeat(y, count, axis)

        def vjp(dy: Array) -> Array:
            for axis, count in zip(self._axes, self._size, strict=True):
                before, size, after = dy.shape[:axis], dy.shape[axis], dy.shape[axis + 1 :]
                dy = np.sum(dy.reshape(*before, size // count, count, *after), axis + 1)
            return dy

        return y, vjp


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"size"}, _IGNORED))
@public_class
class UpSampling1D(_UpSampling):
    """Repeat each step of a sequence, (N, steps, channels).

    Parameters
    ----------
    size : int, default 2
        How often.
    name : str, optional
        "up_sampling1d", "up_sampling1d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.UpSampling1D(2)([[[5.0], [7.0]]])[0, :, 0]
    array([5., 5., 7., 7.])
    """

    __module__ = "lcnumba"
    _rank = 1

    def __init__(self, size: int = 2, *, name: str | None = None) -> None:
        super().__init__(name, "up_sampling1d", "channels_last")
        self._size = (integer("size", size, 1, MAX_SIZE),)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "size": self._size[0]}


@register_layer(keras=KerasSettings(STATELESS_COMMON | {"size", "data_format", "interpolation"}, _IGNORED))
@public_class
class UpSampling2D(_UpSampling):
    """Repeat the rows and columns of each image.

    Parameters
    ----------
    size : int or (int, int), default (2, 2)
        How often rows and columns.
    data_format : {"channels_last", "channels_first"}, optional
        As for `MaxPooling2D`.
    interpolation : {"nearest"}
        Keras' others are not implemented.
    name : str, optional
        "up_sampling2d", "up_sampling2d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.UpSampling2D((1, 2))([[[[5.0], [7.0]]]])[0, :, :, 0]
    array([[5., 5., 7., 7.]])
    """

    __module__ = "lcnumba"
    _rank = 2

    def __init__(
        self,
        size: Any = (2, 2),
        data_format: str | None = None,
        interpolation: str = "nearest",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name, "up_sampling2d", data_format)
        self._size = int_tuple("size", size, 2)
        self._interpolation = choice("interpolation", interpolation, ("nearest",))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {
            "name": self.name,
            "size": self._size,
            "data_format": self._data_format,
            "interpolation": self._interpolation,
        }
