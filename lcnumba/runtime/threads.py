"""Which threads kernels run on: Numba's where these are safe, else a pool of Python's."""

import contextlib
import ctypes
import functools
import importlib.metadata
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lcnumba.runtime.forks import guard, in_children
from lcnumba.runtime.memory import processors
from lcnumba.runtime.signals import deferred, import_whole

__all__ = ["count", "numba_is_safe", "run_on_python_threads", "threading_layer"]

# How often GNU OpenMP's threads look for work before they sleep: for some 50 to 200 microseconds, which bridge the
# kernels of a step. By default it is 300,000 times, or 4 to 14 ms, for which BLAS' threads find no processor: on two, a
# step of a small model with a `Dense` layer took 8 ms instead of 3.
_SPINS = "5000"


@import_whole
def _numba() -> Any:
    guard()
    import numba

    return numba


def _numba_threads_started() -> bool:
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(parallel, "_is_initialized", parallel is not None))


class _Process:
    """What is known about threads in this process."""

    def __init__(self) -> None:
        # Threads started before this library was loaded may have been started in a parent process.
        self.inherited = _numba_threads_started()
        self.lock = threading.RLock()  # reentrant, for finalizers
        self.startable: bool | None = None  # whether Numba's threads can be started; None: not known yet
        self.safe: bool | None = None  # whether kernels may run on them; None: not decided yet
        self.per_caller = False  # whether each calling thread has a team of its own
        self.pool: ThreadPoolExecutor | None = None


_process = _Process()
_caller = threading.local()


@in_children
def _reset() -> None:
    global _process
    _process = _Process()


def threading_layer() -> str:
    """Return the threading layer that Numba uses in this process, tbb, omp or workqueue, and start its threads.

    "none" if no threads can be started.

    Raises
    ------
    RuntimeError
        If Numba cannot load the selected layer.

    Examples
    --------
    >>> from lcnumba.runtime import threads
    >>> threads.threading_layer() in ("tbb", "omp", "workqueue", "none")
    True
    """
    numba = _numba()

    _start_numba_threads()
    return str(numba.threading_layer()) if _numba_threads_started() else "none"


def count() -> int:
    """Return how many threads a kernel called here may use.

    This is Numba's number, set by `numba.set_num_threads` or NUMBA_NUM_THREADS. By default that is all processors, then
    limited to what control groups allow, since more threads would wait for each other.

    Examples
    --------
    >>> from lcnumba.runtime import threads
    >>> threads.count() >= 1
    True
    """
    numba = _numba()

    threads = _start_numba_threads()
    return min(threads, _cgroup_limit()) if threads == numba.config.NUMBA_NUM_THREADS else threads


def numba_is_safe() -> bool:
    """Whether kernels may run on Numba's threads in this process.

    They may not:

    - under workqueue, which aborts the process if two parallel functions run at once, even if one is the user's;
    - in a child forked after they were started: GNU OpenMP aborts it, and TBB supports forks by the main thread alone;
    - if they were started before this library was imported, since that may have been in a parent process;
    - where they cannot be started: GNU OpenMP, which has a team for each calling thread, aborts the process.

    Examples
    --------
    >>> from lcnumba.runtime import threads
    >>> threads.numba_is_safe() in (True, False)
    True
    """
    process = _process
    if process.safe is None:
        if process.lock._is_owned():  # type: ignore[attr-defined]
            return False  # called by a finalizer that runs inside the following block
        with deferred(), process.lock:
            layer = threading_layer()
            process.per_caller = layer == "omp"
            process.safe = not process.inherited and layer in ("omp", "tbb")
    return process.safe and (not process.per_caller or _caller_has_threads(process))


def run_on_python_threads(kernel: Callable[..., None], workers: int, *arguments: Any) -> None:
    """Run ``kernel(worker, *arguments)`` for each worker: number 0 here, the others on Python's threads when available.

    The kernel releases the GIL and takes its tasks from a counter shared by all workers. So one worker can do the work
    of those that have not started, and no call waits for a thread that is busy elsewhere.

    Examples
    --------
    >>> from lcnumba.runtime.threads import run_on_python_threads
    >>> done = []
    >>> run_on_python_threads(lambda worker, to: to.append(worker), 2, done)
    >>> 0 in done
    True
    """
    # An interrupt would release arrays that other threads still write to.
    with deferred():
        futures = _submitted(kernel, workers, arguments)
        try:
            kernel(0, *arguments)
        finally:
            errors = [future.exception() for future in futures if not future.cancel()]
    for error in errors:
        if error is not None:
            raise error


