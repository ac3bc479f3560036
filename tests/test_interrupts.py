import signal
import threading

import pytest

from lcnumba.interrupts import deferred


def test_an_interrupt_waits_for_the_end():
    done = []

    @deferred()
    def work():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nested_blocks_wait_for_the_outer_one():
    done = []

    @deferred()
    def work():
        with deferred():
            signal.raise_signal(signal.SIGINT)
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]


def test_the_users_own_handler_is_called_afterwards(monkeypatch):
    seen = []
    previous = signal.signal(signal.SIGINT, lambda *_: seen.append("handled"))
    try:
        with deferred():
            signal.raise_signal(signal.SIGINT)
            assert seen == []
        assert seen == ["handled"]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with deferred():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_an_error_inside_leaves_the_handler_as_it_was():
    with pytest.raises(ValueError, match="mine"), deferred():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_have_no_signals():
    seen = []

    def work():
        with deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
