"""Weights and models of Keras: in, and out.

Keras' layers store their weights in three forms and two data formats (`lcnumba.layouts`); its files come in
two formats and a zip. Everything here converts to and from the one form that layers keep.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba import io, layouts
from lcnumba.arrays import ingest
from lcnumba.checks import choice, file_path, integer
from lcnumba.defaults import FORMATS
from lcnumba.dense import Dense
from lcnumba.elementwise import Activation, Dropout
from lcnumba.flatten import Flatten
from lcnumba.geometry import Geometry
from lcnumba.interrupts import deferred
from lcnumba.keras_files import KerasFile, KerasFileError, Stored
from lcnumba.layer import LocallyConnected, LocallyConnected1D, LocallyConnected2D
from lcnumba.sequential import Sequential

__all__ = ["export_weights", "import_weights", "load_keras", "load_keras_weights", "save_keras_weights"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

# How many times larger than in the file a kernel may become, unless it has few numbers all the same. A window clipped
# by "same" loses at most three quarters of its connections unless it is larger than the image.
MOST_CLIPPED, SMALL = 16, 1 << 22


def import_weights(layer: Any, weights: list[Any], data_format: str | None = None) -> None:
    """Give a layer weights as Keras' layer of the same config stores them.

    Which of Keras' three implementations they come from follows from the number of the kernel's axes; ours
    has nothing to do with it. The layer is built if it knows its input shape.

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
    given = [ingest(f"weights[{number}]", weight)[0] for number, weight in enumerate(weights)]
    shape = _known_shape(_checked_layer(layer))
    converted = _converted(layer, shape, _Given(given), _format(layer, data_format))
    layer.ensure_built(shape)
    layer.set_weights(converted)


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
    geometry = _geometry(layer, layer.input_shape)
    wanted = _implementation(layer) if implementation is None else integer("implementation", implementation)
    number = choice("implementation", wanted, (1, 2, 3))
    if number == 1 and layer.padding == "same":
        raise ValueError("Keras has no implementation 1 with padding='same'; give implementation=2 or 3")
    data_format = _format(layer, data_format)
    stored = layouts.kernel_to_keras(kernel, geometry, number, data_format)
    return [stored, *(layouts.bias_to_keras(b, geometry, data_format) for b in bias)]


def load_keras(path: str | os.PathLike[str], model: Sequential | None = None) -> Sequential:
    """Read a model that Keras saved, or fill a model from a file of weights.

    Reads ``.keras`` archives and ``.h5`` models of ``Sequential``, and weight files of both formats. Nothing in
    the file is imported or executed, no link in it is followed.

    Parameters
    ----------
    path : path
        The file; its content decides what it is, not its name.
    model : Sequential, optional
        To be filled: as many layers with weights as the file has, in the same order. Without one, the
        model is made from the file's config.

    Returns
    -------
    Sequential
        The model, with the file's weights.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ImportError
        Without h5py (``pip install 'lcnumba[keras]'``).
    TypeError, RuntimeError
        If `model` is no Sequential, or one that has not been built.
    ValueError
        If it is no such file, has a layer that is not known here, or does not fit; a model that was given
        is unchanged then.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import lcnumba as lc
    >>> first, second = (lc.Sequential([lc.Dense(3, input_shape=(2,))]) for _ in range(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.weights.h5")
    ...     lc.save_keras_weights(first, path)  # or a file that Keras wrote
    ...     second = lc.load_keras(path, second)
    >>> np.array_equal(second([[1.0, 2.0]]), first([[1.0, 2.0]]))
    True
    """
    with KerasFile(file_path(path)) as file:
        if model is None:
            config = file.config()
            if config is None:
                raise KerasFileError(f"{os.fspath(path)!r} holds weights alone; give the model that they are for")
            with file.refusing():
                filled, shape = _model_of(config)
        else:
            filled, shape = _checked_model(model), model.input_shape
        with file.refusing():
            plan = list(_weighted(filled, shape))
            stored = _by_order(file, filled, plan)
            converted = [
                _converted(layer, layer_shape, _InFile(arrays), _format(layer, None))
                for (layer, layer_shape), arrays in zip(plan, stored, strict=True)
            ]
    if model is not None:
        model.set_weights([array for arrays in converted for array in arrays])
        return model
    for (layer, layer_shape), arrays in zip(plan, converted, strict=True):
        layer.build_with(layer_shape, arrays)
    filled.build(shape)
    return filled


