"""Models in files: one .npz with the weights and a JSON config. No pickle, nothing executed."""

import json
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcnumba.sequential import Sequential

__all__ = ["load", "save"]

FORMAT = "lcnumba-model-1"
CONFIG = "config"  # the member that holds the JSON text, as bytes


def save(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model's structure and weights to a file.

    The file is written beside its place and then moved there, so that a save that fails leaves an
    older file as it was. Optimizer state is not saved.

    Parameters
    ----------
    model : Sequential
        A built model.
    path : path
        The file, by convention ``.npz``; nothing is appended to the name.

    Raises
    ------
    RuntimeError
        If the model has not been built.
    TypeError
        If a layer's config is not made of JSON values (custom functions, say).
    """
    if model.get_config()["build_input_shape"] is None:
        raise RuntimeError(f"save before build: {model.name!r} has no weights yet; call or build it first")
    text = json.dumps({"format": FORMAT, "model": model.get_config()}, default=_refuse)
    arrays = {f"weight_{number}": weight for number, weight in enumerate(model.get_weights())}
    arrays[CONFIG] = np.frombuffer(text.encode(), np.uint8)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], layers: Mapping[str, Any] | None = None) -> Sequential:
    """Read a model that `save` wrote.

    Parameters
    ----------
    path : path
        The file.
    layers : mapping of str to class, optional
        Classes of layers that are not the library's, by class name.

    Returns
    -------
    Sequential
        With the saved weights and fresh optimizer state.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no such file, or its weights do not fit its config.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
        description = json.loads(stored.pop(CONFIG).tobytes().decode())
        if description["format"] != FORMAT:
            raise ValueError(f"its format is {description['format']!r}")
        weights = [stored[f"weight_{number}"] for number in range(len(stored))]
        config = description["model"]
    except (KeyError, TypeError, AttributeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{os.fspath(path)!r} is no model file of lcnumba: {error}") from error
    try:
        model = Sequential.from_config(config, layers)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)!r} holds no config of a model: {error}") from error
    model.set_weights(weights)
    return model


def _refuse(value: Any) -> Any:
    raise TypeError(
        f"{value!r} cannot be saved: only named activations and initializers can; "
        "replace it, or keep the weights alone with get_weights"
    )
