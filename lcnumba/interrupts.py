"""Ctrl-C that waits until what must not be cut in half is done."""

import signal
import threading
from contextlib import ContextDecorator
from typing import Any, Self

__all__ = ["deferred"]


class deferred(ContextDecorator):  # noqa: N801 - it is used like a function
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

    def __enter__(self) -> Self:
        self._pending: list[tuple[Any, ...]] = []
        self._previous: Any = None
        previous = signal.getsignal(signal.SIGINT)
        if callable(previous) and threading.current_thread() is threading.main_thread():
            self._previous = previous
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            if self._pending:
                self._previous(*self._pending[-1])

    def _note(self, *event: Any) -> None:
        self._pending.append(event)
