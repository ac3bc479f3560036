"""Secure reading of untrusted Keras files: nothing in them is imported or executed, and no link is followed.

The HDF5 library runs in a separate process (`lcnumba.bridges.keras2.index`), which returns the offsets of the arrays;
they are read here. Declared sizes are compared with stored sizes before memory is allocated, and no more bytes are read
than the file has.
"""

import contextlib
import errno
import importlib.util
import json
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from lcnumba.formats import contents
from lcnumba.runtime.signals import deferred
from lcnumba.utils.messages import install
from lcnumba.utils.types import Array

__all__ = ["KerasFile", "KerasFileError", "StoredArray"]


# Bytes. The config of a network of hundreds of layers has some hundred kilobytes.
MAX_CONFIG = 1 << 23
MAX_METADATA = 1 << 16
# Bytes. An index of a thousand layers has a megabyte.
MAX_INDEX = 1 << 26
# Seconds for the process that lists the arrays; it takes a fraction of one.
TIMEOUT = 30
_BOOTSTRAP = """
import marshal, sys
path, *sys.path[:] = sys.argv[1:]
sys.argv = ["index", path]
exec(marshal.loads(sys.stdin.buffer.read()), {"__name__": "__main__"})
"""


class KerasFileError(ValueError):
    """A file that is not a Keras file, or cannot be read safely."""


