"""Threads and processes around the layer, each case in a process of its own, on each of Numba's threading layers."""

import importlib.metadata
import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest

from lcnumba.runtime import threads

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# A complete environment without it is a failure.
try:
    NO_TBB = not importlib.metadata.version("tbb")
except importlib.metadata.PackageNotFoundError:
    NO_TBB = os.environ.get("LCNUMBA_INTEROP") != "complete"

# A user's own parallel function, and a layer that is large enough for threads, checked to the bit.
SETTING = """
    import os, sys, threading, warnings
    from concurrent.futures import ThreadPoolExecutor
    import numba
    import numpy as np
    import lcnumba as lc
    warnings.simplefilter("ignore")  # Python's own, of forks beside threads

    @numba.njit(parallel=True)
    def own(a):
        for i in numba.prange(len(a)):
            a[i] += 1

    layer = lc.LocallyConnected2D(32, 3, kernel_initializer="ones", input_shape=(16, 16, 3))
    x = np.ones((8, 16, 16, 3), np.float32)

    def right(_=None):
        "Forward, backward and a step of a copy."
        y, backward = layer.forward(x)
        dx, grads = backward(np.ones_like(y))
        twin = layer.with_implementation(1)
        twin.forward(x)[1].step(np.ones_like(y), 1.0)
        fine = (y == 27).all() and (layer(x) == 27).all() and (grads.kernel == 8).all()
        return bool(fine and dx[0, 8, 8, 0] == 9 * 32 and (twin.kernel == -7).all())

    def exit_code(child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def forked(work):
        "The exit code of a forked child that works; 0 if all was right, and none if it was killed."
        sys.stdout.flush()
        child = os.fork()
        if not child:
            import signal
            signal.alarm(100)
            os._exit(0 if work() else 3)
        return exit_code(child)
"""


@pytest.fixture(params=["tbb", "omp", "workqueue"])
def layer(request):
    if request.param == "tbb" and NO_TBB:
        pytest.skip("tbb is not installed")
    return request.param


def run(code, cwd, layer=None, **environment):
    chosen = {"NUMBA_THREADING_LAYER": layer} if layer else {}
    code = textwrap.dedent(SETTING) + textwrap.dedent(code)
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=cwd, env={**os.environ, **chosen, **environment}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_many_threads_beside_parallel_functions_of_the_user(layer, tmp_path):
    """Workqueue aborts the process where two parallel functions run at once, even if both are the user's."""
    code = """
        def busy():
            a = np.zeros(1000)
            while not stop.is_set():
                own(a)

        stop = threading.Event()
        other = threading.Thread(target=busy)
        other.start()
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(right, range(60)))
        stop.set()
        other.join()
        print(numba.threading_layer())
    """
    assert run(code, tmp_path, layer) == [layer]


@FORKS
def test_forked_children_compute_after_their_parents_did(layer, tmp_path):
    """Threads of GNU OpenMP are not there in a child, and Numba ends it where it asks for them."""
    code = """
        assert right()
        print(forked(right), forked(lambda: forked(right) == 0))
        with ThreadPoolExecutor(2) as pool:  # threads of Python's are not there either
            assert all(pool.map(right, range(4)))
            print(forked(lambda: right() and right()))
    """
    codes = [word for word in run(code, tmp_path, layer) if word.lstrip("-").isdigit()]  # TBB prints words of its own
    assert codes == ["0", "0", "0"]


@FORKS
def test_nobody_waits_for_the_locks_of_numba(layer, tmp_path):
    """It takes them when asked for its number of threads; a thread or process that holds them may be no more."""
    code = """
        from numba.np.ufunc import parallel
        assert right()

        def hold():
            with parallel._backend_init_process_lock, parallel._backend_init_thread_lock:
                inside.set()
                leave.wait(100)

        inside, leave = threading.Event(), threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        inside.wait(60)
        print(forked(right), right())
        leave.set()
    """
    assert [word for word in run(code, tmp_path, layer) if word in ("0", "True")] == ["0", "True"]


