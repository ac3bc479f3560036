"""Weights of Keras' layers, converted to this library's and back."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

from lcnumba import activations
from lcnumba.bridges.keras2 import layouts
from lcnumba.bridges.keras2.files import Stored
from lcnumba.connectivity.geometry import Geometry
from lcnumba.layers.dense import Dense
from lcnumba.layers.locally_connected import LocallyConnected, LocallyConnected1D, LocallyConnected2D
from lcnumba.utils.arrays import as_numpy
from lcnumba.utils.keras_config import FORMATS
from lcnumba.utils.messages import public
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import choice, integer

__all__ = [
    "StoredWeights",
    "activation_name",
    "converted_weights",
    "export_weights",
    "exported_weights",
    "format_of",
    "import_weights",
    "softmax_over_width",
    "warn_of_softmax",
]


# How many times larger than in the file a kernel may become, unless it has few numbers all the same. A window clipped
# by "same" loses at most three quarters of its connections unless it is larger than the image.
MOST_CLIPPED, SMALL = 16, 1 << 22


@public
def import_weights(layer: Any, weights: list[Any], data_format: str | None = None) -> None:
    """Give a layer weights as Keras' layer of the same config stores them.

    Which of Keras' three implementations they come from follows from the number of the kernel's axes; ours
    has nothing to do with it. The layer is built if it knows its input shape.

    A warning tells if Keras' layer of the same config computes another function: softmax and log_softmax with
    channels_first, which are over the width there.

    Parameters
    ----------
    layer : LocallyConnected1D, LocallyConnected2D or Dense
        The layer.
    weights : list of arrays
        [kernel, bias] or [kernel], as Keras' ``get_weights`` returns them.
    data_format : {"channels_last", "channels_first"}, optional
        That of Keras' layer; by default the layer's own.

    Raises
    ------
    TypeError, ValueError
        If they do not fit, or the layer is one that Keras cannot have; nothing has changed then.
    RuntimeError
        If the layer knows no input shape.

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
    shape = _known_shape(_checked_layer(layer))
    warn_of_softmax([layer])
    values = converted_weights(layer, shape, _Given(given), format_of(layer, data_format))
    layer.ensure_built(shape)
    layer.set_weights(values)


