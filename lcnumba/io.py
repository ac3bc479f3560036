"""Model files: one .npz with the weights and a JSON config. No pickle, nothing executed."""

import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["read_model", "write_model"]

Array = npt.NDArray[Any]
PathLike = str | os.PathLike[str]

FORMAT = "lcnumba-model-1"
CONFIG = "config"  # the member that holds the JSON text, as bytes; the others are weight_0, weight_1, ...

# What NumPy, zipfile and json raise on files that are damaged or something else.
_UNREADABLE = (
    AttributeError,
    EOFError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_model(path: PathLike, config: dict[str, Any], weights: Sequence[Array]) -> None:
    """Write a config and weights to a file.

    The file is written beside its place and then moved there, so that a save that fails leaves an
    older file as it was.

    Raises
    ------
    TypeError
        If the config is not made of JSON values (custom functions, say).
    OSError
        If the file cannot be written.
    """
    text = json.dumps({"format": FORMAT, "model": config}, default=_refuse)
    arrays = {f"weight_{number}": weight for number, weight in enumerate(weights)}
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


def read_model(path: PathLike) -> tuple[dict[str, Any], list[Array]]:
    """Return the config and the weights that `write_model` wrote.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no such file.
    """
    with Path(path).open("rb") as stream:
        try:
            # np.load leaves a file that it opened itself open when it cannot read it.
            with np.load(stream, allow_pickle=False) as file:
                stored = {name: file[name] for name in file.files}
            description = json.loads(stored.pop(CONFIG).tobytes().decode())
            if description["format"] != FORMAT:
                raise ValueError(f"its format is {description['format']!r}")
            return description["model"], [stored[f"weight_{number}"] for number in range(len(stored))]
        except _UNREADABLE as error:
            raise ValueError(f"{os.fspath(path)!r} is no model file of lcnumba: {error}") from error


def _refuse(value: Any) -> Any:
    raise TypeError(
        f"{value!r} cannot be saved: only named activations and initializers can; "
        "replace it, or keep the weights alone with get_weights"
    )
