"""Files of Keras' Sequential models: read, and filled with weights."""

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lcnumba.bridges.keras2.config import check_formats, group_names, model_of_config, shown, user_names
from lcnumba.bridges.keras2.files import KerasFile, KerasFileError, Stored
from lcnumba.bridges.keras2.weights import (
    StoredWeights,
    converted_weights,
    exported_weights,
    format_of,
    warn_of_softmax,
)
from lcnumba.layers.dense import Dense
from lcnumba.layers.locally_connected import LocallyConnected
from lcnumba.models.sequential import Sequential
from lcnumba.runtime.signals import deferred
from lcnumba.utils import files
from lcnumba.utils.messages import install, public
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import file_path

__all__ = [
    "entries_of",
    "load_keras",
    "load_keras_weights",
    "save_keras_weights",
]


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
                filled, shape, notes = model_of_config(config, file.version)
        else:
            filled, shape = _checked_model(model), model.input_shape
        with file.refusing():
            if model is not None and config is not None:
                check_formats(config, model)
            plan = list(_weighted(filled, shape))
            stored = _by_order(file, filled, plan)
            converted = [
                converted_weights(layer, layer_shape, StoredWeights(arrays), format_of(layer, None))
                for (layer, layer_shape), arrays in zip(plan, stored, strict=True)
            ]
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if model is not None:
        warn_of_softmax([layer for layer, _ in plan])
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
            entries = entries_of(file)
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
    arrays = {layer.name: exported_weights(layer, chosen.get(layer.name)) for layer in layers}
    write = _write_present if name.endswith(".weights.h5") else _write_first
    with files.atomic_write(name) as temporary, h5py.File(temporary, "w") as file:
        write(file, layers, arrays)


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


def entries_of(file: KerasFile) -> list[_Entry]:
    """The layers of a file, those of models inside the model too."""
    layers = file.by_name()
    if layers is not None:
        return [entry for name, arrays in layers for entry in _split(name, arrays)]
    config, groups = file.config(), file.groups()
    names = {} if config is None else dict(user_names(config, set(groups)))
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
            places = ", ".join(shown(entry.place or entry.name) for entry in found)
            raise KerasFileError(f"there are {len(found)} layers {name!r}: give one of {places}")
        if found:
            break
    else:
        known = [entry.name for entry in entries if entry.arrays]
        raise KerasFileError(f"there is no layer {name!r}; there are {', '.join(map(shown, known)) or 'none'}")
    [entry] = found
    if not entry.arrays:
        inner = [other.name for other in entries if other.arrays and other.name.startswith(f"{entry.name}/")]
        if inner:
            raise KerasFileError(f"{name!r} holds layers: give one of {', '.join(map(shown, inner))}")
        raise KerasFileError(f"layer {name!r} has no weights")
    return entry


def _checked_model(model: Any) -> Sequential:
    if not isinstance(model, Sequential):
        raise TypeError(f"model is a {type(model).__name__}; give a Sequential")
    if not model.built:
        raise RuntimeError(f"{model.name!r} has not been built; build it, or call it, first")
    return model


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
        groups = group_names([(type(layer).__name__, layer.name) for layer in _flat(model)])
        wanted = [f"layers/{groups[layer.name]}" for layer, _ in plan]
        rest = [name for name in file.groups() if name not in wanted and file.of_group(name)]
        if rest:
            raise ValueError(f"the file also has weights of {', '.join(rest)}, for which the model has no layer")
        found = [file.of_group(name) for name in wanted]
    if len(found) != len(plan):
        raise ValueError(f"the file has weights of {len(found)} layers; the model has {len(plan)} with weights")
    return found


def _write_present(file: Any, layers: list[Any], arrays: Mapping[str, list[Array]]) -> None:
    groups = group_names([(type(layer).__name__, layer.name) for layer in layers])
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
