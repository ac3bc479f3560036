"""Which threads kernels run on: Numba's where those are safe here, else Python's own."""

import ctypes
import functools
import importlib.metadata
import math
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lcnumba.interrupts import deferred
from lcnumba.limits import processors

__all__ = ["count", "layer", "numba_is_safe", "share"]


class _Process:
    """What is known of threads in one process; a forked child begins anew."""

    def __init__(self) -> None:
        self.number = os.getpid()
        self.deciding = threading.Lock()
        self.safe: bool | None = None  # whether kernels may run on Numba's threads, once that is decided
        self.crew: ThreadPoolExecutor | None = None


_process = _Process()
_imported_in = os.getpid()
_begun_in: int | None = None  # the process in which Numba's threads began, once that is known; 0 for some parent


def layer() -> str:
    """Return the threading layer that Numba has taken in this process: tbb, omp or workqueue. It begins by this call.

    Examples
    --------
    >>> from lcnumba import threads
    >>> threads.layer() in ("tbb", "omp", "workqueue")
    True
    """
    import numba

    _begin()
    return str(numba.threading_layer())


def count() -> int:
    """Return how many threads a kernel may take that is called here and now.

    What Numba says, which `numba.set_num_threads` and NUMBA_NUM_THREADS set. By default that is all processors; then no
    more than what control groups allow, since threads beyond wait for each other.

    Examples
    --------
    >>> from lcnumba import threads
    >>> threads.count() >= 1
    True
    """
    import numba

    threads = _begin()
    return min(threads, _allowed()) if threads == numba.config.NUMBA_NUM_THREADS else threads


def numba_is_safe() -> bool:
    """Whether kernels may run on Numba's threads in this process.

    Not on those of its workqueue layer, which ends the process where two parallel functions run at once, be the other
    one a user's. And not in a child that was forked from a process in which they had begun: GNU OpenMP ends such a
    child, and TBB does not vouch for one that was forked by another than the main thread.

    Examples
    --------
    >>> from lcnumba import threads
    >>> threads.numba_is_safe() in (True, False)
    True
    """
    global _process
    if _process.number != os.getpid():
        _process = _Process()
    if _process.safe is None:
        with _process.deciding:
            _process.safe = _decide()
    return _process.safe


def share(kernel: Callable[..., None], slots: int, *arguments: Any) -> None:
    """Run ``kernel(slot, *arguments)`` for each slot: the first one here, others on threads of Python as they come.

    The kernel lets go of the interpreter's lock, and takes its tasks from counters that all slots share. So one slot
    can do the work of those that have not begun when it is done, and nobody waits for a thread that is not to be had.

    Examples
    --------
    >>> from lcnumba.threads import share
    >>> done = []
    >>> share(lambda slot, to: to.append(slot), 2, done)
    >>> 0 in done
    True
    """
    # An interrupt would let go of arrays that other threads still write to.
    with deferred():
        helpers = _helpers(kernel, slots, arguments)
        try:
            kernel(0, *arguments)
        finally:
            errors = [helper.exception() for helper in helpers if not helper.cancel()]
    for error in errors:
        if error is not None:
            raise error


def _helpers(kernel: Callable[..., None], slots: int, arguments: tuple[Any, ...]) -> list[Future[None]]:
    helpers: list[Future[None]] = []
    try:
        crew = _process.crew
        if crew is None:
            with _process.deciding:
                crew = _process.crew = _process.crew or ThreadPoolExecutor(os.cpu_count(), "lcnumba")
        for slot in range(1, slots):
            helpers.append(crew.submit(kernel, slot, *arguments))
    except RuntimeError:
        pass  # no more threads to be had, or the interpreter is about to end: those that there are do it all
    return helpers


def _begin() -> int:
    """Let Numba's threads begin, notice whether they had in a parent of this process, and return how many there are."""
    global _begun_in
    if _begun_in is None:
        import numba
        from numba.np.ufunc import parallel

        forked = _imported_in != os.getpid() or multiprocessing.parent_process() is not None
        inherited = forked and getattr(parallel, "_is_initialized", False)
        _offer_tbb()
        threads = int(numba.get_num_threads())
        _begun_in = 0 if inherited else os.getpid()
        return threads
    return int(sys.modules["numba"].get_num_threads())


def _decide() -> bool:
    return layer() != "workqueue" and _begun_in == os.getpid()


@functools.cache
def _offer_tbb() -> None:
    """Let Numba find TBB if it is installed: Numba asks for it by name alone, and pip puts it where nobody looks."""
    import numba

    if str(numba.config.THREADING_LAYER).lower() not in ("default", "tbb", "safe", "threadsafe", "forksafe"):
        return
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if Path(str(file)).name in ("libtbb.so.12", "libtbb.12.dylib", "tbb12.dll"):
            try:
                ctypes.CDLL(str(Path(str(file.locate())).resolve()))
            except OSError:
                continue
            return


@functools.cache
def _allowed() -> int:
    """Processors by control groups, unless somebody has said how many threads there are to be."""
    allowed = None if "NUMBA_NUM_THREADS" in os.environ else processors()
    return sys.maxsize if allowed is None else max(1, math.ceil(allowed))
