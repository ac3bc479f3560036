"""Children that are forked while another thread is in the middle of what they need, each in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

SETTING = """
    import os, signal, sys, threading, time, warnings
    import numpy as np
    import lcnumba as lc
    from lcnumba.runtime import forks
    forks.TIMEOUT = 60  # for a machine that is busy with other tests
    warnings.simplefilter("ignore")  # Python's own, of forks beside threads

    inside = threading.Event()

    class Slow:
        "A file system that takes its time over one module."
        def find_spec(self, name, path, target=None):
            if name == SLOW:
                be_in_the_middle()

    def be_in_the_middle():
        inside.set()
        time.sleep(1)

    def right():
        layer = lc.LocallyConnected2D(4, 3, kernel_initializer="ones", input_shape=(6, 6, 3))
        return bool((layer(np.ones((2, 6, 6, 3), np.float32)) == 27).all())

    def hold(lock):
        with lock:
            be_in_the_middle()
"""

MAIN = """
    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(60)
        os._exit(0 if right() else 3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert right()
    thread.join()
"""


def answers(tmp_path, *code):
    code = "".join(map(textwrap.dedent, (SETTING, *code)))
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    return result.stdout, result.stderr


@pytest.mark.parametrize(
    "meanwhile",
    [
        """
        SLOW, first = "lcnumba.kernels.vectors", right
        sys.meta_path.insert(0, Slow())
        """,
        """
        SLOW, first = "numba.core.event", right
        sys.meta_path.insert(0, Slow())
        """,
        """
        import lcnumba.kernels
        from numba.core.compiler_lock import global_compiler_lock
        def first():
            hold(global_compiler_lock)
        """,
        """
        import lcnumba.kernels
        from llvmlite.binding.ffi import lib
        def first():
            hold(lib._lock)
        """,
    ],
    ids=["imports kernels", "imports Numba", "compiles", "lets LLVM free something"],
)
def test_a_child_does_not_wait_for_a_thread_that_is_not_there(meanwhile, tmp_path):
    """The fork waits for it, since the child would wait for ever."""
    assert answers(tmp_path, meanwhile, MAIN) == ("0\n", "")


def test_an_import_that_fails_meanwhile_does_not_trouble_a_fork(tmp_path):
    code = """
        class Broken(Slow):
            def find_spec(self, name, path, target=None):
                super().find_spec(name, path, target)
                if name == SLOW:
                    raise RuntimeError("no such module today")

        SLOW = "lcnumba.kernels.vectors"
        sys.meta_path.insert(0, Broken())

        def first():
            try:
                right()
            except RuntimeError:
                sys.meta_path.pop(0)
    """
    assert answers(tmp_path, code, MAIN) == ("0\n", "")


def test_a_fork_does_not_wait_for_what_its_own_thread_imports(tmp_path):
    code = """
        def be_in_the_middle():
            signal.alarm(30)  # less than the timeout
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
            signal.alarm(0)

        SLOW = "numba.core.event"
        sys.meta_path.insert(0, Slow())
        print(right())
    """
    assert answers(tmp_path, code) == ("True\n", "")


def test_a_fork_does_not_wait_for_ever(tmp_path):
    """For a thread that waits for what the forking one holds."""
    code = """
        import lcnumba.kernels
        from numba.core.compiler_lock import global_compiler_lock

        def wait():
            with global_compiler_lock:
                inside.set()
                with mine:
                    pass

        forks.TIMEOUT = 0.1
        mine = threading.Lock()
        thread = threading.Thread(target=wait)
        with mine:
            thread.start()
            inside.wait(60)
            child = os.fork()
            if not child:
                os._exit(0)
            print(os.waitpid(child, 0)[1])
        thread.join()
    """
    assert answers(tmp_path, code) == ("0\n", "")


def test_the_bound_is_that_of_the_page():
    from lcnumba.runtime import forks

    page = Path(__file__).parents[2] / "docs" / "reliability.md"
    assert f"seconds in a first call, and {forks.TIMEOUT:.0f} at most" in " ".join(page.read_text().split())
