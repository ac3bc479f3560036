"""Conversion of one layer's weights between Keras' layouts and this library's."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from lcnumba import activations
from lcnumba.bridges.keras2 import layouts
from lcnumba.bridges.keras2.files import StoredArray
from lcnumba.connectivity.geometry import Geometry
from lcnumba.layers.batch_normalization import BatchNormalization
from lcnumba.layers.convolution import Conv1D, Conv2D
from lcnumba.layers.dense import Dense
from lcnumba.layers.locally_connected import LocallyConnected, LocallyConnected1D, LocallyConnected2D
from lcnumba.utils.arrays import as_numpy
from lcnumba.utils.keras_config import FORMATS
from lcnumba.utils.messages import public
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import choice, integer

__all__ = [
    "GivenWeights",
    "StoredWeights",
    "activation_name",
    "convert_bias",
    "convert_kernel",
    "convert_weights",
    "export_weights",
    "import_weights",
    "is_softmax_over_width",
    "keras_weights",
    "resolve_data_format",
    "warn_softmax_axis",
]


# Layers whose weights have the same shapes in Keras, in either data format.
_SAME_WEIGHTS = Conv1D | Conv2D | Dense | BatchNormalization

# A kernel may become this many times larger than it is in the file, or up to this many elements. A window clipped by
# "same" loses at most three quarters of its connections, unless it is larger than the image.
MAX_EXPANSION, SMALL_KERNEL = 16, 1 << 22


@public
def import_weights(layer: Any, weights: list[Any], data_format: str | None = None) -> None:
    """Set a layer's weights from those of the same layer in Keras.

    The Keras implementation is inferred from the number of axes of the kernel; it need not be that of `layer`. The
    layer is built if it knows its input shape.

    A warning is issued if the Keras layer computes a different function: softmax and log_softmax with channels_first
    are over the width in Keras.

    Parameters
    ----------
    layer : LocallyConnected1D, LocallyConnected2D, Conv1D, Conv2D, Dense or BatchNormalization
        The layer.
    weights : list of arrays
        As Keras' ``get_weights`` returns them: [kernel, bias] or [kernel]; of a BatchNormalization [gamma, beta,
        moving_mean, moving_variance].
    data_format : {"channels_last", "channels_first"}, optional
        That of the Keras layer; by default the layer's own.

    Raises
    ------
    TypeError, ValueError
        If the weights do not fit, or the layer does not exist in Keras; the layer is unchanged then.
    RuntimeError
        If the layer's input shape is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected1D(1, 2, input_shape=(3, 1))
    >>> kernel, bias = np.array([1.0, 10.0, 100.0, 1000.0]), np.array([[0.0], [5.0]])  # of implementation 3
    >>> lc.import_weights(layer, [kernel, bias])
    >>> layer([[[1.0], [2.0], [3.0]]])[0, :, 0]
    array([  21., 3205.], dtype=float32)
    """
    if not isinstance(weights, list | tuple):
        raise TypeError(f"weights is a {type(weights).__name__}; give a list of arrays")
    given = [as_numpy(f"weights[{number}]", weight)[0] for number, weight in enumerate(weights)]
    shape = _input_shape(_check_layer(layer))
    warn_softmax_axis([layer])
    values = convert_weights(layer, shape, GivenWeights(given), resolve_data_format(layer, data_format))
    layer.ensure_built(shape)
    layer.set_weights(values)


@public
def export_weights(layer: Any, implementation: int | None = None, data_format: str | None = None) -> list[Array]:
    """Return a layer's weights in the layout of Keras, for ``set_weights`` of the Keras layer.

    Parameters
    ----------
    layer : LocallyConnected1D, LocallyConnected2D, Conv1D, Conv2D, Dense or BatchNormalization
        A built layer.
    implementation : {1, 2, 3}, optional
        That of the Keras layer; by default the layer's own, and 1 for "auto".
    data_format : {"channels_last", "channels_first"}, optional
        That of the Keras layer; by default the layer's own.

    Returns
    -------
    list of arrays
        As Keras' ``get_weights`` returns them, fresh arrays.

    Raises
    ------
    TypeError, ValueError
        If the layer does not exist in Keras, or the implementation or format is invalid; Keras has no implementation 1
        with ``padding="same"``.
    RuntimeError
        If the layer has not been built.

    Examples
    --------
    >>> import lcnumba as lc
    >>> layer = lc.LocallyConnected2D(2, 3, input_shape=(5, 5, 1))
    >>> layer.build((None, 5, 5, 1))
    >>> [lc.export_weights(layer, implementation)[0].shape for implementation in (1, 2, 3)]
    [(9, 9, 2), (5, 5, 1, 3, 3, 2), (162,)]
    """
    if not _check_layer(layer).built:
        raise RuntimeError(f"{layer.name!r} has not been built; call or build it first")
    warn_softmax_axis([layer])
    _check_has_implementations(layer, implementation)
    if isinstance(layer, _SAME_WEIGHTS):
        return list(layer.get_weights())
    kernel, *bias = layer.get_weights()
    geometry = _geometry(layer, layer.input_shape)
    wanted = _default_implementation(layer) if implementation is None else integer("implementation", implementation)
    number = choice("implementation", wanted, (1, 2, 3))
    if number == 1 and layer.padding == "same":
        raise ValueError("Keras has no implementation 1 with padding='same'; give implementation=2 or 3")
    data_format = resolve_data_format(layer, data_format)
    stored = layouts.kernel_to_keras(kernel, geometry, number, data_format)
    return [stored, *(layouts.bias_to_keras(b, geometry, data_format) for b in bias)]


def warn_softmax_axis(layers: Iterable[Any]) -> None:
    """Warn of layers whose Keras counterpart takes a softmax over another axis."""
    for layer in layers:
        if isinstance(layer, LocallyConnected | Conv1D | Conv2D) and is_softmax_over_width(
            layer.activation, layer.data_format
        ):
            warnings.warn(
                f"{activation_name(layer.activation)} with channels_first is over the width in Keras, but over the "
                f"channels in {layer.name!r}: with the same weights the outputs differ. For Keras' result, use a layer "
                "without activation, followed by an Activation layer",
                stacklevel=3,
            )


def is_softmax_over_width(activation: Any, data_format: str) -> bool:
    """Return whether Keras applies an activation over the width, and this library over the channels."""
    return data_format == "channels_first" and isinstance(activation, activations.Softmax | activations.LogSoftmax)


def activation_name(activation: Any) -> str:
    """Return the name of an activation, for messages."""
    return str(activations.serialize(activation))


# --- conversion of shapes and arrays


class GivenWeights:
    """Arrays given by the caller."""

    def __init__(self, arrays: list[Array]) -> None:
        self._arrays = arrays
        self.shapes = [array.shape for array in arrays]

    def read(self, number: int, shape: tuple[int, ...]) -> Array:
        """Return an array, if it has this shape."""
        array = self._arrays[number]
        if array.shape != shape:
            raise ValueError(f"weights[{number}] has shape {array.shape}; the Keras layer has {shape}")
        return array


class StoredWeights:
    """Arrays in a file, which are read one at a time."""

    def __init__(self, arrays: list[StoredArray]) -> None:
        self._arrays = arrays
        self.shapes = [array.shape for array in arrays]

    def read(self, number: int, shape: tuple[int, ...]) -> Array:
        """Return an array, if it has this shape."""
        return self._arrays[number].read(shape)


def convert_weights(layer: Any, shape: Shape, stored: GivenWeights | StoredWeights, data_format: str) -> list[Array]:
    """Convert the Keras weights of a layer; shapes are compared before large arrays are allocated."""
    wanted = list(layer.weight_shapes(shape).values())
    if len(stored.shapes) != len(wanted):
        raise ValueError(f"{len(stored.shapes)} arrays given; {layer.name!r} has {len(wanted)}")
    if isinstance(layer, _SAME_WEIGHTS):
        return [stored.read(number, expected) for number, expected in enumerate(wanted)]
    geometry = _geometry(layer, shape)
    kernel = convert_kernel(geometry, stored, 0, data_format)
    return [kernel, *(convert_bias(geometry, stored, number, data_format) for number in range(1, len(wanted)))]


def convert_kernel(geometry: Geometry, stored: GivenWeights | StoredWeights, number: int, data_format: str) -> Array:
    """Convert the kernel of a locally connected layer, the array of this number."""
    shape = stored.shapes[number]
    implementation = layouts.implementation_of(shape, geometry.rank)
    # With a window far larger than the input, Keras' implementations 2 and 3 store few of the weights that we store.
    size, ours = (int(np.prod(sizes, dtype=object)) for sizes in (shape, geometry.kernel_shape))
    if ours > max(MAX_EXPANSION * size, SMALL_KERNEL):
        raise ValueError(f"kernel has shape {shape}, too small for {geometry.kernel_shape}")
    kernel = stored.read(number, layouts.kernel_shape(geometry, implementation, data_format))
    return layouts.kernel_from_keras(kernel, geometry, implementation, data_format)


def convert_bias(geometry: Geometry, stored: GivenWeights | StoredWeights, number: int, data_format: str) -> Array:
    """Convert the bias of a locally connected layer, the array of this number."""
    return layouts.bias_from_keras(stored.read(number, geometry.bias_shape), geometry, data_format)


def _check_layer(layer: Any) -> Any:
    if not isinstance(layer, LocallyConnected | _SAME_WEIGHTS):
        raise TypeError(
            f"layer is a {type(layer).__name__}; give a locally connected layer, Conv1D, Conv2D, Dense or "
            "BatchNormalization"
        )
    return layer


def _check_has_implementations(layer: Any, implementation: Any) -> None:
    if implementation is not None and not isinstance(layer, LocallyConnected):
        raise ValueError(
            f"implementation={implementation!r} is given for {layer.name!r}, a {type(layer).__name__}, which has no "
            "implementations in Keras; leave it out"
        )


def _geometry(layer: Any, shape: Shape) -> Geometry:
    """Return the geometry of a layer that exists in Keras."""
    if not isinstance(layer, LocallyConnected1D | LocallyConnected2D):
        raise TypeError(f"{layer!r} does not exist in Keras; use get_weights and set_weights")
    geometry = layer._geometry_of(shape)
    not_in_keras = {
        "dilation_rate": max(geometry.dilation) > 1,
        f"padding={layer.padding!r}": geometry.padding not in ("valid", "same"),
        "padding_mode": "circular" in geometry.padding_mode,
        f"groups={geometry.groups}": geometry.groups > 1,
        "weight_sharing": geometry.sets is not None,
        f"bias_sharing={layer.bias_sharing!r}": layer.bias_sharing != "position",
        "kernel_mask": layer.kernel_mask is not None,
    }
    for name, used in not_in_keras.items():
        if used:
            raise ValueError(
                f"Keras 2 has no {name} for {layer.name!r}; use get_weights and set_weights, or lcnumba.keras with "
                "Keras 3"
            )
    return geometry


def _input_shape(layer: Any) -> Shape:
    try:
        shape: Shape = layer.input_shape
    except AttributeError:
        raise RuntimeError(f"the input shape of {layer.name!r} is unknown; build the layer first") from None
    return shape


def resolve_data_format(layer: Any, data_format: str | None) -> str:
    """Return the data format as given, or the layer's own."""
    own = getattr(layer, "data_format", FORMATS[0])
    resolved: str = choice("data_format", own if data_format is None else data_format, FORMATS)
    return resolved


def _default_implementation(layer: Any) -> int:
    return layer.implementation if isinstance(layer.implementation, int) else 1


def keras_weights(layer: Any, implementation: int | None) -> list[Array]:
    """Return the weights of any layer in the layout of Keras; empty for a layer without weights."""
    if isinstance(layer, LocallyConnected | _SAME_WEIGHTS):
        return export_weights(layer, implementation)
    _check_has_implementations(layer, implementation)
    if type(layer).__module__ == "lcnumba" and layer.get_weights():
        raise TypeError(
            f"layer {layer.name!r} is a {type(layer).__name__}, which does not exist in Keras 2; use model.save, or "
            "lcnumba.keras with Keras 3"
        )
    if layer.get_weights():
        raise TypeError(
            f"layer {layer.name!r} is a custom layer with weights; only built-in layers can be written for Keras"
        )
    return []
