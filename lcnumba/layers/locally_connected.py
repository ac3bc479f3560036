"""The locally connected layer: a convolution whose weights are not shared between positions, or between some."""

import math
from typing import Any, ClassVar

from lcnumba.connectivity import sharing
from lcnumba.connectivity.geometry import Geometry, padding_modes
from lcnumba.layers.base import Fans
from lcnumba.layers.registry import KERAS_COMMON, KerasSettings, register_layer
from lcnumba.layers.windowed import WINDOW_RULES, Extra, Windowed
from lcnumba.utils.messages import public_class, warn
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import choice

__all__ = ["LocallyConnected1D", "LocallyConnected2D", "LocallyConnected3D"]


_KERAS = KerasSettings(KERAS_COMMON | {"filters", "kernel_size", "strides", "padding", "data_format", "implementation"})

_EXTRAS: dict[str, Extra] = {
    "fans": (lambda _, v: choice("fans", v, ("keras", "window")), "keras"),
    "dilation_rate": (WINDOW_RULES["dilation_rate"], 1),
    "padding_mode": (WINDOW_RULES["padding_mode"], "zeros"),
    "groups": (WINDOW_RULES["groups"], 1),
    "weight_sharing": (WINDOW_RULES["weight_sharing"], None),
    "bias_sharing": (lambda _, v: choice("bias_sharing", v, ("position", "region", "filter")), "position"),
    "kernel_mask": (WINDOW_RULES["kernel_mask"], None),
}


