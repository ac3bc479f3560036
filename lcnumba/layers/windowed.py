"""Base class of layers whose windows move over an input: build, forward and pullback by an implementation.

`Windowed` is the layer, `Vjp` its gradients and fused step. Both are computed by an implementation, which
`implementations/create.py` makes: by default `implementations/loop.py`, over `kernels/forward.py` and
`kernels/backward.py`. Subclasses say which geometry belongs to an input shape, and which shapes their weights have.
"""

import copy
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
from lcnumba.layers.base import REGULARIZATION_RULES, Trainable, dtype_rule, serialized
from lcnumba.layers.parameters import FusedUpdate
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import import_whole
from lcnumba.utils.arrays import as_numpy, read_only
from lcnumba.utils.keras_config import FORMATS, data_format
from lcnumba.utils.messages import public
from lcnumba.utils.sums import ordered_sum
from lcnumba.utils.types import Array, Mask, Shape
from lcnumba.utils.validation import axes_hint, boolean, choice, int_tuple, integer, thread_count

__all__ = ["WINDOW_RULES", "Extra", "Vjp", "Windowed", "loop", "scratch"]

CHOICES = (*IMPLEMENTATIONS, "auto")


def _implementation(value: Any) -> int | str:
    """The rule of `implementation`."""
    return choice("implementation", value if isinstance(value, str) else integer("implementation", value), CHOICES)


def _weight_sharing(layer: "Windowed", value: Any) -> Any:
    """The rule of `weight_sharing`."""
    return sharing.as_argument(sharing.get(value, layer.rank))


def _padding_mode(layer: "Windowed", value: Any) -> str | tuple[str, ...]:
    """The rule of `padding_mode`: one string if all dimensions have the same mode."""
    modes = padding_modes(value, layer.rank)
    return modes[0] if len(set(modes)) == 1 else modes


# A parameter that Keras' layer does not have: the check and the default, which is left out of the config.
Extra = tuple[Callable[[Any, Any], Any], Any]

# Config entries that are no JSON values, and how they are written.
_SERIALIZED: dict[str, Callable[[Any], Any]] = {"kernel_mask": masks.serialize, "weight_sharing": sharing.serialize}

# Rules of the entries that these layers have in common.
WINDOW_RULES: dict[str, Callable[[Any, Any], Any]] = {
    "dtype": dtype_rule,
    "filters": lambda _, v: integer("filters", v),
    "kernel_size": lambda layer, v: int_tuple("kernel_size", v, layer.rank),
    "strides": lambda layer, v: int_tuple("strides", v, layer.rank),
    "padding": lambda layer, v: paddings(v, layer.rank),
    "data_format": lambda _, v: choice("data_format", data_format() if v is None else v, FORMATS),
    "dilation_rate": lambda layer, v: int_tuple("dilation_rate", v, layer.rank),
    "groups": lambda _, v: integer("groups", v),
    "activation": lambda _, v: activations.get(v),
    "use_bias": lambda _, v: boolean("use_bias", v),
    "kernel_initializer": lambda _, v: initializers.get(v),
    "bias_initializer": lambda _, v: initializers.get(v),
    **REGULARIZATION_RULES,
    "implementation": lambda _, v: _implementation(v),
    "padding_mode": _padding_mode,
    "weight_sharing": _weight_sharing,
    "kernel_mask": lambda _, v: masks.get(v),
}


