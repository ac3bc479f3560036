import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import lcnumba as lc
from lcnumba.runtime.signals import deferred


def test_an_interrupt_waits_for_the_end():
    done = []

    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nested_blocks_wait_for_the_outer_one():
    done = []

    with pytest.raises(KeyboardInterrupt), deferred():  # noqa: PT012
        with deferred():
            signal.raise_signal(signal.SIGINT)
        done.append(1)
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


TRAINING = """
    import copy, pickle, random, signal, sys
    import numpy as np
    import lcnumba as lc

    def snapshot(layer):
        return pickle.dumps((layer.get_weights(), layer.get_training_state()))

    def step(layer, turn):
        y, backward = layer.forward(x)
        if turn % 3 == 2:
            layer.set_weights([weight * 0.5 for weight in layer.get_weights()])
        elif turn % 3:
            layer.step(backward(dy)[1], lr=0.01)
        else:
            backward.step(dy, lr=0.01)

    def interrupt(_, frame):
        global armed
        while frame is not None and frame.f_code is not step.__code__:
            frame = frame.f_back
        if armed and frame is None:
            # Between two steps. Python does not say that a loop within a try statement is covered to its last jump.
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
        elif armed:
            armed = False
            signal.raise_signal(signal.SIGINT)

    kind = sys.argv[1]
    steps = 600 if kind.isdigit() else 200
    rng, chance, armed = np.random.default_rng(0), random.Random(0), False
    x, dy = rng.standard_normal((6, 12, 12, 3), np.float32), rng.standard_normal((6, 10, 10, 8), np.float32)
    first = lc.LocallyConnected2D(8, 3, input_shape=(12, 12, 3), optimizer="adam", rng=0,
                                  implementation=int(kind) if kind.isdigit() else 1)
    if kind.isdigit():
        layer = first
    else:
        rest = [lc.LocallyConnected2D(8, 3, padding="same", optimizer="adam", rng=n) for n in range(3)]
        layer = lc.Sequential([first, *rest])
    layer.build(x.shape)
    twin = copy.deepcopy(layer)
    path = [snapshot(twin)]
    for turn in range(steps):
        step(twin, turn)
        path.append(snapshot(twin))

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, interrupt)
    done = interrupted = 0
    longest, reached = 4e-3, 0
    while done < steps:
        # On a busy machine a step may take longer: it must come to its end now and then.
        longest, reached = longest * (0.9 if done > reached else 1.5), done
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-4, max(longest, 4e-3)))
            while armed and done < steps:
                step(layer, done)
                done += 1
            armed = False
        except KeyboardInterrupt:  # armed no more: nothing comes here
            interrupted += 1
        # The step that was interrupted has not begun, or is done.
        found = snapshot(layer)
        assert found in path[done : done + 2], f"half a step after {done}"
        done += path[done : done + 2].index(found)
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(interrupted)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of signals")
@pytest.mark.parametrize("kind", ["1", "2", "3", "model"])
def test_a_step_interrupted_at_any_moment_is_done_or_not_begun(kind, tmp_path):
    command = [sys.executable, "-P", "-c", textwrap.dedent(TRAINING), kind]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10


FORKED = """
import multiprocessing, os, signal, threading, warnings
from lcnumba.runtime.signals import deferred
warnings.simplefilter("ignore")

def be_interrupted():
    try:
        signal.alarm(60)
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        os._exit(7)
    os._exit(0)

def fork():
    global code
    child = os.fork()
    if not child:
        be_interrupted()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

