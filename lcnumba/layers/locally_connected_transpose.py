"""The transposed locally connected layer, for decoders: the adjoint of the locally connected layer in its input."""

import math
from typing import Any, ClassVar

import numpy as np

from lcnumba import activations
from lcnumba.connectivity import sharing
from lcnumba.connectivity.geometry import Geometry, of_transposed, output_paddings, padding_modes
from lcnumba.gradients import Gradients
from lcnumba.kernels.rules import Rule
from lcnumba.layers.base import Fans
from lcnumba.layers.parameters import FusedUpdate
from lcnumba.layers.registry import register_layer
from lcnumba.layers.windowed import WINDOW_RULES, Extra, Windowed, loop, scratch
from lcnumba.utils.messages import public_class
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import choice

__all__ = ["LocallyConnected1DTranspose", "LocallyConnected2DTranspose", "LocallyConnected3DTranspose"]


def _bias_sharing(value: Any) -> Any:
    if isinstance(value, str) and value.lower() == "region":
        raise ValueError(
            f"bias_sharing={value!r} is not known in transposed layers, whose weight sets are of inputs and biases of "
            "outputs; give 'position' or 'filter'"
        )
    return choice("bias_sharing", value, ("position", "filter"))


_EXTRAS: dict[str, Extra] = {
    "implementation": (WINDOW_RULES["implementation"], 1),
    "fans": (lambda _, v: choice("fans", v, ("keras", "window")), "keras"),
    "padding_mode": (WINDOW_RULES["padding_mode"], "zeros"),
    "weight_sharing": (WINDOW_RULES["weight_sharing"], None),
    "bias_sharing": (lambda _, v: _bias_sharing(v), "position"),
    "kernel_mask": (WINDOW_RULES["kernel_mask"], None),
}


@public_class
class LocallyConnectedTranspose(Windowed):
    """Base class for any spatial rank; the public subclasses set the rank."""

    _memory_hint = "every position has its own weights: use fewer filters or a smaller kernel_size"
    _fixed_shape = "each position has its own weights, so every sample must have that shape"
    _extras = _EXTRAS
    _rules: ClassVar = {
        **{name: WINDOW_RULES[name] for name in ("dtype", "filters", "kernel_size", "strides", "padding")},
        "output_padding": lambda layer, v: output_paddings(v, layer.strides),
        **{name: rule for name, rule in WINDOW_RULES.items() if name not in _EXTRAS},
        **{name: rule for name, (rule, _) in _EXTRAS.items()},
    }
    output_padding: tuple[int, ...] | None
    fans: str
    padding_mode: str | tuple[str, ...]
    weight_sharing: Any

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: Any = "valid",
        output_padding: int | tuple[int, ...] | None = None,
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
        padding_mode: str | tuple[str, ...] = "zeros",
        weight_sharing: Any = None,
        bias_sharing: str = "position",
        kernel_mask: Any = None,
        rng: Any = None,
        optimizer: Any = "sgd",
        n_threads: int | None = None,
    ) -> None:
        super().__init__(locals())

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first; the rest in the layer's data format.

        Returns
        -------
        tuple of int or None
            The shape of y.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid, or no output has windows that fit it.

        Examples
        --------
        >>> import lcnumba as lc
        >>> lc.LocallyConnected2DTranspose(8, 3, strides=2, padding="same").compute_output_shape((None, 14, 14, 1))
        (None, 28, 28, 8)
        """
        return self._outer_shape((input_shape[0], *self._geometry_of(input_shape).sample_shape))

    def weight_shapes(self, input_shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights for an input shape.

        Parameters
        ----------
        input_shape : tuple of int or None
            The batch size, or None, first; the rest in the layer's data format.

        Returns
        -------
        dict of str to tuple of int
            "kernel": (P, K, C), P the positions of the input, and "bias", unless ``use_bias=False``.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid, or no output has windows that fit it.

        Examples
        --------
        >>> import lcnumba as lc
        >>> lc.LocallyConnected1DTranspose(8, 3).weight_shapes((None, 10, 2))
        {'kernel': (10, 24, 2), 'bias': (12, 8)}
        """
        geometry = self._geometry_of(input_shape)
        shapes: dict[str, tuple[int, ...]] = {"kernel": geometry.kernel_shape}
        if self.use_bias:
            shapes["bias"] = geometry.sample_shape if self.bias_sharing == "position" else (self.filters,)
        return shapes

    def _geometry_of(self, input_shape: Any) -> Geometry:
        """The geometry of the adjoint: its input is the output of this layer, and its filters are our channels."""
        modes, shared = padding_modes(self.padding_mode, self.rank), sharing.get(self.weight_sharing, self.rank)
        return of_transposed(
            *self._sizes_of(input_shape), self.filters, self.kernel_size, self.strides, self.padding,
            self.output_padding, self.dilation_rate, modes, self.groups, shared,
        )  # fmt: skip

    def _apply(self, x: Array, for_backward: bool) -> tuple[Array, Array, int]:
        """Y (N, *output, F) of a channels-last x, the array saved for the gradient, and the version of the weights."""
        with self._parameters.lock.shared():
            geometry, version = self._geometry, self._parameters.version
            self._check_sample(x, geometry.bias_shape)
            z = self._implementation.apply_transpose(
                self._kernel, self._flat(x), version=version, threads=self._parameters.threads
            ).reshape(len(x), *geometry.sample_shape)
            if self.use_bias:
                z += self._parameters["bias"]
        return *activations.apply(self.activation, z, for_backward), version

    @property
    def _output_lines(self) -> int:
        return self._geometry.input_size[0]

    def _flat(self, x: Array) -> Array:
        """An input (N, *input, C) as (N, P, C)."""
        return x.reshape(len(x), self._geometry.positions, self._geometry.filters)

    def _masks_are_by_output(self, geometry: Geometry) -> bool:
        return False

    def _vjp(self, x: Array, saved: Array, version: int) -> "_Vjp":
        return _Vjp(self, x, saved, version)

    def _kernel_fans(self, input_shape: Shape) -> Fans:
        if self.fans == "keras":
            return None
        geometry, taps = self._geometry_of(input_shape), math.prod(self.kernel_size)
        return taps * geometry.filters // self.groups, geometry.window


