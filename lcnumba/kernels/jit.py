"""The one place that configures Numba."""

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["parallel"]

Function = TypeVar("Function", bound=Callable[..., None])

# Layers that survive parallel calls from several threads at once. The third one, workqueue, which
# Numba falls back to where neither OpenMP nor TBB is found, aborts the process.
_CONCURRENT = ("omp", "tbb")
_one_at_a_time = threading.Lock()
_concurrent = False


def parallel(function: Function) -> Function:
    """Compile a kernel whose outer loop is a `prange`.

    nogil: other Python threads go on meanwhile. error_model "numpy": a division by zero gives inf
    where Python would raise, since a kernel must not raise. No fastmath: NaN and inf count.
    cache: the compiled code is kept on disk where a place can be written; kernels call no function
    of another file, because the cache would not see that one change.
    """
    options = {"parallel": True, "nogil": True, "error_model": "numpy"}
    try:
        kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache
        kernel = numba.njit(**options)(function)

    @functools.wraps(function)
    def launch(*arguments: Any) -> None:
        if _concurrent:
            kernel(*arguments)
        else:
            with _one_at_a_time:
                kernel(*arguments)
                _note_threading_layer()

    return cast("Function", launch)


def _note_threading_layer() -> None:
    """Let launches overlap once the threading layer is known to bear it."""
    global _concurrent
    try:
        _concurrent = numba.threading_layer() in _CONCURRENT
    except ValueError:  # nothing has run in parallel yet (JIT switched off)
        _concurrent = False