signal.signal(signal.SIGINT, signal.default_int_handler)
with deferred(), deferred():
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    worker = multiprocessing.get_context("fork").Process(target=be_interrupted)
    worker.start()
    worker.join()
    signal.raise_signal(signal.SIGINT)  # still held back here
    print(code, worker.exitcode)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_children_that_are_forked_meanwhile_can_be_interrupted():
    """By another thread than the one that holds Ctrl-C back; or as a worker, which never leaves the block."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", FORKED], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.stdout == "7 7\n", result.stderr


# Handlers of signals run where a function begins or one of C's ends, and finalizers anywhere. Here one comes at each
# such place of the library, one after the other.
INTRUDED = """
    import os, signal, sys
    import numpy as np
    import lcnumba as lc

    PACKAGE = os.path.dirname(lc.__file__)
    x, y = np.ones((2, 4, 4, 1), np.float32), np.ones((2, 1), np.float32)
    model = lc.Sequential([
        lc.LocallyConnected2D(2, 3, input_shape=(4, 4, 1), kernel_initializer="ones", implementation=int(sys.argv[3])),
        lc.Flatten(), lc.Dense(1, kernel_initializer="ones"),
    ])
    model.compile("sgd", "mse", lr=0.001)
    first = model.layers[0]

    def step():
        prediction, backward = model.forward(x)
        backward.step(np.ones_like(prediction), 0.001)

    actions = {
        "call": lambda: model(x),
        "step": step,
        "train": lambda: model.train_on_batch(x, y),
        "fit": lambda: model.fit(x, y, epochs=1, progress=False),
        "set": lambda: model.set_weights(model.get_weights()),
    }

    def snapshot():
        return b"".join(weight.tobytes() for weight in model.get_weights())

    def handle(*_):
        assert not signals or snapshot() in path, "half a step"
        actions[inner]()
        if inner == "call":
            answers.append(model(x).tobytes())

    def come_between(frame, event, _):
        global seen, refused
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(PACKAGE):
            seen += 1
            if seen == turn and signals:
                signal.raise_signal(signal.SIGTERM)
            elif seen == turn:
                try:
                    handle()
                except RuntimeError as error:
                    refused += 1

    outer, inner, _, signals = *sys.argv[1:4], sys.argv[4] == "signal"
    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(150)
    start, path, right, answers = model.get_weights(), [], [], []
    for done in ([], [outer], [inner], [outer, inner], [inner, outer]):
        model.set_weights(start)
        for name in done:
            actions[name]()  # all is compiled by it
        path.append(snapshot())
        right.append(model(x).tobytes())
    turn, seen, refused = 0, 1, 0
    while turn <= seen:
        model.set_weights(start)
        turn, seen = turn + 1, 0
        sys.setprofile(come_between)
        try:
            actions[outer]()
        except RuntimeError as error:
            refused += 1
            assert "interrupts one of its calls" in str(error) or "belongs to older weights" in str(error), error
        finally:
            sys.setprofile(None)
        assert not signals or snapshot() in path, "half a step"
        assert not signals or model(x).tobytes() in right
    assert not signals or set(answers) <= set(right)
    print(turn > 50, refused > 0)
"""


@pytest.mark.parametrize(
    ("outer", "inner", "implementation", "way", "is_refused"),
    [
        ("call", "call", "1", "signal", False),
        ("call", "call", "3", "signal", False),
        pytest.param("step", "call", "2", "signal", False, marks=pytest.mark.slow),
        ("train", "call", "1", "signal", False),
        pytest.param("fit", "call", "1", "signal", False, marks=pytest.mark.slow),
        ("set", "call", "1", "signal", False),
        ("call", "train", "1", "signal", True),
        ("step", "train", "1", "signal", True),
        pytest.param("train", "train", "1", "signal", False, marks=pytest.mark.slow),
        ("call", "fit", "1", "signal", True),
        pytest.param("train", "set", "1", "signal", False, marks=pytest.mark.slow),
        ("call", "call", "2", "finalizer", False),
        ("step", "call", "1", "finalizer", True),
        ("step", "train", "1", "finalizer", True),
    ],
)
def test_what_comes_in_the_middle_of_a_call_is_served_or_refused(
    outer, inner, implementation, way, is_refused, tmp_path
):
    """Nor waits for what it came in the middle of. A handler of a signal never meets, or leaves, half a step.

    A finalizer, which nothing holds back, may come between the layers of a model.
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(INTRUDED), outer, inner, implementation, way]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["True", str(is_refused)]


