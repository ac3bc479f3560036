"""Reading Keras' files, which may come from anywhere: no link is followed, nothing is imported or executed.

What a file declares is compared with what it holds before memory is asked for: a dataset must lie in the
file as large as it claims to be, and no more is read than the file has bytes.
"""

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["KerasFile", "KerasFileError", "Stored"]

Array = npt.NDArray[Any]

# A config of a network of hundreds of layers has some hundred kilobytes.
LONGEST_CONFIG = 1 << 23
MOST_NAMES = 1 << 14
LONGEST_NAMES = 1 << 20
FLOATS = ("f4", "f8")


class KerasFileError(ValueError):
    """A file that is no file of Keras, or one that cannot be trusted or read."""


class Stored:
    """An array in a file, not read yet.

    Attributes
    ----------
    name : str
        Where it lies.
    shape : tuple of int
        Its shape.
    """

    def __init__(self, file: "KerasFile", dataset: Any) -> None:
        self._file, self._dataset = file, dataset
        self.name = str(dataset.name)
        self.shape = tuple(int(size) for size in dataset.shape)
        kind = dataset.dtype
        if kind.kind != "f" or kind.newbyteorder("=").str[1:] not in FLOATS:
            raise ValueError(f"{self.name} has dtype {kind}; weights are float32 or float64")
        declared = int(np.prod(self.shape, dtype=object)) * kind.itemsize
        if dataset.is_virtual or dataset.external or dataset.chunks is not None:
            raise ValueError(f"{self.name} is not stored in one piece in this file, as Keras stores it")
        if dataset.id.get_storage_size() != declared:
            raise ValueError(f"{self.name} declares {declared} bytes and stores {dataset.id.get_storage_size()}")
        self._bytes = declared

    def read(self, shape: tuple[int, ...]) -> Array:
        """Return the array, if it has this shape."""
        if self.shape != tuple(shape):
            raise ValueError(f"{self.name} has shape {self.shape}; the layer needs {tuple(shape)}")
        self._file.spend(self._bytes)
        values = np.empty(self.shape, self._dataset.dtype.newbyteorder("="))
        if values.size:
            self._dataset.read_direct(values)
        return values


