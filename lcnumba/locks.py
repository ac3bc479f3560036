"""Locks that are free in a forked child, whoever held them in its parent."""

import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager

from lcnumba.forks import in_children
from lcnumba.interrupts import deferred

__all__ = ["Mutex", "SharedLock"]


# Seconds after which a thread that waits looks whether Ctrl-C came, and whether those it waits for still live.
PATIENCE = 0.1

_locks: weakref.WeakSet["Mutex | SharedLock"] = weakref.WeakSet()


class Mutex:
    """A reentrant lock, `with mutex.lock:`, that is free in a forked child, in a copy and in a pickle.

    In a child the thread that held it does not exist, and would never let go of it. What that thread had half done is
    seen there, so only what can be begun again may happen under it. The lock itself stands in the with statement
    because no interrupt comes between its entering and leaving and those of the block.
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


class SharedLock:
    """Readers share, a writer excludes, and neither starves the other.

    A waiting writer goes before readers that come later; the readers that waited for a writer go
    before the next one. Not reentrant: asking for it again under `exclusive` is a RuntimeError;
    under `shared` it may wait for ever, so no code of users runs there.

    Ctrl-C waits for the end of an exclusive block, so that nothing is left half changed. It may come at any moment of
    a shared one, also between two steps of entering or leaving it. What a thread so left behind is forgotten when it
    asks for the lock again, since nobody holds it twice, or when it has ended.
    """

    def __init__(self) -> None:
        self._readers: set[int] = set()  # threads
        self._writer: int | None = None  # the thread that holds the lock alone
        self._guard = deferred()  # of that thread
        self._writes = 0
        self.free()
        # Held by every call of a layer, so made once; generators would take several microseconds a call.
        self._shared = _Holder(self._enter_shared, self._leave_shared)
        self._exclusive = _Holder(self._enter_exclusive, self._leave_exclusive)
        _locks.add(self)

    def free(self) -> None:
        """Forget all threads but this one."""
        me = threading.get_ident()
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._readers &= {me}
        self._writer = me if self._writer == me else None
        self._writers_waiting = 0
        self._readers_waiting = 0  # for the present or next writer to finish
        self._admitted = 0  # readers whose writer has finished, and who have not come in yet

    def shared(self) -> AbstractContextManager[None]:
        """Hold the lock together with other readers, in a with statement."""
        return self._shared

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the lock alone, in a with statement."""
        return self._exclusive

    def _enter_shared(self) -> None:
        me = threading.get_ident()
        while True:
            with self._mutex:
                self._refuse_reentry()
                if self._writer is None and not self._writers_waiting:
                    self._readers.add(me)
                    return
            with deferred() as guard, self._mutex:
                self._readers.discard(me)
                if self._wait_for_a_writer(guard):
                    self._readers.add(me)
                    return

    def _leave_shared(self) -> None:
        with self._mutex:
            self._readers.discard(threading.get_ident())
            if not self._readers and self._writers_waiting:
                self._changed.notify_all()

    def _enter_exclusive(self) -> None:
        me = threading.get_ident()
        while True:
            guard = deferred()
            guard.__enter__()
            try:
                with self._mutex:
                    self._refuse_reentry()
                    self._readers.discard(me)
                    if self._wait_for_all(guard):
                        self._writer, self._guard = me, guard
                        return
            except BaseException:
                guard.__exit__()
                raise
            guard.__exit__()

    def _leave_exclusive(self) -> None:
        guard = self._guard
        with self._mutex:
            self._writer = None
            self._writes += 1
            self._admitted, self._readers_waiting = self._readers_waiting, 0
            self._changed.notify_all()
        guard.__exit__()

    # An interrupt in a condition's wait could leave it without its mutex. So it waits, and ends the waiting; whoever
    # handles it does so without the mutex, and if he returns, the waiting begins anew.

    def _wait_for_all(self, guard: deferred) -> bool:
        """Whether the lock is free, and no interrupt came."""
        self._writers_waiting += 1
        try:
            while self._writer is not None or self._readers or self._admitted:
                if not self._changed.wait(PATIENCE):
                    self._readers &= set(sys._current_frames())  # all threads that live, whoever started them
                if guard.came:
                    return False
            return True
        finally:
            self._writers_waiting -= 1
            self._changed.notify_all()  # if the wait was interrupted, readers need wait no more

    def _wait_for_a_writer(self, guard: deferred) -> bool:
        """Whether readers may come in, and no interrupt came."""
        writes = self._writes
        self._readers_waiting += 1
        try:
            while self._writer is not None or (self._writers_waiting and self._writes == writes):
                self._changed.wait(PATIENCE)
                if guard.came:
                    return False
            return True
        finally:
            if self._writes == writes:
                self._readers_waiting -= 1
            else:
                self._admitted -= 1
                self._changed.notify_all()

    def _refuse_reentry(self) -> None:
        if self._writer == threading.get_ident():
            raise RuntimeError(
                "a layer was used by code that runs while it is being built or changed; "
                "an initializer must not use the layer it initializes"
            )

    def __reduce__(self) -> tuple[type["SharedLock"], tuple[()]]:
        """Copy and pickle as a fresh, free lock: a lock belongs to one process and one object."""
        return SharedLock, ()


class _Holder(AbstractContextManager[None]):
    """One way to hold a lock; without state of its own, so that any number of threads may use it at once."""

    def __init__(self, enter: Callable[[], None], leave: Callable[[], None]) -> None:
        self._enter, self._leave = enter, leave

    def __enter__(self) -> None:
        self._enter()

    def __exit__(self, *_: object) -> None:
        self._leave()


@in_children
def _free_all() -> None:
    """Free the locks of a forked child: the threads that held them are not there."""
    for lock in _locks:
        lock.free()