class StoredArray:
    """An array in a file that has not been read; an unreadable one raises only when used."""

    def __init__(self, file: "KerasFile", entry: dict[str, Any]) -> None:
        self._file, self._entry = file, entry

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; a ValueError if the array cannot be read."""
        if "error" in self._entry:
            raise ValueError(self._entry["error"])
        return tuple(int(size) for size in self._entry["shape"])

    @property
    def label(self) -> str:
        """Its name in a legacy file, such as "dense/kernel:0"; empty in a v3 file."""
        return str(self._entry.get("label", ""))

    @property
    def description(self) -> str:
        """Its shape as text, or the reason why it cannot be read."""
        return ascii(self._entry["error"]) if "error" in self._entry else str(self.shape)

    def read(self, shape: tuple[int, ...]) -> Array:
        """Return the array, which must have this shape."""
        if self.shape != tuple(shape):
            raise ValueError(f"{self._entry['name']} has shape {self.shape}; the layer needs {tuple(shape)}")
        dtype, count = np.dtype(self._entry["dtype"]), int(np.prod(self.shape, dtype=object))
        content = self._file.content(int(self._entry["offset"]), count * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(self.shape).astype(dtype.newbyteorder("="))


class KerasFile:
    """A model or weight file of Keras, as a context manager; an invalid file raises `KerasFileError`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fsdecode(path)
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes]
        self._unread = 0
        self._index: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Open the file."""
        try:
            file = self._open_stream()
            with self.translate_errors():
                self._read_structure(file)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self._close()

    def _close(self) -> None:
        with deferred():  # the temporary folder is removed completely
            self._stack.close()

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translate any error that a foreign or damaged file causes into a `KerasFileError`.

        Other errors pass unchanged; signals are deferred, so that no error of a signal handler is raised here.
        """
        with deferred():
            try:
                yield
            except (KerasFileError, ImportError):
                raise
            except Exception as error:
                if not contents.is_content_error(error):
                    raise
                raise KerasFileError(f"{self._path!r} cannot be read: {error}") from error

    def _open_stream(self) -> IO[bytes]:
        if Path(self._path).is_dir():
            what = "Is a directory, perhaps a TensorFlow SavedModel, which is not supported; save as .keras or .h5"
            raise IsADirectoryError(errno.EISDIR, what, self._path)
        return self._stack.enter_context(contents.open_regular(Path(self._path)))

    def _read_structure(self, file: IO[bytes]) -> None:
        found = contents.describe(self._path)
        if found is not None and contents.KERAS_FILE not in found:
            raise ValueError(f"it is {found}")
        self._unread = os.fstat(file.fileno()).st_size
        self._file, path, config, version = file, self._path, None, None
        start = file.read(8)
        if start.startswith(b"PK\x03\x04"):
            archive = self._stack.enter_context(zipfile.ZipFile(file))
            config = _member(archive, "config.json", MAX_CONFIG).read().decode()
            if "metadata.json" in archive.namelist():
                version = _version(_member(archive, "metadata.json", MAX_METADATA).read())
            path = os.path.join(self._stack.enter_context(tempfile.TemporaryDirectory()), "model.weights.h5")  # noqa: PTH118
            with _member(archive, "model.weights.h5", self._unread) as stored, Path(path).open("wb") as copy:
                shutil.copyfileobj(stored, copy)
            self._file = self._stack.enter_context(Path(path).open("rb"))  # noqa: SIM115 - the stack closes it
        elif start != b"\x89HDF\r\n\x1a\n":
            raise ValueError("it is not a Keras file (HDF5 or a zip), nor another known type")
        self._index = _index(path)
        if config is not None:
            self._index["config"], self._index["version"] = config, version

    def content(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; in total at most its size, so that linking one array many times is refused."""
        self._unread -= size
        if self._unread < 0:
            raise ValueError("it declares more weights than it has bytes")
        self._file.seek(offset)
        found = self._file.read(size)
        if len(found) != size:
            raise ValueError(f"it ends within an array, at {offset + len(found)} of {offset + size} bytes")
        return found

    def config(self) -> dict[str, Any] | None:
        """Return the config of the model, or None for a file of weights only."""
        if self._index["config"] is None:
            return None
        with self.translate_errors():
            found = json.loads(self._index["config"])
            if not isinstance(found, dict):
                raise TypeError("its config is not a JSON object")
            return found

    @property
    def version(self) -> str | None:
        """The version of Keras that wrote the file, or None if unknown."""
        return self._index["version"]

    def legacy_layers(self) -> list[tuple[str, list[StoredArray]]] | None:
        """Return the layers of a legacy file with their arrays, in order; None for a v3 file."""
        layers = self._index["legacy_layers"]
        with self.translate_errors():
            return layers and [(name, [StoredArray(self, entry) for entry in entries]) for name, entries in layers]

    def groups(self) -> list[str]:
        """Return the paths of the layers in a v3 file, nested ones included, such as "layers/dense_1"."""
        return list(self._index["groups"])

    def arrays_of(self, name: str) -> list[StoredArray]:
        """Return the arrays of a layer of a v3 file, by its path."""
        with self.translate_errors():
            if name not in self._index["groups"]:
                raise ValueError(f"there is no layer {name!r}")
            return [StoredArray(self, entry) for entry in self._index["groups"][name]]


def _index(path: str) -> dict[str, Any]:
    """Run `lcnumba.bridges.keras2.index` on a file, and return its reply."""
    if getattr(sys, "frozen", False) or not sys.executable:  # sys.executable is the program itself
        raise RuntimeError(
            "a frozen program cannot start the Python process that reads it; run 'python -m lcnumba convert FILE "
            "model.npz' beforehand, and read model.npz with lcnumba.load"
        )
    # The code, not its path: a package imported from a zip has no file.
    module = "lcnumba.bridges.keras2.index"
    program = marshal.dumps(importlib.util.find_spec(module).loader.get_code(module))  # type: ignore[union-attr]
    # -I and an explicit sys.path: nothing is imported from the folder of the file.
    paths = [path for path in sys.path if path]
    command = [sys.executable, "-I", "-c", _BOOTSTRAP, str(Path(path).absolute()), *paths]
    with tempfile.TemporaryFile() as reply, tempfile.TemporaryFile() as errors:
        try:
            code = subprocess.run(
                command, input=program, stdout=reply, stderr=errors, timeout=TIMEOUT, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            raise ValueError(f"the HDF5 library took more than {TIMEOUT} s") from None
        if code:
            errors.seek(0)
            if b"No module named 'h5py'" in errors.read(1 << 16):
                raise ImportError(f"Keras files need h5py: {install('keras')}")
            raise ValueError(f"the HDF5 library failed (exit code {code})")
        if reply.tell() > MAX_INDEX:
            raise ValueError("it lists too many arrays")
        reply.seek(0)
        found: dict[str, Any] = json.load(reply)
    if "error" in found:
        raise ValueError(found["error"])
    return found


def _version(metadata: bytes) -> str | None:
    found = json.loads(metadata)
    return str(found.get("keras_version")) if isinstance(found, dict) else None


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> IO[bytes]:
    """Open an uncompressed member of a zip, of at most `limit` bytes."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise ValueError(f"it holds {len(found)} members {name}; one is expected")
    [info] = found
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{name} is compressed, which Keras does not do: its size is not bounded")
    if info.file_size > limit:
        raise ValueError(f"{name} has {info.file_size} bytes; at most {limit} are allowed")
    return archive.open(info)
