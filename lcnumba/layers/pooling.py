"""Pooling: the maximum or the mean of each window, or of all positions."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lcnumba.connectivity.geometry import tensorflow_same
from lcnumba.layers.registry import STATELESS_COMMON, KerasSettings, register_layer
from lcnumba.layers.stateless import Spatial
from lcnumba.utils.messages import public_class
from lcnumba.utils.selection import selected
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import boolean, choice, int_tuple

__all__ = [
    "AveragePooling1D",
    "AveragePooling2D",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "MaxPooling1D",
    "MaxPooling2D",
]

Vjp = Callable[[Array], Array]


class _Pooling(Spatial):
    """A pooling by windows, which are those of TensorFlow."""

    def __init__(
        self, name: str | None, default: str, pool_size: Any, strides: Any, padding: Any, data_format: Any
    ) -> None:
        super().__init__(name, default, data_format)
        self._pool_size = int_tuple("pool_size", pool_size, self._rank)
        self._strides = self._pool_size if strides is None else int_tuple("strides", strides, self._rank)
        self._padding = choice("padding", padding, ("valid", "same"))

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
            If it is not a shape of the layer's rank, or a window does not fit.
        """
        shape = list(self._checked_shape(input_shape))
        for axis, size, stride in zip(self._axes, self._pool_size, self._strides, strict=True):
            length = shape[axis] or 0
            if self._padding == "valid" and size > length:
                raise ValueError(
                    f"pool_size={self._pool_size} of {self.name!r} does not fit input_shape={tuple(input_shape)} with "
                    "padding='valid'; use padding='same' or a smaller pool_size"
                )
            shape[axis] = -(-(length if self._padding == "same" else length - size + 1) // stride)
        return tuple(shape)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {
            "name": self.name,
            "pool_size": self._pool_size,
            "padding": self._padding,
            "strides": self._strides,
            "data_format": self._data_format,
        }

    def _taps(self, x: Array) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """For each entry of a window, row by row: at which outputs it exists, and which inputs it is there."""
        out = self.compute_output_shape(x.shape)
        by_axis = []
        for axis, size, stride in zip(self._axes, self._pool_size, self._strides, strict=True):
            length, count = x.shape[axis], out[axis] or 0
            before = tensorflow_same(length, size, stride)[0] if self._padding == "same" else 0
            taps = []
            for tap in range(size):
                start = max(0, -((tap - before) // stride))  # outputs whose tap is not in the padding
                stop = min(count, (length - 1 + before - tap) // stride + 1)
                if start < stop:
                    at = start * stride + tap - before
                    taps.append((slice(start, stop), slice(at, at + (stop - start - 1) * stride + 1, stride)))
            by_axis.append(taps)
        everything = [slice(None)] * (x.ndim - self._rank)
        for chosen in itertools.product(*by_axis):
            outputs, inputs = (
                (*everything[: self._axes[0]], *slices, *everything[self._axes[0] :])
                for slices in zip(*chosen, strict=True)
            )
            yield outputs, inputs

    def _filled(self, x: Array, value: float) -> Array:
        """An array of the shape of the output, filled with a value."""
        return np.full([size or 0 for size in self.compute_output_shape(x.shape)], value, x.dtype)


class _Max(_Pooling):
    """The maximum of each window."""

    def _apply(self, x: Array) -> tuple[Array, Vjp]:
        # As in TensorFlow, NaN counts as less than any number, and -inf as the smallest finite one.
        lowest = np.finfo(x.dtype).min
        y = self._filled(x, lowest)
        for outputs, inputs in self._taps(x):
            np.fmax(y[outputs], x[inputs], out=y[outputs])

        def vjp(dy: Array) -> Array:
            # The gradient goes to the first of several maxima, or to a NaN that is the first entry of its window.
            values, dx = np.maximum(x, lowest), np.zeros_like(x)
            has_nan = np.isnan(np.max(values, initial=0))
            begun, taken = np.zeros(y.shape, bool), np.zeros(y.shape, bool)
            for outputs, inputs in self._taps(x):
                chosen = values[inputs] == y[outputs]
                if has_nan:
                    chosen |= np.isnan(values[inputs]) & ~begun[outputs]
                    begun[outputs] = True
                chosen &= ~taken[outputs]
                taken[outputs] |= chosen
                dx[inputs] += selected(chosen, dy[outputs])
            return dx

        return y, vjp


class _Average(_Pooling):
    """The mean of each window; padding does not count."""

    def _apply(self, x: Array) -> tuple[Array, Vjp]:
        y = self._filled(x, 0)
        one = np.empty([size if axis in self._axes else 1 for axis, size in enumerate(x.shape)], x.dtype)
        counts = self._filled(one, 0)
        for outputs, inputs in self._taps(x):
            y[outputs] += x[inputs]
            counts[outputs] += 1
        y /= counts
        shape = x.shape

        def vjp(dy: Array) -> Array:
            dx, part = np.zeros(shape, dy.dtype), dy / counts
            for outputs, inputs in self._taps(dx):
                dx[inputs] += part[outputs]
            return dx

        return y, vjp


_SETTINGS = KerasSettings(
    STATELESS_COMMON | {"pool_size", "strides", "padding", "data_format"}, STATELESS_COMMON - {"name"}
)


@register_layer(keras=_SETTINGS)
@public_class
class MaxPooling1D(_Max):
    """The maximum of each window of a sequence.

    Parameters
    ----------
    pool_size : int, default 2
        Size of the window.
    strides : int, optional
        By default `pool_size`.
    padding : {"valid", "same"}
        "same" gives ceil(steps / strides) outputs, with TensorFlow's windows, which are cut at the border.
    data_format : {"channels_last", "channels_first"}
        Inputs are (N, steps, channels), or (N, channels, steps).
    name : str, optional
        "max_pooling1d", "max_pooling1d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Notes
    -----
    See `MaxPooling2D`.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.MaxPooling1D(2)([[[1.0], [5.0], [2.0], [3.0]]])[0, :, 0]
    array([5., 3.])
    """

    __module__ = "lcnumba"
    _rank = 1

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = "channels_last",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name, "max_pooling1d", pool_size, strides, padding, data_format)


@register_layer(keras=_SETTINGS)
@public_class
class MaxPooling2D(_Max):
    """The maximum of each window of an image.

    Parameters
    ----------
    pool_size : int or tuple of int, default (2, 2)
        Height and width of the window.
    strides : int or tuple of int, optional
        By default `pool_size`.
    padding : {"valid", "same"}
        "same" gives ceil(size / strides) outputs, with TensorFlow's windows, which are cut at the border.
    data_format : {"channels_last", "channels_first"}, optional
        Inputs are (N, height, width, channels), or (N, channels, height, width). By default as in Keras' configuration
        file, else channels_last.
    name : str, optional
        "max_pooling2d", "max_pooling2d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Notes
    -----
    The gradient goes to the first of equal maxima of a window, row by row, as in TensorFlow. As there, NaN counts as
    less than any number, and a window without a finite maximum gives the smallest finite number.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> x = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> y, backward = lc.MaxPooling2D(2).forward(x)
    >>> y[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    >>> backward(y)[0][0, :, :, 0]
    array([[ 0.,  0.,  0.,  0.],
           [ 0.,  5.,  0.,  7.],
           [ 0.,  0.,  0.,  0.],
           [ 0., 13.,  0., 15.]])
    """

    __module__ = "lcnumba"
    _rank = 2

    def __init__(
        self,
        pool_size: Any = (2, 2),
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name, "max_pooling2d", pool_size, strides, padding, data_format)


@register_layer(keras=_SETTINGS)
@public_class
class AveragePooling1D(_Average):
    """The mean of each window of a sequence; with "same" of the inputs that exist.

    Parameters
    ----------
    pool_size, strides, padding, data_format
        As for `MaxPooling1D`.
    name : str, optional
        "average_pooling1d", "average_pooling1d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.AveragePooling1D(2, padding="same")([[[1.0], [5.0], [3.0]]])[0, :, 0]
    array([3., 3.])
    """

    __module__ = "lcnumba"
    _rank = 1

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = "channels_last",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name, "average_pooling1d", pool_size, strides, padding, data_format)


@register_layer(keras=_SETTINGS)
@public_class
class AveragePooling2D(_Average):
    """The mean of each window of an image; with "same" of the inputs that exist.

    Parameters
    ----------
    pool_size, strides, padding, data_format
        As for `MaxPooling2D`.
    name : str, optional
        "average_pooling2d", "average_pooling2d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.AveragePooling2D(2)(np.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """

    __module__ = "lcnumba"
    _rank = 2

    def __init__(
        self,
        pool_size: Any = (2, 2),
        strides: Any = None,
        padding: str = "valid",
        data_format: str | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name, "average_pooling2d", pool_size, strides, padding, data_format)


class _Global(Spatial):
    """A pooling over all positions."""

    def __init__(self, name: str | None, default: str, data_format: Any, keepdims: Any) -> None:
        super().__init__(name, default, data_format)
        self._keepdims = boolean("keepdims", keepdims)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first.

        Returns
        -------
        tuple of int or None
            The batch and the channels; with ``keepdims=True`` also 1 for each spatial axis.

        Raises
        ------
        TypeError, ValueError
            If it is not a shape of the layer's rank.
        """
        shape = self._checked_shape(input_shape)
        if self._keepdims:
            return tuple(1 if axis in self._axes else size for axis, size in enumerate(shape))
        return tuple(size for axis, size in enumerate(shape) if axis not in self._axes)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
        """
        return {"name": self.name, "data_format": self._data_format, "keepdims": self._keepdims}

    def _reduced(self, y: Array) -> Array:
        """An array with spatial axes of size 1, in the shape of the output."""
        return y if self._keepdims else np.squeeze(y, self._axes)

    def _spread(self, dy: Array) -> Array:
        """An array of the shape of the output, with spatial axes of size 1."""
        return dy if self._keepdims else np.expand_dims(dy, self._axes)


class _GlobalMax(_Global):
    """The maximum over all positions."""

    def _apply(self, x: Array) -> tuple[Array, Vjp]:
        y = np.max(x, self._axes, keepdims=True)

        def vjp(dy: Array) -> Array:
            ties = x == y
            # As in TensorFlow the gradient is NaN where the maximum is: there are no ties.
            share = ties / np.sum(ties, self._axes, keepdims=True, dtype=x.dtype)
            return np.multiply(share, self._spread(dy), dtype=x.dtype)

        return self._reduced(y), vjp


class _GlobalAverage(_Global):
    """The mean over all positions."""

    def _apply(self, x: Array) -> tuple[Array, Vjp]:
        shape, count = x.shape, x.dtype.type(math.prod(x.shape[axis] for axis in self._axes))
        y = np.mean(x, self._axes, keepdims=True, dtype=np.float64).astype(x.dtype)

        def vjp(dy: Array) -> Array:
            return np.broadcast_to(self._spread(dy) / count, shape).copy()

        return self._reduced(y), vjp


_GLOBAL = KerasSettings(STATELESS_COMMON | {"data_format", "keepdims"}, STATELESS_COMMON - {"name"})


@register_layer(keras=_GLOBAL)
@public_class
class GlobalMaxPooling1D(_GlobalMax):
    """The maximum of each channel over all steps.

    Parameters
    ----------
    data_format : {"channels_last", "channels_first"}
        Inputs are (N, steps, channels), or (N, channels, steps).
    keepdims : bool, default False
        Whether to keep the axis of the steps, with size 1.
    name : str, optional
        "global_max_pooling1d", "global_max_pooling1d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Notes
    -----
    The gradient is divided equally among equal maxima, as in TensorFlow. A channel with a NaN gives NaN.

    Examples
    --------
    >>> import lcnumba as lc
    >>> y, backward = lc.GlobalMaxPooling1D().forward([[[1.0], [5.0], [5.0]]])
    >>> y, backward([[3.0]])[0][0, :, 0]
    (array([[5.]]), array([0. , 1.5, 1.5]))
    """

    __module__ = "lcnumba"
    _rank = 1

    def __init__(
        self, data_format: str | None = "channels_last", keepdims: bool = False, *, name: str | None = None
    ) -> None:
        super().__init__(name, "global_max_pooling1d", data_format, keepdims)


@register_layer(keras=_GLOBAL)
@public_class
class GlobalMaxPooling2D(_GlobalMax):
    """The maximum of each channel over all positions.

    Parameters
    ----------
    data_format : {"channels_last", "channels_first"}, optional
        As for `MaxPooling2D`.
    keepdims : bool, default False
        Whether to keep the spatial axes, with size 1.
    name : str, optional
        "global_max_pooling2d", "global_max_pooling2d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Notes
    -----
    See `GlobalMaxPooling1D`.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.GlobalMaxPooling2D()(np.arange(16.0).reshape(1, 4, 4, 1))
    array([[15.]])
    """

    __module__ = "lcnumba"
    _rank = 2

    def __init__(self, data_format: str | None = None, keepdims: bool = False, *, name: str | None = None) -> None:
        super().__init__(name, "global_max_pooling2d", data_format, keepdims)


@register_layer(keras=_GLOBAL)
@public_class
class GlobalAveragePooling1D(_GlobalAverage):
    """The mean of each channel over all steps.

    Parameters
    ----------
    data_format, keepdims
        As for `GlobalMaxPooling1D`.
    name : str, optional
        "global_average_pooling1d", "global_average_pooling1d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import lcnumba as lc
    >>> lc.GlobalAveragePooling1D()([[[1.0], [5.0], [6.0]]])
    array([[4.]])
    """

    __module__ = "lcnumba"
    _rank = 1

    def __init__(
        self, data_format: str | None = "channels_last", keepdims: bool = False, *, name: str | None = None
    ) -> None:
        super().__init__(name, "global_average_pooling1d", data_format, keepdims)


@register_layer(keras=_GLOBAL)
@public_class
class GlobalAveragePooling2D(_GlobalAverage):
    """The mean of each channel over all positions.

    Parameters
    ----------
    data_format, keepdims
        As for `GlobalMaxPooling2D`.
    name : str, optional
        "global_average_pooling2d", "global_average_pooling2d_1", ... by default.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.GlobalAveragePooling2D()(np.arange(16.0).reshape(1, 4, 4, 1))
    array([[7.5]])
    """

    __module__ = "lcnumba"
    _rank = 2

    def __init__(self, data_format: str | None = None, keepdims: bool = False, *, name: str | None = None) -> None:
        super().__init__(name, "global_average_pooling2d", data_format, keepdims)
