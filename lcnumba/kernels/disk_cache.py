"""Numba's disk cache of compiled code, invalidated when the kernels change."""

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

# Memory that loading or compiling a kernel may need.
LLVM_BYTES = 64 << 20


@functools.cache
def _stamp() -> bytes:
    """Hash of what compiled code depends on: all code of this folder, and the compiler.

    Numba's own stamp covers only the file of the function, and misses changes in the functions it calls. The code
    is read through the import system, since a frozen program or a zip has no source files.

    Raises
    ------
    RuntimeError
        If the code cannot be read.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    package = sys.modules[__package__]
    names = sorted(f"{__package__}.{module.name}" for module in pkgutil.iter_modules(package.__path__))
    if __name__ not in names:
        raise RuntimeError(f"cannot list the modules of {__package__}")
    for name in [__package__, *names]:
        try:
            code = importlib.util.find_spec(name).loader.get_code(name)  # type: ignore[union-attr]
        except (AttributeError, ImportError, OSError) as error:
            raise RuntimeError(f"cannot read the code of {name}") from error
        digest.update(f"{name} {_content(code)!r}".encode())
    return digest.digest()


def _content(constant: Any) -> Any:
    """The part of a constant that affects behaviour: of a code object all but its file and line numbers."""
    if isinstance(constant, CodeType):
        numbers = (constant.co_flags, constant.co_argcount, constant.co_posonlyargcount, constant.co_kwonlyargcount)
        names = (constant.co_name, constant.co_names, constant.co_varnames, constant.co_freevars, constant.co_cellvars)
        inner = tuple(_content(each) for each in constant.co_consts)
        return constant.co_code, constant.co_exceptiontable, numbers, names, inner
    if isinstance(constant, tuple):
        return tuple(_content(each) for each in constant)
    return sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant


class Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, valid while `_stamp` is unchanged. A failing cache never raises."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFile(self._cache_path, self._impl.filename_base, _stamp())

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # Numba's key includes closure cells, which differ in each process if they hold dispatchers. Here the stamp
        # covers the code, and the qualified name the constants in the closure.
        return self._py_func.__qualname__, sig, codegen.magic_tuple()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load compiled code if it is cached."""
        # LLVM, which runs next, aborts the process if it runs out of memory.
        require(LLVM_BYTES, "compiling", "free some, or call the layer once while memory is available")
        return super().load_overload(sig, target_context)

    def _save_overload(self, sig: Any, data: Any) -> None:
        try:
            super()._save_overload(sig, data)
        except OSError as error:  # the disk is full, or the folder has become read-only
            logging.getLogger("lcnumba").debug("compiled code is not cached on disk: %s", error)


class _CheckedFile(IndexDataCacheFile):  # type: ignore[misc]
    """The cache files of one function, each with a checksum: corrupted machine code could crash the process.

    The checksum includes the stamp, so that files of another version of Numba are never unpickled: modules that they
    refer to may be missing.
    """

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))  # two processes may have chosen the same file name for different keys

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
            raise OSError(f"{path} is corrupted or of another version")  # which the cache treats as missing
        return data


def is_usable(file: Path) -> bool:
    """Whether a file of compiled code is intact and of this version."""
    return _read(file) is not None


def _read(file: Path) -> bytes | None:
    """The content of a file after its checksum; None if it is corrupted or of another version."""
    content = file.read_bytes()
    digest, data = content[:32], content[32:]
    return data if digest == _digest(data) else None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(_stamp() + data).digest()