def load_keras_weights(path: str | os.PathLike[str], layer_name: str) -> list[Array]:
    """Return the arrays of one layer from a file of a model of any architecture, for `import_weights`.

    Parameters
    ----------
    path : path
        A model or weight file of Keras.
    layer_name : str
        The layer's name. ``.weights.h5`` and ``.keras`` files know layers by class and number
        ("locally_connected2d_1"); the user's own names are found through a ``.keras`` file's config.

    Returns
    -------
    list of arrays
        As the file has them.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ImportError
        Without h5py (``pip install 'lcnumba[keras]'``).
    ValueError
        If it is no such file, or has no layer of this name.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import lcnumba as lc
    >>> model = lc.Sequential([lc.Dense(3, input_shape=(2,), name="scores")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.h5")
    ...     lc.save_keras_weights(model, path)  # or a file that Keras wrote
    ...     weights = lc.load_keras_weights(path, "scores")
    >>> lc.import_weights(model.layers[0], weights)
    >>> [array.shape for array in weights]
    [(2, 3), (3,)]
    """
    with KerasFile(file_path(path)) as file:
        layers = file.by_name()
        if layers is not None:
            found = dict(layers)
            if layer_name not in found:
                raise _no_layer(layer_name, found)
            stored = found[layer_name]
        else:
            config = file.config()
            with file.refusing():
                names = {} if config is None else _user_names(config)
            group = names.get(layer_name, layer_name)
            if group not in file.groups():
                raise _no_layer(layer_name, list(names) or file.groups())
            stored = file.of_group(group)
        with file.refusing():
            return [array.read(array.shape) for array in stored]


def save_keras_weights(
    model: Sequential, path: str | os.PathLike[str], implementations: Mapping[str, int] | None = None
) -> None:
    """Write the weights of a model to a file that ``load_weights`` of Keras' model of the same layers reads.

    Parameters
    ----------
    model : Sequential
        A model that has been built.
    path : path
        Ending in ``.weights.h5`` for Keras' present format, else in ``.h5`` for its first one. The file is
        complete or, if writing fails, as it was before.
    implementations : mapping of str to int, optional
        Keras' implementation of layers by name, where it is not the layer's own here.

    Raises
    ------
    OSError
        If the file cannot be written.
    ImportError
        Without h5py (``pip install 'lcnumba[keras]'``).
    TypeError, RuntimeError
        If it is no Sequential, has not been built, or has a layer with weights that Keras cannot have.
    ValueError
        If the path has another ending, `implementations` does not fit, or the model holds a model or a layer with
        settings that Keras does not have.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import lcnumba as lc
    >>> layers = [lc.LocallyConnected1D(2, 3, input_shape=(8, 1), name="snps"), lc.Flatten(), lc.Dense(1)]
    >>> model = lc.Sequential(layers)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.h5")
    ...     lc.save_keras_weights(model, path, implementations={"snps": 3})
    ...     kernel, bias = lc.load_keras_weights(path, "snps")
    >>> kernel.shape  # one number for each connection
    (36,)
    """
    try:
        with deferred():
            import h5py
    except ImportError as error:
        raise ImportError("files of Keras need h5py: pip install 'lcnumba[keras]'") from error
    name = str(file_path(path))
    if not name.endswith(".h5"):
        raise ValueError(f"path={name!r} must end in '.weights.h5' or '.h5', by which Keras tells its formats apart")
    if not isinstance(implementations, Mapping | None):
        raise TypeError(f"implementations={implementations!r} must be a dict of layers' names and numbers, or None")
    layers, chosen = _flat(_checked_model(model)), dict(implementations or {})
    if set(chosen) - {layer.name for layer in layers}:
        raise ValueError(f"implementations={chosen!r} names a layer that {model.name!r} does not have")
    arrays = {layer.name: _exported(layer, chosen.get(layer.name)) for layer in layers}
    write = _write_present if name.endswith(".weights.h5") else _write_first
    with io.replacing(name) as temporary, h5py.File(temporary, "w") as file:
        write(file, layers, arrays)


