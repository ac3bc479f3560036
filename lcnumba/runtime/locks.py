"""Locks that are released in a forked child, and that allow reentrant calls.

Python runs signal handlers, finalizers, and callbacks of weak references and the garbage collector between any two
instructions of a thread. If they call a layer, they must not wait for a lock that their own thread holds.
"""

import threading
import time
import weakref
from contextlib import AbstractContextManager
from typing import Any

from lcnumba.runtime.forks import in_children
from lcnumba.runtime.signals import deferred

__all__ = ["Mutex", "SharedLock"]

# Seconds between a waiting thread's checks for pending signals.
POLL_SECONDS = 0.1
# Seconds that a writer sleeps between checks while earlier readers acquire their locks.
SPIN_SECONDS = 1e-4

_locks: weakref.WeakSet["Mutex | SharedLock"] = weakref.WeakSet()


class Mutex:
    """A reentrant lock, used as `with mutex.lock:`, that is free in forked children, copies and pickles.

    The child of a fork, and a signal handler, may see the unfinished work of the holder, so only what can be restarted
    may be done under this lock. The RLock itself is the context manager because an interrupt cannot come between
    acquiring it and entering the block.
    """

    def __init__(self) -> None:
        self.free()
        _locks.add(self)

    def free(self) -> None:
        """Release it, whoever holds it."""
        self.lock = threading.RLock()

    def __reduce__(self) -> tuple[type["Mutex"], tuple[()]]:
        """Copy and pickle as a fresh, free lock: a lock belongs to one process and one object."""
        return Mutex, ()


class SharedLock(AbstractContextManager[None]):
    """A fair readers-writer lock: shared by readers, exclusive for a writer, starving neither.

    A waiting writer precedes later readers; readers that waited for one writer precede the next.

    Each thread reads under a reentrant lock of its own, and a writer acquires those of all threads. So a reader may
    read again, as a signal handler that calls a layer during a call does; and an interrupt leaves a consistent state,
    since the interpreter acquires and releases such a lock atomically. A thread that requests to write while it reads,
    or requests anything while it writes, would deadlock, and gets a RuntimeError.

    Python's signal handlers run after an exclusive block, so that no change is left unfinished. They may run at any
    point of a shared block, and while a thread waits.
    """

    def __init__(self) -> None:
        self._writer: int | None = None  # the thread that holds the lock exclusively
        self._waiting: dict[int, Any] = {}  # waiting readers, each with the first gate it found closed
        self._mine = threading.local()  # each thread's lock
        self._guard: deferred | None = None  # of the writer
        self.free()
        _locks.add(self)

    def free(self) -> None:
        """Release what threads other than this one hold."""
        self._waiting.clear()
        if self._writer is None or self._writer != threading.get_ident():
            self._writer = None
            self._alone: Any = threading.RLock()  # held by the writer, also while it waits for readers
            self._gate: Any = None  # a lock held by the writer, on which new readers wait
            self._taken: list[Any] = []  # readers' locks that the writer holds
        self._all: set[weakref.ref[Any]] = set()  # readers' locks
        if hasattr(self._mine, "lock"):
            if self._mine.lock._is_owned():
                self._add(self._mine.lock)
            else:  # a writer that does not exist in the child may hold it
                del self._mine.lock

    def shared(self) -> AbstractContextManager[Any]:
        """Return a context manager that holds the lock together with other readers."""
        mine = self._lock_of_this_thread()
        # Nothing is called between this check, or the end of `_pass`, and acquiring the lock, so that threads are
        # not switched there. (If they were, this thread would only wait for one more writer.)
        if self._gate is not None:
            self._pass(mine)
        return mine

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a context manager that holds the lock exclusively."""
        return self

    def check(self) -> None:
        """Raise what `exclusive` would raise."""
        self._refuse_while_writing(threading.get_ident())
        if self._alone._is_owned() or self._lock_of_this_thread()._is_owned():
            raise RuntimeError(
                "a layer cannot be built or changed by code that interrupts one of its calls, such as a signal handler "
                "or a finalizer; such code may only call it"
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
            guard.__exit__()  # handlers run while nothing is held; if they return, wait again

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
        self._all.add(weakref.ref(lock, self._all.discard))  # removed when its thread ends

    def _pass(self, mine: Any) -> None:
        """Wait until the gate is open, or is that of a later writer."""
        me = threading.get_ident()
        self._refuse_while_writing(me)
        if self._alone._is_owned() or mine._is_owned():
            return  # an interrupting call cannot wait for the call that it interrupts
        try:
            self._wait(me)
        finally:
            if me in self._waiting:
                del self._waiting[me]

    def _wait(self, me: int) -> None:  # a method, because the last jump of a loop is outside its try statement
        while (gate := self._gate) is not None and self._waiting.setdefault(me, gate) is gate:
            if gate.acquire(timeout=POLL_SECONDS):
                gate.release()  # let the next one pass

    def _close(self, guard: deferred) -> bool:
        """Acquire the lock exclusively; False if a signal is pending."""
        self.check()
        me, alone = threading.get_ident(), self._alone
        while not alone.acquire(timeout=POLL_SECONDS):
            if guard.pending:
                return False
        try:
            gate = threading.Lock()
            gate.acquire()
            self._gate = gate
            if self._wait_for_earlier(me, gate, guard) and all(self._take(lock, guard) for lock in list(self._all)):
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

    def _wait_for_earlier(self, me: int, gate: object, guard: deferred) -> bool:
        """Wait for readers that waited for an earlier writer; False if a signal is pending."""
        end = time.monotonic() + 10 * POLL_SECONDS
        while any(first is not gate for thread, first in list(self._waiting.items()) if thread != me):
            if guard.pending:
                return False
            if time.monotonic() > end:  # an interrupt kept one of them from removing its entry
                self._waiting.clear()
            time.sleep(SPIN_SECONDS)
        return True

    def _take(self, lock: "weakref.ref[Any]", guard: deferred) -> bool:
        """Wait until a thread stops reading; False if a signal is pending."""
        while (theirs := lock()) is not None:
            if theirs.acquire(timeout=POLL_SECONDS):
                self._taken.append(theirs)
                break
            if guard.pending:
                return False
        return True

    def _refuse_while_writing(self, me: int) -> None:
        if self._writer == me:
            raise RuntimeError(
                "a layer cannot be used by the same thread while it is being built or changed: not by its "
                "initializers, nor by finalizers and callbacks that run meanwhile"
            )

    def __reduce__(self) -> tuple[type["SharedLock"], tuple[()]]:
        """Copy and pickle as a fresh, free lock: a lock belongs to one process and one object."""
        return SharedLock, ()


@in_children
def _free_all() -> None:
    """Release all locks in a forked child: the threads that held them do not exist there."""
    for lock in _locks:
        lock.free()
