"""Locally connected layers for Keras 3 on the CPU (the extra ``lcnumba[keras3]``), and Keras 2's models with them.

The layers have the parameters of Keras 2's, and those of this library beyond them. They work with Keras' backends
torch, JAX, TensorFlow, and NumPy (inference alone), whichever is chosen: Keras owns weights, optimizers and training.
With TensorFlow they are not compiled by XLA, and not saved in a SavedModel.

Computation is in float32 or float64; policies of mixed precision are refused.
"""

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lcnumba import functional
from lcnumba.bridges.keras2.config import translate_constraints
from lcnumba.bridges.keras2.files import KerasFile, KerasFileError, StoredArray
from lcnumba.bridges.keras2.weights import GivenWeights, StoredWeights, convert_bias, convert_kernel
from lcnumba.connectivity import masks, sharing, topology
from lcnumba.connectivity.geometry import output_paddings, padding_modes, paddings
from lcnumba.functional import DirectedSpec, Spec
from lcnumba.utils.messages import install, public, warn
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import boolean, choice, file_path, int_tuple, integer

try:
    import keras
    from keras import ops
except ImportError as error:
    raise ImportError(f"{error}; lcnumba.keras needs Keras 3: {install('keras3')}") from error
if not hasattr(keras, "__version__") or int(keras.__version__.partition(".")[0]) < 3:
    raise ImportError(f"lcnumba.keras needs Keras 3, and this is another: {install('keras3')}")

__all__ = [
    "LocallyConnected1D", "LocallyConnected1DTranspose", "LocallyConnected2D", "LocallyConnected2DTranspose",
    "LocallyConnected3D", "LocallyConnected3DTranspose", "LocallyDirected1D", "load_model",
]  # fmt: skip

BACKENDS = ("torch", "jax", "tensorflow", "numpy")
FORMATS = ("channels_last", "channels_first")
PARTS = ("kernel", "bias")