@public_class
class LocallyConnected(Windowed):
    """Base class for any spatial rank; the public subclasses set the rank."""

    _memory_hint = "every position has its own weights: use larger strides or fewer filters, or a convolution"
    _fixed_shape = "each position has its own weights, so every sample must have that shape"
    _extras = _EXTRAS
    # Every entry of get_config except name and trainable, with its check, used by the constructor and on assignment.
    _rules: ClassVar = {
        **{name: rule for name, rule in WINDOW_RULES.items() if name not in _EXTRAS},
        **{name: rule for name, (rule, _) in _EXTRAS.items()},
    }
    fans: str
    padding_mode: str | tuple[str, ...]
    weight_sharing: Any

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: Any = "valid",
        data_format: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        implementation: int | str = 1,
        *,
        input_shape: tuple[int, ...] | None = None,
        batch_input_shape: Shape | None = None,
        batch_size: int | None = None,
        input_dim: int | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = "float32",
        weights: list[Array] | None = None,
        fans: str = "keras",
        dilation_rate: int | tuple[int, ...] = 1,
        padding_mode: str | tuple[str, ...] = "zeros",
        groups: int = 1,
        weight_sharing: Any = None,
        bias_sharing: str = "position",
        kernel_mask: Any = None,
        rng: Any = None,
        optimizer: Any = "sgd",
        n_threads: int | None = None,
    ) -> None:
        super().__init__(locals())
        sharing.check_bias(self.bias_sharing, self.weight_sharing)
        if self.padding == "valid" and "circular" in padding_modes(self.padding_mode, self.rank):
            warn(
                "padding_mode='circular' has no effect with padding='valid', whose windows lie inside the input; use "
                "padding='same' or explicit padding"
            )

    def weight_shapes(self, input_shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first; the rest in the layer's data format.

        Returns
        -------
        dict of str to tuple of int
            "kernel": (P, K, F), or (S, K, F) with shared weights, and "bias", unless ``use_bias=False``.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid, or the kernel does not fit into it.

        Examples
        --------
        >>> import lcnumba as lc
        >>> lc.LocallyConnected2D(8, 3).weight_shapes((None, 28, 28, 1))
        {'kernel': (676, 9, 8), 'bias': (26, 26, 8)}
        """
        geometry = self._geometry_of(input_shape)
        sharing.check_bias(self.bias_sharing, self.weight_sharing)
        shapes: dict[str, tuple[int, ...]] = {"kernel": geometry.kernel_shape}
        if self.use_bias:
            F = self.filters
            biases = {"position": geometry.bias_shape, "region": (geometry.n_sets, F), "filter": (F,)}
            shapes["bias"] = biases[self.bias_sharing]
        return shapes

    def _kernel_fans(self, input_shape: Shape) -> Fans:
        if self.fans == "keras":
            return None
        return self._geometry_of(input_shape).window, math.prod(self.kernel_size) * self.filters

    def _geometry_of(self, input_shape: Any) -> Geometry:
        size, channels = self._sizes_of(input_shape)
        windows = (self.kernel_size, self.strides, self.dilation_rate, self.padding)
        modes = padding_modes(self.padding_mode, self.rank)
        shared = sharing.get(self.weight_sharing, self.rank)
        return Geometry(size, channels, self.filters, *windows, modes, self.groups, shared)


@register_layer(keras=_KERAS)
class LocallyConnected2D(LocallyConnected):
    """Locally connected layer for images: every output position has its own weights.

    ``y[n, i, j, f] = activation(bias[i, j, f] + sum over (a, b, c) of x[n, i*s + a, j*t + b, c] *
    kernel[i * OW + j, (a * KW + b) * C + c, f])`` for strides (s, t), as Keras'
    ``LocallyConnected2D`` (TensorFlow 2.3) defines it.

    Parameters
    ----------
    filters : int
        Filters F, the channels of the output.
    kernel_size : int or (int, int)
        Height and width of the window.
    strides : int or (int, int), default (1, 1)
        Strides along height and width.
    padding : {"valid", "same", "tf_same"} or ((int, int), (int, int)), default "valid"
        "valid": windows inside the input. "same": ``ceil(size / stride)`` windows, placed as in Keras and clipped to
        the input; connections outside it do not exist. Works with every implementation (in Keras not with
        implementation 1). "tf_same": as many windows, placed as in TensorFlow's, Flax' and JAX' convolutions.
        Or explicit padding, (before, after) for each dimension, smaller than the span of the window.
    data_format : {"channels_last", "channels_first"}, optional
        Order of the axes of x and y; by default as in Keras' configuration file (``image_data_format`` in
        ``~/.keras/keras.json``), else channels_last. Weights do not depend on it.
    activation : str or object, optional
        A name from Keras ("relu", "elu", "gelu", "softmax", ...; softmax is over the channels), or an
        object with ``__call__(z, out=None)`` and ``gradient(dy, y)``; see `lcnumba.activations`.
    use_bias : bool, default True
        Whether to add a bias at each position and filter.
    kernel_initializer, bias_initializer : str, object or callable
        "glorot_uniform" and "zeros" by default, or any other of Keras' names; a callable takes ``(shape, dtype,
        rng)``.
    kernel_regularizer, bias_regularizer, activity_regularizer : str, dict or object, optional
        Penalties: "l1", "l2" (0.01 each), ``L1L2(l1, l2)``, or an object with ``__call__(w)`` and
        ``gradient(w)``. Weight penalties are added to the gradient in `step`; the activity penalty, divided by
        the batch size, in backward. `losses` lists their values.
    kernel_constraint, bias_constraint : str, dict or callable, optional
        Applied to the weights after each step: "max_norm", "non_neg", "unit_norm", "min_max_norm", or a callable
        ``f(w) -> w``. Axes are those of the kernel (P, K, F).
    implementation : {1, 2, 3, "auto"}, default 1
        How to compute the same result: 1 loops over the weights in place, 2 a dense matrix, 3 a sparse matrix.
        "auto" chooses by shapes alone (see `explain`), the same on every machine; `lcnumba.tune` measures.
    input_shape : (int, int, int), optional
        Shape of a sample; a `Sequential` then builds the layer as it is added. Other shapes are refused.
    batch_input_shape : (None, int, int, int), optional
        `input_shape` with the batch size, or None, first. Batches may still have any size.
    batch_size : int, optional
        With `input_shape`, the first entry of `batch_input_shape`.
    input_dim : int, optional
        Part of Keras' signature: an `input_shape` of one entry, which does not fit this layer.
    name : str, optional
        "locally_connected2d", "locally_connected2d_1", ... by default.
    trainable : bool, default True
        Whether `step` changes the weights.
    dtype : {"float32", "float64"}, default "float32" (also for None)
        Dtype of weights, computation and output.
    weights : list of arrays, optional
        Initial values, in the order of `get_weights`.
    fans : {"keras", "window"}, default "keras"
        fan_in and fan_out for scaled initializers. "keras": P*K and P*F, which Keras derives from the kernel's shape;
        initial values are far smaller than those of a convolution. "window": K and KH*KW*F, as for a convolution.
    dilation_rate : int or (int, int), default 1
        Spacing of the taps of a window, which spans ``d * (k - 1) + 1`` inputs.
    padding_mode : {"zeros", "circular"} or one for each dimension, default "zeros"
        What windows read beyond the input: nothing, or the input's other end (periodic, as for longitudes).
    groups : int, default 1
        Divides channels and filters into as many groups, in order; filters read the channels of their group. As many
        as channels: each filter reads one channel, and filter f channel ``f // (F // C)``.
    weight_sharing : None, "all", int, (int, int) or array of int, default None
        Which positions share their weights. None: none. "all": all of them, as in a convolution. The size of blocks:
        neighbours in a block; the last blocks may be smaller. An array of the output's spatial size: the number of
        each position's set of weights, 0 to S - 1. The kernel then has shape (S, K, F).
    bias_sharing : {"position", "region", "filter"}, default "position"
        Whether each output has its own bias, each set of `weight_sharing` and filter, or each filter.
    kernel_mask : bool array, (P, K) or (P, K, F), optional
        Which connections exist; of the kernel's shape or its first two axes. The others are 0, get no gradient, are not
        counted, and do not propagate even NaN (implementation 2 spreads non-finite values over their sample only
        without a mask).
    rng : None, int or numpy.random.Generator
        Source of initial values. Layers with the same seed draw the same values; pass one Generator to all
        layers to avoid that.
    optimizer : str or object, default "sgd"
        Used by `step`: "sgd", "adam", ``SGD(momentum=0.9)``, or an object with ``init(param)``
        and ``update(param, grad, state, lr)``.
    n_threads : int, optional
        Number of threads for large work; by default as many as Numba. Results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, or a kernel that does not fit `input_shape`.

    Notes
    -----
    The kernel has shape (P, K, F), P = OH*OW positions, K = KH*KW*C in the order (row, column,
    channel); the bias has shape (OH, OW, F): Keras' implementation 1 with channels_last, whatever
    the implementation and data format here. With groups C is the channels of a group; `kernel_view`
    has the kernel by position and tap.

    Once the layer is built, all settings except `trainable`, `optimizer` and `n_threads` are locked.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected2D(64, (3, 3), input_shape=(32, 32, 3), rng=0)
    >>> y, backward = layer.forward(np.ones((2, 32, 32, 3)))
    >>> y.shape, layer.count_params()
    ((2, 30, 30, 64), 1612800)
    >>> dx, grads = backward(np.ones_like(y))
    >>> layer.step(grads, lr=0.01)
    """

    __module__ = "lcnumba"

    rank = 2
    _default_name = "locally_connected2d"


@register_layer(keras=_KERAS)
class LocallyConnected1D(LocallyConnected):
    """Locally connected layer for sequences, as Keras' ``LocallyConnected1D``: x (N, W, C), y (N, OW, F).

    All parameters are those of `LocallyConnected2D` with one dimension: `kernel_size`, `strides` and
    `dilation_rate` are integers, explicit `padding` is one pair (before, after). The kernel has shape (P, K,
    F), P = OW and K = KW*C, the bias (OW, F).

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.LocallyConnected1D(4, 3, strides=2, rng=0)(np.ones((2, 11, 5))).shape
    (2, 5, 4)
    >>> ring = lc.LocallyConnected1D(1, 3, padding="same", padding_mode="circular", kernel_initializer="ones")
    >>> ring([[[1.0], [2.0], [3.0], [4.0]]])[0, :, 0]  # sums of three neighbours
    array([7., 6., 9., 8.], dtype=float32)
    """

    __module__ = "lcnumba"

    rank = 1
    _default_name = "locally_connected1d"


@register_layer
class LocallyConnected3D(LocallyConnected):
    """Locally connected layer for volumes, not in Keras: x (N, D, H, W, C), y (N, OD, OH, OW, F).

    All parameters are those of `LocallyConnected2D` with three dimensions: depth, height, width. The kernel
    has shape (P, K, F), P = OD*OH*OW and K = KD*KH*KW*C, the bias (OD, OH, OW, F).

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.LocallyConnected3D(4, (2, 3, 3), padding="same", rng=0)(np.ones((2, 5, 6, 7, 1))).shape
    (2, 5, 6, 7, 4)
    """

    __module__ = "lcnumba"

    rank = 3
    _default_name = "locally_connected3d"
