"""Model files: one .npz with the weights and a JSON config. No pickle, nothing executed."""

import errno
import glob
import json
import math
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from lcnumba.arrays import FLOATS
from lcnumba.checks import file_path

__all__ = ["ModelFile", "as_text", "check_weights", "replacing", "sweep", "write_model"]

Array = npt.NDArray[Any]
PathLike = str | os.PathLike[str]

FORMAT = "lcnumba-model-1"
CONFIG_BYTES = 1 << 26
HEADER_BYTES = 1 << 16
# The member that holds the JSON text, as bytes. The others are weight_0, weight_1, ... and, in a checkpoint, state_0,
# state_1, ...: the arrays that its description of the training refers to.
CONFIG = "config"


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
    check_weights(weights)
    description = {"format": FORMAT, "model": config}
    arrays = {f"weight_{number}": weight for number, weight in enumerate(weights)}
    if training is not None:
        description["training"], states = training
        arrays |= {f"state_{number}": state for number, state in enumerate(states)}
    text = as_text(description)
    arrays[CONFIG] = np.frombuffer(text.encode(), np.uint8)
    with replacing(path) as temporary, temporary.open("xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


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
    """Give a new place beside a file to write to, which takes the file's place if all goes well."""
    target = file_path(path).resolve()  # what a link points to is written, and the link stays
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
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
    target = Path(path).resolve()
    for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}"):
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
    """A file that `write_model` wrote, open for reading; use it as a context manager.

    Attributes
    ----------
    config : dict
        The model's config, as the file holds it.
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
            self._stream = stack.enter_context(file_path(path).open("rb"))
            with self._refusing():
                self._archive = zipfile.ZipFile(self._stream)
                size = os.fstat(self._stream.fileno()).st_size
                if sum(member.file_size for member in self._archive.infolist()) > size:
                    raise ValueError("its members are larger than the file; they overlap, or are compressed")
                with self._member(CONFIG, CONFIG_BYTES) as member:
                    _read_header(member)
                    description = json.loads(member.read())
                if description["format"] != FORMAT:
                    raise ValueError(f"its format is {description['format']!r}")
                self.config: dict[str, Any] = description["model"]
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
                    f"it holds {len(stored) - len(others) - 1} weights, and its config describes {len(names)}"
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
                if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize > limit:
                    raise ValueError(f"state_{number} has shape {shape} and dtype {dtype}")
            with self._member(f"state_{number}", limit) as member:
                return np.lib.format.read_array(member, allow_pickle=False)

    def _read(self, name: str, shape: tuple[int, ...]) -> Array:
        limit = math.prod(shape) * 8 + HEADER_BYTES
        with self._member(name, limit) as member:
            found, dtype = _read_header(member)
            if found != shape or dtype not in FLOATS:
                raise ValueError(f"{name} has shape {found} and dtype {dtype}; its config describes shape {shape}")
        with self._member(name, limit) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    def _member(self, name: str, limit: int) -> IO[bytes]:
        """One member, if it is no longer than `limit` bytes."""
        info = self._archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which could make it larger than the file")
        if info.file_size > limit:
            raise ValueError(f"{name} declares {info.file_size} bytes, and at most {limit} are expected")
        return self._archive.open(info)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn whatever NumPy, zipfile and json make of a foreign or damaged file into one error.

        Besides ValueError they raise KeyError, EOFError, BadZipFile, NotImplementedError,
        RuntimeError, RecursionError, SyntaxError, OverflowError, zlib's and lzma's errors and more.
        """
        try:
            yield
        except Exception as error:
            raise ValueError(f"{os.fspath(self._path)!r} is no model file of lcnumba: {error}") from error


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
