"""Weights and models of Keras: in, and out.

Keras' layers store their weights in three forms and two data formats (`lcnumba.layouts`); its files come in
two formats and a zip. Everything here converts to and from the one form that layers keep.
"""

import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lcnumba import activations, constraints, contents, defaults, io, layouts, named
from lcnumba.arrays import float_dtype, ingest
from lcnumba.checks import choice, file_path, integer
from lcnumba.defaults import FORMATS
from lcnumba.dense import Dense
from lcnumba.elementwise import Activation, Dropout
from lcnumba.flatten import Flatten
from lcnumba.geometry import Geometry
from lcnumba.interrupts import deferred
from lcnumba.keras_files import KerasFile, KerasFileError, Stored
from lcnumba.layer import LocallyConnected, LocallyConnected1D, LocallyConnected2D
from lcnumba.messages import install, public
from lcnumba.sequential import Sequential

__all__ = ["export_weights", "import_weights", "load_keras", "load_keras_weights", "save_keras_weights"]

Array = npt.NDArray[Any]
Shape = tuple[int | None, ...]

# How many times larger than in the file a kernel may become, unless it has few numbers all the same. A window clipped
# by "same" loses at most three quarters of its connections unless it is larger than the image.
MOST_CLIPPED, SMALL = 16, 1 << 22
# Characters of a path of a layer in a file, and of a setting in a line of text.
LONGEST_NAME, LONGEST_SHOWN = 1 << 12, 120


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
    given = [ingest(f"weights[{number}]", weight)[0] for number, weight in enumerate(weights)]
    shape = _known_shape(_checked_layer(layer))
    _warn_of_softmax([layer])
    converted = _converted(layer, shape, _Given(given), _format(layer, data_format))
    layer.ensure_built(shape)
    layer.set_weights(converted)


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
    _warn_of_softmax([layer])
    geometry = _geometry(layer, layer.input_shape)
    wanted = _implementation(layer) if implementation is None else integer("implementation", implementation)
    number = choice("implementation", wanted, (1, 2, 3))
    if number == 1 and layer.padding == "same":
        raise ValueError("Keras has no implementation 1 with padding='same'; give implementation=2 or 3")
    data_format = _format(layer, data_format)
    stored = layouts.kernel_to_keras(kernel, geometry, number, data_format)
    return [stored, *(layouts.bias_to_keras(b, geometry, data_format) for b in bias)]


@public
def load_keras(path: str | os.PathLike[str], model: Sequential | None = None) -> Sequential:
    """Read a model that Keras saved, or fill a model from a file of weights.

    Reads ``.keras`` archives and ``.h5`` models of ``Sequential``, and weight files of both formats. Nothing in
    the file is imported or executed, no link in it is followed. A model that is made from a file predicts what Keras'
    does; one with anything that has no exact counterpart here is refused, by name. What matters in training alone and
    has none (norm constraints of implementation 2, for instance) is left out with a warning. What ``compile`` was
    given in Keras, and the state of its optimizer, stay behind.

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
        Without h5py, which the extra ``keras`` brings.
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
    notes: list[str] = []
    with KerasFile(file_path(path)) as file:
        config = file.config()
        if model is None:
            if config is None:
                raise KerasFileError(
                    f"{os.fspath(path)!r} holds weights alone; give the model that they are for: "
                    "lcnumba.load_keras(path, model), in Python"
                )
            with file.refusing():
                filled, shape, notes = _model_of(config, file.version)
        else:
            filled, shape = _checked_model(model), model.input_shape
        with file.refusing():
            if model is not None and config is not None:
                _check_formats(config, model)
            plan = list(_weighted(filled, shape))
            stored = _by_order(file, filled, plan)
            converted = [
                _converted(layer, layer_shape, _InFile(arrays), _format(layer, None))
                for (layer, layer_shape), arrays in zip(plan, stored, strict=True)
            ]
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if model is not None:
        _warn_of_softmax([layer for layer, _ in plan])
        model.set_weights([array for arrays in converted for array in arrays])
        return model
    for (layer, layer_shape), arrays in zip(plan, converted, strict=True):
        layer.build_with(layer_shape, arrays)
    filled.build(shape)
    return filled


@public
def load_keras_weights(path: str | os.PathLike[str], layer_name: str) -> list[Array]:
    """Return the arrays of one layer from a file of a model of any architecture, for `import_weights`.

    Parameters
    ----------
    path : path
        A model or weight file of Keras.
    layer_name : str
        The layer's name, or its path within models inside the model, as "encoder/first"; the last part is enough where
        it is the only one. ``.weights.h5`` files know layers by class and number ("locally_connected2d_1"), or by
        the attribute that holds them; the user's own names are found through a ``.keras`` file's config.

    Returns
    -------
    list of arrays
        As the file has them.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ImportError
        Without h5py, which the extra ``keras`` brings.
    ValueError
        If it is no such file, has no layer of this name (what there is, is listed), or several; or if the layer has
        no weights.

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
        with file.refusing():
            entries = _entries_of(file)
        stored = _found(layer_name, entries).arrays
        with file.refusing():
            return [array.read(array.shape) for array in stored]


