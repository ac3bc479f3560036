"""Checkpoints: a model file that also holds the training state, so that training resumes bit for bit.

The state is a tree of dicts, lists, tuples, arrays, numbers, strings and None. It is written as JSON, without pickle;
arrays are members of the file.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lcnumba.formats import contents, npz
from lcnumba.runtime.signals import deferred
from lcnumba.utils.random_state import restore_generator
from lcnumba.utils.types import Array

__all__ = ["check", "read", "write"]


def check(model: Any, progress: Any) -> None:
    """Raise a TypeError if a checkpoint could not be written; for use before training."""
    npz.to_json(model.get_config())
    npz.check_weights(model.live_weights())
    _encode({"layers": model.get_training_state(), "progress": progress}, [])


def write(path: str | os.PathLike[str], model: Any, progress: Any) -> None:
    """Write a model, the training state of its layers, and the progress of the training.

    Weights and state are not copied first: the model must not be trained meanwhile.
    """
    arrays: list[Any] = []
    tree = _encode({"layers": model.get_training_state(), "progress": progress}, arrays)
    npz.write_model(path, model.get_config(), model.live_weights(), (tree, arrays))


def read(path: str | os.PathLike[str], model: Any, sample: tuple[int, ...] | None) -> tuple[Any, Callable[[], None]]:
    """Return the progress in a checkpoint, and a function that restores the model's state, or leaves it unchanged.

    A built model does not change until that function is called. An unbuilt one is built, after the shapes of the file's
    weights have been checked.

    Parameters
    ----------
    path : path
        The file.
    model : Sequential
        A model with the same layers as the one that was trained.
    sample : tuple of int or None
        The shape of a sample of the training data, if known.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not a checkpoint, or belongs to another model.
    """
    name = os.fspath(path)
    with npz.ModelFile(path) as file, deferred():  # an error of a signal handler is not the file's
        config = file.config
        if config is None or file.training is None:
            what = "only weights; read them with load_weights" if config is None else "a model without training state"
            raise ValueError(f"cannot resume from {name!r}: it holds {what}; give a file that Checkpoint wrote")
        try:
            arrays: list[Array] = []
            mine = npz.from_json(npz.to_json(model.get_config(), arrays), arrays.__getitem__)
            different = _difference(mine, config)
            if different:
                raise ValueError(f"it belongs to a different model: {different}")
            shape = (None, *config["build_input_shape"][1:])
            for known in (sample, model.input_shape[1:] if model.built else None):
                if known is not None and known != shape[1:]:
                    raise ValueError(f"it was trained on samples of shape {shape[1:]}, not {known}")
            weights = model.share.read_weights(file, model.weight_shapes(shape))
            tree = _decode(file.training, model.share.stored(file))
            progress = _validate_progress(model.share.loaded(tree["progress"]))
            model.build(shape)
            prepared = model.plan_training_state(tree["layers"])
        except Exception as error:
            if not contents.is_content_error(error):
                raise
            raise ValueError(f"cannot resume from {name!r}: {error}") from error

    def restore() -> None:
        before = model.get_training_state()
        prepared()
        try:
            model.share.set_weights(model, weights)
        except BaseException:
            model.plan_training_state(before)()
            raise

    return progress, restore


def _validate_progress(progress: Any) -> Any:
    """Return the progress of a training; a ValueError if it is not valid."""
    counts = all(type(progress[name]) is int and progress[name] >= 0 for name in ("epoch", "batch", "samples", "step"))
    history, epochs, sums, lr = (progress[name] for name in ("history", "epochs", "sums", "lr"))
    valid = (
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
    if not valid:
        raise ValueError("its training state is invalid")
    restore_generator(progress["rng"])
    return progress


# Characters of a value in a message.
MAX_SHOWN = 120


def _encode(value: Any, arrays: list[Any]) -> Any:
    """Return a tree as JSON values, and append its arrays to `arrays`."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and np.asarray(value).dtype.kind in "biuf":
        arrays.append(np.asarray(value))
        return {"array" if isinstance(value, np.ndarray) else "scalar": len(arrays) - 1}
    if isinstance(value, npz.Streamed):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if type(value) is tuple:
        return {"tuple": [_encode(entry, arrays) for entry in value]}
    if type(value) is list:
        return [_encode(entry, arrays) for entry in value]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(entry, arrays) for key, entry in value.items()}}
    raise TypeError(
        f"{value!r}, part of the state of an optimizer, layer or callback, cannot be saved; use numbers, strings, "
        "None, NumPy arrays, and lists, tuples and dicts of them"
    )


def _decode(value: Any, array: Callable[[int], Array]) -> Any:
    """Return the tree that `_encode` encoded."""
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
    raise ValueError(f"{kind!r} is not a known type of value")


def _comparable(config: Any) -> Any:
    """Return a config without names, which depend on the process, and without the build shape; digests of arrays."""
    if isinstance(config, dict):
        left_out = ("name", "build_input_shape")
        return {key: _comparable(entry) for key, entry in config.items() if key not in left_out}
    if isinstance(config, np.ndarray):
        return f"{config.dtype} {config.shape} {hashlib.blake2b(config.tobytes(), digest_size=8).hexdigest()}"
    return [_comparable(entry) for entry in config] if isinstance(config, list | tuple) else config


def _difference(mine: Any, theirs: Any, parent: str = "") -> str:
    """Describe the first difference of two model configs; empty if there is none."""
    layers, others = mine["layers"], theirs["layers"]
    classes = [[entry["class_name"] for entry in entries] for entries in (layers, others)]
    if classes[0] != classes[1]:
        here, there = (f"{len(names)} layers ({_shorten(', '.join(names))})" for names in classes)
        return f"{parent or 'it'} has {here} here and {there} in the file"
    for number, (layer, other) in enumerate(zip(layers, others, strict=True)):
        own = f"layer {number} ({layer['class_name']} {layer['config'].get('name')!r:.80})"
        name = f"{own} in {parent}" if parent else own
        if layer["class_name"] == "Sequential":
            found = _difference(layer["config"], other["config"], name)
            if found:
                return found
            continue
        for key, a, b in _settings(layer, other):
            if _comparable(a) != _comparable(b):
                return f"{key} of {name} is {_shorten(a)} here and {_shorten(b)} in the file"
    return ""


def _settings(layer: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, here, in the file) for each setting of two layers of one class."""
    mine, theirs = (_comparable(entry["config"]) for entry in (layer, other))
    yield from ((key, mine.get(key), theirs.get(key)) for key in {**mine, **theirs})
    # Files of the first versions do not name custom optimizers.
    here, there = (entry.get("optimizer", entry.get("optimizer_left_out")) for entry in (layer, other))
    if not (there is None and "optimizer_left_out" in layer):
        yield "optimizer", here, there


def _shorten(value: Any) -> str:
    """Return a value as short text for a message, with configs written as calls."""
    if isinstance(value, dict) and isinstance(value.get("config"), dict) and "class_name" in value:
        settings = ", ".join(f"{key}={entry!r}" for key, entry in value["config"].items())
        text = f"{value['class_name']}({settings})"
    else:
        text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
