"""Numba's threading layers, each in a process of its own."""

import os
import subprocess
import sys
import textwrap

import pytest


def run(code, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_concurrent_calls_survive_the_workqueue_layer(tmp_path):
    """Which aborts the process when two parallel kernels run at once."""
    code = """
        import concurrent.futures
        import numpy as np, numba
        import lcnumba as lc
        layer = lc.LocallyConnected2D(32, 3, kernel_initializer="ones")
        x = np.ones((8, 16, 16, 3), np.float32)
        layer(x)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for y in pool.map(lambda _: layer(x), range(200)):
                assert (y == 27).all()
        print(numba.threading_layer())
    """
    result = run(code, tmp_path, NUMBA_THREADING_LAYER="workqueue")
    assert (result.returncode, result.stdout.strip()) == (0, "workqueue"), result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told_and_not_killed(tmp_path):
    code = """
        import os, sys, warnings
        import numpy as np, numba
        import lcnumba as lc
        warnings.simplefilter("ignore")
        layer = lc.LocallyConnected2D(32, 3)
        x = np.ones((8, 16, 16, 3), np.float32)
        y = layer(x)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            try:
                assert np.array_equal(layer(x), y)
            except RuntimeError as error:
                assert "'spawn' or 'forkserver'" in str(error)
                os._exit(3)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(numba.threading_layer(), os.waitstatus_to_exitcode(status))
    """
    result = run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    layer, exit_code = result.stdout.split()
    assert int(exit_code) == (3 if layer == "omp" else 0)


def test_it_works_with_one_thread_and_a_fresh_cache(tmp_path):
    code = """
        import numpy as np
        import lcnumba as lc
        layer = lc.LocallyConnected2D(2, 3, kernel_initializer="ones")
        y, backward = layer.forward(np.ones((1, 5, 5, 1)))
        backward.step(y, 0.5)
        print(y.sum(), layer.kernel.sum())
    """
    folder = tmp_path / "cache"
    folder.mkdir()
    result = run(code, tmp_path, NUMBA_NUM_THREADS="1", NUMBA_CACHE_DIR=str(folder))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["162.0", "-567.0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_in_the_middle_of_a_call_can_change_its_weights(tmp_path):
    code = """
        import os, signal, threading, warnings
        import numpy as np
        import lcnumba as lc
        warnings.simplefilter("ignore")
        layer = lc.Dense(3)
        layer.build((None, 2))
        with layer._parameters.lock.shared():
            weights = [w.copy() for w in layer.weights]
            child = os.fork()
            if not child:
                signal.alarm(60)
                thread = threading.Thread(target=layer.set_weights, args=(weights,))
                thread.start()
                thread.join()
                os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    """
    result = run(code, tmp_path)
    assert result.stdout.strip() == "0", result.stderr


def test_it_works_without_compilation(tmp_path):
    code = """
        import numpy as np
        import lcnumba as lc
        layer = lc.LocallyConnected2D(2, 3, kernel_initializer="ones", n_threads=2)
        y, backward = layer.forward(np.ones((1, 5, 5, 1)))
        backward.step(y, 0.5)
        print(y.sum(), layer.kernel.sum())
    """
    result = run(code, tmp_path, NUMBA_DISABLE_JIT="1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["162.0", "-567.0"]
