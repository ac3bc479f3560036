"""The one place that configures Numba: compilation, disk cache, threads."""

import functools
import hashlib
import importlib.util
import logging
import pickle
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils, event
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.extending import intrinsic

from lcnumba import compiling
from lcnumba.interrupts import deferred
from lcnumba.limits import require
from lcnumba.threads import numba_is_safe, share

__all__ = ["array_at", "compiled", "is_usable", "next_task", "specialised", "tasks"]

# nogil: other Python threads go on meanwhile. error_model "numpy": a division by zero gives inf where
# Python would raise, since a kernel must not raise. No fastmath: NaN and inf count.
_OPTIONS = {"nogil": True, "error_model": "numpy"}


# Numbers between the counters of two slots, so that they share no cache line.
PADDING = 16

# What loading or compiling a kernel may take.
LLVM_BYTES = 64 << 20


def tasks(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a kernel: a function ``f(slot, counter, ...)`` that takes its tasks from `next_task`.

    Returns ``launch(..., threads)``, which runs the function in as many slots at once. A slot begins with
    its own share of the tasks, in order, so that neighbours, which read the same lines, meet in one
    core's cache; then it takes what others have not got to, so that a core that is held up delays
    nobody. Each task computes the same whoever takes it. Scratch memory belongs to a slot. With one
    slot the function runs in the calling thread: threads that wait for each other cost more than a
    small kernel itself, and far more where other processes keep the cores busy.
    """
    single = compiled(function)
    threaded = compiled(_renamed(_run_in_slots, f"{function.__name__}_threads"), parallel=True)
    addresses: dict[tuple[Any, ...], int] = {}

    @functools.wraps(function)
    def launch(*arguments: Any, threads: int) -> None:
        counter = np.zeros((threads, PADDING), np.int64)
        if threads == 1 or numba.config.DISABLE_JIT:
            single(0, counter, *arguments)
            return
        if not numba_is_safe():
            share(single, threads, counter, *arguments)
            return
        kinds = tuple([getattr(argument, "dtype", None) for argument in arguments])
        address = addresses.get(kinds)
        if address is None:
            address = addresses[kinds] = _address(single, (0, counter, *arguments))
        threaded(threads, address, counter, *arguments)

    launch.compiled = (single, threaded)  # type: ignore[attr-defined]  # for a look at what was compiled or loaded
    return launch


def compiled(function: Callable[..., Any], parallel: bool = False) -> Callable[..., Any]:
    """Compile a function, and keep the code on disk where a place can be written."""
    dispatcher = numba.njit(parallel=parallel, **_OPTIONS)(function)
    if numba.config.DISABLE_JIT:
        return dispatcher
    # By this name Numba's dispatcher asks for code that is not there yet.
    dispatcher._compile_for_args = _uninterrupted(dispatcher._compile_for_args)
    try:
        dispatcher._cache = _Cache(function)
    except RuntimeError as error:  # no place that can be written, or code that cannot be seen
        logging.getLogger("lcnumba").debug("compiled code is not kept: %s", error)
    return dispatcher


def _uninterrupted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hold signals back while Numba compiles, or loads what it compiled.

    Much of Numba is imported by the first compilation, and what is left half imported cannot be imported again. An
    interrupt between two steps of entering one of its locks leaves that taken, and all other threads waiting.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        with deferred():
            return function(*arguments, **named)

    return run


def _run_in_slots(slots, address, *arguments):
    for slot in prange(0, slots):
        _call(address, slot, *arguments)


@intrinsic
def _call(typingctx, address, slot, *arguments):
    """Call a compiled kernel by its address: Numba would compile the whole kernel again into a caller."""

    def codegen(context, builder, signature, values):
        kinds = (signature.args[1], *signature.args[2])
        kernel = context.call_conv.get_function_type(types.none, kinds).as_pointer()
        rest = cgutils.unpack_tuple(builder, values[2])
        pointer = builder.inttoptr(values[0], kernel)
        context.call_conv.call_function(builder, pointer, types.none, kinds, [values[1], *rest])
        return context.get_dummy_value()

    return types.none(address, slot, types.StarArgTuple(arguments)), codegen


def _address(dispatcher: Any, arguments: tuple[Any, ...]) -> int:
    """The address of a kernel's machine code for arguments of these types."""
    kinds = tuple(numba.typeof(argument) for argument in arguments)
    _uninterrupted(dispatcher.compile)(kinds)
    result = dispatcher.overloads[kinds]
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


@intrinsic
def _fetch_and_add(_, address):
    def codegen(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.intp), codegen


@intrinsic
def _pointer(_, address):
    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), codegen


@numba.njit(**_OPTIONS)
def array_at(address, shape, dtype):
    """The array at an address, which nobody counts references to: passing it on costs nothing."""
    return numba.carray(_pointer(address), shape, dtype)


def next_task(counter, slot, tasks):
    """Return a task, of 0 to tasks - 1, that nobody has taken, from the slot's own share first; or -1."""
    slots = len(counter)
    for turn in range(slots):
        owner = (slot + turn) % slots
        begin, end = owner * tasks // slots, (owner + 1) * tasks // slots
        if counter[owner, 0] < end - begin:
            task = begin + _fetch_and_add(counter.ctypes.data + owner * PADDING * 8)
            if task < end:
                return task
    return -1


def _next_task_interpreted(counter, slot, tasks):
    counter[0, 0] += 1
    return counter[0, 0] - 1 if counter[0, 0] <= tasks else -1


next_task = _next_task_interpreted if numba.config.DISABLE_JIT else numba.njit(**_OPTIONS)(next_task)


def specialised(function: Callable[..., Any], *constants: int) -> Callable[..., Any]:
    """The function, named after the constants that it closes over: the cache on disk goes by names."""
    return _renamed(function, "_".join(map(str, (function.__name__, *constants))))


def _renamed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same function under another name, by which the cache on disk tells functions apart."""
    twin = FunctionType(
        function.__code__.replace(co_name=name), function.__globals__, name, closure=function.__closure__
    )
    twin.__module__, twin.__qualname__ = function.__module__, name
    return twin


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


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function, fresh as long as `_stamp` is, and never a reason to fail."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _CheckedFile(self._cache_path, self._impl.filename_base, _stamp())

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        # Numba adds the bytecode and closure cells; dispatchers in cells make that new every time.
        # The stamp covers the code, and the name the constants that the function closes over.
        return self._py_func.__qualname__, sig, codegen.magic_tuple()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
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


class _Compilations(event.Listener):  # type: ignore[misc]
    """Tells of kernels that are compiled; what Numba compiles for others is none of its business."""

    def on_start(self, event: Any) -> None:
        if _is_ours(event):
            compiling.began(event.data["dispatcher"].py_func.__name__)

    def on_end(self, event: Any) -> None:
        if _is_ours(event):
            compiling.ended(event.data["dispatcher"].py_func.__name__)


def _is_ours(event: Any) -> bool:
    return str(event.data["dispatcher"].py_func.__module__).startswith("lcnumba.")


event.register("numba:compile", _Compilations())
