"""What a fork waits for, and what begins anew in the child, where none of its parent's other threads exist."""

import concurrent.futures.thread  # noqa: F401 - see below
import contextlib
import logging  # noqa: F401 - see below
import operator
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["in_children"]

# Seconds that a fork waits for other threads.
PATIENCE = 60.0

_held = threading.local()


def in_children(function: Callable[[], None]) -> Callable[[], None]:
    """Let a function run in each child that is forked from now on, before anything else does and on its only thread.

    Examples
    --------
    >>> from lcnumba.runtime.forks import in_children
    >>> @in_children
    ... def begin_anew():
    ...     print("a child")
    """
    if hasattr(os, "register_at_fork"):  # Windows does not fork
        os.register_at_fork(after_in_child=function)
    return function


def _let_others_finish() -> None:
    """Wait until no other thread imports this library or Numba, or compiles, and let none begin to compile.

    A child that was forked meanwhile would wait for ever for the locks of those threads, and what they leave half done
    in LLVM's memory could not be mended there. Not for ever, since a lock that another library holds while it forks may
    be what such a thread waits for.
    """
    _held.locks = []
    end = time.monotonic() + PATIENCE
    mine = set(_modules_begun_here())
    while not mine.issuperset(_modules_begun()) and time.monotonic() < end:
        time.sleep(0.001)
    for lock in _compilers_locks():
        if lock.acquire(timeout=max(0, end - time.monotonic())):
            _held.locks.append(lock)


def _let_others_go_on() -> None:
    for lock in reversed(_held.locks):
        lock.release()


def _modules_begun() -> Iterator[str]:
    """Modules of ours and Numba's that some thread is about to import."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("lcnumba", "numba")) and getattr(getattr(module, "__spec__", None), "_initializing", False):
            yield name


def _modules_begun_here() -> Iterator[str]:
    """Modules whose functions and imports this thread is in."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame.f_globals.get("__name__", "")
        frame = frame.f_back


def _compilers_locks() -> Iterator[Any]:
    """Numba's lock and llvmlite's, in the order in which Numba takes them; none before they are imported."""
    places = (("numba.core.compiler_lock", "global_compiler_lock._lock"), ("llvmlite.binding.ffi", "lib._lock._lock"))
    for module, place in places:
        with contextlib.suppress(AttributeError):
            yield operator.attrgetter(place)(sys.modules.get(module))


# What is registered later comes first before a fork. So the modules above are imported before, which hold locks of
# their own while a process forks: a thread that imports or compiles may ask for those, and would never finish.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_let_others_finish, after_in_parent=_let_others_go_on, after_in_child=_let_others_go_on)
