"""Forks: what a fork waits for, and what is reset in the child, where only the forking thread exists."""

# The hook installed last runs first before a fork. logging and concurrent.futures hold locks of their own meanwhile,
# which a thread that imports or compiles may need; so their hooks are installed before ours.
import concurrent.futures.thread  # noqa: F401
import contextlib
import functools
import logging  # noqa: F401
import operator
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["guard", "in_children"]

# Seconds that a fork waits at most: three times what importing Numba (2) and compiling a kernel (3) take, for a busy
# machine. The bound ends a deadlock, where the other thread waits for a lock that the forking one holds.
TIMEOUT = 15.0
# Seconds without an import after which the other threads are taken to have finished: one import follows another.
PAUSE = 0.1

# What the library computes with; Numba imports parts of NumPy when it compiles.
_PACKAGES = ("lcnumba", "llvmlite", "numba", "numpy", "scipy")

_held = threading.local()


def in_children(function: Callable[[], None]) -> Callable[[], None]:
    """Call a function at the start of each forked child, on its only thread.

    Examples
    --------
    >>> from lcnumba.runtime.forks import in_children
    >>> @in_children
    ... def reset():
    ...     print("a child")
    """
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=function)
    return function


@functools.cache
def guard() -> None:
    """Let forks wait for other threads that import Numba or compile; call this before Numba is imported.

    A child forked meanwhile would wait forever for the locks of those threads, and what they left half done in LLVM's
    memory could not be repaired there.

    Examples
    --------
    >>> from lcnumba.runtime.forks import guard
    >>> guard()
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_wait_for_others, after_in_parent=_release, after_in_child=_release)


def _wait_for_others() -> None:
    """Wait until no other thread imports what this library needs, then hold the compiler's locks."""
    if hasattr(_held, "locks"):  # two threads may have called `guard` at once
        return
    _held.locks = []
    end = time.monotonic() + TIMEOUT
    own = set(_modules_of_this_thread())
    last = -PAUSE  # no wait if no import is in progress
    while (now := time.monotonic()) < end:
        if not own.issuperset(_modules_being_imported()):
            last = now
        elif now - last >= PAUSE:
            break
        time.sleep(0.001)
    for lock in _compiler_locks():
        if lock.acquire(timeout=max(0, end - time.monotonic())):
            _held.locks.append(lock)


def _release() -> None:
    # Empty if the hook was installed while this thread was forking.
    for lock in reversed(_held.__dict__.pop("locks", [])):
        lock.release()


def _modules_being_imported() -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PACKAGES and getattr(getattr(module, "__spec__", None), "_initializing", False):
            yield name


def _modules_of_this_thread() -> Iterator[str]:
    """Modules whose code is on this thread's stack: a fork must not wait for its own thread's imports."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back


def _compiler_locks() -> Iterator[Any]:
    """The locks of Numba and llvmlite, in the order in which Numba takes them; none before they are imported."""
    places = (("numba.core.compiler_lock", "global_compiler_lock._lock"), ("llvmlite.binding.ffi", "lib._lock._lock"))
    for module, place in places:
        with contextlib.suppress(AttributeError):
            yield operator.attrgetter(place)(sys.modules.get(module))
