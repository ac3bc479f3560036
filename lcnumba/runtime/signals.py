"""Deferred signals: for code that must not be interrupted."""

import _signal  # type: ignore[import-not-found]  # signal's functions take 30 times as long
import functools
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from lcnumba.runtime.forks import in_children

__all__ = ["deferred", "import_whole"]

_Handler = Callable[..., Any]

_NUMBERS = tuple(map(int, signal.valid_signals()))
_active: "deferred | None" = None  # the outermost block of the main thread


class deferred:  # noqa: N801 - it is used like a function
    """Defer Ctrl-C, and every other signal with a Python handler, until the end of the block.

    Then the handler is called: neither what it raises nor the calls it makes can interrupt the block. Does nothing
    outside the main thread, the only one that runs handlers, nor to signals that are ignored or handled by C code. A
    handler that is set within the block stays, and is called at once.

    Examples
    --------
    >>> import signal
    >>> from lcnumba.runtime.signals import deferred
    >>> try:
    ...     with deferred():
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("finished")
    ... except KeyboardInterrupt:
    ...     print("interrupted")
    finished
    interrupted
    """

    def __init__(self) -> None:
        self._thread = 0
        self._seen = 0  # pending signals when this block began
        self._outer: deferred | None = None
        self._defers = False  # False while the block is being entered or left: signals are then passed on at once
        self._previous: dict[int, _Handler] = {}
        self._pending: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        global _active
        self._thread = threading.get_ident()
        if self._thread != threading.main_thread().ident:
            return self
        outer = _active
        if outer is not None:  # it defers everything already
            self._outer, self._seen = outer, len(outer._pending)
            return self
        try:
            self._replace_handlers()
            self._defers, _active = True, self
        except BaseException:  # raised by a handler that was not replaced yet
            self._restore()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._defers:
            try:
                self._restore()
            finally:  # once for each signal, as the system does
                self._deliver(list({event[0]: event for event in self._pending}.values()))

    @property
    def pending(self) -> bool:
        """Whether a signal has been deferred since the block began."""
        return len((self._outer or self)._pending) > self._seen

    def _note(self, *event: Any) -> None:
        if self._defers:
            self._pending.append(event)
        else:
            self._previous[event[0]](*event)

    # The loops are methods, because the last jump of a loop is outside its try statement.

    def _replace_handlers(self) -> None:
        for number, handler in _python_handlers(tuple(map(_signal.getsignal, _NUMBERS))):
            self._previous[number] = handler
            _signal.signal(number, self._note)

    def _restore_some(self, rest: dict[int, _Handler]) -> None:
        for number, handler in list(rest.items()):
            if _signal.getsignal(number) == self._note:
                _signal.signal(number, handler)
            del rest[number]

    def _restore(self) -> None:
        """Restore all previous handlers, even if one of them raises meanwhile."""
        global _active
        rest, error = dict(self._previous), None
        while rest:
            try:
                self._defers, _active = False, None
                self._restore_some(rest)
            except BaseException as found:  # noqa: BLE001 - raised below
                error = found
        self._defers, _active = False, None
        if error is not None:
            raise error

    def _deliver(self, events: Sequence[tuple[Any, ...]]) -> None:
        if events:
            try:
                self._previous[events[0][0]](*events[0])
            finally:
                self._deliver(events[1:])


# The last result of `_python_handlers`: a step calls it, and handlers hardly ever change.
_last: tuple[tuple[Any, ...], list[tuple[int, _Handler]]] = ((), [])


def _python_handlers(handlers: tuple[Any, ...]) -> list[tuple[int, _Handler]]:
    """The signals with a Python handler, given the handlers of all."""
    global _last
    known, found = _last
    if handlers != known:
        found = [(number, handler) for number, handler in zip(_NUMBERS, handlers, strict=True) if callable(handler)]
        _last = handlers, found
    return found


def import_whole(function: Callable[[], Any]) -> Callable[[], Any]:
    """Cache the result of a function that imports a module, and defer signals meanwhile.

    NumPy, SciPy and Numba cannot be imported again in the same process after an interrupt left them half imported.

    Examples
    --------
    >>> from lcnumba.runtime.signals import import_whole
    >>> @import_whole
    ... def special():
    ...     from scipy import special
    ...     return special
    >>> float(special().expit(0.0))
    0.5
    """

    @functools.cache
    @functools.wraps(function)
    def run() -> Any:
        with deferred():
            return function()

    return run


@in_children
def _restore_in_child() -> None:
    """Restore the handlers in a child that never leaves the block.

    Such are children forked by another thread than the one in the block, and workers of multiprocessing.
    """
    block = _active
    if block is None:
        return
    if block._thread != threading.get_ident():
        block._restore()
    elif "multiprocessing.util" in sys.modules:
        sys.modules["multiprocessing.util"].register_after_fork(block, deferred._restore)