class Windowed(Trainable):
    """Base class for any spatial rank.

    A subclass implements `_geometry_of` and `weight_shapes`; `_extras` has those of its
    parameters that Keras does not have.
    """

    rank: ClassVar[int]
    _extras: ClassVar[dict[str, Extra]]
    _fixed_shape: ClassVar[str]  # why a layer takes inputs of one shape only, for a message

    filters: int
    kernel_size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Padding
    data_format: str
    dilation_rate: tuple[int, ...]
    groups: int
    activation: activations.Activation
    implementation: int | str
    bias_sharing: str = "filter"
    kernel_mask: Mask | None = None

    # Set by build.
    _geometry: Geometry
    _implementation: Implementation

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self.n_threads = given["n_threads"]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, with read-only arrays like the original's."""
        self.__dict__.update(state)
        for name in self._rules.keys() & {"kernel_mask", "weight_sharing"}:
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

        y, vjp = self._from_channels_last(y), self._vjp(inner, saved, version)
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

    def kernel_view(self) -> Array:
        """Return the kernel by position and window entry, as a read-only view that reflects later steps.

        Returns
        -------
        array, (*output, *kernel_size, C, F)
            The spatial size of the output, that of the window, the channels that a filter reads, and the filters. With
            shared weights the number of the weight set comes first, in place of the output. For a transposed layer
            (*input, *kernel_size, F, C): the spatial size of the input, the filters of a group, and the channels.

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
        kernel = self.kernel
        return kernel.reshape(self._geometry.kernel_view_shape)

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
        config = self._common_config()
        for name in self._rules:
            value = getattr(self, name)
            if name in self._extras:
                rule, default = self._extras[name]
                if value is None or (not isinstance(value, np.ndarray) and value == rule(self, default)):
                    continue
            config[name] = _SERIALIZED[name](value) if name in _SERIALIZED else serialized(name, value)
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

    def _implementation_number(self, geometry: Geometry) -> int:
        """The number of the implementation in use."""
        if isinstance(self.implementation, int):
            return self.implementation
        return cost.choose(geometry, self._dtype.itemsize)

    @property
    def _kernel(self) -> Array:
        """The kernel as implementations take it, (P, K, F) or (S, K, F)."""
        return self._parameters["kernel"].reshape(self._geometry.kernel_shape)

    def _vjp(self, x: Array, saved: Array, version: int) -> Any:
        """The vector-Jacobian product of a forward call."""
        return Vjp(self, x, saved, version)

    def _geometry_of(self, input_shape: Any) -> Geometry:
        """The geometry for an input shape in the layer's data format, batch first."""
        raise NotImplementedError

    def _apply(self, x: Array, for_backward: bool) -> tuple[Array, Array, int]:
        """Y (N, *output, F) of a channels-last x, the array saved for the gradient, and the version of the weights."""
        with self._parameters.lock.shared():
            geometry, version = self._geometry, self._parameters.version
            self._check_sample(x, geometry.sample_shape)
            bias = self._parameters["bias"].reshape(-1, geometry.filters) if self.use_bias else None
            if bias is not None and self.bias_sharing == "region":
                bias = bias[geometry.sets]
            flat, relu = x.reshape(len(x), geometry.inputs), activations.rectifies(self.activation)
            z = self._implementation.apply(
                flat, self._kernel, bias, relu=relu, version=version, threads=self._parameters.threads
            )
        z = z.reshape(len(x), *geometry.output_size, geometry.filters)
        if relu:
            return z, z, version
        return *activations.apply(self.activation, z, for_backward), version

    def _check_sample(self, x: Array, wanted: tuple[int, ...]) -> None:
        """Raise unless the samples of a channels-last x have the shape for which the layer was built."""
        if x.shape[1:] != wanted:
            shape = self._outer_shape(x.shape)
            raise ValueError(
                f"x has shape {shape}; {self.name!r} was built for {self.input_shape}: {self._fixed_shape}"
                f"{axes_hint('x', shape, self.input_shape)}"
            )

    @property
    def _output_lines(self) -> int:
        """The output's size in its first dimension."""
        return self._geometry.output_size[0]

    def _sum_lines(self, dbias: Array) -> Array:
        """The sum of dbias (P, F) over positions, one line of the output after the other."""
        return ordered_sum(self._line_totals(dbias))

    def _line_totals(self, dbias: Array) -> Array:
        """The sums of dbias (P, F) over the positions of each line of the output, in float64."""
        lines = dbias.reshape(self._output_lines, -1, self.filters).astype(np.float64)
        return np.stack([np.add.reduce(line, axis=0) for line in lines]) if lines.shape[1] > 1 else lines[:, 0]

    def _masks_are_by_output(self, geometry: Geometry) -> bool:
        """Whether a mask has the form of `kernel_mask_from`."""
        return geometry.sets is None and geometry.groups == 1

    def _parts(self, input_shape: Shape) -> tuple[dict[str, Any], dict[str, Mask]]:
        geometry = self._geometry_of(input_shape)
        mask = self.kernel_mask
        if mask is None:
            exists = None if geometry.complete else geometry.weight_exists
        else:
            masks.check(mask, geometry.kernel_shape, self._masks_are_by_output(geometry))
            exists = mask & (geometry.weight_exists if mask.ndim == 2 else geometry.weight_exists[:, :, None])
        attributes = {
            "_geometry": geometry,
            "_implementation": create(self._implementation_number(geometry), geometry, mask),
        }
        if exists is None:
            return attributes, {}
        kernel_shape = self.weight_shapes(input_shape)["kernel"]
        return attributes, {"kernel": exists.reshape(kernel_shape[: None if exists.ndim == 3 else -1])}

    def _sizes_of(self, input_shape: Any) -> tuple[tuple[int, ...], int]:
        """The spatial size and the channels of an input shape in the layer's data format, batch first."""
        _, *sizes = (entry or 0 for entry in self._checked_shape(input_shape))
        *input_size, channels = (*sizes[1:], sizes[0]) if self.data_format == "channels_first" else sizes
        return tuple(input_size), channels

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
def loop() -> Any:
    """The module of implementation 1, imported by the first call that needs it."""
    from lcnumba.implementations import loop

    return loop