def _map_of_backend(name: str) -> Any:
    """The map `apply` or `apply_transpose` of (x, kernel, bias, spec) in the backend that Keras uses."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ValueError(f"Keras uses the backend {backend!r}; choose one of {', '.join(BACKENDS)} in KERAS_BACKEND")
    if backend == "numpy":
        return _apply_numpy if name == "apply" else _apply_transpose_numpy
    return getattr(importlib.import_module(f"lcnumba.bridges.{backend}"), name)


def _apply_numpy(x: Any, kernel: Any, bias: Any, spec: str) -> Any:
    arrays: Any = [None if array is None else np.ascontiguousarray(array) for array in (x, kernel, bias)]
    return functional.apply(Spec.from_text(spec), *arrays)


def _apply_transpose_numpy(x: Any, kernel: Any, bias: Any, spec: str) -> Any:
    y = functional.input_gradient(Spec.from_text(spec), *map(np.ascontiguousarray, (kernel, x)))
    return y if bias is None else y + bias


class _Initializer:
    """Draws as another initializer does, with the fans of a window, and with 0 for weights that do not exist."""

    def __init__(self, initializer: Any, exists: Any, factor: Mapping[str, float] | None) -> None:
        self._exists = exists
        if factor is not None and isinstance(initializer, keras.initializers.VarianceScaling):
            config = initializer.get_config()
            # Of the classes that derive from it, such as GlorotUniform, the config holds the seed alone.
            settings = {name: getattr(initializer, name) for name in ("scale", "mode", "distribution", "seed")}
            settings["scale"] *= factor[settings["mode"]]
            initializer = keras.initializers.VarianceScaling(**settings | {"seed": config.get("seed")})
        self._initializer = initializer

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        values = self._initializer(shape, dtype=dtype)
        return values if self._exists is None else ops.where(self._exists, values, ops.zeros_like(values))


def _check_policy(layer: Any) -> None:
    """Raise unless a layer has its weights in the dtype in which it computes."""
    if layer.compute_dtype not in ("float32", "float64") or layer.variable_dtype != layer.compute_dtype:
        raise ValueError(
            f"dtype={layer.dtype_policy.name!r} computes in {layer.compute_dtype} with weights in "
            f"{layer.variable_dtype}; this layer needs 'float32' or 'float64' for both: give it dtype='float32'"
        )


# What Keras has for each weight: initializer, regularizer and constraint.
_OBJECTS = [(f"{part}_{kind}", kind) for part in PARTS for kind in ("initializer", "regularizer", "constraint")]


def _set_weight_settings(layer: Any, given: Mapping[str, Any]) -> None:
    """Set the objects of each weight, given by name or as objects."""
    for name, kind in _OBJECTS:
        setattr(layer, name, getattr(keras, f"{kind}s").get(given[name]))


def _weight_settings(layer: Any) -> dict[str, Any]:
    """The entries of the config about weights."""
    found = {name: getattr(keras, f"{kind}s").serialize(getattr(layer, name)) for name, kind in _OBJECTS}
    return found | {"activity_regularizer": keras.regularizers.serialize(layer.activity_regularizer)}


class _LocallyConnected(keras.layers.Layer):
    """Base class for any spatial rank."""

    rank: ClassVar[int]
    _map_name: ClassVar[str] = "apply"
    # Entries of the config that are no objects of Keras.
    _plain: ClassVar[tuple[str, ...]] = (
        "filters", "kernel_size", "strides", "padding", "data_format", "use_bias", "implementation", "dilation_rate",
        "padding_mode", "groups", "bias_sharing", "fans",
    )  # fmt: skip

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
        implementation: int = 1,
        *,
        dilation_rate: int | tuple[int, ...] = 1,
        padding_mode: str | tuple[str, ...] = "zeros",
        groups: int = 1,
        weight_sharing: Any = None,
        bias_sharing: str = "position",
        kernel_mask: Any = None,
        fans: str = "keras",
        **settings: Any,
    ) -> None:
        shape = settings.pop("batch_input_shape", None)
        if shape is not None:
            settings["input_shape"] = tuple(shape)[1:]
        super().__init__(activity_regularizer=activity_regularizer, **settings)
        _check_policy(self)
        self.filters = integer("filters", filters)
        self.kernel_size = int_tuple("kernel_size", kernel_size, self.rank)
        self.strides = int_tuple("strides", strides, self.rank)
        self.padding = paddings(padding, self.rank)
        default = keras.config.image_data_format()
        self.data_format = choice("data_format", default if data_format is None else data_format, FORMATS)
        self.activation = keras.activations.get(activation)
        self.use_bias = boolean("use_bias", use_bias)
        _set_weight_settings(self, locals())
        self.implementation = choice("implementation", integer("implementation", implementation), (1, 2, 3))
        self.dilation_rate = int_tuple("dilation_rate", dilation_rate, self.rank)
        self.padding_mode = padding_modes(padding_mode, self.rank)
        self.groups = integer("groups", groups)
        self.weight_sharing = sharing.as_argument(sharing.get(weight_sharing, self.rank))
        self.bias_sharing = sharing.check_bias(bias_sharing, self.weight_sharing)
        self.kernel_mask = masks.get(kernel_mask)
        self.fans = choice("fans", fans, ("keras", "window"))
        self._map = _map_of_backend(self._map_name)
        self.supports_jit = keras.backend.backend() != "tensorflow"  # with JAX, False would leave the model uncompiled
        self.input_spec = keras.InputSpec(ndim=self.rank + 2)

    def build(self, input_shape: Shape) -> None:
        """Create the weights for an input shape, whose sizes but for the batch are known."""
        spec = self._spec_of(input_shape)
        self.spec, self._text = spec, spec.text
        positions, window, filters = spec.kernel_shape
        factor = None
        if self.fans == "window":  # Keras takes all positions into account
            fan_in, fan_out = self._window_fans(spec)
            factor = {
                "fan_in": positions * window / fan_in,
                "fan_out": positions * filters / fan_out,
                "fan_avg": positions * (window + filters) / (fan_in + fan_out),
            }
        self.kernel = self.add_weight(
            name="kernel", shape=spec.kernel_shape, regularizer=self.kernel_regularizer,
            initializer=_Initializer(self.kernel_initializer, spec.exists, factor), constraint=self.kernel_constraint,
        )  # fmt: skip
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=self._bias_shape(spec),
                initializer=self.bias_initializer, regularizer=self.bias_regularizer, constraint=self.bias_constraint,
            )  # fmt: skip
        axes = {axis: size for axis, size in enumerate(input_shape) if axis}
        self.input_spec = keras.InputSpec(ndim=self.rank + 2, axes=axes)

    def call(self, inputs: Any) -> Any:
        """Return the output for a batch."""
        x = inputs
        if self.data_format == "channels_first":
            x = ops.transpose(x, (0, *range(2, self.rank + 2), 1))
        kernel = ops.convert_to_tensor(self.kernel)
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        if bias is not None and self.bias_sharing == "region":
            bias = ops.reshape(ops.take(bias, self.spec.sets, axis=0), self.spec.output_shape)
        y = self._map(x, kernel, bias, self._text)
        if self.data_format == "channels_first":
            y = ops.transpose(y, (0, self.rank + 1, *range(1, self.rank + 1)))
        return y if self.activation is None else self.activation(y)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the output for a shape of the input."""
        *sizes, filters = self._output_of(self._spec_of(input_shape))
        return (input_shape[0], filters, *sizes) if self.data_format == "channels_first" else (
            input_shape[0], *sizes, filters
        )  # fmt: skip

    def _spec_of(self, input_shape: Shape) -> Spec:
        if len(input_shape) != self.rank + 2 or None in input_shape[1:]:
            raise ValueError(
                f"{self.name!r} is called on an input of shape {tuple(input_shape)}; every size but that of the batch "
                f"must be known, with {self.rank} spatial ones: the number of weights depends on it"
            )
        shape: tuple[Any, ...] = tuple(input_shape[1:])
        if self.data_format == "channels_first":
            shape = (*shape[1:], shape[0])
        return self._make_spec(
            shape, self.filters, self.kernel_size, self.strides, self.padding, dilation_rate=self.dilation_rate,
            padding_mode=self.padding_mode, groups=self.groups, weight_sharing=self.weight_sharing,
            kernel_mask=self.kernel_mask,
        )  # fmt: skip

    def _make_spec(self, *arguments: Any, **settings: Any) -> Spec:
        return Spec(*arguments, **settings)

    def _output_of(self, spec: Spec) -> tuple[int, ...]:
        """The shape of an output sample, channels last."""
        return spec.output_shape

    def _bias_shape(self, spec: Spec) -> tuple[int, ...]:
        return spec.bias_shape(self.bias_sharing)

    def _window_fans(self, spec: Spec) -> tuple[int, int]:
        """Inputs of an output, and outputs of an input, of one window."""
        window, filters = spec.kernel_shape[1:]
        return window, window // spec._geometry.tap_entries * filters

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of an equal layer, serialized."""
        config = super().get_config()
        for name in self._plain:
            config[name] = getattr(self, name)
        config["activation"] = keras.activations.serialize(self.activation)
        config |= _weight_settings(self)
        config["weight_sharing"] = sharing.serialize(self.weight_sharing)
        config["kernel_mask"] = masks.serialize(self.kernel_mask)
        return config

    def save_own_variables(self, store: Any) -> None:
        """Store the weights by name: those that Keras 2 stored have numbers, and other layouts."""
        for name in PARTS:
            if getattr(self, name) is not None:
                store[name] = ops.convert_to_numpy(getattr(self, name))

    def load_own_variables(self, store: Any) -> None:
        """Set the weights to those that this class, or Keras 2, stored."""
        arrays = [np.asarray(store[key]) for key in sorted(store.keys())]
        if "kernel" in store:
            arrays = [np.asarray(store[name]) for name in PARTS if name in store]
        wanted = [weight for weight in (self.kernel, self.bias) if weight is not None]
        if len(arrays) != len(wanted):
            raise ValueError(f"{self.name!r} has {len(wanted)} weights; the file has {len(arrays)}")
        if "kernel" not in store:
            given = GivenWeights(arrays)
            arrays = [self._converted(given, number) for number in range(len(arrays))]
        for weight, array in zip(wanted, arrays, strict=True):
            if tuple(weight.shape) != array.shape:
                raise ValueError(f"{weight.path!r} has shape {tuple(weight.shape)}; the file has {array.shape}")
        for weight, array in zip(wanted, arrays, strict=True):
            weight.assign(array)

    def _converted(self, stored: Any, number: int) -> Array:
        """The kernel (number 0) or the bias from the layout of Keras 2."""
        convert = convert_bias if number else convert_kernel
        return convert(self.spec._geometry, stored, number, self.data_format)


@keras.saving.register_keras_serializable(package="lcnumba")
class LocallyConnected2D(_LocallyConnected):
    """Locally connected layer for images: every output position has its own weights.

    Parameters
    ----------
    filters : int
        Filters F, the channels of the output.
    kernel_size, strides : int or (int, int)
        Size of the window, and distance of neighbouring windows.
    padding : {"valid", "same", "tf_same"} or ((int, int), (int, int)), default "valid"
        As in `lcnumba.LocallyConnected2D`; "same" is that of Keras 2's layer, "tf_same" that of Keras' convolutions.
    data_format : {"channels_last", "channels_first"}, optional
        Order of the axes of x and y; by default as in Keras' configuration. Weights do not depend on it.
    activation, use_bias
        As in Keras' layers.
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer, \
kernel_constraint, bias_constraint
        Keras' own, by name or as objects.
    implementation : {1, 2, 3}, default 1
        Kept for configs of Keras 2, and without effect.
    dilation_rate : int or (int, int), default 1
        Distance of neighbouring entries of a window.
    padding_mode : {"zeros", "circular"} or one for each dimension, default "zeros"
        What windows read beyond the input.
    groups : int, default 1
        Divides channels and filters into as many groups; filters read the channels of their group.
    weight_sharing : None, "all", int, (int, int) or array of int, default None
        Which positions share their weights; as in `lcnumba.LocallyConnected2D`.
    bias_sharing : {"position", "region", "filter"}, default "position"
        Whether each output has its own bias, each set of `weight_sharing`, or each filter.
    kernel_mask : bool array, (P, K) or (P, K, F), optional
        Which connections exist.
    fans : {"keras", "window"}, default "keras"
        What scaled initializers take for fan_in and fan_out: "keras" all positions, which gives initial values far
        smaller than those of a convolution; "window" those of a window.
    **settings
        Of every layer: ``name``, ``trainable``, ``dtype``.

    Attributes
    ----------
    kernel : keras.Variable, (P, K, F)
        P = OH*OW positions; K = KH*KW*C in the order (row, column, channel).
    bias : keras.Variable, (OH, OW, F), (S, F) or (F,), or None
    spec : lcnumba.functional.Spec

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, a policy of mixed precision, and a kernel that does not fit the input.

    Examples
    --------
    >>> import keras
    >>> from lcnumba.keras import LocallyConnected2D
    >>> model = keras.Sequential([keras.Input((28, 28, 1)), LocallyConnected2D(8, 3, strides=2, activation="relu")])
    >>> model.output_shape, model.count_params()
    ((None, 13, 13, 8), 13520)
    """

    rank = 2


@keras.saving.register_keras_serializable(package="lcnumba")
class LocallyConnected1D(_LocallyConnected):
    """Locally connected layer for sequences: x (N, W, C), y (N, OW, F).

    Parameters and attributes are those of `LocallyConnected2D` with one dimension.

    Examples
    --------
    >>> import keras
    >>> from lcnumba.keras import LocallyConnected1D
    >>> LocallyConnected1D(4, 3, strides=2).compute_output_shape((None, 11, 5))
    (None, 5, 4)
    """

    rank = 1


@keras.saving.register_keras_serializable(package="lcnumba")
class LocallyConnected3D(_LocallyConnected):
    """Locally connected layer for volumes: x (N, D, H, W, C), y (N, OD, OH, OW, F).

    Parameters and attributes are those of `LocallyConnected2D` with three dimensions.

    Examples
    --------
    >>> import keras
    >>> from lcnumba.keras import LocallyConnected3D
    >>> LocallyConnected3D(4, (2, 3, 3), padding="same").compute_output_shape((None, 5, 6, 7, 1))
    (None, 5, 6, 7, 4)
    """

    rank = 3


@keras.saving.register_keras_serializable(package="lcnumba")
def hard_sigmoid(x: Any) -> Any:
    """Return the hard sigmoid of Keras 2, 0.2 x + 0.5 clipped to [0, 1]; Keras 3 has another of that name."""
    return ops.clip(0.2 * x + 0.5, 0, 1)


# --- files of Keras 2


class _LocallyConnectedTranspose(_LocallyConnected):
    """Base class of transposed layers for any spatial rank."""

    _map_name = "apply_transpose"
    _plain = (*_LocallyConnected._plain, "output_padding")

    def __init__(
        self, filters: int, kernel_size: Any, strides: Any = 1, padding: Any = "valid", output_padding: Any = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        super().__init__(filters, kernel_size, strides, padding, **settings)
        choice("bias_sharing", self.bias_sharing, ("position", "filter"))
        self.output_padding = output_paddings(output_padding, self.strides)

    def _make_spec(self, *arguments: Any, **settings: Any) -> Spec:
        return Spec.transposed(*arguments, output_padding=self.output_padding, **settings)

    def _output_of(self, spec: Spec) -> tuple[int, ...]:
        return spec.input_shape

    def _bias_shape(self, spec: Spec) -> tuple[int, ...]:
        return spec.input_shape[-1:] if self.bias_sharing == "filter" else spec.input_shape

    def _window_fans(self, spec: Spec) -> tuple[int, int]:
        window, channels = spec.kernel_shape[1:]
        return window // spec._geometry.tap_entries * channels // self.groups, window


@keras.saving.register_keras_serializable(package="lcnumba")
class LocallyConnected2DTranspose(_LocallyConnectedTranspose):
    """Transposed locally connected layer for images: every input position has its own weights, for decoders.

    Parameters
    ----------
    filters : int
        Filters F, the channels of the output.
    kernel_size, strides, padding, output_padding
        As in Keras' ``Conv2DTranspose``; `padding` may be what is cut off, (before, after) for each dimension.
    **settings
        The other parameters of `LocallyConnected2D`, by name; `weight_sharing` and `kernel_mask` are by input
        positions, and `bias_sharing` is "position" or "filter".

    Attributes
    ----------
    kernel : keras.Variable, (P, K, C)
        P = H*W positions of the input; K = KH*KW*F in the order (row, column, filter).
    bias : keras.Variable, (OH, OW, F) or (F,), or None
    spec : lcnumba.functional.Spec
        Of the layer of which this is the adjoint.

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, and an output whose windows are not as many as the inputs.

    Examples
    --------
    >>> from lcnumba.keras import LocallyConnected2DTranspose
    >>> LocallyConnected2DTranspose(3, 4, strides=2, padding="same").compute_output_shape((None, 7, 7, 8))
    (None, 14, 14, 3)
    """

    rank = 2


@keras.saving.register_keras_serializable(package="lcnumba")
class LocallyConnected1DTranspose(_LocallyConnectedTranspose):
    """Transposed locally connected layer for sequences: x (N, W, C), y (N, OW, F).

    Parameters and attributes are those of `LocallyConnected2DTranspose` with one dimension.

    Examples
    --------
    >>> from lcnumba.keras import LocallyConnected1DTranspose
    >>> LocallyConnected1DTranspose(4, 3, strides=2).compute_output_shape((None, 11, 5))
    (None, 23, 4)
    """

    rank = 1


@keras.saving.register_keras_serializable(package="lcnumba")
class LocallyConnected3DTranspose(_LocallyConnectedTranspose):
    """Transposed locally connected layer for volumes: x (N, D, H, W, C), y (N, OD, OH, OW, F).

    Parameters and attributes are those of `LocallyConnected2DTranspose` with three dimensions.

    Examples
    --------
    >>> from lcnumba.keras import LocallyConnected3DTranspose
    >>> LocallyConnected3DTranspose(2, 2, strides=2).compute_output_shape((None, 2, 3, 4, 1))
    (None, 4, 6, 8, 2)
    """

    rank = 3


@keras.saving.register_keras_serializable(package="lcnumba")
class LocallyDirected1D(keras.layers.Layer):
    """Layer of given connections, as GenNet's: from variants to genes, from genes to pathways; x (N, inputs, C).

    Parameters
    ----------
    mask, mask_shape
        The connections, as for `lcnumba.LocallyDirected1D`: a scipy.sparse matrix (inputs, outputs), the path of a file
        of `scipy.sparse.save_npz`, or pairs (input, output). They are part of the config, compressed.
    filters : int, default 1
        Filters F.
    activation, use_bias
        As in Keras' layers.
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer, \
kernel_constraint, bias_constraint
        Keras' own, by name or as objects; scaled initializers take fan_in and fan_out from the kernel's shape.
    **settings
        Of every layer: ``name``, ``trainable``, ``dtype``.

    Attributes
    ----------
    kernel : keras.Variable, (connections, C, F)
        In the order of outputs and, within an output, of inputs.
    bias : keras.Variable, (outputs, F), or None
    spec : lcnumba.functional.DirectedSpec

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter, a connection that is out of range or occurs twice.

    Examples
    --------
    >>> from lcnumba.keras import LocallyDirected1D
    >>> pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (5, 1)]
    >>> LocallyDirected1D(pairs, mask_shape=(6, 2)).compute_output_shape((None, 6, 1))
    (None, 2, 1)
    """

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
        **settings: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **settings)
        _check_policy(self)
        self.mask = Spec.from_text(mask).mask if _is_text(mask) else topology.get(mask, mask_shape)
        self.filters, self.use_bias = integer("filters", filters), boolean("use_bias", use_bias)
        self.activation = keras.activations.get(activation)
        _set_weight_settings(self, locals())
        self._map = _map_of_backend("apply")
        self.supports_jit = keras.backend.backend() != "tensorflow"
        self.input_spec = keras.InputSpec(ndim=3, axes={1: self.mask.shape[0]})

    def build(self, input_shape: Shape) -> None:
        """Create the weights for an input shape, (N, inputs, C)."""
        spec = self._spec_of(input_shape)
        self.spec, self._text = spec, spec.text
        self.kernel = self.add_weight(
            name="kernel", shape=spec.kernel_shape, initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer, constraint=self.kernel_constraint,
        )  # fmt: skip
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=spec.output_shape, initializer=self.bias_initializer,
                regularizer=self.bias_regularizer, constraint=self.bias_constraint,
            )  # fmt: skip
        self.input_spec = keras.InputSpec(ndim=3, axes={1: input_shape[1], 2: input_shape[2]})

    def call(self, inputs: Any) -> Any:
        """Return the output for a batch."""
        kernel = ops.convert_to_tensor(self.kernel)
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        y = self._map(inputs, kernel, bias, self._text)
        return y if self.activation is None else self.activation(y)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of the output for a shape of the input."""
        return (input_shape[0], *self._spec_of(input_shape).output_shape)

    def _spec_of(self, input_shape: Shape) -> DirectedSpec:
        if len(input_shape) != 3 or input_shape[1] != self.mask.shape[0] or input_shape[2] is None:
            raise ValueError(
                f"{self.name!r} is called on an input of shape {tuple(input_shape)}; give (batch, "
                f"{self.mask.shape[0]}, channels), the inputs of its mask"
            )
        return DirectedSpec(self.mask, input_shape[2], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of an equal layer, serialized."""
        config = super().get_config() | {"filters": self.filters, "use_bias": self.use_bias}
        config["mask"] = DirectedSpec(self.mask).text
        config["activation"] = keras.activations.serialize(self.activation)
        return config | _weight_settings(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return the layer of a config, which may be from a file: a path in it is not read."""
        if isinstance(mask := config.get("mask"), str) and not _is_text(mask):
            raise ValueError(f"the config has mask={mask!r:.80}, which is not the text of a DirectedSpec")
        return super().from_config(config)


def _is_text(mask: Any) -> bool:
    """Whether a mask is the text of a spec, as in a config, rather than a path."""
    return isinstance(mask, str) and mask[functional.DIGEST : functional.DIGEST + 1] == "{"


@public
def load_model(path: str | os.PathLike[str], model: Any = None) -> Any:
    """Load a model with locally connected layers that Keras 2 saved, or load weights into a model.

    Reads ``.keras`` archives and ``.h5`` models of Sequential and functional models, nested ones included, and weight
    files of both formats. The model predicts the same as in Keras 2. It is not compiled: Keras 2's ``compile`` settings
    and optimizer state are not read. A ``.keras`` file of Keras 3 is passed on to `keras.saving.load_model`.

    Parameters
    ----------
    path : path
        The file; its type is determined by its content.
    model : keras.Model, optional
        A built model to load weights into, with the same layers as the file, in the same order.

    Returns
    -------
    keras.Model
        The model, with the file's weights.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is not such a file, or does not fit; a given `model` is unchanged then.
    TypeError
        If the file has a layer that Keras 3 does not have.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import keras
    >>> import lcnumba as lc
    >>> from lcnumba.keras import LocallyConnected1D, load_model
    >>> model = keras.Sequential([keras.Input((5, 1)), LocallyConnected1D(2, 3)])
    >>> layer = lc.LocallyConnected1D(2, 3, input_shape=(5, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.weights.h5")
    ...     lc.save_keras_weights(lc.Sequential([layer]), path)  # or a file that Keras 2 wrote
    ...     model = load_model(path, model)
    """
    path = file_path(path)
    with KerasFile(path) as file:
        config, legacy = file.config(), file.legacy_layers()
        if (file.version or "2").partition(".")[0] not in ("1", "2") and model is None:
            return keras.saving.load_model(path)
        if model is None:
            if config is None:
                raise KerasFileError(
                    f"cannot create a model from {os.fspath(path)!r}: it holds only weights; give their model: "
                    "lcnumba.keras.load_model(path, model)"
                )
            with file.translate_errors():
                translated = _translated(config)
            model = keras.saving.deserialize_keras_object(translated)
        before = [ops.convert_to_numpy(weight) for weight in model.weights]
        try:
            if legacy is not None:
                with file.translate_errors():
                    _fill(model, [arrays for _, arrays in legacy if arrays])
            else:
                _fill_by_keras(model, path, config is not None)
        except BaseException:
            for weight, values in zip(model.weights, before, strict=True):
                weight.assign(values)
            raise
    return model


def _fill(model: Any, stored: list[list[StoredArray]]) -> None:
    """Set the weights of a model to those of a legacy file, in which a nested model is one layer."""
    layers = [(layer, [*layer.trainable_weights, *layer.non_trainable_weights]) for layer in model.layers]
    layers = [(layer, weights) for layer, weights in layers if weights]
    if len(layers) != len(stored):
        raise ValueError(f"it has weights of {len(stored)} layers; the model has {len(layers)} with weights")
    owners = {
        id(weight): (layer, number)
        for layer in model._flatten_layers()
        if isinstance(layer, _LocallyConnected)
        for number, weight in enumerate(layer.weights)
    }
    for (layer, weights), arrays in zip(layers, stored, strict=True):
        if len(weights) != len(arrays):
            raise ValueError(f"it has {len(arrays)} weights of layer {layer.name!r}, which has {len(weights)}")
        for weight, array in zip(weights, arrays, strict=True):
            owner, number = owners.get(id(weight), (None, 0))
            if owner is None:
                weight.assign(array.read(tuple(weight.shape)))
            else:
                weight.assign(owner._converted(_Numbered(array, number), number))


class _Numbered(StoredWeights):
    """One array, which is the kernel or the bias of a layer."""

    def __init__(self, array: StoredArray, number: int) -> None:
        super().__init__([array] * (number + 1))


def _fill_by_keras(model: Any, path: Path, is_model: bool) -> None:
    """Let Keras read the weights; it looks at the name of a file for its type."""
    suffix = ".keras" if is_model else ".weights.h5"
    if path.name.endswith(suffix):
        model.load_weights(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"model{suffix}")
        shutil.copyfile(path, copy)
        model.load_weights(copy)


_LAYERS = {kind.__name__: kind for kind in (LocallyConnected1D, LocallyConnected2D, LocallyConnected3D)}
_FUNCTIONAL = {
    "module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional",
}  # fmt: skip


def _translated(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a layer or model of Keras 2 as one of Keras 3."""
    name, settings = entry["class_name"], entry["config"]
    rest = {key: value for key, value in entry.items() if key not in ("build_config", "compile_config")}
    settings = (
        {"layers": settings} if isinstance(settings, list) else dict(settings)
    )  # as old versions of Keras wrote it
    policy = settings.get("dtype")
    if isinstance(policy, Mapping) and policy.get("class_name") == "Policy":
        settings["dtype"] = policy["config"]["name"]
    for key, value in settings.items():
        if key.endswith("activation") and _is_hard_sigmoid(value):
            settings[key] = keras.saving.serialize_keras_object(hard_sigmoid)
        elif key in ("layer", "backward_layer", "cell") and isinstance(value, Mapping):  # of wrappers
            settings[key] = _translated(value)
    shape = settings.pop("batch_input_shape", None)
    if "layers" in settings:
        layers = [_translated(layer) for layer in settings["layers"]]
        first = settings["layers"][0] if settings["layers"] else {}
        given = first.get("config", {}).get("batch_input_shape")
        if name == "Sequential" and given is not None and first["class_name"] != "InputLayer":
            layers.insert(0, _keras_entry("InputLayer", {"batch_shape": given}))
        settings["layers"] = layers
        if name != "Sequential":
            _renumber_calls(settings)
            return {**rest, **_FUNCTIONAL, "config": settings}
        return {**rest, "module": "keras", "registered_name": None, "config": settings}
    if name in _LAYERS:
        for text in translate_constraints(f"layer {settings.get('name')!r:.80}", settings, _LAYERS[name].rank):
            warn(text)
        registered = f"lcnumba>{name}"
        return {**rest, "module": None, "registered_name": registered, "config": settings}
    if name == "InputLayer":
        settings = {key: value for key, value in settings.items() if value or key == "name"}
        settings["batch_shape"] = shape
    axis = settings.get("axis")
    if isinstance(axis, list) and len(axis) == 1:  # of BatchNormalization
        settings["axis"] = axis[0]
    if name == "LeakyReLU" and "alpha" in settings:
        settings["negative_slope"] = settings.pop("alpha")
    registered = str(rest.get("registered_name") or name)
    if ">" in registered:  # a class of the user's, which Keras finds if it is registered here, too
        rest |= {"module": None, "class_name": registered.rpartition(">")[2], "registered_name": registered}
    elif str(rest.get("module") or "keras").partition(".")[0] in ("keras", "tf_keras", "tensorflow"):
        rest |= _keras_entry(name, settings)
    return {**rest, "config": settings}


def _renumber_calls(settings: dict[str, Any]) -> None:
    """Number the calls of inner models from 0, in place.

    In Keras 2 the first call of a model is that which made it. Keras 3 takes that into account for the outputs that are
    those of an inner functional model, and nowhere else.
    """
    models = {layer["config"]["name"]: layer for layer in settings["layers"] if "layers" in layer["config"]}

    def references(value: Any) -> Iterator[list[Any]]:
        """Lists [name of an inner model, number of its call, number of the tensor, ...], at any depth."""
        if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and value[0] in models:
            yield value
        if isinstance(value, list | Mapping):
            for inner in value.values() if isinstance(value, Mapping) else value:
                yield from references(inner)

    inputs = list(references([layer.get("inbound_nodes", []) for layer in settings["layers"]]))
    outputs = list(references(settings.get("output_layers", [])))
    for name, model in models.items():
        own = [reference for reference in (*inputs, *outputs) if reference[0] == name]
        first = min((reference[1] for reference in own), default=0)
        for reference in own:
            reference[1] -= first
            if model["class_name"] == "Functional" and any(reference is output for output in outputs):
                reference[1] += 1


def _keras_entry(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": name, "config": settings, "registered_name": None}


def _is_hard_sigmoid(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = value.get("config")
    return value == "hard_sigmoid"


def __dir__() -> list[str]:
    return __all__
