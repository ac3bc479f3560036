"""The layer whose connections are given one by one, as from variants to genes and from genes to pathways."""

import os
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from lcnumba import activations, initializers
from lcnumba.connectivity import topology
from lcnumba.gradients import Gradients
from lcnumba.implementations import cost
from lcnumba.kernels.rules import Rule
from lcnumba.layers.backward import Backward
from lcnumba.layers.base import REGULARIZATION_RULES, Fans, Trainable, dtype_rule, serialized
from lcnumba.layers.parameters import FusedUpdate
from lcnumba.layers.registry import register_layer
from lcnumba.runtime.memory import require
from lcnumba.runtime.signals import import_whole
from lcnumba.utils.arrays import as_numpy, normalise
from lcnumba.utils.messages import public, public_class
from lcnumba.utils.types import Array, Mask, Shape
from lcnumba.utils.validation import arguments, axes_hint, boolean, choice, integer, thread_count

__all__ = ["LocallyDirected1D"]


@register_layer
@public_class
class LocallyDirected1D(Trainable):
    r"""Layer of given connections, as GenNet's of this name: from variants to genes, from genes to pathways.

    ``y[n, o, f] = activation(bias[o, f] + sum over connections k = (i, o) and c of x[n, i, c] * kernel[k, c, f])``.

    Parameters
    ----------
    mask : scipy.sparse matrix or array, array, path or pairs
        Which connections exist: a matrix (inputs, outputs), whose entries other than 0 are connections, whatever their
        values; or the path of a file of `scipy.sparse.save_npz`; or, with `mask_shape`, pairs (input, output), an
        integer array (connections, 2). The layer's attribute `mask` is a `Topology`, whose ``to_scipy()`` returns a
        matrix to save. An output may have no inputs, an input no outputs.
    filters : int, default 1
        Filters F: weights for each connection and channel.
    activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, \
    activity_regularizer, kernel_constraint, bias_constraint
        As for `LocallyConnected2D`.
    mask_shape : (int, int), optional
        Inputs and outputs; `mask` is then pairs.
    input_shape, batch_input_shape, batch_size, name, trainable, dtype, weights, rng, optimizer, n_threads
        As for `LocallyConnected2D`; `input_shape` is ``(inputs, channels)``.
    fans : {"degree", "keras"}, default "degree"
        fan_in and fan_out for scaled initializers. "degree": the mean number of inputs of an output, times C, and of
        outputs of an input, times F, among those that have connections. "keras": what Keras derives from the kernel's
        shape, the number of connections times C or F, as in GenNet; initial values are far smaller.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, a connection that is out of range or occurs twice.

    Notes
    -----
    The kernel has shape (connections, C, F), in the order of outputs and, within an output, of inputs; the bias has
    shape (outputs, F). The order for C = F = 1 is that of GenNet's weights.

    Integers of 8 bits and booleans, such as genotypes 0, 1, 2, are cast as they are read, without a copy of the batch,
    also in `Sequential.fit`. They have no missing values: impute those, or give floats, where NaN goes to the outputs
    that read it. Masked arrays are refused.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1)]  # variants 0 to 2 are of gene 0
    >>> genes = lc.LocallyDirected1D(pairs, mask_shape=(6, 2), kernel_initializer="ones")
    >>> genes(np.arange(1, 7, dtype=np.int8).reshape(1, 6, 1))[0, :, 0]
    array([ 6., 18.], dtype=float32)
    >>> genes.mask
    <Topology: 6 inputs, 2 outputs, 7 connections>
    """

    __module__ = "lcnumba"

    _default_name = "locally_directed1d"
    _memory_hint = "use fewer connections or filters"
    _rules: ClassVar = {
        "dtype": dtype_rule,
        "mask": lambda _, v: topology.get(v),
        "filters": lambda _, v: integer("filters", v),
        "activation": lambda _, v: activations.get(v),
        "use_bias": lambda _, v: boolean("use_bias", v),
        "kernel_initializer": lambda _, v: initializers.get(v),
        "bias_initializer": lambda _, v: initializers.get(v),
        **REGULARIZATION_RULES,
        "fans": lambda _, v: choice("fans", v, ("degree", "keras")),
    }
    mask: topology.Topology
    filters: int
    activation: activations.Activation
    fans: str

    _implementation: Any  # set by build

    def __init__(
        self,
        mask: Any,
        filters: int = 1,
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
        mask_shape: tuple[int, int] | None = None,
        input_shape: tuple[int, int] | None = None,
        batch_input_shape: Shape | None = None,
        batch_size: int | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = "float32",
        weights: list[Array] | None = None,
        fans: str = "degree",
        rng: Any = None,
        optimizer: Any = "sgd",
        n_threads: int | None = None,
    ) -> None:
        mask = topology.get(mask, mask_shape)
        super().__init__(locals())
        self.n_threads = n_threads

    @public
    def __call__(self, x: Any) -> Any:
        """Return y, for inference; thread-safe.

        Parameters
        ----------
        x : array, (N, inputs, C)
            Any array-API array on the CPU, or nested lists; cast to the layer's dtype.

        Returns
        -------
        array of the type of x, (N, outputs, F)
            A new array; for integers and booleans of the layer's dtype.

        Raises
        ------
        TypeError
            If x is not an array of real numbers on the CPU, or its dtype is not supported.
        ValueError
            If x does not have the shape for which the layer was built.
        """
        given, like = as_numpy("x", x)
        y = self._apply(self._normalised(given), for_backward=False)[0]
        self._activity_penalty(y)
        return like(y)

    @public
    def forward(self, x: Any) -> tuple[Any, Backward]:
        """Return y and the pullback of this call, for training.

        Parameters
        ----------
        x : array, (N, inputs, C)
            As for a plain call. Leave x and y unchanged until `Backward` has run: it does not copy them.

        Returns
        -------
        y : array of the type of x, (N, outputs, F)
            As from a plain call.
        backward : Backward
            ``backward(dy)`` returns dx and the `Gradients`; ``backward.step(dy, lr)`` also updates the weights.

        Raises
        ------
        TypeError, ValueError
            As for a plain call.
        """
        given, like = as_numpy("x", x)
        values = self._normalised(given)
        y, saved, version = self._apply(values, for_backward=True)

        vjp = _Vjp(self, values, saved, version)
        activity = self._activity_penalty(y)
        return like(y), Backward(self._parameters, version, y.shape, self._dtype, vjp, activity)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the output shape for an input shape.

        Parameters
        ----------
        input_shape : (int or None, int, int)
            The batch size, or None, the inputs and the channels.

        Returns
        -------
        (int or None, int, int)
            The batch size, the outputs and F.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid, or the mask is of another number of inputs.
        """
        self._channels(input_shape)
        return input_shape[0], self.mask.shape[1], self.filters

    def weight_shapes(self, input_shape: Shape) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights for an input shape.

        Parameters
        ----------
        input_shape : (int or None, int, int)
            The batch size, or None, the inputs and the channels.

        Returns
        -------
        dict of str to tuple of int
            "kernel": (connections, C, F), and "bias": (outputs, F), unless ``use_bias=False``.

        Raises
        ------
        TypeError, ValueError
            If the shape is invalid, or the mask is of another number of inputs.
        """
        kernel = (len(self.mask.indices), self._channels(input_shape), self.filters)
        shapes: dict[str, tuple[int, ...]] = {"kernel": kernel}
        return {**shapes, "bias": (self.mask.shape[1], self.filters)} if self.use_bias else shapes

    def costs(self, batch_size: int = cost.TYPICAL_BATCH) -> tuple[cost.Cost, ...]:
        """Return the cost of a step, estimated from the connections alone.

        Parameters
        ----------
        batch_size : int, default 32
            Samples per batch.

        Returns
        -------
        tuple of lcnumba.implementations.cost.Cost
            One, of the only implementation of this layer.

        Raises
        ------
        AttributeError
            If the input shape is not known yet.
        TypeError, ValueError
            If `batch_size` is not an integer of at least 1.
        """
        size = integer("batch_size", batch_size)
        return cost.costs_directed(*self._sizes(), size, self._dtype.itemsize)

    def explain(self, batch_size: int = cost.TYPICAL_BATCH, print_fn: Callable[[str], Any] = print) -> None:
        """Print the cost of a step.

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
        >>> genes = [(variant, variant // 50) for variant in range(100_000)]
        >>> lc.LocallyDirected1D(genes, mask_shape=(100_000, 2_000), input_shape=(100_000, 1)).explain()
        100,000 weights (0.4 MB), 0.05% of a dense matrix; batch of 32, 32 bits
        implementation  GFLOP forward  GFLOP step  MB extra  MB of weights moved  estimate
             1 loops *         0.0064      0.0192      1.86                  1.2         1
        * the only implementation of this layer.
        """
        size = integer("batch_size", batch_size)
        print_fn(cost.explained_directed(*self._sizes(), size, self._dtype.itemsize))

    def _sizes(self) -> tuple[topology.Topology, int, int]:
        return self.mask, self._channels(self.input_shape), self.filters

    @property
    def n_threads(self) -> int | None:
        """Number of threads for large work; None: as many as Numba. Can be set at any time."""
        return self._parameters.threads

    @n_threads.setter
    def n_threads(self, value: int | None) -> None:
        self._parameters.threads = thread_count(value)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments of an equal layer.

        Returns
        -------
        dict
            Its "mask" is a dict of the shape and of two arrays: files of this library keep them as arrays. The rest is
            JSON-serialisable, unless an activation, initializer, regularizer or constraint is custom.
        """
        config = {name: serialized(name, getattr(self, name)) for name in self._rules}
        return {**self._common_config(), **config, "mask": self.mask.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Create a layer from the result of `get_config`, without weights.

        Parameters
        ----------
        config : dict
            Arguments of the constructor; but no path, since configs are read from files that others may have written.

        Returns
        -------
        layer

        Raises
        ------
        TypeError, ValueError
            As for the constructor, or if the mask is a path.
        """
        if isinstance(path := arguments(config).get("mask"), str | os.PathLike):
            raise TypeError(f"the config has mask={str(path)!r:.80}, a path, which is not read; give its matrix")
        return super().from_config(config)

    def _apply(self, x: Array, for_backward: bool) -> tuple[Array, Array, int]:
        """Y, the array saved for the activation's gradient, and the version of the weights."""
        with self._parameters.lock.shared():
            kernel, version = self._parameters["kernel"], self._parameters.version
            if x.shape[1:] != self.input_shape[1:]:
                raise ValueError(
                    f"x has shape {x.shape}; {self.name!r} was built for {self.input_shape}"
                    + axes_hint("x", x.shape, self.input_shape)
                )
            bias = self._parameters["bias"] if self.use_bias else None
            z = self._implementation.apply(x, kernel, bias, threads=self.n_threads)
        return *activations.apply(self.activation, z, for_backward), version

    def _cast(self, x: Array) -> Array:
        if x.dtype.itemsize > 1 or x.dtype.kind not in "biu":
            return normalise("x", x, self._dtype)
        if not x.flags.c_contiguous:
            require(x.nbytes, "a copy of x", "give it C-contiguous")
        return np.ascontiguousarray(x)

    def _channels(self, input_shape: Shape) -> int:
        """The channels of an input shape; raise unless it is that of the mask's inputs."""
        _, inputs, channels = self._checked_shape(input_shape)
        if inputs != self.mask.shape[0]:
            raise ValueError(
                f"input_shape={tuple(input_shape)} has {inputs} inputs, and the mask of {self.name!r} has "
                f"{self.mask.shape[0]}: it is a matrix (inputs, outputs)"
            )
        return channels or 0

    def _axes(self) -> tuple[str, ...]:
        return "batch", "inputs", "channels"

    def _kernel_fans(self, input_shape: Shape) -> Fans:
        if self.fans == "keras":
            return None
        inputs, outputs = self.mask.degrees
        return round(inputs * self._channels(input_shape)), round(outputs * self.filters)

    def _parts(self, input_shape: Shape) -> tuple[dict[str, Any], dict[str, Mask]]:
        return {"_implementation": _directed()(self.mask, self._channels(input_shape), self.filters)}, {}


