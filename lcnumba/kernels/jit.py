"""The one place that configures Numba, and that guards what its threads cannot bear."""

import functools
import os
import threading
import types
from collections.abc import Callable
from typing import Any

import numba

__all__ = ["parallel"]

# Layers that survive parallel calls from several threads at once. The third one, workqueue, which
# Numba falls back to where neither OpenMP nor TBB is found, aborts the process.
_CONCURRENT = ("omp", "tbb")


class _Threads:
    """What is known of Numba's threads in this process."""

    def __init__(self) -> None:
        self.one_at_a_time = threading.Lock()
        self.layer: str | None = None  # known once a kernel has run
        self.process = os.getpid()


_threads = _Threads()


def parallel(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a kernel whose outer loop is a `prange`, in parallel and, for small work, serially.

    The kernel gets one more argument, `serial`. Threads that wait for each other cost more than a
    small kernel itself, and much more where other processes keep the cores busy. Callers decide it
    from shapes alone; the numbers are the same either way.

    nogil: other Python threads go on meanwhile. error_model "numpy": a division by zero gives inf
    where Python would raise, since a kernel must not raise. No fastmath: NaN and inf count.
    cache: the compiled code is kept on disk where a place can be written; kernels call no function
    of another file, because the cache would not see that one change.
    """
    threaded, single = _compiled(function, True), _compiled(_renamed(function), False)

    @functools.wraps(function)
    def launch(*arguments: Any, serial: bool = False) -> None:
        if serial:
            single(*arguments)
            return
        if _threads.process != os.getpid():
            _after_fork()
        if _threads.layer in _CONCURRENT:
            threaded(*arguments)
            return
        with _threads.one_at_a_time:
            threaded(*arguments)
            _threads.layer = _threading_layer()

    return launch


def _compiled(function: Callable[..., None], in_parallel: bool) -> Callable[..., None]:
    options: Any = {"parallel": in_parallel, "nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache
        return numba.njit(**options)(function)


def _renamed(function: Callable[..., None]) -> Callable[..., None]:
    """The same function under another name: the cache tells functions apart by name, not by options."""
    name = f"{function.__name__}_serial"
    twin = types.FunctionType(function.__code__.replace(co_name=name), function.__globals__, name)
    twin.__module__, twin.__qualname__ = function.__module__, name
    return twin


def _after_fork() -> None:
    """Refuse to run where GNU OpenMP would kill a forked child; else start afresh."""
    if _threads.layer == "omp":
        raise RuntimeError(
            "this process was forked from one that had already computed with OpenMP threads, which would kill it; "
            "start workers with multiprocessing's 'spawn' or 'forkserver', or fork before the first computation"
        )
    _threads.__init__()  # type: ignore[misc]


def _threading_layer() -> str | None:
    try:
        return str(numba.threading_layer())
    except ValueError:  # nothing has run in parallel yet (JIT switched off)
        return None
