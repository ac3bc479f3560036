"""Model files: one .npz with the weights and a JSON config. No pickle, nothing executed."""

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from lcnumba import contents
from lcnumba.arrays import FLOATS
from lcnumba.checks import file_path
from lcnumba.interrupts import deferred

__all__ = [
    "ModelFile", "TextFile", "as_text", "check_name", "check_place", "check_weights", "is_there", "replacing",
    "sweep", "write_model", "write_weights",
]  # fmt: skip

Array = npt.NDArray[Any]
PathLike = str | os.PathLike[str]

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
# Longer names of files get a temporary one made of their hash: a name may have 255 bytes, or fewer.
LONGEST_STEM = 100


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
    >>> from lcnumba import io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "weights.npz")
    ...     io.write_weights(path, [np.ones(2)])
    ...     with io.ModelFile(path) as file:
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
    with replacing(path) as temporary, temporary.open("xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def check_name(path: PathLike, table: bool = False) -> None:
    """Raise a ValueError if a path ends in what names a file of another kind than ours, or than a `table` of text.

    Examples
    --------
    >>> from lcnumba.io import check_name
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
    >>> from lcnumba.io import check_weights
    >>> check_weights([np.zeros(3, np.float32)])
    """
    for number, weight in enumerate(weights):
        if weight.dtype not in FLOATS:
            raise TypeError(f"weight {number} has dtype {weight.dtype}; only float32 and float64 can be saved")


def as_text(description: Any) -> str:
    """Return a config as JSON, or raise a TypeError that says what cannot be saved.

    Examples
    --------
    >>> from lcnumba.io import as_text
    >>> as_text({"filters": 3})
    '{"filters": 3}'
    """
    return json.dumps(description, default=_refuse)


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Give a new place beside a file to write to, which takes the file's place if all goes well.

    Signals wait meanwhile: zipfile makes another error of an interrupt, and what is left over is removed in any case.
    """
    target = _place(path)
    _check_folder(target)
    temporary = target.with_name(f".{_stem(target)}.{secrets.token_hex(4)}")
    with deferred():
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
            _flush_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _check_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))


def is_there(path: PathLike) -> bool:
    """Whether a path leads to anything; an OSError for one that leads nowhere, such as a loop of links.

    Examples
    --------
    >>> import tempfile
    >>> from lcnumba.io import is_there
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     is_there(folder), is_there(f"{folder}/model.npz")
    (True, False)
    """
    return _mode(file_path(path)) is not None


def check_place(path: PathLike) -> None:
    """Raise an OSError if no file can be written there, before the work that it is for.

    Examples
    --------
    >>> import tempfile
    >>> from lcnumba.io import check_place
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_place(f"{folder}/model.npz")
    ...     try:
    ...         check_place(folder)
    ...     except OSError as error:
    ...         type(error).__name__
    'IsADirectoryError'
    """
    target = _place(path)
    _check_folder(target)
    with deferred():  # where files without a name are not known, one with a name is made
        tempfile.TemporaryFile(dir=target.parent).close()


class TextFile:
    """A text that is written as a whole, again and again as it grows: in place of a file, complete at any time.

    A device or a pipe stays what it is, and gets what is new each time; one that nobody reads is an OSError, and
    not waited for. What cannot be written to is found by the constructor.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.io import TextFile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "table.csv")
    ...     file = TextFile(path)
    ...     file.write("a")
    ...     file.write("a,b")
    ...     file.close()
    ...     path.read_text()
    'a,b'
    """

    def __init__(self, path: PathLike) -> None:
        self._path, self._written = file_path(path).absolute(), 0  # also if the folder changes
        self._stream: IO[str] | None = None
        mode = _mode(self._path)
        if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            check_place(path)
            sweep(path)
            return
        nonblocking = getattr(os, "O_NONBLOCK", 0)  # which Windows has not
        descriptor = os.open(self._path, os.O_WRONLY | nonblocking | getattr(os, "O_NOCTTY", 0))
        if nonblocking:
            os.set_blocking(descriptor, True)
        self._stream = os.fdopen(descriptor, "w", errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write the whole text, of which a pipe has the beginning already."""
        if self._stream is None:
            with replacing(self._path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            return
        new, self._written = text[self._written :], len(text)
        self._stream.write(new)
        self._stream.flush()

    def close(self) -> None:
        """Close a pipe or device, also one that nobody reads any more."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()


def _place(path: PathLike) -> Path:
    """Where a file is written: what a link points to is, and the link stays. An OSError if that can be no file.

    What is there and no regular file (a device, a pipe) is not replaced: programs would wonder at a file in its place.
    """
    given = file_path(path)
    mode = _mode(given)
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "no regular file, which is not replaced; give the path of a file", str(path))
    return given.resolve()


def _mode(path: Path) -> int | None:
    """The mode of what a path leads to, None if that is nothing yet; an OSError for a loop, or too long a name."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _stem(target: Path) -> str:
    """What the temporary names of a file have in common, however long its own is."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= LONGEST_STEM else hashlib.sha256(name).hexdigest()[:16]


def sweep(path: PathLike) -> None:
    """Remove what writers of a file left beside it when they were killed; nobody may be writing it now.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from lcnumba.io import sweep
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     left = pathlib.Path(folder, ".model.npz.0a1b2c3d")
    ...     left.touch()
    ...     sweep(pathlib.Path(folder, "model.npz"))
    ...     left.exists()
    False
    """
    target = _place(path)
    for left in target.parent.glob(f".{glob.escape(_stem(target))}.{'[0-9a-f]' * 8}"):
        left.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Let a name outlive a loss of power, where folders can be flushed."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows has no such thing
        return
    try:
        os.fsync(descriptor)
    except OSError:  # nor have some file systems
        pass
    finally:
        os.close(descriptor)


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