class _Vjp:
    """The vector-Jacobian product of one forward call; see `lcnumba.layers.backward.Vjp`.

    The layer is the adjoint of a map F(x, kernel) in x. So dx is F of dz, and the kernel's gradient that of F, with x
    in the place of its dy.
    """

    def __init__(self, layer: LocallyConnectedTranspose, x: Array, saved: Array, version: int) -> None:
        self._layer, self._x, self._saved, self._version = layer, x, saved, version
        self.cannot_fail = activations.is_built_in(layer.activation)
        self.supports_fused, self.bytes_of_step = layer._implementation.supports_fused, x.nbytes

    def gradients(self, dy: Array) -> tuple[Array, Gradients]:
        """Return dx and the gradients of the weights."""
        layer, dz = self._layer, self._through_activation(dy)
        x, threads = layer._flat(self._x), layer.n_threads
        with layer._parameters.lock.shared():
            layer._parameters.check_version(self._version)
            dx = layer._implementation.apply(dz, layer._kernel, version=self._version, threads=threads)
            dkernel = layer._implementation.weight_gradient(dz, x, threads=threads)
        return layer._from_channels_last(dx.reshape(self._x.shape)), Gradients(dkernel, self._dbias(dz))

    def fused_update(self, dy: Array, wants_dx: bool) -> tuple[FusedUpdate, dict[str, Array]]:
        """Return what updates the kernel, and the gradients of the other weights."""
        layer, dz = self._layer, self._through_activation(dy)
        implementation, x, dbias = layer._implementation, layer._flat(self._x), self._dbias(dz)
        # Allocated before the weights change.
        dx = scratch().aligned(x.shape, x.dtype) if wants_dx else None
        outer = dx
        if dx is not None and layer.data_format == "channels_first":
            outer = scratch().aligned(layer._outer_shape(self._x.shape), x.dtype)

        def update(kernel: Array, rule: Rule | None) -> Array | None:
            settings: dict[str, Any] = {"version": self._version, "threads": layer.n_threads}
            if dx is not None:
                implementation.apply(dz, kernel, out=dx, **settings)
            if rule is not None:
                implementation.fused_update(dz, kernel, x, rule, wants_dx=False, **settings)
            if dx is None or outer is None:
                return None
            if outer is not dx:
                np.copyto(outer, np.moveaxis(dx.reshape(self._x.shape), -1, 1))
                return outer
            return dx.reshape(self._x.shape)

        return update, {} if dbias is None else {"bias": dbias}

    def _through_activation(self, dy: Array) -> Array:
        """Dz, (N, the numbers of a sample)."""
        layer = self._layer
        dz: Array = activations.vjp(layer.activation, layer._to_channels_last(dy), self._saved)
        return dz.reshape(len(dz), layer._geometry.inputs)

    def _dbias(self, dz: Array) -> Array | None:
        layer = self._layer
        if not layer.use_bias:
            return None
        shape = len(dz), layer._geometry.inputs // layer.filters, layer.filters
        dbias = loop().bias_gradient(dz.reshape(shape), None, layer.n_threads)
        if layer.bias_sharing == "position":
            return dbias.reshape(layer._geometry.sample_shape)
        return layer._sum_lines(dbias).astype(dbias.dtype)