@public
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
        Without h5py, which the extra ``keras`` brings.
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
        raise ImportError(f"files of Keras need h5py: {install('keras')}") from error
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
    given = file_path(path)
    with deferred():  # what a signal raises is no fault of the file
        try:
            with io.ModelFile(given) as mine:
                lines = list(_ours(mine))
        except ValueError:
            if contents.described(given) == contents.OURS:  # and damaged
                raise
            lines = []  # the reader of Keras' files tells what it is
    if lines:
        yield from lines
        return
    with KerasFile(given) as file:
        config, first = file.config(), file.by_name()
        version = "" if file.version is None else f" {_shown(file.version)}"
        yield f"{'weights' if config is None else 'model'} of Keras{version}, {'first' if first else 'present'} format"
        with file.refusing():
            yield from [] if config is None else list(_verdicts(config, file.version))
            entries = _entries_of(file)
        for entry in entries:
            arrays = ", ".join(array.described for array in entry.arrays) or "none"
            name = entry.short if entry.place else entry.name
            also = "" if entry.name == name else f" ({_shown(entry.name)})"
            yield f"weights of {_shown(name)}{also}: {arrays}"


def _ours(file: io.ModelFile) -> Iterator[str]:
    """What a file of this library holds."""
    shapes = file.weight_shapes()
    total = sum(math.prod(size) for size in shapes)
    if file.config is None:
        yield "weights of lcnumba"
        for number, size in enumerate(shapes):
            yield f"weight {number}: {size}"
        yield f"numbers in all: {total:,}"
        return
    yield f"{'model' if file.training is None else 'checkpoint'} of lcnumba, {_shown(file.config.get('name'))}"
    shape = (None, *file.config["build_input_shape"][1:])
    yield f"input {_shown(shape)}"
    try:
        model = Sequential._unbuilt(file.config, None)
    except (TypeError, ValueError):
        model = None  # it has layers of users' own, of which no more is known than the file says
    yield from _our_layers(file.config["layers"], model, shape, "")
    yield f"weights: {', '.join(map(str, shapes)) or 'none'}; {total:,} numbers in all"
    if file.training is not None:
        progress = file.training["dict"]["progress"]["dict"]
        within = f", and {progress['batch']} batches of the next" if progress["batch"] else ""
        rate = "" if progress["lr"] is None else f", lr {progress['lr']}"
        yield _shown(f"training: {progress['epoch']} epochs{within}, {progress['step']} steps{rate}")
        for name, values in progress["history"]["dict"].items():
            yield _shown(f"last {name}: {values[-1] if values else 'none'}")


def _our_layers(entries: Any, model: Sequential | None, shape: Shape, within: str) -> Iterator[str]:
    """A line for each layer: what it is, its output and weights as far as they are known, and its settings."""
    layers: Iterable[Any] = [None] * len(entries) if model is None else model.layers
    for entry, layer in zip(entries, layers, strict=True):
        name = str(entry["config"].get("name"))
        sizes = ""
        if layer is not None:
            weights = list(layer.weight_shapes(shape).values()) if isinstance(layer, LocallyConnected | Dense) else []
            output = tuple(layer.compute_output_shape(shape))
            count = f", {sum(math.prod(size) for size in weights):,} numbers {weights}" if weights else ""
            sizes = f": output {output}{count}"
        yield f"layer {_shown(within + name)} ({_shown(entry['class_name'])}){_shown(sizes)}{_settings(entry)}"
        if entry["class_name"] == "Sequential":
            yield from _our_layers(entry["config"]["layers"], layer, shape, f"{within}{name}/")
        shape = shape if layer is None else output


