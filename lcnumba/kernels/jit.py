"""How kernels are compiled and run: their options, the disk cache, tasks on threads."""

import functools
import logging
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils, event
from numba.extending import intrinsic

from lcnumba.kernels.disk_cache import LLVM_BYTES, Cache
from lcnumba.runtime import compilation
from lcnumba.runtime.signals import deferred
from lcnumba.runtime.threads import numba_is_safe, run_on_python_threads

__all__ = ["LLVM_BYTES", "array_at", "compiled", "next_task", "specialised", "tasks"]

# nogil: other Python threads keep running. error_model "numpy": division by zero gives inf instead of raising,
# since a kernel must not raise. No fastmath: it would break NaN and inf.
_OPTIONS = {"nogil": True, "error_model": "numpy"}


# Array elements between the counters of two workers, so that they do not share a cache line.
PADDING = 16


def tasks(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a kernel: a function ``f(worker, counter, ...)`` that gets its tasks from `next_task`.

    Returns ``launch(..., threads)``, which runs the function in that many workers in parallel. A worker starts
    with its own share of the tasks, in order, so that neighbouring tasks, which read the same lines, run on one
    core; then it steals tasks of other workers, so that a slow core delays no other. A task computes the same
    result on every worker. Each worker has scratch memory of its own. A single worker runs in the calling
    thread: synchronising threads costs more than a small kernel, and far more on busy cores.
    """
    single = compiled(function)
    threaded = compiled(_renamed(_run_workers, f"{function.__name__}_threads"), parallel=True)
    addresses: dict[tuple[Any, ...], int] = {}

    @functools.wraps(function)
    def launch(*arguments: Any, threads: int) -> None:
        counter = np.zeros((threads, PADDING), np.int64)
        if threads == 1 or numba.config.DISABLE_JIT:
            single(0, counter, *arguments)
            return
        if not numba_is_safe():
            run_on_python_threads(single, threads, counter, *arguments)
            return
        kinds = tuple([getattr(argument, "dtype", None) for argument in arguments])
        address = addresses.get(kinds)
        if address is None:
            address = addresses[kinds] = _address(single, (0, counter, *arguments))
        threaded(threads, address, counter, *arguments)

    launch.compiled = (single, threaded)  # type: ignore[attr-defined]  # to inspect the compiled code
    return launch


def compiled(function: Callable[..., Any], parallel: bool = False) -> Callable[..., Any]:
    """Compile a function, and cache the code on disk if a folder is writable."""
    dispatcher = numba.njit(parallel=parallel, **_OPTIONS)(function)
    if numba.config.DISABLE_JIT:
        return dispatcher
    # Numba's dispatcher calls this method for types without compiled code.
    dispatcher._compile_for_args = _uninterrupted(dispatcher._compile_for_args)
    try:
        dispatcher._cache = Cache(function)
    except RuntimeError as error:  # no writable folder, or no access to the code of the kernels
        logging.getLogger("lcnumba").debug("compiled code is not cached on disk: %s", error)
    return dispatcher


def _uninterrupted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Defer signals while Numba compiles, or loads compiled code.

    The first compilation imports much of Numba, and a partially imported module cannot be imported again. An
    interrupt while one of its locks is being acquired would leave it locked, and other threads blocked.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        with deferred():
            return function(*arguments, **named)

    return run


def _run_workers(workers, address, *arguments):
    for worker in prange(0, workers):
        _call(address, worker, *arguments)


@intrinsic
def _call(typingctx, address, worker, *arguments):
    """Call a compiled kernel by its address: otherwise Numba would compile it again into the caller."""

    def codegen(context, builder, signature, values):
        kinds = (signature.args[1], *signature.args[2])
        kernel = context.call_conv.get_function_type(types.none, kinds).as_pointer()
        rest = cgutils.unpack_tuple(builder, values[2])
        pointer = builder.inttoptr(values[0], kernel)
        context.call_conv.call_function(builder, pointer, types.none, kinds, [values[1], *rest])
        return context.get_dummy_value()

    return types.none(address, worker, types.StarArgTuple(arguments)), codegen


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
    """The array at an address, without reference counting: passing it on costs nothing."""
    return numba.carray(_pointer(address), shape, dtype)


def next_task(counter, worker, tasks):
    """Return an untaken task in [0, tasks), from the worker's own share first; or -1 if all are taken."""
    workers = len(counter)
    for distance in range(workers):
        owner = (worker + distance) % workers
        begin, end = owner * tasks // workers, (owner + 1) * tasks // workers
        if counter[owner, 0] < end - begin:
            task = begin + _fetch_and_add(counter.ctypes.data + owner * PADDING * 8)
            if task < end:
                return task
    return -1


def _next_task_interpreted(counter, worker, tasks):
    counter[0, 0] += 1
    return counter[0, 0] - 1 if counter[0, 0] <= tasks else -1


next_task = _next_task_interpreted if numba.config.DISABLE_JIT else numba.njit(**_OPTIONS)(next_task)


def specialised(function: Callable[..., Any], *constants: int) -> Callable[..., Any]:
    """The function, renamed after the constants in its closure, since the disk cache identifies functions by name."""
    return _renamed(function, "_".join(map(str, (function.__name__, *constants))))


def _renamed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A copy of the function with another name, which identifies it in the disk cache."""
    copy = FunctionType(
        function.__code__.replace(co_name=name), function.__globals__, name, closure=function.__closure__
    )
    copy.__module__, copy.__qualname__ = function.__module__, name
    return copy


class _Compilations(event.Listener):  # type: ignore[misc]
    """Reports the compilation of our kernels, and ignores other functions that Numba compiles."""

    def on_start(self, event: Any) -> None:
        if _is_ours(event):
            compilation.started(event.data["dispatcher"].py_func.__name__)

    def on_end(self, event: Any) -> None:
        if _is_ours(event):
            compilation.finished(event.data["dispatcher"].py_func.__name__)


def _is_ours(event: Any) -> bool:
    return str(event.data["dispatcher"].py_func.__module__).startswith("lcnumba.")


event.register("numba:compile", _Compilations())
