"""Numba's cache of compiled code on disk, held to the library's own sources."""

import functools
import hashlib
import importlib.util
import logging
import pickle
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

from lcnumba.runtime.memory import require

__all__ = ["LLVM_BYTES", "Cache", "is_usable"]

# What loading or compiling a kernel may take.
LLVM_BYTES = 64 << 20


@functools.cache
def _stamp() -> bytes:
    """What compiled code depends on: all code of this folder, and the compiler.

    Numba's own stamp is the file of the function alone, and misses changes in what it calls. It is
    read from whatever it was imported from, since in a frozen program or a zip there are no files.

    Raises
    ------
    RuntimeError
        If the code cannot be seen.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = sys.modules[__package__]
    names = sorted(f"{__package__}.{module.name}" for module in pkgutil.iter_modules(package.__path__))
    if __name__ not in names:
        raise RuntimeError(f"the modules of {__package__} cannot be listed")
    for name in [__package__, *names]:
        try:
            code = importlib.util.find_spec(name).loader.get_code(name)  # type: ignore[union-attr]
        except (AttributeError, ImportError, OSError) as error:
            raise RuntimeError(f"the code of {name} cannot be seen") from error
        digest.update(f"{name} {_content(code)!r}".encode())
    return digest.digest()


def _content(constant: Any) -> Any:
    """What of a constant of code decides what it does: of code itself all but where it lies."""
    if isinstance(constant, CodeType):
        numbers = (constant.co_flags, constant.co_argcount, constant.co_posonlyargcount, constant.co_kwonlyargcount)
        names = (constant.co_name, constant.co_names, constant.co_varnames, constant.co_freevars, constant.co_cellvars)
        inner = tuple(_content(each) for each in constant.co_consts)
        return constant.co_code, constant.co_exceptiontable, numbers, names, inner
    if isinstance(constant, tuple):
        return tuple(_content(each) for each in constant)
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant


class Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, fresh as long as `_stamp` is, and never a reason to fail."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFile(self._cache_path, self._impl.filename_base, _stamp())

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # Numba adds the bytecode and closure cells; dispatchers in cells make that new every time.
        # The stamp covers the code, and the name the constants that the function closes over.
        return self._py_func.__qualname__, sig, codegen.magic_tuple()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Read compiled code, if there is any."""
        # LLVM, which is asked next, ends the process where it gets no memory.
        require(LLVM_BYTES, "compiling", "free some, or call the layer once before memory is short")
        return super().load_overload(sig, target_context)

    def _save_overload(self, sig: Any, data: Any) -> None:
        try:
            super()._save_overload(sig, data)
        except OSError as error:  # a full disk, or a folder that has become read-only
            logging.getLogger("lcnumba").debug("compiled code is not kept: %s", error)


class _CheckedFile(IndexDataCacheFile):  # type: ignore[misc]
    """The files of one function, each behind a checksum: damaged machine code could kill the process.

    The stamp is part of what is summed up, so that what another version of Numba wrote is never unpickled, which may
    fail for want of a module.
    """

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))  # two processes may have chosen one file name for two keys

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return found[1] if found is not None and found[0] == key else None

    def _load_index(self) -> dict[Any, str]:
        try:
            return pickle.loads(self._checked(self._index_path))
        except OSError:
            return {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        with self._open_for_write(self._index_path) as file:
            file.write(self._dump(overloads))

    def _load_data(self, name: str) -> Any:
        return pickle.loads(self._checked(self._data_path(name)))

    def _dump(self, obj: Any) -> bytes:
        data = super()._dump(obj)
        return _digest(data) + data

    def _checked(self, path: str) -> bytes:
        data = _read(Path(path))
        if data is None:
            raise OSError(f"{path} is damaged, or of another version")  # which the cache takes for a missing file
        return data


def is_usable(file: Path) -> bool:
    """Whether a file of compiled code is whole, and of this version."""
    return _read(file) is not None


def _read(file: Path) -> bytes | None:
    """What a file holds behind its checksum; None if it is damaged, or of another version."""
    content = file.read_bytes()
    digest, data = content[:32], content[32:]
    return data if digest == _digest(data) else None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(_stamp() + data).digest()