@FORKS
@pytest.mark.parametrize(
    "used",
    ["right()", "layer.build((None, 16, 16, 3))", pytest.param("own(np.zeros(9))", marks=pytest.mark.slow)],
)
def test_worker_processes_of_every_kind(used, layer, tmp_path):
    """After first use, after the first use of Numba's threads by others, and before any."""
    code = f"""
        import multiprocessing
        {used}
        for method in ("fork", "forkserver", "spawn"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                print(*(int(y.sum()) for y in pool.map_async(layer, [x] * 4).get(100)))
    """
    sums = str(27 * 32 * 8 * 14 * 14)
    # What is pickled into a worker must be importable there: layers are, a function of this script is not.
    assert [word for word in run(code, tmp_path, layer) if word.isdigit()] == 12 * [sums]  # TBB prints words of its own


@FORKS
@pytest.mark.parametrize("layer", ["omp", "workqueue"])  # without the library, Numba does not find TBB
def test_a_child_that_was_forked_by_a_user_of_numba_alone(layer, tmp_path):
    """The library is imported in the child; the parent's threads began without its knowing."""
    code = """
        def work():
            import lcnumba
            twin = lcnumba.LocallyConnected2D(32, 3, kernel_initializer="ones", n_threads=2)
            return bool((twin(x) == 27).all())

        own(np.zeros(9))
        for name in [name for name in sys.modules if name.startswith("lcnumba")]:
            del sys.modules[name]
        print(forked(work), forked(lambda: forked(work) == 0))
    """
    assert run(code, tmp_path, layer) == ["0", "0"]


def test_dask_threads_and_joblib(layer, tmp_path):
    code = """
        import dask.array
        import joblib
        assert right()
        lazy = dask.array.from_array(np.ones((64, 16, 16, 3), np.float32), chunks=(8, -1, -1, -1))
        with dask.config.set(scheduler="threads", num_workers=4):
            y = lazy.map_blocks(layer, dtype=np.float32, chunks=(8, 14, 14, 32)).compute()
        print((y == 27).all())
        for backend in ("threading", "loky"):
            ys = joblib.Parallel(2, backend=backend)(joblib.delayed(layer)(x) for _ in range(6))
            print(all((y == 27).all() for y in ys))
    """
    assert run(code, tmp_path, layer) == ["True"] * 3


@pytest.mark.slow
def test_it_works_with_one_thread_and_a_fresh_cache(tmp_path):
    code = """
        from lcnumba.runtime import threads
        print(right(), threads.count())
    """
    folder = tmp_path / "cache"
    folder.mkdir()
    assert run(code, tmp_path, NUMBA_NUM_THREADS="1", NUMBA_CACHE_DIR=str(folder)) == ["True", "1"]
    assert any(folder.rglob("*.nbi"))


def test_it_works_with_one_thread(layer, tmp_path):
    assert run("print(right())", tmp_path, layer, NUMBA_NUM_THREADS="1") == ["True"]


@FORKS
def test_a_child_forked_in_the_middle_of_a_call_can_change_its_weights(tmp_path):
    code = """
        def change():
            thread = threading.Thread(target=layer.set_weights, args=(weights,))
            thread.start()
            thread.join()
            return True

        def call():
            with layer._parameters.lock.shared():
                inside.set()
                leave.wait(60)

        layer = lc.Dense(3)
        layer.build((None, 2))
        weights = layer.get_weights()
        inside, leave = threading.Event(), threading.Event()
        calling = threading.Thread(target=call)
        calling.start()
        inside.wait(60)
        print(forked(change))
        leave.set()
        calling.join()
    """
    assert run(code, tmp_path) == ["0"]


def test_it_works_without_compilation(tmp_path):
    code = """
        layer = lc.LocallyConnected2D(2, 3, kernel_initializer="ones", n_threads=2)
        y, backward = layer.forward(np.ones((1, 5, 5, 1)))
        backward.step(y, 0.5)
        print(y.sum(), layer.kernel.sum())
    """
    assert run(code, tmp_path, NUMBA_DISABLE_JIT="1") == ["162.0", "-567.0"]


def test_it_works_while_the_interpreter_ends(layer, tmp_path):
    """When no more threads can be started."""
    code = """
        import atexit
        atexit.register(lambda: print(right(), flush=True))
        layer.build(x.shape)
    """
    assert run(code, tmp_path, layer) == ["True"]


def test_tbb_is_loaded_unless_another_layer_was_chosen(tmp_path):
    if NO_TBB:
        pytest.skip("tbb is not installed")
    code = "from lcnumba.runtime import threads; print(threads.threading_layer(), threads.numba_is_safe())"
    assert run(code, tmp_path) == ["tbb", "True"]
    assert run(code, tmp_path, "workqueue") == ["workqueue", "False"]
    assert run("numba.config.THREADING_LAYER = 'omp'; " + code, tmp_path) == ["omp", "True"]


