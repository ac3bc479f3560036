"""The one place that configures Numba: compilation, disk cache, threads."""

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

# nogil: other Python threads go on meanwhile. error_model "numpy": a division by zero gives inf where
# Python would raise, since a kernel must not raise. No fastmath: NaN and inf count.
_OPTIONS = {"nogil": True, "error_model": "numpy"}


# Numbers between the counters of two slots, so that they share no cache line.
PADDING = 16


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
            run_on_python_threads(single, threads, counter, *arguments)
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
        dispatcher._cache = Cache(function)
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


class _Compilations(event.Listener):  # type: ignore[misc]
    """Tells of kernels that are compiled; what Numba compiles for others is none of its business."""

    def on_start(self, event: Any) -> None:
        if _is_ours(event):
            compilation.started(event.data["dispatcher"].py_func.__name__)

    def on_end(self, event: Any) -> None:
        if _is_ours(event):
            compilation.finished(event.data["dispatcher"].py_func.__name__)


def _is_ours(event: Any) -> bool:
    return str(event.data["dispatcher"].py_func.__module__).startswith("lcnumba.")


event.register("numba:compile", _Compilations())