def _submitted(kernel: Callable[..., None], workers: int, arguments: tuple[Any, ...]) -> list[Future[None]]:
    process = _process
    futures: list[Future[None]] = []
    if getattr(_caller, "is_submitting", False):
        return futures
    # The pool's locks are not reentrant: a finalizer that runs in here must not submit, nor must the pool's threads.
    _caller.is_submitting = True
    try:
        pool = process.pool
        if pool is None:
            with process.lock:
                pool = process.pool = process.pool or ThreadPoolExecutor(os.cpu_count(), "lcnumba")
        for worker in range(1, workers):
            # Created here, because `submit` leaves the work in the queue even if it raises: so it can be cancelled.
            future: Future[None] = Future()
            futures.append(future)
            pool.submit(_run, future, kernel, worker, arguments)
    except RuntimeError:  # no more threads can be started, or the interpreter is shutting down: those that run will do
        process.pool = None  # and its queue, which holds arrays
    finally:
        _caller.is_submitting = False
    return futures


def _run(future: Future[None], kernel: Callable[..., None], worker: int, arguments: tuple[Any, ...]) -> None:
    _caller.is_submitting = True
    if not future.set_running_or_notify_cancel():
        return
    try:
        kernel(worker, *arguments)
    except BaseException as error:  # noqa: BLE001 - raised by the thread that submitted it
        future.set_exception(error)
    else:
        future.set_result(None)


def _start_numba_threads() -> int:
    """Start Numba's threads unless they run, and return their number."""
    numba = _numba()

    if _numba_threads_started():
        # numba.get_num_threads takes two locks. In a forked child one may be held by a thread of the parent; the other
        # is shared between forked processes, and one that is killed meanwhile holds it forever.
        parallel = sys.modules["numba.np.ufunc.parallel"]
        return int(getattr(parallel, "_get_num_threads", numba.get_num_threads)())
    process = _process
    if process.startable is None:
        process.startable = _can_start_threads(numba.config.NUMBA_NUM_THREADS - 1)
    if not process.startable:
        return int(numba.config.NUMBA_NUM_THREADS)
    _load_tbb()
    try:
        with deferred(), _short_spins():
            return int(numba.get_num_threads())
    except ValueError as error:
        raise RuntimeError(
            f"Numba cannot load the threading layer {numba.config.THREADING_LAYER!r}, set by NUMBA_THREADING_LAYER or "
            f"numba.config; unset it, or install that layer (tbb: pip install 'lcnumba[threads]')"
        ) from error


@contextlib.contextmanager
def _short_spins() -> Iterator[None]:
    """Let GNU OpenMP, which reads its settings as it is loaded, spin for a short time, unless the user has set that."""
    name = "GOMP_SPINCOUNT"
    if name in os.environ or "OMP_WAIT_POLICY" in os.environ:
        yield
        return
    os.environ[name] = _SPINS
    try:
        yield
    finally:
        del os.environ[name]


def _caller_has_threads(process: _Process) -> bool:
    """Whether the calling thread has an OpenMP team, or can start one."""
    if getattr(_caller, "process", None) is not process:
        numba = _numba()

        # A failure is cached, too: each probe briefly takes all threads that are left.
        _caller.can = _can_start_threads(numba.config.NUMBA_NUM_THREADS - 1)
        _caller.process = process
    return bool(_caller.can)


def _can_start_threads(number: int) -> bool:
    """Whether so many more threads can be started, found by starting them.

    Limits cannot tell: besides pids.max and RLIMIT_NPROC (which counts all processes of the user, in other containers
    too, and does not hold for root), stacks need address space (RLIMIT_AS), mappings and memory.
    """
    release, started = threading.Event(), []
    with deferred():
        try:
            for _ in range(number):
                thread = threading.Thread(target=release.wait)
                thread.start()
                started.append(thread)
        except RuntimeError:
            return False
        finally:
            release.set()
            for thread in started:
                thread.join()
    return True


@functools.cache
def _load_tbb() -> None:
    """Load TBB if it is installed: pip puts it where the loader does not search, and Numba loads it by name alone."""
    numba = _numba()

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
def _cgroup_limit() -> int:
    """Processors by control groups, unless NUMBA_NUM_THREADS is set."""
    limit = None if "NUMBA_NUM_THREADS" in os.environ else processors()
    return sys.maxsize if limit is None else max(1, math.ceil(limit))
