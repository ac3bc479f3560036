"""Signals that wait until what must not be cut in half is done."""

import _signal  # type: ignore[import-not-found]  # signal's own make enums of all answers, in thirty times the time
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
    """Hold Ctrl-C, and every other signal that Python code handles, back until the block is left.

    Then whoever handled it before handles it: what a handler raises, or changes by calls of its own, meets nothing
    half done. Outside the main thread, which alone gets signals, nothing is done; nor to signals that are ignored or
    handled without Python. A handler that is set within the block stays, and is called at once.

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
        self._seen = 0  # signals that had been held back when this block began
        self._outer: deferred | None = None
        self._holds = False  # else what comes is passed on at once, as in a block that is being entered or left
        self._previous: dict[int, _Handler] = {}
        self._pending: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        global _active
        self._thread = threading.get_ident()
        if self._thread != threading.main_thread().ident:
            return self
        outer = _active
        if outer is not None:  # it holds everything back already
            self._outer, self._seen = outer, len(outer._pending)
            return self
        try:
            self._take_over()
            self._holds, _active = True, self
        except BaseException:  # of a handler that had not been replaced yet
            self._give_back()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._holds:
            try:
                self._give_back()
            finally:  # once for each signal, as the system does
                self._deliver(list({event[0]: event for event in self._pending}.values()))

    @property
    def came(self) -> bool:
        """Whether a signal came since the block began, and is held back."""
        return len((self._outer or self)._pending) > self._seen

    def _note(self, *event: Any) -> None:
        if self._holds:
            self._pending.append(event)
        else:
            self._previous[event[0]](*event)

    # Loops in methods of their own: Python does not cover the last jump of one that stands in a try statement.

    def _take_over(self) -> None:
        for number in _NUMBERS:
            handler = _signal.getsignal(number)
            if callable(handler):
                self._previous[number] = handler
                _signal.signal(number, self._note)

    def _put_back(self, rest: dict[int, _Handler]) -> None:
        for number, handler in list(rest.items()):
            if _signal.getsignal(number) == self._note:
                _signal.signal(number, handler)
            del rest[number]

    def _give_back(self) -> None:
        """Let whoever handled signals before handle them again, all of them, even if one of those raises at once."""
        global _active
        rest, error = dict(self._previous), None
        while rest:
            try:
                self._holds, _active = False, None
                self._put_back(rest)
            except BaseException as found:  # noqa: BLE001 - it is raised below
                error = found
        self._holds, _active = False, None
        if error is not None:
            raise error

    def _deliver(self, events: Sequence[tuple[Any, ...]]) -> None:
        if events:
            try:
                self._previous[events[0][0]](*events[0])
            finally:
                self._deliver(events[1:])


def import_whole(function: Callable[[], Any]) -> Callable[[], Any]:
    """Let a function that imports something and returns it do so as a whole, or not at all, and once.

    Signals wait until everything is there: what an interrupt leaves half imported of NumPy, SciPy or Numba cannot be
    imported again in the same process.

    Examples
    --------
    >>> from lcnumba.runtime.signals import import_whole
    >>> @import_whole
    ... def special():
    ...     from scipy import special
    ...     return special
    >>> special().expit(0.0)
    np.float64(0.5)
    """

    @functools.cache
    @functools.wraps(function)
    def run() -> Any:
        with deferred():
            return function()

    return run


@in_children
def _leave_blocks() -> None:
    """Give signals back in a child that is in no block: another thread than the main one has forked it.

    A worker process of multiprocessing's never comes to the end of a block that it was forked in, either.
    """
    block = _active
    if block is None:
        return
    if block._thread != threading.get_ident():
        block._give_back()
    elif "multiprocessing.util" in sys.modules:
        sys.modules["multiprocessing.util"].register_after_fork(block, deferred._give_back)
