"""Model files: one .npz with the weights and a JSON config. No pickle, nothing executed."""

import json
import math
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any, Self

import numpy as np

from lcnumba.formats import contents
from lcnumba.runtime.signals import deferred
from lcnumba.utils.arrays import FLOATS
from lcnumba.utils.files import PathLike, atomic_write
from lcnumba.utils.types import Array
from lcnumba.utils.validation import file_path

__all__ = ["ModelFile", "as_text", "check_name", "check_weights", "write_model", "write_weights"]


FORMAT, WEIGHTS_FORMAT = "lcnumba-model-1", "lcnumba-weights-1"
CONFIG_BYTES = 1 << 26
HEADER_BYTES = 1 << 16
# The member that holds the JSON text, as bytes. The others are weight_0, weight_1, ... and, in a checkpoint, state_0,
# state_1, ...: the arrays that its description of the training refers to.
CONFIG = "config"
# What ends in these is written by others, and read as that.
_KERAS_ENDINGS = (".keras", ".h5", ".hdf5", ".hdf")
_OTHER_ENDINGS = (".pt", ".pth", ".onnx", ".tflite", ".pb", ".pkl", ".pickle", ".joblib", ".safetensors", ".npy")
_TEXT_ENDINGS = (".csv", ".tsv", ".txt", ".json", ".log")


def write_model(
    path: PathLike,
    config: dict[str, Any],
    weights: Sequence[Array],
    training: tuple[Any, Sequence[Array]] | None = None,
) -> None:
    """Write a config and weights to a file, and with them how far a training is: JSON values, and arrays.

    The file is written beside its place and then moved there, so that a save that fails leaves an
    older file as it was.

    Raises
    ------
    TypeError
        If the config is not made of JSON values (custom functions, say).
    OSError
        If the file cannot be written.
    """
    description = {"format": FORMAT, "model": config}
    states: Sequence[Array] = ()
    if training is not None:
        description["training"], states = training
    _write(path, description, weights, states)


def write_weights(path: PathLike, weights: Sequence[Array]) -> None:
    """Write weights alone, as `write_model` writes them with a config.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from lcnumba.formats import npz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "weights.npz")
    ...     npz.write_weights(path, [np.ones(2)])
    ...     with npz.ModelFile(path) as file:
    ...         file.config, file.read_weights([(2,)])
    (None, [array([1., 1.])])
    """
    _write(path, {"format": WEIGHTS_FORMAT}, weights, ())


