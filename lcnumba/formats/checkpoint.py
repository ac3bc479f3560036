"""Checkpoints: a model file that also holds how far its training is, so that it can go on bit for bit.

The description is a tree of dicts, lists, tuples, arrays, numbers, strings and None, written without pickle: JSON,
with arrays as members of the file.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lcnumba.formats import contents, npz
from lcnumba.runtime.signals import deferred
from lcnumba.utils.random_state import restored_generator
from lcnumba.utils.types import Array

__all__ = ["check", "read", "write"]


def check(model: Any, progress: Any) -> None:
    """Raise a TypeError if a checkpoint could not be written: before the training, not after hours of it."""
    npz.as_text(model.get_config())
    npz.check_weights(model.live_weights())
    _encode({"layers": model.get_training_state(), "progress": progress}, [])


def write(path: str | os.PathLike[str], model: Any, progress: Any) -> None:
    """Write a model, the state of its layers' training, and what else must be known to go on.

    Weights and state are not copied first: nobody may step the model meanwhile.
    """
    arrays: list[Array] = []
    tree = _encode({"layers": model.get_training_state(), "progress": progress}, arrays)
    npz.write_model(path, model.get_config(), model.live_weights(), (tree, arrays))


def read(path: str | os.PathLike[str], model: Any, sample: tuple[int, ...] | None) -> tuple[Any, Callable[[], None]]:
    """Return the progress that a checkpoint holds, and the function that brings the model to it, or leaves it alone.

    A model that has weights has not changed until that function is called; one that has none is built, once the file is
    known to hold weights of the shapes that its own layers have.

    Parameters
    ----------
    path : path
        The file.
    model : Sequential
        Like the one that was trained.
    sample : tuple of int or None
        The shape of a sample that it is to be trained on, if that is known.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no checkpoint, or belongs to another model.
    """
    name = os.fspath(path)
    with npz.ModelFile(path) as file, deferred():  # what a signal raises is no fault of the file
        config = file.config
        if config is None or file.training is None:
            what = "weights alone; the model's load_weights reads them" if config is None else "a model and no training"
            raise ValueError(f"{name!r} holds {what}. To go on, give a file that Checkpoint wrote")
        try:
            different = _difference(json.loads(npz.as_text(model.get_config())), config)
            if different:
                raise ValueError(f"it belongs to another model: {different}")
            shape = (None, *config["build_input_shape"][1:])
            for known in (sample, model.input_shape[1:] if model.built else None):
                if known is not None and known != shape[1:]:
                    raise ValueError(f"it belongs to samples of shape {shape[1:]}, not {known}")
            weights = file.read_weights(model.weight_shapes(shape))
            tree = _decode(file.training, file.read_state)
            progress = _checked(tree["progress"])
            model.build(shape)
            prepared = model.prepare_training_state(tree["layers"])
        except Exception as error:
            if not contents.is_of_content(error):
                raise
            raise ValueError(f"cannot resume from {name!r}: {error}") from error

    def restore() -> None:
        before = model.get_training_state()
        prepared()
        try:
            model.set_weights(weights)
        except BaseException:
            model.prepare_training_state(before)()
            raise

    return progress, restore


def _checked(progress: Any) -> Any:
    """The progress of a training, if it is one."""
    counts = all(type(progress[name]) is int and progress[name] >= 0 for name in ("epoch", "batch", "samples", "step"))
    history, epochs, sums, lr = (progress[name] for name in ("history", "epochs", "sums", "lr"))
    fits = (
        counts
        and type(progress["finished"]) is bool
        and (lr is None or (isinstance(lr, float) and 0 <= lr < math.inf))
        and all(isinstance(value, float) for value in sums.values())
        and all(type(epoch) is int and epoch >= 0 for epoch in epochs)
        and all(isinstance(values, list) and len(values) == len(epochs) for values in history.values())
        and all(isinstance(value, float) for values in history.values() for value in values)
        and isinstance(progress["callbacks"], dict)
        and (progress["samples"] > 0) == (progress["batch"] > 0)
    )
    if not fits:
        raise ValueError("what it says of the training makes no sense")
    restored_generator(progress["rng"])
    return progress


# Characters of a value in a message.
LONGEST_SHOWN = 120


def _encode(value: Any, arrays: list[Array]) -> Any:
    """A tree as JSON values; its arrays are appended to the list."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and np.asarray(value).dtype.kind in "biuf":
        arrays.append(np.asarray(value))
        return {"array" if isinstance(value, np.ndarray) else "scalar": len(arrays) - 1}
    if type(value) is tuple:
        return {"tuple": [_encode(entry, arrays) for entry in value]}
    if type(value) is list:
        return [_encode(entry, arrays) for entry in value]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(entry, arrays) for key, entry in value.items()}}
    raise TypeError(
        f"{value!r}, part of the state of an optimizer, a layer or a callback, cannot be saved; such states are made "
        "of numbers, strings, None, NumPy arrays, and lists, tuples and dicts of them"
    )


def _decode(value: Any, array: Callable[[int], Array]) -> Any:
    """The tree that `_encode` wrote."""
    if isinstance(value, list):
        return [_decode(entry, array) for entry in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind in ("array", "scalar"):
        return array(content) if kind == "array" else array(content)[()]
    if kind == "tuple":
        return tuple(_decode(entry, array) for entry in content)
    if kind == "dict":
        return {key: _decode(entry, array) for key, entry in content.items()}
    raise ValueError(f"{kind!r} is no kind of value")


def _comparable(config: Any) -> Any:
    """A config without names, which differ from process to process, and without the shape it was built for."""
    if isinstance(config, dict):
        left_out = ("name", "build_input_shape")
        return {key: _comparable(entry) for key, entry in config.items() if key not in left_out}
    return [_comparable(entry) for entry in config] if isinstance(config, list | tuple) else config


def _difference(mine: Any, theirs: Any, place: str = "") -> str:
    """Where two models, given by their configs, first differ; empty if they do not."""
    layers, others = mine["layers"], theirs["layers"]
    classes = [[entry["class_name"] for entry in entries] for entries in (layers, others)]
    if classes[0] != classes[1]:
        here, there = (f"{len(names)} layers ({_shortened(', '.join(names))})" for names in classes)
        return f"{place or 'it'} has {here} here and {there} there"
    for number, (layer, other) in enumerate(zip(layers, others, strict=True)):
        own = f"layer {number} ({layer['class_name']} {layer['config'].get('name')!r:.80})"
        name = f"{own} in {place}" if place else own
        if layer["class_name"] == "Sequential":
            found = _difference(layer["config"], other["config"], name)
            if found:
                return found
            continue
        for key, a, b in _settings(layer, other):
            if _comparable(a) != _comparable(b):
                return f"{key} of {name} is {_shortened(a)} here and {_shortened(b)} there"
    return ""


def _settings(layer: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """What two layers of one class may differ in: the name of a setting, and what it is in each."""
    mine, theirs = (_comparable(entry["config"]) for entry in (layer, other))
    yield from ((key, mine.get(key), theirs.get(key)) for key in {**mine, **theirs})
    # Files of the first versions do not tell of optimizers that are not built in.
    here, there = (entry.get("optimizer", entry.get("optimizer_left_out")) for entry in (layer, other))
    if not (there is None and "optimizer_left_out" in layer):
        yield "optimizer", here, there


def _shortened(value: Any) -> str:
    """A value for a message: configs as calls, and no more than a line's part of anything."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict) and "class_name" in value:
        settings = ", ".join(f"{key}={entry!r}" for key, entry in value["config"].items())
        text = f"{value['class_name']}({settings})"
    else:
        text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
