"""Who is told that kernels are being compiled, which takes seconds at the first call: the log, and progress bars."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["NOTICE", "began", "ended", "told"]

# What listeners show to people.
NOTICE = "compiling kernels (seconds, once; the code is kept on disk)"

_log = logging.getLogger("lcnumba")
_listeners: list[Callable[[], None]] = []
# When each compilation began that is under way: a kernel compiles what it calls. Under Numba's lock.
_begun: list[float] = []


@contextmanager
def told(listener: Callable[[], None]) -> Iterator[None]:
    """Call a function whenever the compilation of a kernel begins, until the block is left.

    It must not compile anything itself.

    Examples
    --------
    >>> from lcnumba.runtime import compilation
    >>> with compilation.told(lambda: print("compiling kernels")):
    ...     compilation.began("forward")
    ...     compilation.ended("forward")
    compiling kernels
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def began(kernel: str) -> None:
    """Tell that the compilation of a kernel begins."""
    _begun.append(time.monotonic())
    if len(_begun) == 1:
        _log.info("compiling kernel %s: seconds, once; the code is kept on disk", kernel)
        for listener in tuple(_listeners):
            listener()


def ended(kernel: str) -> None:
    """Tell that it has ended."""
    if not _begun:  # an interrupt may have come before the beginning was noted
        return
    seconds = time.monotonic() - _begun.pop()
    if not _begun:
        _log.debug("compiled kernel %s in %.1f s", kernel, seconds)
