import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from lcnumba.interrupts import deferred


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
from lcnumba.interrupts import deferred
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
