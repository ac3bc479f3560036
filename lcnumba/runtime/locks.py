"""Locks that are free in a forked child, whoever held them in its parent; and that bear calls in the middle of calls.

Python runs handlers of signals, finalizers, callbacks of weak references and of the garbage collector in the middle of
whatever a thread is at. One that calls a layer must not wait for what its own thread holds.
"""

import threading
import time
import weakref
from contextlib import AbstractContextManager
from typing import Any

from lcnumba.runtime.forks import in_children
from lcnumba.runtime.signals import deferred

__all__ = ["Mutex", "SharedLock"]

# Seconds after which a thread that waits looks whether a signal came, or readers did not.
POLL_SECONDS = 0.1
# Seconds that a writer sleeps while readers that go first come in, which takes them less.
SPIN_SECONDS = 1e-4

_locks: weakref.WeakSet["Mutex | SharedLock"] = weakref.WeakSet()


class Mutex:
    """A reentrant lock, `with mutex.lock:`, that is free in a forked child, in a copy and in a pickle.

    In a child the thread that held it does not exist, and would never let go of it. What that thread had half done is
    seen there, and by a handler of a signal that comes meanwhile, so only what can be begun again may happen under it.
    The lock itself stands in the with statement because no interrupt comes between its entering and leaving and those
    of the block.
    """

    def __init__(self) -> None:
        self.free()
        _locks.add(self)

    def free(self) -> None:
        """Forget who holds it."""
        self.lock = threading.RLock()

    def __reduce__(self) -> tuple[type["Mutex"], tuple[()]]:
        """Copy and pickle as a fresh, free lock: a lock belongs to one process and one object."""
        return Mutex, ()


