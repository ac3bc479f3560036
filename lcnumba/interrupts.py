"""Ctrl-C that waits until what must not be cut in half is done."""

import signal
import threading
from typing import Any, Self

from lcnumba.forks import in_children

__all__ = ["deferred"]

_active: list["deferred"] = []  # of the main thread, the innermost last


class deferred:  # noqa: N801 - it is used like a function
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
        self._thread = threading.get_ident()
        previous = signal.getsignal(signal.SIGINT)
        if callable(previous) and threading.current_thread() is threading.main_thread():
            self._previous = previous
            signal.signal(signal.SIGINT, self._note)
            _active.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            _active.remove(self)
            signal.signal(signal.SIGINT, self._previous)
            self.deliver()

    def deliver(self) -> None:
        """Let whoever handled SIGINT before handle it now, if it came: where nothing is half done."""
        if self._pending:
            event = self._pending[-1]
            self._pending.clear()
            self._previous(*event)

    def _note(self, *event: Any) -> None:
        self._pending.append(event)


@in_children
def _forget_the_parents() -> None:
    """Give SIGINT back in a child that another thread than the main one forked: the blocks are none of its own."""
    if _active and _active[0]._thread != threading.get_ident():
        signal.signal(signal.SIGINT, _active[0]._previous)
        _active.clear()
