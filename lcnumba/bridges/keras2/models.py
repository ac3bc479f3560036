"""Loading Sequential models and weights from Keras files, and saving weights for Keras."""

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from lcnumba.bridges.keras2.config import check_data_formats, model_from_config
from lcnumba.bridges.keras2.files import KerasFile, KerasFileError, StoredArray
from lcnumba.bridges.keras2.names import find_entry, group_names, read_entries
from lcnumba.bridges.keras2.weights import (
    StoredWeights,
    convert_weights,
    keras_weights,
    resolve_data_format,
    warn_softmax_axis,
)
from lcnumba.layers.base import Trainable
from lcnumba.models.sequential import Sequential
from lcnumba.runtime.signals import deferred
from lcnumba.utils import files
from lcnumba.utils.messages import install, public
from lcnumba.utils.types import Array, Shape
from lcnumba.utils.validation import file_path

__all__ = ["load_keras", "load_keras_weights", "save_keras_weights"]


@public
def load_keras(path: str | os.PathLike[str], model: Sequential | None = None) -> Sequential:
    """Load a Sequential model that Keras saved, or load weights into a model.

    Reads ``.keras`` archives and ``.h5`` models of ``Sequential``, and weight files of both formats. Nothing in the
    file is imported or executed, and no link is followed. A model that is created from a file makes the same
    predictions as in Keras; a setting without an exact counterpart raises an error that names it. Settings that affect
    only training and have no counterpart (norm constraints of implementation 2, for instance) are omitted with a
    warning. Keras' ``compile`` settings and optimizer state are not read.

    Parameters
    ----------
    path : path
        The file; its type is determined by its content, not its name.
    model : Sequential, optional
        The model to load weights into, with the same layers with weights as the file, in the same order. By default a
        model is created from the file's config.

    Returns
    -------
    Sequential
        The model, with the file's weights.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ImportError
        If h5py is not installed; the extra ``keras`` installs it.
    TypeError, RuntimeError
        If `model` is not a Sequential, or has not been built.
    ValueError
        If it is not such a file, has an unsupported layer, or does not fit; a given `model` is unchanged then.

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
                    f"cannot create a model from {os.fspath(path)!r}: it holds only weights; give their model: "
                    "lcnumba.load_keras(path, model) in Python"
                )
            with file.translate_errors():
                filled, shape, notes = model_from_config(config, file.version)
        else:
            filled, shape = _check_model(model), model.input_shape
        with file.translate_errors():
            if model is not None and config is not None:
                check_data_formats(config, model)
            plan = list(_weighted_layers(filled, shape))
            stored = _arrays_in_order(file, filled, plan)
            converted = [
                convert_weights(layer, layer_shape, StoredWeights(arrays), resolve_data_format(layer, None))
                for (layer, layer_shape), arrays in zip(plan, stored, strict=True)
            ]
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if model is not None:
        warn_softmax_axis([layer for layer, _ in plan])
        model.set_weights([array for arrays in converted for array in arrays])
        return model
    for (layer, layer_shape), arrays in zip(plan, converted, strict=True):
        layer.build_with(layer_shape, arrays)
    filled.build(shape)
    return filled


@public
def load_keras_weights(path: str | os.PathLike[str], layer_name: str) -> list[Array]:
    """Return the weights of one layer from a file of any Keras model, for `import_weights`.

    Parameters
    ----------
    path : path
        A model or weight file of Keras.
    layer_name : str
        The layer's name, or its path in nested models, such as "encoder/first"; the last part is sufficient if it is
        unique. ``.weights.h5`` files name layers by class and number ("locally_connected2d_1"), or by attribute; the
        user's names are read from the config of a ``.keras`` file.

    Returns
    -------
    list of arrays
        In the layout of the file.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ImportError
        If h5py is not installed; the extra ``keras`` installs it.
    ValueError
        If it is not such a file, has no layer or several layers of this name (the message lists them), or if the layer
        has no weights.

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
        with file.translate_errors():
            entries = read_entries(file)
        stored = find_entry(layer_name, entries).arrays
        with file.translate_errors():
            return [array.read(array.shape) for array in stored]


