"""Ctrl-C that waits until what must not be cut in half is done."""

import signal
import sys
import threading
from typing import Any, Self

from lcnumba.forks import in_children

__all__ = ["deferred"]


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
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            if self._pending:
                self._previous(*self._pending[-1])

    @property
    def came(self) -> bool:
        """Whether SIGINT came and is held back."""
        return bool(self._pending)

    def _note(self, *event: Any) -> None:
        self._pending.append(event)


@in_children
def _leave_blocks() -> None:
    """Give SIGINT back in a child that is in no block: another thread than the main one has forked it.

    A worker process of multiprocessing's never comes to the end of a block that it was forked in, either.
    """
    block = _innermost()
    if block is None:
        return
    if block._thread != threading.get_ident():
        _give_back(block)
    elif "multiprocessing.util" in sys.modules:
        sys.modules["multiprocessing.util"].register_after_fork(block, _give_back)


def _innermost() -> deferred | None:
    """The block that SIGINT is handled by, if any."""
    block = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return block if isinstance(block, deferred) else None


def _give_back(block: deferred | None) -> None:
    """Let whoever handled SIGINT before all blocks handle it again."""
    while block is not None:
        signal.signal(signal.SIGINT, block._previous)
        block = _innermost()