def _write(path: PathLike, description: dict[str, Any], weights: Sequence[Array], states: Sequence[Array]) -> None:
    check_name(path)
    check_weights(weights)
    text = as_text(description)
    arrays = {f"weight_{number}": weight for number, weight in enumerate(weights)}
    arrays |= {f"state_{number}": state for number, state in enumerate(states)}
    arrays[CONFIG] = np.frombuffer(text.encode(), np.uint8)
    with atomic_write(path) as temporary, temporary.open("xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def check_name(path: PathLike, table: bool = False) -> None:
    """Raise a ValueError if a path ends in what names a file of another kind than ours, or than a `table` of text.

    Examples
    --------
    >>> from lcnumba.formats.npz import check_name
    >>> check_name("model.npz")
    """
    name = os.fspath(file_path(path))
    ending = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of the text, whatever the system's paths are
    if table:
        if ending in (".npz", *_KERAS_ENDINGS, *_OTHER_ENDINGS):
            raise ValueError(f"path={name!r} ends in {ending!r}, and a table is text: name it '.csv', say")
    elif ending in _KERAS_ENDINGS:
        raise ValueError(
            f"path={name!r} ends in {ending!r}, as Keras' files do; this call writes an .npz: name it so. "
            "lcnumba.save_keras_weights(model, 'name.weights.h5') writes the weights for Keras"
        )
    elif ending in (*_OTHER_ENDINGS, *_TEXT_ENDINGS):
        raise ValueError(f"path={name!r} ends in {ending!r}, and this call writes an .npz: name it so")


def check_weights(weights: Sequence[Array]) -> None:
    """Raise a TypeError if weights cannot be saved.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.formats.npz import check_weights
    >>> check_weights([np.zeros(3, np.float32)])
    """
    for number, weight in enumerate(weights):
        if weight.dtype not in FLOATS:
            raise TypeError(f"weight {number} has dtype {weight.dtype}; only float32 and float64 can be saved")


def as_text(description: Any) -> str:
    """Return a config as JSON, or raise a TypeError that says what cannot be saved.

    Examples
    --------
    >>> from lcnumba.formats.npz import as_text
    >>> as_text({"filters": 3})
    '{"filters": 3}'
    """
    return json.dumps(description, default=_refuse)


class ModelFile:
    """A file that `write_model` or `write_weights` wrote, open for reading; use it as a context manager.

    Attributes
    ----------
    config : dict or None
        The model's config, as the file holds it; None with weights alone.
    training : JSON value or None
        How far a training was, in a checkpoint.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is no such file; likewise in `read_weights`.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._read_states: set[int] = set()
        with ExitStack() as stack:
            self._stream = stack.enter_context(contents.opened(file_path(path)))
            with self._refusing(opening=True):
                self._archive = zipfile.ZipFile(self._stream)
                size = os.fstat(self._stream.fileno()).st_size
                if sum(member.file_size for member in self._archive.infolist()) > size:
                    raise ValueError("its members are larger than the file; they overlap, or are compressed")
                with self._member(CONFIG, CONFIG_BYTES) as member:
                    _read_header(member)
                    description = json.loads(member.read())
                if description["format"] not in (FORMAT, WEIGHTS_FORMAT):
                    raise ValueError(f"its format is {description['format']!r}")
                self.config: dict[str, Any] | None = description["model"] if description["format"] == FORMAT else None
                self.training: Any = description.get("training")
            stack.pop_all()  # from here on __exit__ closes the stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def read_weights(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Return the weights, which must have these shapes; compared before they are read."""
        names = [f"weight_{number}" for number in range(len(shapes))]
        with self._refusing():
            stored = {name.removesuffix(".npy") for name in self._archive.namelist()}
            others = {name for name in stored if self.training is not None and name.startswith("state_")}
            if stored - others != {CONFIG, *names}:
                raise ValueError(
                    f"it holds {len(stored) - len(others) - 1} weights, and {self._describing()} {len(names)}"
                )
            return [self._read(name, shape) for name, shape in zip(names, shapes, strict=True)]

    def read_state(self, number: int) -> Array:
        """Return one of the arrays that `training` refers to, of any shape and numbers; each can be read once."""
        with self._refusing():
            if number in self._read_states:
                raise ValueError(f"state_{number} is referred to twice")
            self._read_states.add(number)
            limit = os.fstat(self._stream.fileno()).st_size
            with self._member(f"state_{number}", limit) as member:
                shape, dtype = _read_header(member)
                if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize > self._size(f"state_{number}"):
                    raise ValueError(f"state_{number} has shape {shape} and dtype {dtype}")
            with self._member(f"state_{number}", limit) as member:
                return _native(np.lib.format.read_array(member, allow_pickle=False))

    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the weights that the file holds; no weight is read."""
        with self._refusing():
            stored = sorted(int(found[1]) for name in self._archive.namelist() if (found := _WEIGHT(name)))
            if stored != list(range(len(stored))):
                raise ValueError("its weights are not numbered from 0")
            shapes = []
            for number in stored:
                with self._member(f"weight_{number}", os.fstat(self._stream.fileno()).st_size) as member:
                    shapes.append(_read_header(member)[0])
            return shapes

    def _describing(self) -> str:
        return "the model has" if self.config is None else "its config describes"

    def _read(self, name: str, shape: tuple[int, ...]) -> Array:
        limit = math.prod(shape) * 8 + HEADER_BYTES
        with self._member(name, limit) as member:
            found, dtype = _read_header(member)
            if found != shape or dtype.newbyteorder("=") not in FLOATS:
                raise ValueError(f"{name} has shape {found} and dtype {dtype}; {self._describing()} shape {shape}")
            if math.prod(shape) * dtype.itemsize > self._size(name):  # memory is asked for before it is read
                raise ValueError(f"{name} has {self._size(name)} bytes, too few for shape {shape}")
        with self._member(name, limit) as member:
            return _native(np.lib.format.read_array(member, allow_pickle=False))

    def _size(self, name: str) -> int:
        return self._archive.getinfo(f"{name}.npy").file_size

    def _member(self, name: str, limit: int) -> IO[bytes]:
        """One member, if it is no longer than `limit` bytes."""
        info = self._archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which could make it larger than the file")
        if info.file_size > limit:
            raise ValueError(f"{name} declares {info.file_size} bytes, and at most {limit} are expected")
        return self._archive.open(info)

    @contextmanager
    def _refusing(self, opening: bool = False) -> Iterator[None]:
        """Turn whatever NumPy, zipfile and json make of a foreign or damaged file into one error.

        Besides ValueError they raise KeyError, EOFError, BadZipFile, NotImplementedError,
        RuntimeError, RecursionError, SyntaxError, OverflowError, zlib's and lzma's errors and more. What the file is
        not to blame for stays what it is: signals wait, so that nothing of theirs is raised in here.
        """
        with deferred():
            try:
                yield
            except Exception as error:
                if not contents.is_of_content(error):
                    raise
                found = contents.described(self._path) if opening else None
                reason = error if found in (None, contents.OURS) else f"it is {found}"
                raise ValueError(f"{os.fspath(self._path)!r} is no model file of lcnumba: {reason}") from error


_WEIGHT = re.compile(r"weight_(0|[1-9][0-9]{0,8})\.npy").fullmatch


def _native(array: Array) -> Array:
    """An array in this machine's order of bytes: files of another machine may have the other one."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an .npy member, which is then at its data."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = read[np.lib.format.read_magic(member)](member)
    return shape, dtype


def _refuse(value: Any) -> Any:
    raise TypeError(
        f"{value!r} cannot be saved: only the library's own activations, initializers, regularizers and "
        "constraints can; replace it, or keep the weights alone with get_weights"
    )
