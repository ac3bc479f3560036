"""Attributes that are computed once, without a lock that others could wait for."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from lcnumba.utils.lazy import cached_property


class Table:
    def __init__(self, compute=lambda: 1):
        self.compute = compute

    @cached_property
    def value(self):
        """What it holds."""
        return self.compute()


def test_a_value_is_computed_once_and_can_be_forgotten():
    calls = []
    table = Table(lambda: calls.append(1) or len(calls))
    assert (table.value, table.value) == (1, 1)
    del table.value
    assert table.value == 2
    assert Table.value.__doc__ == "What it holds."


def test_an_error_is_not_kept():
    answers = iter([1 / 3])
    table = Table(lambda: 1 // 0 if not calls.append(1) and len(calls) == 1 else next(answers))
    calls = []
    with pytest.raises(ZeroDivisionError):
        table.value  # noqa: B018
    assert table.value == 1 / 3


def test_threads_do_not_wait_for_each_other_and_agree():
    inside, go = threading.Event(), threading.Event()

    def slow():
        inside.set()
        assert go.wait(60)
        return object()

    table, seen = Table(slow), []
    thread = threading.Thread(target=lambda: seen.append(table.value))
    thread.start()
    assert inside.wait(60)
    assert Table().value == 1  # another instance
    table.compute = object
    first = table.value
    go.set()
    thread.join(60)
    assert seen == [first] == [table.value]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_meanwhile_does_not_wait_for_ever(tmp_path):
    """Neither for a value that was being computed, nor for a lock that was held."""
    code = """
        import os, signal, threading, warnings
        from lcnumba.utils.lazy import cached_property
        from lcnumba.runtime.locks import Mutex
        warnings.simplefilter("ignore")

        class Table:
            @cached_property
            def value(self):
                inside.set()
                go.wait(60)
                return 42

        def hold():
            with mutex.lock:
                table.value

        table, mutex, inside, go = Table(), Mutex(), threading.Event(), threading.Event()
        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait(60)
        child = os.fork()
        if not child:
            signal.alarm(20)
            go = threading.Event()
            go.set()
            with mutex.lock, mutex.lock:
                os._exit(table.value)
        go.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "42", result.stderr