@import_whole
def _directed() -> Callable[..., Any]:
    from lcnumba.implementations.directed import Directed

    return Directed


@import_whole
def _loop() -> Any:
    from lcnumba.implementations import loop

    return loop


class _Vjp:
    """The vector-Jacobian product of one forward call; see `lcnumba.layers.backward.Vjp`."""

    def __init__(self, layer: LocallyDirected1D, x: Array, saved: Array, version: int) -> None:
        self._layer, self._x, self._saved, self._version = layer, x, saved, version
        self.cannot_fail = activations.is_built_in(layer.activation)
        self.supports_fused = layer._implementation.supports_fused
        kernel = layer._parameters["kernel"]
        stored = 0 if layer._implementation.updates_in_place(kernel) else kernel.nbytes
        self.bytes_of_step = x.size * saved.itemsize + stored

    def gradients(self, dy: Array) -> tuple[Array, Gradients]:
        layer = self._layer
        dz = activations.vjp(layer.activation, dy, self._saved)
        with layer._parameters.lock.shared():
            layer._parameters.check_version(self._version)
            dx, dkernel = layer._implementation.gradients(
                self._x, layer._parameters["kernel"], dz, threads=layer.n_threads
            )
        return dx, Gradients(dkernel, self._dbias(dz))

    def fused_update(self, dy: Array, wants_dx: bool) -> tuple[FusedUpdate, dict[str, Array]]:
        layer, implementation = self._layer, self._layer._implementation
        dz = activations.vjp(layer.activation, dy, self._saved)
        dbias = self._dbias(dz)

        def update(kernel: Array, rule: Rule | None) -> Array | None:
            if rule is not None:
                return implementation.fused_update(
                    self._x, kernel, dz, rule, wants_dx=wants_dx, threads=layer.n_threads
                )
            # The weights are not trainable.
            return implementation.apply_transpose(kernel, dz, threads=layer.n_threads) if wants_dx else None

        return update, {} if dbias is None else {"bias": dbias}

    def _dbias(self, dz: Array) -> Array | None:
        return _loop().bias_gradient(dz, None, self._layer.n_threads) if self._layer.use_bias else None