def _settings(entry: Mapping[str, Any]) -> str:
    """The settings of a layer as text, but for what is usual, and its optimizer."""
    if entry["class_name"] == "Sequential":
        return ""
    usual = {"trainable": True, "use_bias": True, "activation": "linear", "data_format": "channels_last"}
    shown = [
        f"{key}={_brief(value)}"
        for key, value in entry["config"].items()
        if key not in ("name", "batch_input_shape") and value is not None and usual.get(key) != value
    ]
    if "optimizer" in entry:
        shown.append(f"optimizer={_brief(entry['optimizer'])}")
    elif "optimizer_left_out" in entry:
        shown.append(f"optimizer={_brief(entry['optimizer_left_out'])}, which the file does not hold")
    return _shown(f"; {', '.join(shown)}") if shown else ""


def _brief(value: Any) -> str:
    """A value of a config, short enough for a line."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict):
        text = f"{value.get('class_name')}({', '.join(f'{k}={v!r}' for k, v in value['config'].items())})"
    else:
        text = str(_sizes(value)) if isinstance(value, list) else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _sizes(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _verdicts(config: Mapping[str, Any], version: str | None) -> Iterator[str]:
    """A line for each layer of a config of Keras, and whether it can be loaded; and one for the whole."""
    for entry in _layer_entries(config) or []:
        name, cls = entry["config"].get("name"), entry["class_name"]
        try:
            made, notes = (None, []) if cls == "InputLayer" else _entry(entry, version)
            if made is not None:
                Sequential.from_config({"layers": [made]})
            verdict = "; ".join(["can be loaded", *notes])
        except Exception as error:  # noqa: BLE001 - whatever a config leads to is the verdict
            verdict = f"cannot be loaded: {str(error).removesuffix(_ADVICE).strip()}"
        yield f"layer {_shown(name)} ({_shown(cls)}): {_shown(verdict)}"
    try:
        _model_of(config, version)
        yield "as a whole: lcnumba.load_keras reads it"
    except Exception as error:  # noqa: BLE001
        yield f"as a whole it cannot be loaded: {_shown(str(error))}"


def _layer_entries(config: Mapping[str, Any]) -> list[Any] | None:
    """The entries of the layers in a config of a model of Keras; None if it has none."""
    inner = config.get("config")
    entries = inner.get("layers") if isinstance(inner, Mapping) else inner  # a list, as Keras once wrote it
    return entries if isinstance(entries, list) else None


# --- layers in a file, by name


class _Entry(NamedTuple):
    """A layer in a file: what users call it, what the file calls it in short, and in full."""

    name: str
    short: str
    place: str
    arrays: list[Stored]

    @property
    def called(self) -> tuple[str, ...]:
        """What it may be called, the surest first."""
        return self.name, self.short, self.place, self.name.rpartition("/")[2], self.short.rpartition("/")[2]


def _entries_of(file: KerasFile) -> list[_Entry]:
    """The layers of a file, those of models inside the model too."""
    layers = file.by_name()
    if layers is not None:
        return [entry for name, arrays in layers for entry in _split(name, arrays)]
    config, groups = file.config(), file.groups()
    names = {} if config is None else dict(_user_names(config, set(groups)))
    entries = []
    for group in groups:
        short = "/".join(part for part in group.split("/") if part != "layers") or group
        entries.append(_Entry(names.get(group, short), short, group, file.of_group(group)))
    return entries


def _split(name: str, arrays: list[Stored]) -> Iterator[_Entry]:
    """The layers of a group of Keras' first format, where a model inside the model is one group."""
    parts: dict[str, list[Stored]] = {}
    for array in arrays:
        parts.setdefault(array.label.rpartition("/")[0], []).append(array)
    if len(parts) <= 1:
        [inner] = parts or [""]
        yield _Entry(name, f"{name}/{inner.removeprefix(f'{name}/')}" if inner else name, "", arrays)
        return
    yield _Entry(name, name, "", [])
    for inner, own in parts.items():
        path = f"{name}/{inner.removeprefix(f'{name}/')}"
        yield _Entry(path, path, "", own)