@public
def export_weights(layer: Any, implementation: int | None = None, data_format: str | None = None) -> list[Array]:
    """Return a layer's weights as Keras' layer stores them, for its ``set_weights``.

    Parameters
    ----------
    layer : LocallyConnected1D, LocallyConnected2D or Dense
        A layer that has been built.
    implementation : {1, 2, 3}, optional
        That of Keras' layer; by default the layer's own, and 1 for "auto".
    data_format : {"channels_last", "channels_first"}, optional
        That of Keras' layer; by default the layer's own.

    Returns
    -------
    list of arrays
        [kernel, bias] or [kernel], fresh arrays.

    Raises
    ------
    TypeError, ValueError
        If the layer is one that Keras cannot have, or there is no such implementation or format; Keras has no
        implementation 1 with ``padding="same"``.
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
    if not _checked_layer(layer).built:
        raise RuntimeError(f"{layer.name!r} has no weights yet; call or build it first")
    kernel, *bias = layer.get_weights()
    if isinstance(layer, Dense):
        return [kernel, *bias]
    warn_of_softmax([layer])
    geometry = _geometry(layer, layer.input_shape)
    wanted = _implementation(layer) if implementation is None else integer("implementation", implementation)
    number = choice("implementation", wanted, (1, 2, 3))
    if number == 1 and layer.padding == "same":
        raise ValueError("Keras has no implementation 1 with padding='same'; give implementation=2 or 3")
    data_format = format_of(layer, data_format)
    stored = layouts.kernel_to_keras(kernel, geometry, number, data_format)
    return [stored, *(layouts.bias_to_keras(b, geometry, data_format) for b in bias)]


def warn_of_softmax(layers: Iterable[Any]) -> None:
    """Tell of layers whose like in Keras computes another function of the same weights."""
    for layer in layers:
        if isinstance(layer, LocallyConnected) and softmax_over_width(layer.activation, layer.data_format):
            warnings.warn(
                f"Keras' {activation_name(layer.activation)} with channels_first is over the width, and that of "
                f"{layer.name!r} over the channels: its layer of these weights computes another function. An "
                "Activation after a layer without one is over the width here, too",
                stacklevel=3,
            )


def softmax_over_width(activation: Any, data_format: str) -> bool:
    """Whether Keras takes an activation over the width where a layer here takes it over the channels."""
    return data_format == "channels_first" and isinstance(activation, activations.Softmax | activations.LogSoftmax)


def activation_name(activation: Any) -> str:
    """The name of an activation, for messages."""
    return str(activations.serialize(activation))


# --- layers


class _Given:
    """Arrays that a caller gave."""

    def __init__(self, arrays: list[Array]) -> None:
        self._arrays = arrays
        self.shapes = [array.shape for array in arrays]

    def read(self, number: int, shape: tuple[int, ...]) -> Array:
        """Return an array, if it has this shape."""
        array = self._arrays[number]
        if array.shape != shape:
            raise ValueError(f"weights[{number}] has shape {array.shape}; Keras' layer has {shape}")
        return array


class StoredWeights:
    """Arrays in a file."""

    def __init__(self, arrays: list[Stored]) -> None:
        self._arrays = arrays
        self.shapes = [array.shape for array in arrays]

    def read(self, number: int, shape: tuple[int, ...]) -> Array:
        """Return an array, if it has this shape."""
        return self._arrays[number].read(shape)


def converted_weights(layer: Any, shape: Shape, stored: _Given | StoredWeights, data_format: str) -> list[Array]:
    """Keras' weights of a layer in our form; shapes are compared before anything large is made."""
    wanted = list(layer.weight_shapes(shape).values())
    if len(stored.shapes) != len(wanted):
        raise ValueError(f"{len(stored.shapes)} arrays given; {layer.name!r} has {len(wanted)}")
    if isinstance(layer, Dense):
        return [stored.read(number, expected) for number, expected in enumerate(wanted)]
    geometry = _geometry(layer, shape)
    number = layouts.implementation_of(stored.shapes[0], geometry.rank)
    # A window far larger than its input has few weights in Keras' forms 2 and 3, and all of them in ours.
    size, ours = (int(np.prod(shape, dtype=object)) for shape in (stored.shapes[0], geometry.kernel_shape))
    if ours > max(MOST_CLIPPED * size, SMALL):
        raise ValueError(f"kernel has shape {stored.shapes[0]}, far too few numbers for {geometry.kernel_shape}")
    kernel = stored.read(0, layouts.kernel_shape(geometry, number, data_format))
    biases = [
        layouts.bias_from_keras(stored.read(n, geometry.bias_shape), geometry, data_format)
        for n in range(1, len(wanted))
    ]
    return [layouts.kernel_from_keras(kernel, geometry, number, data_format), *biases]


def _checked_layer(layer: Any) -> Any:
    if not isinstance(layer, LocallyConnected | Dense):
        raise TypeError(f"layer is a {type(layer).__name__}; give a locally connected or Dense layer")
    return layer


def _geometry(layer: Any, shape: Shape) -> Geometry:
    """The geometry of a layer that Keras can have."""
    if not isinstance(layer, LocallyConnected1D | LocallyConnected2D):
        raise TypeError(f"{layer!r} is no layer of Keras that has weights here; use get_weights and set_weights")
    geometry = layer._geometry_of(shape)
    beyond = {
        "dilation_rate": max(geometry.dilation) > 1,
        "padding": not isinstance(geometry.padding, str),
        "padding_mode": "circular" in geometry.padding_mode,
        "bias_sharing": layer.bias_sharing != "position",
        "kernel_mask": layer.kernel_mask is not None,
    }
    for name, used in beyond.items():
        if used:
            raise ValueError(f"Keras has no {name} for {layer.name!r}; use get_weights and set_weights")
    return geometry


def _known_shape(layer: Any) -> Shape:
    try:
        shape: Shape = layer.input_shape
    except AttributeError:
        raise RuntimeError(f"the input shape of {layer.name!r} is not known yet; build the layer first") from None
    return shape


def format_of(layer: Any, data_format: str | None) -> str:
    """The data format of weights of Keras: as given, or the layer's own."""
    own = getattr(layer, "data_format", FORMATS[0])
    found: str = choice("data_format", own if data_format is None else data_format, FORMATS)
    return found


def _implementation(layer: Any) -> int:
    return layer.implementation if isinstance(layer.implementation, int) else 1


def exported_weights(layer: Any, implementation: int | None) -> list[Array]:
    """The weights of any layer as Keras stores them; none of one without weights."""
    if isinstance(layer, LocallyConnected | Dense):
        return export_weights(layer, implementation)
    if layer.get_weights():
        raise TypeError(
            f"layer {layer.name!r} has weights that Keras does not know; only the library's own layers are written"
        )
    return []
