"""How kernels are compiled and run: their options, the disk cache, tasks on threads."""

import functools
import logging
import struct
from array import array
from collections.abc import Callable
from operator import itemgetter
from types import FunctionType
from typing import Any

import numba
from numba import prange, types
from numba.core import cgutils, event
from numba.extending import intrinsic

from lcnumba.kernels.disk_cache import LLVM_BYTES, Cache
from lcnumba.kernels.records import Fields, fetch_and_add, int_at
from lcnumba.runtime import compilation
from lcnumba.runtime.signals import deferred
from lcnumba.runtime.threads import numba_is_safe, run_on_python_threads

__all__ = ["LLVM_BYTES", "Kernel", "Launch", "Launches", "call", "code_address", "compiled", "next_task", "specialised"]

# nogil: other Python threads keep running. error_model "numpy": division by zero gives inf instead of raising,
# since a kernel must not raise. No fastmath: it would break NaN and inf.
_OPTIONS = {"nogil": True, "error_model": "numpy"}


# Bytes between the counters of two workers, so that they do not share a cache line.
COUNTER_BYTES = 128
# The bytes before the fields of `each_call`: the counters' address and their number.
_FIRST_BYTES = 16


class Kernel:
    """A kernel: a function ``f(worker, address of its record)`` that gets its tasks from `next_task`.

    A launch runs the function in so many workers in parallel. A worker starts with its own share of the tasks, in
    order, so that neighbouring tasks, which read the same lines, run on one core; then it steals tasks of other
    workers, so that a slow core delays no other. A task computes the same result on every worker. Each worker has
    scratch memory of its own. A single worker runs in the calling thread: synchronising threads costs more than a
    small kernel, and far more on busy cores.
    """

    def __init__(self, function: Callable[[int, int], None], fields: Fields) -> None:
        self.fields = fields
        self.compiled = compiled(function)
        self._address = 0

    def __call__(self, *, threads: int, **values: Any) -> None:
        """Run with a record of these values, while the caller keeps the arrays alive."""
        Launch(self, self.fields.pack(values), threads).run()

    def run(self, address: int, threads: int) -> None:
        """Run with the record at an address."""
        if threads == 1 or numba.config.DISABLE_JIT:
            self.compiled(0, address)
        elif numba_is_safe():
            if not self._address:
                self._address = code_address(self.compiled, 2)
            _drive(threads, self._address, address)
        else:
            run_on_python_threads(self.compiled, threads, address)


class Launch:
    """A copy of a record with the counters of its workers: it can be run again, but by one thread at a time."""

    def __init__(self, kernel: Kernel, record: "array[int]", threads: int) -> None:
        self._kernel, self._threads, names = kernel, threads, kernel.fields.each_call
        if names:
            # In one step for all fields: for a small layer a launch takes longer than its kernel.
            self._pack, self._values = struct.Struct(f"{len(names)}q").pack_into, itemgetter(*names)
        begin = len(record)
        self._record = record + _counters(threads)
        self._at = self._record.buffer_info()[0]
        self._record[0], self._record[1] = self._at + 8 * begin, threads
        self._counters = range(begin, len(self._record), COUNTER_BYTES // 8)

    def run(self, values: dict[str, int] | None = None) -> None:
        """Run the kernel; `values` are the fields of `each_call`."""
        for counter in self._counters:
            self._record[counter] = 0
        if values is not None:
            self._pack(self._record, _FIRST_BYTES, *self._values(values))
        self._kernel.run(self._at, self._threads)


class Launches:
    """Launches of a kernel with the same values of all fields but those of `each_call`.

    They are kept to be run again, by any number of threads: each takes one at a time.

    Parameters
    ----------
    kernel : Kernel
        The kernel.
    threads : int
        Its workers.
    values : dict, optional
        The other fields: integers, and arrays, which this object keeps alive.
    """

    # The largest scratch memory with which a launch is kept.
    KEPT_BYTES = 1 << 16

    def __init__(self, kernel: Kernel, threads: int, values: dict[str, Any] | None = None) -> None:
        self.values, self._kernel, self._threads = values or {}, kernel, threads
        self._record = kernel.fields.template(self.values)
        self._kept: list[tuple[Launch, Any]] = []

    def run(self, values: dict[str, int]) -> None:
        """Run the kernel with these values of the fields of `each_call`."""
        try:
            launch, memory = self._kept.pop()
        except IndexError:
            places, memory = self._scratch()
            record = self._record[:]
            for name, place in places.items():
                record[self._kernel.fields.index[name]] = place
            launch = Launch(self._kernel, record, self._threads)
        launch.run(values)
        if memory is None or memory.nbytes <= self.KEPT_BYTES:
            self._kept.append((launch, memory))

    def _scratch(self) -> tuple[dict[str, int], Any]:
        """The addresses of fields that are scratch memory, by name, and the array that holds it; None for none."""
        return {}, None


@functools.cache
def _counters(workers: int) -> "array[int]":
    return array("q", bytes(COUNTER_BYTES * workers))


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


if numba.config.DISABLE_JIT:
    _functions: dict[int, Callable[..., None]] = {}

    def code_address(function: Any, arguments: int) -> int:
        """A number that stands for a function in `call`."""
        _functions[id(function)] = function
        return id(function)

    def call(address, *arguments):
        """Call the function that the number stands for."""
        _functions[address](*arguments)

else:

    def code_address(function: Any, arguments: int) -> int:
        """The address of the machine code of a compiled function of so many integers that returns nothing."""
        kinds = (types.int64,) * arguments
        if kinds not in function.overloads:
            _uninterrupted(function.compile)(kinds)
        result = function.overloads[kinds]
        return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))

    @intrinsic
    def call(_, address, *arguments):
        """Call a function of integers at an address: the code that calls is compiled once for all that it may call."""
        kinds = (types.int64,) * len(arguments)

        def codegen(context, builder, signature, values):
            function = context.call_conv.get_function_type(types.none, kinds).as_pointer()
            pointer = builder.inttoptr(values[0], function)
            given = [
                context.cast(builder, value, kind, types.int64)
                for value, kind in zip(cgutils.unpack_tuple(builder, values[1]), signature.args[1], strict=True)
            ]
            context.call_conv.call_function(builder, pointer, types.none, kinds, given)
            return context.get_dummy_value()

        return types.none(types.int64, types.StarArgTuple.from_types(arguments)), codegen


def _run_workers(workers, kernel, record):
    for worker in prange(0, workers):
        call(kernel, worker, record)


_drive = compiled(_run_workers, parallel=True)


def next_task(counter, workers, worker, tasks):
    """Return an untaken task in [0, tasks), from the worker's own share first; or -1 if all are taken.

    `counter` and `workers` are the first fields of a record.
    """
    for distance in range(workers):
        owner = (worker + distance) % workers
        begin, end = owner * tasks // workers, (owner + 1) * tasks // workers
        taken = counter + owner * COUNTER_BYTES
        if int_at(taken, 0) < end - begin:
            task = begin + fetch_and_add(taken)
            if task < end:
                return task
    return -1


if not numba.config.DISABLE_JIT:
    next_task = numba.njit(**_OPTIONS)(next_task)


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