class KerasFile:
    """A model or weight file of Keras, as a context manager; every failure is a `KerasFileError`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._stack = contextlib.ExitStack()
        self._left = 0
        self._root: Any = None
        self._config: bytes | None = None

    def __enter__(self) -> Self:
        """Open the file."""
        try:
            with self.refusing():
                self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self._stack.close()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn whatever h5py, zipfile and json make of a foreign or damaged file into one error."""
        try:
            yield
        except (KerasFileError, ImportError, FileNotFoundError, PermissionError, IsADirectoryError):
            raise
        except Exception as error:
            raise KerasFileError(f"{self._path!r} cannot be read: {error}") from error

    def _open(self) -> None:
        try:
            import h5py
        except ImportError as error:
            raise ImportError("files of Keras need h5py: pip install 'lcnumba[keras]'") from error

        plain = self._stack.enter_context(Path(self._path).open("rb"))  # noqa: SIM115 - the stack closes it
        self._left = os.fstat(plain.fileno()).st_size
        content: IO[bytes] = plain
        if plain.read(4) == b"PK\x03\x04":
            archive = self._stack.enter_context(zipfile.ZipFile(plain))
            self._config = _member(archive, "config.json", LONGEST_CONFIG).read()
            content = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
            with _member(archive, "model.weights.h5", self._left) as stored:
                shutil.copyfileobj(stored, content)
        content.seek(0)
        self._root = self._stack.enter_context(h5py.File(content, "r"))
        if self._config is None and "model_config" in self._root.attrs:
            self._config = _text(self._root.attrs, "model_config", LONGEST_CONFIG)

    def spend(self, size: int) -> None:
        """Count bytes that are read; refuse more than the file has, as if one array were linked many times."""
        self._left -= size
        if self._left < 0:
            raise ValueError(f"{self._path!r} describes more weights than it has bytes")

    def config(self) -> dict[str, Any] | None:
        """The config of the model, or None in a file of weights alone."""
        if self._config is None:
            return None
        with self.refusing():
            found = json.loads(self._config)
            if not isinstance(found, dict):
                raise TypeError("its config is no object")
            return found

    def by_name(self) -> list[tuple[str, list[Stored]]] | None:
        """The layers with their arrays in Keras' first format, in its order; None in the other one."""
        with self.refusing():
            root = _child(self._root, "model_weights") if "model_weights" in self._root else self._root
            if not any(str(name).startswith("layer_names") for name in root.attrs):
                return None
            layers = []
            for name in _names(root, "layer_names"):
                group = _child(root, name)
                layers.append((name, [self._stored(group, path) for path in _names(group, "weight_names")]))
            return layers

    def of_layer(self, *path: str) -> list[Stored]:
        """The arrays of a layer in Keras' present format, such as ("layers", "dense_1")."""
        with self.refusing():
            group = self._root
            for part in path:
                group = _child(group, part)
            stored = _child(group, "vars") if "vars" in group else {}
            if len(stored) > MOST_NAMES:
                raise ValueError(f"{'/'.join(path)} has {len(stored)} arrays")
            return [self._stored(stored, str(number)) for number in range(len(stored))]

    def has(self, *path: str) -> bool:
        """Whether there is such a group."""
        with self.refusing():
            group = self._root
            for part in path:
                if part not in group:
                    return False
                group = _child(group, part)
            return True

    def groups(self, *path: str) -> list[str]:
        """Names of what lies in a group."""
        with self.refusing():
            group = self._root
            for part in path:
                group = _child(group, part)
            if len(group) > MOST_NAMES:
                raise ValueError(f"{'/'.join(path)} holds {len(group)} entries")
            return [str(name) for name in group]

    def _stored(self, group: Any, path: str) -> Stored:
        import h5py

        found = group
        for part in path.split("/"):
            found = _child(found, part)
        if not isinstance(found, h5py.Dataset):
            raise TypeError(f"{path!r} is no dataset")
        return Stored(self, found)


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


def _child(group: Any, name: str) -> Any:
    """What lies in a group under a name; links that could lead elsewhere are refused."""
    import h5py

    if not isinstance(group, h5py.Group):
        raise TypeError(f"{group!r} is no group")
    if not name or name == "." or name not in group:
        raise ValueError(f"there is no {name!r} in {group.name!r}")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise TypeError(f"{name!r} in {group.name!r} is a link, which is not followed")
    return group[name]


def _names(group: Any, attribute: str) -> list[str]:
    """A list of names, perhaps in chunks: `attribute`, or `attribute` 0, 1, ..."""
    present = [attribute] if attribute in group.attrs else []
    if not present:
        number = 0
        while f"{attribute}{number}" in group.attrs:
            present.append(f"{attribute}{number}")
            number += 1
    names: list[str] = []
    for part in present:
        identifier = group.attrs.get_id(part)
        count = int(np.prod(identifier.shape, dtype=object))
        if count > MOST_NAMES or count * identifier.dtype.itemsize > LONGEST_NAMES:
            raise ValueError(f"{part} of {group.name!r} is too long")
        if not count:
            continue  # an empty list is stored as numbers
        values = np.asarray(group.attrs[part]).reshape(-1)
        names += [_string(value) for value in values]
    return names


def _text(attributes: Any, name: str, limit: int) -> bytes:
    identifier = attributes.get_id(name)
    if identifier.shape != () or identifier.dtype.itemsize > limit:
        raise ValueError(f"{name} is no text of at most {limit} bytes")
    text = attributes[name]
    encoded = text if isinstance(text, bytes) else _string(text).encode()
    if len(encoded) > limit:
        raise ValueError(f"{name} has {len(encoded)} bytes, and at most {limit} are expected")
    return encoded


def _string(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no name")
    return str(value)
