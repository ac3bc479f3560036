"""Convolutions for a Sequential: Keras' Conv1D and Conv2D, as layers that share one set of weights."""

from typing import Any, ClassVar

from lcnumba.connectivity.geometry import Geometry
from lcnumba.layers.base import Fans
from lcnumba.layers.registry import KERAS_COMMON, KerasSettings, register_layer
from lcnumba.layers.windowed import WINDOW_RULES, Extra, Windowed
from lcnumba.utils.messages import public_class
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import choice

__all__ = ["Conv1D", "Conv2D"]

_KERAS = KerasSettings(
    KERAS_COMMON | {"filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "groups"}
)
_EXTRAS: dict[str, Extra] = {"implementation": (WINDOW_RULES["implementation"], 1)}


def _padding(layer: Windowed, value: Any) -> str:
    """The rule of `padding`."""
    if layer.rank == 1 and isinstance(value, str) and value.lower() == "causal":
        raise ValueError(
            f"padding={value!r} is not supported; give padding='valid', and "
            "ZeroPadding1D(padding=(dilation_rate * (kernel_size - 1), 0)) before the layer"
        )
    return choice("padding", value, ("valid", "same"))


@public_class
class Convolution(Windowed):
    """Base class for any spatial rank; the public subclasses set the rank."""

    _memory_hint = "use fewer filters or a smaller kernel_size"
    _fixed_shape = "it is built for samples of one shape; create another layer with the same weights for others"
    _extras = _EXTRAS
    _rules: ClassVar = {
        **{name: WINDOW_RULES[name] for name in ("dtype", "filters", "kernel_size", "strides")},
        "padding": lambda layer, v: _padding(layer, v),
        **{
            name: rule
            for name, rule in WINDOW_RULES.items()
            if name not in {"padding", "padding_mode", "weight_sharing", "kernel_mask"}
        },
    }

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, ...] = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        *,
        input_shape: tuple[int, ...] | None = None,
        batch_input_shape: Shape | None = None,
        batch_size: int | None = None,
        input_dim: int | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = "float32",
        weights: list[Array] | None = None,
        implementation: int | str = 1,
        rng: Any = None,
        optimizer: Any = "sgd",
        n_threads: int | None = None,
    ) -> None:
        super().__init__(locals())

    def weight_shapes(self, input_shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first; the rest in the layer's data format.

        Returns
        -------
        dict of str to tuple of int
            "kernel": (*kernel_size, C / groups, F), and "bias": (F,), unless ``use_bias=False``.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid, or the kernel does not fit into it.

        Examples
        --------
        >>> import lcnumba as lc
        >>> lc.Conv2D(8, 3).weight_shapes((None, 28, 28, 1))
        {'kernel': (3, 3, 1, 8), 'bias': (8,)}
        """
        geometry = self._geometry_of(input_shape)
        shapes: dict[str, tuple[int, ...]] = {"kernel": (*self.kernel_size, geometry.tap_entries, self.filters)}
        return {**shapes, "bias": (self.filters,)} if self.use_bias else shapes

    def _kernel_fans(self, input_shape: Shape) -> Fans:
        return None

    def _geometry_of(self, input_shape: Any) -> Geometry:
        size, channels = self._sizes_of(input_shape)
        padding = "tf_same" if self.padding == "same" else self.padding
        windows = (self.kernel_size, self.strides, self.dilation_rate, padding)
        return Geometry(size, channels, self.filters, *windows, groups=self.groups, weight_sharing="all")


@register_layer(keras=_KERAS)
class Conv2D(Convolution):
    r"""Convolution of images, as Keras' ``Conv2D``, to be trained beside locally connected layers.

    It is `LocallyConnected2D` with ``weight_sharing="all"``, ``padding="tf_same"`` for "same" and one bias for each
    filter, under Keras' signature and with Keras' weights.

    Parameters
    ----------
    filters : int
        Filters F, the channels of the output.
    kernel_size : int or (int, int)
        Height and width of the window.
    strides : int or (int, int), default (1, 1)
        Strides along height and width.
    padding : {"valid", "same"}, default "valid"
        "same": ``ceil(size / stride)`` windows, placed as in TensorFlow.
    data_format, activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, \
    activity_regularizer, kernel_constraint, bias_constraint
        As for `LocallyConnected2D`.
    dilation_rate : int or (int, int), default 1
        Spacing of the taps of a window.
    groups : int, default 1
        Divides channels and filters into as many groups; filters read the channels of their group.
    implementation, input_shape, batch_input_shape, batch_size, input_dim, name, trainable, dtype, weights, rng, \
    optimizer, n_threads
        As for `LocallyConnected2D`.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, or a kernel that does not fit `input_shape`.

    Notes
    -----
    The kernel has shape (KH, KW, C / groups, F), the bias (F,).

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.Conv2D(16, 3, padding="same", activation="relu", rng=0)
    >>> layer(np.ones((2, 28, 28, 1))).shape, layer.count_params()
    ((2, 28, 28, 16), 160)
    """

    __module__ = "lcnumba"

    rank = 2
    _default_name = "conv2d"


@register_layer(keras=_KERAS)
class Conv1D(Convolution):
    """Convolution of sequences, as Keras' ``Conv1D``: x (N, W, C), y (N, OW, F).

    All parameters are those of `Conv2D` with one dimension. The kernel has shape (KW, C / groups, F), the bias (F,).
    Padding "causal" is not supported: pad the input with `ZeroPadding1D`.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.Conv1D(4, 3, strides=2, rng=0)(np.ones((2, 11, 5))).shape
    (2, 5, 4)
    """

    __module__ = "lcnumba"

    rank = 1
    _default_name = "conv1d"
