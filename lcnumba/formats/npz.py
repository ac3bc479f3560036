"""Model files: an .npz with the weights and a JSON config; no pickle, and no code is executed.

Arrays of a config are members of the file, to which its text refers.
"""

import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any, NamedTuple, Self

import numpy as np

from lcnumba.formats import contents
from lcnumba.runtime.signals import deferred
from lcnumba.utils.arrays import FLOATS
from lcnumba.utils.files import PathLike, atomic_write
from lcnumba.utils.types import Array
from lcnumba.utils.validation import file_path

__all__ = [
    "ModelFile",
    "Part",
    "Streamed",
    "check_parts",
    "check_suffix",
    "check_weights",
    "from_json",
    "to_json",
    "write_model",
    "write_weights",
]


FORMAT, WEIGHTS_FORMAT = "lcnumba-model-1", "lcnumba-weights-1"
MAX_CONFIG_BYTES = 1 << 26
MAX_HEADER_BYTES = 1 << 16
# The member with the JSON text, as bytes. The others are weight_0, weight_1, ... and, in a checkpoint, state_0,
# state_1, ...: the arrays of the training state; and array_0, ...: those of the config, where the text has
# {ARRAY: 0}, ...
CONFIG = "config"
ARRAY = "__array__"
# File name suffixes of other formats, which are refused.
_KERAS_SUFFIXES = (".keras", ".h5", ".hdf5", ".hdf")
_OTHER_SUFFIXES = (".pt", ".pth", ".onnx", ".tflite", ".pb", ".pkl", ".pickle", ".joblib", ".safetensors", ".npy")
_TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".log")


class Streamed:
    """An array that is written part by part, because it is not in memory as a whole.

    Attributes
    ----------
    shape : tuple of int
        Of the whole array.
    dtype : numpy.dtype
        Of its elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def parts(self) -> Iterator[Array]:
        """Yield contiguous parts of the array, in C order."""
        raise NotImplementedError


def write_model(
    path: PathLike,
    config: dict[str, Any],
    weights: Sequence[Array],
    training: tuple[Any, Sequence[Array]] | None = None,
) -> None:
    """Write a config and weights to a file, and optionally a training state: JSON values and arrays.

    The write is atomic: if it fails, an existing file is unchanged.

    Raises
    ------
    TypeError
        If the config is not JSON serializable (with custom functions, say).
    OSError
        If the file cannot be written.
    """
    description = {"format": FORMAT, "model": config}
    states: Sequence[Array] = ()
    if training is not None:
        description["training"], states = training
    _write(path, description, weights, states)


def write_weights(path: PathLike, weights: Sequence[Array]) -> None:
    """Write weights without a config.

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
    check_suffix(path)
    check_weights(weights)
    of_config: list[Array] = []
    text = to_json(description, of_config)
    arrays = {f"weight_{number}": weight for number, weight in enumerate(weights)}
    arrays |= {f"state_{number}": state for number, state in enumerate(states)}
    arrays |= {f"array_{number}": array for number, array in enumerate(of_config)}
    arrays[CONFIG] = np.frombuffer(text.encode(), np.uint8)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "x") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(array, Streamed):
                    _write_header(member, array)
                    for part in array.parts():
                        member.write(part.data.cast("B"))
                else:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def check_suffix(path: PathLike, table: bool = False) -> None:
    """Raise a ValueError if a path has the suffix of another format than .npz, or than a text `table`.

    Examples
    --------
    >>> from lcnumba.formats.npz import check_suffix
    >>> check_suffix("model.npz")
    """
    name = os.fspath(file_path(path))
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - independent of the system's path type
    if table:
        if suffix in (".npz", *_KERAS_SUFFIXES, *_OTHER_SUFFIXES):
            raise ValueError(f"path={name!r} ends in {suffix!r}, but a text table is written; use '.csv'")
    elif suffix in _KERAS_SUFFIXES:
        raise ValueError(
            f"path={name!r} ends in {suffix!r}, a format of Keras, but an .npz is written; use '.npz', or "
            "lcnumba.save_keras_weights(model, 'name.weights.h5') to write weights for Keras"
        )
    elif suffix in (*_OTHER_SUFFIXES, *_TEXT_SUFFIXES):
        raise ValueError(f"path={name!r} ends in {suffix!r}, but an .npz is written; use '.npz'")


