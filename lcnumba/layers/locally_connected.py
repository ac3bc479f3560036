"""The locally connected layer: a convolution whose weights are not shared between positions.

`LocallyConnected` is the layer, `_Vjp` its gradients and fused step. Both are computed by an implementation, which
`implementations/create.py` makes: by default `implementations/loop.py`, over `kernels/forward.py` and
`kernels/backward.py`.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar, Self, cast

import numpy as np

from lcnumba import activations, initializers
from lcnumba.connectivity import masks, sharing
from lcnumba.connectivity.geometry import Geometry, Padding, padding_modes, paddings
from lcnumba.gradients import Gradients
from lcnumba.implementations import cost
from lcnumba.implementations.create import IMPLEMENTATIONS, Implementation, create
from lcnumba.kernels.rules import Rule
from lcnumba.layers.backward import Backward
from lcnumba.layers.base import REGULARIZATION_RULES, Fans, Trainable, dtype_rule, regularization_config
from lcnumba.layers.parameters import FusedUpdate
from lcnumba.layers.registry import KERAS_COMMON, KerasSettings, register_layer
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import import_whole
from lcnumba.utils.arrays import as_numpy, read_only
from lcnumba.utils.keras_config import FORMATS, data_format
from lcnumba.utils.messages import public, public_class, warn
from lcnumba.utils.sums import ordered_sum
from lcnumba.utils.types import Array, Mask, Shape
from lcnumba.utils.validation import axes_hint, boolean, choice, int_tuple, integer, thread_count

__all__ = ["LocallyConnected1D", "LocallyConnected2D", "LocallyConnected3D"]


_KERAS = KerasSettings(KERAS_COMMON | {"filters", "kernel_size", "strides", "padding", "data_format", "implementation"})
CHOICES = (*IMPLEMENTATIONS, "auto")


def _implementation(value: Any) -> int | str:
    """The rule of `implementation`."""
    return choice("implementation", value if isinstance(value, str) else integer("implementation", value), CHOICES)


def _weight_sharing(layer: "LocallyConnected", value: Any) -> Any:
    """The rule of `weight_sharing`."""
    return sharing.as_argument(sharing.get(value, layer.rank))


def _padding_mode(layer: "LocallyConnected", value: Any) -> str | tuple[str, ...]:
    """The rule of `padding_mode`: one string if all dimensions have the same mode."""
    modes = padding_modes(value, layer.rank)
    return modes[0] if len(set(modes)) == 1 else modes


# Parameters that Keras' layer does not have: the check and the default, which is left out of the config.
_NON_KERAS: dict[str, tuple[Callable[[Any, Any], Any], Any]] = {
    "fans": (lambda _, v: choice("fans", v, ("keras", "window")), "keras"),
    "dilation_rate": (lambda layer, v: int_tuple("dilation_rate", v, layer.rank), 1),
    "padding_mode": (_padding_mode, "zeros"),
    "groups": (lambda _, v: integer("groups", v), 1),
    "weight_sharing": (_weight_sharing, None),
    "bias_sharing": (lambda _, v: choice("bias_sharing", v, ("position", "region", "filter")), "position"),
    "kernel_mask": (lambda _, v: masks.get(v), None),
}
# Those that may be arrays, and how they are written to a config.
_ARRAYS: dict[str, Callable[[Any], Any]] = {"kernel_mask": masks.serialize, "weight_sharing": sharing.serialize}


@public_class
class LocallyConnected(Trainable):
    """Base class for any spatial rank; the public subclasses set the rank."""

    rank: ClassVar[int]

    _memory_hint = "every position has its own weights: use larger strides or fewer filters, or a convolution"
    # Every entry of get_config except name and trainable, with its check, used by the constructor and on assignment.
    _rules: ClassVar = {
        "dtype": dtype_rule,
        "filters": lambda _, v: integer("filters", v),
        "kernel_size": lambda layer, v: int_tuple("kernel_size", v, layer.rank),
        "strides": lambda layer, v: int_tuple("strides", v, layer.rank),
        "padding": lambda layer, v: paddings(v, layer.rank),
        "data_format": lambda _, v: choice("data_format", data_format() if v is None else v, FORMATS),
        "activation": lambda _, v: activations.get(v),
        "use_bias": lambda _, v: boolean("use_bias", v),
        "kernel_initializer": lambda _, v: initializers.get(v),
        "bias_initializer": lambda _, v: initializers.get(v),
        **REGULARIZATION_RULES,
        "implementation": lambda _, v: _implementation(v),
        **{name: rule for name, (rule, _) in _NON_KERAS.items()},
    }
    filters: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding
    data_format: str
    activation: activations.Activation
    implementation: int | str
    fans: str
    dilation_rate: tuple[int, ...]
    padding_mode: str | tuple[str, ...]
    groups: int
    weight_sharing: Any
    bias_sharing: str
    kernel_mask: Mask | None

    # Set by build.
    _geometry: Geometry
    _implementation: Implementation

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
        self.n_threads = n_threads
        self._check_bias_sharing()
        if self.padding == "valid" and "circular" in padding_modes(self.padding_mode, self.rank):
            warn(
                "padding_mode='circular' has no effect with padding='valid', whose windows lie inside the input; use "
                "padding='same' or explicit padding"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, with read-only arrays like the original's."""
        self.__dict__.update(state)
        for name in _ARRAYS:
            if isinstance(value := self.__dict__[name], np.ndarray):
                self.__dict__[name] = read_only(value)

    @public
    def __call__(self, x: Any) -> Any:
        """Return y, for inference; thread-safe.

        Parameters
        ----------
        x : array, (N, H, W, C), or (N, C, H, W) with channels_first
            Any array-API array on the CPU, or nested lists; cast to the layer's dtype.

        Returns
        -------
        array of the type of x, (N, OH, OW, F) or (N, F, OH, OW)
            A new array.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        ValueError
            If x does not have the shape for which the layer was built, or cannot be built.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.LocallyConnected1D(1, 2, kernel_initializer="ones")
        >>> layer([[[1.0], [2.0], [3.0]]])[0, :, 0]
        array([3., 5.], dtype=float32)
        """
        given, like = as_numpy("x", x)
        y = self._from_channels_last(
            self._apply(self._to_channels_last(self._normalised(given)), for_backward=False)[0]
        )
        self._activity_penalty(y)
        return like(y)

    @public
    def forward(self, x: Any) -> tuple[Any, Backward]:
        """Return y and the pullback of this call, for training.

        Parameters
        ----------
        x : array, (N, H, W, C), or (N, C, H, W) with channels_first
            As for a plain call. Leave x and y unchanged until `Backward` has run: it does not copy them.

        Returns
        -------
        y : array of the type of x, (N, OH, OW, F) or (N, F, OH, OW)
            As from a plain call.
        backward : Backward
            ``backward(dy)`` returns dx and the `Gradients`; ``backward.step(dy, lr)`` also updates the weights.

        Raises
        ------
        TypeError, ValueError
            As for a plain call.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.LocallyConnected1D(1, 2, kernel_initializer="ones")
        >>> y, backward = layer.forward([[[1.0], [2.0], [3.0]]])
        >>> dx, grads = backward([[[1.0], [10.0]]])
        >>> dx[0, :, 0]
        array([ 1., 11., 10.], dtype=float32)
        >>> grads.kernel[:, :, 0]  # each position has its own window
        array([[ 1.,  2.],
               [20., 30.]], dtype=float32)
        """
        given, like = as_numpy("x", x)
        inner = self._to_channels_last(self._normalised(given))
        y, saved, version = self._apply(inner, for_backward=True)

        y, vjp = self._from_channels_last(y), _Vjp(self, inner, saved, version)
        activity = self._activity_penalty(y)
        return like(y), Backward(self._parameters, version, y.shape, self._dtype, vjp, activity)

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
            If the shape is invalid, or the kernel does not fit into it.

        Examples
        --------
        >>> import lcnumba as lc
        >>> lc.LocallyConnected2D(8, 3, strides=2, padding="same").compute_output_shape((None, 28, 28, 1))
        (None, 14, 14, 8)
        """
        geometry = self._geometry_of(input_shape)
        return self._outer_shape((input_shape[0], *geometry.output_size, self.filters))

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
        self._check_bias_sharing()
        shapes: dict[str, tuple[int, ...]] = {"kernel": geometry.kernel_shape}
        if self.use_bias:
            F = self.filters
            biases = {"position": geometry.bias_shape, "region": (geometry.n_sets, F), "filter": (F,)}
            shapes["bias"] = biases[self.bias_sharing]
        return shapes

    def kernel_view(self) -> Array:
        """Return the kernel by position and tap, as a read-only view that reflects later steps.

        Returns
        -------
        array, (*output, *kernel_size, C, F)
            The spatial size of the output, that of the window, the channels that a filter reads, and the filters. With
            shared weights the number of the weight set comes first, in place of the output.

        Raises
        ------
        AttributeError
            If the layer has not been built.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.LocallyConnected2D(8, (3, 5), input_shape=(28, 28, 1))
        >>> layer.build((None, 28, 28, 1))
        >>> layer.kernel.shape, layer.kernel_view().shape
        ((624, 15, 8), (26, 24, 3, 5, 1, 8))
        """
        kernel, geometry = self.kernel, self._geometry
        first = geometry.output_size if geometry.sets is None else (geometry.n_sets,)
        return kernel.reshape(*first, *self.kernel_size, geometry.tap_entries, self.filters)

    @property
    def n_threads(self) -> int | None:
        """Number of threads for large work; None: as many as Numba. Can be set at any time."""
        return self._parameters.threads

    @n_threads.setter
    def n_threads(self, value: int | None) -> None:
        self._parameters.threads = thread_count(value)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer, with Keras' keys in Keras' order.

        Parameters that Keras does not have are included only if they differ from their defaults.

        Returns
        -------
        dict
            JSON-serialisable, unless an activation, initializer, regularizer or constraint is custom.

        Examples
        --------
        >>> import lcnumba as lc
        >>> config = lc.LocallyConnected2D(8, 3, padding="same", padding_mode="circular").get_config()
        >>> config["kernel_size"], config["padding"], config["padding_mode"], "fans" in config
        ((3, 3), 'same', 'circular', False)
        >>> lc.LocallyConnected2D.from_config(config).filters
        8
        """
        config = {
            **self._common_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            **regularization_config(self),
            "implementation": self.implementation,
        }
        for name, (rule, default) in _NON_KERAS.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, np.ndarray) or value != rule(self, default)):
                config[name] = _ARRAYS[name](value) if name in _ARRAYS else value
        return config

    def with_implementation(self, implementation: int | str) -> Self:
        """Return a layer with another implementation and the same weights, optimizer and state.

        If the layer has not been built, both will be built with the same initial weights.

        Parameters
        ----------
        implementation : {1, 2, 3, "auto"}
            As for the constructor.

        Returns
        -------
        layer
            Of the same class and name, with copies of the weights.

        Raises
        ------
        TypeError, ValueError
            If the implementation is unknown.

        Examples
        --------
        >>> import numpy as np
        >>> import lcnumba as lc
        >>> layer, x = lc.LocallyConnected2D(2, 3, rng=0), np.ones((1, 6, 6, 1))
        >>> sparse = layer.with_implementation(3)
        >>> np.allclose(sparse(x), layer(x))
        True
        """
        settings: dict[str, Any] = {name: getattr(self, name) for name in self._rules}
        settings |= {"implementation": implementation, "name": self.name, "trainable": self.trainable}
        settings["n_threads"] = self.n_threads
        settings["batch_input_shape"] = self._given_input_shape
        other = type(self)(**settings)
        weights, optimizer, states = self._parameters.snapshot()
        other._rng, other._initial_weights = copy.deepcopy((self._rng, self._initial_weights))
        if weights:
            other.build_with(self.input_shape, weights)
        other._parameters.set_optimizer_state(optimizer, states)
        return other

    def costs(self, batch_size: int = cost.TYPICAL_BATCH) -> tuple[cost.Cost, ...]:
        """Return the cost of a step for each implementation, estimated from shapes alone.

        Parameters
        ----------
        batch_size : int, default 32
            Samples per batch.

        Returns
        -------
        tuple of lcnumba.implementations.cost.Cost
            One per implementation: its number, multiplications and additions, bytes, and estimated time.

        Raises
        ------
        AttributeError
            If the input shape is not known yet.
        TypeError, ValueError
            If `batch_size` is not an integer of at least 1.

        Examples
        --------
        >>> import lcnumba as lc
        >>> layer = lc.LocallyConnected2D(64, 3, input_shape=(32, 32, 3))
        >>> {cost.implementation: cost.memory for cost in layer.costs(8)}  # bytes in addition to weights, x and y
        {1: 0, 2: 707983200, 3: 24883200}
        """
        geometry = self._geometry_of(self.input_shape)
        return cost.costs(geometry, integer("batch_size", batch_size), self._dtype.itemsize)

    def explain(self, batch_size: int = cost.TYPICAL_BATCH, print_fn: Callable[[str], Any] = print) -> None:
        """Print the cost of a step for each implementation, and which one is used.

        Parameters
        ----------
        batch_size : int, default 32
            Samples per batch.
        print_fn : callable, default print
            Called with the whole text.

        Raises
        ------
        AttributeError
            If the input shape is not known yet.
        TypeError, ValueError
            If `batch_size` is not an integer of at least 1.

        Examples
        --------
        >>> import lcnumba as lc
        >>> lc.LocallyConnected2D(64, 3, input_shape=(32, 32, 3)).explain(8)
        1,555,200 weights (6.22 MB), 0.88% of a dense matrix; batch of 8, 32 bits
        implementation  GFLOP forward  GFLOP step  MB extra  MB of weights moved  estimate
             1 loops *         0.0249      0.0746         0                 18.7         1
               2 dense           2.83        5.69       708             1.44e+03        47
              3 sparse         0.0249      0.0746      24.9                 62.2       3.1
        * in use: implementation 1, as set. Estimates depend on shapes alone; lcnumba.tune measures.
        """
        geometry = self._geometry_of(self.input_shape)
        size = integer("batch_size", batch_size)
        print_fn(
            cost.explained(
                geometry, size, self._dtype.itemsize, self.implementation, self._implementation_number(geometry)
            )
        )

    def _check_bias_sharing(self) -> None:
        """Raise unless there are sets of weights with which a bias can be shared."""
        if self.bias_sharing == "region" and self.weight_sharing is None:
            raise ValueError(
                "bias_sharing='region' shares the bias as weight_sharing shares the weights, which is None; give "
                "weight_sharing, or bias_sharing='position' or 'filter'"
            )

    def _implementation_number(self, geometry: Geometry) -> int:
        """The number of the implementation in use."""
        if isinstance(self.implementation, int):
            return self.implementation
        return cost.choose(geometry, self._dtype.itemsize)

    def _apply(self, x: Array, for_backward: bool) -> tuple[Array, Array, int]:
        """Y (N, *output, F) of a channels-last x, the array saved for the gradient, and the version of the weights."""
        with self._parameters.lock.shared():
            geometry, version = self._geometry, self._parameters.version
            if x.shape[1:] != geometry.sample_shape:
                shape = self._outer_shape(x.shape)
                raise ValueError(
                    f"x has shape {shape}; {self.name!r} was built for {self.input_shape}: each position has "
                    f"its own weights, so every sample must have that shape{axes_hint('x', shape, self.input_shape)}"
                )
            bias = self._parameters["bias"].reshape(-1, geometry.filters) if self.use_bias else None
            if bias is not None and self.bias_sharing == "region":
                bias = bias[geometry.sets]
            flat, relu = x.reshape(len(x), geometry.inputs), activations.rectifies(self.activation)
            z = self._implementation.apply(
                flat, self._parameters["kernel"], bias, relu=relu, version=version, threads=self._parameters.threads
            )
        z = z.reshape(len(x), *geometry.output_size, geometry.filters)
        if relu:
            return z, z, version
        return *activations.apply(self.activation, z, for_backward), version

    def _sum_lines(self, dbias: Array) -> Array:
        """The sum of dbias (P, F) over positions, one line of the output after the other."""
        return ordered_sum(self._line_totals(dbias))

    def _line_totals(self, dbias: Array) -> Array:
        """The sums of dbias (P, F) over the positions of each line of the output, in float64."""
        lines = dbias.reshape(self._geometry.output_size[0], -1, self.filters).astype(np.float64)
        return np.stack([np.add.reduce(line, axis=0) for line in lines]) if lines.shape[1] > 1 else lines[:, 0]

    def _kernel_fans(self, input_shape: Shape) -> Fans:
        if self.fans == "keras":
            return None
        return self._geometry_of(input_shape).window, math.prod(self.kernel_size) * self.filters

    def _parts(self, input_shape: Shape) -> tuple[dict[str, Any], dict[str, Mask]]:
        geometry = self._geometry_of(input_shape)
        mask = self.kernel_mask
        if mask is None:
            exists = None if geometry.complete else geometry.weight_exists
        else:
            masks.check(mask, geometry.kernel_shape)
            exists = mask & (geometry.weight_exists if mask.ndim == 2 else geometry.weight_exists[:, :, None])
        implementation = create(self._implementation_number(geometry), geometry, mask)
        return {"_geometry": geometry, "_implementation": implementation}, {} if exists is None else {"kernel": exists}

    def _geometry_of(self, input_shape: Any) -> Geometry:
        """The geometry for an input shape in the layer's data format, batch first."""
        _, *sizes = (entry or 0 for entry in self._checked_shape(input_shape))
        *input_size, channels = (*sizes[1:], sizes[0]) if self.data_format == "channels_first" else sizes
        windows = (self.kernel_size, self.strides, self.dilation_rate, self.padding)
        modes = padding_modes(self.padding_mode, self.rank)
        shared = sharing.get(self.weight_sharing, self.rank)
        return Geometry(tuple(input_size), channels, self.filters, *windows, modes, self.groups, shared)

    def _axes(self) -> tuple[str, ...]:
        return self._outer_shape(("batch", *("depth", "height", "width")[3 - self.rank :], "channels"))

    def _outer_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """A channels-last shape in the layer's data format."""
        return (*shape[:1], *shape[-1:], *shape[1:-1]) if self.data_format == "channels_first" else shape

    def _to_channels_last(self, array: Array) -> Array:
        """An array in the layer's data format as contiguous channels-last."""
        if self.data_format == "channels_first":
            return _move_axis(array, 1, -1)
        return array

    def _from_channels_last(self, array: Array) -> Array:
        """A channels-last array as a contiguous one in the layer's data format."""
        if self.data_format == "channels_first":
            return _move_axis(array, -1, 1)
        return array