@register_layer
class LocallyConnected2DTranspose(LocallyConnectedTranspose):
    r"""Transposed locally connected layer for images: every input position has its own weights.

    It is to `LocallyConnected2D` what a transposed convolution is to a convolution: the adjoint of its map from x to y,
    and makes small images large. ``y[n, i*s + a, j*t + b, f]`` is the bias plus the sum over all (i, j), (a, b) and c
    that lead there of ``x[n, i, j, c] * kernel[i * W + j, (a * KW + b) * F + f, c]``, for strides (s, t) and without
    padding.

    Parameters
    ----------
    filters : int
        Filters F, the channels of the output.
    kernel_size : int or (int, int)
        Height and width of the window, to which an input contributes.
    strides : int or (int, int), default (1, 1)
        Distance of the windows of neighbouring inputs.
    padding : {"valid", "same"} or ((int, int), (int, int)), default "valid"
        Which part of the windows is cut off: "valid": nothing. "same": what makes the output ``size * stride`` large,
        placed as TensorFlow's transposed convolutions. Or what is cut off, (before, after) for each dimension.
    output_padding : int or (int, int), optional
        What is added to the size ``(size - 1) * stride + span - cut``, less than the stride; for "same", the cut is
        then ``span // 2`` on each side. By default as large as Keras' layers choose.
    data_format : {"channels_last", "channels_first"}, optional
        As for `LocallyConnected2D`.
    dilation_rate : int or (int, int), default 1
        Spacing of the taps of a window.
    groups : int, default 1
        Divides channels and filters into as many groups; channels contribute to the filters of their group.
    activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, \
    activity_regularizer, kernel_constraint, bias_constraint, implementation
        As for `LocallyConnected2D`.
    input_shape, batch_input_shape, batch_size, input_dim, name, trainable, dtype, weights, rng, optimizer, n_threads
        As for `LocallyConnected2D`.
    fans : {"keras", "window"}, default "keras"
        fan_in and fan_out for scaled initializers: derived from the kernel's shape, or KH*KW*C / groups and
        KH*KW*F / groups.
    padding_mode : {"zeros", "circular"} or one for each dimension, default "zeros"
        Whether what is cut off is lost, or added to the output's other end (periodic, as for longitudes).
    weight_sharing : None, "all", int, (int, int) or array of int, default None
        Which input positions share their weights; as for `LocallyConnected2D`.
    bias_sharing : {"position", "filter"}, default "position"
        Whether each output has its own bias, or each filter one for all positions.
    kernel_mask : bool array, (P, K) or (P, K, C), optional
        Which connections exist.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, or an output whose windows are not as many as the inputs.

    Notes
    -----
    The kernel has shape (P, K, C), P = H*W positions of the input, K = KH*KW*F in the order (row, column, filter), with
    F the filters of a group; the bias has shape (OH, OW, F).

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected2DTranspose(3, 4, strides=2, padding="same", rng=0)
    >>> layer(np.ones((2, 8, 8, 5))).shape, layer.kernel.shape
    ((2, 16, 16, 3), (64, 48, 5))
    >>> ones = lc.LocallyConnected1DTranspose(1, 3, strides=2, kernel_initializer="ones")
    >>> ones([[[1.0], [2.0], [3.0]]])[0, :, 0]
    array([1., 1., 3., 2., 5., 3., 3.], dtype=float32)
    """

    __module__ = "lcnumba"

    rank = 2
    _default_name = "locally_connected2d_transpose"


@register_layer
class LocallyConnected1DTranspose(LocallyConnectedTranspose):
    """Transposed locally connected layer for sequences: x (N, W, C), y (N, OW, F).

    All parameters are those of `LocallyConnected2DTranspose` with one dimension. The kernel has shape (P, K, C), P = W
    and K = KW*F, the bias (OW, F).

    Examples
    --------
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected1DTranspose(1, 2, kernel_initializer="ones")
    >>> layer([[[1.0], [2.0], [3.0]]])[0, :, 0]
    array([1., 3., 5., 3.], dtype=float32)
    """

    __module__ = "lcnumba"

    rank = 1
    _default_name = "locally_connected1d_transpose"


@register_layer
class LocallyConnected3DTranspose(LocallyConnectedTranspose):
    """Transposed locally connected layer for volumes: x (N, D, H, W, C), y (N, OD, OH, OW, F).

    All parameters are those of `LocallyConnected2DTranspose` with three dimensions: depth, height, width.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> lc.LocallyConnected3DTranspose(2, 2, strides=2, rng=0)(np.ones((1, 2, 3, 4, 5))).shape
    (1, 4, 6, 8, 2)
    """

    __module__ = "lcnumba"

    rank = 3
    _default_name = "locally_connected3d_transpose"