def described(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield lines that tell what a model file of Keras, or of this library, holds: no weight is read."""
    try:
        with io.ModelFile(path) as mine:
            config: Any = mine.config
        yield "model of lcnumba"
        yield from _entries(config)
        return
    except ValueError:
        pass  # not one of ours
    with KerasFile(file_path(path)) as file:
        config, layers = file.config(), file.by_name()
        yield f"{'weights' if config is None else 'model'} of Keras, {'present' if layers is None else 'first'} format"
        with file.refusing():
            yield from [] if config is None else list(_entries(config["config"]))
        if layers is None:
            layers = [(name, file.of_group(name)) for name in file.groups()]
        for name, arrays in layers:
            yield f"weights of {_shown(name)}: {', '.join(array.described for array in arrays) or 'none'}"


def _no_layer(name: str, known: Iterable[str]) -> KerasFileError:
    return KerasFileError(f"there is no layer {name!r}; there are {', '.join(map(_shown, known)) or 'none'}")


def _entries(config: Any) -> Iterator[str]:
    for entry in config if isinstance(config, list) else config["layers"]:
        yield f"layer {_shown(entry['config'].get('name'))} ({_shown(entry['class_name'])})"


def _shown(name: Any) -> str:
    """A name of a file for a terminal, which such names could otherwise command."""
    return str(name) if str(name).isprintable() and str(name).isascii() else ascii(name)


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


class _InFile:
    """Arrays in a file."""

    def __init__(self, arrays: list[Stored]) -> None:
        self._arrays = arrays
        self.shapes = [array.shape for array in arrays]

    def read(self, number: int, shape: tuple[int, ...]) -> Array:
        """Return an array, if it has this shape."""
        return self._arrays[number].read(shape)


def _converted(layer: Any, shape: Shape, stored: _Given | _InFile, data_format: str) -> list[Array]:
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


def _checked_model(model: Any) -> Sequential:
    if not isinstance(model, Sequential):
        raise TypeError(f"model is a {type(model).__name__}; give a Sequential")
    if not model.built:
        raise RuntimeError(f"{model.name!r} has not been built; build it, or call it, first")
    return model


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


def _format(layer: Any, data_format: str | None) -> str:
    own = getattr(layer, "data_format", FORMATS[0])
    found: str = choice("data_format", own if data_format is None else data_format, FORMATS)
    return found


def _implementation(layer: Any) -> int:
    return layer.implementation if isinstance(layer.implementation, int) else 1


def _exported(layer: Any, implementation: int | None) -> list[Array]:
    if isinstance(layer, LocallyConnected | Dense):
        return export_weights(layer, implementation)
    if layer.get_weights():
        raise TypeError(
            f"layer {layer.name!r} has weights that Keras does not know; only the library's own layers are written"
        )
    return []


# --- models

_CLASSES = {c.__name__: c for c in (Activation, Dense, Dropout, Flatten, LocallyConnected1D, LocallyConnected2D)}
_ADVICE = "Make the network here, and fill its layers one by one: import_weights(layer, load_keras_weights(path, name))"
_COMMON = {
    "name", "trainable", "dtype", "batch_input_shape", "activation", "use_bias", "kernel_initializer",
    "bias_initializer", "kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint",
    "bias_constraint",
}  # fmt: skip
_LOCAL = _COMMON | {"filters", "kernel_size", "strides", "padding", "data_format", "implementation"}
# All entries of Keras' configs: our layers take more, which is no business of a file.
_KEYS = {"Dense": _COMMON | {"units"}, "LocallyConnected1D": _LOCAL, "LocallyConnected2D": _LOCAL}
# Entries of Keras' configs that mean nothing here, by class.
_IGNORED = {
    "Activation": ("trainable", "dtype", "batch_input_shape"),
    "Dropout": ("trainable", "dtype", "batch_input_shape", "noise_shape"),
    "Flatten": ("trainable", "dtype", "batch_input_shape"),
}


def _model_of(config: Mapping[str, Any]) -> tuple[Sequential, Shape]:
    """The unbuilt model of a config of Keras, and the shape of its input."""
    if config.get("class_name") != "Sequential":
        raise ValueError(f"the model is a {config.get('class_name')!r:.80}, and only a Sequential is read. {_ADVICE}")
    inner = config["config"]
    inner = {"layers": inner} if isinstance(inner, list) else inner  # as Keras once wrote it
    shape = inner.get("build_input_shape")
    layers: list[dict[str, Any]] = []
    for entry in inner["layers"]:
        declared = entry["config"].get("batch_input_shape") or (entry.get("build_config") or {}).get("input_shape")
        shape = shape if declared is None or layers else declared
        if entry["class_name"] != "InputLayer":
            layers.append(_entry(entry))
    if shape is None:
        raise ValueError("its config names no input shape")
    made = {"name": inner.get("name"), "layers": layers}
    return Sequential.from_config(made), (None, *shape[1:])


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A layer in a config of Keras, as ours."""
    name, settings = entry["class_name"], dict(entry["config"])
    if name not in _CLASSES:
        raise ValueError(
            f"layer {settings.get('name')!r:.80} is a {name!r:.80}; known here are {', '.join(_CLASSES)}. {_ADVICE}"
        )
    if settings.get("noise_shape") is not None:
        raise ValueError(f"layer {settings.get('name')!r:.80} has a noise_shape, which Dropout does not have here")
    foreign = set(settings) - _KEYS.get(name, set(settings))
    if foreign:
        raise ValueError(f"layer {settings.get('name')!r:.80} has settings that Keras' layer has not: {foreign!r:.200}")
    for ignored in _IGNORED.get(name, ()):
        settings.pop(ignored, None)
    return {"class_name": name, "config": settings}


def _flat(model: Sequential) -> list[Any]:
    """The layers of a model without models inside it, of which Keras' files are other than one would think."""
    for layer in model.layers:
        if isinstance(layer, Sequential):
            raise ValueError(  # noqa: TRY004 - a layer like any other elsewhere
                f"{model.name!r} holds a model, {layer.name!r}; give the inner layers to one model"
            )
    return list(model.layers)


def _weighted(model: Sequential, shape: Shape) -> Iterator[tuple[Any, Shape]]:
    """The layers that have weights, each with its input shape."""
    for layer in _flat(model):
        if isinstance(layer, LocallyConnected | Dense):
            yield layer, shape
        shape = tuple(layer.compute_output_shape(shape))


def _by_order(file: KerasFile, model: Sequential, plan: list[tuple[Any, Shape]]) -> list[list[Stored]]:
    """The arrays in the file of each layer of the plan."""
    layers = file.by_name()
    if layers is not None:
        found = [arrays for _, arrays in layers if arrays]
    else:
        groups = _groups([(type(layer).__name__, layer.name) for layer in _flat(model)])
        wanted = [groups[layer.name] for layer, _ in plan]
        rest = [name for name in file.groups() if name not in wanted and file.of_group(name)]
        if rest:
            raise ValueError(f"the file also has weights of {', '.join(rest)}, for which the model has no layer")
        found = [file.of_group(name) for name in wanted]
    if len(found) != len(plan):
        raise ValueError(f"the file has weights of {len(found)} layers; the model has {len(plan)} with weights")
    return found


def _groups(layers: list[tuple[str, str]]) -> dict[str, str]:
    """What Keras' present format calls layers, given by class and name: by class, numbered."""
    counts: dict[str, int] = {}
    groups = {}
    for cls, name in layers:
        base = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", cls)).lower()
        number = counts.get(base, 0)
        counts[base] = number + 1
        groups[name] = f"{base}_{number}" if number else base
    return groups


def _user_names(config: Mapping[str, Any]) -> dict[str, str]:
    """The users' names of the layers of a config, and what the present format calls them."""
    inner = config["config"]
    entries = inner if isinstance(inner, list) else inner["layers"]
    return _groups([(str(entry["class_name"]), str(entry["config"]["name"])) for entry in entries])


def _write_present(file: Any, layers: list[Any], arrays: Mapping[str, list[Array]]) -> None:
    groups = _groups([(type(layer).__name__, layer.name) for layer in layers])
    for layer in layers:
        stored = file.create_group(f"layers/{groups[layer.name]}/vars")
        for number, array in enumerate(arrays[layer.name]):
            stored.create_dataset(str(number), data=array)
    file.create_group("vars")


def _write_first(file: Any, layers: list[Any], arrays: Mapping[str, list[Array]]) -> None:
    for layer in layers:
        if not set(layer.name).isdisjoint("/\0") or layer.name in (".", "..", "model_weights"):
            raise ValueError(
                f"layer {layer.name!r} cannot be written to Keras' first format under this name; rename it"
            )
    file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
    file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.3.0"
    for layer in layers:
        group = file.create_group(layer.name)
        names = [f"{layer.name}/{part}:0" for part in ("kernel", "bias")[: len(arrays[layer.name])]]
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, arrays[layer.name], strict=True):
            group.create_dataset(name, data=array)