def _found(name: str, entries: list[_Entry]) -> _Entry:
    """The layer of this name or path, or of the only path that ends so; an error if it has no weights of its own."""
    for way in range(5):
        found = [entry for entry in entries if entry.called[way] == name]
        if len(found) > 1:
            places = ", ".join(_shown(entry.place or entry.name) for entry in found)
            raise KerasFileError(f"there are {len(found)} layers {name!r}: give one of {places}")
        if found:
            break
    else:
        known = [entry.name for entry in entries if entry.arrays]
        raise KerasFileError(f"there is no layer {name!r}; there are {', '.join(map(_shown, known)) or 'none'}")
    [entry] = found
    if not entry.arrays:
        inner = [other.name for other in entries if other.arrays and other.name.startswith(f"{entry.name}/")]
        if inner:
            raise KerasFileError(f"{name!r} holds layers: give one of {', '.join(map(_shown, inner))}")
        raise KerasFileError(f"layer {name!r} has no weights")
    return entry


def _user_names(
    config: Mapping[str, Any], groups: set[str], place: str = "", name: str = ""
) -> Iterator[tuple[str, str]]:
    """Where layers of a config lie in the present format, and what users call them, those of models inside it too."""
    entries = _layer_entries(config)
    if entries is None:
        # A layer around another one, such as TimeDistributed.
        inner = config.get("config")
        around = inner.items() if isinstance(inner, Mapping) else ()
        found = [(f"{place}{key}", value) for key, value in around if f"{place}{key}" in groups]
    else:
        numbered = _groups([(str(entry["class_name"]), str(entry["config"]["name"])) for entry in entries])
        found = [(f"{place}layers/{numbered[str(entry['config']['name'])]}", entry) for entry in entries]
    for group, entry in found:
        path = f"{name}{entry['config']['name']}"
        if len(path) > LONGEST_NAME:
            raise ValueError(f"it has names of {len(path)} characters and more")
        if group in groups:
            yield group, path
            yield from _user_names(entry, groups, f"{group}/", f"{path}/")


def _shown(name: Any) -> str:
    """A name of a file for a terminal, which such names could otherwise command."""
    return str(name) if str(name).isprintable() and str(name).isascii() else ascii(name)


def _warn_of_softmax(layers: Iterable[Any]) -> None:
    """Tell of layers whose like in Keras computes another function of the same weights."""
    for layer in layers:
        if isinstance(layer, LocallyConnected) and _over_width(layer.activation, layer.data_format):
            warnings.warn(
                f"Keras' {_name_of(layer.activation)} with channels_first is over the width, and that of "
                f"{layer.name!r} over the channels: its layer of these weights computes another function. An "
                "Activation after a layer without one is over the width here, too",
                stacklevel=3,
            )


def _over_width(activation: Any, data_format: str) -> bool:
    """Whether Keras takes an activation over the width where a layer here takes it over the channels."""
    return data_format == "channels_first" and isinstance(activation, activations.Softmax | activations.LogSoftmax)


def _name_of(activation: Any) -> str:
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
_ADVICE = (
    "Make the network here, and fill its layers one by one: import_weights(layer, load_keras_weights(path, name)), by "
    "paths like 'outer/inner' for layers of models inside it"
)
# Modules of Keras' own classes, as its files name them; a function of its own is called by its name alone.
_PACKAGES = ("keras", "tf_keras", "tensorflow", "builtins")
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