@public
def save_keras_weights(
    model: Sequential, path: str | os.PathLike[str], implementations: Mapping[str, int] | None = None
) -> None:
    """Save the weights of a model to a file for ``load_weights`` of a Keras model with the same layers.

    Parameters
    ----------
    model : Sequential
        A built model.
    path : path
        Must end in ``.weights.h5``, for Keras' v3 format, or ``.h5``, for the legacy format. tf_keras loads the v3
        format into models that have not been trained yet. If writing fails, an existing file is unchanged.
    implementations : mapping of str to int, optional
        The implementation of layers in Keras by name; by default the layer's own.

    Raises
    ------
    OSError
        If the file cannot be written.
    ImportError
        If h5py is not installed; the extra ``keras`` installs it.
    TypeError, RuntimeError
        If `model` is not a Sequential, has not been built, or has a custom layer with weights.
    ValueError
        If the path has another suffix, `implementations` does not fit, or the model has a nested model or a layer with
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
    >>> kernel.shape  # a weight for each connection
    (36,)
    """
    try:
        with deferred():
            import h5py
    except ImportError as error:
        raise ImportError(f"Keras files need h5py: {install('keras')}") from error
    name = str(file_path(path))
    if not name.endswith(".h5"):
        raise ValueError(f"path={name!r} must end in '.weights.h5' or '.h5', which selects the format in Keras")
    if not isinstance(implementations, Mapping | None):
        raise TypeError(f"implementations={implementations!r} must be a dict of layer name to 1, 2 or 3, or None")
    layers, chosen = _flat_layers(_check_model(model)), dict(implementations or {})
    if set(chosen) - {layer.name for layer in layers}:
        raise ValueError(f"implementations={chosen!r} names a layer that {model.name!r} does not have")
    arrays = {layer.name: keras_weights(layer, chosen.get(layer.name)) for layer in layers}
    write = _write_v3 if name.endswith(".weights.h5") else _write_legacy
    with files.atomic_write(name) as temporary, h5py.File(temporary, "w") as file:
        write(file, layers, arrays)


def _check_model(model: Any) -> Sequential:
    if not isinstance(model, Sequential):
        raise TypeError(f"model is a {type(model).__name__}; give a Sequential")
    if not model.built:
        raise RuntimeError(f"{model.name!r} has not been built; call or build it first")
    return model


def _flat_layers(model: Sequential) -> list[Any]:
    """Return the layers of a model; an error for nested models, which Keras stores differently."""
    for layer in model.layers:
        if isinstance(layer, Sequential):
            raise ValueError(  # noqa: TRY004 - elsewhere a model is a valid layer
                f"{model.name!r} has a nested model, {layer.name!r}; give a model without nesting"
            )
    return list(model.layers)


def _weighted_layers(model: Sequential, shape: Shape) -> Iterator[tuple[Any, Shape]]:
    """Yield the layers with weights, and their input shapes."""
    for layer in _flat_layers(model):
        if isinstance(layer, Trainable):
            yield layer, shape
        shape = tuple(layer.compute_output_shape(shape))


def _arrays_in_order(file: KerasFile, model: Sequential, plan: list[tuple[Any, Shape]]) -> list[list[StoredArray]]:
    """Return the arrays in the file for each layer of the plan."""
    layers = file.legacy_layers()
    if layers is not None:
        found = [arrays for _, arrays in layers if arrays]
    else:
        groups = group_names([(type(layer).__name__, layer.name) for layer in _flat_layers(model)])
        wanted = [f"layers/{groups[layer.name]}" for layer, _ in plan]
        rest = [name for name in file.groups() if name not in wanted and file.arrays_of(name)]
        if rest:
            raise ValueError(f"the file also has weights of {', '.join(rest)}, which the model does not have")
        found = [file.arrays_of(name) for name in wanted]
    if len(found) != len(plan):
        raise ValueError(f"the file has weights of {len(found)} layers; the model has {len(plan)} with weights")
    return found


def _write_v3(file: Any, layers: list[Any], arrays: Mapping[str, list[Array]]) -> None:
    groups = group_names([(type(layer).__name__, layer.name) for layer in layers])
    for layer in layers:
        stored = file.create_group(f"layers/{groups[layer.name]}/vars")
        for number, array in enumerate(arrays[layer.name]):
            stored.create_dataset(str(number), data=array)
    file.create_group("vars")


def _write_legacy(file: Any, layers: list[Any], arrays: Mapping[str, list[Array]]) -> None:
    for layer in layers:
        if not set(layer.name).isdisjoint("/\0") or layer.name in (".", "..", "model_weights"):
            raise ValueError(f"layer {layer.name!r} cannot be written to the legacy format under this name; rename it")
    file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
    file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.3.0"
    for layer in layers:
        group = file.create_group(layer.name)
        parts = layer.weight_shapes(layer.input_shape) if isinstance(layer, Trainable) else ()
        names = [f"{layer.name}/{part}:0" for part in parts]
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name, array in zip(names, arrays[layer.name], strict=True):
            group.create_dataset(name, data=array)