@import_whole
def scratch() -> Any:
    """The module of aligned arrays."""
    from lcnumba.implementations import scratch

    return scratch


def _move_axis(array: Array, source: int, destination: int) -> Array:
    """A contiguous array with one axis moved, as by `numpy.moveaxis`."""
    moved = np.moveaxis(array, source, destination)
    if moved.flags.c_contiguous:
        return moved
    require(array.nbytes, "a copy with the channel axis moved", "give fewer samples at a time")
    return np.ascontiguousarray(moved)


class Vjp:
    """The vector-Jacobian product of one forward call; see `lcnumba.layers.backward.Vjp`."""

    def __init__(self, layer: Windowed, x: Array, saved: Array, version: int) -> None:
        geometry = layer._geometry
        self._layer, self._version = layer, version
        self._x_shape, self._x = x.shape, x.reshape(len(x), geometry.inputs)
        self._saved, self.bytes_of_step = saved, x.nbytes
        self._flat = (len(x), geometry.positions, geometry.filters)
        self.cannot_fail = activations.is_built_in(layer.activation)
        self.supports_fused = layer._implementation.supports_fused

    def gradients(self, dy: Array) -> tuple[Array, Gradients]:
        """Return dx and the gradients of the weights."""
        layer, threads = self._layer, self._layer.n_threads
        dz, y = self._through_activation(dy)
        with layer._parameters.lock.shared():
            layer._parameters.check_version(self._version)
            dx, dkernel = layer._implementation.gradients(
                self._x, layer._kernel, dz, y=y, version=self._version, threads=threads
            )
            dkernel = dkernel.reshape(layer._parameters["kernel"].shape)
        return layer._from_channels_last(dx.reshape(self._x_shape)), Gradients(dkernel, self._dbias(dz, y))

    def fused_update(self, dy: Array, wants_dx: bool) -> tuple[FusedUpdate, dict[str, Array]]:
        """Return what updates the kernel, and the gradients of the other weights."""
        layer, implementation = self._layer, self._layer._implementation
        dz, y = self._through_activation(dy)
        dbias = self._dbias(dz, y)
        # Allocated before the weights change.
        moved = wants_dx and layer.data_format == "channels_first"
        channels_first = scratch().aligned(layer._outer_shape(self._x_shape), dz.dtype) if moved else None

        def update(kernel: Array, rule: Rule | None) -> Array | None:
            kernel = kernel.reshape(layer._geometry.kernel_shape)
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
        dbias = loop().bias_gradient(dz, y, self._layer.n_threads)
        layer = self._layer
        if layer.bias_sharing == "position":
            return dbias.reshape(self._saved.shape[1:])
        if layer.bias_sharing == "filter":
            return layer._sum_lines(dbias).astype(dbias.dtype)
        sets, sums = layer._geometry.sets, np.zeros((layer._geometry.n_sets, layer.filters))
        np.add.at(sums, cast(Array, sets), dbias)  # in the order of positions
        return sums.astype(dbias.dtype)
