"""Ctrl-C that waits until what must not be cut in half is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["deferred"]


@contextmanager
def deferred() -> Iterator[None]:
    """Hold SIGINT back until the block is left; then whoever handled it before handles it.

    Outside the main thread, which alone gets signals, nothing is done; nor where SIGINT is ignored or ends the
    process without Python.

    Examples
    --------
    >>> import signal
    >>> from lcnumba.interrupts import deferred
    >>> try:
    ...     with deferred():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("finished")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    finished
    interrupted
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    pending: list[tuple[Any, ...]] = []
    signal.signal(signal.SIGINT, lambda *event: pending.append(event))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if pending:
            previous(*pending[-1])