# Ctrl-C where something is imported for the first time, or compiled: the interrupt comes when that is whole.
FIRST = """
    import importlib.abc, signal, sys, threading
    import numpy as np
    import lcnumba as lc

    class Interrupting(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            global came
            if name == SLOW and not came:
                came = True
                signal.raise_signal(signal.SIGINT)

    def loss():
        model = lc.Sequential([lc.Flatten(), lc.Dense(1, kernel_initializer="ones")])
        return model.evaluate(np.ones((2, 3)), np.zeros((2, 1)), loss="mse")["loss"] == 9

    def local(layer=None):
        layer = layer or lc.LocallyConnected2D(2, 3, kernel_initializer="ones")
        return bool((layer(np.ones((2, 4, 4, 1), np.float32)) == 9).all())

    def swish():
        return bool(lc.Dense(1, "swish", kernel_initializer="zeros")(np.ones((2, 3)))[0, 0] == 0)

    def compiled():
        # Numba tells of each compilation, within it.
        from numba.core import compiler, event

        class Tell(event.Listener):
            def on_start(self, _):
                global came, cut
                if not came:
                    came = cut = True
                    signal.raise_signal(signal.SIGINT)
                    cut = False

            def on_end(self, _):
                pass

        layer = lc.LocallyConnected2D(2, 3, kernel_initializer="ones")
        layer.build((None, 4, 4, 1))
        with event.install_listener(SLOW, Tell()):
            return local(layer)

    SLOW, work = sys.argv[1], globals()[sys.argv[2]]
    came = cut = False
    sys.meta_path.insert(0, Interrupting())
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
        print("not interrupted")
    except KeyboardInterrupt:
        print(not cut if work is compiled else SLOW in sys.modules)
    right = []
    for turn in range(2):
        thread = threading.Thread(target=lambda: right.append(work()), daemon=True)
        thread.start()
        thread.join(60)
    print(came, right, work())
"""


@pytest.mark.parametrize(
    ("where", "work"),
    [
        ("numba.core.types.misc", "loss"),
        ("numba.cpython.unicode", "loss"),
        ("numba.cpython.unicode", "local"),
        ("scipy.special._ufuncs", "swish"),
        ("numba:compile", "compiled"),
        ("numba:llvm_lock", "compiled"),
    ],
)
def test_an_interrupt_of_the_first_call_does_no_harm_to_later_ones(where, work, tmp_path):
    """What is half imported cannot be imported again, and a lock that is taken between two steps stays so."""
    command = [sys.executable, "-P", "-c", textwrap.dedent(FIRST), where, work]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.stdout.splitlines() == ["True", "True [True, True] True"], result.stderr


def test_signals_of_all_kinds_wait_and_each_is_handled(monkeypatch):
    """Also where the first of their handlers raises; and one that is set within the block stays."""
    seen, numbers = [], (signal.SIGTERM, signal.SIGABRT)

    def handle(number, _):
        seen.append(number)
        raise ValueError(number)

    def another(*_):
        seen.append("another")

    previous = {number: signal.signal(number, handle) for number in (*numbers, signal.SIGFPE)}
    try:
        with pytest.raises(ValueError, match=r"\d"), deferred() as block:  # noqa: PT012
            assert not block.pending
            for number in numbers:
                signal.raise_signal(number)
                signal.raise_signal(number)
            signal.signal(signal.SIGFPE, another)
            signal.raise_signal(signal.SIGFPE)
            assert block.pending
            assert seen == ["another"]
        assert sorted(seen[1:]) == sorted(numbers)
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGABRT) is handle
        assert signal.getsignal(signal.SIGFPE) is another
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def test_a_handler_may_use_a_layer_that_is_being_built():
    """It runs when the layer is built: the initializer, in which it comes, is in the middle of that."""
    layer, answers = lc.Dense(1, kernel_initializer=lambda shape, dtype, rng: interrupted(shape, dtype)), []

    def interrupted(shape, dtype):
        signal.raise_signal(signal.SIGTERM)
        assert not answers
        return np.ones(shape, dtype)

    previous = signal.signal(signal.SIGTERM, lambda *_: answers.append(layer(np.ones((1, 3))).item()))
    try:
        assert layer(np.ones((1, 3))).item() == 3
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert answers == [3]


def test_a_finalizer_is_told_that_the_layer_is_being_built():
    told = []

    class Leaving:
        def __del__(self):
            with pytest.raises(RuntimeError, match="while it is being built or changed"):
                layer(np.ones((1, 3)))
            told.append(1)

    def initializer(shape, dtype, rng):
        Leaving()
        gc.collect()
        return np.ones(shape, dtype)

    layer = lc.Dense(1, kernel_initializer=initializer)
    assert layer(np.ones((1, 3))).item() == 3
    assert told == [1]