@import_whole
def _loop() -> Any:
    from lcnumba.implementations import loop

    return loop


@import_whole
def _scratch() -> Any:
    from lcnumba.implementations import scratch

    return scratch


def _move_axis(array: Array, source: int, destination: int) -> Array:
    """A contiguous array with one axis moved, as by `numpy.moveaxis`."""
    moved = np.moveaxis(array, source, destination)
    if moved.flags.c_contiguous:
        return moved
    require(array.nbytes, "a copy with the channel axis moved", "give fewer samples at a time")
    return np.ascontiguousarray(moved)


class _Vjp:
    """The vector-Jacobian product of one forward call; see `lcnumba.layers.backward.Vjp`."""

    def __init__(self, layer: LocallyConnected, x: Array, saved: Array, version: int) -> None:
        geometry = layer._geometry
        self._layer, self._version = layer, version
        self._x_shape, self._x = x.shape, x.reshape(len(x), geometry.inputs)
        self._saved, self.bytes_of_dx = saved, x.nbytes
        self._flat = (len(x), geometry.positions, geometry.filters)
        self.cannot_fail = activations.is_built_in(layer.activation)
        self.supports_fused = layer._implementation.supports_fused

    def gradients(self, dy: Array) -> tuple[Array, Gradients]:
        layer, threads = self._layer, self._layer.n_threads
        dz, y = self._through_activation(dy)
        with layer._parameters.lock.shared():
            layer._parameters.check_version(self._version)
            kernel = layer._parameters["kernel"]
            dx, dkernel = layer._implementation.gradients(
                self._x, kernel, dz, y=y, version=self._version, threads=threads
            )
        return layer._from_channels_last(dx.reshape(self._x_shape)), Gradients(dkernel, self._dbias(dz, y))

    def fused_update(self, dy: Array, wants_dx: bool) -> tuple[FusedUpdate, dict[str, Array]]:
        layer, implementation = self._layer, self._layer._implementation
        dz, y = self._through_activation(dy)
        dbias = self._dbias(dz, y)
        # Allocated before the weights change.
        moved = wants_dx and layer.data_format == "channels_first"
        channels_first = _scratch().aligned(layer._outer_shape(self._x_shape), dz.dtype) if moved else None

        def update(kernel: Array, rule: Rule | None) -> Array | None:
            settings: dict[str, Any] = {"y": y, "version": self._version, "threads": layer.n_threads}
            if rule is not None:
                dx = implementation.fused_update(self._x, kernel, dz, rule, wants_dx=wants_dx, **settings)
            else:  # the weights are not trainable
                dx = implementation.apply_transpose(kernel, dz, **settings) if wants_dx else None
            if dx is None or channels_first is None:
                return None if dx is None else dx.reshape(self._x_shape)
            np.copyto(channels_first, np.moveaxis(dx.reshape(self._x_shape), -1, 1))
            return channels_first

        return update, {} if dbias is None else {"bias": dbias}

    def _through_activation(self, dy: Array) -> tuple[Array, Array | None]:
        """Dz (N, P, F) and None; or, for a ReLU, dy and y: the implementation applies the mask y > 0."""
        layer = self._layer
        dy = layer._to_channels_last(dy)
        if activations.rectifies(layer.activation):
            return dy.reshape(self._flat), self._saved.reshape(self._flat)
        return activations.vjp(layer.activation, dy, self._saved).reshape(self._flat), None

    def _dbias(self, dz: Array, y: Array | None) -> Array | None:
        if not self._layer.use_bias:
            return None
        dbias = _loop().bias_gradient(dz, y, self._layer.n_threads)
        layer = self._layer
        if layer.bias_sharing == "position":
            return dbias.reshape(self._saved.shape[1:])
        if layer.bias_sharing == "filter":
            return layer._sum_lines(dbias).astype(dbias.dtype)
        sets, sums = layer._geometry.sets, np.zeros((layer._geometry.n_sets, layer.filters))
        np.add.at(sums, cast(Array, sets), dbias)  # in the order of positions
        return sums.astype(dbias.dtype)


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
    padding : {"valid", "same"} or ((int, int), (int, int)), default "valid"
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