def test_a_threading_layer_that_numba_cannot_load(monkeypatch):
    numba = pytest.importorskip("numba")

    def refuse():
        raise ValueError("No threading layer could be loaded.")

    monkeypatch.setattr(numba, "get_num_threads", refuse)
    monkeypatch.setattr(threads, "_numba_threads_started", lambda: False)
    with pytest.raises(RuntimeError, match=r"cannot load the threading layer .*; unset it, or install that layer"):
        threads.count()


@pytest.mark.parametrize(
    ("allowed", "chosen", "environment", "expected"),
    [
        (0.5, 8, None, 1),
        (2.5, 8, None, 3),
        (None, 8, None, 8),
        (2, 8, "8", 8),  # somebody has decided
        (2, 5, None, 5),  # by numba.set_num_threads
    ],
)
def test_threads_are_no_more_than_control_groups_allow(allowed, chosen, environment, expected, monkeypatch):
    threads.count()  # begins Numba's threads, as many as there are here
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 8)
    monkeypatch.setattr("numba.np.ufunc.parallel._get_num_threads", lambda: chosen)
    monkeypatch.setattr(threads, "processors", lambda: allowed)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    if environment:
        monkeypatch.setenv("NUMBA_NUM_THREADS", environment)
    threads._cgroup_limit.cache_clear()
    try:
        assert threads.count() == expected
    finally:
        threads._cgroup_limit.cache_clear()


class Kernel:
    """Takes tasks from a counter as compiled kernels do."""

    def __init__(self, tasks):
        self.left, self.lock, self.done, self.busy = list(range(tasks)), threading.Lock(), [], 0

    def __call__(self, worker, seconds):
        while True:
            with self.lock:
                if not self.left:
                    return
                task = self.left.pop()
                self.busy += 1
            time.sleep(seconds)
            with self.lock:
                self.done.append((task, worker))
                self.busy -= 1


def test_a_call_returns_when_all_tasks_are_done():
    kernel = Kernel(40)
    threads.run_on_python_threads(kernel, 3, 0.002)
    assert not kernel.busy
    assert sorted(task for task, _ in kernel.done) == list(range(40))
    assert {worker for _, worker in kernel.done} <= {0, 1, 2}


def test_nobody_waits_for_threads_that_are_busy_elsewhere():
    """All of Python's threads hang in another's kernel; the caller does the work alone."""
    gate, inside = threading.Event(), threading.Semaphore(0)

    def hang(worker):
        inside.release()
        gate.wait(60)

    others = os.cpu_count() + 1  # the one who asks has a worker too
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(threads.run_on_python_threads, hang, others)
        for _ in range(others):
            assert inside.acquire(timeout=60)
        kernel = Kernel(5)
        threads.run_on_python_threads(kernel, 4, 0)
        assert [worker for _, worker in kernel.done] == [0] * 5
        gate.set()
        hung.result(60)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is not honoured elsewhere")
@pytest.mark.parametrize("before", ["", "assert right()"], ids=["at first", "later"])
def test_a_process_that_may_have_no_more_threads_computes(layer, before, tmp_path):
    """Address space for threads runs out, whose stacks are large; GNU OpenMP would end the process."""
    code = f"""
        import resource
        if resource.getrlimit(resource.RLIMIT_STACK)[0] != 2**30:
            resource.setrlimit(resource.RLIMIT_STACK, (2**30, resource.RLIM_INFINITY))
            os.execv(sys.executable, sys.orig_argv)
        twin = layer.with_implementation(1)
        {before}
        size = resource.getpagesize() * int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, resource.RLIM_INFINITY))
        threading.stack_size(2**20)
        with ThreadPoolExecutor(1) as pool:  # a thread that has none of OpenMP's
            pool.submit(int).result()
            threading.stack_size(0)
            print(pool.submit(right).result(), right())
    """
    assert run(code, tmp_path, layer, OPENBLAS_NUM_THREADS="1") == ["True", "True"]