def _model_of(config: Mapping[str, Any], version: str | None) -> tuple[Sequential, Shape, list[str]]:
    """The unbuilt model of a config of Keras, the shape of its input, and what must be said of it."""
    _check_origin("the model", {key: config.get(key) for key in ("class_name", "module", "registered_name")})
    if config.get("class_name") != "Sequential":
        raise ValueError(f"the model is a {config.get('class_name')!r:.80}, and only a Sequential is read. {_ADVICE}")
    inner = config["config"]
    inner = {"layers": inner} if isinstance(inner, list) else inner  # as Keras once wrote it
    shape = inner.get("build_input_shape")
    layers: list[dict[str, Any]] = []
    notes: list[str] = []
    for entry in inner["layers"]:
        declared = entry["config"].get("batch_input_shape") or (entry.get("build_config") or {}).get("input_shape")
        shape = shape if declared is None or layers else declared
        if entry["class_name"] == "InputLayer":
            _check_dtype(entry["config"], of_input=True)
            continue
        made, more = _entry(entry, version)
        layers.append(made)
        notes += more
    if shape is None:
        raise ValueError("its config names no input shape")
    model = Sequential.from_config({"name": inner.get("name"), "layers": layers})
    _check_rows(model, (None, *shape[1:]))
    return model, (None, *shape[1:]), notes


def _check_rows(model: Sequential, shape: Shape) -> None:
    """Raise if a Dense gets more than rows: Keras multiplies along the last axis."""
    for layer in model.layers:
        if isinstance(layer, Dense) and len(shape) != 2:
            raise ValueError(
                f"layer {layer.name!r} is a Dense on inputs of shape {shape}; here Dense takes rows (N, features), "
                f"after a Flatten. {_ADVICE}"
            )
        shape = tuple(layer.compute_output_shape(shape))


def _entry(entry: Mapping[str, Any], version: str | None) -> tuple[dict[str, Any], list[str]]:
    """A layer in a config of Keras, as ours, and what must be said of it; an error for what would not be the same."""
    name, settings = entry["class_name"], dict(entry["config"])
    called = f"layer {settings.get('name')!r:.80}"
    if name not in _CLASSES:
        raise ValueError(f"{called} is a {name!r:.80}; known here are {', '.join(_CLASSES)}. {_ADVICE}")
    _check_origin(called, entry)
    _check_dtype(settings)
    if settings.get("noise_shape") is not None:
        raise ValueError(f"{called} has a noise_shape, which Dropout does not have here")
    foreign = set(settings) - _KEYS.get(name, set(settings))
    if foreign:
        raise ValueError(f"{called} has settings that Keras' layer has not: {foreign!r:.200}")
    if name in _KEYS and not {"activation", "use_bias"} <= set(settings):
        raise ValueError(
            f"{called} lacks settings of Keras' {name}; it may be a class of somebody's with that name. {_ADVICE}"
        )
    for ignored in _IGNORED.get(name, ()):
        settings.pop(ignored, None)
    notes: list[str] = []
    if "activation" in settings:
        activation = activations.get(settings["activation"])
        if isinstance(activation, activations.HardSigmoid) and _major(version) >= 3:
            raise ValueError(
                f"{called} has the hard_sigmoid of Keras {version:.20}, relu6(x + 3) / 6; here it is that of Keras 2, "
                f"0.2 x + 0.5 between 0 and 1. {_ADVICE}"
            )
        if name.startswith("LocallyConnected") and _over_width(activation, _data_format(settings)):
            raise ValueError(
                f"{called} has {_name_of(activation)} with channels_first, which in Keras is over the width; that of a "
                f"layer here is over the channels. {_ADVICE}. A layer without activation, followed by "
                f"Activation({_name_of(activation)!r}), is the same as Keras' layer"
            )
    if name.startswith("LocallyConnected"):
        notes = _converted_constraints(called, settings, 1 if name.endswith("1D") else 2)
    return {"class_name": name, "config": settings}, notes


def _major(version: str | None) -> int:
    """The first number of a version; that of the Keras which has these layers if a file does not tell."""
    number = (version or "").partition(".")[0]
    return int(number) if number.isdecimal() and len(number) < 4 else 2


def _data_format(settings: Mapping[str, Any]) -> str:
    given = settings.get("data_format")
    return str(given).lower() if given is not None else defaults.data_format()


