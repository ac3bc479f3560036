"""Which threads kernels run on: Numba's where those are safe here, else Python's own."""

import ctypes
import functools
import importlib.metadata
import math
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lcnumba.runtime.forks import guard, in_children
from lcnumba.runtime.memory import processors
from lcnumba.runtime.signals import deferred, import_whole

__all__ = ["count", "numba_is_safe", "share", "threading_layer"]


@import_whole
def _numba() -> Any:
    guard()
    import numba

    return numba


def _numba_has_begun() -> bool:
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    return bool(getattr(parallel, "_is_initialized", parallel is not None))


class _Process:
    """What is known of threads in this process."""

    def __init__(self) -> None:
        # Threads that had begun before this library saw the process may have begun in a parent.
        self.inherited = _numba_has_begun()
        self.deciding = threading.RLock()  # reentrant, for finalizers that come in the middle
        self.startable: bool | None = None  # whether Numba's threads can begin, once that is known
        self.safe: bool | None = None  # whether kernels may run on them, once that is decided
        self.by_caller = False  # whether each thread that calls has some of its own
        self.crew: ThreadPoolExecutor | None = None


_process = _Process()
_caller = threading.local()


@in_children
def _begin_anew() -> None:
    global _process
    _process = _Process()


def threading_layer() -> str:
    """Return the threading layer that Numba has taken in this process: tbb, omp or workqueue. It begins by this call.

    "none" if no threads can be started.

    Raises
    ------
    RuntimeError
        If Numba cannot load the one that was chosen.

    Examples
    --------
    >>> from lcnumba.runtime import threads
    >>> threads.threading_layer() in ("tbb", "omp", "workqueue", "none")
    True
    """
    numba = _numba()

    _start_numbas()
    return str(numba.threading_layer()) if _numba_has_begun() else "none"


def count() -> int:
    """Return how many threads a kernel may take that is called here and now.

    What Numba says, which `numba.set_num_threads` and NUMBA_NUM_THREADS set. By default that is all processors; then no
    more than what control groups allow, since threads beyond wait for each other.

    Examples
    --------
    >>> from lcnumba.runtime import threads
    >>> threads.count() >= 1
    True
    """
    numba = _numba()

    threads = _start_numbas()
    return min(threads, _allowed()) if threads == numba.config.NUMBA_NUM_THREADS else threads


def numba_is_safe() -> bool:
    """Whether kernels may run on Numba's threads in this process.

    Not on those of its workqueue layer, which ends the process where two parallel functions run at once, be the other
    one a user's. And not in a child that was forked from a process in which they had begun: GNU OpenMP ends such a
    child, and TBB does not vouch for one that was forked by another than the main thread. If they had begun before the
    library was imported, it cannot be known in which process. And not where they cannot be started: GNU OpenMP, which
    has other ones for each thread that calls, ends a process that has no more threads to give.

    Examples
    --------
    >>> from lcnumba.runtime import threads
    >>> threads.numba_is_safe() in (True, False)
    True
    """
    process = _process
    if process.safe is None:
        if process.deciding._is_owned():  # type: ignore[attr-defined]
            return False  # for a finalizer that came in the middle of the following
        with deferred(), process.deciding:
            layer = threading_layer()
            process.by_caller = layer == "omp"
            process.safe = not process.inherited and layer in ("omp", "tbb")
    return process.safe and (not process.by_caller or _has_threads(process))


def share(kernel: Callable[..., None], slots: int, *arguments: Any) -> None:
    """Run ``kernel(slot, *arguments)`` for each slot: the first one here, others on threads of Python as they come.

    The kernel lets go of the interpreter's lock, and takes its tasks from counters that all slots share. So one slot
    can do the work of those that have not begun when it is done, and nobody waits for a thread that is not to be had.

    Examples
    --------
    >>> from lcnumba.runtime.threads import share
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
    process = _process
    helpers: list[Future[None]] = []
    if getattr(_caller, "is_sharing", False):
        return helpers
    # The pool has locks that a finalizer must not ask for if it comes in the middle of this; nor on the pool's threads.
    _caller.is_sharing = True
    try:
        crew = process.crew
        if crew is None:
            with process.deciding:
                crew = process.crew = process.crew or ThreadPoolExecutor(os.cpu_count(), "lcnumba")
        for slot in range(1, slots):
            # Made here, since what could not be begun stays in the line of work: whoever takes it up must be told.
            helper: Future[None] = Future()
            helpers.append(helper)
            crew.submit(_help, helper, kernel, slot, arguments)
    except RuntimeError:  # no more threads to be had, or the interpreter is about to end: those that there are do it
        process.crew = None  # with its line of work, which holds arrays
    finally:
        _caller.is_sharing = False
    return helpers


def _help(helper: Future[None], kernel: Callable[..., None], slot: int, arguments: tuple[Any, ...]) -> None:
    _caller.is_sharing = True
    if not helper.set_running_or_notify_cancel():
        return
    try:
        kernel(slot, *arguments)
    except BaseException as error:  # noqa: BLE001 - it is raised where the kernel was shared
        helper.set_exception(error)
    else:
        helper.set_result(None)


def _start_numbas() -> int:
    """Let Numba's threads begin, unless they have, and return how many there are."""
    numba = _numba()

    if _numba_has_begun():
        # numba.get_num_threads takes two locks each time. In a forked child one of them may be held by a thread that is
        # not there; the other is shared by all forked processes, and one that is killed meanwhile holds it for ever.
        parallel = sys.modules["numba.np.ufunc.parallel"]
        return int(getattr(parallel, "_get_num_threads", numba.get_num_threads)())
    process = _process
    if process.startable is None:
        process.startable = _can_be_started(numba.config.NUMBA_NUM_THREADS - 1)
    if not process.startable:
        return int(numba.config.NUMBA_NUM_THREADS)
    _offer_tbb()
    try:
        with deferred():
            return int(numba.get_num_threads())
    except ValueError as error:
        raise RuntimeError(
            f"Numba cannot load the threading layer {numba.config.THREADING_LAYER!r}, which was chosen by "
            f"NUMBA_THREADING_LAYER or numba.config; choose none, or install it (tbb: pip install 'lcnumba[threads]')"
        ) from error


def _has_threads(process: _Process) -> bool:
    """Whether the thread that calls has OpenMP's threads, or can have them."""
    if getattr(_caller, "process", None) is not process:
        numba = _numba()

        # Also remembered where they cannot be: trying takes all threads that there are to be had.
        _caller.can = _can_be_started(numba.config.NUMBA_NUM_THREADS - 1)
        _caller.process = process
    return bool(_caller.can)


def _can_be_started(number: int) -> bool:
    """Whether so many more threads can be started, found by starting them.

    Limits cannot tell: besides pids.max and RLIMIT_NPROC (which counts all processes of the user, in other containers
    too, and does not hold for root), stacks need address space (RLIMIT_AS), mappings and memory.
    """
    gate, started = threading.Event(), []
    with deferred():
        try:
            for _ in range(number):
                thread = threading.Thread(target=gate.wait)
                thread.start()
                started.append(thread)
        except RuntimeError:
            return False
        finally:
            gate.set()
            for thread in started:
                thread.join()
    return True


@functools.cache
def _offer_tbb() -> None:
    """Let Numba find TBB if it is installed: Numba asks for it by name alone, and pip puts it where nobody looks."""
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
def _allowed() -> int:
    """Processors by control groups, unless somebody has said how many threads there are to be."""
    allowed = None if "NUMBA_NUM_THREADS" in os.environ else processors()
    return sys.maxsize if allowed is None else max(1, math.ceil(allowed))
