"""Reading Keras' files, which may come from anywhere: nothing in them is imported, executed or followed.

The HDF5 library looks at a file in a process of its own (`lcnumba.bridges.keras2.index`), which tells where the
arrays lie; here they are read from there. What a file declares is compared with what it holds before memory is
asked for, and no more is read than the file has bytes.
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

__all__ = ["KerasFile", "KerasFileError", "Stored"]


# A config of a network of hundreds of layers has some hundred kilobytes.
LONGEST_CONFIG = 1 << 23
LONGEST_METADATA = 1 << 16
# An index of a thousand layers has a megabyte.
LONGEST_INDEX = 1 << 26
# Seconds that the HDF5 library gets to look at a file; it takes a fraction of one.
PATIENCE = 30
_START = """
import marshal, sys
path, *sys.path[:] = sys.argv[1:]
sys.argv = ["keras_index", path]
exec(marshal.loads(sys.stdin.buffer.read()), {"__name__": "__main__"})
"""


class KerasFileError(ValueError):
    """A file that is no file of Keras, or one that cannot be trusted or read."""


class Stored:
    """An array in a file, not read yet; one that cannot be read is an error only when it is asked for."""

    def __init__(self, file: "KerasFile", entry: dict[str, Any]) -> None:
        self._file, self._entry = file, entry

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape; an error if it cannot be read."""
        if "error" in self._entry:
            raise ValueError(self._entry["error"])
        return tuple(int(size) for size in self._entry["shape"])

    @property
    def label(self) -> str:
        """What Keras' first format calls it, such as "dense/kernel:0"; empty in the present one."""
        return str(self._entry.get("label", ""))

    @property
    def described(self) -> str:
        """Its shape as text, or why it cannot be read."""
        return ascii(self._entry["error"]) if "error" in self._entry else str(self.shape)

    def read(self, shape: tuple[int, ...]) -> Array:
        """Return the array, if it has this shape."""
        if self.shape != tuple(shape):
            raise ValueError(f"{self._entry['name']} has shape {self.shape}; the layer needs {tuple(shape)}")
        dtype, count = np.dtype(self._entry["dtype"]), int(np.prod(self.shape, dtype=object))
        content = self._file.content(int(self._entry["offset"]), count * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(self.shape).astype(dtype.newbyteorder("="))


class KerasFile:
    """A model or weight file of Keras, as a context manager; what it raises of a file is a `KerasFileError`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fsdecode(path)
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes]
        self._left = 0
        self._index: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Open the file."""
        try:
            file = self._opened()
            with self.refusing():
                self._open(file)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self._close()

    def _close(self) -> None:
        with deferred():  # a folder of copies is removed as a whole
            self._stack.close()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn whatever a foreign or damaged file leads to into one error.

        What the file is not to blame for stays what it is: signals wait, so that nothing of theirs is raised in here.
        """
        with deferred():
            try:
                yield
            except (KerasFileError, ImportError):
                raise
            except Exception as error:
                if not contents.is_of_content(error):
                    raise
                raise KerasFileError(f"{self._path!r} cannot be read: {error}") from error

    def _opened(self) -> IO[bytes]:
        if Path(self._path).is_dir():
            what = (
                "Is a directory, a SavedModel of TensorFlow perhaps, which is not read: save the model as .keras or .h5"
            )
            raise IsADirectoryError(errno.EISDIR, what, self._path)
        return self._stack.enter_context(contents.opened(Path(self._path)))

    def _open(self, file: IO[bytes]) -> None:
        found = contents.described(self._path)
        if found is not None and contents.KERAS not in found:
            raise ValueError(f"it is {found}")
        self._left = os.fstat(file.fileno()).st_size
        self._file, path, config, version = file, self._path, None, None
        start = file.read(8)
        if start.startswith(b"PK\x03\x04"):
            archive = self._stack.enter_context(zipfile.ZipFile(file))
            config = _member(archive, "config.json", LONGEST_CONFIG).read().decode()
            if "metadata.json" in archive.namelist():
                version = _version(_member(archive, "metadata.json", LONGEST_METADATA).read())
            path = os.path.join(self._stack.enter_context(tempfile.TemporaryDirectory()), "model.weights.h5")  # noqa: PTH118
            with _member(archive, "model.weights.h5", self._left) as stored, Path(path).open("wb") as copy:
                shutil.copyfileobj(stored, copy)
            self._file = self._stack.enter_context(Path(path).open("rb"))  # noqa: SIM115 - the stack closes it
        elif start != b"\x89HDF\r\n\x1a\n":
            raise ValueError(
                "it is no file of Keras, which are HDF5 files or zips of them, nor any other that is known"
            )
        self._index = _index(path)
        if config is not None:
            self._index["config"], self._index["version"] = config, version

    def content(self, offset: int, size: int) -> bytes:
        """Return bytes of the file; in all no more than it has, as if one array were linked many times."""
        self._left -= size
        if self._left < 0:
            raise ValueError("it describes more weights than it has bytes")
        self._file.seek(offset)
        found = self._file.read(size)
        if len(found) != size:
            raise ValueError(f"it ends within an array, at {offset + len(found)} of {offset + size} bytes")
        return found

    def config(self) -> dict[str, Any] | None:
        """The config of the model, or None in a file of weights alone."""
        if self._index["config"] is None:
            return None
        with self.refusing():
            found = json.loads(self._index["config"])
            if not isinstance(found, dict):
                raise TypeError("its config is no object")
            return found

    @property
    def version(self) -> str | None:
        """The version of Keras that wrote the file, if it says so."""
        return self._index["version"]

    def by_name(self) -> list[tuple[str, list[Stored]]] | None:
        """The layers with their arrays in Keras' first format, in its order; None in the other one."""
        layers = self._index["by_name"]
        with self.refusing():
            return layers and [(name, [Stored(self, entry) for entry in entries]) for name, entries in layers]

    def groups(self) -> list[str]:
        """Where layers lie in Keras' present format, at any depth, such as "layers/dense_1"."""
        return list(self._index["groups"])

    def of_group(self, name: str) -> list[Stored]:
        """The arrays of such a layer."""
        with self.refusing():
            if name not in self._index["groups"]:
                raise ValueError(f"there is no layer {name!r}")
            return [Stored(self, entry) for entry in self._index["groups"][name]]


def _index(path: str) -> dict[str, Any]:
    """What `lcnumba.bridges.keras2.index` tells of a file."""
    if getattr(sys, "frozen", False) or not sys.executable:  # what would be run is the program itself, once more
        raise RuntimeError(
            "it is looked at in a Python process of its own, which a frozen program cannot start; convert it before, "
            "by 'python -m lcnumba convert FILE model.npz', and let the program read that with lcnumba.load"
        )
    # The code as it was imported: there is no file of it in a zip.
    module = "lcnumba.bridges.keras2.index"
    program = marshal.dumps(importlib.util.find_spec(module).loader.get_code(module))  # type: ignore[union-attr]
    # -I, and this process' places of modules: the folder of the file does not decide what is imported.
    places = [place for place in sys.path if place]
    command = [sys.executable, "-I", "-c", _START, str(Path(path).absolute()), *places]
    with tempfile.TemporaryFile() as reply, tempfile.TemporaryFile() as complaints:
        try:
            code = subprocess.run(
                command, input=program, stdout=reply, stderr=complaints, timeout=PATIENCE, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            raise ValueError(f"the HDF5 library did not come to an end with it in {PATIENCE} s") from None
        if code:
            complaints.seek(0)
            if b"No module named 'h5py'" in complaints.read(1 << 16):
                raise ImportError(f"files of Keras need h5py: {install('keras')}")
            raise ValueError(f"the HDF5 library failed on it (exit code {code})")
        if reply.tell() > LONGEST_INDEX:
            raise ValueError("it lists far too many arrays")
        reply.seek(0)
        found: dict[str, Any] = json.load(reply)
    if "error" in found:
        raise ValueError(found["error"])
    return found


def _version(metadata: bytes) -> str | None:
    found = json.loads(metadata)
    return str(found.get("keras_version")) if isinstance(found, dict) else None


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> IO[bytes]:
    """One member of a zip, stored as it is, of at most `limit` bytes."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise ValueError(f"it holds {len(found)} members {name}, not one")
    [info] = found
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{name} is compressed, which could make it larger than the file; Keras does not compress")
    if info.file_size > limit:
        raise ValueError(f"{name} has {info.file_size} bytes, and at most {limit} are expected")
    return archive.open(info)
