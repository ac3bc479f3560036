"""Notice of the compilation of kernels, which takes seconds at the first call: for the log and progress bars."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["NOTICE", "finished", "listening", "started"]

# What listeners display.
NOTICE = "compiling kernels (seconds, once; the code is kept on disk)"

_log = logging.getLogger("lcnumba")
_listeners: list[Callable[[], None]] = []
# Start times of the compilations under way, which nest: a kernel compiles what it calls. Guarded by Numba's lock.
_start_times: list[float] = []


@contextmanager
def listening(listener: Callable[[], None]) -> Iterator[None]:
    """Call a function at the start of each compilation of a kernel, until the block ends.

    It must not compile anything itself.

    Examples
    --------
    >>> from lcnumba.runtime import compilation
    >>> with compilation.listening(lambda: print("compiling kernels")):
    ...     compilation.started("forward")
    ...     compilation.finished("forward")
    compiling kernels
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def started(kernel: str) -> None:
    """Record that the compilation of a kernel starts."""
    _start_times.append(time.monotonic())
    if len(_start_times) == 1:
        _log.info("compiling kernel %s: seconds, once; the code is kept on disk", kernel)
        for listener in tuple(_listeners):
            listener()


def finished(kernel: str) -> None:
    """Record that it has finished."""
    if not _start_times:  # an interrupt came before the start was recorded
        return
    seconds = time.monotonic() - _start_times.pop()
    if not _start_times:
        _log.debug("compiled kernel %s in %.1f s", kernel, seconds)
