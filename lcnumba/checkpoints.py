"""Checkpoints: a model file that also holds how far its training is, so that it can go on bit for bit.

The description is a tree of dicts, lists, tuples, arrays, numbers, strings and None, written without pickle: JSON,
with arrays as members of the file.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lcnumba import io

__all__ = ["check", "generator_state", "read", "restored_generator", "write"]

Array = npt.NDArray[Any]

_GENERATORS = {kind.__name__: kind for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937,
                                                np.random.Philox, np.random.SFC64)}  # fmt: skip


def check(model: Any) -> None:
    """Raise a TypeError if the model cannot be written: before its training, not after hours of it."""
    io.as_text(model.get_config())
    _encode(model.get_training_state(), [])


def write(path: str | os.PathLike[str], model: Any, progress: Any) -> None:
    """Write a model, the state of its layers' training, and what else must be known to go on.

    Weights and state are not copied first: nobody may step the model meanwhile.
    """
    arrays: list[Array] = []
    tree = _encode({"layers": model.get_training_state(), "progress": progress}, arrays)
    io.write_model(path, model.get_config(), model.live_weights(), (tree, arrays))


def read(path: str | os.PathLike[str], model: Any) -> tuple[Any, Callable[[], None]]:
    """Return the progress that a checkpoint holds, and the function that brings the model to it.

    Nothing has changed until that function is called.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no checkpoint, or belongs to another model.
    """
    name = os.fspath(path)
    with io.ModelFile(path) as file:
        if file.training is None:
            raise ValueError(f"{name!r} holds a model and no training; give a file that Checkpoint wrote")
        mine, theirs = _comparable(json.loads(io.as_text(model.get_config()))), _comparable(file.config)
        if not model.built:
            mine["build_input_shape"] = theirs["build_input_shape"]
        if mine != theirs:
            raise ValueError(f"{name!r} is a checkpoint of another model: {_difference(mine, theirs)}")
        if not model.built:
            model.build(tuple(theirs["build_input_shape"]))
        weights = file.read_weights([weight.shape for weight in model.live_weights()])
        try:
            tree = _decode(file.training, file.read_state)
            prepared = model.prepare_training_state(tree["layers"])
            progress = tree["progress"]
        except Exception as error:
            raise ValueError(f"{name!r} is no checkpoint that can be gone on from: {error}") from error

    def restore() -> None:
        model.set_weights(weights)
        prepared()

    return progress, restore


def generator_state(rng: np.random.Generator) -> Any:
    """Return the state of a random generator, as it can be written."""
    return rng.bit_generator.state


def restored_generator(state: Any) -> np.random.Generator:
    """Return a random generator that goes on from a state.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba import checkpoints
    >>> rng = np.random.default_rng(0)
    >>> twin = checkpoints.restored_generator(checkpoints.generator_state(rng))
    >>> bool(rng.integers(1000) == twin.integers(1000))
    True
    """
    name = state.get("bit_generator") if isinstance(state, dict) else None
    if name not in _GENERATORS:
        raise ValueError(f"random state of {name!r} is not known; give one of {', '.join(_GENERATORS)}")
    bits = _GENERATORS[name]()
    bits.state = state
    return np.random.Generator(bits)


def _encode(value: Any, arrays: list[Array]) -> Any:
    """A tree as JSON values; its arrays are appended to the list."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic) and np.asarray(value).dtype.kind in "biuf":
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, tuple):
        return {"tuple": [_encode(entry, arrays) for entry in value]}
    if isinstance(value, list):
        return [_encode(entry, arrays) for entry in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
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
    if kind == "array":
        return array(content)
    if kind == "tuple":
        return tuple(_decode(entry, array) for entry in content)
    if kind == "dict":
        return {key: _decode(entry, array) for key, entry in content.items()}
    raise ValueError(f"{kind!r} is no kind of value")


def _comparable(config: Any) -> Any:
    """A config without names, which differ from process to process."""
    if isinstance(config, dict):
        return {key: _comparable(entry) for key, entry in config.items() if key != "name"}
    return [_comparable(entry) for entry in config] if isinstance(config, list | tuple) else config


def _difference(mine: Any, theirs: Any, path: str = "") -> str:
    """Where two configs first differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in {**mine, **theirs}:
            if mine.get(key) != theirs.get(key):
                return _difference(mine.get(key), theirs.get(key), f"{path}.{key}" if path else key)
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for number, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if a != b:
                return _difference(a, b, f"{path}[{number}]")
    return f"{path} is {mine!r} here and {theirs!r} there"