def test_no_more_threads_can_be_started(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    kernel = Kernel(5)
    threads.run_on_python_threads(kernel, 4, 0)
    assert [worker for _, worker in kernel.done] == [0] * 5


def test_threads_that_cannot_be_had_are_asked_for_once(monkeypatch):
    """Trying takes all there are, which others may want."""
    tried = []
    monkeypatch.setattr(threads, "_can_start_threads", lambda number: bool(tried.append(number)))
    monkeypatch.setattr(threads, "_caller", threading.local())
    monkeypatch.setattr(threads, "_process", threads._Process())
    assert not threads._caller_has_threads(threads._process)
    assert not threads._caller_has_threads(threads._process)
    assert len(tried) == 1
    monkeypatch.setattr(threads, "_numba_threads_started", lambda: False)
    assert threads._start_numba_threads() == threads._start_numba_threads() == numba.config.NUMBA_NUM_THREADS
    assert len(tried) == 2


def test_work_that_no_thread_could_be_started_for_is_not_begun_later(monkeypatch):
    """It is in the pool's queue by then, and a thread that is busy elsewhere would run it."""
    pool, gate = ThreadPoolExecutor(2), threading.Event()
    monkeypatch.setattr(threads, "_process", threads._Process())
    threads._process.pool = pool
    pool.submit(gate.wait, 60)

    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        kernel = Kernel(5)
        threads.run_on_python_threads(kernel, 2, 0)
    assert threads._process.pool is None  # nor does a queue without threads grow
    kernel.left = [5]
    gate.set()
    pool.shutdown()
    assert len(kernel.done) == 5


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_a_kernel_comes_out_when_all_threads_are_done(failing):
    begun, ended = threading.Event(), []

    def kernel(worker):
        if worker:
            begun.set()
            time.sleep(0.1)
            ended.append(worker)
        else:
            begun.wait(60)
        if worker == failing:
            raise ValueError(worker)

    with pytest.raises(ValueError, match=str(failing)):
        threads.run_on_python_threads(kernel, 2)
    assert ended == [1]


def test_an_interrupt_waits_for_all_threads(tmp_path):
    """Arrays that are still written to would be let go of."""
    code = """
        import signal, time
        from lcnumba.runtime import threads
        begun, ended = threading.Event(), []
        def kernel(worker):
            if not worker:
                begun.wait(60)
                return
            begun.set()
            time.sleep(0.2)  # by now the other one waits
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            ended.append(worker)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            threads.run_on_python_threads(kernel, 2)
        except KeyboardInterrupt:
            print("interrupted", ended)
    """
    assert run(code, tmp_path) == ["interrupted", "[1]"]


def test_a_finalizer_in_the_middle_of_submitting_works_alone(monkeypatch):
    """The pool has locks of its own, which would be waited for; and so it is on the pool's threads."""
    done = []

    def kernel(worker, name):
        done.append((name, worker))

    class Pool:
        def submit(self, work, *arguments):
            threads.run_on_python_threads(kernel, 2, "finalizer")
            work(*arguments)

    monkeypatch.setattr(threads._process, "pool", Pool())
    threads.run_on_python_threads(kernel, 2, "call")
    monkeypatch.setattr(threads._caller, "is_submitting", False)  # set on the pool's threads
    assert done == [("finalizer", 0), ("call", 1), ("call", 0)]


def test_a_finalizer_while_threads_are_chosen_does_without_numbas(tmp_path):
    code = """
        answers = []
        threads = lcnumba.runtime.threads
        choose = threads.threading_layer
        threads.threading_layer = lambda: answers.append(threads.numba_is_safe()) or choose()
        assert threads.numba_is_safe() in (True, False)
        print(answers)
    """
    setting = "import lcnumba.runtime.threads\n"
    result = subprocess.run(
        [sys.executable, "-P", "-c", setting + textwrap.dedent(code)],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert result.stdout == "[False]\n", result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is Linux'")
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
)
def test_openmp_threads_soon_leave_the_processors_to_blas(given, spins, tmp_path):
    """Unless the user wants it otherwise; and the variable that says so is gone afterwards."""
    code = """
        import os
        from lcnumba.runtime import threads

        before = dict(os.environ)
        assert threads.threading_layer() == "omp"
        assert dict(os.environ) == before
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    found = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=kept | {"NUMBA_THREADING_LAYER": "omp", "OMP_DISPLAY_ENV": "VERBOSE"} | given,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{spins}'" in found.stderr