def check_weights(weights: Sequence[Array]) -> None:
    """Raise a TypeError if weights are neither float32 nor float64.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.formats.npz import check_weights
    >>> check_weights([np.zeros(3, np.float32)])
    """
    for number, weight in enumerate(weights):
        if weight.dtype not in FLOATS:
            raise TypeError(f"weight {number} has dtype {weight.dtype}; only float32 and float64 can be saved")


def to_json(description: Any, arrays: list[Array] | None = None) -> str:
    """Return a config as JSON; a TypeError names the value that cannot be saved.

    Its arrays are appended to `arrays`, and the text refers to them; see `from_json`.

    Examples
    --------
    >>> import numpy as np
    >>> from lcnumba.formats.npz import to_json
    >>> to_json({"filters": 3})
    '{"filters": 3}'
    >>> found = []
    >>> to_json({"indices": np.array([2, 5])}, found), found
    ('{"indices": {"__array__": 0}}', [array([2, 5])])
    """
    found = [] if arrays is None else arrays

    def other(value: Any) -> Any:
        if not (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
            _refuse(value)
        found.append(value)
        return {ARRAY: len(found) - 1}

    return json.dumps(description, default=other)


def from_json(text: str | bytes, array: Callable[[int], Array]) -> Any:
    """Return what `to_json` made a text of; ``array(number)`` returns the arrays it refers to.

    Examples
    --------
    >>> from lcnumba.formats.npz import from_json
    >>> from_json('{"indices": {"__array__": 0}}', [3, 4].__getitem__)
    {'indices': 3}
    """

    def resolved(found: dict[str, Any]) -> Any:
        return array(found[ARRAY]) if set(found) == {ARRAY} else found

    return json.loads(text, object_hook=resolved)


class Part(NamedTuple):
    """Some bytes of a member: where they begin, how many, their check sum; and that of the member, and its size."""

    name: str
    begin: int
    length: int
    crc: int
    member_crc: int
    member_size: int


def check_parts(parts: Iterable[Part]) -> None:
    """Raise a ValueError unless parts, read by several processes, are whole members and have their check sums.

    Examples
    --------
    >>> import zlib
    >>> from lcnumba.formats.npz import Part, check_parts
    >>> whole = zlib.crc32(b"one two")
    >>> check_parts([Part("a", 4, 3, zlib.crc32(b"two"), whole, 7), Part("a", 0, 4, zlib.crc32(b"one "), whole, 7)])
    """
    members: dict[str, list[Part]] = {}
    for part in sorted(set(parts)):
        members.setdefault(part.name, []).append(part)
    for name, found in members.items():
        at = crc = 0
        for part in found:
            if part.begin != at:
                break
            at, crc = at + part.length, _joined_crc(crc, part.crc, part.length)
        if (at, crc) != (found[0].member_size, found[0].member_crc):
            raise ValueError(f"{name} of the file is damaged: its check sum differs")


def _joined_crc(first: int, second: int, length: int) -> int:
    """The CRC-32 of two strings one after the other, given theirs and the length of the second one.

    A CRC is linear over bits: `length` zero bytes after the first string multiply its CRC by a matrix, which is made by
    repeated squaring (Mark Adler's crc32_combine of zlib).
    """
    # The matrix of one zero bit, as the images of the bits of a CRC.
    matrix = [0xEDB88320, *(1 << bit for bit in range(31))]
    bits = 8 * length
    while bits:
        if bits & 1:
            first = _times(matrix, first)
        matrix = [_times(matrix, column) for column in matrix]
        bits >>= 1
    return first ^ second


def _times(matrix: list[int], vector: int) -> int:
    """A product of a matrix and a vector of bits."""
    found = 0
    for column in matrix:
        if vector & 1:
            found ^= column
        vector >>= 1
    return found


class ModelFile:
    """A file of `write_model` or `write_weights`, opened for reading; a context manager.

    Attributes
    ----------
    config : dict or None
        The model's config; None in a file of weights only.
    training : JSON value or None
        The training state, in a checkpoint.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is not such a file; also raised by the methods.
    """

    def __init__(self, path: PathLike) -> None:
        self._path = path
        self._read_states: set[int] = set()
        self._arrays: set[str] = set()  # names of the config's arrays
        self.parts: list[Part] = []  # of members that were not read as a whole
        with ExitStack() as stack:
            self._stream = stack.enter_context(contents.open_regular(file_path(path)))
            with self._translate_errors(opening=True):
                self._archive = zipfile.ZipFile(self._stream)
                size = os.fstat(self._stream.fileno()).st_size
                if sum(member.file_size for member in self._archive.infolist()) > size:
                    raise ValueError("its members are larger than the file: they overlap or are compressed")
                with self._member(CONFIG, MAX_CONFIG_BYTES) as member:
                    _read_header(member)
                    text = member.read()
                description = from_json(text, self._read_array)
                if description["format"] not in (FORMAT, WEIGHTS_FORMAT):
                    raise ValueError(f"its format is {description['format']!r}")
                self.config: dict[str, Any] | None = description["model"] if description["format"] == FORMAT else None
                self.training: Any = description.get("training")
            stack.pop_all()  # __exit__ closes the stream from here on

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def read_weights(self, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """Return the weights; shapes are compared before any weight is read."""
        names = self.check_count(len(shapes))
        with self._translate_errors():
            return [self._read(name, shape) for name, shape in zip(names, shapes, strict=True)]

    def check_count(self, weights: int) -> list[str]:
        """Return the names of so many weights; raise unless the file holds these."""
        names = [f"weight_{number}" for number in range(weights)]
        with self._translate_errors():
            stored = {name.removesuffix(".npy") for name in self._archive.namelist()}
            others = {name for name in stored if self.training is not None and name.startswith("state_")} | self._arrays
            if stored - others != {CONFIG, *names}:
                raise ValueError(
                    f"it holds {len(stored) - len(others) - 1} weights, but {self._expected_by()} {len(names)}"
                )
        return names

    def read_state(self, number: int) -> Array:
        """Return one of the arrays that `training` refers to; each can be read once."""
        with self._translate_errors():
            if number in self._read_states:
                raise ValueError(f"state_{number} is referenced twice")
            self._read_states.add(number)
            return self._read_any(f"state_{number}")

    def read_rows(self, name: str, first: int, last: int, shape: tuple[int, ...]) -> Array:
        """Return some rows of the first axis of a member of this shape, reading no others.

        The file has a check sum of the whole member; `check_parts` compares it with those of rows, noted in `parts`.
        """
        with self._translate_errors():
            limit = os.fstat(self._stream.fileno()).st_size
            with self._member(name, limit) as member:
                found, is_fortran, dtype = _read_whole_header(member)
                begin = member.tell()
            rows = math.prod(shape[1:]) * dtype.itemsize
            if found != shape or dtype.kind not in "biuf" or begin + rows * shape[0] > self._size(name):
                raise ValueError(f"{name} has shape {found} and dtype {dtype}, but {self._expected_by()} shape {shape}")
            if is_fortran:  # rows are no contiguous bytes
                with self._member(name, limit) as member:
                    whole = np.lib.format.read_array(member, allow_pickle=False)
                return _native(np.ascontiguousarray(whole[first:last]))
            info = self._archive.getinfo(f"{name}.npy")
            self._stream.seek(info.header_offset + 26)  # where a local header has the lengths of its last two fields
            lengths = struct.unpack("<HH", self._stream.read(4))
            self._stream.seek(info.header_offset + 30 + sum(lengths) + begin + first * rows)
            values = np.empty((last - first, *shape[1:]), dtype)
            stream: Any = self._stream  # buffered binary
            if values.size and stream.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:
                raise ValueError(f"{name} is shorter than its header says")
            with self._member(name, limit) as member:
                header = member.read(begin)
            self.parts += [
                Part(name, 0, begin, zlib.crc32(header), info.CRC, info.file_size),
                Part(name, begin + first * rows, values.nbytes, zlib.crc32(values.data), info.CRC, info.file_size),
            ]
            return _native(values)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and the dtype of a member."""
        with self._translate_errors(), self._member(name, os.fstat(self._stream.fileno()).st_size) as member:
            return _read_header(member)

    def weight_shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the stored weights, without reading the weights."""
        with self._translate_errors():
            stored = sorted(int(found[1]) for name in self._archive.namelist() if (found := _match_weight(name)))
            if stored != list(range(len(stored))):
                raise ValueError("its weights are not numbered consecutively from 0")
            shapes = []
            for number in stored:
                with self._member(f"weight_{number}", os.fstat(self._stream.fileno()).st_size) as member:
                    shapes.append(_read_header(member)[0])
            return shapes

    def _expected_by(self) -> str:
        return "the model has" if self.config is None else "its config describes"

    def _read_array(self, number: int) -> Array:
        """One of the arrays that the config refers to; each can be read once."""
        name = f"array_{int(number)}"
        if name in self._arrays:
            raise ValueError(f"{name} is referenced twice")
        self._arrays.add(name)
        return self._read_any(name)

    def _read_any(self, name: str) -> Array:
        """A member of any shape."""
        limit = os.fstat(self._stream.fileno()).st_size
        with self._member(name, limit) as member:
            shape, dtype = _read_header(member)
            if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize > self._size(name):
                raise ValueError(f"{name} has an invalid shape {shape} or dtype {dtype}")
        with self._member(name, limit) as member:
            return _native(np.lib.format.read_array(member, allow_pickle=False))

    def _read(self, name: str, shape: tuple[int, ...]) -> Array:
        limit = math.prod(shape) * 8 + MAX_HEADER_BYTES
        with self._member(name, limit) as member:
            found, dtype = _read_header(member)
            if found != shape or dtype.newbyteorder("=") not in FLOATS:
                raise ValueError(f"{name} has shape {found} and dtype {dtype}, but {self._expected_by()} shape {shape}")
            if math.prod(shape) * dtype.itemsize > self._size(name):  # read_array allocates first
                raise ValueError(f"{name} has {self._size(name)} bytes, too few for shape {shape}")
        with self._member(name, limit) as member:
            return _native(np.lib.format.read_array(member, allow_pickle=False))

    def _size(self, name: str) -> int:
        return self._archive.getinfo(f"{name}.npy").file_size

    def _member(self, name: str, limit: int) -> IO[bytes]:
        """Open a member of at most `limit` bytes."""
        info = self._archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed: its size is not bounded")
        if info.file_size > limit:
            raise ValueError(f"{name} declares {info.file_size} bytes; at most {limit} are allowed")
        return self._archive.open(info)

    @contextmanager
    def _translate_errors(self, opening: bool = False) -> Iterator[None]:
        """Translate the errors of NumPy, zipfile and json for a foreign or damaged file into one ValueError.

        They raise KeyError, EOFError, BadZipFile, NotImplementedError, RuntimeError, RecursionError, SyntaxError,
        OverflowError, zlib's and lzma's errors and more. Other errors pass unchanged; signals are deferred, so that
        no error of a signal handler is raised here.
        """
        with deferred():
            try:
                yield
            except Exception as error:
                if not contents.is_content_error(error):
                    raise
                found = contents.describe(self._path) if opening else None
                reason = error if found in (None, contents.LCNUMBA_FILE) else f"it is {found}"
                raise ValueError(f"{os.fspath(self._path)!r} is not an lcnumba model file: {reason}") from error


_match_weight = re.compile(r"weight_(0|[1-9][0-9]{0,8})\.npy").fullmatch


def _native(array: Array) -> Array:
    """Return an array in native byte order: a file may be of a machine with the other one."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and dtype of an .npy member, up to its data."""
    shape, _, dtype = _read_whole_header(member)
    return shape, dtype


def _read_whole_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the shape, whether the order is Fortran's, and the dtype of an .npy member, up to its data."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read[np.lib.format.read_magic(member)](member)
    return found


def _write_header(member: IO[bytes], array: Streamed) -> None:
    """Write the header of an .npy member, up to its data."""
    np.lib.format.write_array_header_1_0(
        member, {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    )


def _refuse(value: Any) -> Any:
    raise TypeError(
        f"{value!r} cannot be saved: only built-in activations, initializers, regularizers and constraints can; "
        "replace it, or save the weights with save_weights"
    )