def _check_origin(called: str, entry: Any) -> None:
    """Raise if anything in an entry is a class of somebody's own, which may be called as one of Keras' is."""
    if isinstance(entry, list):
        for value in entry:
            _check_origin(called, value)
    if not isinstance(entry, Mapping):
        return
    if isinstance(entry.get("class_name"), str):
        module, registered = entry.get("module"), entry.get("registered_name")
        keras = isinstance(module, str) and module.partition(".")[0] in _PACKAGES
        if not keras and (isinstance(module, str) or isinstance(registered, str)):
            raise ValueError(
                f"{called} is, or has, a {entry['class_name']!r:.80} that is not Keras' own, but a class of somebody's "
                f"({str(registered or module)!r:.80}). {_ADVICE}"
            )
        if entry["class_name"] == "__lambda__":
            raise ValueError(
                f"{called} has a function as its activation, say, whose code is in the file and not run. {_ADVICE}"
            )
    for value in entry.values():
        _check_origin(called, value)


def _check_dtype(settings: Mapping[str, Any], of_input: bool = False) -> None:
    """Raise unless a layer computes in float32 or float64, or is an input of integers."""
    policy = settings.get("dtype")
    if isinstance(policy, Mapping):
        policy = (policy.get("config") or {}).get("name")
    if policy is None or (of_input and re.fullmatch("u?int[0-9]+|bool", str(policy))):
        return
    try:
        float_dtype(policy)
    except (TypeError, ValueError):
        raise ValueError(
            f"layer {settings.get('name')!r:.80} has dtype {policy!r:.80}; float32 and float64 are computed in here. "
            f"{_ADVICE}"
        ) from None


def _converted_constraints(called: str, settings: dict[str, Any], rank: int) -> list[str]:
    """Give norm constraints the axes that they have here, or leave them out; return what must be said of it.

    Keras' axes are those of its storage: with implementation 1 they are ours, and with 3 the one axis runs over all
    weights. With implementation 2 norms count numbers that belong to no connection. Of a bias with channels_first the
    axes do not fit to how its memory is used.
    """
    notes = []
    for part in ("kernel", "bias"):
        constraint = constraints.get(settings.get(f"{part}_constraint"))
        if not isinstance(constraint, constraints.Norm):
            continue
        axes = sorted(axis % (rank + 1) for axis in constraint._axes)
        number = settings.get("implementation", 1)
        if part == "kernel" and number == 3:
            config = named.config_of(constraint)
            settings["kernel_constraint"] = {**config, "config": {**config["config"], "axis": [0, 1, 2]}}
        elif (part == "kernel" and number == 2) or (
            part == "bias" and _data_format(settings) == "channels_first" and axes != list(range(rank + 1))
        ):
            settings[f"{part}_constraint"] = None
            how = "implementation 2" if part == "kernel" else "channels_first"
            notes.append(
                f"{called}: {part}_constraint {type(constraint).__name__} is left out: with {how} Keras takes norms "
                "over its own storage, which has no counterpart here. Predictions are the same. To train on, make the "
                "network here with the constraint that you want, and fill it: load_keras(path, model)"
            )
    return notes


def _check_formats(config: Mapping[str, Any], model: Sequential) -> None:
    """Raise if the layers that a model is filled from have another data format: their numbers lie in another order."""
    entries = _layer_entries(config) or []
    for kind in (("LocallyConnected1D", "LocallyConnected2D"), ("Flatten",)):
        theirs = [entry["config"] for entry in entries if entry["class_name"] in kind]
        mine = [layer.get_config() for layer in model.layers if type(layer).__name__ in kind]
        if len(theirs) != len(mine):
            continue  # Flatten may be done otherwise; of the others, shapes tell
        for there, here in zip(theirs, mine, strict=True):
            if _data_format(there) != here["data_format"]:
                raise ValueError(
                    f"layer {there.get('name')!r:.80} has data_format={_data_format(there)!r:.80} in the file, and "
                    f"{here['name']!r} has {here['data_format']!r}: the weights would be taken in another order. Make "
                    "the layer with the file's"
                )


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
        wanted = [f"layers/{groups[layer.name]}" for layer, _ in plan]
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