class SharedLock(AbstractContextManager[None]):
    """Readers share, a writer excludes, and neither starves the other.

    A waiting writer goes before readers that come later; the readers that waited for a writer go before the next one.

    Each thread reads under a reentrant lock of its own, and a writer takes those of all threads. So a reader may read
    again, as a handler of a signal does that calls a layer in the middle of a call; and nothing is ever half done,
    since the interpreter enters and leaves such a lock in one go. A thread that reads and asks to write, or that writes
    and asks for anything, cannot be right, and gets a RuntimeError.

    Signals that Python code handles wait for the end of an exclusive block, so that nothing is left half changed. They
    may come at any moment of a shared one, and while a thread waits.
    """

    def __init__(self) -> None:
        self._writer: int | None = None  # the thread that holds the lock alone
        self._waiting: dict[int, Any] = {}  # readers that wait, each with the first gate that it found closed
        self._mine = threading.local()  # the lock of each thread
        self._guard: deferred | None = None  # of the writer
        self.free()
        _locks.add(self)

    def free(self) -> None:
        """Forget all threads but this one."""
        self._waiting.clear()
        if self._writer is None or self._writer != threading.get_ident():
            self._writer = None
            self._alone: Any = threading.RLock()  # of the writer, also while it waits for readers to leave
            self._gate: Any = None  # of the writer, too: readers that come wait for it
            self._taken: list[Any] = []  # locks of readers, by the writer
        self._all: set[weakref.ref[Any]] = set()  # locks of readers
        if hasattr(self._mine, "lock"):
            if self._mine.lock._is_owned():
                self._add(self._mine.lock)
            else:  # a writer that is not there may have taken it
                del self._mine.lock

    def shared(self) -> AbstractContextManager[Any]:
        """Hold the lock together with other readers, in a with statement."""
        mine = self._lock_of_this_thread()
        # From this look at the gate, or the end of `_pass`, to the lock's being entered nothing is called. So the
        # interpreter changes to no other thread meanwhile. (If it did, this one would wait for more than one writer.)
        if self._gate is not None:
            self._pass(mine)
        return mine

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the lock alone, in a with statement."""
        return self

    def check(self) -> None:
        """Raise what `exclusive` would raise."""
        self._refuse_inside(threading.get_ident())
        if self._alone._is_owned() or self._lock_of_this_thread()._is_owned():
            raise RuntimeError(
                "a layer was to be built or changed by code that runs in the middle of one of its calls, such as a "
                "handler of a signal or a finalizer; it may call the layer, but must leave changes to the program"
            )

    def __enter__(self) -> None:
        while True:
            guard = deferred()
            guard.__enter__()
            try:
                if self._close(guard):
                    self._guard = guard
                    return
            except BaseException:
                guard.__exit__()
                raise
            guard.__exit__()  # whoever handles the signal finds nothing held; if he returns, the waiting begins anew

    def __exit__(self, *_: object) -> None:
        guard, self._guard, self._writer = self._guard, None, None
        self._open()
        assert guard is not None
        guard.__exit__()

    def _lock_of_this_thread(self) -> Any:
        try:
            return self._mine.lock
        except AttributeError:
            mine = self._mine.lock = threading.RLock()
            self._add(mine)
            return mine

    def _add(self, lock: Any) -> None:
        self._all.add(weakref.ref(lock, self._all.discard))  # it goes with its thread

    def _pass(self, mine: Any) -> None:
        """Wait until the gate is open, or another one is closed than this thread found first."""
        me = threading.get_ident()
        self._refuse_inside(me)
        if self._alone._is_owned() or mine._is_owned():
            return  # what came in the middle cannot wait for what it came in the middle of
        try:
            self._wait(me)
        finally:
            if me in self._waiting:
                del self._waiting[me]

    def _wait(self, me: int) -> None:  # of its own: Python does not cover the last jump of a loop in a try statement
        while (gate := self._gate) is not None and self._waiting.setdefault(me, gate) is gate:
            if gate.acquire(timeout=POLL_SECONDS):
                gate.release()  # the next one may pass, too

    def _close(self, guard: deferred) -> bool:
        """Whether this thread has the lock alone now; if not, a signal came that is held back."""
        self.check()
        me, alone = threading.get_ident(), self._alone
        while not alone.acquire(timeout=POLL_SECONDS):
            if guard.came:
                return False
        try:
            gate = threading.Lock()
            gate.acquire()
            self._gate = gate
            if self._let_in(me, gate, guard) and all(self._take(lock, guard) for lock in list(self._all)):
                self._writer = me
        finally:
            if self._writer is None:
                self._open()
        return self._writer is not None

    def _open(self) -> None:
        gate, self._gate = self._gate, None
        while self._taken:
            self._taken.pop().release()
        if gate is not None:
            gate.release()
        self._alone.release()

    def _let_in(self, me: int, gate: object, guard: deferred) -> bool:
        """Wait for readers that have waited for a writer before; False if a signal came."""
        end = time.monotonic() + 10 * POLL_SECONDS
        while any(first is not gate for thread, first in list(self._waiting.items()) if thread != me):
            if guard.came:
                return False
            if time.monotonic() > end:  # an interrupt kept one of them from saying so
                self._waiting.clear()
            time.sleep(SPIN_SECONDS)
        return True

    def _take(self, lock: "weakref.ref[Any]", guard: deferred) -> bool:
        """Wait for a thread to end its reading; False if a signal came."""
        while (theirs := lock()) is not None:
            if theirs.acquire(timeout=POLL_SECONDS):
                self._taken.append(theirs)
                break
            if guard.came:
                return False
        return True

    def _refuse_inside(self, me: int) -> None:
        if self._writer == me:
            raise RuntimeError(
                "a layer was used by code that runs while it is being built or changed, in the same thread: an "
                "initializer must not use the layer it initializes, nor a finalizer or callback the one it comes upon"
            )

    def __reduce__(self) -> tuple[type["SharedLock"], tuple[()]]:
        """Copy and pickle as a fresh, free lock: a lock belongs to one process and one object."""
        return SharedLock, ()


@in_children
def _free_all() -> None:
    """Free the locks of a forked child: the threads that held them are not there."""
    for lock in _locks:
        lock.free()
