import copy
import threading
import time

import pytest

from lcnumba.locks import SharedLock


def started(target):
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_readers_share_and_a_writer_excludes():
    lock, inside = SharedLock(), threading.Barrier(2, timeout=10)
    events = []

    def read():
        with lock.shared():
            inside.wait()  # both readers are inside at once, or the barrier breaks

    threads = [started(read) for _ in range(2)]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()

    def write():
        with lock.exclusive():
            events.append("write")

    with lock.shared():
        writer = started(write)
        time.sleep(0.05)
        assert events == []
    writer.join(10)
    assert events == ["write"]
    with lock.exclusive():
        reader = started(lambda: lock.shared().__enter__() or events.append("read"))
        time.sleep(0.05)
        assert events == ["write"]
    reader.join(10)
    assert events == ["write", "read"]


def test_a_waiting_writer_goes_before_new_readers():
    lock, order = SharedLock(), []

    def write():
        with lock.exclusive():
            order.append("write")

    def read():
        with lock.shared():
            order.append("read")

    with lock.shared():
        writer = started(write)
        while not lock._writers_waiting:
            time.sleep(0.001)
        reader = started(read)
        time.sleep(0.05)
        assert order == []
    writer.join(10)
    reader.join(10)
    assert order == ["write", "read"]


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_an_error_inside_frees_the_lock(kind):
    lock = SharedLock()
    with pytest.raises(KeyError), getattr(lock, kind)():
        raise KeyError
    with lock.exclusive():
        pass


def test_a_copy_is_free():
    lock = SharedLock()
    with lock.exclusive(), copy.deepcopy(lock).exclusive():
        pass
