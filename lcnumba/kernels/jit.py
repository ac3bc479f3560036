"""The one place that configures Numba, and that guards what its threads cannot bear."""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["parallel"]

Function = TypeVar("Function", bound=Callable[..., None])

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


def parallel(function: Function) -> Function:
    """Compile a kernel whose outer loop is a `prange`.

    nogil: other Python threads go on meanwhile. error_model "numpy": a division by zero gives inf
    where Python would raise, since a kernel must not raise. No fastmath: NaN and inf count.
    cache: the compiled code is kept on disk where a place can be written; kernels call no function
    of another file, because the cache would not see that one change.
    """
    options: Any = {"parallel": True, "nogil": True, "error_model": "numpy"}
    try:
        kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache
        kernel = numba.njit(**options)(function)

    @functools.wraps(function)
    def launch(*arguments: Any) -> None:
        if _threads.process != os.getpid():
            _after_fork()
        if _threads.layer in _CONCURRENT:
            kernel(*arguments)
            return
        with _threads.one_at_a_time:
            kernel(*arguments)
            _threads.layer = _threading_layer()

    return cast("Function", launch)


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
